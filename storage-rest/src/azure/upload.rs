//! A segment in blocks (<https://learn.microsoft.com/rest/api/storageservices/put-block-list>). Blocks that no list names are forgotten
//! after a week, so an upload that came to no end needs no work.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bodley_io::store::{Put, StoreError};
use bytes::Bytes;
use http::Method;

use super::{AzureStore, UPLOAD, is_taken};
use crate::client::{PartStore, Payload, new_mark};

/// Blocks of a blob, at most.
const MOST_BLOCKS: usize = 50_000;
/// A block that is not the last has at least so many bytes, so that small parts do not use up the number of blocks.
const LEAST: u64 = 1 << 20;

pub(super) struct AzureUpload {
    store: AzureStore,
    path: String,
    /// In the blocks' ids and then in the blob's metadata: by it we know our own again.
    mark: String,
}

impl AzureUpload {
    pub fn new(store: AzureStore, path: &str) -> Self {
        Self { store, path: path.to_owned(), mark: new_mark() }
    }

    fn exists(&self) -> StoreError {
        StoreError::Exists { object: self.path.clone() }
    }
}

#[async_trait]
impl PartStore for AzureUpload {
    /// The block's id.
    type Done = String;

    fn least(&self) -> u64 {
        LEAST
    }

    fn most(&self) -> usize {
        MOST_BLOCKS
    }

    fn object(&self) -> &str {
        &self.path
    }

    async fn whole(&self, payload: Payload) -> Result<(), StoreError> {
        match self.store.0.put(&self.path, payload).await? {
            Put::Created => Ok(()),
            Put::Exists => Err(self.exists()),
        }
    }

    async fn part(&self, index: usize, payload: Payload) -> Result<String, StoreError> {
        // All ids of a blob have the same length.
        let id = BASE64.encode(format!("{}-{index:05}", self.mark));
        let container = &self.store.0;
        let call = container
            .call("write", &self.path, Method::PUT)
            .query("comp", "block")
            .query("blockid", &id)
            .header("x-ms-content-crc64", super::crc64_text(payload.crc64()))
            .needs("the right to write");
        container.client.send(&container.scoped(call).payload(payload)).await?;
        Ok(id)
    }

    async fn join(&self, parts: Vec<String>, _: u64, _: u64) -> Result<(), StoreError> {
        let container = &self.store.0;
        let body = Payload::new(Bytes::from(document(&parts)));
        let call = container
            .making("write", &self.path)
            .query("comp", "blocklist")
            .header("x-ms-content-crc64", super::crc64_text(body.crc64()))
            .header(UPLOAD, &self.mark)
            .accepts(&[400, 403, 409, 412])
            .payload(body);
        let reply = container.client.ask(&call, |reply| is_taken(reply, &["InvalidBlockList"])).await?;
        if reply.status.is_success() {
            return Ok(());
        }
        // Once joined, the blocks are no more: the answer to an attempt after one that had its effect.
        if reply.unclear && container.has_mark(&self.path, &self.mark).await? {
            return Ok(());
        }
        if reply.status.as_u16() != 400 {
            return Err(self.exists());
        }
        Err(StoreError::Remote {
            operation: "write",
            object: self.path.clone(),
            what: "the store has lost blocks of it; run again".to_owned(),
            passing: true,
        })
    }

    async fn abandon(&self) {}
}

fn document(ids: &[String]) -> String {
    let blocks: String = ids.iter().map(|id| format!("<Uncommitted>{id}</Uncommitted>")).collect();
    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{blocks}</BlockList>")
}

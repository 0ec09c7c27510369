//! A segment as a multipart upload (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html>).

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bodley_io::store::{Put, StoreError};
use bytes::Bytes;
use http::Method;
use tokio::sync::OnceCell;

use super::{Bucket, Checksum, S3Store, UPLOAD, dialect};
use crate::client::{PartStore, Payload, Refusal, Reply, new_mark, text};
use crate::encode::escape_xml;
use crate::xml::text_at;

/// S3 joins parts for minutes, and shows by blanks that it is alive.
const JOINING: Duration = Duration::from_secs(300);

pub(super) struct S3Upload {
    store: S3Store,
    path: String,
    /// In the object's metadata: by it we know our own again.
    mark: String,
    /// The upload's id, once it was begun.
    id: OnceCell<String>,
}

/// What the store gave for a part.
pub(super) struct Done {
    etag: String,
    checksum: Option<(&'static str, String)>,
}

impl S3Upload {
    pub fn new(store: S3Store, path: &str) -> Self {
        Self { store, path: path.to_owned(), mark: new_mark(), id: OnceCell::new() }
    }

    /// Begins the upload.
    async fn begin(&self) -> Result<String, StoreError> {
        let bucket = &self.store.0;
        let call = bucket.making("write", &self.path, Method::POST).query("uploads", "");
        let mut call = call.header(UPLOAD, &self.mark);
        if let Some(names) = bucket.options.checksum.names() {
            call = call
                .header("x-amz-checksum-algorithm", names.algorithm)
                .header("x-amz-checksum-type", "FULL_OBJECT");
        }
        let id = |reply: &Reply| {
            let id = text_at(&reply.body, &["InitiateMultipartUploadResult", "UploadId"]);
            id.ok_or_else(|| no_result(reply, "it names no upload"))
        };
        bucket.client.read_answer(&call, id).await
    }
}

#[async_trait]
impl PartStore for S3Upload {
    type Done = Done;

    fn least(&self) -> u64 {
        5 << 20
    }

    fn exactly(&self) -> Option<u64> {
        let bucket = &self.store.0;
        bucket.options.equal_parts.then_some(bucket.part_len as u64)
    }

    fn most(&self) -> usize {
        10_000
    }

    fn object(&self) -> &str {
        &self.path
    }

    async fn whole(&self, payload: Payload) -> Result<(), StoreError> {
        match self.store.0.put("write", &self.path, payload).await? {
            Put::Created => Ok(()),
            Put::Exists => Err(StoreError::Exists { object: self.path.clone() }),
        }
    }

    async fn part(&self, index: usize, payload: Payload) -> Result<Done, StoreError> {
        let id = self.id.get_or_try_init(|| self.begin()).await?;
        let bucket = &self.store.0;
        let call = bucket
            .call("write", &self.path, Method::PUT)
            .query("partNumber", (index + 1).to_string())
            .query("uploadId", id)
            .needs("s3:PutObject");
        let call = bucket.carrying(call, payload).await;
        let reply = bucket.client.ask(&call, is_stored).await?;
        let checksum = bucket
            .options
            .checksum
            .names()
            .and_then(|names| Some((names.element, text(&call.headers, names.header)?.to_owned())));
        Ok(Done { etag: reply.header("etag").unwrap_or_default().to_owned(), checksum })
    }

    async fn join(&self, parts: Vec<Done>, _: u64, crc64: u64) -> Result<(), StoreError> {
        let (bucket, id) = (&self.store.0, self.id.get().map(String::as_str).unwrap_or_default());
        if bucket.options.single_writer && bucket.stat(&self.path).await?.is_some() {
            return Err(StoreError::Exists { object: self.path.clone() });
        }
        let payload = Payload::new(Bytes::from(document(&parts)));
        let payload = bucket.signable(payload).await;
        let call = bucket.unless_there(bucket.call("write", &self.path, Method::POST));
        let mut call = call
            .query("uploadId", id)
            .header("content-type", "application/xml")
            .accepts(&[404, 412])
            .patience(JOINING)
            .needs("s3:PutObject")
            .payload(payload);
        if bucket.options.checksum == Checksum::Crc64Nvme {
            call = call
                .header("x-amz-checksum-crc64nvme", BASE64.encode(crc64.to_be_bytes()))
                .header("x-amz-checksum-type", "FULL_OBJECT");
        }
        let reply = bucket.client.ask(&call, joined).await?;
        let refusal = dialect::refusal(reply.status, &reply.headers, &reply.body);
        if is_joined(&reply) || reply.unclear && bucket.has_mark(&self.path, &self.mark).await? {
            return Ok(());
        }
        if reply.status.as_u16() == 412 || refusal.code == TAKEN {
            return Err(StoreError::Exists { object: self.path.clone() });
        }
        Err(StoreError::Remote {
            operation: "write",
            object: self.path.clone(),
            what: format!("{refusal}, so its upload is lost; run again"),
            passing: false,
        })
    }

    async fn abandon(&self) {
        if let Some(id) = self.id.get()
            && let Err(error) = self.store.0.abandon(&self.path, id).await
        {
            tracing::debug!("an upload of {} stays behind for a day: {error}", self.path);
        }
    }
}

impl Bucket {
    /// Gives up an upload.
    pub(super) async fn abandon(&self, path: &str, id: &str) -> Result<(), StoreError> {
        let call = self
            .call("give up the upload of", path, Method::DELETE)
            .query("uploadId", id)
            .accepts(&[404])
            .needs("s3:AbortMultipartUpload");
        self.client.send(&call).await.map(drop)
    }
}

const TAKEN: &str = "PreconditionFailed";
const NO_UPLOAD: &str = "NoSuchUpload";

fn is_joined(reply: &Reply) -> bool {
    reply.status.is_success() && text_at(&reply.body, &["CompleteMultipartUploadResult", "ETag"]).is_some()
}

/// Success only with a result in it: S3 says 200 before it has joined anything, and may still come to an error. What an attempt finds after one
/// that had its effect passes as well.
fn joined(reply: &Reply) -> Result<(), Refusal> {
    if is_joined(reply) {
        return Ok(());
    }
    let refusal = no_result(reply, "it is no CompleteMultipartUploadResult");
    match reply.status.as_u16() == 412 || matches!(refusal.code.as_str(), TAKEN | NO_UPLOAD) {
        true => Ok(()),
        false => Err(refusal),
    }
}

/// A success that is one names what it stored; a gateway's page does not.
pub(super) fn is_stored(reply: &Reply) -> Result<(), Refusal> {
    match reply.status.is_success() && reply.header("etag").is_none() {
        true => Err(no_result(reply, "it names no ETag")),
        false => Ok(()),
    }
}

/// An error in an answer that calls itself a success; one that is none of either kind counts as the store's own.
fn no_result(reply: &Reply, what: &str) -> Refusal {
    dialect::refusal(reply.status, &reply.headers, &reply.body).or_nonsense(what)
}

fn document(parts: &[Done]) -> String {
    let mut text =
        String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (index, part) in parts.iter().enumerate() {
        let checksum = part
            .checksum
            .as_ref()
            .map_or_else(String::new, |(name, value)| format!("<{name}>{value}</{name}>"));
        let etag = escape_xml(&part.etag);
        text.push_str(&format!(
            "<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag>{checksum}</Part>",
            index + 1
        ));
    }
    text + "</CompleteMultipartUpload>"
}

//! A vault in a container of Azure Blob Storage
//! (<https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api>).
//!
//! On the way of a byte: `upload.rs` sends part buffers as blocks, `client/read.rs` reads them back. `identity.rs` says who we are.
//!
//! Guarantees: a commit is one Put Blob with If-None-Match, and a refusal that may be the answer to our own earlier attempt is settled
//! by a mark in the blob's metadata.

mod chain;
mod connection;
mod dialect;
mod identity;
mod listing;
mod options;
mod remote;
mod sign;
mod upload;

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bodley_io::store::{Lock, Object, Put, Stat, Store, StoreError, Upload};
use bodley_io::{Filled, PartBuf};
use bytes::Bytes;
use http::Method;

use crate::client::{Call, Client, PartsUpload, Payload, Refusal, Reply, new_mark};
use crate::{Environment, SettingError};
use dialect::Azure;
pub use identity::{AzureAccess, AzureAuth, AzureCredential, AzureCredentials};
pub use options::{AzureOptions, Immutability};
use upload::AzureUpload;

/// A blob's metadata by which we know our own work again.
const UPLOAD: &str = "x-ms-meta-bodleyupload";

/// A container and a prefix in it. Clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct AzureStore(Arc<Container>);

#[derive(Debug)]
struct Container {
    client: Client<Azure>,
    options: AzureOptions,
    /// With a `/` at its end, unless it is empty.
    prefix: String,
}

impl AzureStore {
    /// Checks the options and decides who we are; the environment fills in what is left open. Nothing is sent yet.
    ///
    /// # Errors
    /// The setting that cannot work.
    pub fn new(
        options: AzureOptions,
        environment: &Environment,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        options.check()?;
        let credentials = identity::AzureCredentials::new(&options.access, environment, tls)?;
        let (container, version) = (options.container.clone(), options.api_version.clone());
        let client = Client::new(Azure { container, version, credentials }, options.patience, tls)?;
        let prefix = if options.prefix.is_empty() { String::new() } else { format!("{}/", options.prefix) };
        Ok(Self(Arc::new(Container { client, options, prefix })))
    }
}

impl Container {
    fn call<'a>(&self, verb: &'static str, path: &'a str, method: Method) -> Call<'a> {
        Call::new(verb, path, method, format!("{}{path}", self.prefix))
    }

    /// With the key that encrypts, which blocks need as well as blobs.
    fn scoped<'a>(&self, call: Call<'a>) -> Call<'a> {
        match &self.options.encryption_scope {
            Some(scope) => call.header("x-ms-encryption-scope", scope),
            None => call,
        }
    }

    /// A request that makes a blob under a name that nobody has: what it is to be like.
    fn making<'a>(&self, verb: &'static str, path: &'a str) -> Call<'a> {
        let options = &self.options;
        let mut call = self.call(verb, path, Method::PUT).header("if-none-match", "*");
        call = self
            .scoped(call)
            .header("x-ms-blob-content-type", "application/octet-stream")
            .needs("the right to write");
        if let Some(tier) = options.access_tier.as_ref().filter(|_| path.starts_with("data/")) {
            call = call.header("x-ms-access-tier", tier);
        }
        if let Some(policy) = &options.immutability {
            let until = self.client.in_days(policy.days);
            call = call
                .header("x-ms-immutability-policy-until-date", dialect::http_date(until).unwrap_or_default())
                .header("x-ms-immutability-policy-mode", if policy.locked { "Locked" } else { "Unlocked" })
                .needs("the rights to write and to set immutability policies");
        }
        if !options.tags.is_empty() {
            call = call
                .header("x-ms-tags", crate::encode::tags(&options.tags))
                .needs("the rights to write and to set tags");
        }
        call
    }

    /// One Put Blob, under a name that nobody has.
    async fn put(&self, path: &str, payload: Payload) -> Result<Put, StoreError> {
        let mark = new_mark();
        let call = self
            .making("write", path)
            .header(UPLOAD, &mark)
            .header("x-ms-blob-type", "BlockBlob")
            .header("x-ms-content-crc64", crc64_text(payload.crc64()))
            .accepts(&[403, 409, 412])
            .payload(payload);
        let reply = self.client.ask(&call, |reply| is_taken(reply, &[])).await?;
        reply.put(self.has_mark(path, &mark)).await
    }

    /// Whether the blob was made by the request with this mark.
    async fn has_mark(&self, path: &str, mark: &str) -> Result<bool, StoreError> {
        Ok(self.head(path).await?.is_some_and(|reply| reply.header(UPLOAD) == Some(mark)))
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.client.get(self.reading(path), limit).await
    }

    fn reading<'a>(&self, path: &'a str) -> Call<'a> {
        self.call("read", path, Method::GET).needs("the right to read")
    }

    async fn head(&self, path: &str) -> Result<Option<Reply>, StoreError> {
        let call = self.call("look at", path, Method::HEAD).accepts(&[404]).needs("the right to read");
        let reply = self.client.ask(&call, is_absent).await?;
        Ok(reply.status.is_success().then_some(reply))
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let Some(reply) = self.head(path).await? else { return Ok(None) };
        Ok(Some(Stat { size: reply.length(path)?, crc64: None, lock: lock_of(&reply) }))
    }
}

/// Base64 of the eight bytes, the least first, as Azure's SDKs write it.
fn crc64_text(crc64: u64) -> String {
    BASE64.encode(crc64.to_le_bytes())
}

/// Lets an answer pass by which the name is taken, or with one of these codes.
fn is_taken(reply: &Reply, codes: &[&str]) -> Result<(), Refusal> {
    let refusal = dialect::refusal(reply.status, &reply.headers, &reply.body);
    // The last one is what it says to who may create but not overwrite.
    let taken =
        ["BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet", "UnauthorizedBlobOverwrite"];
    let code = refusal.code.as_str();
    if reply.status.is_success() && reply.header("etag").is_none() {
        // A gateway's page: Azure names what it stored.
        return Err(refusal.or_nonsense("the answer names no ETag"));
    }
    match reply.status.is_success() || taken.contains(&code) || codes.contains(&code) {
        true => Ok(()),
        false => Err(refusal),
    }
}

/// Lets a 404 pass that is about the blob.
fn is_absent(reply: &Reply) -> Result<(), Refusal> {
    match dialect::refusal(reply.status, &reply.headers, &reply.body) {
        refusal if refusal.status == 404 && refusal.code.starts_with("Container") => Err(refusal),
        _ => Ok(()),
    }
}

fn lock_of(reply: &Reply) -> Option<Lock> {
    let mode = reply.header("x-ms-immutability-policy-mode")?.to_owned();
    let until = reply.header("x-ms-immutability-policy-until-date")?;
    let until = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(until).ok()?;
    Some(Lock { mode, until: until.as_millisecond() })
}

#[async_trait]
impl Store for AzureStore {
    fn url(&self) -> String {
        let options = &self.0.options;
        let account = self.0.client.dialect().credentials.account();
        let slash = if options.prefix.is_empty() { "" } else { "/" };
        format!("az://{account}/{}{slash}{}", options.container, options.prefix)
    }

    fn alignment(&self) -> usize {
        1
    }

    fn part_len(&self) -> usize {
        self.0.options.part_len.unwrap_or(options::PART_LEN)
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(PartsUpload::new(AzureUpload::new(self.clone(), path))))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        self.0.put(path, Payload::new(body)).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.0.get(path, limit).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        self.0.client.read(self.0.reading(path), at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        self.0.stat(path).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.0.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let call = self
            .0
            .call("delete", path, Method::DELETE)
            .header("x-ms-delete-snapshots", "include")
            .accepts(&[404])
            .needs("the right to delete");
        self.0.client.ask(&call, is_absent).await.map(drop)
    }
}

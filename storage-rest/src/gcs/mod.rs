//! A vault in a bucket of Google Cloud Storage, by its JSON API (<https://cloud.google.com/storage/docs/json_api/v1>).
//!
//! On the way of a byte: `upload.rs` sends part buffers as parts of a resumable upload, `client/read.rs` reads them back. `identity.rs` says
//! who we are.
//!
//! Guarantees: a commit is one upload with ifGenerationMatch=0, and a refusal that may be the answer to our own earlier attempt is settled by
//! a mark in the object's metadata. The store checks the CRC-32C of each whole object before it is there.

mod adc;
mod chain;
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
use serde_json::{Map, Value, json};

use crate::client::{Call, Client, Payload, Refusal, Reply, new_mark};
use crate::{Environment, SettingError};
use dialect::{Gcs, NO_BUCKET};
pub use identity::{GcsAccess, GcsCredential, GcsCredentials};
pub use options::{GcsOptions, Retention};
use upload::GcsUpload;

/// Parts of a resumable upload but the last are multiples of this, bytes.
const QUANTUM: usize = 256 << 10;
/// An object's metadata by which we know our own work again.
const UPLOAD: &str = "bodley-upload";
/// What is asked of an object's metadata.
const FIELDS: &str = "size,crc32c,metadata,retention";

/// A bucket and a prefix in it. Clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct GcsStore(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    client: Client<Gcs>,
    options: GcsOptions,
    /// With a `/` at its end, unless it is empty.
    prefix: String,
}

impl GcsStore {
    /// Checks the options; the environment fills in what they leave open. Nothing is sent yet.
    ///
    /// # Errors
    /// The setting that cannot work.
    pub fn new(
        options: GcsOptions,
        environment: &Environment,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        options.check()?;
        let credentials = GcsCredentials::new(&options.access, environment, tls)?;
        let (bucket, user_project) = (options.bucket.clone(), options.user_project.clone());
        let client = Client::new(Gcs { bucket, user_project, credentials }, options.patience, tls)?;
        let prefix = if options.prefix.is_empty() { String::new() } else { format!("{}/", options.prefix) };
        Ok(Self(Arc::new(Bucket { client, options, prefix })))
    }
}

impl Bucket {
    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn call<'a>(&self, verb: &'static str, path: &'a str, method: Method) -> Call<'a> {
        Call::new(verb, path, method, self.key(path))
    }

    /// A request that makes an object under a name that nobody has, or begins one.
    fn making<'a>(&self, path: &'a str, kind: &'static str) -> Call<'a> {
        let call = Call::new("write", path, Method::POST, String::new())
            .query("uploadType", kind)
            .query("ifGenerationMatch", "0")
            .needs(match self.options.retention {
                Some(_) => "storage.objects.create and storage.objects.setRetention",
                None => "storage.objects.create",
            });
        match &self.options.kms_key {
            Some(key) => call.query("kmsKeyName", key),
            None => call,
        }
    }

    /// What an object is to be like.
    fn metadata(&self, path: &str, mark: &str) -> Map<String, Value> {
        let options = &self.options;
        let mut fields = Map::new();
        fields.insert("name".to_owned(), self.key(path).into());
        fields.insert("contentType".to_owned(), "application/octet-stream".into());
        if let Some(class) = options.storage_class.as_ref().filter(|_| path.starts_with("data/")) {
            fields.insert("storageClass".to_owned(), class.as_str().into());
        }
        if let Some(retention) = &options.retention {
            let until = self.client.in_days(retention.days);
            let mode = if retention.locked { "Locked" } else { "Unlocked" };
            let retention = json!({ "mode": mode, "retainUntilTime": crate::jwt::rfc3339(until) });
            fields.insert("retention".to_owned(), retention);
        }
        let own = options.tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let own = own.chain([(UPLOAD, mark)]).map(|(name, value)| (name.to_owned(), value.into()));
        fields.insert("metadata".to_owned(), own.collect::<Map<String, Value>>().into());
        fields
    }

    /// A whole object in one request, under a name that nobody has.
    async fn put(&self, path: &str, payload: Payload) -> Result<Put, StoreError> {
        let mark = new_mark();
        let mut metadata = self.metadata(path, &mark);
        metadata.insert("crc32c".to_owned(), crc32c_text(payload.crc32c()).into());
        // The media may hold any bytes, but not these.
        let boundary = format!("bodley-{}", new_mark());
        let head = format!(
            "--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{}\r\n--{boundary}\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            Value::from(metadata)
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let body = Payload::new(head.into()).join(payload).join(Payload::new(tail.into()));
        let call = self
            .making(path, "multipart")
            .header("content-type", format!("multipart/related; boundary={boundary}"))
            .accepts(&[412])
            .payload(body);
        let check = |reply: &Reply| match reply.status.is_success() {
            true => resource(reply).map(drop),
            false => Ok(()),
        };
        let reply = self.client.ask(&call, check).await?;
        reply.put(async { Ok(self.marked(path, &mark).await?.is_some()) }).await
    }

    fn reading<'a>(&self, path: &'a str) -> Call<'a> {
        self.call("read", path, Method::GET).query("alt", "media").needs("storage.objects.get")
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.client.get(self.reading(path), limit).await
    }

    /// What the store knows of an object.
    async fn resource(&self, path: &str) -> Result<Option<Value>, StoreError> {
        let call = self
            .call("look at", path, Method::GET)
            .query("fields", FIELDS)
            .accepts(&[404])
            .needs("storage.objects.get and storage.objects.list");
        let read = |reply: &Reply| match reply.status.as_u16() {
            404 => is_absent(reply).map(|()| None),
            _ => resource(reply).map(Some),
        };
        self.client.read_answer(&call, read).await
    }

    /// The object, if the request with this mark made it.
    async fn marked(&self, path: &str, mark: &str) -> Result<Option<Value>, StoreError> {
        let mark_of = |found: &Value| found.get("metadata")?.get(UPLOAD)?.as_str().map(str::to_owned);
        let found = self.resource(path).await?;
        Ok(found.filter(|found| mark_of(found).as_deref() == Some(mark)))
    }
}

/// Base64 of the four bytes, the greatest first.
fn crc32c_text(crc32c: u32) -> String {
    BASE64.encode(crc32c.to_be_bytes())
}

/// An object's metadata, or what an answer is that holds none.
fn resource(reply: &Reply) -> Result<Value, Refusal> {
    match serde_json::from_slice::<Value>(&reply.body) {
        Ok(found) if size_of(&found).is_some() => Ok(found),
        _ => Err(reply.nonsense("the answer describes no object")),
    }
}

fn size_of(resource: &Value) -> Option<u64> {
    resource.get("size")?.as_str()?.parse().ok()
}

/// Lets a 404 pass that is about the object.
fn is_absent(reply: &Reply) -> Result<(), Refusal> {
    match dialect::refusal(reply.status, &reply.body) {
        refusal if refusal.code == NO_BUCKET => Err(refusal),
        _ => Ok(()),
    }
}

fn lock_of(resource: &Value) -> Option<Lock> {
    let retention = resource.get("retention")?;
    let until: jiff::Timestamp = retention.get("retainUntilTime")?.as_str()?.parse().ok()?;
    Some(Lock { mode: retention.get("mode")?.as_str()?.to_owned(), until: until.as_millisecond() })
}

#[async_trait]
impl Store for GcsStore {
    fn url(&self) -> String {
        let options = &self.0.options;
        let slash = if options.prefix.is_empty() { "" } else { "/" };
        format!("gs://{}{slash}{}", options.bucket, options.prefix)
    }

    fn alignment(&self) -> usize {
        QUANTUM
    }

    fn part_len(&self) -> usize {
        self.0.options.part_len.unwrap_or(options::PART_LEN)
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(GcsUpload::new(self.clone(), path)))
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
        let Some(found) = self.0.resource(path).await? else { return Ok(None) };
        Ok(Some(Stat { size: size_of(&found).unwrap_or_default(), crc64: None, lock: lock_of(&found) }))
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.0.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let call =
            self.0.call("delete", path, Method::DELETE).accepts(&[404]).needs("storage.objects.delete");
        let check = |reply: &Reply| match reply.status.as_u16() {
            404 => is_absent(reply),
            _ => Ok(()),
        };
        self.0.client.ask(&call, check).await.map(drop)
    }
}

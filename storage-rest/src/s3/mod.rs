//! A vault in an S3 bucket, at AWS or any store that speaks its protocol
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html>).
//!
//! On the way of a byte: `upload.rs` sends part buffers as parts of a multipart upload, `client/read.rs` reads them back.
//!
//! Guarantees: a commit is one PUT with If-None-Match, and a refusal that may be the answer to our own earlier attempt is settled by
//! a mark in its metadata. Not guaranteed: what the store does with If-None-Match; a vault's creation probes it.

mod dialect;
mod listing;
mod options;
mod sign;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bodley_io::store::{Lock, Object, Put, Stat, Store, StoreError, Upload};
use bodley_io::{Filled, PartBuf};
use bytes::Bytes;
use http::Method;

use crate::aws::AwsCredentials;
use crate::client::{Call, Client, PartsUpload, Payload, Reply, new_mark, text};
use crate::{Environment, SettingError};
use dialect::S3;
pub(crate) use options::check_prefix;
pub use options::{Checksum, Encryption, ObjectLock, S3Options};
use upload::S3Upload;

/// An object's metadata by which we know our own work again.
const UPLOAD: &str = "x-amz-meta-bodleyupload";
/// Uploads without an end are given up when they were begun so long ago.
const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A bucket and a prefix in it. Clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct S3Store(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    client: Client<S3>,
    options: S3Options,
    /// With a `/` at its end, unless it is empty.
    prefix: String,
    part_len: usize,
}

impl S3Store {
    /// Checks the options; the environment and the shared files fill in what they leave open. Nothing is sent yet.
    ///
    /// # Errors
    /// The setting that cannot work.
    pub fn new(
        options: S3Options,
        environment: &Environment,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        let settled = options.settle(environment)?;
        let mut aws = options.aws.clone();
        aws.region = settled.aws_region();
        let credentials = (!options.anonymous)
            .then(|| AwsCredentials::new(aws, environment.clone(), Arc::clone(tls)))
            .transpose()?;
        let dialect = S3::new(options.bucket.clone(), settled, credentials);
        let client = Client::new(dialect, options.patience, tls)?;
        let prefix = if options.prefix.is_empty() { String::new() } else { format!("{}/", options.prefix) };
        let part_len = options.part_len.unwrap_or(options::PART_LEN);
        Ok(Self(Arc::new(Bucket { client, options, prefix, part_len })))
    }
}

impl Bucket {
    fn call<'a>(&self, verb: &'static str, path: &'a str, method: Method) -> Call<'a> {
        let call = Call::new(verb, path, method, format!("{}{path}", self.prefix));
        match self.options.requester_pays {
            true => call.header("x-amz-request-payer", "requester"),
            false => call,
        }
    }

    /// A request that makes an object, or begins one: what it is to be like.
    fn making<'a>(&self, verb: &'static str, path: &'a str, method: Method) -> Call<'a> {
        let options = &self.options;
        let mut call = self.call(verb, path, method).header("content-type", "application/octet-stream");
        if let Some(class) = options.storage_class.as_ref().filter(|_| path.starts_with("data/")) {
            call = call.header("x-amz-storage-class", class);
        }
        let (algorithm, key) = match &options.encryption {
            None => (None, None),
            Some(Encryption::S3) => (Some("AES256"), None),
            Some(Encryption::Kms(key)) => (Some("aws:kms"), key.as_ref()),
            Some(Encryption::KmsTwice(key)) => (Some("aws:kms:dsse"), key.as_ref()),
        };
        if let Some(algorithm) = algorithm {
            call = call.header("x-amz-server-side-encryption", algorithm);
        }
        if let Some(key) = key {
            call = call.header("x-amz-server-side-encryption-aws-kms-key-id", key);
        }
        if let Some(lock) = &options.lock {
            let mode = if lock.compliance { "COMPLIANCE" } else { "GOVERNANCE" };
            let until = self.client.in_days(lock.days);
            call = call
                .header("x-amz-object-lock-mode", mode)
                .header("x-amz-object-lock-retain-until-date", crate::jwt::rfc3339(until));
        }
        if !options.tags.is_empty() {
            call = call.header("x-amz-tagging", crate::encode::tags(&options.tags));
        }
        let kms = matches!(options.encryption, Some(Encryption::Kms(_) | Encryption::KmsTwice(_)));
        let more = [
            (options.lock.is_some(), ", s3:PutObjectRetention"),
            (!options.tags.is_empty(), ", s3:PutObjectTagging"),
            (kms, ", kms:GenerateDataKey"),
        ];
        let more = more.into_iter().filter(|(is, _)| *is).map(|(_, right)| right);
        call.needs(["s3:PutObject"].into_iter().chain(more).collect::<String>())
    }

    /// The condition that an object's name is given once only. Not sent in single-writer mode: a store may refuse what it doesn't know.
    fn unless_there<'a>(&self, call: Call<'a>) -> Call<'a> {
        if self.options.single_writer { call } else { call.header("if-none-match", "*") }
    }

    /// Ready to be signed: hashed, where a signature needs that.
    async fn signable(&self, payload: Payload) -> Payload {
        if self.client.dialect().hashes() { payload.hashed().await } else { payload }
    }

    /// With a body, and its checksum.
    async fn carrying<'a>(&self, call: Call<'a>, payload: Payload) -> Call<'a> {
        let payload = self.signable(payload).await;
        let call = match self.options.checksum.names() {
            Some(names) => call.header(names.header, self.options.checksum.of(&payload)),
            None => call,
        };
        call.payload(payload)
    }

    /// One PUT of a whole object, under a name that nobody has.
    async fn put(&self, verb: &'static str, path: &str, payload: Payload) -> Result<Put, StoreError> {
        if self.options.single_writer && self.stat(path).await?.is_some() {
            return Ok(Put::Exists);
        }
        let mark = new_mark();
        let call =
            self.unless_there(self.making(verb, path, Method::PUT)).header(UPLOAD, &mark).accepts(&[412]);
        let call = self.carrying(call, payload).await;
        let reply = self.client.ask(&call, upload::is_stored).await?;
        reply.put(self.has_mark(path, &mark)).await
    }

    /// Whether the object was made by the request with this mark.
    async fn has_mark(&self, path: &str, mark: &str) -> Result<bool, StoreError> {
        Ok(self.head(path).await?.is_some_and(|reply| reply.header(UPLOAD) == Some(mark)))
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.client
            .get(self.call("read", path, Method::GET).needs("s3:GetObject and s3:ListBucket"), limit)
            .await
    }

    async fn head(&self, path: &str) -> Result<Option<Reply>, StoreError> {
        let call =
            self.call("look at", path, Method::HEAD).accepts(&[404]).needs("s3:GetObject and s3:ListBucket");
        let call = call.header("x-amz-checksum-mode", "ENABLED");
        let reply = self.client.send(&call).await?;
        Ok(reply.status.is_success().then_some(reply))
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let Some(reply) = self.head(path).await? else { return Ok(None) };
        Ok(Some(Stat { size: reply.length(path)?, crc64: crc64_of(&reply), lock: lock_of(&reply) }))
    }
}

/// The CRC-64/NVME of the whole object. One of an object in parts that is a checksum of checksums (`…-3`) is none.
fn crc64_of(reply: &Reply) -> Option<u64> {
    if reply.header("x-amz-checksum-type").is_some_and(|kind| !kind.eq_ignore_ascii_case("FULL_OBJECT")) {
        return None;
    }
    let bytes = BASE64.decode(reply.header("x-amz-checksum-crc64nvme")?).ok()?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn lock_of(reply: &Reply) -> Option<Lock> {
    let mode = reply.header("x-amz-object-lock-mode")?.to_owned();
    let until: jiff::Timestamp = text(&reply.headers, "x-amz-object-lock-retain-until-date")?.parse().ok()?;
    Some(Lock { mode, until: until.as_millisecond() })
}

#[async_trait]
impl Store for S3Store {
    fn url(&self) -> String {
        let options = &self.0.options;
        match options.prefix.is_empty() {
            true => format!("s3://{}", options.bucket),
            false => format!("s3://{}/{}", options.bucket, options.prefix),
        }
    }

    fn alignment(&self) -> usize {
        if self.0.options.equal_parts { self.0.part_len } else { 1 }
    }

    fn part_len(&self) -> usize {
        // Of a buffer that is filled in pieces a rest is left over; with parts of equal length it must not be a whole part's.
        if self.0.options.equal_parts { 2 * self.0.part_len } else { self.0.part_len }
    }

    fn decides_races(&self) -> bool {
        !self.0.options.single_writer
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(PartsUpload::new(S3Upload::new(self.clone(), path))))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        self.0.put("write", path, Payload::new(body)).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.0.get(path, limit).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        let call = self.0.call("read", path, Method::GET).needs("s3:GetObject and s3:ListBucket");
        self.0.client.read(call, at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        self.0.stat(path).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.0.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let call = self.0.call("delete", path, Method::DELETE).accepts(&[404]).needs("s3:DeleteObject");
        // 404 with NoSuchBucket is no success.
        let check = |reply: &Reply| match dialect::refusal(reply.status, &reply.headers, &reply.body) {
            refusal if refusal.code == "NoSuchBucket" => Err(refusal),
            _ => Ok(()),
        };
        self.0.client.ask(&call, check).await.map(drop)
    }

    async fn tidy(&self) -> Result<usize, StoreError> {
        let now = jiff::Timestamp::try_from(self.0.client.now()).unwrap_or_default();
        let mut count = 0;
        for upload in self.0.uploads().await? {
            let age = now.duration_since(upload.begun);
            if age.unsigned_abs() < ORPHAN_AFTER || age.is_negative() {
                continue;
            }
            self.0.abandon(&upload.path, &upload.id).await?;
            count += 1;
        }
        Ok(count)
    }
}

//! A strict S3 in this process: it refuses what Amazon's refuses, and more.
//!
//! ```text
//! core.rs      a request's way        auth.rs     signatures          keys.rs   who may do what
//! target.rs    operations, styles     checks.rs   sums of bodies      lock.rs   object lock, classes, encryption, tags
//! objects.rs   PUT, GET, HEAD, DELETE uploads.rs  multipart           listing.rs
//! world.rs     what is stored, settings            refusal.rs, xml.rs
//! ```
//!
//! What is checked: SigV4 in the header, of the path as S3 encodes it, with every `x-amz-*` header signed; `x-amz-content-sha256` against the body
//! (`UNSIGNED-PAYLOAD` over TLS only, no chunked signatures); `x-amz-date` within 15 minutes of the [clock](S3::clock); session tokens and their
//! end; the region; rights per key; `x-amz-checksum-*` and `Content-MD5`; the rules of multipart uploads and of object lock. A deleted or replaced
//! object is gone: there are no versions, and a locked one cannot be deleted at all.
//!
//! Operations are called as in S3's API (`PutObject`, `UploadPart`, `ListObjectsV2`, …); all that is not done here is `Other`. Faults come from
//! [`S3::faults`], with answers from [`error`] and [`error_in_200`]:
//!
//! ```
//! use bodley_testbed::stores::S3;
//! use bodley_testbed::stores::http::{Action, Rule};
//! use bodley_testbed::stores::s3::error;
//!
//! let s3 = S3::start().unwrap();
//! s3.faults().add(Rule::on("PutObject", Action::DoThenAnswer(error(503, "SlowDown"))).nth(2));
//! ```

mod auth;
mod checks;
mod core;
mod keys;
mod listing;
mod lock;
mod objects;
mod refusal;
mod target;
mod uploads;
mod world;
mod xml;

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

pub use checks::Sum;
pub use keys::Allowed;
pub use lock::Retention;
pub use refusal::{error, error_in_200};
pub use world::{Attributes, BucketOptions, Part, Pending, PutIfAbsent, Settings, Stored, WrongRegion};

use self::core::Core;
use super::http::{Clock, Faults, Log, Server};
use crate::iam::{AwsCredentials, Iam};
use crate::pki::Leaf;
use world::Bucket;

/// A running store. It ends when dropped, and what is in it with it.
pub struct S3 {
    core: Arc<Core>,
    server: Server,
    admin: AwsCredentials,
}

impl S3 {
    /// Starts one over plain http, with one key that may do everything and no bucket.
    pub fn start() -> Result<Self> {
        Self::with(None)
    }

    /// Starts one over https. With [`Leaf::Server`] clients that trust [`Pki::ca`](crate::Pki::ca) come in; the other leaves are wrong in their ways.
    pub fn start_tls(leaf: Leaf) -> Result<Self> {
        Self::with(Some(leaf))
    }

    fn with(leaf: Option<Leaf>) -> Result<Self> {
        let clock = Clock::default();
        let core = Arc::new(Core::new(clock.clone()));
        let server = match leaf {
            None => Server::start(core.clone(), &clock)?,
            Some(leaf) => Server::start_tls(core.clone(), &clock, leaf)?,
        };
        let admin = AwsCredentials::random();
        core.world().keys.add(admin.clone(), Allowed::All);
        Ok(Self { core, server, admin })
    }

    /// The endpoint, `http://127.0.0.1:PORT` or `https://127.0.0.1:PORT`: path style, or virtual-hosted below one of [`Settings::domains`].
    pub fn endpoint(&self) -> String {
        self.server.url()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The script of faults.
    pub fn faults(&self) -> &Faults {
        self.server.faults()
    }

    /// What was asked.
    pub fn log(&self) -> &Log {
        self.server.log()
    }

    /// The clock by which the age of signatures and credentials is judged. [`Clock::set_wrong_by`] makes clients' clocks wrong.
    pub fn clock(&self) -> &Clock {
        self.server.clock()
    }

    /// The key that may do everything.
    pub fn admin(&self) -> &AwsCredentials {
        &self.admin
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.core.world().settings);
    }

    /// Adds a key, or gives one other rights.
    pub fn add_key(&self, credentials: AwsCredentials, allowed: Allowed) {
        self.core.world().keys.add(credentials, allowed);
    }

    /// Adds a new key with these rights.
    pub fn key(&self, allowed: Allowed) -> AwsCredentials {
        let credentials = AwsCredentials::random();
        self.add_key(credentials.clone(), allowed);
        credentials
    }

    /// Lets a key expire now.
    pub fn expire_key(&self, credentials: &AwsCredentials) {
        self.core.world().keys.expire(&credentials.access_key_id, self.core.now());
    }

    /// Takes the credentials that it knows, now or later, with all rights: what [`AwsEndpoints`](crate::AwsEndpoints) lend comes in here.
    pub fn trust(&self, iam: &Iam) {
        self.core.world().keys.trust(iam);
    }

    /// Makes a bucket. One that is there gets the options and keeps its objects.
    pub fn make_bucket(&self, name: &str, options: BucketOptions) {
        self.core.world().buckets.entry(name.to_owned()).or_default().options = options;
    }

    /// Takes a bucket away with all that is in it.
    pub fn remove_bucket(&self, name: &str) {
        self.core.world().buckets.remove(name);
    }

    /// The keys of a bucket's objects, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.look(bucket, |bucket| bucket.objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// An object.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Stored> {
        self.look(bucket, |bucket| bucket.objects.get(key).cloned()).flatten()
    }

    /// All of a bucket's objects, in order of their keys.
    pub fn objects(&self, bucket: &str) -> Vec<(String, Stored)> {
        let all = |bucket: &mut Bucket| bucket.objects.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.look(bucket, all).unwrap_or_default()
    }

    /// Uploads that are neither complete nor given up.
    pub fn uploads(&self, bucket: &str) -> Vec<Pending> {
        self.look(bucket, |bucket| bucket.uploads.values().cloned().collect()).unwrap_or_default()
    }

    /// Puts an object there behind everybody's back. One that is there keeps what was said of it, even its sums: so a test damages it.
    pub fn plant(&self, bucket: &str, key: &str, body: impl Into<Bytes>) {
        let (body, modified) = (body.into(), self.core.now());
        let etag = self.core.world().new_etag(None);
        let crc64 = checks::crc64(&body);
        self.look(bucket, |bucket| {
            let pieces = vec![body];
            let old = bucket.objects.remove(key);
            let new = match old {
                Some(old) => Stored { pieces, ..old },
                None => {
                    Stored { pieces, etag, crc64, sum: None, modified, attributes: Attributes::default() }
                }
            };
            bucket.objects.insert(key.to_owned(), new);
        });
    }

    /// Takes an object away behind everybody's back, locked or not.
    pub fn remove(&self, bucket: &str, key: &str) {
        self.look(bucket, |bucket| bucket.objects.remove(key));
    }

    /// Makes all pending uploads of a bucket older.
    pub fn age_uploads(&self, bucket: &str, seconds: i64) {
        let older = |at: Timestamp| at.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(at);
        self.look(bucket, |bucket| bucket.uploads.values_mut().for_each(|u| u.begun = older(u.begun)));
    }

    fn look<T>(&self, bucket: &str, work: impl FnOnce(&mut Bucket) -> T) -> Option<T> {
        self.core.world().buckets.get_mut(bucket).map(work)
    }
}

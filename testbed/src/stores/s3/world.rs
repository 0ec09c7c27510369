//! What is in the store, and how it is set.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use super::checks::Sum;
use super::keys::Keys;
use super::lock::Retention;
use crate::iam::REGION;

/// What becomes of `If-None-Match: *`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutIfAbsent {
    /// 412 when the name is taken, decided by the store.
    Honoured,
    /// Nobody looks at it: the later one wins.
    Ignored,
    /// 501.
    NotImplemented,
}

/// How a region that is not the bucket's is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongRegion {
    /// 400 AuthorizationHeaderMalformed with `<Region>`.
    Malformed,
    /// 301 PermanentRedirect.
    Redirect,
    /// 307 TemporaryRedirect, with a `Location`.
    Temporary,
    /// 400 without a word of the region, as some other makers have it.
    Silent,
}

/// How the store behaves. Changes count from the next request on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the buckets are: the region to sign for.
    pub region: String,
    /// What is answered to a wrong one.
    pub wrong_region: WrongRegion,
    /// Hosts below which `bucket.HOST` names a bucket (virtual-hosted style); under any other host the path does.
    pub domains: Vec<String>,
    /// What becomes of `If-None-Match: *` on PutObject.
    pub put_if_absent: PutIfAbsent,
    /// What becomes of it on CompleteMultipartUpload.
    pub complete_if_absent: PutIfAbsent,
    /// All parts but the last have to have the same size, as Cloudflare R2 wants it.
    pub equal_parts: bool,
    /// The least size of all parts but the last, in bytes.
    pub least_part: usize,
    /// Entries on a page of a listing at most.
    pub page: usize,
    /// `encoding-type=url` is obeyed.
    pub url_encoding: bool,
    /// Sums are kept and given back; older makers have none.
    pub keeps_sums: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            region: REGION.to_owned(),
            wrong_region: WrongRegion::Malformed,
            domains: vec!["localhost".to_owned(), format!("s3.{REGION}.amazonaws.com")],
            put_if_absent: PutIfAbsent::Honoured,
            complete_if_absent: PutIfAbsent::Honoured,
            equal_parts: false,
            least_part: 5 << 20,
            page: 1000,
            url_encoding: true,
            keeps_sums: true,
        }
    }
}

/// What was said of an object when it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The headers that describe it, in lower case: storage class, encryption, tags, `x-amz-meta-…`, content type, the requester's payment.
    pub headers: BTreeMap<String, String>,
    /// Until when nobody deletes or replaces it.
    pub retention: Option<Retention>,
}

impl Attributes {
    /// One of the headers.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes, one piece per part.
    pub pieces: Vec<Bytes>,
    /// In quotes; never an MD5.
    pub etag: String,
    /// CRC-64/NVME of all bytes.
    pub crc64: u64,
    /// The sum that the client sent with it.
    pub sum: Option<(Sum, String)>,
    /// When it was made, by the store's clock.
    pub modified: Timestamp,
    /// What was said of it.
    pub attributes: Attributes,
}

impl Stored {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// All bytes in one piece.
    pub fn bytes(&self) -> Bytes {
        match &self.pieces[..] {
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }
}

/// A part of an upload that is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its bytes.
    pub body: Bytes,
    /// In quotes.
    pub etag: String,
    /// CRC-64/NVME of it.
    pub crc64: u64,
    /// The sum that the client sent with it.
    pub sum: Option<(Sum, String)>,
}

/// An upload that is neither complete nor given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its id.
    pub id: String,
    /// The object's name.
    pub key: String,
    /// When it began, by the store's clock.
    pub begun: Timestamp,
    /// The sum that its parts have to have.
    pub algorithm: Option<Sum>,
    /// What was said of the object.
    pub attributes: Attributes,
    /// By their numbers.
    pub parts: BTreeMap<u32, Part>,
}

/// How a bucket is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketOptions {
    /// Objects may be locked.
    pub object_lock: bool,
    /// Every object is locked for so many days in this mode, if its upload says nothing else.
    pub default_retention: Option<(String, u32)>,
    /// The requester pays, and has to say so.
    pub requester_pays: bool,
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) options: BucketOptions,
    pub(super) objects: BTreeMap<String, Stored>,
    /// By id.
    pub(super) uploads: BTreeMap<String, Pending>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) keys: Keys,
    pub(super) buckets: BTreeMap<String, Bucket>,
    next: u64,
}

impl World {
    /// In quotes; looks like what S3 gives.
    pub(super) fn new_etag(&mut self, parts: Option<usize>) -> String {
        self.next += 1;
        let hash = u128::from(self.next).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        match parts {
            Some(count) => format!("\"{hash:032x}-{count}\""),
            None => format!("\"{hash:032x}\""),
        }
    }

    /// Needs to be encoded in a query.
    pub(super) fn new_upload_id(&mut self) -> String {
        self.next += 1;
        format!("upload+{}/=.~_-", self.next)
    }
}

//! Object lock and the other things that are said of an object when it is made.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::keys::Allowed;
use super::refusal::Refusal;
use super::world::{Attributes, Bucket, BucketOptions};
use crate::stores::http::Head;

pub(super) const MODE: &str = "x-amz-object-lock-mode";
pub(super) const UNTIL: &str = "x-amz-object-lock-retain-until-date";
const HOLD: &str = "x-amz-object-lock-legal-hold";
pub(super) const STORAGE_CLASS: &str = "x-amz-storage-class";
pub(super) const ENCRYPTION: &str = "x-amz-server-side-encryption";
pub(super) const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
pub(super) const TAGGING: &str = "x-amz-tagging";

const KEPT: [&str; 10] = [
    STORAGE_CLASS,
    ENCRYPTION,
    KMS_KEY,
    "x-amz-server-side-encryption-bucket-key-enabled",
    "x-amz-server-side-encryption-context",
    TAGGING,
    "x-amz-request-payer",
    "content-type",
    "content-encoding",
    "cache-control",
];
const CLASSES: [&str; 8] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "GLACIER_IR",
];
const MOST_TAGS: usize = 10;

/// Until then nobody deletes or replaces the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// `GOVERNANCE` or `COMPLIANCE`.
    pub mode: String,
    /// When it ends.
    pub until: Timestamp,
}

/// Who makes an object, where, when.
pub(super) struct Context<'a> {
    pub(super) head: &'a Head,
    pub(super) allowed: &'a Allowed,
    pub(super) bucket: &'a BucketOptions,
    pub(super) now: Timestamp,
}

impl Context<'_> {
    /// What the head says of the object.
    pub(super) fn attributes(&self) -> Result<Attributes, Refusal> {
        let mut headers = BTreeMap::new();
        for (name, value) in &self.head.headers {
            let name = name.as_str();
            if KEPT.contains(&name) || name.starts_with("x-amz-meta-") {
                headers.insert(name.to_owned(), value.to_str().unwrap_or_default().to_owned());
            }
        }
        let attributes = Attributes { headers, retention: self.retention()? };
        self.class_and_encryption(&attributes)?;
        self.tags(&attributes)?;
        Ok(attributes)
    }

    fn retention(&self) -> Result<Option<Retention>, Refusal> {
        if self.head.headers.contains_key(HOLD) {
            return Err(Refusal::not_implemented(HOLD));
        }
        let (mode, until) = match (self.head.header(MODE), self.head.header(UNTIL)) {
            (Some(mode), Some(until)) => (mode, until),
            (None, None) => return Ok(self.default_retention()),
            _ => {
                let both = format!("{UNTIL} and {MODE} must both be supplied");
                return Err(Refusal::argument(both));
            }
        };
        if !self.bucket.object_lock {
            return Err(Refusal::invalid("Bucket is missing Object Lock Configuration"));
        }
        self.needs("s3:PutObjectRetention")?;
        if !["GOVERNANCE", "COMPLIANCE"].contains(&mode) {
            return Err(Refusal::argument("Unknown wormMode directive."));
        }
        let until: Timestamp =
            until.parse().map_err(|_| Refusal::argument(format!("{UNTIL} must be a date in ISO 8601")))?;
        if until <= self.now {
            return Err(Refusal::argument("The retain until date must be in the future!"));
        }
        Ok(Some(Retention { mode: mode.to_owned(), until }))
    }

    fn default_retention(&self) -> Option<Retention> {
        let (mode, days) = self.bucket.default_retention.clone()?;
        let until = self.now.saturating_add(SignedDuration::from_hours(24 * i64::from(days))).ok()?;
        Some(Retention { mode, until })
    }

    fn class_and_encryption(&self, attributes: &Attributes) -> Result<(), Refusal> {
        let class = attributes.header(STORAGE_CLASS);
        if class.is_some_and(|class| !CLASSES.contains(&class)) {
            return Err(Refusal::new(
                400,
                "InvalidStorageClass",
                "The storage class you specified is not valid",
            ));
        }
        let kms = match attributes.header(ENCRYPTION) {
            None | Some("AES256") => false,
            Some("aws:kms" | "aws:kms:dsse") => true,
            Some(_) => {
                let message = "The encryption method specified is not supported";
                return Err(Refusal::new(400, "InvalidEncryptionAlgorithmError", message));
            }
        };
        if attributes.header(KMS_KEY).is_some() && !kms {
            let message = format!("{ENCRYPTION} header must be aws:kms to use {KMS_KEY}");
            return Err(Refusal::argument(message));
        }
        Ok(())
    }

    fn tags(&self, attributes: &Attributes) -> Result<(), Refusal> {
        let Some(tags) = attributes.header(TAGGING) else { return Ok(()) };
        self.needs("s3:PutObjectTagging")?;
        let tags: Vec<_> = form_urlencoded::parse(tags.as_bytes()).collect();
        let names: std::collections::BTreeSet<_> = tags.iter().map(|(name, _)| name).collect();
        let bad = |name: &str, value: &str| name.is_empty() || name.len() > 128 || value.len() > 256;
        if names.len() < tags.len() || tags.iter().any(|(name, value)| bad(name, value)) {
            return Err(Refusal::new(400, "InvalidTag", "The tags are malformed"));
        }
        if tags.len() > MOST_TAGS {
            return Err(Refusal::new(400, "BadRequest", "Object tags cannot be greater than 10"));
        }
        Ok(())
    }

    fn needs(&self, action: &str) -> Result<(), Refusal> {
        if self.allowed.has(action) {
            return Ok(());
        }
        Err(Refusal::denied(format!("not authorized to perform: {action}")))
    }
}

/// An upload of a locked object has to have a sum.
pub(super) fn demand_sum(attributes: &Attributes, has_sum: bool) -> Result<(), Refusal> {
    if attributes.retention.is_some() && !has_sum {
        let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
        return Err(Refusal::invalid(message));
    }
    Ok(())
}

/// A locked object stays.
pub(super) fn demand_unlocked(bucket: &Bucket, key: &str, now: Timestamp) -> Result<(), Refusal> {
    let retention = bucket.objects.get(key).and_then(|object| object.attributes.retention.as_ref());
    if retention.is_some_and(|retention| retention.until > now) {
        return Err(Refusal::denied("Access Denied because object protected by object lock."));
    }
    Ok(())
}

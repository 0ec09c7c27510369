//! What a vault in Google Cloud Storage can be told.

use super::QUANTUM;
use super::identity::GcsAccess;
use crate::SettingError;
use crate::client::Patience;
use crate::s3::check_prefix;

/// Bytes of a part where nothing is said.
pub(super) const PART_LEN: usize = 16 << 20;
/// Bounds of a part, bytes; what is held in memory ends the upper one.
const PART_BOUNDS: std::ops::RangeInclusive<usize> = 1 << 20..=64 << 20;

/// A bucket, and how to deal with it.
#[derive(Debug, Clone)]
pub struct GcsOptions {
    /// Endpoint and identity.
    pub access: GcsAccess,
    /// The bucket's name.
    pub bucket: String,
    /// What the vault's objects begin with, without `/` at its ends; may be empty.
    pub prefix: String,
    /// Of objects below data/ only; log/ and index/ are read at every run.
    pub storage_class: Option<String>,
    /// The key of Cloud KMS that encrypts: `projects/P/locations/L/keyRings/R/cryptoKeys/K`.
    pub kms_key: Option<String>,
    /// The project that pays for requests.
    pub user_project: Option<String>,
    /// Until when objects cannot be deleted.
    pub retention: Option<Retention>,
    /// Metadata of every object.
    pub tags: Vec<(String, String)>,
    /// Bytes of a part, a multiple of 256 KiB.
    pub part_len: Option<usize>,
    /// Time-outs.
    pub patience: Patience,
}

/// Object Retention Lock (<https://cloud.google.com/storage/docs/object-lock>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// `true`: nobody can lift or shorten it.
    pub locked: bool,
    /// From when each object is written.
    pub days: u32,
}

impl GcsOptions {
    /// For a bucket and prefix, everything else as usual.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            access: GcsAccess::default(),
            bucket: bucket.into(),
            prefix: prefix.into(),
            storage_class: None,
            kms_key: None,
            user_project: None,
            retention: None,
            tags: Vec::new(),
            part_len: None,
            patience: Patience::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), SettingError> {
        let bad = |setting, what: &str| Err(SettingError::new(setting, what));
        let is_bucket = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if !(3..=222).contains(&self.bucket.len()) || !self.bucket.chars().all(is_bucket) {
            return bad("bucket", "is no bucket's name; write gs://bucket/prefix");
        }
        check_prefix(&self.prefix)?;
        let is_class =
            |class: &String| class.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && !class.is_empty();
        if self.storage_class.as_ref().is_some_and(|class| !is_class(class)) {
            return bad("storage-class", "is none; STANDARD, NEARLINE, COLDLINE and ARCHIVE are");
        }
        let is_key =
            |key: &String| key.starts_with("projects/") && key.bytes().all(|byte| byte.is_ascii_graphic());
        if self.kms_key.as_ref().is_some_and(|key| !is_key(key)) {
            return bad("kms-key", "is not of the form projects/P/locations/L/keyRings/R/cryptoKeys/K");
        }
        let is_project = |name: &String| {
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b)) && !name.is_empty()
        };
        if self.user_project.as_ref().is_some_and(|project| !is_project(project)) {
            return bad("user-project", "is no project's id");
        }
        if self.retention.as_ref().is_some_and(|retention| retention.days == 0) {
            return bad("retention-days", "must be at least 1");
        }
        let size: usize = self.tags.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > 7 << 10 || self.tags.iter().any(|(name, _)| name.is_empty()) {
            return bad("tags", "have an empty name, or are more than 7 KiB");
        }
        if self.part_len.is_some_and(|len| !PART_BOUNDS.contains(&len) || !len.is_multiple_of(QUANTUM)) {
            return bad("part-size", "must be a multiple of 256K from 1M to 64M");
        }
        self.patience.check()
    }
}

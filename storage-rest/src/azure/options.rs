//! What an Azure vault can be told.

use super::identity::AzureAccess;
use crate::SettingError;
use crate::client::Patience;
use crate::s3::check_prefix;

/// Bytes of a block where nothing is said.
pub(super) const PART_LEN: usize = 16 << 20;
/// Bounds of a block, bytes; what is held in memory ends the upper one.
const PART_BOUNDS: std::ops::RangeInclusive<usize> = 1 << 20..=64 << 20;
/// The API's version: the first that lists from a name on.
const VERSION: &str = "2026-02-06";

/// A container, and how to deal with it.
#[derive(Debug, Clone)]
pub struct AzureOptions {
    /// Account, endpoint and identity.
    pub access: AzureAccess,
    /// The container's name.
    pub container: String,
    /// What the vault's objects begin with, without `/` at its ends; may be empty.
    pub prefix: String,
    /// The API's version, for services that do not know ours: `2021-12-02`.
    pub api_version: String,
    /// Of objects below data/ only; log/ and index/ are read at every run.
    pub access_tier: Option<String>,
    /// The scope whose key encrypts.
    pub encryption_scope: Option<String>,
    /// Until when objects cannot be deleted.
    pub immutability: Option<Immutability>,
    /// Tags of every object.
    pub tags: Vec<(String, String)>,
    /// Bytes of a block.
    pub part_len: Option<usize>,
    /// Time-outs.
    pub patience: Patience,
}

/// A policy of each object
/// (<https://learn.microsoft.com/azure/storage/blobs/immutable-version-level-worm-policies>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Immutability {
    /// `true`: nobody can lift or shorten it.
    pub locked: bool,
    /// From when each object is written.
    pub days: u32,
}

impl AzureOptions {
    /// For an account, a container and a prefix, everything else as usual.
    pub fn new(account: impl Into<String>, container: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            access: AzureAccess { account: Some(account.into()), ..AzureAccess::default() },
            container: container.into(),
            prefix: prefix.into(),
            api_version: VERSION.to_owned(),
            access_tier: None,
            encryption_scope: None,
            immutability: None,
            tags: Vec::new(),
            part_len: None,
            patience: Patience::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), SettingError> {
        let bad = |setting, what: &str| Err(SettingError::new(setting, what));
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let container = self.container.as_str();
        let fits = (3..=63).contains(&container.len()) && container.chars().all(is_name);
        if !(fits || matches!(container, "$root" | "$web")) {
            return bad(
                "container",
                "is no container's name (3 to 63 small letters, digits and -); write az://account/container/prefix",
            );
        }
        check_prefix(&self.prefix)?;
        if !self.api_version.chars().all(|c| c.is_ascii_digit() || c == '-') || self.api_version.len() != 10 {
            return bad("api-version", "is no version such as 2021-12-02");
        }
        if self.part_len.is_some_and(|len| !PART_BOUNDS.contains(&len)) {
            return bad("part-size", "is out of bounds: 1M to 64M");
        }
        let tiers = ["Hot", "Cool", "Cold", "Archive"];
        if self.access_tier.as_ref().is_some_and(|tier| !tiers.contains(&tier.as_str())) {
            return bad("access-tier", "is none of Hot, Cool, Cold, Archive");
        }
        let is_scope = |scope: &String| {
            scope.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !scope.is_empty()
        };
        if self.encryption_scope.as_ref().is_some_and(|scope| !is_scope(scope)) {
            return bad("encryption-scope", "is no scope's name: letters, digits and -");
        }
        if self.immutability.as_ref().is_some_and(|policy| policy.days == 0) {
            return bad("immutability-days", "must be at least 1");
        }
        if self.tags.len() > 10 {
            return bad("tags", "are too many: Azure keeps 10 per object");
        }
        let is_tag = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || " +-./:=_".contains(c));
        let fits = |(name, value): &(String, String)| {
            (1..=128).contains(&name.len()) && value.len() <= 256 && is_tag(name) && is_tag(value)
        };
        if !self.tags.iter().all(fits) {
            return bad(
                "tags",
                "have a name or a value that Azure does not take: letters, digits, spaces and +-./:=_",
            );
        }
        self.patience.check()
    }
}

//! The vault, format v1 (docs/format.md): immutable segments under an append-only log of commits.

pub mod aborted;
pub(crate) mod ahead;
pub mod audit;
pub mod checked;
pub mod checkpoint;
mod checkpoint_writer;
pub mod commit;
pub mod identity;
pub mod log;
pub mod pages;
pub mod reading;
pub mod rows;
pub mod segment;
pub mod state;
pub mod table;
pub mod walk;

use std::time::{SystemTime, UNIX_EPOCH};

use bodley_io::store::StoreError;

pub use commit::{Commit, Op, Receipt, SegmentRef, TableRef};
pub use identity::Identity;
pub use log::Vault;
pub use state::{Cursor, State};

/// A vault that cannot be read or written as asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No vault at the URL.
    #[error("{url} holds no vault: there is no vault.json (a first `bodley backup` makes one)")]
    Absent {
        /// Where.
        url: String,
    },
    /// Something else is at the URL.
    #[error("{url} is no vault: {what}")]
    Foreign {
        /// Where.
        url: String,
        /// Why.
        what: String,
    },
    /// Written by a version that knows more.
    #[error("this vault needs a newer version of bodley: {0}")]
    Unsupported(String),
    /// An object that is not what it must be.
    #[error("{object} is damaged: {what}")]
    Damaged {
        /// Its path.
        object: String,
        /// How.
        what: String,
    },
    /// The store gives a name twice.
    #[error(
        "{url} ignores put-if-absent (If-None-Match): it gives a name twice, and two writers would overwrite each other"
    )]
    Overwrites {
        /// Where.
        url: String,
    },
    /// Writers of this vault must come one after another, and nobody has said that they do.
    #[error(
        "the vault at {url} was made with --single-writer, for a store that does not settle races between writers"
    )]
    SingleWriter {
        /// Where.
        url: String,
    },
    /// Another writer moved the same partitions.
    #[error(
        "writer {writer} committed {count} of the same partitions meanwhile (e.g. {example}): another backup writes to this vault; let one of the two go, or run again when it has ended (nothing is lost)"
    )]
    LostRace {
        /// The other writer's id.
        writer: String,
        /// How many.
        count: usize,
        /// One of them.
        example: String,
    },
    /// A rule of our own was about to be broken; nothing was committed.
    #[error("internal error, nothing was committed: {0}")]
    Internal(String),
}

impl VaultError {
    /// Damage of `object`.
    pub fn damaged(object: &str, what: String) -> Self {
        Self::Damaged { object: object.to_owned(), what }
    }
}

/// Now, in ms since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as i64)
}

/// 16 random bytes as 32 hex digits.
pub(crate) fn random_hex() -> Result<String, VaultError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| VaultError::Internal(format!("no random numbers: {e}")))?;
    Ok(hex(&bytes))
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The id of a topic whose broker has none: two writers of one vault make the same one.
pub(crate) fn synthetic_id(vault_id: &str, name: &str, incarnation: u32) -> bodley_protocol::TopicId {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    let id = u128::from_str_radix(vault_id, 16).unwrap_or_default();
    hash.update(id.to_be_bytes());
    hash.update(name.as_bytes());
    hash.update(incarnation.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// SHA-256 as hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

//! The Store port: what a vault needs of a place that keeps objects.
//!
//! Guarantees of an implementation: an object is visible only when it is whole and durable; a name is created at most once
//! by [`Store::put_if_absent`] and [`Upload::finish`]; a read returns the bytes that were written. Not guaranteed, so nobody may rely on it: that
//! a listing is complete, or that names come in any order of time.

mod conformance;
pub mod decorators;
pub mod disk;
pub mod files;
pub mod memory;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::buffers::{Filled, NoMemory, PartBuf};
pub use conformance::conformance;

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object of that name.
    #[error("{object} is not in the store")]
    NotFound {
        /// Its path.
        object: String,
    },
    /// The name is taken by another object.
    #[error("{object} is in the store already, with other content")]
    Exists {
        /// Its path.
        object: String,
    },
    /// An object is shorter than a range that was asked for.
    #[error("{object} ends at {size} bytes, wanted were {wanted}")]
    Short {
        /// Its path.
        object: String,
        /// Bytes there are.
        size: u64,
        /// End of the range.
        wanted: u64,
    },
    /// Larger than the caller is ready to hold in memory.
    #[error("{object} has {size} bytes, more than the {limit} that make sense for it")]
    TooLarge {
        /// Its path.
        object: String,
        /// Bytes there are.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The store has no room.
    #[error("no space left for {object}: free some, nothing of it has been committed")]
    NoSpace {
        /// Its path.
        object: String,
    },
    /// The store does not allow it.
    #[error("not allowed to {operation} {object}: {source}")]
    Denied {
        /// Verb.
        operation: &'static str,
        /// Its path.
        object: String,
        /// As the system says.
        source: std::io::Error,
    },
    /// The store cannot create a name without replacing what has it: what it said, and what to do.
    #[error("{0}")]
    NoPutIfAbsent(String),
    /// Anything else from the system.
    #[error("cannot {operation} {object}: {source}")]
    Io {
        /// Verb.
        operation: &'static str,
        /// Its path.
        object: String,
        /// As the system says.
        source: std::io::Error,
    },
    /// A store across a network refused, gave no usable answer, or gave none.
    #[error("cannot {operation} {object}: {what}")]
    Remote {
        /// Verb.
        operation: &'static str,
        /// Its path.
        object: String,
        /// What happened and what to do, without secrets.
        what: String,
        /// A later try may help.
        passing: bool,
    },
    /// No memory for a buffer.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

impl StoreError {
    /// From an I/O error met while doing `operation` on `object`.
    pub fn io(operation: &'static str, object: &str, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        let object = object.to_owned();
        match source.kind() {
            Kind::NotFound => Self::NotFound { object },
            Kind::StorageFull | Kind::QuotaExceeded => Self::NoSpace { object },
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Denied { operation, object, source },
            _ => Self::Io { operation, object, source },
        }
    }

    /// The same request may work a moment later.
    pub fn is_transient(&self) -> bool {
        use std::io::ErrorKind as Kind;
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                Kind::Interrupted
                    | Kind::WouldBlock
                    | Kind::TimedOut
                    | Kind::StaleNetworkFileHandle
                    | Kind::ResourceBusy
            ),
            Self::Remote { passing, .. } => *passing,
            _ => false,
        }
    }
}

/// What [`Store::put_if_absent`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is ours now.
    Created,
    /// There was one of that name; it is unchanged.
    Exists,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its path below the vault.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// CRC-64/NVME of all bytes, where the store keeps it.
    pub crc64: Option<u64>,
    /// The lock that keeps it from being deleted, if it has one and we may know.
    pub lock: Option<Lock>,
}

impl Stat {
    /// Of an object of which the size is all that is known.
    pub fn of_size(size: u64) -> Self {
        Self { size, ..Self::default() }
    }
}

/// Until then nobody deletes or replaces the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// As the store calls it: `COMPLIANCE`, `GOVERNANCE`, `Unlocked`, …
    pub mode: String,
    /// ms since 1970.
    pub until: i64,
}

/// A place that keeps immutable objects under paths with `/` between their parts.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The URL, without secrets.
    fn url(&self) -> String;

    /// Parts given to [`Upload::write`] have a length that is a multiple of this, but for the last.
    fn alignment(&self) -> usize;

    /// How long part buffers had best be, in bytes: what a request to the store should hold.
    fn part_len(&self) -> usize {
        PART_LEN
    }

    /// Whether [`Store::put_if_absent`] is decided by the store itself. `false`: by a look before it, because the user says that there is one
    /// writer only. Few stores have to ask; whoever stands before another store passes on what that one says.
    fn decides_races(&self) -> bool {
        true
    }

    /// Begins a large object. It exists when [`Upload::finish`] returns.
    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError>;

    /// Creates a small object unless the name is taken. After an error the object may be there.
    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError>;

    /// A whole object of at most `limit` bytes.
    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError>;

    /// Bytes `at..at + len` of an object, in `buf`, which has room for `len` bytes and 8 KiB more.
    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError>;

    /// What is known of an object without reading it, `None` when there is no such object.
    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError>;

    /// Size in bytes, `None` when there is no such object.
    async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.stat(path).await?.map(|stat| stat.size))
    }

    /// Up to 1,000 objects whose paths begin with `prefix` (which ends with `/`) and sort after `after`, in order of their paths.
    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError>;

    /// Deletes an object. Deleting what is not there succeeds.
    async fn delete(&self, path: &str) -> Result<(), StoreError>;

    /// Makes sure that an object which was only found, with the content that was looked for, outlives a loss of power as one that was just put
    /// does. Where what can be seen is durable there is nothing to do.
    async fn confirm(&self, _path: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Gives up uploads below this store's place that were begun more than a day ago and never finished, and says how many. Where a store
    /// forgets them by itself there is nothing to do.
    async fn tidy(&self) -> Result<usize, StoreError> {
        Ok(0)
    }
}

/// Bytes of a part buffer where a store has no wish of its own.
pub const PART_LEN: usize = 8 << 20;

/// A large object on its way into a store. Dropped without [`Upload::finish`], it leaves nothing that a listing shows.
#[async_trait]
pub trait Upload: Send {
    /// Appends a part; may return before it is written. Every part but the last is a multiple of [`Store::alignment`].
    async fn write(&mut self, part: Filled) -> Result<(), StoreError>;

    /// Makes the object durable and visible. After an error it is not, or not for sure.
    async fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

/// Entries of one page of a listing.
pub const LIST_PAGE: usize = 1000;

/// Lists everything below `prefix`; what a listing leaves out or says twice is left out or said twice.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Object>, StoreError> {
    list_after(store, prefix, "").await
}

/// As [`list_all`], of paths that sort after `after`; a listing may hold others all the same.
pub async fn list_after(store: &dyn Store, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
    let mut all: Vec<Object> = Vec::new();
    loop {
        let after = all.last().map_or_else(|| after.to_owned(), |object| object.path.clone());
        let page = store.list(prefix, &after).await?;
        // A store that gives the same page again must not keep us for ever.
        let goes_on = page.last().is_some_and(|object| object.path > after);
        let last = page.len() < LIST_PAGE || !goes_on;
        all.extend(page);
        if last {
            return Ok(all);
        }
    }
}

/// A store that several tasks share.
pub type SharedStore = Arc<dyn Store>;

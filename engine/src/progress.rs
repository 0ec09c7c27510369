//! Counters of a run, for whoever draws them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use bodley_io::latency::Latencies;

/// Grows while a run goes on. What is counted in `work` depends on the run: offsets for a backup, bytes otherwise.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    work_done: AtomicU64,
    work_total: AtomicU64,
    partitions_done: AtomicU64,
    partitions_total: AtomicU64,
    /// ms of our clock; 0: not yet.
    complete: AtomicI64,
    committed: AtomicI64,
    latencies: Arc<Latencies>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Bytes moved.
    pub bytes: u64,
    /// Offsets or bytes dealt with.
    pub work_done: u64,
    /// Offsets or bytes there are.
    pub work_total: u64,
    /// Partitions finished.
    pub partitions_done: u64,
    /// Partitions with something to do.
    pub partitions_total: u64,
    /// Whatever was stable at the source then is in the vault, ms of our clock; 0: that can't be said yet.
    pub complete: i64,
    /// The last commit of this run, ms of our clock; 0: none yet.
    pub committed: i64,
}

impl Progress {
    /// What lies ahead.
    pub fn plan(&self, partitions: u64, work: u64) {
        self.partitions_total.fetch_add(partitions, Relaxed);
        self.work_total.fetch_add(work, Relaxed);
    }

    /// Something moved.
    pub fn advance(&self, bytes: u64, work: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.work_done.fetch_add(work, Relaxed);
    }

    /// A partition is finished.
    pub fn partition_done(&self) {
        self.partitions_done.fetch_add(1, Relaxed);
    }

    /// Whatever was stable at the source at this time is in the vault.
    pub fn complete_to(&self, ms: i64) {
        self.complete.store(ms, Relaxed);
    }

    /// What is durable is part of the vault now.
    pub fn committed(&self, ms: i64) {
        self.committed.store(ms, Relaxed);
    }

    /// How long requests took so far.
    pub fn latencies(&self) -> &Arc<Latencies> {
        &self.latencies
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            bytes: self.bytes.load(Relaxed),
            work_done: self.work_done.load(Relaxed),
            work_total: self.work_total.load(Relaxed),
            partitions_done: self.partitions_done.load(Relaxed),
            partitions_total: self.partitions_total.load(Relaxed),
            complete: self.complete.load(Relaxed),
            committed: self.committed.load(Relaxed),
        }
    }
}

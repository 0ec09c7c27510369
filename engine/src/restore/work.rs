//! What is to be sent of one partition: which chunks, and what of them.

use std::ops::Deref;

use bodley_protocol::sieve::Sieve;
use bodley_protocol::stamp::Stamp;

use crate::look::Window;
use crate::vault::rows::{AbortedRow, Kind, Range as Row};
use crate::vault::state::PartitionState;

/// A chunk of which something may be wanted.
#[derive(Debug, Clone)]
pub struct Chunk {
    row: Row,
    /// What is sent of it are as many records as its row says.
    pub is_exact: bool,
}

impl Deref for Chunk {
    type Target = Row;

    fn deref(&self) -> &Row {
        &self.row
    }
}

impl Chunk {
    /// It holds messages of the formats 0 and 1, as far as its row tells: the batches of today have the epoch of the leader that took them.
    pub fn may_be_old(&self) -> bool {
        self.row.last_epoch < 0
    }

    /// Records that are sent; `None`: not known before it is read.
    pub fn count(&self) -> Option<i64> {
        self.is_exact.then_some(self.row.kept)
    }
}

/// What a partition has in the vault.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Chunks were left out behind so many records.
    pub left_out_behind: Option<i64>,
    /// In order.
    pub chunks: Vec<Chunk>,
    /// What is wanted of them; `None`: everything.
    pub window: Option<Window>,
    /// What is added to each record.
    pub stamp: Option<Stamp>,
    /// What they hold of aborted transactions.
    pub aborted: Vec<AbortedRow>,
    /// Group positions (source offsets, sorted) to be translated along the way.
    pub marks: Vec<i64>,
    /// What is done of it is read again, too, where that tells more of the offset map.
    pub needs_exact_map: bool,
    /// Small batches are merged up to so many bytes. What is sent, and where, does not depend on it.
    pub merge_up_to: Option<usize>,
}

impl Work {
    /// Of a partition in the vault. Chunks of which nothing is wanted are left aside.
    pub fn new(partition: &PartitionState, window: Window) -> Self {
        let is_all = window == Window::default();
        let mut chunks = Vec::new();
        for (at, row) in partition.ranges.iter().enumerate().filter(|(_, row)| row.kind == Kind::Data) {
            // Without a window all chunks are gone through, as the digest of a plan has always had them.
            if is_all || !window.misses(row) {
                let is_exact = partition.is_exact(at) && window.holds_all(row);
                chunks.push(Chunk { row: row.clone(), is_exact });
            }
        }
        let window = (!is_all).then_some(window);
        Self { chunks, window, aborted: partition.aborted.clone(), ..Self::default() }
    }

    /// What is wanted of a chunk.
    pub fn sieve(&self, chunk: &Chunk) -> Sieve {
        let own = chunk.first..chunk.next;
        let (offsets, times) = match &self.window {
            None => (own, None),
            Some(window) => {
                let wanted = window.offsets();
                // Where the row says that all of its times are wanted, no batch need be looked into.
                let times = window.times().filter(|_| !window.holds_times(chunk));
                (own.start.max(wanted.start)..own.end.min(wanted.end), times)
            }
        };
        Sieve { offsets, times, stamp: self.stamp.clone() }
    }

    /// Leaves chunks out, by their places in order.
    pub fn leave_out(&mut self, places: &[usize]) {
        let Some(first) = places.first() else { return };
        let before = self.chunks.iter().take(*first);
        self.left_out_behind = Some(before.map(|chunk| chunk.count().unwrap_or(0)).sum());
        let mut index = 0;
        self.chunks.retain(|_| {
            index += 1;
            !places.contains(&(index - 1))
        });
    }

    /// Bytes to read when the first `done` records are at the target.
    pub fn bytes_behind(&self, done: i64) -> u64 {
        let mut records = 0;
        let mut bytes = 0;
        for chunk in &self.chunks {
            records += chunk.count().unwrap_or(0);
            if records > done || chunk.count().is_none() {
                bytes += u64::from(chunk.stored);
            }
        }
        bytes
    }

    /// Records that are sent, as far as they are known; and whether that is all.
    pub fn records(&self) -> (u64, bool) {
        let known: i64 = self.chunks.iter().filter_map(Chunk::count).sum();
        (known.max(0) as u64, self.chunks.iter().all(|chunk| chunk.is_exact))
    }

    /// Bytes of its chunks.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.stored)).sum()
    }
}

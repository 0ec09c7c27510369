//! One partition's part of a run: where it stands and where it ends.

use std::time::Instant;

use bodley_io::kafka::TopicPartition;
use bodley_protocol::TopicId;

use crate::vault::aborted::Aborted;
use crate::vault::rows::{Kind, NO_TIME, Range};
use crate::vault::state::PartKey;

/// A partition that is being read.
#[derive(Debug)]
pub struct Task {
    /// Topic id in the vault, and partition.
    pub key: PartKey,
    /// As the broker calls it.
    pub tp: TopicPartition,
    /// The broker's topic id; zeros where it has none.
    pub fetch_id: TopicId,
    /// The cursor at the commit that the run began at; -1: none.
    pub from: i64,
    /// Next offset to read. Not the cursor: that is moved by commits only.
    pub next: i64,
    /// Where this run ends, exclusive.
    pub end: i64,
    /// Rewind epoch.
    pub rewind: u32,
    /// Leader epoch from the cluster's metadata.
    pub leader_epoch: i32,
    /// Leader epoch of the last batch; -1: none.
    pub last_epoch: i32,
    /// Aborted transactions met.
    pub aborted: Aborted,
    /// A batch at `next` was bad so often.
    pub bad_tries: u32,
    /// Since when there has been no progress; `None`: there is.
    pub stuck: Option<Instant>,
}

impl Task {
    /// Nothing left to read.
    pub fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// Goes on at `next`, behind offsets that are lost.
    pub fn jump(&mut self, next: i64) {
        self.aborted.close_all(next - 1);
        // What the epoch of the batch before would tell is lost as well.
        (self.next, self.last_epoch, self.bad_tries) = (next, -1, 0);
    }

    /// A row for offsets from `next` on; the caller moves `next`.
    pub fn row(&self, kind: Kind, next: i64) -> Range {
        Range {
            topic: self.key.0,
            partition: self.key.1,
            kind,
            rewind: self.rewind,
            first: self.next,
            next,
            last_epoch: -1,
            leader_epoch: self.leader_epoch,
            lso: -1,
            high_watermark: -1,
            from: self.from,
            segment: [0; 16],
            position: 0,
            stored: 0,
            records: 0,
            kept: 0,
            min_ts: NO_TIME,
            max_ts: NO_TIME,
            base_ts: NO_TIME,
            crc64: 0,
        }
    }
}

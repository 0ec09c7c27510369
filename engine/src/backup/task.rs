//! One partition's part of a run: where it stands and where it ends.

use std::time::{Duration, Instant};

use bodley_io::kafka::TopicPartition;
use bodley_protocol::TopicId;

use super::hunt::Hunt;
use crate::vault::aborted::Aborted;
use crate::vault::rows::{Kind, Range};
use crate::vault::state::PartKey;

/// Where a partition ends in a run that goes on: no log gets there. Not [`crate::vault::walk::WHOLE`], which is the end of a stored chunk.
pub const OPEN: i64 = i64::MAX - 1;

/// A last stable offset that falls is not believed for so long.
const TOLD_FOR: Duration = Duration::from_secs(30);

/// A partition that is being read.
#[derive(Debug)]
pub struct Task {
    /// Topic id in the vault, and partition.
    pub key: PartKey,
    /// As the broker calls it.
    pub tp: TopicPartition,
    /// The broker's topic id; zeros where it has none.
    pub fetch_id: TopicId,
    /// The cursor when the task was made; -1: none.
    pub from: i64,
    /// Next offset to read. Not the cursor: that is moved by commits only.
    pub next: i64,
    /// Where this run ends, exclusive; [`OPEN`].
    pub end: i64,
    /// The last stable offset as its broker told it; -1: not yet. Not less than it was, for some time: a new leader can be behind with it.
    pub told: i64,
    /// Since when less than that has been told.
    pub less_since: Option<Instant>,
    /// What was stable at this time, in ms of our clock, has been read; 0: it has never been up to the end.
    pub complete: i64,
    /// Rewind epoch.
    pub rewind: u32,
    /// Leader epoch from the cluster's metadata.
    pub leader_epoch: i32,
    /// Leader epoch of the last batch; -1: none.
    pub last_epoch: i32,
    /// Brokers were thought to compare logs when it was sent to be read.
    pub is_compared: bool,
    /// Aborted transactions met.
    pub aborted: Aborted,
    /// The broker had nothing from `next` to the end so often.
    pub empty_tries: u32,
    /// Since when.
    pub empty_since: Option<Instant>,
    /// The least last stable offset that came with that.
    pub empty_end: i64,
    /// Its last offset is asked for: whether there is nothing from `next` on, or something that does not come.
    pub probes: bool,
    /// A batch at `next` was bad so often.
    pub bad_tries: u32,
    /// Why, the last time.
    pub bad: Option<String>,
    /// Replicas that were asked for the batch at `next` because the leader's is bad.
    pub asked: Vec<i32>,
    /// There is no other replica to ask.
    pub replicas_asked: bool,
    /// The replica that is asked in the leader's place.
    pub elsewhere: Option<i32>,
    /// The replica in our rack, to which the leader sent us (KIP-392), and since when.
    pub near: Option<(i32, Instant)>,
    /// The end of the bad batch at `next` is being looked for.
    pub hunt: Option<Hunt>,
    /// Since when there has been no progress; `None`: there is.
    pub stuck: Option<Instant>,
    /// Since when metadata do not show its topic.
    pub absent: Option<Instant>,
    /// It has been said to wait.
    pub waits: bool,
}

impl Task {
    /// Reads `offsets` of a partition.
    pub fn new(key: PartKey, tp: TopicPartition, offsets: std::ops::Range<i64>) -> Self {
        Self {
            key,
            tp,
            fetch_id: bodley_protocol::NO_TOPIC_ID,
            from: -1,
            next: offsets.start,
            end: offsets.end,
            told: -1,
            less_since: None,
            complete: 0,
            rewind: 0,
            leader_epoch: -1,
            last_epoch: -1,
            is_compared: true,
            aborted: Aborted::default(),
            empty_tries: 0,
            empty_since: None,
            empty_end: -1,
            probes: false,
            bad_tries: 0,
            bad: None,
            asked: Vec::new(),
            replicas_asked: false,
            elsewhere: None,
            near: None,
            hunt: None,
            stuck: None,
            absent: None,
            waits: false,
        }
    }

    /// Its broker tells a last stable offset. What is less than before is believed in the end: no checksum covers such numbers.
    pub fn is_told(&mut self, stable: i64) {
        let is_less = stable < self.told;
        if !is_less || self.less_since.get_or_insert_with(Instant::now).elapsed() >= TOLD_FOR {
            (self.told, self.less_since) = (stable, None);
        }
    }

    /// Nothing left to read.
    pub fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// Whether it goes on until the run is ended.
    pub fn is_open(&self) -> bool {
        self.end == OPEN
    }

    /// The end as far as there is one: of an open task what its broker told.
    pub fn known_end(&self) -> i64 {
        if self.is_open() { self.told } else { self.end }
    }

    /// Offsets that are known to be there and not read yet.
    pub fn lag(&self) -> i64 {
        self.told.saturating_sub(self.next).max(0)
    }

    /// Goes on at `next`, behind offsets that are lost.
    pub fn jump(&mut self, next: i64) {
        self.aborted.close_all(next - 1);
        // What the epoch of the batch before would tell is lost as well.
        (self.next, self.last_epoch) = (next, -1);
        self.all_is_well();
    }

    /// Goes on behind batches that were read; `last_epoch` is that of the last one.
    pub fn advance(&mut self, next: i64, last_epoch: i32) {
        (self.next, self.last_epoch, self.stuck) = (next, last_epoch, None);
        self.all_is_well();
    }

    /// Forgets a bad batch.
    fn all_is_well(&mut self) {
        (self.bad_tries, self.bad, self.hunt, self.replicas_asked) = (0, None, None, false);
        self.is_not_empty();
        self.asked.clear();
    }

    /// There is something from `next` on, as far as is known.
    pub fn is_not_empty(&mut self) {
        (self.empty_tries, self.empty_since, self.probes) = (0, None, false);
    }

    /// Up to where there may be nothing, exclusive.
    pub fn end_of_nothing(&self) -> i64 {
        if self.is_open() { self.empty_end } else { self.end }
    }

    /// The offset to fetch at, and the epoch of the batch before, if it is known.
    pub fn wanted(&self) -> (i64, i32) {
        match &self.hunt {
            Some(hunt) => (hunt.at(), -1),
            None if self.probes => ((self.end_of_nothing().max(self.told) - 1).max(self.next), -1),
            None => (self.next, self.last_epoch),
        }
    }

    /// A row for offsets from `next` on; the caller moves `next`.
    pub fn row(&self, kind: Kind, next: i64) -> Range {
        let row = Range::without_chunk(self.key, self.rewind, kind, self.next..next, self.from);
        Range { leader_epoch: self.leader_epoch, ..row }
    }
}

//! What the commits of a vault add up to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodley_protocol::TopicId;

use super::VaultError;
use super::commit::{Commit, SegmentRef, commit_path};
use super::pages::{CursorRow, Heads};
use super::rows::{AbortedRow, ConfigRow, GroupRow, Kind, Range, Rows, TopicRow};

/// A partition of a topic id.
pub type PartKey = (TopicId, u32);

/// How far a partition is in the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// First offset that is not covered.
    pub next: i64,
    /// Leader epoch of the last stored batch; -1: none.
    pub last_epoch: i32,
    /// Leader epoch when it was last read.
    pub leader_epoch: i32,
    /// Rewind epoch.
    pub rewind: u32,
}

/// A partition's history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// `None` before the first row.
    pub cursor: Option<Cursor>,
    /// What is visible, in order, without holes. Empty when the state was folded without rows.
    pub ranges: Vec<Range>,
    /// Aborted transactions of what is visible, by rewind epoch, first offset and producer. Without ranges only those whose marker has not been seen.
    pub aborted: Vec<AbortedRow>,
    /// The newest commit with rows of it, and the cursor before that commit (-1: none).
    base: Option<(u64, i64)>,
}

impl PartitionState {
    /// Whether a chunk has as many records that count as its row says: it begins and ends with whole batches. One that follows no chunk may begin inside a
    /// batch, and a rewind may have cut its end.
    pub fn is_exact(&self, index: usize) -> bool {
        let Some(row) = self.ranges.get(index).filter(|row| row.kind == Kind::Data) else { return false };
        let before = self.ranges.iter().take(index).rfind(|row| row.kind == Kind::Data);
        let follows = before.is_some_and(|b| b.next == row.first && b.rewind == row.rewind);
        let is_cut = self.ranges.get(index + 1).is_some_and(|behind| behind.rewind != row.rewind);
        row.kept >= 0 && (follows || row.first == 0) && !is_cut
    }
}

/// One (group, topic) pair: its header, and its offsets by partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupTopic {
    /// The header row.
    pub header: GroupRow,
    /// By partition.
    pub offsets: BTreeMap<i32, GroupRow>,
}

/// What a row or commit has wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inconsistency {
    /// The commit.
    pub seq: u64,
    /// Topic and partition, if it is about one.
    pub part: Option<PartKey>,
    /// In words.
    pub what: String,
}

/// The fold of all commits up to one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// By topic id.
    pub topics: BTreeMap<TopicId, TopicRow>,
    /// Settings by topic id.
    pub configs: BTreeMap<TopicId, BTreeMap<String, Option<String>>>,
    /// By group and topic id.
    pub groups: BTreeMap<(String, TopicId), GroupTopic>,
    /// By topic id and partition.
    pub partitions: BTreeMap<PartKey, PartitionState>,
    /// By ULID as text. Empty when the state was folded without rows.
    pub segments: HashMap<String, SegmentRef>,
    /// What does not add up. Empty in a healthy vault.
    pub inconsistencies: Vec<Inconsistency>,
    keep_ranges: bool,
    /// Of these partitions alone.
    only: Option<Arc<BTreeSet<PartKey>>>,
}

impl State {
    /// Nothing yet. `keep_ranges`: also the rows of each partition, not its cursor alone.
    pub fn new(keep_ranges: bool) -> Self {
        Self { keep_ranges, ..Self::default() }
    }

    /// Nothing yet; the rows of these partitions will be kept, and no segments.
    pub fn of(keys: BTreeSet<PartKey>) -> Self {
        Self { keep_ranges: true, only: Some(Arc::new(keys)), ..Self::default() }
    }

    /// The same as it was at its beginning.
    pub(super) fn blank(&self) -> Self {
        Self { keep_ranges: self.keep_ranges, only: self.only.clone(), ..Self::default() }
    }

    /// Whether rows are kept, of one partition at least.
    pub(super) fn keeps_ranges(&self) -> bool {
        self.keep_ranges
    }

    fn keeps(&self, key: &PartKey) -> bool {
        self.keep_ranges && self.only.as_ref().is_none_or(|only| only.contains(key))
    }

    /// Adds a commit's segments; its rows follow by [`State::add_rows`].
    pub fn add_commit(&mut self, commit: &Commit) {
        commit.segments.iter().for_each(|segment| self.add_segment(segment.clone()));
    }

    /// Adds a segment.
    pub fn add_segment(&mut self, segment: SegmentRef) {
        if self.keep_ranges && self.only.is_none() {
            self.segments.insert(segment.id.clone(), segment);
        }
    }

    /// Adds the rows of a table of commit `seq`.
    pub fn add_rows(&mut self, seq: u64, rows: Rows) {
        for topic in rows.topics {
            self.topics.insert(topic.topic, topic);
        }
        self.add_configs(rows.configs);
        self.add_groups(rows.groups);
        for range in rows.ranges {
            self.add_range(seq, range);
        }
        for row in rows.aborted {
            self.add_aborted(row);
        }
    }

    /// Takes the place of all commits up to one, but for ranges, closed transactions and segments. Only on a state without topics, settings and groups; with
    /// ranges their cursors are there already.
    pub fn add_heads(&mut self, heads: Heads) {
        self.topics = heads.topics.into_iter().map(|row| (row.topic, row)).collect();
        self.add_configs(heads.configs);
        self.add_groups(heads.groups);
        if self.keep_ranges {
            return;
        }
        for row in heads.cursors {
            let partition = self.partitions.entry((row.topic, row.partition)).or_default();
            (partition.cursor, partition.base) = (Some(row.cursor), Some((row.seq, row.from)));
        }
        heads.aborted.into_iter().for_each(|row| self.add_aborted(row));
    }

    /// All but ranges, closed transactions and segments: what a fold without ranges goes on from.
    pub fn heads(&self) -> Heads {
        let mut heads = Heads { topics: self.topics.values().cloned().collect(), ..Heads::default() };
        for (topic, configs) in &self.configs {
            if configs.is_empty() {
                heads.configs.push(ConfigRow { topic: *topic, name: String::new(), value: None });
            }
            let rows = configs.iter().map(|(name, value)| (name.clone(), value.clone()));
            heads.configs.extend(rows.map(|(name, value)| ConfigRow { topic: *topic, name, value }));
        }
        for pair in self.groups.values() {
            heads.groups.push(pair.header.clone());
            heads.groups.extend(pair.offsets.values().cloned());
        }
        for ((topic, partition), state) in &self.partitions {
            let (topic, partition) = (*topic, *partition);
            let at = state.cursor.zip(state.base);
            heads.cursors.extend(at.map(|(cursor, (seq, from))| CursorRow {
                topic,
                partition,
                seq,
                from,
                cursor,
            }));
            heads.aborted.extend(state.aborted.iter().filter(|row| row.marker == i64::MAX));
        }
        heads
    }

    /// A row replaces one of the same key.
    pub fn add_aborted(&mut self, row: AbortedRow) {
        let keep = self.keeps(&(row.topic, row.partition)) || row.marker == i64::MAX;
        let known = &mut self.partitions.entry((row.topic, row.partition)).or_default().aborted;
        let key = |row: &AbortedRow| (row.rewind, row.first, row.producer_id);
        match (known.binary_search_by_key(&key(&row), key), keep) {
            (Ok(at), false) => drop(known.remove(at)),
            (Ok(at), true) => known.splice(at..=at, [row]).for_each(drop),
            (Err(at), true) => known.insert(at, row),
            (Err(_), false) => {}
        }
    }

    fn add_configs(&mut self, rows: Vec<ConfigRow>) {
        for of_topic in rows.chunk_by(|a, b| a.topic == b.topic) {
            let Some(first) = of_topic.first() else { continue };
            let own = of_topic.iter().filter(|row| !row.name.is_empty());
            self.configs.insert(first.topic, own.map(|row| (row.name.clone(), row.value.clone())).collect());
        }
    }

    fn add_groups(&mut self, rows: Vec<GroupRow>) {
        for row in rows {
            let key = (row.group.clone(), row.topic);
            if row.partition < 0 {
                self.groups.insert(key, GroupTopic { header: row, offsets: BTreeMap::new() });
            } else if let Some(pair) = self.groups.get_mut(&key) {
                pair.offsets.insert(row.partition, row);
            }
        }
    }

    /// Adds a row of commit `seq`. Rows of a partition come in the order of the log.
    pub fn add_range(&mut self, seq: u64, range: Range) {
        let key = (range.topic, range.partition);
        let keeps = self.keeps(&key);
        let partition = self.partitions.entry(key).or_default();
        let expected = partition.cursor;
        let rewinds = expected.is_some_and(|cursor| range.rewind > cursor.rewind);
        let mut wrong =
            |what: String| self.inconsistencies.push(Inconsistency { seq, part: Some(key), what });
        if range.next < range.first || range.first < 0 {
            wrong(format!("a row of offsets {}..{}", range.first, range.next));
        }
        match expected {
            Some(cursor) if range.rewind < cursor.rewind => {
                wrong(format!("rewind epoch goes back to {}", range.rewind))
            }
            Some(cursor) if rewinds && range.first > cursor.next => {
                wrong(format!("offsets {}..{} are covered by nothing", cursor.next, range.first));
            }
            Some(cursor) if !rewinds && range.first != cursor.next => {
                wrong(format!(
                    "a row begins at offset {}, the one before it ends at {}",
                    range.first, cursor.next
                ));
            }
            _ => {}
        }
        let before = match partition.base {
            Some((of, before)) if of == seq => before,
            _ => expected.map_or(-1, |cursor| cursor.next),
        };
        partition.base = Some((seq, before));
        if range.from != before {
            wrong(format!("a row says that the cursor was {}, it was {before}", range.from));
        }
        if rewinds {
            // A rewritten log hides all of the old one from where it begins.
            partition.ranges.retain(|old| old.first < range.first);
            if let Some(cut) = partition.ranges.last_mut().filter(|old| old.next > range.first) {
                cut.next = range.first;
            }
            partition.aborted.retain(|entry| entry.rewind >= range.rewind || entry.first < range.first);
        }
        let last_epoch = match range.kind {
            Kind::Data => range.last_epoch,
            // A new history goes on behind the batch where it parts from the old one.
            Kind::Empty if rewinds => range.last_epoch,
            Kind::Empty if range.first == range.next => expected.map_or(-1, |cursor| cursor.last_epoch),
            // Batches of a later epoch may have been there.
            _ => -1,
        };
        partition.cursor = Some(Cursor {
            next: range.next,
            last_epoch,
            leader_epoch: range.leader_epoch,
            rewind: range.rewind,
        });
        if keeps {
            partition.ranges.push(range);
        }
    }

    /// Damage, if anything does not add up.
    pub fn check(&self) -> Result<(), VaultError> {
        let Some(wrong) = self.inconsistencies.first() else { return Ok(()) };
        let part = wrong.part.map(|key| self.part_name(&key)).unwrap_or_default();
        Err(VaultError::damaged(&commit_path(wrong.seq), format!("{part}: {}", wrong.what)))
    }

    /// The first offset of each partition that is not covered.
    pub fn cursors(&self) -> HashMap<PartKey, i64> {
        let cursors = self.partitions.iter();
        cursors.filter_map(|(key, partition)| Some((*key, partition.cursor?.next))).collect()
    }

    /// Topic ids of a name, the newest life first.
    pub fn lives(&self, name: &str) -> Vec<&TopicRow> {
        let mut lives: Vec<_> = self.topics.values().filter(|topic| topic.name == name).collect();
        lives.sort_by_key(|topic| std::cmp::Reverse((topic.incarnation, topic.present)));
        lives
    }

    /// The newest life of each name.
    pub fn newest(&self) -> BTreeMap<&str, &TopicRow> {
        let mut newest: BTreeMap<&str, &TopicRow> = BTreeMap::new();
        for topic in self.topics.values() {
            let entry = newest.entry(&topic.name).or_insert(topic);
            if topic.incarnation > entry.incarnation {
                *entry = topic;
            }
        }
        newest
    }

    /// `topic-partition` for messages.
    pub fn part_name(&self, key: &PartKey) -> String {
        let topic = self.topics.get(&key.0).map_or_else(|| super::hex(&key.0), |topic| topic.name.clone());
        format!("{topic}-{}", key.1)
    }
}

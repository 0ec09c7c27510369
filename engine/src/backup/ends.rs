//! Where each partition starts and ends in a run, which need no Fetch at all, and whose log is not the one any more that we read before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bodley_io::kafka::offsets::{End, Found};
use bodley_io::kafka::{Cluster, TopicPartition, is_same_topic};
use bodley_io::store::SharedStore;
use bodley_protocol::TopicId;

use super::plan::{Plan, Rebirth};
use super::rewind::Parting;
use super::task::{OPEN, Task};
use super::transactions::Suspect;
use crate::error::{EngineError, Severity};
use crate::report::{Gap, Issue};
use crate::vault::aborted::Aborted;
use crate::vault::now_ms;
use crate::vault::rows::{AbortedRow, Kind, Range, Reason};
use crate::vault::state::{Cursor, PartKey, State};

/// What partitions are looked at with.
#[derive(Debug)]
pub struct Sight<'a> {
    /// The source.
    pub cluster: &'a Arc<Cluster>,
    /// The vault's.
    pub store: &'a SharedStore,
    /// The vault as it is.
    pub state: &'a State,
    /// The run goes on: tasks are open, and who can't be looked at now is looked at later.
    pub goes_on: bool,
    /// How long leaders are waited for.
    pub patience: Duration,
}

/// Partitions to look at, and whether they are to be asked where their logs part from ours, whatever their leader epoch.
pub type Parts = BTreeMap<TopicPartition, (PartKey, bool)>;

/// A partition as its leader tells it.
struct Seen {
    start: i64,
    end: i64,
}

impl Plan {
    /// All partitions of the plan's topics.
    pub fn parts(&self) -> Parts {
        let mut parts = Parts::new();
        for topic in self.topics.values() {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            let partitions = 0..topic.partitions;
            parts.extend(
                partitions
                    .map(|index| (TopicPartition::new(&name, index as i32), ((topic.topic, index), false))),
            );
        }
        parts
    }

    /// Fixes where each of these partitions starts and ends in this run.
    pub async fn ends(&mut self, sight: &Sight<'_>, parts: Parts) -> Result<(), EngineError> {
        let all: Vec<TopicPartition> = parts.keys().cloned().collect();
        let (cluster, patience) = (sight.cluster, sight.patience);
        // High watermarks before last stable offsets: what is written in between makes none of them seem behind.
        let (starts, highs) = tokio::try_join!(
            cluster.list_offsets_within(&all, End::Earliest, patience),
            cluster.list_offsets_within(&all, End::HighWatermark, patience)
        )?;
        self.asked_at = now_ms();
        // Who has not been found so far is not waited for once more.
        let found: Vec<TopicPartition> = starts.found.keys().cloned().collect();
        let ends = cluster.list_offsets_within(&found, End::LastStable, patience).await?;
        let failures: BTreeMap<_, _> = starts.failed.into_iter().chain(ends.failed).collect();
        for (tp, error) in failures {
            let Some((key, _)) = parts.get(&tp) else { continue };
            self.unavailable(sight, *key, &tp, error.to_string());
        }
        // What was told of a log that is not as it was left is only of use if it is still the same topic's.
        let left = |(tp, (key, doubted)): (&TopicPartition, &(PartKey, bool))| {
            let next = sight.state.partitions.get(key)?.cursor?.next;
            let told = starts.found.get(tp)?.offset..=ends.found.get(tp)?.offset;
            Some(*doubted || !told.contains(&next))
        };
        let layout = match parts.iter().filter_map(left).any(|is_strange| is_strange) {
            true => cluster.fresh_layout_patiently().await?,
            false => cluster.layout(),
        };
        let mut doubts = Vec::new();
        for (tp, (key, doubted)) in parts {
            let (Some(start), Some(end)) = (starts.found.get(&tp), ends.found.get(&tp)) else { continue };
            if self.has_id(key.0) && !is_same_topic(key.0, layout.topic_id(&tp.topic)) {
                if !sight.goes_on {
                    return Err(EngineError::Replaced { topic: tp.topic.to_string() });
                }
                let what = "its topic was deleted and created again while it was looked at";
                self.unavailable(sight, key, &tp, what.into());
                continue;
            }
            if start.offset > end.offset {
                let (start, end) = (start.offset, end.offset);
                let what = format!("its leader says that it begins at offset {start} and ends at {end}");
                self.unavailable(sight, key, &tp, what);
                continue;
            }
            if let Some(high) = highs.found.get(&tp).filter(|high| high.offset > end.offset) {
                let behind = high.offset - end.offset;
                self.suspects.push(Suspect { tp: tp.clone(), behind });
            }
            self.stable.insert(key, end.offset);
            let cursor = sight.state.partitions.get(&key).and_then(|partition| partition.cursor);
            let next = cursor.map_or(start.offset, |cursor| cursor.next);
            let task = Task {
                fetch_id: if self.has_id(key.0) { key.0 } else { layout.topic_id(&tp.topic) },
                from: cursor.map_or(-1, |cursor| cursor.next),
                told: end.offset,
                rewind: cursor.map_or(0, |cursor| cursor.rewind),
                leader_epoch: layout.partition(&tp).map_or(-1, |partition| partition.leader_epoch),
                last_epoch: cursor.map_or(-1, |cursor| cursor.last_epoch),
                aborted: Aborted::from_rows(open_transactions(sight.state, &key)),
                ..Task::new(key, tp, next..end.offset)
            };
            let seen = Seen { start: start.offset, end: end.offset };
            match cursor.filter(|cursor| doubted || is_doubtful(&task, *cursor, &seen)) {
                Some(cursor) if !self.is_reborn(&task, cursor, &seen) => doubts.push((task, cursor, seen)),
                Some(_) => {}
                None => self.admit(sight, task, cursor.is_none(), &seen),
            }
        }
        self.settle_doubts(sight, doubts).await
    }

    /// Whether a topic is known by an id of the brokers.
    fn has_id(&self, topic: TopicId) -> bool {
        self.topics.get(&topic).is_some_and(|row| !row.synthetic)
    }

    fn unavailable(&mut self, sight: &Sight<'_>, key: PartKey, tp: &TopicPartition, what: String) {
        if sight.goes_on {
            self.unavailable.push(key);
        }
        let issue = Issue::new("partition_unavailable", Severity::Failed, format!("{tp}: {what}"));
        let hint = "run again when the partition has a leader";
        self.issues.push(issue.at(&tp.topic, tp.partition as u32, None).hint(hint));
    }

    /// Decides about a partition whose log is the one that we know: what retention took, nothing new, or something to read.
    fn admit(&mut self, sight: &Sight<'_>, mut task: Task, is_new: bool, seen: &Seen) {
        if task.next < seen.start {
            self.rows.ranges.push(task.row(Kind::Gap(Reason::Retention), seen.start));
            self.gaps.push(Gap::new(&task.tp.topic, task.key.1, task.next..seen.start, Reason::Retention));
            task.jump(seen.start);
            if task.is_done() {
                self.rows.aborted.extend(task.aborted.take_rows(task.key, task.rewind));
            }
        } else if is_new && task.is_done() {
            self.rows.ranges.push(task.row(Kind::Empty, task.next));
        }
        self.go(sight, task);
    }

    fn go(&mut self, sight: &Sight<'_>, mut task: Task) {
        if sight.goes_on {
            task.complete = if task.is_done() { self.asked_at } else { 0 };
            task.end = OPEN;
        }
        if !task.is_done() {
            self.tasks.push(task);
        }
    }

    /// Without ids a topic that was deleted and created again shows by its log: every election raises the epoch, a new topic begins anew.
    fn is_reborn(&mut self, task: &Task, cursor: Cursor, seen: &Seen) -> bool {
        let synthetic = self.topics.get(&task.key.0).is_some_and(|topic| topic.synthetic);
        let known = task.leader_epoch >= 0 && cursor.leader_epoch >= 0;
        let tp = &task.tp;
        let why = match (task.leader_epoch < cursor.leader_epoch, seen.end < cursor.next) {
            (true, _) if known => format!(
                "the leader epoch of {tp} is {}, it was {} before",
                task.leader_epoch, cursor.leader_epoch
            ),
            (_, true) => format!("{tp} ends at offset {} and was backed up to {}", seen.end, cursor.next),
            _ => return false,
        };
        if synthetic {
            let or_truncated = known && task.leader_epoch > cursor.leader_epoch;
            self.reborn.entry(tp.topic.to_string()).or_insert(Rebirth { why, or_truncated });
        }
        synthetic
    }

    /// A new leader since the last run, or a log that ends too early: does it still hold what we have? Asked without reading.
    async fn settle_doubts(
        &mut self,
        sight: &Sight<'_>,
        doubts: Vec<(Task, Cursor, Seen)>,
    ) -> Result<(), EngineError> {
        let told = doubts.iter().filter(|(task, ..)| task.last_epoch >= 0);
        let questions: Vec<_> = told.map(|(task, ..)| (task.tp.clone(), task.last_epoch)).collect();
        let answers = sight.cluster.epoch_ends_within(&questions, sight.patience).await?;
        let mut parted = Vec::new();
        for (task, cursor, seen) in doubts {
            let answer = answers.found.get(&task.tp);
            match answer {
                Some(found) if holds(&task, found) && task.next > seen.end => {
                    let what = format!(
                        "its leader has what was backed up to offset {} and says that its last stable offset is {}",
                        task.next, seen.end
                    );
                    self.unavailable(sight, task.key, &task.tp, what);
                }
                Some(found) if holds(&task, found) => self.admit(sight, task, false, &seen),
                None if task.last_epoch >= 0 => {
                    let why = answers.failed.get(&task.tp).map_or("no answer".into(), ToString::to_string);
                    self.unavailable(sight, task.key, &task.tp, why);
                }
                // Without an epoch that could be asked for nothing speaks against a log that is long enough.
                None if task.next <= seen.end => self.admit(sight, task, false, &seen),
                // A log that was rebuilt may not know its epochs any more. Without a new leader nothing was taken back.
                Some(found) if found.leader_epoch < 0 && is_led_as_before(&task, cursor, &seen) => {
                    self.admit(sight, Task { last_epoch: -1, ..task }, false, &seen);
                }
                _ => parted.push((task, cursor, seen)),
            }
        }
        self.rewind(sight, parted).await
    }

    /// Partitions whose logs part from ours go on where they do, in a history of their own.
    async fn rewind(
        &mut self,
        sight: &Sight<'_>,
        parted: Vec<(Task, Cursor, Seen)>,
    ) -> Result<(), EngineError> {
        if parted.is_empty() {
            return Ok(());
        }
        let keys = parted.iter().map(|(task, ..)| task.key).collect();
        let histories = super::rewind::histories(sight.store, keys).await?;
        for (task, cursor, seen) in parted {
            if self.topics.get(&task.key.0).is_some_and(|topic| topic.synthetic) {
                let why = format!("the log of {} is not the one that was backed up", task.tp);
                let or_truncated = task.leader_epoch > cursor.leader_epoch;
                self.reborn.entry(task.tp.topic.to_string()).or_insert(Rebirth { why, or_truncated });
                continue;
            }
            let ranges = histories.partitions.get(&task.key).map(|p| p.ranges.as_slice()).unwrap_or_default();
            match super::rewind::parting(sight, &task, ranges).await {
                Ok(parting) => self.branch(sight, task, &parting, &seen),
                Err(error) => self.unavailable(sight, task.key, &task.tp, error.to_string()),
            }
        }
        Ok(())
    }

    /// Begins a new history at `parting`.
    fn branch(&mut self, sight: &Sight<'_>, mut task: Task, parting: &Parting, seen: &Seen) {
        let (before, at) = (task.next, parting.offset.min(task.next));
        let message = format!(
            "{}: the source took back offsets {at}..{before} after they were backed up (an unclean leader election); its log ends at {} now, and goes into the vault from {at} on as a new history",
            task.tp, seen.end
        );
        let issue = Issue::new("truncated", Severity::Missing, message);
        self.issues.push(issue.at(&task.tp.topic, task.key.1, Some(at)).hint(
            "what was backed up of them stays in the vault: `bodley restore --at` an earlier commit brings it back",
        ));
        task.rewind += 1;
        (task.next, task.last_epoch, task.aborted) = (at, parting.last_epoch, Aborted::default());
        if at < seen.start {
            self.admit(sight, task, false, seen);
        } else {
            // The row says that there is a new history, also before anything of it is read.
            let row = task.row(Kind::Empty, at);
            self.rows.ranges.push(Range { last_epoch: task.last_epoch, ..row });
            self.go(sight, task);
        }
    }
}

fn is_doubtful(task: &Task, cursor: Cursor, seen: &Seen) -> bool {
    let moved = cursor.leader_epoch != task.leader_epoch && task.last_epoch >= 0;
    task.next > seen.end || (moved && task.next >= seen.start)
}

fn is_led_as_before(task: &Task, cursor: Cursor, seen: &Seen) -> bool {
    cursor.leader_epoch == task.leader_epoch && (seen.start..=seen.end).contains(&task.next)
}

fn holds(task: &Task, found: &Found) -> bool {
    found.leader_epoch == task.last_epoch && found.offset >= task.next
}

/// Aborted transactions whose markers the vault has not seen. Those of an earlier history have no marker in this one, unless brokers list them again.
fn open_transactions<'a>(state: &'a State, key: &PartKey) -> impl Iterator<Item = &'a AbortedRow> {
    let partition = state.partitions.get(key);
    let rewind = partition.and_then(|partition| partition.cursor).map_or(0, |cursor| cursor.rewind);
    let known = partition.map(|partition| partition.aborted.as_slice()).unwrap_or_default();
    known.iter().filter(move |row| row.marker == i64::MAX && row.rewind == rewind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_of_an_earlier_history_are_over() {
        let key = ([1; 16], 0);
        let range =
            |rewind, first, next, from| Range::without_chunk(key, rewind, Kind::Empty, first..next, from);
        let open = |rewind, first| AbortedRow {
            topic: key.0,
            partition: key.1,
            rewind,
            producer_id: 7,
            first,
            marker: i64::MAX,
        };
        let mut state = State::new(false);
        state.add_range(2, range(0, 0, 80, -1));
        state.add_aborted(open(0, 70));
        assert_eq!(open_transactions(&state, &key).copied().collect::<Vec<_>>(), [open(0, 70)]);
        // Its marker may have been in what was taken back.
        state.add_range(3, range(1, 75, 90, 80));
        assert_eq!(open_transactions(&state, &key).count(), 0);
        state.add_aborted(open(1, 70));
        assert_eq!(open_transactions(&state, &key).copied().collect::<Vec<_>>(), [open(1, 70)]);
    }
}

//! Before a backup reads: which topics, what is new about them, where each partition starts and ends, and which need no Fetch at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_io::kafka::offsets::{End, Found};
use bodley_io::kafka::{Cluster, Layout, Topic, TopicPartition};
use bodley_protocol::{ErrorCode, NO_TOPIC_ID, TopicId};

use super::task::Task;
use super::transactions::Suspect;
use crate::error::{EngineError, Severity};
use crate::report::{Gap, Issue};
use crate::select::Selection;
use crate::vault::aborted::Aborted;
use crate::vault::rows::{AbortedRow, ConfigRow, Kind, Reason, Rows, TopicRow};
use crate::vault::state::{Cursor, PartKey, State};
use crate::vault::synthetic_id;

/// What a run will do.
#[derive(Debug, Default)]
pub struct Plan {
    /// The run's topics by id in the vault.
    pub topics: BTreeMap<TopicId, TopicRow>,
    /// Partitions to read.
    pub tasks: Vec<Task>,
    /// Rows that need no reading: changed topics and settings, ranges known to be empty or lost.
    pub rows: Rows,
    /// Found along the way.
    pub gaps: Vec<Gap>,
    /// Partitions that can't be read.
    pub issues: Vec<Issue>,
    /// Worth knowing.
    pub notes: Vec<String>,
    /// Partitions where transactions are open.
    pub suspects: Vec<Suspect>,
}

/// Chooses the topics of the run from the cluster's.
pub fn choose(layout: &Layout, selection: &Selection) -> Result<Vec<Topic>, EngineError> {
    let there = layout.topics.values().filter(|topic| topic.error != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let names = selection.choose(there.map(|topic| (&*topic.name, topic.internal)), "in the cluster")?;
    if names.is_empty() && !selection.exclude.is_empty() && !layout.topics.is_empty() {
        return Err(EngineError::Refused("nothing is left to back up: every topic is excluded".into()));
    }
    Ok(names.iter().filter_map(|name| layout.topics.get(name.as_str())).cloned().collect())
}

impl Plan {
    /// Notes the chosen topics: new ones, changed ones, new lives of old names, and those that are gone.
    pub fn catalog(&mut self, state: &State, vault_id: &str, selection: &Selection, chosen: &[Topic]) {
        let told: BTreeSet<String> = self.issues.iter().filter_map(|issue| issue.topic.clone()).collect();
        for topic in chosen {
            if topic.partitions.is_empty() {
                if !told.contains(&*topic.name) {
                    let why = match topic.error {
                        ErrorCode::NONE => "the cluster's metadata names no partition of it".to_owned(),
                        error => error.to_string(),
                    };
                    let message = format!("topic {} can't be read: {why}", topic.name);
                    let mut issue = Issue::new("topic_unavailable", Severity::Failed, message);
                    issue.topic = Some(topic.name.to_string());
                    self.issues.push(issue);
                }
                continue;
            }
            let row = topic_row(state, vault_id, topic);
            let known = state.topics.get(&row.topic);
            if known.is_none() && row.incarnation > 0 {
                let name = &row.name;
                self.notes
                    .push(format!("topic {name} was deleted and created again: stored as a new incarnation"));
            }
            if known != Some(&row) {
                self.rows.topics.push(row.clone());
            }
            self.topics.insert(row.topic, row);
        }
        for old in state.topics.values().filter(|old| old.present && !self.topics.contains_key(&old.topic)) {
            let unavailable =
                chosen.iter().any(|topic| *topic.name == old.name && topic.partitions.is_empty());
            if selection.covers(&old.name, old.internal) && !unavailable {
                if !chosen.iter().any(|topic| *topic.name == old.name) {
                    self.notes.push(format!(
                        "topic {} is gone from the cluster; its data stays in the vault",
                        old.name
                    ));
                }
                self.rows.topics.push(TopicRow { present: false, ..old.clone() });
            }
        }
    }

    /// Notes settings that differ from those in the vault, but for topics whose settings are closed to us.
    pub async fn settings(
        &mut self,
        cluster: &Cluster,
        state: &State,
        closed: &BTreeSet<String>,
    ) -> Result<(), EngineError> {
        let open = self.topics.values().filter(|topic| !closed.contains(&topic.name));
        let names: Vec<Arc<str>> = open.map(|topic| Arc::from(topic.name.as_str())).collect();
        let described = cluster.describe_configs(&names).await?;
        for topic in self.topics.values() {
            let Some(configs) = described.get(topic.name.as_str()) else { continue };
            let own = configs.iter().filter(|(_, config)| config.is_own);
            let own: BTreeMap<String, Option<String>> =
                own.map(|(name, config)| (name.clone(), config.value.clone())).collect();
            if state.configs.get(&topic.topic) == Some(&own) {
                continue;
            }
            if own.is_empty() {
                self.rows.configs.push(ConfigRow { topic: topic.topic, name: String::new(), value: None });
            }
            let rows = own.into_iter().map(|(name, value)| ConfigRow { topic: topic.topic, name, value });
            self.rows.configs.extend(rows);
        }
        Ok(())
    }

    /// Fixes where each partition starts and ends in this run.
    pub async fn ends(&mut self, cluster: &Arc<Cluster>, state: &State) -> Result<(), EngineError> {
        let mut parts: BTreeMap<TopicPartition, PartKey> = BTreeMap::new();
        for topic in self.topics.values() {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            for partition in 0..topic.partitions {
                parts.insert(TopicPartition::new(&name, partition as i32), (topic.topic, partition));
            }
        }
        let all: Vec<TopicPartition> = parts.keys().cloned().collect();
        // High watermarks before last stable offsets: what is written in between makes none of them seem behind.
        let (starts, highs) = tokio::try_join!(
            cluster.list_offsets(&all, End::Earliest),
            cluster.list_offsets(&all, End::HighWatermark)
        )?;
        let ends = cluster.list_offsets(&all, End::LastStable).await?;
        let failures: BTreeMap<_, _> = starts.failed.into_iter().chain(ends.failed).collect();
        for (tp, error) in failures {
            let issue = Issue::new("partition_unavailable", Severity::Failed, format!("{tp}: {error}"));
            let issue = issue
                .at(&tp.topic, tp.partition as u32, None)
                .hint("run again when the partition has a leader");
            self.issues.push(issue);
        }
        let layout = cluster.layout();
        let mut suspects = Vec::new();
        for (tp, key) in parts {
            let (Some(start), Some(end)) = (starts.found.get(&tp), ends.found.get(&tp)) else { continue };
            if start.offset > end.offset {
                let (start, end) = (start.offset, end.offset);
                let message =
                    format!("{tp}: its leader says that it begins at offset {start} and ends at {end}");
                let issue = Issue::new("partition_unavailable", Severity::Failed, message);
                self.issues.push(issue.at(&tp.topic, tp.partition as u32, None).hint("run again"));
                continue;
            }
            if let Some(high) = highs.found.get(&tp).filter(|high| high.offset > end.offset) {
                let behind = high.offset - end.offset;
                self.suspects.push(Suspect { tp: tp.clone(), behind });
            }
            let fetch_id = layout.topic_id(&tp.topic);
            let leader_epoch = layout.partition(&tp).map_or(-1, |partition| partition.leader_epoch);
            let cursor = state.partitions.get(&key).and_then(|partition| partition.cursor);
            let task = Task {
                key,
                tp,
                fetch_id,
                from: cursor.map_or(-1, |cursor| cursor.next),
                next: cursor.map_or(start.offset, |cursor| cursor.next),
                end: end.offset,
                rewind: cursor.map_or(0, |cursor| cursor.rewind),
                leader_epoch,
                last_epoch: cursor.map_or(-1, |cursor| cursor.last_epoch),
                aborted: Aborted::from_rows(open_transactions(state, &key)),
                empty_tries: 0,
                bad_tries: 0,
                bad: None,
                asked: Vec::new(),
                replicas_asked: false,
                elsewhere: None,
                near: None,
                hunt: None,
                stuck: None,
            };
            self.admit(task, cursor, start.offset, &mut suspects);
        }
        self.check_epochs(cluster, suspects).await
    }

    /// Decides about one partition: nothing new, something to read, or a suspicion to check first.
    fn admit(&mut self, mut task: Task, cursor: Option<Cursor>, start: i64, suspects: &mut Vec<Task>) {
        if task.next > task.end {
            let message = format!(
                "{} ends at offset {} but was backed up to {}: the source's log was truncated (an unclean leader election) or replaced",
                task.tp, task.end, task.next
            );
            self.issues.push(truncated(&task, message));
            return;
        }
        if task.next < start {
            self.rows.ranges.push(task.row(Kind::Gap(Reason::Retention), start));
            self.gaps.push(Gap::new(&task.tp.topic, task.key.1, task.next..start, Reason::Retention));
            task.jump(start);
            if task.is_done() {
                self.rows.aborted.extend(task.aborted.take_rows(task.key, task.rewind));
            }
        }
        match cursor {
            None if task.is_done() => self.rows.ranges.push(task.row(Kind::Empty, task.next)),
            Some(cursor) if cursor.leader_epoch != task.leader_epoch && task.last_epoch >= 0 => {
                suspects.push(task)
            }
            _ if task.is_done() => {}
            _ => self.tasks.push(task),
        }
    }

    /// A new leader since the last run: does its log still hold what we have? Asked without reading.
    async fn check_epochs(&mut self, cluster: &Arc<Cluster>, suspects: Vec<Task>) -> Result<(), EngineError> {
        let questions: Vec<_> = suspects.iter().map(|task| (task.tp.clone(), task.last_epoch)).collect();
        let answers = cluster.epoch_ends(&questions).await?;
        for task in suspects {
            match answers.found.get(&task.tp) {
                Some(found) if !holds(&task, found) => {
                    let message = format!(
                        "{}: the leader's log ends epoch {} at offset {}, but offsets to {} of it were backed up: the source's log was truncated (an unclean leader election)",
                        task.tp, task.last_epoch, found.offset, task.next
                    );
                    self.issues.push(truncated(&task, message));
                }
                Some(_) if task.is_done() => {}
                Some(_) => self.tasks.push(task),
                None => {
                    let why = answers.failed.get(&task.tp).map_or("no answer".into(), ToString::to_string);
                    let issue =
                        Issue::new("partition_unavailable", Severity::Failed, format!("{}: {why}", task.tp));
                    self.issues.push(issue.at(&task.tp.topic, task.key.1, Some(task.next)));
                }
            }
        }
        Ok(())
    }
}

/// Aborted transactions whose markers the vault has not seen.
fn open_transactions<'a>(state: &'a State, key: &PartKey) -> impl Iterator<Item = &'a AbortedRow> {
    let known = state.partitions.get(key).map(|partition| partition.aborted.as_slice()).unwrap_or_default();
    known.iter().filter(|row| row.marker == i64::MAX)
}

fn holds(task: &Task, found: &Found) -> bool {
    found.leader_epoch == task.last_epoch && found.offset >= task.next
}

/// What is said when the source no longer holds what the vault has.
pub fn truncated(task: &Task, message: String) -> Issue {
    Issue::new("truncated", Severity::Missing, message).at(&task.tp.topic, task.key.1, Some(task.next)).hint(
        "this version stops at such partitions and keeps what it has; to go on, back up into a new vault",
    )
}

/// The vault's row for a topic as it is now.
fn topic_row(state: &State, vault_id: &str, topic: &Topic) -> TopicRow {
    let lives = state.lives(&topic.name);
    let synthetic = topic.id == NO_TOPIC_ID;
    let newest = lives.first().map(|life| life.incarnation);
    let (id, incarnation) = if synthetic {
        let incarnation = newest.unwrap_or(0);
        (synthetic_id(vault_id, &topic.name, incarnation), incarnation)
    } else {
        let same = lives.iter().find(|life| life.topic == topic.id).map(|life| life.incarnation);
        (topic.id, same.unwrap_or_else(|| newest.map_or(0, |newest| newest + 1)))
    };
    TopicRow {
        topic: id,
        name: topic.name.to_string(),
        present: true,
        partitions: topic.partitions.len() as u32,
        replication: topic.partitions.first().map_or(0, |partition| partition.replicas.len() as u16),
        internal: topic.internal,
        synthetic,
        incarnation,
    }
}

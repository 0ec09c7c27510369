//! Before a backup reads: which topics, and what is new about them. (Where each partition starts and ends: `ends.rs`.)

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodley_io::kafka::{Cluster, Layout, Topic};
use bodley_protocol::{ErrorCode, NO_TOPIC_ID, TopicId};

use super::task::Task;
use super::transactions::Suspect;
use crate::error::{EngineError, Severity};
use crate::report::{Gap, Issue};
use crate::select::Selection;
use crate::vault::rows::{ConfigRow, Rows, TopicRow};
use crate::vault::state::{PartKey, State};
use crate::vault::synthetic_id;

/// Topics by id in the vault.
pub type Topics = BTreeMap<TopicId, TopicRow>;

/// What a run will do.
#[derive(Debug, Default)]
pub struct Plan {
    /// The run's topics.
    pub topics: Topics,
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
    /// Last stable offsets, of all partitions that were looked at.
    pub stable: HashMap<PartKey, i64>,
    /// When these were asked for, ms of our clock.
    pub asked_at: i64,
    /// Topics that may not be read.
    pub unread: BTreeSet<String>,
    /// There are topics of which nothing can be seen now.
    pub is_blind: bool,
    /// Topics whose settings may not be read.
    pub closed: BTreeSet<String>,
    /// Groups are still to be read.
    pub groups_are_late: bool,
    /// Partitions of a run that goes on which could not be looked at.
    pub unavailable: Vec<PartKey>,
    /// Topics without an id from the broker that seem to have been deleted and created again, and why: to be planned anew as
    /// such.
    pub reborn: BTreeMap<String, Rebirth>,
}

/// Why a topic without an id is taken for another than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebirth {
    /// In words.
    pub why: String,
    /// An unclean leader election would look the same.
    pub or_truncated: bool,
}

/// What a plan goes by.
#[derive(Debug)]
pub struct Basis<'a> {
    /// The vault as it is.
    pub state: &'a State,
    /// Its id.
    pub vault_id: &'a str,
    /// Topics that are new lives, though nothing but their logs says so.
    pub reborn: &'a BTreeMap<String, Rebirth>,
}

/// Chooses the topics of the run from the cluster's. `goes_on`: there may be none yet.
pub fn choose(layout: &Layout, selection: &Selection, goes_on: bool) -> Result<Vec<Topic>, EngineError> {
    let there = layout.topics.values().filter(|topic| topic.error != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let there = there.map(|topic| (&*topic.name, topic.internal));
    let names = match selection.choose(there.clone(), "in the cluster") {
        Err(error) if goes_on => {
            tracing::warn!("{error}: what matches is backed up as soon as it is there");
            let covered = there.filter(|(name, internal)| selection.covers(name, *internal));
            covered.map(|(name, _)| name.to_owned()).collect()
        }
        names => names?,
    };
    if !goes_on && names.is_empty() && !selection.exclude.is_empty() && !layout.topics.is_empty() {
        return Err(EngineError::Refused("nothing is left to back up: every topic is excluded".into()));
    }
    Ok(names.iter().filter_map(|name| layout.topics.get(name.as_str())).cloned().collect())
}

impl Plan {
    /// A plan that knows no more than what may not be read.
    pub fn rights(&self) -> Self {
        let (issues, unread, closed) = (self.issues.clone(), self.unread.clone(), self.closed.clone());
        Self { issues, unread, closed, ..Self::default() }
    }

    /// Notes the chosen topics: new ones, changed ones, new lives of old names, and those that are gone.
    pub fn catalog(&mut self, basis: &Basis<'_>, selection: &Selection, chosen: &[Topic]) {
        let state = basis.state;
        let told: BTreeSet<String> = self.issues.iter().filter_map(|issue| issue.topic.clone()).collect();
        for topic in chosen {
            if topic.partitions.is_empty() {
                self.is_blind = true;
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
            let row = topic_row(basis, topic);
            let known = state.topics.get(&row.topic);
            if known.is_none() && row.incarnation > 0 {
                self.note_birth(&row, basis.reborn.get(&row.name));
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

    fn note_birth(&mut self, row: &TopicRow, rebirth: Option<&Rebirth>) {
        let name = &row.name;
        let Some(Rebirth { why, or_truncated }) = rebirth else {
            let note = format!("topic {name} was deleted and created again: stored as a new incarnation");
            return self.notes.push(note);
        };
        if *or_truncated {
            let message = format!(
                "topic {name} was truncated (an unclean leader election) or deleted and created again, which a cluster without topic ids does not tell: {why}; it is stored as a new incarnation"
            );
            let issue = Issue::new("truncated", Severity::Missing, message).topic(name);
            self.issues
                .push(issue.hint("what was backed up before stays in the vault as the earlier incarnation"));
        } else {
            self.notes.push(format!(
                "topic {name} seems to have been deleted and created again, a guess as the cluster has no topic ids ({why}): stored as a new incarnation"
            ));
        }
    }
}

/// The vault's row for a topic as it is now. A topic that had no id when it was backed up is taken for the same when it has one, as after an upgrade of the
/// brokers, and the other way round, unless its log speaks against it.
fn topic_row(basis: &Basis<'_>, topic: &Topic) -> TopicRow {
    let lives = basis.state.lives(&topic.name);
    let nameless = topic.id == NO_TOPIC_ID;
    let same = lives.iter().find(|life| life.topic == topic.id).map(|life| life.incarnation);
    let taken_for = lives.first().filter(|newest| nameless || (newest.synthetic && same.is_none()));
    let next = lives.first().map_or(0, |newest| newest.incarnation + 1);
    let (id, incarnation) = match taken_for {
        Some(newest) if !basis.reborn.contains_key(&*topic.name) => (newest.topic, newest.incarnation),
        _ if nameless => (synthetic_id(basis.vault_id, &topic.name, next), next),
        _ => (topic.id, same.unwrap_or(next)),
    };
    TopicRow {
        topic: id,
        name: topic.name.to_string(),
        present: true,
        partitions: topic.partitions.len() as u32,
        replication: topic.partitions.first().map_or(0, |partition| partition.replicas.len() as u16),
        internal: topic.internal,
        synthetic: id != topic.id,
        incarnation,
    }
}

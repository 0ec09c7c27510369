//! The snapshot of consumer groups: committed offsets of the run's topics, raw, taken before the run's ends are fixed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bodley_io::kafka::groups::{GroupOffsets, Listed};
use bodley_io::kafka::rights::Operation;
use bodley_io::kafka::{Cluster, KafkaError};
use bodley_protocol::TopicId;

use crate::error::{EngineError, Severity};
use crate::report::Issue;
use crate::vault::now_ms;
use crate::vault::rows::{GroupRow, TopicRow};
use crate::vault::state::{GroupTopic, State};

/// Group and topic.
type Pair = (String, TopicId);

/// What a snapshot found.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Rows for pairs of group and topic that changed.
    pub rows: Vec<GroupRow>,
    /// Groups with offsets in the run's topics.
    pub groups: u64,
    /// Groups that could not be read.
    pub issues: Vec<Issue>,
}

impl Snapshot {
    fn unreadable(&mut self, message: String) {
        self.issues.push(Issue::new("group_unreadable", Severity::Failed, message));
    }

    /// Groups that are not to be seen any more have no offsets any more, unless they are only out of sight.
    async fn note_gone(&mut self, cluster: &Cluster, gone: Vec<(&Pair, &GroupTopic)>) {
        let names: BTreeSet<String> = gone.iter().map(|((group, _), _)| group.clone()).collect();
        let hidden = match hidden(cluster, &names).await {
            Ok(hidden) => hidden,
            Err(error) => {
                return self.unreadable(format!("groups that seem gone may only be out of sight: {error}"));
            }
        };
        for group in &hidden {
            self.unreadable(format!(
                "group {group} is not to be seen any more: the right Describe on it is missing; what the vault has of it stays"
            ));
        }
        let gone = gone.into_iter().filter(|((group, _), _)| !hidden.contains(group));
        self.rows.extend(gone.map(|(_, pair)| GroupRow {
            present: false,
            taken: now_ms(),
            ..pair.header.clone()
        }));
    }
}

/// Reads all groups and compares them with the vault's.
pub async fn snapshot(
    cluster: &Cluster,
    state: &State,
    topics: &BTreeMap<TopicId, TopicRow>,
) -> Result<Snapshot, EngineError> {
    // Of a topic that was made anew, the newest.
    let mut lives: Vec<&TopicRow> = topics.values().collect();
    lives.sort_by_key(|topic| topic.incarnation);
    let by_name: HashMap<&str, TopicId> =
        lives.iter().map(|topic| (topic.name.as_str(), topic.topic)).collect();
    let mut snapshot = Snapshot::default();
    let mut seen: BTreeSet<Pair> = BTreeSet::new();
    let (listed, errors) = cluster.list_groups().await;
    let (complete, total) = (errors.is_empty(), listed.len());
    for error in errors {
        snapshot.unreadable(format!("the consumer groups of a broker could not be listed: {error}"));
    }
    let mut patience =
        Patience { given_up: 0, last_good: Instant::now(), limit: cluster.options().give_up_after };
    for (at, listed) in listed.iter().enumerate() {
        if patience.is_over() {
            snapshot
                .unreadable(format!("no group could be read any more: {} were not asked for", total - at));
            return Ok(snapshot);
        }
        // Share groups keep no offsets of this kind; connect workers and the like have none at all.
        if listed.group.starts_with(crate::restore::GROUP_PREFIX) || listed.kind == "share" {
            continue;
        }
        let offsets = match patience.ask(cluster, &listed.group).await {
            Ok(offsets) => offsets,
            Err(error) => {
                snapshot
                    .unreadable(format!("the offsets of group {} could not be read: {error}", listed.group));
                // What the vault has of it stays.
                seen.extend(state.groups.keys().filter(|(group, _)| *group == listed.group).cloned());
                continue;
            }
        };
        let pairs = pairs(listed, &offsets, &by_name);
        snapshot.groups += u64::from(!pairs.is_empty());
        for (topic, rows) in pairs {
            let key = (listed.group.clone(), topic);
            if !state.groups.get(&key).is_some_and(|known| same(known, &rows)) {
                snapshot.rows.extend(rows);
            }
            seen.insert(key);
        }
    }
    // Who was not seen may be on a broker that did not answer.
    if complete {
        let gone = |(key, pair): &(&Pair, &GroupTopic)| {
            pair.header.present && topics.contains_key(&key.1) && !seen.contains(*key)
        };
        snapshot.note_gone(cluster, state.groups.iter().filter(gone).collect()).await;
    }
    Ok(snapshot)
}

/// Groups of the vault that seem gone and are only out of sight.
async fn hidden(cluster: &Cluster, gone: &BTreeSet<String>) -> Result<BTreeSet<String>, KafkaError> {
    let gone: Vec<String> = gone.iter().cloned().collect();
    let rights = cluster.group_rights(&gone).await?;
    Ok(rights
        .into_iter()
        .filter(|(_, rights)| !rights.allow(Operation::Describe))
        .map(|(group, _)| group)
        .collect())
}

/// One group is waited for as long as anything else. A cluster that does that to group after group would hold the run up for
/// ever: after some, the others are asked once each, and that not for ever either.
struct Patience {
    given_up: usize,
    last_good: Instant,
    limit: Duration,
}

impl Patience {
    const GROUPS: usize = 3;

    async fn ask(&mut self, cluster: &Cluster, group: &str) -> Result<GroupOffsets, KafkaError> {
        let result = match self.given_up >= Self::GROUPS {
            true => cluster.group_offsets_once(group).await,
            false => cluster.group_offsets(group).await,
        };
        match &result {
            Ok(_) => self.last_good = Instant::now(),
            Err(KafkaError::GaveUp { .. }) => self.given_up += 1,
            Err(_) => {}
        }
        result
    }

    fn is_over(&self) -> bool {
        let limit = self.limit.saturating_mul(2 * Self::GROUPS as u32 + 1);
        self.given_up >= Self::GROUPS && self.last_good.elapsed() > limit
    }
}

/// The rows of one group, topic by topic: a header, then its partitions.
fn pairs(
    listed: &Listed,
    offsets: &GroupOffsets,
    by_name: &HashMap<&str, TopicId>,
) -> BTreeMap<TopicId, Vec<GroupRow>> {
    let mut pairs: BTreeMap<TopicId, Vec<GroupRow>> = BTreeMap::new();
    for (tp, committed) in &offsets.offsets {
        let Some(topic) = by_name.get(&*tp.topic) else { continue };
        let header = || GroupRow {
            group: listed.group.clone(),
            topic: *topic,
            partition: -1,
            present: true,
            kind: listed.kind.clone(),
            protocol_type: listed.protocol_type.clone(),
            unstable: offsets.unstable,
            taken: now_ms(),
            offset: -1,
            leader_epoch: -1,
            metadata: None,
        };
        let rows = pairs.entry(*topic).or_insert_with(|| vec![header()]);
        rows.push(GroupRow {
            partition: tp.partition,
            kind: String::new(),
            protocol_type: String::new(),
            unstable: false,
            taken: 0,
            offset: committed.offset,
            leader_epoch: committed.leader_epoch,
            metadata: committed.metadata.clone(),
            ..header()
        });
    }
    pairs
}

/// The vault already says so; when it was read does not matter.
fn same(known: &GroupTopic, rows: &[GroupRow]) -> bool {
    let Some((header, offsets)) = rows.split_first() else { return false };
    let header = GroupRow { taken: known.header.taken, ..header.clone() };
    known.header == header && known.offsets.values().eq(offsets)
}

//! What the target has of a plan's topics: nothing, empty topics, what an earlier run of this restore left, or somebody else's data.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bodley_io::kafka::offsets::End;
use bodley_io::kafka::topics::Configs;
use bodley_io::kafka::{Cluster, Layout, TopicPartition};
use bodley_protocol::batch;

use super::ledger::Entries;
use super::outgo::Source;
use super::plan::{Plan, Status, TopicPlan};
use super::scan;
use super::settings::Mark;
use crate::error::EngineError;

/// Where logs begin and end, by partition.
#[derive(Debug, Default)]
struct Ends(HashMap<TopicPartition, (i64, i64)>);

/// What is known before the target is looked at.
pub struct Look<'a> {
    /// The target.
    pub cluster: &'a Arc<Cluster>,
    /// Its layout.
    pub layout: &'a Layout,
    /// What an earlier run has left.
    pub entries: &'a Entries,
    /// The vault.
    pub source: &'a Source,
    /// Topics with data are added to.
    pub append: bool,
}

/// Looks at the topics that are there already: they must be empty and large enough, or this restore's own.
pub async fn check_target(
    look: &Look<'_>,
    plan: &mut Plan,
    conflicts: &mut Vec<String>,
) -> Result<(), EngineError> {
    let mut parts = Vec::new();
    let mut present = Vec::new();
    for topic in &mut plan.topics {
        let Some(found) = look.layout.topics.get(&topic.target) else { continue };
        present.push(Arc::clone(&topic.target));
        let wanted = topic.source.partitions as usize;
        if found.partitions.len() < wanted {
            let there = found.partitions.len();
            conflicts.push(format!(
                "topic {} has {there} partitions at the target, {wanted} are needed",
                topic.target
            ));
        }
        parts.extend(
            found.partitions.iter().map(|partition| TopicPartition::new(&topic.target, partition.index)),
        );
    }
    if present.is_empty() {
        return Ok(());
    }
    let ends = Ends::of(look.cluster, &parts).await?;
    let configs = look.cluster.describe_configs(&present).await?;
    for topic in plan.topics.iter_mut().filter(|topic| present.contains(&topic.target)) {
        let own = configs.get(&topic.target).cloned().unwrap_or_default();
        let judged = judge(topic, &own, &ends, look);
        for partition in &mut topic.partitions {
            partition.base = ends.0.get(&partition.tp).map_or(0, |(_, end)| *end);
        }
        topic.status = match judged {
            Ok(status) => status,
            Err(Conflict::Other(what)) => {
                conflicts.push(what);
                continue;
            }
            Err(Conflict::HoldsData(what)) => {
                if !is_restored(look, topic).await? {
                    conflicts.push(what);
                    continue;
                }
                plan.notes.push(format!("topic {} holds these very records already", topic.target));
                Status::Done
            }
        };
    }
    Ok(())
}

/// Whether the topic holds what a complete restore of it leaves: compares count and last batch of each partition.
async fn is_restored(look: &Look<'_>, topic: &TopicPlan) -> Result<bool, EngineError> {
    // The very topic that was backed up is no restored one.
    if look.layout.topics.get(&topic.target).is_some_and(|found| found.id == topic.source.topic) {
        return Ok(false);
    }
    let mut tails = Vec::new();
    let mut expected = HashMap::new();
    for partition in &topic.partitions {
        let outcome = scan::outcome(look.source, &partition.tp, &partition.work).await?;
        if outcome.records != partition.base {
            return Ok(false);
        }
        if outcome.records > 0 {
            tails.push((partition.tp.clone(), outcome.records - 1));
            expected.insert(partition.tp.clone(), outcome.last);
        }
    }
    let found = look.cluster.peek(&tails, usize::MAX).await?;
    Ok(expected.into_iter().all(|(tp, last)| {
        let Some(Ok(tail)) = found.get(&tp) else { return false };
        let size = batch::declared_size(&tail.bytes).unwrap_or(usize::MAX);
        tail.bytes.get(..size).and_then(scan::bare).is_some_and(|bare| bare == last)
    }))
}

enum Conflict {
    /// Data of which no state tells.
    HoldsData(String),
    /// Anything else.
    Other(String),
}

impl Ends {
    async fn of(cluster: &Arc<Cluster>, parts: &[TopicPartition]) -> Result<Self, EngineError> {
        let starts = cluster.list_offsets(parts, End::Earliest).await?;
        let ends = cluster.list_offsets(parts, End::HighWatermark).await?;
        if let Some((_, error)) = starts.failed.into_iter().chain(ends.failed).next() {
            return Err(error.into());
        }
        let both = ends.found.into_iter().map(|(tp, end)| {
            let start = starts.found.get(&tp).map_or(0, |start| start.offset);
            (tp, (start, end.offset))
        });
        Ok(Self(both.collect()))
    }

    /// A partition that holds data and has no state.
    fn unknown<'a>(&self, topic: &'a TopicPlan) -> Option<&'a TopicPartition> {
        let holds = |tp: &TopicPartition| self.0.get(tp).is_some_and(|(start, end)| end > start);
        topic.partitions.iter().find(|p| p.stand.is_none() && holds(&p.tp)).map(|p| &p.tp)
    }

    /// Offsets that a topic holds.
    fn held(&self, topic: &str) -> i64 {
        let of_topic = self.0.iter().filter(|(tp, _)| *tp.topic == *topic);
        of_topic.fold(0, |sum: i64, (_, (start, end))| sum.saturating_add(end.saturating_sub(*start).max(0)))
    }
}

/// How a topic that is there stands, and its settings with it.
fn judge(topic: &mut TopicPlan, own: &Configs, ends: &Ends, look: &Look<'_>) -> Result<Status, Conflict> {
    let name = Arc::clone(&topic.target);
    let ours: BTreeMap<_, _> = look.entries.iter().filter(|(tp, _)| tp.topic == name).collect();
    if let Some(entry) = ours.values().next() {
        for partition in &mut topic.partitions {
            partition.stand = ours.get(&partition.tp).map(|entry| entry.stand());
        }
        let is_done = |tp| ours.get(tp).is_some_and(|entry| entry.meta.done.is_some());
        if topic.partitions.iter().all(|partition| is_done(&partition.tp)) {
            return Ok(Status::Done);
        }
        if entry.meta.in_use {
            topic.settings.leave_alone();
            return Ok(Status::InUse);
        }
        if let Some(tp) = ends.unknown(topic) {
            return Err(Conflict::Other(format!("{tp} holds data that is not this restore's")));
        }
        if entry.meta.created {
            return Ok(Status::Created);
        }
        topic.settings.keep_targets_own(own, Some(&entry.meta.old));
        return Ok(Status::Found);
    }
    let held = ends.held(&name);
    match (held, Mark::of(own)) {
        (0, Mark::Created) => Ok(Status::Created),
        (0, Mark::None) => {
            topic.settings.keep_targets_own(own, None);
            Ok(Status::Found)
        }
        (1.., Mark::None) if look.append => {
            topic.settings.leave_alone();
            Ok(Status::InUse)
        }
        (_, Mark::None) => Err(Conflict::HoldsData(format!(
            "topic {name} holds data at the target ({held} offsets): delete it, restore under another name with --rename, or add to it with --append"
        ))),
        _ => Err(Conflict::Other(format!(
            "topic {name} belongs to another restore that was cut ({held} offsets), or its state is gone: run that one again with the same flags, --restore-id or --state, or delete the topic"
        ))),
    }
}

//! What the target has of a plan's topics: nothing, empty topics, what an earlier run of this restore left, or somebody else's data.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bodley_io::kafka::offsets::End;
use bodley_io::kafka::topics::Configs;
use bodley_io::kafka::{Cluster, Layout, TopicPartition};

use super::ledger::Entries;
use super::plan::{Plan, Status, TopicPlan};
use super::settings::Mark;
use crate::error::EngineError;

/// Where logs begin and end, by partition.
#[derive(Debug, Default)]
struct Ends(HashMap<TopicPartition, (i64, i64)>);

/// Looks at the topics that are there already: they must be empty and large enough, or this restore's own.
pub async fn check_target(
    cluster: &Arc<Cluster>,
    layout: &Layout,
    plan: &mut Plan,
    append: bool,
    entries: &Entries,
    conflicts: &mut Vec<String>,
) -> Result<(), EngineError> {
    let mut parts = Vec::new();
    let mut present = Vec::new();
    for topic in &mut plan.topics {
        let Some(found) = layout.topics.get(&topic.target) else { continue };
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
    let ends = Ends::of(cluster, &parts).await?;
    let configs = cluster.describe_configs(&present).await?;
    for topic in plan.topics.iter_mut().filter(|topic| present.contains(&topic.target)) {
        let own = configs.get(&topic.target).cloned().unwrap_or_default();
        match judge(topic, &own, &ends, entries, append) {
            Ok(status) => topic.status = status,
            Err(conflict) => conflicts.push(conflict),
        }
        for partition in &mut topic.partitions {
            partition.base = ends.0.get(&partition.tp).map_or(0, |(_, end)| *end);
        }
    }
    Ok(())
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

    /// Offsets that a topic holds.
    fn held(&self, topic: &str) -> i64 {
        let of_topic = self.0.iter().filter(|(tp, _)| *tp.topic == *topic);
        of_topic.map(|(_, (start, end))| (end - start).max(0)).sum()
    }
}

/// How a topic that is there stands, and its settings with it; an error is a conflict in words.
fn judge(
    topic: &mut TopicPlan,
    own: &Configs,
    ends: &Ends,
    entries: &Entries,
    append: bool,
) -> Result<Status, String> {
    let mark = Mark::of(own);
    let name = Arc::clone(&topic.target);
    let ours: BTreeMap<_, _> = entries.iter().filter(|(tp, _)| tp.topic == name).collect();
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
        if entry.meta.created {
            return Ok(Status::Created);
        }
        topic.settings.keep_targets_own(own, Some(&entry.meta.old));
        return Ok(Status::Found);
    }
    let held = ends.held(&name);
    match (held, mark) {
        (0, Mark::Created) => Ok(Status::Created),
        (0, Mark::None) => {
            topic.settings.keep_targets_own(own, None);
            Ok(Status::Found)
        }
        (1.., Mark::None) if append => {
            topic.settings.leave_alone();
            Ok(Status::InUse)
        }
        (_, Mark::None) => Err(format!(
            "topic {name} holds data at the target ({held} offsets): delete it, restore under another name with --rename, or add to it with --append"
        )),
        _ => Err(format!(
            "topic {name} belongs to another restore that was cut ({held} offsets; or its state is gone): run that one again with the same flags, --restore-id or --state, or delete the topic"
        )),
    }
}

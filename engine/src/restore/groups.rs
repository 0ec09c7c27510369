//! Consumer groups on the way back: each position becomes that of the record which it would have read next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodley_io::kafka::groups::NewOffset;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_protocol::ErrorCode;

use super::plan::{Plan, Position, Status};
use super::{GroupStrategy, RestoreOptions};
use crate::error::{EngineError, Severity};
use crate::report::{Issue, Report};
use crate::select::Pick;
use crate::vault::state::State;

/// Offsets in a hint.
const SHOWN: usize = 1000;

/// Translated positions: by target partition, source offset to target offset.
pub type Positions = HashMap<TopicPartition, BTreeMap<i64, i64>>;

/// Groups whose positions a plan sets.
pub fn names(state: &State, options: &RestoreOptions, plan: &Plan) -> BTreeSet<String> {
    if options.groups == GroupStrategy::None {
        return BTreeSet::new();
    }
    let topics: BTreeSet<_> = plan.topics.iter().map(|topic| topic.source.topic).collect();
    let present = state.groups.iter().filter(|((_, id), pair)| pair.header.present && topics.contains(id));
    let names = present.map(|((group, _), _)| group).filter(|group| options.pick_groups.covers(group));
    names.cloned().collect()
}

/// A group that is named must be in the vault.
pub fn check_names(state: &State, options: &RestoreOptions) -> Result<(), EngineError> {
    let pick = &options.pick_groups;
    if options.groups == GroupStrategy::None && *pick != Pick::default() {
        return Err(EngineError::Refused("--group and --exclude-group don't go with --groups none".into()));
    }
    let present =
        state.groups.iter().filter(|(_, pair)| pair.header.present).map(|((group, _), _)| group.as_str());
    pick.choose(present, "consumer group", "in the vault").map(drop)
}

/// Notes the positions of groups in the plan's topics, to be translated while records pass by.
pub fn mark(state: &State, options: &RestoreOptions, plan: &mut Plan) {
    if options.groups == GroupStrategy::None {
        return;
    }
    for topic in plan.topics.iter_mut().filter(|topic| topic.status != Status::Done) {
        let of_topic = state.groups.iter().filter(|((group, id), pair)| {
            *id == topic.source.topic && pair.header.present && options.pick_groups.covers(group)
        });
        for ((group, _), pair) in of_topic {
            for row in pair.offsets.values() {
                let tp = TopicPartition::new(&topic.target, row.partition);
                // They are in the order of their numbers.
                let at = topic.partitions.binary_search_by_key(&row.partition, |p| p.tp.partition);
                if let Some(partition) = at.ok().and_then(|at| topic.partitions.get_mut(at)) {
                    if options.groups == GroupStrategy::Map {
                        partition.work.marks.push(row.offset);
                    }
                    let (group, metadata) = (group.clone(), row.metadata.clone());
                    topic.positions.push(Position { group, tp, offset: row.offset, metadata });
                }
            }
        }
        for partition in &mut topic.partitions {
            partition.work.marks.sort_unstable();
            partition.work.marks.dedup();
        }
    }
}

/// What is to be committed.
pub struct Wanted {
    /// Positions at the source.
    pub positions: Vec<Position>,
    /// Topics that held data before: who reads them goes on as it stands.
    pub in_use: BTreeSet<Arc<str>>,
}

/// Commits the translated positions, group by group. A group with live members is left alone and named.
pub async fn commit(cluster: &Arc<Cluster>, wanted: Wanted, positions: &Positions, report: &mut Report) {
    let mut by_group: BTreeMap<&str, Vec<NewOffset>> = BTreeMap::new();
    for position in &wanted.positions {
        let target = positions.get(&position.tp).and_then(|of| of.get(&position.offset));
        if let Some(offset) = target {
            let new =
                NewOffset { tp: position.tp.clone(), offset: *offset, metadata: position.metadata.clone() };
            by_group.entry(&position.group).or_default().push(new);
        }
    }
    for (group, mut offsets) in by_group {
        if let Err(error) = leave_readers(cluster, group, &mut offsets, &wanted.in_use, report).await {
            report.errors.push(refused(group, &offsets, &error));
            continue;
        }
        if offsets.is_empty() {
            continue;
        }
        match cluster.commit_group_offsets(group, &offsets).await {
            Ok(()) => report.groups += 1,
            Err(error) => report.errors.push(refused(group, &offsets, &error)),
        }
    }
    if report.groups > 0 {
        report.notes.push("restored group offsets expire after the target's offsets.retention.minutes (7 days by default) unless the groups are used".into());
    }
}

/// Takes out what a group has a position for in a topic that is in use: it has not read yet what was there before.
async fn leave_readers(
    cluster: &Cluster,
    group: &str,
    offsets: &mut Vec<NewOffset>,
    in_use: &BTreeSet<Arc<str>>,
    report: &mut Report,
) -> Result<(), KafkaError> {
    if !offsets.iter().any(|new| in_use.contains(&new.tp.topic)) {
        return Ok(());
    }
    let there = cluster.group_offsets(group).await?.offsets;
    let before = offsets.len();
    offsets.retain(|new| !(in_use.contains(&new.tp.topic) && there.contains_key(&new.tp)));
    if offsets.len() < before {
        report.notes.push(format!(
            "group {group} keeps its {} positions in topics that were in use",
            before - offsets.len()
        ));
    }
    Ok(())
}

fn refused(group: &str, offsets: &[NewOffset], error: &KafkaError) -> Issue {
    let shown =
        offsets.iter().take(SHOWN).map(|new| format!("{}:{}={}", new.tp.topic, new.tp.partition, new.offset));
    let more = if offsets.len() > SHOWN { ", …" } else { "" };
    let offsets = format!("{}{more}", shown.collect::<Vec<_>>().join(", "));
    let code = error.code();
    let message = match code == Some(ErrorCode::UNKNOWN_MEMBER_ID) {
        true => format!("group {group} has live members at the target: its offsets were not restored"),
        false => format!("the offsets of group {group} were not restored: {error}"),
    };
    let for_good = [ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::GROUP_AUTHORIZATION_FAILED];
    if !code.is_some_and(|code| for_good.contains(&code)) {
        return Issue::new("group_refused", Severity::Failed, message)
            .hint("run the same command again: it goes on with the groups");
    }
    Issue::new("group_refused", Severity::Missing, message)
        .hint(format!("stop its consumers, then set its offsets with Kafka's tools to {offsets}"))
}

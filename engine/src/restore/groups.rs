//! Consumer groups on the way back: each position becomes that of the record which it would have read next.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bodley_io::kafka::groups::NewOffset;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_protocol::ErrorCode;

use super::plan::{Plan, Position, Status};
use super::{GroupStrategy, RestoreOptions};
use crate::error::Severity;
use crate::report::{Issue, Report};
use crate::vault::state::State;

/// Offsets in a hint.
const SHOWN: usize = 50;
const UNKNOWN_MEMBER_ID: ErrorCode = ErrorCode(25);

/// Translated positions: by target partition, source offset to target offset.
pub type Positions = HashMap<TopicPartition, BTreeMap<i64, i64>>;

/// Notes the positions of all groups in the plan's topics, to be translated while records pass by.
pub fn mark(state: &State, options: &RestoreOptions, plan: &mut Plan) {
    if options.groups == GroupStrategy::None {
        return;
    }
    for topic in plan.topics.iter_mut().filter(|topic| topic.status != Status::Done) {
        let of_topic =
            state.groups.iter().filter(|((_, id), pair)| *id == topic.source.topic && pair.header.present);
        for ((group, _), pair) in of_topic {
            for row in pair.offsets.values() {
                let tp = TopicPartition::new(&topic.target, row.partition);
                if let Some(partition) = topic.partitions.iter_mut().find(|partition| partition.tp == tp) {
                    partition.work.marks.push(row.offset);
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

/// Commits the translated positions, group by group. A group with live members is left alone and named.
pub async fn commit(cluster: &Arc<Cluster>, wanted: &[Position], positions: &Positions, report: &mut Report) {
    let mut by_group: BTreeMap<&str, Vec<NewOffset>> = BTreeMap::new();
    for position in wanted {
        let target = positions.get(&position.tp).and_then(|of| of.get(&position.offset));
        if let Some(offset) = target {
            let new =
                NewOffset { tp: position.tp.clone(), offset: *offset, metadata: position.metadata.clone() };
            by_group.entry(&position.group).or_default().push(new);
        }
    }
    for (group, offsets) in by_group {
        match cluster.commit_group_offsets(group, &offsets).await {
            Ok(()) => report.groups += 1,
            Err(error) => report.errors.push(refused(group, &offsets, &error)),
        }
    }
    if report.groups > 0 {
        report.notes.push("restored group offsets expire after the target's offsets.retention.minutes (7 days by default) unless the groups are used".into());
    }
}

fn refused(group: &str, offsets: &[NewOffset], error: &KafkaError) -> Issue {
    let shown =
        offsets.iter().take(SHOWN).map(|new| format!("{}:{}={}", new.tp.topic, new.tp.partition, new.offset));
    let more = if offsets.len() > SHOWN { ", …" } else { "" };
    let offsets = format!("{}{more}", shown.collect::<Vec<_>>().join(", "));
    let message = match error.code() == Some(UNKNOWN_MEMBER_ID) {
        true => format!("group {group} has live members at the target: its offsets were not restored"),
        false => format!("the offsets of group {group} were not restored: {error}"),
    };
    Issue::new("group_refused", Severity::Missing, message)
        .hint(format!("stop its consumers, then set its offsets with Kafka's tools to {offsets}"))
}

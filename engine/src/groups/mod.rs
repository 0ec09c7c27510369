//! Positions of consumer groups: what a vault holds of them, what a cluster has, what differs, and setting them, with a way back.

mod apply;
mod csv;
mod diff;
mod headers;
mod history;
mod reset;
mod rollback;
mod saved;
mod settle;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_io::kafka::groups::{Committed, Listed};
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_protocol::ErrorCode;
use serde::Serialize;

use crate::error::{EngineError, Severity};
use crate::report::Issue;
use crate::restore::GROUP_PREFIX;
use crate::select::Pick;

pub use apply::{Plan, Planned};
pub use csv::{FileRow, csv, parse_csv};
pub use diff::{Difference, Differences, With, diff};
pub use history::{Changed, History, history};
pub use reset::{Aim, ResetOptions, Source, plan_reset};
pub use rollback::plan_rollback;
pub use saved::Saved;
pub use snapshot::{Snapshot, SnapshotRow, snapshot};

/// Where a group goes on in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Next offset that it reads.
    pub offset: i64,
    /// The client's own words.
    pub metadata: Option<String>,
}

impl From<&Committed> for Position {
    fn from(committed: &Committed) -> Self {
        let metadata = committed.metadata.clone().filter(|metadata| !metadata.is_empty());
        Self { offset: committed.offset, metadata }
    }
}

/// Positions by group and partition.
pub type Positions = BTreeMap<String, BTreeMap<TopicPartition, Position>>;

/// Which groups, and in which topics.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Groups.
    pub groups: Pick,
    /// Topics.
    pub topics: Pick,
}

/// What a cluster has.
#[derive(Debug, Default)]
struct Held {
    positions: Positions,
    /// Groups that could not be read.
    issues: Vec<Issue>,
}

/// Groups of a cluster whose offsets are of this kind. Our own and those that share partitions are not.
async fn groups_of(cluster: &Cluster) -> Result<Vec<Listed>, EngineError> {
    let (mut listed, errors) = cluster.list_groups().await;
    if let Some(error) = errors.into_iter().next() {
        return Err(error.into());
    }
    listed.retain(|listed| !listed.group.starts_with(GROUP_PREFIX) && listed.kind != "share");
    Ok(listed)
}

/// The positions of some groups at a cluster, be they there or not.
async fn held(cluster: &Arc<Cluster>, groups: &BTreeSet<String>) -> Held {
    let groups: Vec<String> = groups.iter().cloned().collect();
    let mut held = Held::default();
    for (group, read) in cluster.groups_offsets(&groups).await {
        match read {
            Ok(read) => {
                let positions = read.offsets.iter().map(|(tp, committed)| (tp.clone(), committed.into()));
                held.positions.insert(group, positions.collect());
            }
            Err(error) => held.issues.push(unreadable(&group, &error)),
        }
    }
    held
}

fn unreadable(group: &str, error: &KafkaError) -> Issue {
    let denied = error.code() == Some(ErrorCode::GROUP_AUTHORIZATION_FAILED);
    match denied {
        true => {
            Issue::new("denied", Severity::Failed, format!("the right Describe on group {group} is missing"))
        }
        false => Issue::new(
            "group_unreadable",
            Severity::Failed,
            format!("the offsets of group {group} could not be read: {error}"),
        ),
    }
}

/// An error about a topic of the cluster.
fn of_topic(tp: &TopicPartition, error: KafkaError) -> EngineError {
    match error.code() {
        Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED) => {
            EngineError::Denied(format!("the rights Describe and Read on topic {} are missing", tp.topic))
        }
        _ => error.into(),
    }
}

/// The exit code that errors come to: the worst counts.
pub fn exit_code(errors: &[Issue]) -> u8 {
    errors.iter().map(|issue| issue.severity).max().map_or(0, Severity::exit_code)
}

/// A few names in a line.
fn some_of(names: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

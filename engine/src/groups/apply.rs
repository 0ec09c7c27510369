//! Changes of positions, and carrying them out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bodley_io::kafka::groups::NewOffset;
use bodley_io::kafka::{Cluster, KafkaError, Layout, TopicPartition};
use bodley_protocol::ErrorCode;

use super::{Held, Position, Saved, held};
use crate::error::{EngineError, Severity};
use crate::report::Issue;

/// A position to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Group.
    pub group: String,
    /// Where.
    pub tp: TopicPartition,
    /// What the group has; `None`: nothing.
    pub now: Option<Position>,
    /// What it gets; `None`: what it has is taken away.
    pub new: Option<Position>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// The cluster as it was looked at.
    pub layout: Arc<Layout>,
    /// By group, topic and partition.
    pub changes: Vec<Planned>,
    /// Groups that are left alone, and why.
    pub errors: Vec<Issue>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

impl Plan {
    /// Looks at the groups as they are: those with live members, and those that can't be read, are left alone and named.
    pub(super) async fn of(
        cluster: &Arc<Cluster>,
        wanted: Vec<(String, TopicPartition, Option<Position>)>,
    ) -> Result<Self, EngineError> {
        let groups: BTreeSet<String> = wanted.iter().map(|(group, ..)| group.clone()).collect();
        let live = cluster.live_groups(&groups).await?;
        let Held { positions, mut issues } = held(cluster, &groups).await;
        issues.extend(live.iter().map(|group| in_use(group)));
        let mut changes = Vec::with_capacity(wanted.len());
        for (group, tp, new) in wanted {
            let Some(of_group) = positions.get(&group).filter(|_| !live.contains(&group)) else { continue };
            let now = of_group.get(&tp).cloned();
            changes.push(Planned { group, tp, now, new });
        }
        changes.sort_by(|a, b| (&a.group, &a.tp).cmp(&(&b.group, &b.tp)));
        Ok(Self { layout: cluster.layout(), changes, errors: issues, notes: Vec::new() })
    }

    /// Saves what is about to be replaced to a new file.
    pub fn save(&self, path: &Path) -> Result<(), EngineError> {
        Saved::of(&self.layout, &self.changes).write(path)
    }

    /// Groups that it is about.
    pub fn groups(&self) -> usize {
        self.changes.chunk_by(|a, b| a.group == b.group).count()
    }

    /// Sets the positions. What fails is named among the errors; gives the number of groups that are done.
    pub async fn carry_out(&mut self, cluster: &Arc<Cluster>) -> usize {
        let mut set: BTreeMap<String, Vec<NewOffset>> = BTreeMap::new();
        let mut gone: BTreeMap<String, BTreeSet<TopicPartition>> = BTreeMap::new();
        for change in &self.changes {
            match (&change.new, &change.now) {
                (Some(new), _) => set.entry(change.group.clone()).or_default().push(NewOffset {
                    tp: change.tp.clone(),
                    offset: new.offset,
                    metadata: new.metadata.clone(),
                }),
                (None, Some(_)) => {
                    gone.entry(change.group.clone()).or_default().insert(change.tp.clone());
                }
                (None, None) => {}
            }
        }
        let mut failed: BTreeMap<String, Issue> = BTreeMap::new();
        for (group, done) in cluster.commit_groups(&set).await {
            if let Err(error) = done {
                failed.insert(group.clone(), refused(&group, &error));
            }
        }
        gone.retain(|group, _| !failed.contains_key(group));
        for (group, done) in cluster.delete_offsets(&gone).await {
            if let Err(error) = done {
                failed.insert(group.clone(), refused(&group, &error));
            }
        }
        let done = self.groups() - failed.len();
        self.errors.extend(failed.into_values());
        done
    }
}

fn in_use(group: &str) -> Issue {
    let message = format!("group {group} has live members: its positions stay as they are");
    Issue::new("group_refused", Severity::Missing, message)
        .hint("stop its consumers, wait until they have left, and run the same command again")
}

fn refused(group: &str, error: &KafkaError) -> Issue {
    match error.code() {
        Some(
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::NON_EMPTY_GROUP | ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
        ) => in_use(group),
        Some(ErrorCode::GROUP_AUTHORIZATION_FAILED) => {
            let right = if is_delete(error) { "Delete" } else { "Read" };
            Issue::new("denied", Severity::Failed, format!("the right {right} on group {group} is missing"))
        }
        Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED) => {
            let message = format!("the right Read on a topic of group {group} is missing: {error}");
            Issue::new("denied", Severity::Failed, message)
        }
        _ => {
            let message = format!("the positions of group {group} were not all set: {error}");
            Issue::new("group_refused", Severity::Failed, message).hint("run the same command again")
        }
    }
}

fn is_delete(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Refused { api: "OffsetDelete", .. })
}

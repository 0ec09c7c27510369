//! What differs between two snapshots, or between a snapshot and a cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use bodley_io::kafka::{Cluster, TopicPartition};
use bodley_io::store::SharedStore;
use serde::Serialize;

use super::snapshot::{fold, groups, positions};
use super::{Positions, Wanted, groups_of, held};
use crate::error::EngineError;
use crate::moment::At;
use crate::report::Issue;
use crate::vault::state::State;

/// All that differs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Differences {
    /// The commit that is compared.
    pub seq: u64,
    /// The commit that it is compared with; `None`: a cluster.
    pub with_seq: Option<u64>,
    /// By group, topic and partition.
    pub groups: Vec<Difference>,
    /// Positions that are the same.
    pub same: u64,
    /// Groups that could not be read.
    pub errors: Vec<Issue>,
}

/// A position that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// In the snapshot; `None`: there is none.
    pub old: Option<i64>,
    /// In what it is compared with.
    pub new: Option<i64>,
    /// How much further that is.
    pub difference: Option<i64>,
}

/// What a snapshot is compared with.
pub enum With<'a> {
    /// That of another commit.
    At(At),
    /// What is committed at a cluster, in the topics of the snapshot.
    Cluster(&'a Arc<Cluster>),
}

/// Compares.
pub async fn diff(
    store: SharedStore,
    at: Option<At>,
    with: With<'_>,
    wanted: &Wanted,
) -> Result<Differences, EngineError> {
    let (vault, state) = fold(Arc::clone(&store), at, false).await?;
    wanted.topics.choose(state.newest().keys().copied(), "topic", "in the vault")?;
    let seq = vault.receipt().seq;
    match with {
        With::At(with) => {
            let (other, later) = fold(store, Some(with), false).await?;
            // A group may be in one of them only.
            let there = groups(&state).chain(groups(&later));
            wanted.groups.choose(there, "group", "in the vault")?;
            let with_seq = Some(other.receipt().seq);
            let found = Differences { seq, with_seq, ..Differences::default() };
            Ok(compare(&positions(&state, wanted), &positions(&later, wanted), found))
        }
        With::Cluster(cluster) => with_cluster((seq, &state), cluster, wanted).await,
    }
}

async fn with_cluster(
    (seq, state): (u64, &State),
    cluster: &Arc<Cluster>,
    wanted: &Wanted,
) -> Result<Differences, EngineError> {
    let listed = groups_of(cluster).await?;
    let there = groups(state).chain(listed.iter().map(|listed| listed.group.as_str()));
    let chosen = wanted.groups.choose(there, "group", "in the vault or at the cluster")?;
    let mut held = held(cluster, &chosen).await;
    let topics = state.newest();
    let is_meant = |tp: &TopicPartition| topics.contains_key(&*tp.topic) && wanted.topics.covers(&tp.topic);
    for of_group in held.positions.values_mut() {
        of_group.retain(|tp, _| is_meant(tp));
    }
    let mut old = positions(state, wanted);
    // What could not be read is not gone.
    old.retain(|group, _| held.positions.contains_key(group));
    let found = Differences { seq, errors: held.issues, ..Differences::default() };
    Ok(compare(&old, &held.positions, found))
}

fn compare(old: &Positions, new: &Positions, mut found: Differences) -> Differences {
    let keys = |positions: &'_ Positions| -> BTreeSet<(String, TopicPartition)> {
        let all = positions.iter().flat_map(|(group, of)| of.keys().map(|tp| (group.clone(), tp.clone())));
        all.collect()
    };
    for (group, tp) in keys(old).union(&keys(new)) {
        let of = |positions: &Positions| Some(positions.get(group)?.get(tp)?.offset);
        let (old, new) = (of(old), of(new));
        if old == new {
            found.same += 1;
            continue;
        }
        found.groups.push(Difference {
            group: group.clone(),
            topic: tp.topic.to_string(),
            partition: tp.partition,
            old,
            new,
            difference: old.zip(new).map(|(old, new)| new.saturating_sub(old)),
        });
    }
    found
}

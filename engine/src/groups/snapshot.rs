//! What a vault holds of consumer groups, as of one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use bodley_io::kafka::TopicPartition;
use bodley_io::store::SharedStore;
use serde::Serialize;

use super::{Position, Positions, Wanted};
use crate::error::EngineError;
use crate::inventory::open_at;
use crate::moment::At;
use crate::vault::log::Vault;
use crate::vault::state::State;

/// Positions as a commit left them.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// Where the vault was made from the remains of another: that one's id, or `unknown`.
    pub rebuilt_from: Option<String>,
    /// The cluster whose groups these are.
    pub cluster_id: String,
    /// The commit.
    pub seq: u64,
    /// Its time, ms.
    pub committed: i64,
    /// By group, topic and partition.
    pub groups: Vec<SnapshotRow>,
}

/// A position in a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotRow {
    /// Group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Next offset that the group would read.
    pub offset: i64,
    /// The client's own words.
    pub metadata: Option<String>,
    /// When it was read, ms.
    pub taken: i64,
    /// Read while a transactional commit was pending.
    pub unstable: bool,
}

impl Snapshot {
    /// By group and partition.
    pub fn positions(&self) -> Positions {
        by_group(&self.groups)
    }
}

/// The positions that a vault holds, of topics that were deleted and created again those of the newest life.
pub async fn snapshot(store: SharedStore, at: Option<At>, wanted: &Wanted) -> Result<Snapshot, EngineError> {
    let (vault, state) = fold(store, at, false).await?;
    of_state(&vault, &state, wanted)
}

/// Opens a vault as it was.
pub(super) async fn fold(
    store: SharedStore,
    at: Option<At>,
    keep_ranges: bool,
) -> Result<(Vault, State), EngineError> {
    let mut vault = open_at(store, at).await?;
    let state = vault.fold(keep_ranges).await?;
    Ok((vault, state))
}

/// The snapshot of `state`, which is that of `vault`.
pub(super) fn of_state(vault: &Vault, state: &State, wanted: &Wanted) -> Result<Snapshot, EngineError> {
    wanted.groups.choose(groups(state), "group", "in the vault")?;
    wanted.topics.choose(state.newest().keys().copied(), "topic", "in the vault")?;
    Ok(Snapshot {
        rebuilt_from: vault.identity().rebuilt_from.clone(),
        cluster_id: vault.identity().cluster_id.clone(),
        seq: vault.receipt().seq,
        committed: vault.head_time(),
        groups: rows(state, wanted),
    })
}

/// Names of groups that have positions.
pub(super) fn groups(state: &State) -> impl Iterator<Item = &str> + Clone {
    let present = state.groups.iter().filter(|(_, pair)| pair.header.present && !pair.offsets.is_empty());
    present.map(|((group, _), _)| group.as_str())
}

/// Positions in the newest life of each topic.
fn rows(state: &State, wanted: &Wanted) -> Vec<SnapshotRow> {
    let newest = state.newest();
    let mut rows = Vec::new();
    for ((group, id), pair) in state.groups.iter().filter(|(_, pair)| pair.header.present) {
        let Some(topic) = state.topics.get(id) else { continue };
        let is_newest = newest.get(topic.name.as_str()).is_some_and(|row| row.topic == *id);
        if !is_newest || !wanted.topics.covers(&topic.name) || !wanted.groups.covers(group) {
            continue;
        }
        rows.extend(pair.offsets.values().map(|row| SnapshotRow {
            group: group.clone(),
            topic: topic.name.clone(),
            partition: row.partition,
            offset: row.offset,
            metadata: row.metadata.clone().filter(|metadata| !metadata.is_empty()),
            taken: pair.header.taken,
            unstable: pair.header.unstable,
        }));
    }
    rows.sort_by(|a, b| (&a.group, &a.topic, a.partition).cmp(&(&b.group, &b.topic, b.partition)));
    rows
}

/// The same by group and partition.
pub(super) fn positions(state: &State, wanted: &Wanted) -> Positions {
    by_group(&rows(state, wanted))
}

fn by_group(rows: &[SnapshotRow]) -> Positions {
    let mut topics: BTreeMap<&str, Arc<str>> = BTreeMap::new();
    let mut positions = Positions::new();
    for row in rows {
        let topic = topics.entry(&row.topic).or_insert_with(|| Arc::from(row.topic.as_str()));
        let position = Position { offset: row.offset, metadata: row.metadata.clone() };
        let of_group = positions.entry(row.group.clone()).or_default();
        of_group.insert(TopicPartition::new(topic, row.partition), position);
    }
    positions
}

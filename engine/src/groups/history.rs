//! How the positions in a vault came to be: commit by commit.

use std::collections::{BTreeMap, BTreeSet};

use bodley_io::store::SharedStore;
use bodley_protocol::TopicId;
use serde::Serialize;

use super::Wanted;
use crate::error::EngineError;
use crate::moment::At;
use crate::vault::hex;
use crate::vault::log::Vault;
use crate::vault::now_ms;
use crate::vault::reading::{Entry, LogReader, decode_table};
use crate::vault::rows::GroupRow;

/// All changes, oldest first.
#[derive(Debug, Clone, Serialize)]
pub struct History {
    /// Where the vault was made from the remains of another: that one's id, or `unknown`.
    pub rebuilt_from: Option<String>,
    /// By commit, group, topic and partition.
    pub changes: Vec<Changed>,
}

/// A position that a commit changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The commit.
    pub seq: u64,
    /// Its time, ms.
    pub committed: i64,
    /// When the position was read, ms.
    pub taken: i64,
    /// Group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The position before; `None`: there was none.
    pub old: Option<i64>,
    /// The position from then on; `None`: there is none any more.
    pub new: Option<i64>,
}

type Offsets = BTreeMap<i32, i64>;

/// Walks the log up to a commit.
#[derive(Default)]
struct Walk {
    names: BTreeMap<TopicId, String>,
    known: BTreeMap<(String, TopicId), Offsets>,
    groups: BTreeSet<String>,
    changes: Vec<Changed>,
}

/// The commits that brought each position. Every commit is read.
pub async fn history(store: SharedStore, at: Option<At>, wanted: &Wanted) -> Result<History, EngineError> {
    let mut vault = Vault::open(store).await?;
    if let Some(at) = at {
        vault.go_back(at, now_ms()).await?;
    }
    let mut walk = Walk::default();
    let mut reader = LogReader::new(&vault, 1..=vault.receipt().seq);
    while let Some(Entry { seq, commit, tables }) = reader.next().await {
        let (commit, _) = commit?;
        for (table, bytes) in commit.tables.iter().zip(tables) {
            let rows = decode_table(table, &bytes?)?;
            walk.names.extend(rows.topics.into_iter().map(|row| (row.topic, row.name)));
            for pair in rows.groups.chunk_by(|a, b| a.group == b.group && a.topic == b.topic) {
                walk.add((seq, commit.time), pair, wanted);
            }
        }
    }
    let groups = walk.groups.iter().map(String::as_str);
    wanted.groups.choose(groups, "group", "in the vault")?;
    wanted.topics.choose(walk.names.values().map(String::as_str), "topic", "in the vault")?;
    Ok(History { rebuilt_from: vault.identity().rebuilt_from.clone(), changes: walk.changes })
}

impl Walk {
    /// Takes the rows of one group and topic: a header, then what it has from now on.
    fn add(&mut self, (seq, committed): (u64, i64), rows: &[GroupRow], wanted: &Wanted) {
        let Some((header, rows)) = rows.split_first().filter(|(header, _)| header.partition < 0) else {
            return;
        };
        if !self.groups.contains(&header.group) {
            self.groups.insert(header.group.clone());
        }
        let topic = self.names.get(&header.topic).cloned().unwrap_or_else(|| hex(&header.topic));
        if !wanted.groups.covers(&header.group) || !wanted.topics.covers(&topic) {
            return;
        }
        let new: Offsets = match header.present {
            true => rows.iter().map(|row| (row.partition, row.offset)).collect(),
            false => Offsets::new(),
        };
        let key = (header.group.clone(), header.topic);
        let old = self.known.insert(key, new.clone()).unwrap_or_default();
        let partitions: BTreeSet<i32> = old.keys().chain(new.keys()).copied().collect();
        for partition in partitions {
            let (old, new) = (old.get(&partition).copied(), new.get(&partition).copied());
            if old != new {
                self.changes.push(Changed {
                    seq,
                    committed,
                    taken: header.taken,
                    group: header.group.clone(),
                    topic: topic.clone(),
                    partition,
                    old,
                    new,
                });
            }
        }
    }
}

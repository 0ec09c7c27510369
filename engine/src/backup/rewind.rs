//! Where a log that was truncated by an unclean leader election parts from what the vault has of it.
//!
//! As followers do it (KIP-101): the leader is asked where our newest leader epoch ends there. If it has that epoch, both logs are the same up to the
//! end that comes first; if not, it names an older one that it has, and we go back to our newest batch of that epoch or an older one.

use std::collections::BTreeSet;

use bodley_io::kafka::KafkaError;
use bodley_io::store::SharedStore;

use super::ends::Sight;
use super::task::Task;
use crate::error::EngineError;
use crate::vault::log::Vault;
use crate::vault::rows::{Kind, Range};
use crate::vault::state::{PartKey, State};

/// Questions to one leader; each goes back by an epoch at least.
const MOST_QUESTIONS: usize = 1000;

/// Where two logs part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parting {
    /// First offset that is not the same in both.
    pub offset: i64,
    /// Leader epoch of the batch before; -1: unknown.
    pub last_epoch: i32,
}

/// What the vault has of these partitions: a rewind is rare, so nobody keeps their rows for it, and those of all would need much memory.
pub async fn histories(store: &SharedStore, keys: BTreeSet<PartKey>) -> Result<State, EngineError> {
    Ok(Vault::open(store.clone()).await?.fold_onto(State::of(keys)).await?)
}

/// Where the leader's log parts from `ranges`, which the vault has of the partition. No checksum covers these answers, so they are asked for twice.
pub async fn parting(sight: &Sight<'_>, task: &Task, ranges: &[Range]) -> Result<Parting, KafkaError> {
    let first = parting_once(sight, task, ranges).await?;
    match parting_once(sight, task, ranges).await? {
        second if second == first => Ok(first),
        second => Err(KafkaError::NoRoute(format!(
            "its leader says that its log parts from what was backed up at offset {}, and then at {}",
            first.offset, second.offset
        ))),
    }
}

async fn parting_once(sight: &Sight<'_>, task: &Task, ranges: &[Range]) -> Result<Parting, KafkaError> {
    let mut newest = i32::MAX;
    for _ in 0..MOST_QUESTIONS {
        let Some(row) = last_with_epoch(ranges, newest) else { break };
        let question = [(task.tp.clone(), row.last_epoch)];
        let mut answers = sight.cluster.epoch_ends_within(&question, sight.patience).await?;
        let Some(found) = answers.found.remove(&task.tp) else {
            let error = answers.failed.remove(&task.tp);
            return Err(error.unwrap_or_else(|| KafkaError::NoRoute(format!("{}: no answer", task.tp))));
        };
        if found.leader_epoch == row.last_epoch && found.offset >= 0 {
            return Ok(Parting { offset: found.offset.min(row.next), last_epoch: row.last_epoch });
        }
        if found.offset < 0 || found.leader_epoch >= row.last_epoch {
            break;
        }
        newest = found.leader_epoch;
    }
    // Nothing is known to be the same.
    let first = ranges.first().map_or(task.next, |row| row.first);
    Ok(Parting { offset: first, last_epoch: -1 })
}

/// The newest chunk that ends with a batch of `newest` or an older epoch.
fn last_with_epoch(ranges: &[Range], newest: i32) -> Option<&Range> {
    ranges.iter().rfind(|row| row.kind == Kind::Data && (0..=newest).contains(&row.last_epoch))
}

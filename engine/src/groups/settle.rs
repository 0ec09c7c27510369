//! From what is wished to offsets of the cluster, with few questions for many groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_io::kafka::offsets::{Answers, End};
use bodley_io::kafka::rights::{Operation, TopicRights};
use bodley_io::kafka::{Cluster, TopicPartition};

use super::{of_topic, some_of};
use crate::error::EngineError;

/// Where a group is to go on in a partition.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) group: String,
    pub(super) tp: TopicPartition,
    pub(super) goal: Goal,
    pub(super) metadata: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// The log's start.
    Start,
    /// The log's end.
    End,
    /// The first record that is not older, ms since 1970; the log's end if there is none.
    Time(i64),
    /// This offset, or the nearest one that the log has.
    Offset(i64),
}

/// Both ends of partitions.
pub(super) struct Ends {
    starts: Answers,
    ends: Answers,
}

impl Ends {
    pub(super) async fn of(
        cluster: &Arc<Cluster>,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Result<Self, EngineError> {
        let partitions: Vec<TopicPartition> = partitions.iter().cloned().collect();
        let starts = checked(cluster.list_offsets(&partitions, End::Earliest).await?)?;
        Ok(Self { starts, ends: checked(cluster.list_offsets(&partitions, End::HighWatermark).await?)? })
    }

    pub(super) fn start(&self, tp: &TopicPartition) -> i64 {
        self.starts.found.get(tp).map_or(0, |found| found.offset)
    }

    pub(super) fn end(&self, tp: &TopicPartition) -> i64 {
        self.ends.found.get(tp).map_or(0, |found| found.offset)
    }
}

fn checked(mut answers: Answers) -> Result<Answers, EngineError> {
    match answers.failed.pop_first() {
        Some((tp, error)) => Err(of_topic(&tp, error)),
        None => Ok(answers),
    }
}

/// Wishes with the offsets that they come to.
pub(super) struct Settled {
    pub(super) offsets: Vec<(Wish, i64)>,
    /// Offsets that lie outside of the log and were moved to its start or end.
    pub(super) moved: usize,
}

/// All partitions are there, and groups may be given positions in them.
pub(super) async fn check_partitions(
    cluster: &Cluster,
    partitions: &BTreeSet<TopicPartition>,
) -> Result<(), EngineError> {
    check_rights(cluster, partitions).await?;
    let layout = cluster.layout();
    let missing: Vec<&TopicPartition> =
        partitions.iter().filter(|tp| layout.partition(tp).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(EngineError::Refused(format!(
        "the cluster has no {}: choose others with --topic, or say how they are called there with --rename",
        some_of(missing)
    )))
}

/// Who may not read a topic may not set positions in it.
pub(super) async fn check_rights(
    cluster: &Cluster,
    partitions: &BTreeSet<TopicPartition>,
) -> Result<(), EngineError> {
    let topics: BTreeSet<&Arc<str>> = partitions.iter().map(|tp| &tp.topic).collect();
    let topics: Vec<Arc<str>> = topics.into_iter().cloned().collect();
    for (topic, rights) in cluster.topic_rights(&topics).await? {
        let missing = match rights {
            TopicRights::Absent => continue,
            TopicRights::Of(rights) if rights.allow(Operation::Read) => continue,
            TopicRights::Of(_) => "the right Read on it is",
            TopicRights::Hidden => "the rights Describe and Read on it are",
        };
        return Err(EngineError::Denied(format!("topic {topic}: {missing} missing; nothing was changed")));
    }
    Ok(())
}

/// Looks all wishes up.
pub(super) async fn settle(cluster: &Arc<Cluster>, wishes: Vec<Wish>) -> Result<Settled, EngineError> {
    let partitions: BTreeSet<TopicPartition> = wishes.iter().map(|wish| wish.tp.clone()).collect();
    check_partitions(cluster, &partitions).await?;
    let ends = Ends::of(cluster, &partitions).await?;
    let times: BTreeSet<(TopicPartition, i64)> = wishes
        .iter()
        .filter_map(|wish| match wish.goal {
            Goal::Time(time @ 0..) => Some((wish.tp.clone(), time)),
            _ => None,
        })
        .collect();
    let times: Vec<(TopicPartition, i64)> = times.into_iter().collect();
    let mut answers = cluster.offsets_for_times(&times).await;
    if let Some((tp, error)) = answers.failed.pop_first() {
        return Err(of_topic(&tp, error));
    }
    let found: BTreeMap<(TopicPartition, i64), Option<i64>> = answers.found;
    let mut settled = Settled { offsets: Vec::with_capacity(wishes.len()), moved: 0 };
    for wish in wishes {
        let (start, end) = (ends.start(&wish.tp), ends.end(&wish.tp));
        let offset = match wish.goal {
            Goal::Start => start,
            Goal::End => end,
            // A record without a time is older than any.
            Goal::Time(..0) => start,
            Goal::Time(time) => found.get(&(wish.tp.clone(), time)).copied().flatten().unwrap_or(end),
            Goal::Offset(offset) => {
                let inside = offset.clamp(start, end.max(start));
                settled.moved += usize::from(inside != offset);
                inside
            }
        };
        settled.offsets.push((wish, offset));
    }
    Ok(settled)
}

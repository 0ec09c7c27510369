//! The offsets of many groups at once: few requests per coordinator where its version allows, and some at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bodley_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use bodley_protocol::messages::{
    GroupId, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, TopicName,
};
use bodley_protocol::{ErrorCode, RetryClass, StrBytes};

use super::coordinators::{ByCoordinator, ByGroup, Round};
use super::{
    Committed, GroupOffsets, LAST_COMMIT_WITH_NAMES, LAST_WITH_NAMES, MANY_GROUPS, NewOffset, STABLE_TRIES,
    WITH_STABLE, check_committed, commit_request, fitting, of_group, of_groups, read_group, read_groups,
};
use crate::kafka::TopicPartition;
use crate::kafka::cluster::{Cluster, To};
use crate::kafka::error::KafkaError;

/// Groups of one OffsetFetch. One of 10,000 partitions with some metadata takes a megabyte of the answer.
const GROUPS_PER_FETCH: usize = 25;
/// Partitions of one OffsetDelete: a tombstone each, in one batch of the coordinator's topic.
const PARTITIONS_PER_DELETE: usize = 5000;
/// Between two looks at a group with a pending transactional commit.
const STABLE_PAUSE: Duration = Duration::from_millis(100);

type Offsets = BTreeMap<TopicPartition, Committed>;

impl Cluster {
    /// The committed offsets of many groups for all topics. Pending transactional commits are waited for, a bounded time. A group that does not exist has none.
    pub async fn groups_offsets(self: &Arc<Self>, groups: &[String]) -> ByGroup<GroupOffsets> {
        let mut open: BTreeSet<String> = groups.iter().cloned().collect();
        let mut done = ByGroup::new();
        for tries in 0..=STABLE_TRIES {
            let unstable = tries == STABLE_TRIES;
            if tries > 0 {
                tokio::time::sleep(STABLE_PAUSE).await;
            }
            for (group, read) in self.read_many(std::mem::take(&mut open), !unstable).await {
                match read {
                    Ok(None) => {
                        open.insert(group);
                    }
                    Ok(Some(offsets)) => {
                        done.insert(group, Ok(GroupOffsets { offsets, unstable }));
                    }
                    Err(error) => {
                        done.insert(group, Err(error));
                    }
                }
            }
            if open.is_empty() {
                break;
            }
        }
        done
    }

    /// `None` for a group with a pending transactional commit.
    async fn read_many(
        self: &Arc<Self>,
        groups: BTreeSet<String>,
        require_stable: bool,
    ) -> ByGroup<Option<Offsets>> {
        let per_request = AtomicUsize::new(GROUPS_PER_FETCH);
        self.at_coordinators(groups, "OffsetFetch", async |by_coordinator| {
            self.read_round(by_coordinator, require_stable, &per_request).await
        })
        .await
    }

    async fn read_round(
        self: &Arc<Self>,
        by_coordinator: ByCoordinator,
        require_stable: bool,
        per_request: &AtomicUsize,
    ) -> Round<Option<Offsets>> {
        let (mut round, mut requests, mut asked) = (Round::new(), Vec::new(), Vec::new());
        for (broker, groups) in by_coordinator {
            let version = match self.version::<OffsetFetchRequest>(To::Broker(broker), LAST_WITH_NAMES).await
            {
                Ok(version) => version,
                Err(error) => {
                    round.extend(groups.into_iter().map(|group| (group, Err(error.again()))));
                    continue;
                }
            };
            let many = version >= MANY_GROUPS;
            for some in groups.chunks(if many { per_request.load(Ordering::Relaxed) } else { 1 }) {
                let names: Vec<&str> = some.iter().map(String::as_str).collect();
                let stable = require_stable && version >= WITH_STABLE;
                let one = || names.first().map(|group| of_group(group, stable)).unwrap_or_default();
                let request = if many { of_groups(&names, stable) } else { one() };
                requests.push((broker, request));
                asked.push((some.to_vec(), many));
            }
        }
        self.call_many(LAST_WITH_NAMES, requests, |number, response| {
            let Some((groups, many)) = asked.get(number) else { return };
            match response {
                Ok(response) if *many => {
                    let names: Vec<&str> = groups.iter().map(String::as_str).collect();
                    round.extend(read_groups(response, &names));
                }
                Ok(response) => {
                    round.extend(groups.iter().map(|group| (group.clone(), read_group(&response, group))));
                }
                Err(error) => {
                    // It may have become too large.
                    if matches!(error, KafkaError::Malformed { .. }) {
                        per_request.store(1, Ordering::Relaxed);
                    }
                    round.extend(groups.iter().map(|group| (group.clone(), Err(error.again()))));
                }
            }
        })
        .await;
        round.into_iter().map(|(group, read)| (group, pending(read))).collect()
    }

    /// Commits the offsets of many groups without members, each as its coordinator takes them from any admin client. One refused partition fails its
    /// group, of which some offsets may be committed then.
    pub async fn commit_groups(self: &Arc<Self>, offsets: &BTreeMap<String, Vec<NewOffset>>) -> ByGroup<()> {
        let mut all: BTreeMap<&str, Vec<Piece<'_>>> = BTreeMap::new();
        for (group, offsets) in offsets {
            let mut sorted: Vec<&NewOffset> = offsets.iter().collect();
            sorted.sort_by(|a, b| a.tp.cmp(&b.tp));
            let pieces = all.entry(group).or_default();
            while !sorted.is_empty() {
                let behind = sorted.split_off(fitting(group, &sorted));
                pieces.push(std::mem::replace(&mut sorted, behind));
            }
        }
        let groups = all.iter().filter(|(_, pieces)| !pieces.is_empty());
        let groups = groups.map(|(group, _)| (*group).to_owned()).collect();
        let mut done = self
            .at_coordinators(groups, "OffsetCommit", async |by_coordinator| {
                self.commit_round(by_coordinator, &all).await
            })
            .await;
        for group in offsets.keys() {
            done.entry(group.clone()).or_insert(Ok(()));
        }
        done
    }

    async fn commit_round(
        self: &Arc<Self>,
        by_coordinator: ByCoordinator,
        all: &BTreeMap<&str, Vec<Piece<'_>>>,
    ) -> Round<()> {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for (broker, groups) in by_coordinator {
            for group in groups {
                for piece in all.get(group.as_str()).into_iter().flatten() {
                    requests.push((broker, commit_request(&group, piece)));
                    asked.push((group.clone(), piece));
                }
            }
        }
        let mut outcome: BTreeMap<&str, Result<(), KafkaError>> = BTreeMap::new();
        self.call_many(LAST_COMMIT_WITH_NAMES, requests, |number, response| {
            let Some((group, piece)) = asked.get(number) else { return };
            let result = response.and_then(|response| check_committed(group, piece, &response));
            add(&mut outcome, group, result);
        })
        .await;
        outcome.into_iter().map(|(group, result)| (group.to_owned(), result)).collect()
    }

    /// Takes away the offsets that groups have in some partitions. A group or an offset that is not there is no error.
    pub async fn delete_offsets(
        self: &Arc<Self>,
        of: &BTreeMap<String, BTreeSet<TopicPartition>>,
    ) -> ByGroup<()> {
        let groups = of.iter().filter(|(_, partitions)| !partitions.is_empty());
        let groups = groups.map(|(group, _)| group.clone()).collect();
        let mut done = self
            .at_coordinators(groups, "OffsetDelete", async |by_coordinator| {
                self.delete_round(by_coordinator, of).await
            })
            .await;
        for group in of.keys() {
            done.entry(group.clone()).or_insert(Ok(()));
        }
        done
    }

    async fn delete_round(
        self: &Arc<Self>,
        by_coordinator: ByCoordinator,
        of: &BTreeMap<String, BTreeSet<TopicPartition>>,
    ) -> Round<()> {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for (broker, groups) in by_coordinator {
            for group in groups {
                let partitions: Vec<&TopicPartition> = of.get(&group).into_iter().flatten().collect();
                for some in partitions.chunks(PARTITIONS_PER_DELETE) {
                    requests.push((broker, delete_request(&group, some)));
                    asked.push((group.clone(), some.to_vec()));
                }
            }
        }
        let mut outcome: BTreeMap<&str, Result<(), KafkaError>> = BTreeMap::new();
        self.call_many(i16::MAX, requests, |number, response| {
            let Some((group, partitions)) = asked.get(number) else { return };
            let result = response.and_then(|response| check_deleted(group, partitions, &response));
            add(&mut outcome, group, result);
        })
        .await;
        outcome.into_iter().map(|(group, result)| (group.to_owned(), result)).collect()
    }
}

/// Offsets of one request.
type Piece<'a> = Vec<&'a NewOffset>;

fn pending(read: Result<Offsets, KafkaError>) -> Result<Option<Offsets>, KafkaError> {
    match read {
        Err(error) if error.code() == Some(ErrorCode::UNSTABLE_OFFSET_COMMIT) => Ok(None),
        read => read.map(Some),
    }
}

/// Of several answers about a group the worst counts: what no second try helps against, then what one may.
fn add<'a>(
    outcome: &mut BTreeMap<&'a str, Result<(), KafkaError>>,
    group: &'a str,
    result: Result<(), KafkaError>,
) {
    let rank = |result: &Result<(), KafkaError>| match result {
        Ok(()) => 0,
        Err(error) if error.retry_class() != RetryClass::Never => 1,
        Err(_) => 2,
    };
    match outcome.get_mut(group) {
        Some(known) if rank(known) >= rank(&result) => {}
        Some(known) => *known = result,
        None => {
            outcome.insert(group, result);
        }
    }
}

fn delete_request(group: &str, partitions: &[&TopicPartition]) -> OffsetDeleteRequest {
    let topic = |of_topic: &[&TopicPartition]| {
        let name = TopicName(StrBytes::from_string(of_topic.first()?.topic.to_string()));
        let partition =
            |tp: &&TopicPartition| OffsetDeleteRequestPartition::default().with_partition_index(tp.partition);
        let partitions = of_topic.iter().map(partition).collect();
        Some(OffsetDeleteRequestTopic::default().with_name(name).with_partitions(partitions))
    };
    let topics = partitions.chunk_by(|a, b| a.topic == b.topic).filter_map(topic).collect();
    OffsetDeleteRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_topics(topics)
}

/// The answer names all partitions, and none is refused.
fn check_deleted(
    group: &str,
    partitions: &[&TopicPartition],
    response: &OffsetDeleteResponse,
) -> Result<(), KafkaError> {
    if ErrorCode(response.error_code) == ErrorCode::GROUP_ID_NOT_FOUND {
        return Ok(());
    }
    KafkaError::check("OffsetDelete", || format!("group {group}"), response.error_code)?;
    let answers = response.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|of| ((topic.name.as_str(), of.partition_index), of.error_code))
    });
    let answered: BTreeMap<(&str, i32), i16> = answers.collect();
    for tp in partitions {
        let code = answered.get(&(&*tp.topic, tp.partition));
        let code = code.ok_or_else(|| KafkaError::left_out("OffsetDelete", tp))?;
        KafkaError::check("OffsetDelete", || format!("group {group}, {tp}"), *code)?;
    }
    Ok(())
}

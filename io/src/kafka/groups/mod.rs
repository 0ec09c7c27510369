//! Consumer groups: ListGroups on every broker, OffsetFetch and OffsetCommit at each group's coordinator. Many groups at once: `bulk.rs`.

mod bulk;
mod coordinators;
mod live;

pub use coordinators::ByGroup;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use bodley_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use bodley_protocol::messages::{
    FindCoordinatorRequest, GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetCommitResponse,
    OffsetFetchRequest, OffsetFetchResponse, TopicName,
};
use bodley_protocol::{ErrorCode, RetryClass, StrBytes};

use super::cluster::{Cluster, To};
use super::error::KafkaError;
use super::layout::TopicPartition;

/// First OffsetFetch version that can insist on no transactional commit being pending.
const WITH_STABLE: i16 = 7;
/// First OffsetFetch version that takes several groups.
const MANY_GROUPS: i16 = 8;
/// Last OffsetFetch version that names topics; the next one takes ids.
const LAST_WITH_NAMES: i16 = 9;
/// Last OffsetCommit version that names topics.
const LAST_COMMIT_WITH_NAMES: i16 = 9;
const GROUP_KEY: i8 = 0;
/// Offsets of one request: the coordinator has to fit them into one batch of its own topic, of at most 1 MB by default.
const COMMIT_BYTES: usize = 400 << 10;
/// How often a pending transactional commit is waited for before the offsets are read as they are.
const STABLE_TRIES: u32 = 6;

/// A group as a broker lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name.
    pub group: String,
    /// `consumer`, or what another kind of client chose.
    pub protocol_type: String,
    /// `classic`, `consumer`, …; empty before ListGroups v5.
    pub kind: String,
    /// `Stable`, `Empty`, …; empty before ListGroups v4.
    pub state: String,
}

/// A committed offset, as the broker gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Next offset that the group would read.
    pub offset: i64,
    /// -1: unknown.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: Option<String>,
}

/// All offsets of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupOffsets {
    /// By partition.
    pub offsets: BTreeMap<TopicPartition, Committed>,
    /// Read while a transactional commit was pending.
    pub unstable: bool,
}

impl Cluster {
    /// Every group of every broker; errors of brokers that don't answer. A broker that dies leaves the layout after some seconds, and its groups
    /// are with others then, so all are asked again.
    pub async fn list_groups(&self) -> (Vec<Listed>, Vec<KafkaError>) {
        let mut backoff = self.backoff();
        loop {
            let layout = self.layout();
            let mut all = BTreeMap::new();
            let mut errors = Vec::new();
            for broker in layout.brokers.keys() {
                match self.list_groups_of(*broker).await {
                    Ok(groups) => all.extend(groups.into_iter().map(|listed| (listed.group.clone(), listed))),
                    Err(error) => errors.push(error),
                }
                if !errors.is_empty() && backoff.is_over() {
                    break;
                }
            }
            let passing = errors.iter().any(|error| error.retry_class() != RetryClass::Never);
            if !passing || !backoff.wait().await {
                return (all.into_values().collect(), errors);
            }
            let _ = self.refresh(&layout).await;
        }
    }

    async fn list_groups_of(&self, broker: i32) -> Result<Vec<Listed>, KafkaError> {
        let response = self.call_once(To::Broker(broker), i16::MAX, &ListGroupsRequest::default()).await?;
        KafkaError::check("ListGroups", || format!("broker {broker}"), response.error_code)?;
        let listed = response.groups.into_iter().map(|group| Listed {
            group: group.group_id.to_string(),
            protocol_type: group.protocol_type.to_string(),
            kind: group.group_type.to_string(),
            state: group.group_state.to_string(),
        });
        Ok(listed.collect())
    }

    /// The committed offsets of one group for all topics, or why they can't be had now. Nothing is waited for and nothing tried twice.
    pub async fn group_offsets_once(&self, group: &str) -> Result<GroupOffsets, KafkaError> {
        let coordinator = self.coordinator_once(group, GROUP_KEY).await?;
        let offsets = self.group_offsets_at(coordinator, group, true).await?;
        Ok(GroupOffsets { offsets, unstable: false })
    }

    /// The committed offsets of one group for all topics. A pending transactional commit is waited for, a bounded time.
    pub async fn group_offsets(&self, group: &str) -> Result<GroupOffsets, KafkaError> {
        let mut tries = 0;
        let mut backoff = self.backoff();
        loop {
            let unstable = tries >= STABLE_TRIES;
            match self.try_group_offsets(group, !unstable).await {
                Ok(offsets) => return Ok(GroupOffsets { offsets, unstable }),
                Err(error) if error.code() == Some(ErrorCode::UNSTABLE_OFFSET_COMMIT) => tries += 1,
                Err(error) if error.retry_class() == RetryClass::Never => return Err(error),
                Err(error) => self.pause(&mut backoff, error).await?,
            }
            if tries > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }

    async fn try_group_offsets(
        &self,
        group: &str,
        require_stable: bool,
    ) -> Result<BTreeMap<TopicPartition, Committed>, KafkaError> {
        let coordinator = self.coordinator(group).await?;
        self.group_offsets_at(coordinator, group, require_stable).await
    }

    async fn group_offsets_at(
        &self,
        coordinator: i32,
        group: &str,
        require_stable: bool,
    ) -> Result<BTreeMap<TopicPartition, Committed>, KafkaError> {
        let broker = To::Broker(coordinator);
        let version = self.version::<OffsetFetchRequest>(broker, LAST_WITH_NAMES).await?;
        if version < MANY_GROUPS {
            let request = of_group(group, require_stable && version >= WITH_STABLE);
            return read_group(&self.call_once(broker, version, &request).await?, group);
        }
        let request = of_groups(&[group], require_stable);
        let mut read =
            read_groups(self.call_once(broker, LAST_WITH_NAMES, &request).await?, &[group]).into_iter();
        read.next().map_or_else(|| Err(KafkaError::left_out("OffsetFetch", group)), |(_, read)| read)
    }

    /// The broker that keeps a group's offsets.
    pub async fn coordinator(&self, group: &str) -> Result<i32, KafkaError> {
        self.coordinator_of(group, GROUP_KEY).await
    }

    /// The coordinator of a group (kind 0) or a transactional id (kind 1).
    pub(super) async fn coordinator_of(&self, key: &str, kind: i8) -> Result<i32, KafkaError> {
        self.retrying(|| self.coordinator_once(key, kind)).await
    }

    pub(super) async fn coordinator_once(&self, key: &str, kind: i8) -> Result<i32, KafkaError> {
        // Version 3 asks for one key, which suffices and works everywhere.
        let request = FindCoordinatorRequest::default()
            .with_key(StrBytes::from_string(key.to_owned()))
            .with_key_type(kind);
        let response = self.call_once(To::Any, 3, &request).await?;
        KafkaError::check("FindCoordinator", || key.to_owned(), response.error_code)?;
        Ok(response.node_id.0)
    }
}

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOffset {
    /// Where.
    pub tp: TopicPartition,
    /// Next offset that the group is to read.
    pub offset: i64,
    /// The client's own words.
    pub metadata: Option<String>,
}

impl Cluster {
    /// Commits offsets for a group without members, as its coordinator takes them from any admin client. One refused partition fails the whole;
    /// a long list is committed piece by piece, in the order of partitions.
    pub async fn commit_group_offsets(&self, group: &str, offsets: &[NewOffset]) -> Result<(), KafkaError> {
        let mut sorted: Vec<&NewOffset> = offsets.iter().collect();
        sorted.sort_by(|a, b| a.tp.cmp(&b.tp));
        let mut rest = sorted.as_slice();
        while !rest.is_empty() {
            let (some, behind) = rest.split_at(fitting(group, rest));
            self.commit_some(group, some).await?;
            rest = behind;
        }
        Ok(())
    }

    async fn commit_some(&self, group: &str, offsets: &[&NewOffset]) -> Result<(), KafkaError> {
        let request = commit_request(group, offsets);
        self.retrying(|| async {
            let coordinator = self.coordinator(group).await?;
            let response = self.call_once(To::Broker(coordinator), LAST_COMMIT_WITH_NAMES, &request).await?;
            check_committed(group, offsets, &response)
        })
        .await
    }
}

/// How many of `rest` one request commits, at least one.
fn fitting(group: &str, rest: &[&NewOffset]) -> usize {
    let mut bytes = 0;
    let fits = |new: &&&NewOffset| {
        bytes += new.metadata.as_ref().map_or(0, String::len) + new.tp.topic.len() + group.len() + 100;
        bytes <= COMMIT_BYTES
    };
    rest.iter().take_while(fits).count().max(1)
}

/// Asks for all offsets of several groups, in a version that takes several.
fn of_groups(groups: &[&str], require_stable: bool) -> OffsetFetchRequest {
    let listed = groups.iter().map(|group| {
        let id = GroupId(StrBytes::from_string((*group).to_owned()));
        OffsetFetchRequestGroup::default().with_group_id(id).with_topics(None)
    });
    OffsetFetchRequest::default().with_groups(listed.collect()).with_require_stable(require_stable)
}

/// The same of one group, in an older version. Fields that a version lacks must be at their defaults.
fn of_group(group: &str, require_stable: bool) -> OffsetFetchRequest {
    let id = GroupId(StrBytes::from_string(group.to_owned()));
    let request = OffsetFetchRequest::default().with_group_id(id).with_topics(None);
    request.with_require_stable(require_stable)
}

type Read = Result<BTreeMap<TopicPartition, Committed>, KafkaError>;

/// What an answer to several groups says of those that were asked for; of some it may say nothing.
fn read_groups(response: OffsetFetchResponse, asked: &[&str]) -> Vec<(String, Read)> {
    let answered = response.groups.iter().filter(|answer| asked.contains(&answer.group_id.as_str()));
    let read = answered.map(|answer| {
        let group = answer.group_id.as_str();
        let parts = answer.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|p| Part {
                topic: &topic.name,
                partition: p.partition_index,
                error: p.error_code,
                committed: committed(p.committed_offset, p.committed_leader_epoch, p.metadata.as_ref()),
            })
        });
        (group.to_owned(), collect(group, answer.error_code, parts))
    });
    read.collect()
}

/// What an answer in an older version says of its group.
fn read_group(response: &OffsetFetchResponse, group: &str) -> Read {
    let parts = response.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|p| Part {
            topic: &topic.name,
            partition: p.partition_index,
            error: p.error_code,
            committed: committed(p.committed_offset, p.committed_leader_epoch, p.metadata.as_ref()),
        })
    });
    collect(group, response.error_code, parts)
}

struct Part<'a> {
    topic: &'a str,
    partition: i32,
    error: i16,
    committed: Committed,
}

fn committed(offset: i64, leader_epoch: i32, metadata: Option<&StrBytes>) -> Committed {
    Committed { offset, leader_epoch, metadata: metadata.map(ToString::to_string) }
}

fn collect<'a>(group: &str, error: i16, parts: impl Iterator<Item = Part<'a>>) -> Read {
    KafkaError::check("OffsetFetch", || group.to_owned(), error)?;
    let mut offsets = BTreeMap::new();
    for part in parts {
        let tp = TopicPartition::new(&Arc::from(part.topic), part.partition);
        KafkaError::check("OffsetFetch", || format!("{group}, {tp}"), part.error)?;
        if part.committed.offset >= 0 {
            offsets.insert(tp, part.committed);
        }
    }
    Ok(offsets)
}

/// Commits offsets, sorted by partition, as an admin client does.
fn commit_request(group: &str, offsets: &[&NewOffset]) -> OffsetCommitRequest {
    let topic = |of_topic: &[&NewOffset]| {
        let name = TopicName(StrBytes::from_string(of_topic.first()?.tp.topic.to_string()));
        let partitions = of_topic.iter().map(|new| committed_partition(new)).collect();
        Some(OffsetCommitRequestTopic::default().with_name(name).with_partitions(partitions))
    };
    let topics = offsets.chunk_by(|a, b| a.tp.topic == b.tp.topic).filter_map(topic).collect();
    OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(topics)
}

/// The answer names all of the offsets, and none is refused.
fn check_committed(
    group: &str,
    offsets: &[&NewOffset],
    response: &OffsetCommitResponse,
) -> Result<(), KafkaError> {
    let answers = response.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| (topic.name.as_str(), partition.partition_index))
    });
    let answered: BTreeSet<(&str, i32)> = answers.collect();
    let is_answered = |new: &&&NewOffset| answered.contains(&(&*new.tp.topic, new.tp.partition));
    if let Some(new) = offsets.iter().find(|new| !is_answered(new)) {
        return Err(KafkaError::left_out("OffsetCommit", &new.tp));
    }
    for topic in &response.topics {
        for partition in &topic.partitions {
            let subject = || format!("group {group}, {}-{}", topic.name.as_str(), partition.partition_index);
            KafkaError::check("OffsetCommit", subject, partition.error_code)?;
        }
    }
    Ok(())
}

fn committed_partition(new: &NewOffset) -> OffsetCommitRequestPartition {
    // An epoch of the source would make consumers look for a truncation that never was.
    OffsetCommitRequestPartition::default()
        .with_partition_index(new.tp.partition)
        .with_committed_offset(new.offset)
        .with_committed_leader_epoch(-1)
        .with_committed_metadata(Some(StrBytes::from_string(new.metadata.clone().unwrap_or_default())))
}

//! What we may do, asked before it is done: authorized operations (KIP-430), and for topics that are not there yet questions that
//! change nothing but are refused to those who lack the right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_protocol::batch::HEADER_LEN;
use bodley_protocol::fetch::{Isolation, Limits, Partition, PartitionHead};
use bodley_protocol::messages::describe_configs_request::DescribeConfigsResource;
use bodley_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use bodley_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use bodley_protocol::messages::metadata_request::MetadataRequestTopic;
use bodley_protocol::messages::{
    DescribeConfigsRequest, DescribeGroupsRequest, DescribeQuorumRequest, GroupId,
    IncrementalAlterConfigsRequest, MetadataRequest, MetadataResponse, TopicName,
};
use bodley_protocol::produce::Target;
use bodley_protocol::versions::BrokerVersions;
use bodley_protocol::{ErrorCode, NO_TOPIC_ID, RetryClass, StrBytes};

use super::cluster::{Cluster, To};
use super::connection::Connection;
use super::error::KafkaError;
use super::fetch::FetchSink;
use super::topics::{OP_SET, TOPIC_RESOURCE, string};
use super::transactions::{TRANSACTION_KEY, is_closed_way};

/// Topics and groups per request.
const PER_REQUEST: usize = 500;
/// Last Metadata version that tells what may be done to the cluster.
const METADATA_WITH_CLUSTER: i16 = 10;
/// First Metadata and DescribeGroups versions that tell what may be done.
const METADATA_WITH_RIGHTS: i16 = 8;
const GROUPS_WITH_RIGHTS: i16 = 3;
/// Last DescribeGroups version that answers for a group that does not exist.
const GROUPS_THAT_ARE_NOT: i16 = 5;
/// Last DescribeQuorum version of the plain form; times are told from version 1 on.
const QUORUM_WITH_TIMES: i16 = 1;
/// How often it is asked what may be done to topics that are not there.
const PROBES: u32 = 3;
const PROBE_AGAIN: Duration = Duration::from_millis(300);
/// What a broker says that does not tell.
const NOT_TOLD: i32 = i32::MIN;

/// What can be done, by Kafka's numbers (org.apache.kafka.common.acl.AclOperation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names are Kafka's own
pub enum Operation {
    Read = 3,
    Write = 4,
    Create = 5,
    Alter = 7,
    Describe = 8,
    ClusterAction = 9,
    DescribeConfigs = 10,
    AlterConfigs = 11,
    IdempotentWrite = 12,
}

/// What may be done to one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(i32);

impl Rights {
    /// Whether this is allowed. A broker that does not tell is taken to allow it: it is found out when it is done.
    pub fn allow(self, operation: Operation) -> bool {
        self.0 == NOT_TOLD || self.0 & (1 << operation as i32) != 0
    }

    /// Of something that was described: who then says that not even that is allowed does not tell.
    fn of_described(operations: i32) -> Self {
        let rights = Self(operations);
        if rights.allow(Operation::Describe) { rights } else { Self(NOT_TOLD) }
    }

    /// The broker says what is allowed.
    pub fn are_told(self) -> bool {
        self.0 != NOT_TOLD
    }
}

/// A topic as far as we may know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicRights {
    /// It is there.
    Of(Rights),
    /// It is not there.
    Absent,
    /// We may not even know whether it is there: Describe is missing.
    Hidden,
}

impl Cluster {
    /// What may be done to topics. A topic that the broker says nothing of is absent.
    pub async fn topic_rights(
        &self,
        topics: &[Arc<str>],
    ) -> Result<BTreeMap<Arc<str>, TopicRights>, KafkaError> {
        let mut rights: BTreeMap<Arc<str>, TopicRights> =
            topics.iter().map(|topic| (Arc::clone(topic), TopicRights::Absent)).collect();
        for some in topics.chunks(PER_REQUEST) {
            for topic in self.ask_rights(some, true).await?.topics {
                let Some(name) = topic.name.as_ref() else { continue };
                let found = match ErrorCode(topic.error_code) {
                    ErrorCode::TOPIC_AUTHORIZATION_FAILED => TopicRights::Hidden,
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => TopicRights::Absent,
                    _ => TopicRights::Of(Rights::of_described(topic.topic_authorized_operations)),
                };
                if let Some(rights) = rights.get_mut(name.as_str()) {
                    *rights = found;
                }
            }
        }
        Ok(rights)
    }

    /// What may be done to the cluster.
    pub async fn cluster_rights(&self) -> Result<Rights, KafkaError> {
        Ok(Rights(self.ask_rights(&[], false).await?.cluster_authorized_operations))
    }

    async fn ask_rights(&self, topics: &[Arc<str>], of_topics: bool) -> Result<MetadataResponse, KafkaError> {
        let named =
            |topic: &Arc<str>| MetadataRequestTopic::default().with_name(Some(TopicName(string(topic))));
        let version =
            self.retrying(|| self.version::<MetadataRequest>(To::Any, METADATA_WITH_CLUSTER)).await?;
        let told = version >= METADATA_WITH_RIGHTS;
        let request = MetadataRequest::default()
            .with_topics(Some(topics.iter().map(named).collect()))
            .with_allow_auto_topic_creation(false)
            .with_include_topic_authorized_operations(told && of_topics)
            .with_include_cluster_authorized_operations(told && !of_topics);
        self.call_capped(To::Any, METADATA_WITH_CLUSTER, &request).await
    }

    /// What may be done to consumer groups, be they there or not. One whose coordinator may not be asked for has no rights.
    pub async fn group_rights(&self, groups: &[String]) -> Result<BTreeMap<String, Rights>, KafkaError> {
        let mut rights = BTreeMap::new();
        let mut by_coordinator: BTreeMap<i32, Vec<GroupId>> = BTreeMap::new();
        for (group, coordinator) in self.coordinators(groups).await {
            match coordinator {
                Ok(broker) => {
                    let id = GroupId(string(&group));
                    by_coordinator.entry(broker).or_default().push(id);
                }
                Err(error) if error.code() == Some(ErrorCode::GROUP_AUTHORIZATION_FAILED) => {
                    rights.insert(group, Rights(0));
                }
                Err(error) => return Err(error),
            }
        }
        for (broker, groups) in by_coordinator {
            let to = To::Broker(broker);
            let told = match self
                .retrying(|| self.version::<DescribeGroupsRequest>(to, GROUPS_THAT_ARE_NOT))
                .await
            {
                Ok(version) => version >= GROUPS_WITH_RIGHTS,
                // Some clusters don't speak it: nothing is told then.
                Err(KafkaError::Version { .. }) => {
                    rights.extend(groups.iter().map(|group| (group.to_string(), Rights(NOT_TOLD))));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for some in groups.chunks(PER_REQUEST) {
                let request = DescribeGroupsRequest::default()
                    .with_groups(some.to_vec())
                    .with_include_authorized_operations(told);
                let response = self.call_capped(To::Broker(broker), GROUPS_THAT_ARE_NOT, &request).await?;
                let asked = response.groups.into_iter().filter(|group| some.contains(&group.group_id));
                rights.extend(asked.map(|group| {
                    let denied = ErrorCode(group.error_code) == ErrorCode::GROUP_AUTHORIZATION_FAILED;
                    let told = Rights::of_described(group.authorized_operations);
                    (group.group_id.to_string(), if denied { Rights(0) } else { told })
                }));
            }
        }
        Ok(rights)
    }

    /// Whether a transactional id may be asked for. Brokers that have never had one make the topic that they keep such ids in.
    pub async fn may_fence(&self, id: &str) -> Result<bool, KafkaError> {
        match self.coordinator_once(id, TRANSACTION_KEY).await {
            Ok(_) => Ok(true),
            Err(error) if is_closed_way(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the broker speaks.
    pub async fn spoken(&self) -> Result<BrokerVersions, KafkaError> {
        self.with_connection(To::Any, async |connection| Ok(connection.versions().clone())).await
    }

    /// The time by the controller's clock, ms since 1970, and how long the question took. `None` where that can't be asked: below Kafka 3.3, without
    /// KRaft, or without the right Describe on the cluster (KIP-836).
    pub async fn controller_clock(&self) -> Result<Option<(i64, Duration)>, KafkaError> {
        let partition = PartitionData::default().with_partition_index(0);
        let name = TopicName(StrBytes::from_static_str("__cluster_metadata"));
        let topic = TopicData::default().with_topic_name(name).with_partitions(vec![partition]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let Ok(version) = self.version::<DescribeQuorumRequest>(To::Any, QUORUM_WITH_TIMES).await else {
            return Ok(None);
        };
        let began = Instant::now();
        let response = self.call_once(To::Any, version, &request).await?;
        let took = began.elapsed();
        let partition = response.topics.iter().flat_map(|topic| &topic.partitions).next();
        let leader = partition.and_then(|partition| {
            partition.current_voters.iter().find(|voter| voter.replica_id == partition.leader_id)
        });
        let time = leader.map(|leader| leader.last_caught_up_timestamp).filter(|time| *time > 0);
        Ok(time.map(|time| (time, took)))
    }

    /// Which of these operations we may not do to topics that are not there: asks for what can't be done to them anyway. Known are Read, Write,
    /// DescribeConfigs and AlterConfigs.
    pub async fn denied_for_absent(
        &self,
        topics: &[Arc<str>],
    ) -> Result<BTreeSet<(Operation, Arc<str>)>, KafkaError> {
        let mut denied = BTreeSet::new();
        for some in topics.chunks(PER_REQUEST) {
            let mut tries = 0;
            loop {
                tries += 1;
                match self.try_absent(some).await {
                    Ok(names) => denied.extend(names),
                    Err(error) if error.retry_class() == RetryClass::Never => return Err(error),
                    Err(_) if tries < PROBES => {
                        tokio::time::sleep(PROBE_AGAIN).await;
                        continue;
                    }
                    // Some gateways end the connection at such questions: it is found out when it is done.
                    Err(error) => tracing::info!("what may be done to new topics is not told: {error}"),
                }
                break;
            }
        }
        Ok(denied)
    }

    async fn try_absent(&self, topics: &[Arc<str>]) -> Result<Vec<(Operation, Arc<str>)>, KafkaError> {
        self.with_connection(To::Any, async |connection| {
            let denied = [
                (Operation::Write, write_denied(connection, topics).await),
                (Operation::Read, read_denied(connection, topics).await),
                (Operation::DescribeConfigs, describe_denied(connection, topics).await),
                (Operation::AlterConfigs, alter_denied(connection, topics).await),
            ];
            let mut all = Vec::new();
            for (operation, names) in denied {
                let names = match names {
                    // What is not spoken here can't be refused.
                    Err(KafkaError::Version { .. }) => Vec::new(),
                    names => names?,
                };
                all.extend(names.into_iter().map(|name| (operation, Arc::from(name.as_str()))));
            }
            Ok(all)
        })
        .await
    }
}

fn is_denied(code: i16) -> bool {
    ErrorCode(code) == ErrorCode::TOPIC_AUTHORIZATION_FAILED
}

/// Produce of bytes that no broker would store, should the topic have come into being.
async fn write_denied(connection: &mut Connection, topics: &[Arc<str>]) -> Result<Vec<String>, KafkaError> {
    let version = connection.produce_version(false)?;
    let mut nothing = vec![0; HEADER_LEN];
    // The length behind itself, and the magic byte: a batch of no records whose checksum is wrong.
    if let Some(length) = nothing.get_mut(8..12) {
        length.copy_from_slice(&(HEADER_LEN as i32 - 12).to_be_bytes());
    }
    if let Some(magic) = nothing.get_mut(16) {
        *magic = 2;
    }
    let batches: Vec<&[u8]> = topics.iter().map(|_| nothing.as_slice()).collect();
    let target = |topic| Target { topic, topic_id: NO_TOPIC_ID, partition: 0, batch_len: nothing.len() };
    let targets: Vec<Target<'_>> = topics.iter().map(|topic| target(&**topic)).collect();
    connection.send_produce(version, &targets, &batches).await?;
    let acks = connection.receive_produce(version).await?.acks;
    Ok(acks.into_iter().filter(|ack| is_denied(ack.error.0)).map(|ack| ack.topic).collect())
}

#[derive(Default)]
struct Refusals(Vec<String>, Vec<u8>);

impl FetchSink for Refusals {
    type Error = KafkaError;

    async fn make_room(&mut self, head: &PartitionHead) -> Result<(), KafkaError> {
        // Nothing is there to be sent, unless the topic has just come into being.
        self.1.resize(head.records_len, 0);
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.1
    }

    fn partition(&mut self, head: &PartitionHead, _: Option<(i32, i64)>) -> Result<(), KafkaError> {
        if is_denied(head.error_code().0) {
            self.0.push(head.topic.clone());
        }
        Ok(())
    }
}

async fn read_denied(connection: &mut Connection, topics: &[Arc<str>]) -> Result<Vec<String>, KafkaError> {
    let partition = |topic| Partition {
        topic,
        topic_id: NO_TOPIC_ID,
        partition: 0,
        offset: 0,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        max_bytes: 1,
    };
    let partitions: Vec<Partition<'_>> = topics.iter().map(|topic| partition(&**topic)).collect();
    let limits = Limits { isolation: Isolation::Committed, max_wait_ms: 0, min_bytes: 0, max_bytes: 1 };
    let mut refusals = Refusals::default();
    connection.fetch(limits, &partitions, &mut refusals).await?;
    Ok(refusals.0)
}

async fn describe_denied(
    connection: &mut Connection,
    topics: &[Arc<str>],
) -> Result<Vec<String>, KafkaError> {
    let resource = |topic: &Arc<str>| {
        DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(string(topic))
            .with_configuration_keys(Some(Vec::new()))
    };
    let request = DescribeConfigsRequest::default().with_resources(topics.iter().map(resource).collect());
    let results = connection.call(&request).await?.results;
    Ok(results.into_iter().filter(|r| is_denied(r.error_code)).map(|r| r.resource_name.to_string()).collect())
}

async fn alter_denied(connection: &mut Connection, topics: &[Arc<str>]) -> Result<Vec<String>, KafkaError> {
    let harmless = || {
        AlterableConfig::default()
            .with_name(StrBytes::from_static_str("retention.ms"))
            .with_config_operation(OP_SET)
            .with_value(Some(StrBytes::from_static_str("-1")))
    };
    let resource = |topic: &Arc<str>| {
        AlterConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(string(topic))
            .with_configs(vec![harmless()])
    };
    let request = IncrementalAlterConfigsRequest::default()
        .with_resources(topics.iter().map(resource).collect())
        .with_validate_only(true);
    let results = connection.call(&request).await?.responses;
    Ok(results.into_iter().filter(|r| is_denied(r.error_code)).map(|r| r.resource_name.to_string()).collect())
}

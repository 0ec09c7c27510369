//! Honest answers about everything but logs: versions, metadata, settings, groups, producers.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, StrBytes};

use super::script::{Call, encode};
use super::world::World;

const TOPIC_EXISTS: i16 = 36;
const UNKNOWN_TOPIC: i16 = 3;
const OWN_SETTING: i8 = 1;
const DEFAULT_SETTING: i8 = 5;
const OP_DELETE: i8 = 1;

/// What is spoken here, and up to which version.
const APIS: [(ApiKey, i16, i16); 17] = [
    (ApiKey::Produce, 3, 12),
    (ApiKey::Fetch, 4, 17),
    (ApiKey::ListOffsets, 1, 9),
    (ApiKey::Metadata, 4, 12),
    (ApiKey::OffsetCommit, 2, 9),
    (ApiKey::OffsetFetch, 8, 9),
    (ApiKey::FindCoordinator, 0, 3),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::ApiVersions, 0, 3),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::AddPartitionsToTxn, 0, 3),
    (ApiKey::EndTxn, 0, 3),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::DeleteTopics, 1, 6),
];

/// Settings that every topic has.
const DEFAULTS: [(&str, &str); 9] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.after.max.ms", "3600000"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.type", "CreateTime"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.ms", "604800000"),
];

pub(super) fn answer(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    match call.api {
        ApiKey::ApiVersions => api_versions(call),
        ApiKey::Metadata => metadata(call, world),
        ApiKey::DescribeConfigs => describe_configs(call, world),
        ApiKey::CreateTopics => create_topics(call, world),
        ApiKey::IncrementalAlterConfigs => alter_configs(call, world),
        ApiKey::FindCoordinator => {
            let port = world.ports.first().copied().unwrap_or(0);
            let response =
                FindCoordinatorResponse::default().with_host(text("127.0.0.1")).with_port(port.into());
            encode(&response, call.version)
        }
        ApiKey::ListGroups => list_groups(call, world),
        ApiKey::OffsetFetch => offset_fetch(call, world),
        ApiKey::OffsetCommit => offset_commit(call, world),
        ApiKey::InitProducerId => init_producer_id(call, world),
        ApiKey::AddPartitionsToTxn => add_partitions(call, world),
        ApiKey::EndTxn => end_txn(call, world),
        other => bail!("{other:?} is not spoken here"),
    }
}

fn asked<R: Request>(call: &Call<'_>) -> Result<R> {
    call.request().context("the request cannot be read")
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

fn api_versions(call: &Call<'_>) -> Result<Bytes> {
    let apis = APIS.iter().map(|(key, min, max)| {
        ApiVersion::default().with_api_key(*key as i16).with_min_version(*min).with_max_version(*max)
    });
    encode(&ApiVersionsResponse::default().with_api_keys(apis.collect()), call.version)
}

fn metadata(call: &Call<'_>, world: &World) -> Result<Bytes> {
    let brokers = world.ports.iter().enumerate().map(|(id, port)| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(id as i32))
            .with_host(text("127.0.0.1"))
            .with_port((*port).into())
    });
    let all: Vec<BrokerId> = (0..world.ports.len()).map(|id| BrokerId(id as i32)).collect();
    let topics = world.topics.iter().map(|(name, topic)| {
        let partitions = topic.partitions.iter().enumerate().map(|(index, log)| {
            let partition = MetadataResponsePartition::default()
                .with_partition_index(index as i32)
                .with_leader_id(BrokerId(log.leader))
                .with_replica_nodes(all.clone())
                .with_isr_nodes(all.clone());
            if call.version >= 7 { partition.with_leader_epoch(log.epoch) } else { partition }
        });
        let described = MetadataResponseTopic::default()
            .with_name(Some(TopicName(text(name.as_str()))))
            .with_partitions(partitions.collect());
        if call.version >= 10 { described.with_topic_id(topic.id) } else { described }
    });
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(text(world.cluster_id.as_str())))
        .with_topics(topics.collect());
    encode(&response, call.version)
}

fn describe_configs(call: &Call<'_>, world: &World) -> Result<Bytes> {
    let request: DescribeConfigsRequest = asked(call)?;
    let results = request.resources.into_iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        let Some(topic) = world.topics.get(resource.resource_name.as_str()) else {
            return result.with_error_code(UNKNOWN_TOPIC);
        };
        let mut all: BTreeMap<&str, (&str, i8)> =
            DEFAULTS.iter().map(|(name, value)| (*name, (*value, DEFAULT_SETTING))).collect();
        all.extend(topic.configs.iter().map(|(name, value)| (name.as_str(), (value.as_str(), OWN_SETTING))));
        let configs = all.into_iter().map(|(name, (value, source))| {
            DescribeConfigsResourceResult::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
                .with_config_source(source)
        });
        result.with_configs(configs.collect())
    });
    let results = results.collect();
    encode(&DescribeConfigsResponse::default().with_results(results), call.version)
}

fn create_topics(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: CreateTopicsRequest = asked(call)?;
    let mut results = Vec::new();
    for topic in request.topics {
        let result = CreatableTopicResult::default().with_name(topic.name.clone());
        if world.topics.contains_key(topic.name.as_str()) {
            results.push(result.with_error_code(TOPIC_EXISTS));
            continue;
        }
        if !request.validate_only {
            let configs = topic.configs.into_iter();
            let configs = configs.filter_map(|c| Some((c.name.to_string(), c.value?.to_string()))).collect();
            world.create(&topic.name, usize::try_from(topic.num_partitions)?, configs);
        }
        results.push(result);
    }
    encode(&CreateTopicsResponse::default().with_topics(results), call.version)
}

fn alter_configs(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: IncrementalAlterConfigsRequest = asked(call)?;
    let mut responses = Vec::new();
    for resource in request.resources {
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        let Some(topic) = world.topics.get_mut(resource.resource_name.as_str()) else {
            responses.push(response.with_error_code(UNKNOWN_TOPIC));
            continue;
        };
        for config in resource.configs.into_iter().filter(|_| !request.validate_only) {
            let name = config.name.to_string();
            match config.value.filter(|_| config.config_operation != OP_DELETE) {
                Some(value) => topic.configs.insert(name, value.to_string()),
                None => topic.configs.remove(&name),
            };
        }
        responses.push(response);
    }
    encode(&IncrementalAlterConfigsResponse::default().with_responses(responses), call.version)
}

fn list_groups(call: &Call<'_>, world: &World) -> Result<Bytes> {
    let groups = world.groups.keys().map(|group| {
        let listed = ListedGroup::default()
            .with_group_id(GroupId(text(group.as_str())))
            .with_protocol_type(text("consumer"));
        let listed = if call.version >= 4 { listed.with_group_state(text("Empty")) } else { listed };
        if call.version >= 5 { listed.with_group_type(text("classic")) } else { listed }
    });
    // All groups are with the first broker.
    let groups = if call.node == 0 { groups.collect() } else { Vec::new() };
    encode(&ListGroupsResponse::default().with_groups(groups), call.version)
}

fn offset_fetch(call: &Call<'_>, world: &World) -> Result<Bytes> {
    let request: OffsetFetchRequest = asked(call)?;
    let groups = request.groups.into_iter().map(|asked| {
        let mut topics: BTreeMap<&str, Vec<OffsetFetchResponsePartitions>> = BTreeMap::new();
        for ((topic, partition), offset) in world.groups.get(asked.group_id.as_str()).into_iter().flatten() {
            let committed = OffsetFetchResponsePartitions::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_metadata(Some(StrBytes::default()));
            topics.entry(topic).or_default().push(committed);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetFetchResponseTopics::default().with_name(TopicName(text(name))).with_partitions(partitions)
        });
        OffsetFetchResponseGroup::default().with_group_id(asked.group_id).with_topics(topics.collect())
    });
    let groups = groups.collect();
    encode(&OffsetFetchResponse::default().with_groups(groups), call.version)
}

fn offset_commit(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: OffsetCommitRequest = asked(call)?;
    let group = world.groups.entry(request.group_id.to_string()).or_default();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            group.insert((topic.name.to_string(), partition.partition_index), partition.committed_offset);
            OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index)
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    let topics = topics.collect();
    encode(&OffsetCommitResponse::default().with_topics(topics), call.version)
}

fn init_producer_id(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: InitProducerIdRequest = asked(call)?;
    let fresh = 4000 + world.epochs.len() as i64;
    let id = match request.transactional_id {
        None => fresh,
        Some(name) => {
            let transaction = world.transactions.entry(name.to_string()).or_default();
            if transaction.producer_id == 0 {
                transaction.producer_id = fresh;
            }
            transaction.producer_id
        }
    };
    let epoch = world.epochs.entry(id).and_modify(|epoch| *epoch += 1).or_insert(0);
    let response =
        InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(*epoch);
    encode(&response, call.version)
}

fn add_partitions(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: AddPartitionsToTxnRequest = asked(call)?;
    let name = request.v3_and_below_transactional_id.to_string();
    let transaction = world.transactions.entry(name).or_default();
    let results = request.v3_and_below_topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            transaction.open.insert((topic.name.to_string(), *partition));
            AddPartitionsToTxnPartitionResult::default().with_partition_index(*partition)
        });
        let partitions = partitions.collect();
        AddPartitionsToTxnTopicResult::default().with_name(topic.name).with_results_by_partition(partitions)
    });
    let results = results.collect();
    encode(&AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results), call.version)
}

/// Ends a transaction: in each of its partitions a marker says that it was aborted. Nothing here commits one.
fn end_txn(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: EndTxnRequest = asked(call)?;
    if request.committed {
        bail!("transactions are only aborted here");
    }
    let transaction = world.transactions.get_mut(request.transactional_id.as_str());
    let open = transaction.map(|transaction| std::mem::take(&mut transaction.open)).unwrap_or_default();
    for (topic, partition) in open {
        let log = world.log(&topic, usize::try_from(partition)?).context("no such partition")?;
        log.abort_marker(request.producer_id.0, request.producer_epoch)?;
    }
    encode(&EndTxnResponse::default(), call.version)
}

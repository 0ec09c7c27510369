//! Answers with something in every field that a version has.

use bodley_protocol::StrBytes;
use bodley_protocol::messages::*;
use bytes::Bytes;
use uuid::Uuid;

/// An answer that fills every list.
pub trait Sample {
    /// In this version.
    fn sample(version: i16) -> Self;
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic(name: &'static str) -> TopicName {
    TopicName(text(name))
}

/// The value where the version has the field, else the default.
fn given<T: Default>(has: bool, value: T) -> T {
    if has { value } else { T::default() }
}

macro_rules! tag {
    ($message:expr, $flexible:expr) => {{
        let mut message = $message;
        if $flexible {
            message.unknown_tagged_fields.insert(200, Bytes::from_static(&[7; 130]));
            message.unknown_tagged_fields.insert(201, Bytes::new());
        }
        message
    }};
}

impl Sample for ProduceResponse {
    fn sample(v: i16) -> Self {
        use produce_response::*;
        let error = || tag!(BatchIndexAndErrorMessage::default().with_batch_index(3), v >= 9);
        let mut partition = PartitionProduceResponse::default().with_index(4).with_error_code(87);
        partition = partition.with_base_offset(1 << 40).with_log_append_time_ms(5);
        if v >= 5 {
            partition.log_start_offset = 9;
        }
        if v >= 8 {
            let worded = error().with_batch_index_error_message(Some(text("bad record")));
            partition.record_errors = vec![error(), worded];
            partition.error_message = Some(text("no"));
        }
        if v >= 10 {
            let leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(5)).with_leader_epoch(6);
            partition.current_leader = tag!(leader, true);
        }
        let topic = TopicProduceResponse::default()
            .with_name(given(v <= 12, topic("orders")))
            .with_topic_id(given(v >= 13, Uuid::from_u128(7)))
            .with_partition_responses(vec![tag!(partition, v >= 9), PartitionProduceResponse::default()]);
        let mut response = ProduceResponse::default().with_throttle_time_ms(1);
        response.responses = vec![tag!(topic, v >= 9), TopicProduceResponse::default()];
        if v >= 10 {
            let endpoint = NodeEndpoint::default().with_host(text("a")).with_rack(Some(text("r")));
            response.node_endpoints = vec![endpoint.clone(), tag!(endpoint, true)];
        }
        tag!(response, v >= 9)
    }
}

impl Sample for ListOffsetsResponse {
    fn sample(v: i16) -> Self {
        use list_offsets_response::*;
        let mut partition =
            ListOffsetsPartitionResponse::default().with_partition_index(3).with_offset(1 << 50);
        if v >= 4 {
            partition.leader_epoch = 8;
        }
        let other = ListOffsetsPartitionResponse::default().with_error_code(6);
        let topic = ListOffsetsTopicResponse::default()
            .with_name(topic("orders"))
            .with_partitions(vec![tag!(partition, v >= 6), other]);
        let response = ListOffsetsResponse::default()
            .with_throttle_time_ms(given(v >= 2, 4))
            .with_topics(vec![tag!(topic, v >= 6), ListOffsetsTopicResponse::default()]);
        tag!(response, v >= 6)
    }
}

impl Sample for MetadataResponse {
    fn sample(v: i16) -> Self {
        use metadata_response::*;
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(3))
            .with_host(text("broker-3.example"))
            .with_port(9092)
            .with_rack(given(v >= 1, Some(text("rack"))));
        let mut partition = MetadataResponsePartition::default()
            .with_partition_index(2)
            .with_leader_id(BrokerId(3))
            .with_replica_nodes(vec![BrokerId(3), BrokerId(4), BrokerId(5)])
            .with_isr_nodes(vec![BrokerId(3)]);
        if v >= 5 {
            partition.offline_replicas = vec![BrokerId(4)];
        }
        if v >= 7 {
            partition.leader_epoch = 12;
        }
        let mut orders = MetadataResponseTopic::default()
            .with_name(Some(topic("orders")))
            .with_topic_id(given(v >= 10, Uuid::from_u128(9)))
            .with_is_internal(v >= 1)
            .with_partitions(vec![tag!(partition, v >= 9), MetadataResponsePartition::default()]);
        if v >= 8 {
            orders.topic_authorized_operations = 0xff;
        }
        let empty = MetadataResponseTopic::default().with_name((v < 12).then(|| topic("empty")));
        let mut response = MetadataResponse::default()
            .with_throttle_time_ms(given(v >= 3, 6))
            .with_brokers(vec![tag!(broker, v >= 9), MetadataResponseBroker::default()])
            .with_cluster_id(given(v >= 2, Some(text("cluster"))))
            .with_topics(vec![tag!(orders, v >= 9), empty]);
        if v >= 1 {
            response.controller_id = BrokerId(3);
        }
        if (8..=10).contains(&v) {
            response.cluster_authorized_operations = 3;
        }
        response.error_code = given(v >= 13, 5);
        tag!(response, v >= 9)
    }
}

impl Sample for OffsetCommitResponse {
    fn sample(v: i16) -> Self {
        use offset_commit_response::*;
        let partition = OffsetCommitResponsePartition::default().with_partition_index(3).with_error_code(12);
        let topic = OffsetCommitResponseTopic::default()
            .with_name(given(v <= 9, topic("orders")))
            .with_topic_id(given(v >= 10, Uuid::from_u128(3)))
            .with_partitions(vec![partition.clone(), tag!(partition, v >= 8)]);
        let response = OffsetCommitResponse::default()
            .with_throttle_time_ms(given(v >= 3, 2))
            .with_topics(vec![OffsetCommitResponseTopic::default(), tag!(topic, v >= 8)]);
        tag!(response, v >= 8)
    }
}

impl Sample for OffsetFetchResponse {
    fn sample(v: i16) -> Self {
        use offset_fetch_response::*;
        let response = OffsetFetchResponse::default().with_throttle_time_ms(given(v >= 3, 2));
        if v <= 7 {
            let mut partition = OffsetFetchResponsePartition::default()
                .with_committed_offset(1 << 33)
                .with_metadata(Some(text("words")));
            if v >= 5 {
                partition.committed_leader_epoch = 4;
            }
            let null = OffsetFetchResponsePartition::default().with_metadata(None);
            let orders = OffsetFetchResponseTopic::default().with_name(topic("orders"));
            let orders = orders.with_partitions(vec![tag!(partition, v >= 6), null]);
            let response = response.with_error_code(given(v >= 2, 3));
            return tag!(response.with_topics(vec![tag!(orders, v >= 6)]), v >= 6);
        }
        let partition = OffsetFetchResponsePartitions::default()
            .with_committed_offset(1 << 33)
            .with_committed_leader_epoch(5)
            .with_metadata(Some(text("words")));
        let orders = OffsetFetchResponseTopics::default()
            .with_name(given(v <= 9, topic("orders")))
            .with_topic_id(given(v >= 10, Uuid::from_u128(3)))
            .with_partitions(vec![tag!(partition, true), OffsetFetchResponsePartitions::default()]);
        let group = OffsetFetchResponseGroup::default()
            .with_group_id(GroupId(text("readers")))
            .with_topics(vec![tag!(orders, true)])
            .with_error_code(1);
        tag!(response.with_groups(vec![tag!(group, true), OffsetFetchResponseGroup::default()]), true)
    }
}

impl Sample for OffsetDeleteResponse {
    fn sample(_: i16) -> Self {
        use offset_delete_response::*;
        let partition = |index, code| {
            OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(code)
        };
        let of = OffsetDeleteResponseTopic::default()
            .with_name(topic("orders"))
            .with_partitions(vec![partition(0, 0), partition(3, 86)]);
        let topics = vec![of, OffsetDeleteResponseTopic::default()];
        OffsetDeleteResponse::default().with_error_code(69).with_throttle_time_ms(2).with_topics(topics)
    }
}

impl Sample for FindCoordinatorResponse {
    fn sample(v: i16) -> Self {
        use find_coordinator_response::Coordinator;
        let response = FindCoordinatorResponse::default().with_throttle_time_ms(given(v >= 1, 2));
        if v <= 3 {
            let mut response = response.with_error_code(15).with_node_id(BrokerId(2)).with_port(9092);
            response.host = text("broker-2");
            if v >= 1 {
                response.error_message = Some(text("loading"));
            }
            return tag!(response, v >= 3);
        }
        let one = Coordinator::default().with_key(text("readers")).with_host(text("broker-2")).with_port(9);
        let one = one.with_error_message(Some(text("no")));
        tag!(response.with_coordinators(vec![tag!(one.clone(), true), one]), true)
    }
}

impl Sample for DescribeGroupsResponse {
    fn sample(v: i16) -> Self {
        use describe_groups_response::*;
        let mut member = DescribedGroupMember::default()
            .with_member_id(text("m-1"))
            .with_client_id(text("c"))
            .with_client_host(text("/127.0.0.1"))
            .with_member_metadata(Bytes::from_static(&[1, 2, 3]))
            .with_member_assignment(Bytes::from_static(&[4]));
        if v >= 4 {
            member.group_instance_id = Some(text("i"));
        }
        let mut group = DescribedGroup::default()
            .with_group_id(GroupId(text("billing")))
            .with_group_state(text("Stable"))
            .with_protocol_type(text("consumer"))
            .with_protocol_data(text("range"))
            .with_members(vec![tag!(member, v >= 5), DescribedGroupMember::default()]);
        if v >= 3 {
            group.authorized_operations = 0x108;
        }
        if v >= 6 {
            group.error_message = Some(text("gone"));
        }
        let response = DescribeGroupsResponse::default()
            .with_throttle_time_ms(given(v >= 1, 4))
            .with_groups(vec![tag!(group, v >= 5), DescribedGroup::default()]);
        tag!(response, v >= 5)
    }
}

impl Sample for ListGroupsResponse {
    fn sample(v: i16) -> Self {
        use list_groups_response::ListedGroup;
        let group = ListedGroup::default()
            .with_group_id(GroupId(text("readers")))
            .with_protocol_type(text("consumer"))
            .with_group_state(given(v >= 4, text("Stable")))
            .with_group_type(given(v >= 5, text("classic")));
        let response = ListGroupsResponse::default()
            .with_throttle_time_ms(given(v >= 1, 2))
            .with_groups(vec![tag!(group.clone(), v >= 3), group]);
        tag!(response, v >= 3)
    }
}

impl Sample for SaslHandshakeResponse {
    fn sample(_: i16) -> Self {
        let mechanisms = vec![text("PLAIN"), text("SCRAM-SHA-512")];
        SaslHandshakeResponse::default().with_error_code(33).with_mechanisms(mechanisms)
    }
}

impl Sample for SaslAuthenticateResponse {
    fn sample(v: i16) -> Self {
        let response = SaslAuthenticateResponse::default()
            .with_error_message(Some(text("no")))
            .with_auth_bytes(Bytes::from_static(&[9; 300]))
            .with_session_lifetime_ms(given(v >= 1, 3_600_000));
        tag!(response, v >= 2)
    }
}

impl Sample for CreateTopicsResponse {
    fn sample(v: i16) -> Self {
        use create_topics_response::*;
        let mut orders = CreatableTopicResult::default()
            .with_name(topic("orders"))
            .with_topic_id(given(v >= 7, Uuid::from_u128(5)))
            .with_error_message(Some(text("exists")));
        if v >= 5 {
            let config = CreatableTopicConfigs::default().with_name(text("a")).with_value(Some(text("b")));
            orders.configs = Some(vec![tag!(config.clone(), true), config]);
            orders = orders.with_num_partitions(8).with_replication_factor(3);
            orders.topic_config_error_code = 29;
        }
        let response = CreateTopicsResponse::default().with_throttle_time_ms(2);
        tag!(response.with_topics(vec![tag!(orders, v >= 5), CreatableTopicResult::default()]), v >= 5)
    }
}

impl Sample for InitProducerIdResponse {
    fn sample(v: i16) -> Self {
        let mut response = InitProducerIdResponse::default().with_producer_id(ProducerId(1 << 40));
        response = response.with_producer_epoch(3).with_throttle_time_ms(9);
        if v >= 6 {
            response =
                response.with_ongoing_txn_producer_id(ProducerId(4)).with_ongoing_txn_producer_epoch(2);
        }
        tag!(response, v >= 2)
    }
}

impl Sample for OffsetForLeaderEpochResponse {
    fn sample(v: i16) -> Self {
        use offset_for_leader_epoch_response::*;
        let end = EpochEndOffset::default().with_partition(3).with_leader_epoch(4).with_end_offset(1 << 40);
        let orders = OffsetForLeaderTopicResult::default()
            .with_topic(topic("orders"))
            .with_partitions(vec![tag!(end.clone(), v >= 4), end]);
        let response = OffsetForLeaderEpochResponse::default().with_throttle_time_ms(2);
        tag!(response.with_topics(vec![tag!(orders, v >= 4)]), v >= 4)
    }
}

impl Sample for AddPartitionsToTxnResponse {
    fn sample(v: i16) -> Self {
        use add_partitions_to_txn_response::*;
        let partition = AddPartitionsToTxnPartitionResult::default().with_partition_error_code(3);
        let orders = AddPartitionsToTxnTopicResult::default()
            .with_name(topic("orders"))
            .with_results_by_partition(vec![tag!(partition.clone(), v >= 3), partition]);
        let orders = tag!(orders, v >= 3);
        let response = AddPartitionsToTxnResponse::default().with_throttle_time_ms(2);
        if v <= 3 {
            return tag!(response.with_results_by_topic_v3_and_below(vec![orders]), v >= 3);
        }
        let result = AddPartitionsToTxnResult::default()
            .with_transactional_id(TransactionalId(text("restore")))
            .with_topic_results(vec![orders]);
        tag!(response.with_error_code(4).with_results_by_transaction(vec![tag!(result, true)]), true)
    }
}

impl Sample for EndTxnResponse {
    fn sample(v: i16) -> Self {
        let mut response = EndTxnResponse::default().with_throttle_time_ms(2).with_error_code(47);
        if v >= 5 {
            response = response.with_producer_id(ProducerId(3)).with_producer_epoch(4);
        }
        tag!(response, v >= 3)
    }
}

impl Sample for WriteTxnMarkersResponse {
    fn sample(v: i16) -> Self {
        use write_txn_markers_response::*;
        let partition =
            WritableTxnMarkerPartitionResult::default().with_partition_index(1).with_error_code(47);
        let partition = tag!(partition, v >= 1);
        let topic = WritableTxnMarkerTopicResult::default()
            .with_name(TopicName(text("orders")))
            .with_partitions(vec![partition.clone(), partition]);
        let marker = WritableTxnMarkerResult::default()
            .with_producer_id(ProducerId(5))
            .with_topics(vec![tag!(topic, v >= 1)]);
        tag!(WriteTxnMarkersResponse::default().with_markers(vec![tag!(marker, v >= 1)]), v >= 1)
    }
}

impl Sample for DescribeConfigsResponse {
    fn sample(v: i16) -> Self {
        use describe_configs_response::*;
        let synonym = DescribeConfigsSynonym::default().with_name(text("log.x")).with_value(Some(text("1")));
        let mut config = DescribeConfigsResourceResult::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("-1")))
            .with_config_source(1)
            .with_synonyms(vec![tag!(synonym.clone(), v >= 4), synonym]);
        if v >= 3 {
            config = config.with_config_type(5).with_documentation(Some(text("how long")));
        }
        let orders = DescribeConfigsResult::default()
            .with_error_message(Some(text("no")))
            .with_resource_name(text("orders"))
            .with_configs(vec![tag!(config, v >= 4), DescribeConfigsResourceResult::default()]);
        let response = DescribeConfigsResponse::default().with_throttle_time_ms(2);
        tag!(response.with_results(vec![tag!(orders, v >= 4), DescribeConfigsResult::default()]), v >= 4)
    }
}

impl Sample for IncrementalAlterConfigsResponse {
    fn sample(v: i16) -> Self {
        use incremental_alter_configs_response::AlterConfigsResourceResponse;
        let one = AlterConfigsResourceResponse::default()
            .with_error_code(40)
            .with_error_message(Some(text("no")))
            .with_resource_type(2)
            .with_resource_name(text("orders"));
        let response = IncrementalAlterConfigsResponse::default().with_throttle_time_ms(2);
        tag!(response.with_responses(vec![tag!(one.clone(), v >= 1), one]), v >= 1)
    }
}

impl Sample for DescribeQuorumResponse {
    fn sample(v: i16) -> Self {
        use describe_quorum_response::*;
        let mut replica = ReplicaState::default().with_replica_id(BrokerId(1)).with_log_end_offset(77);
        if v >= 1 {
            (replica.last_fetch_timestamp, replica.last_caught_up_timestamp) = (5, 6);
        }
        if v >= 2 {
            replica.replica_directory_id = Uuid::from_u128(4);
        }
        let mut partition = PartitionData::default()
            .with_leader_id(BrokerId(1))
            .with_leader_epoch(3)
            .with_high_watermark(70)
            .with_current_voters(vec![tag!(replica.clone(), true), ReplicaState::default()])
            .with_observers(vec![replica]);
        let mut response = DescribeQuorumResponse::default();
        if v >= 2 {
            partition.error_message = Some(text("no"));
            response.error_message = Some(text("none"));
            let listener = Listener::default().with_name(text("L")).with_host(text("h")).with_port(9093);
            let node = Node::default().with_node_id(BrokerId(1)).with_listeners(vec![tag!(listener, true)]);
            response.nodes = vec![tag!(node, true), Node::default()];
        }
        let partitions = vec![tag!(partition, true), PartitionData::default()];
        let quorum =
            TopicData::default().with_topic_name(topic("__cluster_metadata")).with_partitions(partitions);
        response.topics = vec![tag!(quorum, true), TopicData::default()];
        tag!(response, true)
    }
}

impl Sample for DescribeProducersResponse {
    fn sample(_: i16) -> Self {
        use describe_producers_response::*;
        let producer = ProducerState::default()
            .with_producer_id(ProducerId(1 << 40))
            .with_producer_epoch(2)
            .with_last_sequence(3)
            .with_last_timestamp(1 << 41)
            .with_coordinator_epoch(4)
            .with_current_txn_start_offset(5);
        let partition = PartitionResponse::default()
            .with_partition_index(6)
            .with_error_code(29)
            .with_error_message(Some(text("no")))
            .with_active_producers(vec![tag!(producer, true), ProducerState::default()]);
        let topic = TopicResponse::default()
            .with_name(topic("orders"))
            .with_partitions(vec![tag!(partition, true), PartitionResponse::default()]);
        let response = DescribeProducersResponse::default().with_throttle_time_ms(1);
        tag!(response.with_topics(vec![tag!(topic, true), TopicResponse::default()]), true)
    }
}

impl Sample for DescribeTransactionsResponse {
    fn sample(_: i16) -> Self {
        use describe_transactions_response::*;
        let topic = TopicData::default().with_topic(topic("orders")).with_partitions(vec![1, 2]);
        let state = TransactionState::default()
            .with_error_code(53)
            .with_transactional_id(TransactionalId(text("tx")))
            .with_transaction_state(text("Ongoing"))
            .with_transaction_timeout_ms(3)
            .with_transaction_start_time_ms(1 << 41)
            .with_producer_id(ProducerId(5))
            .with_producer_epoch(6)
            .with_topics(vec![tag!(topic, true), TopicData::default()]);
        let response = DescribeTransactionsResponse::default().with_throttle_time_ms(1);
        tag!(response.with_transaction_states(vec![tag!(state, true), TransactionState::default()]), true)
    }
}

impl Sample for ListTransactionsResponse {
    fn sample(_: i16) -> Self {
        use list_transactions_response::*;
        let state = TransactionState::default()
            .with_transactional_id(TransactionalId(text("tx")))
            .with_producer_id(ProducerId(5))
            .with_transaction_state(text("Ongoing"));
        let response = ListTransactionsResponse::default()
            .with_throttle_time_ms(1)
            .with_error_code(14)
            .with_unknown_state_filters(vec![text("Odd")]);
        tag!(response.with_transaction_states(vec![tag!(state, true), TransactionState::default()]), true)
    }
}

//! Transactions without data: a marker of a producer's newer epoch in a partition makes its leader refuse every late request of the older one.
//!
//! Sources: KIP-98 (epochs, markers, InitProducerId), KIP-664 (WriteTxnMarkers by an administrator). Versions are capped below
//! KIP-890's, in which ending a transaction changes the epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use bodley_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use bodley_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, ProducerId, TopicName, TransactionalId,
    WriteTxnMarkersRequest,
};
use bodley_protocol::{ErrorCode, StrBytes};

use super::cluster::{Cluster, To};
use super::error::KafkaError;
use super::layout::TopicPartition;
use super::produce::ProducerIdentity;

pub(super) const TRANSACTION_KEY: i8 = 1;
const INIT_PRODUCER_ID_CAP: i16 = 4;
const ADD_PARTITIONS_CAP: i16 = 3;
const END_CAP: i16 = 4;
/// Any broker allows a transaction to be open this long.
const TRANSACTION_TIMEOUT_MS: i32 = 60_000;
/// Partitions of one transaction: its description has to fit into one record of the coordinator's log.
const PARTITIONS_PER_TRANSACTION: usize = 5_000;

fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}

impl Cluster {
    /// The producer id of a transactional id, each time with the next epoch. A transaction that an earlier holder left open is aborted first.
    pub async fn transactional_identity(&self, id: &str) -> Result<ProducerIdentity, KafkaError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id(id)))
            .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        self.retrying(|| async {
            let to = To::Broker(self.coordinator_of(id, TRANSACTION_KEY).await?);
            let response = self.call_once(to, INIT_PRODUCER_ID_CAP, &request).await?;
            KafkaError::check("InitProducerId", || id.to_owned(), response.error_code)?;
            Ok(ProducerIdentity { id: response.producer_id.0, epoch: response.producer_epoch })
        })
        .await
    }

    /// Begins and aborts transactions without data, so that a marker of `who` stands at the end of each partition, replicated, when this returns.
    pub async fn empty_transaction(
        &self,
        id: &str,
        who: ProducerIdentity,
        partitions: &[TopicPartition],
    ) -> Result<(), KafkaError> {
        for some in partitions.chunks(PARTITIONS_PER_TRANSACTION) {
            self.retrying(|| self.add_partitions(id, who, some)).await?;
            // The first answer says that the end is decided; another one comes only when all markers are written.
            for _ in 0..2 {
                self.retrying(|| self.abort(id, who)).await?;
            }
        }
        Ok(())
    }

    async fn add_partitions(
        &self,
        id: &str,
        who: ProducerIdentity,
        partitions: &[TopicPartition],
    ) -> Result<(), KafkaError> {
        let topics = by_topic(partitions).into_iter().map(|(name, partitions)| {
            AddPartitionsToTxnTopic::default().with_name(name).with_partitions(partitions)
        });
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional_id(id))
            .with_v3_and_below_producer_id(ProducerId(who.id))
            .with_v3_and_below_producer_epoch(who.epoch)
            .with_v3_and_below_topics(topics.collect());
        let to = To::Broker(self.coordinator_of(id, TRANSACTION_KEY).await?);
        let response = self.call_once(to, ADD_PARTITIONS_CAP, &request).await?;
        let results = response.results_by_topic_v3_and_below.iter();
        let results = results.flat_map(|t| t.results_by_partition.iter().map(move |p| (t.name.as_str(), p)));
        let answered = results.clone().map(|(topic, p)| (topic, p.partition_index)).collect();
        all_answered("AddPartitionsToTxn", partitions, &answered)?;
        // One refused partition makes the others 55 (not attempted): the cause is the other one.
        let mut results: Vec<_> = results.filter(|(_, p)| p.partition_error_code != 0).collect();
        results.sort_by_key(|(_, p)| ErrorCode(p.partition_error_code) == ErrorCode::OPERATION_NOT_ATTEMPTED);
        let Some((topic, refused)) = results.first() else { return Ok(()) };
        let subject = || format!("{topic}-{}", refused.partition_index);
        KafkaError::check("AddPartitionsToTxn", subject, refused.partition_error_code)
    }

    async fn abort(&self, id: &str, who: ProducerIdentity) -> Result<(), KafkaError> {
        let request = EndTxnRequest::default()
            .with_transactional_id(transactional_id(id))
            .with_producer_id(ProducerId(who.id))
            .with_producer_epoch(who.epoch)
            .with_committed(false);
        let to = To::Broker(self.coordinator_of(id, TRANSACTION_KEY).await?);
        let response = self.call_once(to, END_CAP, &request).await?;
        KafkaError::check("EndTxn", || id.to_owned(), response.error_code)
    }

    /// Writes an abort marker of `who` to each partition, asking its leader directly. Needs ClusterAction, or since Kafka 3.8 Alter, on the
    /// cluster. The markers are replicated when this returns.
    pub async fn write_markers(
        &self,
        who: ProducerIdentity,
        partitions: &[TopicPartition],
    ) -> Result<(), KafkaError> {
        self.retrying(|| self.write_markers_once(who, partitions)).await
    }

    async fn write_markers_once(
        &self,
        who: ProducerIdentity,
        partitions: &[TopicPartition],
    ) -> Result<(), KafkaError> {
        let layout = self.layout();
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for tp in partitions {
            let leader = layout.partition(tp).and_then(|partition| partition.leader);
            let leader = leader.ok_or_else(|| KafkaError::NoRoute(format!("{tp} has no leader")))?;
            by_leader.entry(leader).or_default().push(tp.clone());
        }
        for (leader, partitions) in by_leader {
            let topics = by_topic(&partitions).into_iter().map(|(name, partitions)| {
                WritableTxnMarkerTopic::default().with_name(name).with_partition_indexes(partitions)
            });
            let marker = WritableTxnMarker::default()
                .with_producer_id(ProducerId(who.id))
                .with_producer_epoch(who.epoch)
                .with_transaction_result(false)
                .with_coordinator_epoch(0)
                .with_topics(topics.collect());
            let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
            let response = self.call_once(To::Broker(leader), i16::MAX, &request).await?;
            let topics = || response.markers.iter().flat_map(|marker| &marker.topics);
            let answered =
                topics().flat_map(|t| t.partitions.iter().map(|p| (t.name.as_str(), p.partition_index)));
            all_answered("WriteTxnMarkers", &partitions, &answered.collect())?;
            for topic in topics() {
                for partition in &topic.partitions {
                    let subject = || format!("{}-{}", topic.name.as_str(), partition.partition_index);
                    KafkaError::check("WriteTxnMarkers", subject, partition.error_code)?;
                }
            }
        }
        Ok(())
    }
}

fn all_answered(
    api: &str,
    asked: &[TopicPartition],
    answered: &BTreeSet<(&str, i32)>,
) -> Result<(), KafkaError> {
    match asked.iter().find(|tp| !answered.contains(&(&*tp.topic, tp.partition))) {
        Some(tp) => Err(KafkaError::left_out(api, tp)),
        None => Ok(()),
    }
}

fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<TopicName, Vec<i32>> {
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for tp in partitions {
        topics.entry(Arc::clone(&tp.topic)).or_default().push(tp.partition);
    }
    let name = |topic: Arc<str>| TopicName(StrBytes::from_string(topic.to_string()));
    topics.into_iter().map(|(topic, partitions)| (name(topic), partitions)).collect()
}

/// Whether an error means that this way is closed to us (not allowed, or unknown to the broker), so that another one is to be taken.
pub fn is_closed_way(error: &KafkaError) -> bool {
    let denied = [
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
        ErrorCode::UNSUPPORTED_VERSION,
    ];
    matches!(error, KafkaError::Version { .. }) || error.code().is_some_and(|code| denied.contains(&code))
}

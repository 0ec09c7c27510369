//! Transactions that are open in partitions, as their leaders know them (DescribeProducers), and whether a coordinator will end them
//! (ListTransactions, DescribeTransactions: all KIP-664); a broker's own settings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_protocol::messages::describe_configs_request::DescribeConfigsResource;
use bodley_protocol::messages::describe_producers_request::TopicRequest;
use bodley_protocol::messages::{
    DescribeConfigsRequest, DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest,
    ListTransactionsRequest, ProducerId, TopicName,
};
use bodley_protocol::{ErrorCode, StrBytes};
use tokio::task::JoinSet;

use super::cluster::{Cluster, To};
use super::error::KafkaError;
use super::layout::TopicPartition;

const BROKER_RESOURCE: i8 = 4;
/// A leader lists all producers that it remembers of a partition, which may be thousands.
const PARTITIONS_PER_REQUEST: usize = 100;
/// Version 2 filters by names.
const LIST_CAP: i16 = 1;

/// A transaction that has neither been committed nor aborted in a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenTransaction {
    /// Where.
    pub tp: TopicPartition,
    /// Its first offset there.
    pub first: i64,
    /// Whose.
    pub producer_id: i64,
    /// Whose.
    pub producer_epoch: i32,
    /// Greatest record time of the producer's last batch there, ms; -1: unknown.
    pub last_timestamp: i64,
}

/// What leaders told of open transactions.
#[derive(Debug, Default)]
pub struct OpenTransactions {
    /// In order of partitions and offsets.
    pub found: Vec<OpenTransaction>,
    /// Partitions of which nothing is known, and why.
    pub failed: BTreeMap<TopicPartition, KafkaError>,
}

type Part = (TopicPartition, Result<Vec<OpenTransaction>, KafkaError>);

impl Cluster {
    /// The open transactions in each partition. Needs Read on the topics, and Kafka 2.8. Asked once: it is only for the report.
    pub async fn open_transactions(self: &Arc<Self>, of: &[TopicPartition]) -> OpenTransactions {
        let layout = self.layout();
        let mut all = OpenTransactions::default();
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for tp in of {
            match layout.partition(tp).and_then(|partition| partition.leader) {
                Some(leader) => by_leader.entry(leader).or_default().push(tp.clone()),
                None => {
                    let error = KafkaError::NoRoute(format!("{tp} has no leader"));
                    all.failed.insert(tp.clone(), error);
                }
            }
        }
        let mut tasks = JoinSet::new();
        for (leader, partitions) in by_leader {
            let cluster = Arc::clone(self);
            tasks.spawn(async move { cluster.ask_for_transactions(leader, partitions).await });
        }
        while let Some(parts) = tasks.join_next().await {
            for (tp, result) in parts.unwrap_or_default() {
                match result {
                    Ok(found) => all.found.extend(found),
                    Err(error) => _ = all.failed.insert(tp, error),
                }
            }
        }
        all.found.sort();
        all
    }

    async fn ask_for_transactions(&self, leader: i32, mut partitions: Vec<TopicPartition>) -> Vec<Part> {
        partitions.sort();
        let mut parts = Vec::new();
        for some in partitions.chunks(PARTITIONS_PER_REQUEST) {
            let answer = self.call_once(To::Broker(leader), i16::MAX, &request(some)).await;
            match answer {
                Ok(response) => parts.extend(read(response, some)),
                Err(error) => {
                    let what = error.to_string();
                    let again = |tp: &TopicPartition| (tp.clone(), Err(KafkaError::NoRoute(what.clone())));
                    parts.extend(some.iter().map(again));
                }
            }
        }
        parts
    }

    /// Of these transactions those that their coordinator has under way, so that it will end them. Needs Describe on their transactional ids:
    /// what is hidden from us is left out. Asked once.
    pub async fn coordinated(
        &self,
        of: &[OpenTransaction],
    ) -> Result<BTreeSet<(i64, TopicPartition)>, KafkaError> {
        let ids: BTreeSet<i64> = of.iter().map(|transaction| transaction.producer_id).collect();
        let mut known = BTreeSet::new();
        for broker in self.layout().brokers.keys() {
            let request = ListTransactionsRequest::default()
                .with_producer_id_filters(ids.iter().copied().map(ProducerId).collect())
                .with_duration_filter(-1);
            let to = To::Broker(*broker);
            let listed = self.call_once(to, LIST_CAP, &request).await?;
            KafkaError::check("ListTransactions", || format!("broker {broker}"), listed.error_code)?;
            let states = listed.transaction_states.into_iter();
            let asked =
                states.filter(|state| ids.contains(&state.producer_id.0)).map(|state| state.transactional_id);
            let request = DescribeTransactionsRequest::default().with_transactional_ids(asked.collect());
            if request.transactional_ids.is_empty() {
                continue;
            }
            let described = self.call_once(to, i16::MAX, &request).await?;
            for state in described.transaction_states.iter().filter(|s| is_under_way(&s.transaction_state)) {
                for topic in &state.topics {
                    let name: Arc<str> = Arc::from(topic.topic.as_str());
                    let part = |index: &i32| (state.producer_id.0, TopicPartition::new(&name, *index));
                    known.extend(topic.partitions.iter().map(part));
                }
            }
        }
        Ok(known)
    }

    /// A setting of a broker as that broker tells it; `None`: it has none of this name. Needs DescribeConfigs on the cluster. Asked once.
    pub async fn broker_config(&self, broker: i32, name: &str) -> Result<Option<String>, KafkaError> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(BROKER_RESOURCE)
            .with_resource_name(StrBytes::from_string(broker.to_string()))
            .with_configuration_keys(Some(vec![StrBytes::from_string(name.to_owned())]));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let response = self.call_once(To::Broker(broker), i16::MAX, &request).await?;
        let mut value = None;
        for result in response.results {
            KafkaError::check("DescribeConfigs", || format!("broker {broker}"), result.error_code)?;
            let config = result.configs.into_iter().find(|config| config.name.as_str() == name);
            value = value.or_else(|| config.and_then(|config| config.value).map(|value| value.to_string()));
        }
        Ok(value)
    }
}

/// A state in which the coordinator will write markers sooner or later.
fn is_under_way(state: &str) -> bool {
    state == "Ongoing" || state.starts_with("Prepare")
}

/// `of` is sorted.
fn request(of: &[TopicPartition]) -> DescribeProducersRequest {
    let topics = of.chunk_by(|a, b| a.topic == b.topic).filter_map(|group| {
        let name = TopicName(StrBytes::from_string(group.first()?.topic.to_string()));
        let partitions = group.iter().map(|tp| tp.partition).collect();
        Some(TopicRequest::default().with_name(name).with_partition_indexes(partitions))
    });
    DescribeProducersRequest::default().with_topics(topics.collect())
}

/// What was not asked for, or is answered twice, is left aside.
fn read(response: DescribeProducersResponse, asked: &[TopicPartition]) -> Vec<Part> {
    let mut open: BTreeSet<TopicPartition> = asked.iter().cloned().collect();
    let mut parts = Vec::new();
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let Some(tp) = open.take(&TopicPartition::new(&name, partition.partition_index)) else {
                continue;
            };
            let producers = partition.active_producers.into_iter();
            let transactions =
                producers.filter(|p| p.current_txn_start_offset >= 0).map(|p| OpenTransaction {
                    tp: tp.clone(),
                    first: p.current_txn_start_offset,
                    producer_id: p.producer_id.0,
                    producer_epoch: p.producer_epoch,
                    last_timestamp: p.last_timestamp,
                });
            let result = ErrorCode(partition.error_code).check().map(|()| transactions.collect());
            let refused = |code| {
                let subject = tp.to_string();
                KafkaError::Refused { api: "DescribeProducers", subject, code, message: None }
            };
            parts.push((tp.clone(), result.map_err(refused)));
        }
    }
    parts.extend(open.into_iter().map(|tp| {
        let error = KafkaError::left_out("DescribeProducers", &tp);
        (tp, Err(error))
    }));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_protocol::messages::ProducerId;
    use bodley_protocol::messages::describe_producers_response::{
        PartitionResponse, ProducerState, TopicResponse,
    };

    #[test]
    fn only_what_was_asked_for_is_believed_and_only_once() {
        let producer = |id, first| {
            ProducerState::default()
                .with_producer_id(ProducerId(id))
                .with_producer_epoch(3)
                .with_current_txn_start_offset(first)
                .with_last_timestamp(70)
        };
        let partition = |index, code, producers| {
            PartitionResponse::default()
                .with_partition_index(index)
                .with_error_code(code)
                .with_active_producers(producers)
        };
        let topic = TopicResponse::default().with_name(TopicName(StrBytes::from_static_str("orders")));
        let topic = topic.with_partitions(vec![
            partition(0, 0, vec![producer(7, -1), producer(8, 20)]),
            partition(0, 0, vec![producer(9, 1)]),
            partition(1, 29, vec![]),
            partition(5, 0, vec![producer(9, 1)]),
        ]);
        let name: Arc<str> = Arc::from("orders");
        let asked: Vec<_> = (0..3).map(|index| TopicPartition::new(&name, index)).collect();
        let parts = read(DescribeProducersResponse::default().with_topics(vec![topic]), &asked);
        let of = |index: usize| {
            let mut found = parts.iter().filter(|(tp, _)| *tp == asked[index]);
            let (_, result) = found.next().unwrap();
            assert!(found.next().is_none());
            result
        };
        let transaction = &of(0).as_ref().unwrap()[..];
        let expected = OpenTransaction {
            tp: asked[0].clone(),
            first: 20,
            producer_id: 8,
            producer_epoch: 3,
            last_timestamp: 70,
        };
        assert_eq!(transaction, [expected]);
        let refused = of(1).as_ref().unwrap_err().to_string();
        assert!(refused.contains("DescribeProducers") && refused.contains("orders-1"), "{refused}");
        assert!(of(2).as_ref().unwrap_err().to_string().contains("says nothing of orders-2"));
        assert_eq!(parts.len(), 3);
    }
}

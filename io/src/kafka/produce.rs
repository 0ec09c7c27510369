//! Produce on a connection of the caller's own: batches are sent from where they lie, several requests may be in flight.

use std::time::Duration;

use bodley_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProducerId};
use bodley_protocol::produce::{self, Target};
use bodley_protocol::versions::{PRODUCE, PRODUCE_TOPIC_ID};
use bodley_protocol::{ErrorCode, TopicId, frame};
use kafka_protocol::protocol::Request;

use super::cluster::{Cluster, To};
use super::connection::Connection;
use super::error::{KafkaError, words};

/// Largest answer to Produce.
const MAX_ANSWER: usize = 16 << 20;

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Name; empty where the version tells the id.
    pub topic: String,
    /// Id; zeros where the version tells the name.
    pub topic_id: TopicId,
    /// Partition.
    pub partition: i32,
    /// 0: stored by all in-sync replicas.
    pub error: ErrorCode,
    /// Offset of the batch's first record; -1 with an error.
    pub base_offset: i64,
    /// The broker's words.
    pub message: Option<String>,
}

/// An answer to Produce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acks {
    /// What became of each batch.
    pub acks: Vec<Ack>,
    /// From the sending of the request until all of this had been read.
    pub took: Duration,
    /// The broker answers nothing more on this connection for so long, for a quota's sake.
    pub throttle: Duration,
}

/// A producer id and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIdentity {
    /// Producer id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

impl Connection {
    /// The Produce version spoken here; with `ids` also those that address topics by id.
    pub fn produce_version(&self, ids: bool) -> Result<i16, KafkaError> {
        let mut ours = PRODUCE;
        if !ids {
            ours.max = PRODUCE_TOPIC_ID - 1;
        }
        let version = self.versions().common(ProduceRequest::KEY, ours);
        version.map_err(|source| KafkaError::Version { broker: self.broker.clone(), source })
    }

    /// Sends one request with acks=all, without waiting for its answer. Batches stand in the order of the targets. A session that is to be
    /// renewed ([`Connection::is_renewal_due`]) is, once nothing is in flight: callers drain then.
    pub async fn send_produce(
        &mut self,
        version: i16,
        targets: &[Target<'_>],
        batches: &[&[u8]],
    ) -> Result<(), KafkaError> {
        self.renew_if_due().await?;
        let (id, head) = self.next_head(version);
        let after = self.options().request_timeout;
        let request = produce::encode(head.as_head(), after.as_millis() as i32, targets);
        match tokio::time::timeout(after, self.send(id, &request.pieces(batches))).await {
            Ok(result) => result,
            Err(_) => Err(KafkaError::Timeout {
                broker: self.broker.clone(),
                what: "take a Produce request".into(),
                after,
            }),
        }
    }

    /// The answer to the oldest Produce in flight.
    pub async fn receive_produce(&mut self, version: i16) -> Result<Acks, KafkaError> {
        self.receive_produce_held(version, Duration::ZERO).await
    }

    /// The same from a broker that has said that it will be silent for so long.
    pub async fn receive_produce_held(&mut self, version: i16, held: Duration) -> Result<Acks, KafkaError> {
        let sent = self.oldest_sent();
        // The broker itself waits for its replicas as long as the request allows.
        let options = self.options();
        let after = (options.request_timeout * 2).min(options.give_up_after) + held;
        let answer = match tokio::time::timeout(after, self.receive(MAX_ANSWER)).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(KafkaError::Timeout {
                    broker: self.broker.clone(),
                    what: "answer Produce".into(),
                    after,
                });
            }
        };
        let took = sent.map(|sent| sent.elapsed()).unwrap_or_default();
        let response = frame::decode::<ProduceRequest>(version, answer)
            .map_err(|e| KafkaError::frame(&self.broker, e))?;
        let throttle = Duration::from_millis(u64::try_from(response.throttle_time_ms).unwrap_or(0));
        let mut acks = Vec::new();
        for topic in response.responses {
            for partition in topic.partition_responses {
                acks.push(Ack {
                    topic: topic.name.to_string(),
                    topic_id: topic.topic_id.into_bytes(),
                    partition: partition.index,
                    error: ErrorCode(partition.error_code),
                    base_offset: partition.base_offset,
                    message: partition.error_message.and_then(|m| words(&m)),
                });
            }
        }
        Ok(Acks { acks, took, throttle })
    }
}

impl Cluster {
    /// A fresh producer id without a transactional id.
    pub async fn init_producer_id(&self) -> Result<ProducerIdentity, KafkaError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        // A cluster that just came up loads its coordinators first.
        let response = self
            .retrying(|| async {
                let response = self.call(To::Any, &request).await?;
                KafkaError::check("InitProducerId", || "the cluster".into(), response.error_code)?;
                Ok(response)
            })
            .await?;
        Ok(ProducerIdentity { id: response.producer_id.0, epoch: response.producer_epoch })
    }
}

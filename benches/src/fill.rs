//! Fills a topic: batches are built once and sent over and over, many in flight.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use bodley_io::kafka::produce::Ack;
use bodley_io::kafka::{Address, ClientOptions, Cluster, Connection};
use bodley_protocol::TopicId;
use bodley_protocol::produce::Target;
use clap::Args;
use tokio::task::JoinSet;

use crate::payload::{self, Batch, Codec, Form};
use crate::reader::Tally;

/// Connections to each broker, and requests in flight on each.
const LANES: usize = 8;
const IN_FLIGHT: usize = 4;
/// Bytes of batches in one request.
const REQUEST_BYTES: usize = 4 << 20;

/// What to write, and where.
#[derive(Debug, Args)]
pub struct Fill {
    /// A broker.
    #[arg(long)]
    address: String,
    /// A topic that exists.
    #[arg(long)]
    topic: String,
    /// The compression of its batches.
    #[arg(long)]
    codec: Codec,
    /// Their form.
    #[arg(long)]
    batches: Form,
    /// Bytes of batches; each partition gets one at least.
    #[arg(long)]
    bytes: u64,
}

impl Fill {
    /// Writes all of it, and prints the tally.
    pub fn run(&self) -> Result<()> {
        let tally = tokio::runtime::Runtime::new()?.block_on(self.fill())?;
        println!("{}", serde_json::to_string(&tally)?);
        Ok(())
    }

    async fn fill(&self) -> Result<Tally> {
        let batches = Arc::new(payload::batches(self.codec, self.batches)?);
        let options = ClientOptions { client_id: "fill".into(), ..ClientOptions::default() };
        let cluster = Cluster::open(Address::parse_list(&self.address)?, options).await?;
        let layout = cluster.layout();
        let topic = layout.topics.get(self.topic.as_str()).context("the cluster does not know the topic")?;
        let mean = batches.iter().map(|b| b.bytes.len()).sum::<usize>() / batches.len().max(1);
        let each = (self.bytes as usize).div_ceil(mean.max(1)).div_ceil(topic.partitions.len().max(1));
        let mut lanes = JoinSet::new();
        for broker in layout.brokers.keys() {
            let led = topic.partitions.iter().filter(|p| p.leader == Some(*broker));
            let partitions: Vec<i32> = led.map(|p| p.index).collect();
            for first in 0..LANES {
                let lane = Lane {
                    connection: cluster.connect(*broker).await?,
                    topic: self.topic.clone(),
                    topic_id: topic.id,
                    partitions: partitions.clone(),
                    batches: Arc::clone(&batches),
                    tally: Tally::default(),
                };
                lanes.spawn(lane.run((first..each).step_by(LANES)));
            }
        }
        let mut sum = Tally::default();
        while let Some(done) = lanes.join_next().await {
            let done = done??;
            sum.bytes += done.bytes;
            sum.records += done.records;
            sum.requests += done.requests;
        }
        Ok(sum)
    }
}

/// A connection, and its share of the rounds: a round is a batch for every partition.
struct Lane {
    connection: Connection,
    topic: String,
    topic_id: TopicId,
    partitions: Vec<i32>,
    batches: Arc<Vec<Batch>>,
    tally: Tally,
}

impl Lane {
    async fn run(mut self, rounds: impl Iterator<Item = usize>) -> Result<Tally> {
        let version = self.connection.produce_version(true)?;
        let largest = self.batches.iter().map(|b| b.bytes.len()).max().unwrap_or(1);
        let partitions = std::mem::take(&mut self.partitions);
        for round in rounds {
            for (n, some) in partitions.chunks((REQUEST_BYTES / largest).max(1)).enumerate() {
                if self.connection.in_flight() >= IN_FLIGHT {
                    check(self.connection.receive_produce(version).await?.acks)?;
                }
                self.send(version, some, round + n).await?;
            }
        }
        while self.connection.in_flight() > 0 {
            check(self.connection.receive_produce(version).await?.acks)?;
        }
        Ok(self.tally)
    }

    async fn send(&mut self, version: i16, partitions: &[i32], first: usize) -> Result<()> {
        let chosen: Vec<&Batch> =
            self.batches.iter().cycle().skip(first % self.batches.len()).take(partitions.len()).collect();
        let target = |(partition, batch): (&i32, &&Batch)| Target {
            topic: &self.topic,
            topic_id: self.topic_id,
            partition: *partition,
            batch_len: batch.bytes.len(),
        };
        let targets: Vec<_> = partitions.iter().zip(&chosen).map(target).collect();
        let bytes: Vec<&[u8]> = chosen.iter().map(|batch| batch.bytes.as_slice()).collect();
        self.connection.send_produce(version, &targets, &bytes).await?;
        self.tally.requests += 1;
        self.tally.bytes += bytes.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        self.tally.records += chosen.iter().map(|batch| i64::from(batch.records)).sum::<i64>();
        Ok(())
    }
}

fn check(acks: Vec<Ack>) -> Result<()> {
    match acks.iter().find(|ack| ack.error.0 != 0) {
        None => Ok(()),
        Some(ack) => Err(anyhow!(
            "partition {} refuses a batch: error {} {}",
            ack.partition,
            ack.error.0,
            ack.message.as_deref().unwrap_or_default()
        )),
    }
}

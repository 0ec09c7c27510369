//! What stands at the end of a log: the batches at given offsets, fetched without reading anything else.

use std::collections::{BTreeMap, HashMap};

use bodley_protocol::fetch::{Isolation, Limits, Partition, PartitionHead};
use bodley_protocol::{ErrorCode, RetryClass, TopicId};

use super::cluster::{Cluster, To};
use super::error::KafkaError;
use super::fetch::FetchSink;
use super::layout::{Layout, TopicPartition};

/// Partitions in one request.
const PARTITIONS_PER_REQUEST: usize = 200;
/// Bytes of one partition, unless its first batch alone is larger.
const PARTITION_BYTES: i32 = 2 << 20;
/// Bytes of one answer, likewise.
const ANSWER_BYTES: i32 = 32 << 20;
/// A batch larger than this is not looked at.
const MAX_BATCH: usize = 256 << 20;

/// The head of what a partition has at the offset asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// The first bytes of the batch that holds the offset.
    pub bytes: Vec<u8>,
    /// First offset of the log; -1: not told.
    pub log_start: i64,
}

impl Cluster {
    /// For each partition the batch that holds the given offset, cut to `keep` bytes. Errors that no second try helps against stand at their partition;
    /// an offset below the log's start is one.
    pub async fn peek(
        &self,
        of: &[(TopicPartition, i64)],
        keep: usize,
    ) -> Result<HashMap<TopicPartition, Result<Peeked, KafkaError>>, KafkaError> {
        let mut open: BTreeMap<TopicPartition, i64> = of.iter().cloned().collect();
        let mut done = HashMap::new();
        let mut backoff = self.backoff();
        while !open.is_empty() {
            let layout = self.layout();
            let before = open.len();
            let error = self.peek_round(&layout, &mut open, &mut done, keep).await;
            if open.is_empty() {
                break;
            }
            if open.len() < before && error.is_none() {
                // What did not fit into the answers comes with the next.
                backoff = self.backoff();
                continue;
            }
            let silent = || KafkaError::NoRoute("a leader left partitions out of its answer".into());
            self.pause_and_refresh(&mut backoff, error.unwrap_or_else(silent), &layout).await?;
        }
        Ok(done)
    }

    async fn peek_round(
        &self,
        layout: &Layout,
        open: &mut BTreeMap<TopicPartition, i64>,
        done: &mut HashMap<TopicPartition, Result<Peeked, KafkaError>>,
        keep: usize,
    ) -> Option<KafkaError> {
        let mut last = None;
        let mut by_leader: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        for (tp, offset) in open.iter() {
            let topic_id = layout.topic_id(&tp.topic);
            match layout.partition(tp).and_then(|partition| partition.leader) {
                Some(leader) => {
                    let asked = Asked { tp: tp.clone(), topic_id, offset: *offset };
                    by_leader.entry(leader).or_default().push(asked);
                }
                None => last = Some(KafkaError::NoRoute(format!("{tp} has no leader"))),
            }
        }
        for (leader, asked) in by_leader {
            for some in asked.chunks(PARTITIONS_PER_REQUEST) {
                let mut sink = Sink { asked: some, keep, scratch: Vec::new(), results: Vec::new() };
                let fetched = self
                    .with_connection(To::Broker(leader), async |connection| {
                        let asked: Vec<Partition<'_>> = some.iter().map(Asked::question).collect();
                        connection.fetch(LIMITS, &asked, &mut sink).await
                    })
                    .await;
                last = fetched.err().or(last);
                for (tp, result) in sink.results {
                    match result {
                        Err(error) if error.retry_class() != RetryClass::Never => last = Some(error),
                        result => {
                            open.remove(&tp);
                            done.insert(tp, result);
                        }
                    }
                }
            }
        }
        last
    }
}

const LIMITS: Limits =
    Limits { isolation: Isolation::Uncommitted, max_wait_ms: 0, min_bytes: 0, max_bytes: ANSWER_BYTES };

struct Asked {
    tp: TopicPartition,
    topic_id: TopicId,
    offset: i64,
}

impl Asked {
    fn question(&self) -> Partition<'_> {
        Partition {
            topic: &self.tp.topic,
            topic_id: self.topic_id,
            partition: self.tp.partition,
            offset: self.offset,
            leader_epoch: -1,
            last_fetched_epoch: -1,
            max_bytes: PARTITION_BYTES,
        }
    }
}

struct Sink<'a> {
    asked: &'a [Asked],
    keep: usize,
    scratch: Vec<u8>,
    results: Vec<(TopicPartition, Result<Peeked, KafkaError>)>,
}

impl FetchSink for Sink<'_> {
    type Error = KafkaError;

    async fn make_room(&mut self, head: &PartitionHead) -> Result<(), KafkaError> {
        if head.records_len > MAX_BATCH {
            let what = format!("a broker sends {} bytes where one batch was wanted", head.records_len);
            return Err(KafkaError::NoRoute(what));
        }
        self.scratch.clear();
        self.scratch.resize(head.records_len, 0);
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.scratch
    }

    fn partition(&mut self, head: &PartitionHead, _: Option<(i32, i64)>) -> Result<(), KafkaError> {
        let is_it = |asked: &&Asked| {
            let topic = match head.topic.as_str() {
                "" => asked.topic_id == head.topic_id,
                name => *asked.tp.topic == *name,
            };
            topic && asked.tp.partition == head.partition
        };
        let Some(asked) = self.asked.iter().find(is_it) else { return Ok(()) };
        let result = match head.error_code() {
            ErrorCode::NONE if head.records_len == 0 => return Ok(()),
            ErrorCode::NONE => {
                let bytes = self.scratch.get(..self.keep.min(head.records_len)).unwrap_or_default().to_vec();
                Ok(Peeked { bytes, log_start: head.log_start_offset })
            }
            code => {
                let subject = format!("{} offset {}", asked.tp, asked.offset);
                Err(KafkaError::Refused { api: "Fetch", subject, code, message: None })
            }
        };
        self.results.push((asked.tp.clone(), result));
        Ok(())
    }
}

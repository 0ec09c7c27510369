//! What the brokers hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use uuid::Uuid;

pub(super) const CORRUPT_MESSAGE: i16 = 2;
const INVALID_RECORD: i16 = 87;
const LEADER_EPOCH: usize = 12;
const LAST_OFFSET_DELTA: usize = 23;
/// Brokers remember so many batches of a producer.
const REMEMBERED: usize = 5;
/// Time of the first record that [`batch`] makes.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// Topics, logs and groups.
#[derive(Debug, Default)]
pub struct World {
    /// Of this cluster.
    pub cluster_id: String,
    /// By broker id.
    pub ports: Vec<u16>,
    /// By name.
    pub topics: BTreeMap<String, Topic>,
    /// Committed offsets by group, topic and partition.
    pub groups: BTreeMap<String, BTreeMap<(String, i32), i64>>,
    /// Producer id, epoch and open partitions by transactional id.
    pub transactions: BTreeMap<String, Transaction>,
    /// Newest epoch by producer id.
    pub epochs: BTreeMap<i64, i16>,
    /// Topics that were made, of all times.
    created: u128,
}

/// Of a transactional id.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Producer id.
    pub producer_id: i64,
    /// Topics and partitions of the open transaction.
    pub open: BTreeSet<(String, i32)>,
}

/// A topic.
#[derive(Debug, Default)]
pub struct Topic {
    /// Its id.
    pub id: Uuid,
    /// Settings of its own.
    pub configs: BTreeMap<String, String>,
    /// By number.
    pub partitions: Vec<Log>,
}

/// A partition.
#[derive(Debug, Default)]
pub struct Log {
    /// Broker id.
    pub leader: i32,
    /// Leader epoch.
    pub epoch: i32,
    /// First offset.
    pub start: i64,
    /// Next offset: high watermark and last stable offset as well.
    pub end: i64,
    /// In order.
    pub batches: Vec<Stored>,
    /// Newest epoch by producer id, as markers tell it.
    pub(super) fenced: BTreeMap<i64, i16>,
    /// Producer id, epoch, sequence and offset of the newest batches.
    recent: VecDeque<(i64, i16, i32, i64)>,
}

/// A batch as it lies in the log.
#[derive(Debug, Clone)]
pub struct Stored {
    /// First offset that it answers for.
    pub base: i64,
    /// Last one.
    pub last: i64,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Offset.
    pub offset: i64,
    /// Milliseconds.
    pub timestamp: i64,
    /// Key.
    pub key: Option<Bytes>,
    /// Value.
    pub value: Option<Bytes>,
}

impl World {
    pub(super) fn new(ports: &[u16]) -> Self {
        Self { cluster_id: "scripted-cluster".into(), ports: ports.to_vec(), ..Self::default() }
    }

    /// Makes a topic, or makes it anew.
    pub fn create(&mut self, name: &str, partitions: usize, configs: BTreeMap<String, String>) {
        self.created += 1;
        let brokers = self.ports.len().max(1);
        let log = |n| Log { leader: (n % brokers) as i32, epoch: 3, ..Log::default() };
        let id = Uuid::from_u128(0xb0d1_e700 + self.created);
        let topic = Topic { id, configs, partitions: (0..partitions).map(log).collect() };
        self.topics.insert(name.to_owned(), topic);
    }

    /// A partition.
    pub fn log(&mut self, topic: &str, partition: usize) -> Option<&mut Log> {
        self.topics.get_mut(topic)?.partitions.get_mut(partition)
    }

    pub(super) fn name_of(&self, id: Uuid) -> Option<String> {
        self.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.clone())
    }
}

impl Log {
    /// Appends a batch at the end: base offset and leader epoch become what they are here.
    pub fn append(&mut self, bytes: Bytes) -> Result<i64> {
        let mut bytes = bytes.to_vec();
        let delta = bytes.get(LAST_OFFSET_DELTA..).and_then(|b| b.first_chunk());
        let delta = i64::from(i32::from_be_bytes(*delta.context("a batch without a header")?));
        let base = self.end;
        put(&mut bytes, 0, &base.to_be_bytes());
        put(&mut bytes, LEADER_EPOCH, &self.epoch.to_be_bytes());
        self.end = base + delta + 1;
        self.batches.push(Stored { base, last: base + delta, bytes: bytes.into() });
        Ok(base)
    }

    /// As a leader takes a batch of a client: checked, and once only.
    pub(super) fn produce(&mut self, bytes: Bytes) -> Result<i64, i16> {
        let set = RecordBatchDecoder::decode(&mut bytes.clone()).map_err(|_| CORRUPT_MESSAGE)?;
        let (Some(first), Some(last)) = (set.records.first(), set.records.last()) else {
            return Err(INVALID_RECORD);
        };
        if first.offset != 0 || last.offset + 1 != set.records.len() as i64 {
            return Err(INVALID_RECORD);
        }
        let (id, epoch, sequence) = (first.producer_id, first.producer_epoch, first.sequence);
        let same = |known: &&(i64, i16, i32, i64)| (known.0, known.1, known.2) == (id, epoch, sequence);
        if let Some(known) = self.recent.iter().find(same).filter(|_| id >= 0) {
            return Ok(known.3);
        }
        let base = self.append(bytes).map_err(|_| INVALID_RECORD)?;
        self.recent.push_back((id, epoch, sequence, base));
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
        Ok(base)
    }

    /// Appends the marker of an aborted transaction.
    pub(super) fn abort_marker(&mut self, producer_id: i64, epoch: i16) -> Result<()> {
        let mut marker = record(0, Some(&[0, 0, 0, 0]), Some(&[0; 6]));
        (marker.transactional, marker.control) = (true, true);
        (marker.producer_id, marker.producer_epoch, marker.sequence) = (producer_id, epoch, -1);
        self.fenced.insert(producer_id, epoch);
        self.append(encode(&[marker])?).map(|_| ())
    }

    /// What a consumer sees.
    pub(super) fn records(&self) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        for stored in &self.batches {
            let set = RecordBatchDecoder::decode(&mut stored.bytes.clone())?;
            let visible = set.records.into_iter().filter(|record| !record.control);
            seen.extend(visible.map(|record| Seen {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
            }));
        }
        Ok(seen)
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// A batch at `base` with a record for each number, which key, value and time tell.
pub fn batch(base: i64, numbers: &[usize]) -> Result<Bytes> {
    let records = numbers.iter().enumerate().map(|(at, n)| {
        let (key, value) = (format!("key-{n}"), format!("value {n}"));
        let mut record = record(base + at as i64, Some(key.as_bytes()), Some(value.as_bytes()));
        record.timestamp = EPOCH_MS + *n as i64;
        record
    });
    encode(&records.collect::<Vec<_>>())
}

fn record(offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 3,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: (offset as i32).wrapping_sub(1),
        timestamp: EPOCH_MS,
        key: key.map(Bytes::copy_from_slice),
        value: value.map(Bytes::copy_from_slice),
        headers: IndexMap::new(),
    }
}

fn encode(records: &[Record]) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, records, &options)?;
    if bytes.is_empty() {
        bail!("no records");
    }
    Ok(bytes.freeze())
}

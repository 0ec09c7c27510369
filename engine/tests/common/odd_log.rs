//! A partition's log with everything in it that a reader must get right, in a vault, and what a consumer saw of it.

use std::collections::BTreeMap;
use std::ops::Range as Span;
use std::sync::Arc;

use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{AbortedRow, Kind, NO_TIME, Range, Reason, Rows, TIME_UNKNOWN};
use bodley_engine::vault::segment::{Footer, SegmentWriter};
use bodley_engine::vault::state::{PartitionState, State};
use bodley_io::BufferPool;
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use bodley_protocol::batch::{self, Header};
use bodley_protocol::checksum::crc64;
use bodley_protocol::codecs::Codec;
use bodley_protocol::wire::Writer;

use super::memory::shared;
use super::old::{Form, OldRecord, set};
use super::sample::{TOPIC, topic_row};

const APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;
/// Times of records lie below.
pub const TIMES: i64 = 2000;
const KEY: (bodley_protocol::TopicId, u32) = (TOPIC, 0);

pub type Bytes = Option<Vec<u8>>;

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub offset: i64,
    pub timestamp: i64,
    pub is_append_time: bool,
    pub key: Bytes,
    pub value: Bytes,
    pub headers: Vec<(Vec<u8>, Bytes)>,
}

/// A vault of one partition, and what is to be seen of it.
pub struct OddLog {
    pub memory: MemoryStore,
    pub state: State,
    pub records: Vec<Made>,
    pub gaps: Vec<Span<i64>>,
}

impl OddLog {
    /// The same seed makes the same log.
    pub async fn new(seed: u64) -> Self {
        let memory = MemoryStore::new();
        let maker = Maker {
            store: shared(&memory),
            pool: BufferPool::new(64 << 10, 1 << 20),
            random: fastrand::Rng::with_seed(seed),
            rewind: 0,
            aborted: Vec::new(),
            records: Vec::new(),
            gaps: Vec::new(),
        };
        let (state, records, gaps) = maker.make().await;
        Self { memory, state, records, gaps }
    }

    /// The one partition.
    pub fn partition(&self) -> &PartitionState {
        &self.state.partitions[&KEY]
    }
}

struct Batch {
    header: Header,
    bytes: Vec<u8>,
    records: Vec<Made>,
    is_hidden: bool,
}

struct Maker {
    store: SharedStore,
    pool: Arc<BufferPool>,
    random: fastrand::Rng,
    rewind: u32,
    aborted: Vec<AbortedRow>,
    records: Vec<Made>,
    gaps: Vec<Span<i64>>,
}

impl Maker {
    async fn make(mut self) -> (State, Vec<Made>, Vec<Span<i64>>) {
        let mut vault = Vault::create(Arc::clone(&self.store), "cluster").await.unwrap();
        let start = self.random.i64(0..50);
        let log = self.log(start);
        let inside = log.first().map_or(0, |batch| i64::from(batch.header.last_offset_delta));
        let start = if self.random.bool() { 0 } else { start + self.random.i64(0..=inside) };
        let mut cursor = self.store_log(&mut vault, log, start, -1).await;
        if self.random.u8(0..3) == 0 {
            let cut = self.random.i64(start..=cursor);
            self.rewind = 1;
            self.records.retain(|record| record.offset < cut);
            self.gaps.retain(|gap| gap.start < cut);
            self.gaps.iter_mut().for_each(|gap| gap.end = gap.end.min(cut));
            let log = self.log(cut);
            cursor = self.store_log(&mut vault, log, cut, cursor).await;
        }
        let state = vault.fold(true).await.unwrap();
        assert_eq!(state.partitions[&KEY].cursor.map(|c| c.next), Some(cursor));
        (state, self.records, self.gaps)
    }

    /// Batches from an offset on, with transactions that all come to an end.
    fn log(&mut self, start: i64) -> Vec<Batch> {
        let (mut log, mut next): (Vec<Batch>, i64) = (Vec::new(), start);
        // First offset, and the batches, of each producer's open transaction.
        let mut open: BTreeMap<i64, (i64, Vec<usize>)> = BTreeMap::new();
        for left in (0..self.random.usize(1..40)).rev() {
            next += if self.random.u8(0..4) == 0 { self.random.i64(0..4) } else { 0 };
            let ends = left < 3 || self.random.u8(0..4) == 0;
            if let Some(producer) = open.keys().next().copied().filter(|_| ends) {
                let (first, batches) = open.remove(&producer).unwrap();
                if self.random.bool() {
                    batches.into_iter().for_each(|index| log[index].is_hidden = true);
                    let row = self.aborted_row(producer, first, next);
                    self.aborted.push(row);
                }
                log.push(marker(next, producer));
                next += 1;
                continue;
            }
            let producer = if left >= 3 && self.random.bool() { self.random.i64(1..4) } else { -1 };
            if producer > 0 {
                open.entry(producer).or_insert((next, Vec::new())).1.push(log.len());
            }
            let is_old = producer < 0 && self.random.u8(0..3) == 0;
            let batch = if is_old { self.old(next) } else { self.batch(next, producer) };
            log.push(batch);
            next = log.last().unwrap().header.last_offset() + 1;
        }
        log
    }

    fn aborted_row(&self, producer_id: i64, first: i64, marker: i64) -> AbortedRow {
        AbortedRow { topic: TOPIC, partition: 0, rewind: self.rewind, producer_id, first, marker }
    }

    fn batch(&mut self, base_offset: i64, producer_id: i64) -> Batch {
        let random = &mut self.random;
        let codec = Codec::from_number(random.u8(0..5)).unwrap();
        let is_append_time = random.u8(0..5) == 0;
        let append_time = random.i64(0..TIMES);
        let mut attributes = codec.number();
        attributes |= if is_append_time { APPEND_TIME } else { 0 };
        attributes |= if producer_id > 0 { TRANSACTIONAL } else { 0 };
        attributes |= if random.u8(0..8) == 0 { DELETE_HORIZON } else { 0 };
        let (span, base_timestamp) = (random.i32(1..12), random.i64(0..TIMES));
        let emptied = random.u8(0..12) == 0;
        let (mut records, mut payload) = (Vec::new(), Vec::new());
        // Roughly in order, so that windows cut chunks off.
        let around = (base_offset * 3).min(TIMES - 200);
        for delta in 0..span {
            if emptied || random.u8(0..6) == 0 {
                continue;
            }
            let timestamp = around + random.i64(0..200);
            let mut record = made(random, base_offset + i64::from(delta));
            put_record(&mut payload, &record, (timestamp - base_timestamp, delta));
            (record.timestamp, record.is_append_time) = (timestamp, false);
            if is_append_time {
                (record.timestamp, record.is_append_time) = (append_time, true);
            }
            records.push(record);
        }
        let header = Header {
            magic: 2,
            base_offset,
            size: 0,
            leader_epoch: 0,
            crc: 0,
            attributes,
            last_offset_delta: span - 1,
            base_timestamp,
            max_timestamp: records.iter().map(|record| record.timestamp).max().unwrap_or(-1),
            producer_id,
            producer_epoch: 0,
            base_sequence: 0,
            record_count: records.len() as i32,
        };
        let bytes = batch::encode(&header, &codec.compress(&payload).unwrap());
        Batch { header, bytes, records, is_hidden: false }
    }

    /// A message of format 0 or 1, maybe a compressed one with holes.
    fn old(&mut self, base_offset: i64) -> Batch {
        let random = &mut self.random;
        let (magic, codec) = (random.u8(0..2), Codec::from_number(random.u8(0..4)).unwrap());
        let form = Form { magic, codec, is_append_time: magic == 1 && random.u8(0..4) == 0 };
        let around = (base_offset * 3).min(TIMES - 200);
        let (mut offset, mut kept) = (base_offset, Vec::new());
        for _ in 0..if codec == Codec::None { 1 } else { random.usize(1..12) } {
            let timestamp = if magic == 0 { -1 } else { around + random.i64(0..200) };
            kept.push(Made { timestamp, headers: Vec::new(), ..made(random, offset) });
            offset += if random.u8(0..6) == 0 { random.i64(1..4) } else { 1 };
        }
        let old = |made: &Made| {
            let (offset, timestamp) = (made.offset, made.timestamp);
            OldRecord { offset, timestamp, key: made.key.clone(), value: made.value.clone() }
        };
        let bytes = set(form, &kept.iter().map(old).collect::<Vec<_>>());
        let header = batch::view_checked(&bytes).unwrap().unwrap();
        let last = kept.last().unwrap().timestamp;
        for made in kept.iter_mut().filter(|_| form.is_append_time) {
            (made.timestamp, made.is_append_time) = (last, true);
        }
        Batch { header, bytes, records: kept, is_hidden: false }
    }

    /// Stores a log from `first` on, in several commits; `from` is the cursor. Returns the new one.
    async fn store_log(&mut self, vault: &mut Vault, log: Vec<Batch>, first: i64, from: i64) -> i64 {
        let (mut next, mut from) = (first, from);
        let mut log = log.into_iter().peekable();
        while log.peek().is_some() {
            let mut rows = Rows { topics: vec![topic_row()], ..Rows::default() };
            let mut writer = SegmentWriter::create(&self.store, &self.pool).await.unwrap();
            for _ in 0..self.random.usize(1..6) {
                let chunk: Vec<Batch> = log.by_ref().take(self.random.usize(1..5)).collect();
                let Some(last) = chunk.last() else { break };
                let end = last.header.last_offset() + 1;
                let blank = |kind, span| Range {
                    last_epoch: 0,
                    ..Range::without_chunk(KEY, self.rewind, kind, span, from)
                };
                if self.random.u8(0..6) == 0 {
                    // Also a part of the batch behind it is lost.
                    let behind = log.peek().map_or(end, |batch| {
                        batch.header.base_offset
                            + self.random.i64(0..=i64::from(batch.header.last_offset_delta))
                    });
                    rows.ranges.push(blank(Kind::Gap(Reason::Lost), next..behind));
                    self.gaps.push(next..behind);
                    next = behind;
                    continue;
                }
                let base = chunk[0].header.base_offset;
                if base > next && self.random.bool() {
                    rows.ranges.push(blank(Kind::Empty, next..base));
                    next = base;
                }
                let bytes = chunk.iter().flat_map(|batch| batch.bytes.iter().copied()).collect::<Vec<u8>>();
                writer.put(&bytes).await.unwrap();
                let row = blank(Kind::Data, next..end);
                writer.keep(self.row(row, &chunk, &bytes));
                let seen = chunk.into_iter().filter(|batch| !batch.is_hidden).flat_map(|batch| batch.records);
                self.records.extend(seen.filter(|record| (next..end).contains(&record.offset)));
                next = end;
            }
            let topics = [topic_row()];
            let footer = Footer { topics: &topics, writer: &"ab".repeat(16), base: 1 };
            let (segment, ranges) = writer.finish(footer).await.unwrap();
            rows.ranges.extend(ranges);
            rows.aborted = std::mem::take(&mut self.aborted);
            vault.append(Addition { segments: vec![segment], rows }).await.unwrap();
            from = next;
        }
        next
    }

    /// What a backup says of a chunk; it need not know all.
    fn row(&mut self, row: Range, chunk: &[Batch], bytes: &[u8]) -> Range {
        let kept = chunk.iter().filter(|batch| !batch.is_hidden).map(|batch| batch.records.len() as i64);
        let kept = if self.random.u8(0..5) == 0 { -1 } else { kept.sum() };
        let times = || chunk.iter().flat_map(|batch| &batch.records).map(|record| record.timestamp);
        let least = if self.random.bool() { TIME_UNKNOWN } else { times().min().unwrap_or(NO_TIME) };
        Range {
            stored: bytes.len() as u32,
            crc64: crc64(bytes),
            records: -1,
            kept,
            min_ts: if times().next().is_some() { least } else { NO_TIME },
            max_ts: times().max().unwrap_or(NO_TIME),
            ..row
        }
    }
}

fn marker(base_offset: i64, producer_id: i64) -> Batch {
    let header = Header {
        magic: 2,
        base_offset,
        size: 0,
        leader_epoch: 0,
        crc: 0,
        attributes: TRANSACTIONAL | CONTROL,
        last_offset_delta: 0,
        base_timestamp: 5,
        max_timestamp: 5,
        producer_id,
        producer_epoch: 0,
        base_sequence: -1,
        record_count: 1,
    };
    let bytes = batch::encode(&header, b"not looked at");
    Batch { header, bytes, records: Vec::new(), is_hidden: true }
}

fn made(random: &mut fastrand::Rng, offset: i64) -> Made {
    let mut bytes = |what: &str| match random.u8(0..5) {
        0 => None,
        1 => Some(Vec::new()),
        2 => Some(vec![0xff, 0x00, 0x80, random.u8(..)]),
        _ => Some(format!("{what} {offset}").into_bytes()),
    };
    let (key, value) = (bytes("key"), bytes("value"));
    let headers = (0..offset % 3).map(|n| (format!("h{}", n % 2).into_bytes(), bytes("header"))).collect();
    Made { offset, timestamp: 0, is_append_time: false, key, value, headers }
}

fn put_record(payload: &mut Vec<u8>, record: &Made, (time_delta, offset_delta): (i64, i32)) {
    let mut bytes = Vec::new();
    bytes.put_i8(0);
    bytes.put_varlong(time_delta);
    bytes.put_varlong(i64::from(offset_delta));
    put_bytes(&mut bytes, record.key.as_deref());
    put_bytes(&mut bytes, record.value.as_deref());
    bytes.put_varlong(record.headers.len() as i64);
    for (name, value) in &record.headers {
        put_bytes(&mut bytes, Some(name));
        put_bytes(&mut bytes, value.as_deref());
    }
    payload.put_varlong(bytes.len() as i64);
    payload.extend(bytes);
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.put_varlong(bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}

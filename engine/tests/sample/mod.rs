//! A vault with something of everything, in memory: for tests that damage it.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bodley_engine::vault::aborted::Aborted;
use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{
    AbortedRow, ConfigRow, GroupRow, Kind, Range, Reason, Rows, TopicRow, write_ranges,
};
use bodley_engine::vault::segment::{Footer, SegmentWriter};
use bodley_engine::vault::table::TableWriter;
use bodley_engine::vault::walk::walk;
use bodley_engine::vault::{Receipt, SegmentRef};
use bodley_engine::verify::{VerifyOptions, verify};
use bodley_engine::{EngineError, Progress, Report};
use bodley_io::BufferPool;
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use bodley_protocol::batch::{self, Header};
use bytes::Bytes;
use tokio::sync::watch;

pub type Objects = BTreeMap<String, Bytes>;

pub const ORDERS: [u8; 16] = [7; 16];
pub const PAYMENTS: [u8; 16] = [8; 16];
pub const AUDIT: [u8; 16] = [9; 16];

const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

pub fn name(topic: [u8; 16]) -> &'static str {
    match topic {
        ORDERS => "orders",
        PAYMENTS => "payments",
        _ => "audit",
    }
}

fn header(base_offset: i64, count: i32, attributes: i16, producer_id: i64) -> Header {
    Header {
        magic: 2,
        base_offset,
        size: 0,
        leader_epoch: 0,
        crc: 0,
        attributes,
        last_offset_delta: count - 1,
        base_timestamp: 1000 + base_offset,
        max_timestamp: 2000 + base_offset,
        producer_id,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: count,
    }
}

/// A batch whose payload tells its offset.
pub fn plain(base: i64, count: i32) -> Vec<u8> {
    batch::encode(&header(base, count, 0, -1), &[base as u8; 30])
}

/// The same offsets with other records.
pub fn other(base: i64, count: i32) -> Vec<u8> {
    batch::encode(&header(base, count, 0, -1), &[!base as u8; 30])
}

/// Part of a transaction.
pub fn transactional(base: i64, count: i32, producer: i64) -> Vec<u8> {
    batch::encode(&header(base, count, TRANSACTIONAL, producer), &[base as u8; 30])
}

/// The end of a transaction.
pub fn marker(base: i64, producer: i64, commits: bool) -> Vec<u8> {
    // Length, attributes, time and offset deltas, key (version, type), value (version, coordinator epoch), no headers.
    let record = [32, 0, 0, 0, 8, 0, 0, 0, u8::from(commits), 12, 0, 0, 0, 0, 0, 0, 0];
    batch::encode(&header(base, 1, TRANSACTIONAL | CONTROL, producer), &record)
}

/// A chunk to be.
#[derive(Clone)]
pub struct Piece {
    pub topic: [u8; 16],
    pub partition: u32,
    pub first: i64,
    /// The cursor that it starts from.
    pub from: i64,
    pub batches: Vec<Vec<u8>>,
}

pub fn piece(topic: [u8; 16], partition: u32, first: i64, from: i64, batches: &[Vec<u8>]) -> Piece {
    Piece { topic, partition, first, from, batches: batches.to_vec() }
}

/// A row without a chunk.
pub fn row(topic: [u8; 16], partition: u32, kind: Kind, offsets: std::ops::Range<i64>, from: i64) -> Range {
    Range {
        leader_epoch: 0,
        lso: offsets.end,
        high_watermark: offsets.end,
        ..Range::without_chunk((topic, partition), 0, kind, offsets, from)
    }
}

pub fn topic_row(topic: [u8; 16]) -> TopicRow {
    TopicRow {
        topic,
        name: name(topic).into(),
        present: true,
        partitions: if topic == ORDERS { 2 } else { 1 },
        replication: 3,
        internal: false,
        synthetic: false,
        incarnation: 0,
    }
}

pub fn setting(topic: [u8; 16], name: &str, value: &str) -> ConfigRow {
    ConfigRow { topic, name: name.into(), value: (!name.is_empty()).then(|| value.into()) }
}

pub fn group(topic: [u8; 16], partition: i32, offset: i64, taken: i64) -> GroupRow {
    GroupRow {
        group: "billing".into(),
        topic,
        partition,
        present: true,
        kind: "classic".into(),
        protocol_type: "consumer".into(),
        unstable: false,
        taken,
        offset,
        leader_epoch: -1,
        metadata: Some("m".into()),
    }
}

pub fn aborted(first: i64, marker: i64, producer_id: i64) -> AbortedRow {
    AbortedRow { topic: PAYMENTS, partition: 0, rewind: 0, producer_id, first, marker }
}

/// Writes a segment; `known` are the aborted transactions.
pub async fn segment(
    store: &SharedStore,
    pieces: &[Piece],
    known: &[AbortedRow],
) -> (SegmentRef, Vec<Range>) {
    let pool = BufferPool::new(2 << 20, 8 << 20);
    let mut writer = SegmentWriter::create(store, &pool).await.unwrap();
    for piece in pieces {
        let bytes = piece.batches.concat();
        writer.put(&bytes).await.unwrap();
        let of_part = |row: &&AbortedRow| (row.topic, row.partition) == (piece.topic, piece.partition);
        let mut known = Aborted::from_rows(known.iter().filter(of_part));
        let walk = walk(&bytes, piece.first, i64::MAX, &mut known);
        assert_eq!((walk.all.len, &walk.bad), (bytes.len(), &None));
        let row = row(piece.topic, piece.partition, Kind::Data, piece.first..walk.all.next, piece.from);
        writer.keep(walk.all.describe(row));
    }
    let topics: Vec<TopicRow> = writer.topics().into_iter().map(topic_row).collect();
    let writer_id = "ab".repeat(16);
    writer.finish(Footer { topics: &topics, writer: &writer_id, base: 1 }).await.unwrap()
}

/// Commits rows and the chunks of these segments.
pub async fn commit(vault: &mut Vault, segments: &[&[Piece]], mut rows: Rows) -> Receipt {
    let mut refs = Vec::new();
    for pieces in segments {
        let (segment, ranges) = segment(vault.store(), pieces, &rows.aborted).await;
        rows.ranges.extend(ranges);
        refs.push(segment);
        // ULIDs of one millisecond are in no order.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    vault.append(Addition { segments: refs, rows }).await.unwrap()
}

/// The sample's objects as they were written.
pub struct Sample {
    pub memory: MemoryStore,
    pub store: SharedStore,
    pub receipt: Receipt,
    pub objects: Objects,
}

impl Sample {
    /// Four commits, four segments, three topics; offsets of a group, settings, a gap, an empty range, an aborted transaction.
    pub async fn new() -> Self {
        let memory = MemoryStore::new();
        let store: SharedStore = Arc::new(memory.clone());
        let mut vault = Vault::create(Arc::clone(&store), "cluster").await.unwrap();
        let rows = Rows {
            topics: vec![topic_row(ORDERS), topic_row(PAYMENTS)],
            configs: vec![
                setting(ORDERS, "retention.ms", "1000"),
                setting(ORDERS, "cleanup.policy", "delete"),
                setting(PAYMENTS, "", ""),
            ],
            groups: vec![group(ORDERS, -1, -1, 5), group(ORDERS, 0, 12, 5), group(ORDERS, 1, 105, 5)],
            aborted: vec![aborted(0, 4, 70)],
            ..Rows::default()
        };
        let one = [
            piece(ORDERS, 0, 0, -1, &[plain(0, 4), plain(4, 6)]),
            piece(PAYMENTS, 0, 0, -1, &[transactional(0, 4, 70), marker(4, 70, false), plain(5, 3)]),
            piece(ORDERS, 1, 100, -1, &[plain(100, 10)]),
        ];
        let two = [piece(ORDERS, 0, 10, -1, &[plain(10, 10)])];
        commit(&mut vault, &[&one, &two], rows).await;
        let rows = Rows {
            ranges: vec![
                row(ORDERS, 0, Kind::Gap(Reason::Retention), 20..25, 20),
                row(ORDERS, 1, Kind::Empty, 110..115, 110),
            ],
            groups: vec![group(ORDERS, -1, -1, 9), group(ORDERS, 0, 30, 9)],
            configs: vec![setting(ORDERS, "retention.ms", "2000")],
            ..Rows::default()
        };
        commit(&mut vault, &[&[piece(ORDERS, 0, 25, 20, &[plain(25, 10)])]], rows).await;
        let rows = Rows {
            ranges: vec![row(AUDIT, 0, Kind::Empty, 0..0, -1)],
            topics: vec![topic_row(AUDIT)],
            configs: vec![setting(AUDIT, "", "")],
            ..Rows::default()
        };
        let four = [
            piece(PAYMENTS, 0, 8, 8, &[transactional(8, 2, 71), marker(10, 71, true)]),
            piece(ORDERS, 1, 115, 115, &[plain(115, 5), plain(120, 5)]),
        ];
        let receipt = commit(&mut vault, &[&four], rows).await;
        let objects = memory.objects().clone();
        Self { memory, store, receipt, objects }
    }

    pub fn paths(&self, folder: &str) -> Vec<String> {
        self.objects.keys().filter(|path| path.starts_with(folder)).cloned().collect()
    }

    pub fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        self.memory.objects().insert(path.to_owned(), bytes.into());
    }

    pub fn lose(&self, path: &str) {
        self.memory.objects().remove(path).unwrap();
    }

    pub fn heal(&self) {
        self.memory.objects().clone_from(&self.objects);
    }

    pub async fn verified(&self, quick: bool) -> Result<Report, EngineError> {
        verified(&self.store, quick, None).await
    }
}

pub async fn verified(
    store: &SharedStore,
    quick: bool,
    expect: Option<Receipt>,
) -> Result<Report, EngineError> {
    let (_keep, stop) = watch::channel(false);
    verify(Arc::clone(store), VerifyOptions { quick, expect }, Arc::new(Progress::default()), stop).await
}

/// The exit code of a report or of the error in its place.
pub fn exit_code(result: &Result<Report, EngineError>) -> u8 {
    match result {
        Ok(report) => report.exit_code(),
        Err(error) => error.severity().exit_code(),
    }
}

/// Whether a report or error names the object.
pub fn names(result: &Result<Report, EngineError>, path: &str) -> bool {
    match result {
        Ok(report) => report.errors.iter().any(|issue| issue.object.as_deref() == Some(path)),
        Err(error) => bodley_engine::Issue::from(error).object.as_deref() == Some(path),
    }
}

/// As hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    bodley_engine::vault::hex(&sha2::Sha256::digest(bytes))
}

/// A segment with other rows in its footer.
pub fn refooted(segment: &SegmentRef, bytes: &[u8], rows: &[Range]) -> (SegmentRef, Vec<u8>) {
    let end = rows.iter().map(|row| row.position as usize + row.stored as usize).max().unwrap();
    let mut table = TableWriter::default();
    write_ranges(&mut table.section("ranges", rows.len()), rows).unwrap();
    let table = table.finish().unwrap();
    let length = (table.len() as u64).to_le_bytes();
    let bytes = [&bytes[..end], &table, &length, b"BDLYSEG1"].concat();
    let crc64 = format!("{:016x}", bodley_protocol::checksum::crc64(&bytes));
    (SegmentRef { bytes: bytes.len() as u64, crc64, ..segment.clone() }, bytes)
}

//! Rows, segments and commits as a backup makes them.

use std::sync::{Arc, OnceLock};

use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{Kind, NO_TIME, Range, Rows, TIME_UNKNOWN, TopicRow};
use bodley_engine::vault::segment::{Footer, SegmentWriter};
use bodley_engine::vault::{Receipt, SegmentRef, VaultError};
use bodley_engine::verify::{VerifyOptions, verify};
use bodley_engine::{Progress, Report};
use bodley_io::BufferPool;
use bodley_io::store::SharedStore;
use bodley_protocol::batch::{self, Header};
use bodley_protocol::checksum::crc64;
use tokio::sync::watch;

pub const TOPIC: [u8; 16] = [7; 16];
/// Records of a data chunk.
pub const CHUNK: i64 = 10;

fn records(base_offset: i64, count: i32) -> Vec<u8> {
    let header = Header {
        base_offset,
        size: 0,
        leader_epoch: 0,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: 1000 + base_offset,
        max_timestamp: 2000 + base_offset,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: count,
    };
    batch::encode(&header, &[base_offset as u8; 50])
}

/// A range without a batch.
pub fn row(partition: u32, offsets: std::ops::Range<i64>, from: i64) -> Range {
    Range {
        topic: TOPIC,
        partition,
        kind: Kind::Empty,
        rewind: 0,
        first: offsets.start,
        next: offsets.end,
        last_epoch: 0,
        leader_epoch: 0,
        lso: offsets.end,
        high_watermark: offsets.end,
        from,
        segment: [0; 16],
        position: 0,
        stored: 0,
        records: 0,
        kept: 0,
        min_ts: NO_TIME,
        max_ts: NO_TIME,
        base_ts: NO_TIME,
        crc64: 0,
    }
}

pub fn topic_row() -> TopicRow {
    TopicRow {
        topic: TOPIC,
        name: "orders".into(),
        present: true,
        partitions: 4,
        replication: 1,
        internal: false,
        synthetic: false,
        incarnation: 0,
    }
}

/// Writes a segment with one chunk of [`CHUNK`] records per entry: (partition, first offset, from-cursor). The rows bear `tag` as their
/// high watermark.
pub async fn segment(
    store: &SharedStore,
    chunks: &[(u32, i64, i64)],
    tag: i64,
) -> Result<(SegmentRef, Vec<Range>), VaultError> {
    static POOL: OnceLock<Arc<BufferPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| BufferPool::new(2 << 20, 64 << 20));
    let mut writer = SegmentWriter::create(store, pool).await?;
    for (partition, first, from) in chunks {
        let bytes = [records(*first, 4), records(first + 4, 6)].concat();
        writer.room(bytes.len()).await?.copy_from_slice(&bytes);
        let mut row = row(*partition, *first..first + CHUNK, *from);
        (row.kind, row.stored, row.crc64) = (Kind::Data, bytes.len() as u32, crc64(&bytes));
        row.high_watermark = tag;
        (row.records, row.kept) = (CHUNK, CHUNK);
        (row.min_ts, row.max_ts, row.base_ts) = (TIME_UNKNOWN, 2000 + first + 4, 1000 + first);
        writer.keep(row);
    }
    let topics = [topic_row()];
    let footer = Footer { topics: &topics, writer: &"ab".repeat(16), base: 1 };
    writer.finish(footer).await
}

/// A segment and the commit that names it.
pub async fn append(vault: &mut Vault, chunks: &[(u32, i64, i64)], tag: i64) -> Result<Receipt, VaultError> {
    let (segment, ranges) = segment(vault.store(), chunks, tag).await?;
    let rows = Rows { ranges, topics: vec![topic_row()], ..Rows::default() };
    vault.append(Addition { segments: vec![segment], rows }).await
}

/// As a backup opens its vault.
pub async fn open_or_create(store: &SharedStore) -> Result<Vault, VaultError> {
    match Vault::open_for_writing(Arc::clone(store)).await {
        Err(VaultError::Absent { .. }) => Vault::create(Arc::clone(store), "cluster").await,
        other => other,
    }
}

/// Verifies every byte and, if given, that a receipt is there. What is wrong is in the report.
pub async fn verified(store: &SharedStore, expect: Option<Receipt>) -> Report {
    let (_keep, stop) = watch::channel(false);
    let options = VerifyOptions { quick: false, expect };
    verify(Arc::clone(store), options, Arc::new(Progress::default()), stop).await.unwrap()
}

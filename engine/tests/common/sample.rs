//! Rows, segments and commits as a backup makes them.

use std::sync::{Arc, OnceLock};

use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{Kind, Range, Reason, Rows, TIME_UNKNOWN, TopicRow};
use bodley_engine::vault::segment::{Footer, SegmentWriter};
use bodley_engine::vault::{Receipt, SegmentRef, VaultError};
use bodley_engine::verify::{VerifyOptions, verify};
use bodley_engine::{Progress, Report};
use bodley_io::BufferPool;
use bodley_io::store::SharedStore;
use bodley_protocol::batch::{self, Header};
use bodley_protocol::checksum::crc64;
use tokio::sync::watch;

use super::model::{Model, Objects};

pub const TOPIC: [u8; 16] = [7; 16];
/// Records of a data chunk.
pub const CHUNK: i64 = 10;

pub fn records(base_offset: i64, count: i32, payload: usize) -> Vec<u8> {
    let header = Header {
        magic: 2,
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
    batch::encode(&header, &vec![base_offset as u8; payload])
}

/// A range without a batch.
pub fn row(partition: u32, offsets: std::ops::Range<i64>, from: i64) -> Range {
    Range {
        last_epoch: 0,
        leader_epoch: 0,
        lso: offsets.end,
        high_watermark: offsets.end,
        ..Range::without_chunk((TOPIC, partition), 0, Kind::Empty, offsets, from)
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
    segment_of(store, chunks, tag, 50).await
}

/// As [`segment`], with `payload` bytes in each of a chunk's two batches.
pub async fn segment_of(
    store: &SharedStore,
    chunks: &[(u32, i64, i64)],
    tag: i64,
    payload: usize,
) -> Result<(SegmentRef, Vec<Range>), VaultError> {
    static POOL: OnceLock<Arc<BufferPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| BufferPool::new(64 << 10, 64 << 20));
    let mut writer = SegmentWriter::create(store, pool).await?;
    for (partition, first, from) in chunks {
        let bytes = [records(*first, 4, payload), records(first + 4, 6, payload)].concat();
        writer.put(&bytes).await?;
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

/// A backup in small: goes on from the vault's cursors with `commits` commits, the second one of a segment in several parts. `told` gets the receipts that it
/// would print.
pub async fn run(store: &SharedStore, commits: u32, told: &mut Vec<Receipt>) -> Result<(), VaultError> {
    let mut vault = open_or_create(store).await?;
    let state = vault.fold(false).await?;
    told.push(vault.receipt().clone());
    let cursor = |p: u32| state.partitions.get(&(TOPIC, p)).and_then(|part| part.cursor).map(|c| c.next);
    let mut cursors = [cursor(0), cursor(1), cursor(2)];
    for commit in 0..commits {
        let chunk = |p: usize| (p as u32, cursors[p].unwrap_or(0), cursors[p].unwrap_or(-1));
        let payload = if commit == 1 { 20 << 10 } else { 50 };
        let (segment, mut ranges) = segment_of(store, &[chunk(0), chunk(1)], 0, payload).await?;
        let (_, first, from) = chunk(2);
        let mut gap = row(2, first..first + 1, from);
        gap.kind = Kind::Gap(Reason::Retention);
        ranges.push(gap);
        for range in &ranges {
            cursors[range.partition as usize] = Some(range.next);
        }
        let rows = Rows { ranges, topics: vec![topic_row()], ..Rows::default() };
        told.push(vault.append(Addition { segments: vec![segment], rows }).await?);
    }
    Ok(())
}

/// Panics unless the vault is sound and has every commit of `told`. Returns its number of commits.
pub async fn sound(store: &SharedStore, objects: &Objects, told: &[Receipt], case: &str) -> u64 {
    let model = Model::read(objects, case);
    for receipt in told {
        let found = model.digests.get(receipt.seq as usize - 1);
        assert_eq!(found, Some(&receipt.digest), "{case}: commit {} was told to be in", receipt.seq);
    }
    let mut vault = match Vault::open(Arc::clone(store)).await {
        Ok(vault) => vault,
        Err(VaultError::Absent { .. }) if told.is_empty() => return 0,
        Err(error) => panic!("{case}: {error}"),
    };
    vault.fold(true).await.unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(vault.receipt().seq, model.digests.len() as u64, "{case}");
    let report = verified(store, told.last().cloned()).await;
    // The gaps are as the runs recorded them.
    assert_eq!((report.exit_code(), &report.errors), (0, &Vec::new()), "{case}");
    assert_eq!(report.records.unwrap_or(0), model.records(), "{case}");
    model.digests.len() as u64
}

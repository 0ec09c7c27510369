//! Looking into a vault: what a reader sees of odd logs, by window, from the end, as times, and beside damage.

// Helpers of tests, which clippy does not count as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::ops::Range;
use std::sync::Arc;

use bodley_engine::EngineError;
use bodley_engine::look::{Reader, Seen, Source, Window, times_at};
use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{Kind, Rows};
use bodley_engine::vault::segment::{Footer, SegmentWriter};
use bodley_io::BufferPool;
use bodley_io::latency::Latencies;
use bodley_io::store::decorators::Measured;
use bodley_io::store::memory::MemoryStore;
use bodley_protocol::batch::{self, HEADER_LEN};
use bodley_protocol::checksum::crc64;
use bodley_protocol::codecs::Codec;
use bodley_protocol::records::Builder;
use common::memory::shared;
use common::odd_log::{Made, OddLog, TIMES};
use common::sample::{TOPIC, row, topic_row};

const SEEDS: Range<u64> = 0..400;

fn source(memory: &MemoryStore) -> Source {
    Source { store: shared(memory), pool: BufferPool::new(64 << 10, 1 << 20) }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct All {
    records: Vec<Made>,
    gaps: Vec<Range<i64>>,
    damaged: Vec<Range<i64>>,
}

async fn read(source: &Source, log: &OddLog, window: Window, last: Option<u64>) -> All {
    let mut reader = Reader::new(source, "orders", log.partition(), window);
    if let Some(last) = last {
        reader.only_last(last).await.unwrap();
    }
    let mut all = All::default();
    while let Some(seen) = reader.next().await.unwrap() {
        match seen {
            Seen::Batch(batch) => {
                let before = all.records.len();
                all.records.extend(batch.records().map(|record| {
                    Made {
                        offset: record.offset,
                        timestamp: record.timestamp,
                        is_append_time: record.is_append_time,
                        key: record.body.key.map(<[u8]>::to_vec),
                        value: record.body.value.map(<[u8]>::to_vec),
                        headers: record
                            .body
                            .headers
                            .iter()
                            .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                            .collect(),
                    }
                }));
                assert!(all.records.len() > before, "an empty batch");
            }
            Seen::Gap(gap) => all.gaps.push(gap.first..gap.next),
            Seen::Damage(EngineError::Damaged { offsets, topic, partition, .. }) => {
                assert_eq!((topic.as_str(), partition), ("orders", 0));
                all.damaged.push(offsets);
            }
            Seen::Damage(other) => panic!("{other}"),
        }
    }
    all
}

fn some_window(random: &mut fastrand::Rng, end: i64) -> Window {
    let mut bound = |of: Range<i64>| random.bool().then(|| random.i64(of));
    Window {
        from: bound(-10..TIMES),
        to: bound(-10..TIMES),
        from_offset: bound(0..end + 5),
        to_offset: bound(0..end + 5),
    }
}

fn expected(log: &OddLog, window: Window) -> Vec<Made> {
    let (offsets, from, to) = (window.offsets(), window.from, window.to);
    let held = log.records.iter().filter(|record| {
        offsets.contains(&record.offset)
            && record.timestamp >= from.unwrap_or(i64::MIN)
            && record.timestamp < to.unwrap_or(i64::MAX)
    });
    held.cloned().collect()
}

#[tokio::test]
async fn all_that_a_consumer_saw_is_seen_and_nothing_else() {
    for seed in SEEDS {
        let log = OddLog::new(seed).await;
        let all = read(&source(&log.memory), &log, Window::default(), None).await;
        assert_eq!(all.records, log.records, "seed {seed}");
        assert_eq!((all.gaps, all.damaged), (log.gaps.clone(), vec![]), "seed {seed}");
    }
}

#[tokio::test]
async fn a_window_holds_what_it_says() {
    let mut cut = 0;
    for seed in SEEDS {
        let log = OddLog::new(seed).await;
        let (source, mut random) = (source(&log.memory), fastrand::Rng::with_seed(seed));
        for _ in 0..5 {
            let window = some_window(&mut random, log.partition().cursor.unwrap().next);
            let all = read(&source, &log, window, None).await;
            let expected = expected(&log, window);
            assert_eq!(all.records, expected, "seed {seed}, {window:?}");
            assert!(all.gaps.iter().all(|gap| log.gaps.contains(gap)), "seed {seed}, {window:?}");
            cut += usize::from(!expected.is_empty() && expected.len() < log.records.len());
        }
    }
    assert!(cut > 100, "few windows cut anything: {cut}");
}

#[tokio::test]
async fn the_last_records_are_those_at_the_end() {
    for seed in SEEDS {
        let log = OddLog::new(seed).await;
        let (source, mut random) = (source(&log.memory), fastrand::Rng::with_seed(seed));
        for window in [Window::default(), some_window(&mut random, log.partition().cursor.unwrap().next)] {
            let expected = expected(&log, window);
            for count in [1, 2, random.usize(1..60), usize::MAX] {
                let all = read(&source, &log, window, Some(count as u64)).await;
                let behind = expected.len().saturating_sub(count);
                assert_eq!(all.records, expected[behind..], "seed {seed}, the last {count} of {window:?}");
            }
        }
    }
}

#[tokio::test]
async fn offsets_as_times() {
    for seed in SEEDS {
        let log = OddLog::new(seed).await;
        let (source, mut random) = (source(&log.memory), fastrand::Rng::with_seed(seed));
        let end = log.partition().cursor.unwrap().next + 3;
        let mut offsets: Vec<i64> = (0..random.usize(0..30)).map(|_| random.i64(0..end)).collect();
        offsets.sort_unstable();
        let found = times_at(&source.store, &source.pool, log.partition(), &offsets).await.unwrap();
        let next = |offset: &i64| log.records.iter().find(|record| record.offset >= *offset);
        let expected: Vec<Option<i64>> =
            offsets.iter().map(|offset| next(offset).map(|record| record.timestamp)).collect();
        assert_eq!(found, expected, "seed {seed}, {offsets:?}");
    }
}

/// A source whose reads are counted.
fn counted(memory: &MemoryStore) -> (Source, Arc<Latencies>) {
    let latencies = Arc::new(Latencies::default());
    let mut source = source(memory);
    source.store = Arc::new(Measured::new(source.store, Arc::clone(&latencies)));
    (source, latencies)
}

fn reads(latencies: &Latencies) -> u64 {
    let summaries = latencies.summaries();
    summaries.named().find(|(name, _)| *name == "read").map_or(0, |(_, summary)| summary.count)
}

#[tokio::test]
async fn few_chunks_are_read() {
    for seed in SEEDS {
        let log = OddLog::new(seed).await;
        let data = || log.partition().ranges.iter().filter(|row| row.kind == Kind::Data && row.kept != 0);
        let (source, latencies) = counted(&log.memory);
        // Each chunk once at most, however many offsets lie in it.
        let offsets: Vec<i64> = (0..log.partition().cursor.unwrap().next).collect();
        times_at(&source.store, &source.pool, log.partition(), &offsets).await.unwrap();
        assert!(reads(&latencies) <= data().count() as u64, "seed {seed}");
        // One offset: the chunk that it lies in, and those behind it in which nothing is to be seen.
        let (source, latencies) = counted(&log.memory);
        if let Some(record) = log.records.first() {
            times_at(&source.store, &source.pool, log.partition(), &[record.offset]).await.unwrap();
            assert_eq!(reads(&latencies), 1, "seed {seed}");
        }
        // Rows that know how many there are make counting needless.
        if log.gaps.is_empty() && data().all(|row| row.kept > 0 && row.rewind == 0) {
            let (source, latencies) = counted(&log.memory);
            let all = read(&source, &log, Window::default(), Some(1)).await;
            assert_eq!(all.records.len().min(1), log.records.len().min(1));
            assert!(reads(&latencies) <= 2, "seed {seed}: {} reads", reads(&latencies));
        }
    }
}

#[tokio::test]
async fn beside_damage_the_rest_is_seen() {
    let mut lost = 0;
    for seed in SEEDS {
        let log = OddLog::new(seed).await;
        let mut random = fastrand::Rng::with_seed(seed);
        let rows: Vec<_> =
            log.partition().ranges.iter().filter(|row| row.kind == Kind::Data && row.kept != 0).collect();
        let Some(row) = random.choice(&rows) else { continue };
        let path = row.segment_path();
        let hit: Vec<Range<i64>> = match random.u8(0..3) {
            // Gone, and with it all other chunks in it.
            0 => {
                log.memory.objects().remove(&path);
                rows.iter()
                    .filter(|other| other.segment == row.segment)
                    .map(|row| row.first..row.next)
                    .collect()
            }
            _ => {
                let mut objects = log.memory.objects();
                let mut bytes = objects[&path].to_vec();
                bytes[row.position as usize + random.usize(0..row.stored as usize)] ^= 1;
                objects.insert(path, bytes.into());
                std::iter::once(row.first..row.next).collect()
            }
        };
        let source = source(&log.memory);
        let all = read(&source, &log, Window::default(), None).await;
        let is_hit = |offset: i64| hit.iter().any(|span| span.contains(&offset));
        let rest: Vec<Made> = log.records.iter().filter(|record| !is_hit(record.offset)).cloned().collect();
        assert_eq!((all.records, all.damaged), (rest.clone(), hit.clone()), "seed {seed}");
        lost += log.records.len() - rest.len();
        // The last ones: none twice, none out of order, and no more than asked for beside what is damaged.
        let last = read(&source, &log, Window::default(), Some(3)).await.records;
        assert!(rest.ends_with(&last), "seed {seed}");
        let offsets: Vec<i64> = hit.iter().map(|span| span.start).collect();
        let times = times_at(&source.store, &source.pool, log.partition(), &offsets).await;
        assert!(matches!(times, Err(EngineError::Damaged { .. })), "seed {seed}: {times:?}");
    }
    assert!(lost > 100, "{lost} records were hit");
}

/// A vault of very many commits, each with a segment that has three records of each of four partitions.
async fn many_segments(commits: i64) -> MemoryStore {
    let memory = MemoryStore::new();
    let store = shared(&memory);
    let pool = BufferPool::new(64 << 10, 1 << 20);
    let mut vault = Vault::create(Arc::clone(&store), "cluster").await.unwrap();
    for commit in 0..commits {
        let first = commit * 3;
        let mut builder = Builder::new(Codec::None);
        (0..3).for_each(|n| builder.push(first + n, 0, &[1, 2, b'v', 0]));
        let bytes = builder.finish().unwrap();
        let mut header = batch::view(&bytes).unwrap().unwrap();
        header.base_offset = first;
        let bytes = batch::encode(&header, &bytes[HEADER_LEN..]);
        let mut writer = SegmentWriter::create(&store, &pool).await.unwrap();
        for partition in 0..4 {
            writer.put(&bytes).await.unwrap();
            let mut row = row(partition, first..first + 3, if commit == 0 { -1 } else { first });
            (row.kind, row.stored, row.crc64) = (Kind::Data, bytes.len() as u32, crc64(&bytes));
            (row.records, row.kept, row.max_ts) = (3, 3, first + 2);
            writer.keep(row);
        }
        let topics = [topic_row()];
        let footer = Footer { topics: &topics, writer: &"ab".repeat(16), base: 1 };
        let (segment, ranges) = writer.finish(footer).await.unwrap();
        let rows = Rows { ranges, topics: vec![topic_row()], ..Rows::default() };
        vault.append(Addition { segments: vec![segment], rows }).await.unwrap();
    }
    vault.checkpoint().await.unwrap();
    memory
}

#[tokio::test]
async fn the_last_ten_of_very_many_segments_cost_four() {
    let memory = many_segments(1000).await;
    let (source, latencies) = counted(&memory);
    let mut vault = Vault::open(Arc::clone(&source.store)).await.unwrap();
    let state = vault.fold(true).await.unwrap();
    let before = reads(&latencies);
    let mut reader = Reader::new(&source, "orders", &state.partitions[&(TOPIC, 2)], Window::default());
    reader.only_last(10).await.unwrap();
    let mut offsets = Vec::new();
    while let Some(Seen::Batch(batch)) = reader.next().await.unwrap() {
        offsets.extend(batch.records().map(|record| record.offset));
    }
    assert_eq!(offsets, (2990..3000).collect::<Vec<_>>());
    assert_eq!(reads(&latencies) - before, 4);
}

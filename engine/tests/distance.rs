//! Stores that answer after a while: so much is under way at a time that it does not matter, within the budget, whatever the layout.

// Helpers of tests, which clippy does not count as tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_engine::copy::{CopyOptions, copy};
use bodley_engine::restore::{RestoreOptions, restore};
use bodley_engine::vault::Vault;
use bodley_engine::verify::{VerifyOptions, verify};
use bodley_engine::{Progress, Report};
use bodley_io::BufferPool;
use bodley_io::kafka::{Address, ClientOptions, Cluster};
use bodley_io::store::decorators::Limit;
use bodley_io::store::disk::{DirectIo, DiskStore};
use bodley_io::store::memory::MemoryStore;
use bodley_io::store::{Lock, SharedStore, Stat};
use bodley_testbed::{Brokers, ClusterOptions};
use tokio::sync::watch;

use common::bulk::Bulk;
use common::cloud::Cloud;
use common::distant::{Counted, Distant};
use common::memory::shared;
use common::sample::TOPIC;

const DELAY: Duration = Duration::from_millis(100);
/// Chunks as a backup cuts them, nearly.
const LARGE: (usize, usize) = (28, 70);
const BUDGET: usize = 160 << 20;

fn distant(store: &SharedStore, delay: Duration) -> (SharedStore, Arc<Counted>) {
    let distant = Distant::new(Arc::clone(store), delay);
    let counted = Arc::clone(&distant.counted);
    (Arc::new(distant), counted)
}

fn bulk(partitions: u32, chunks: usize, (batches, records): (usize, usize)) -> Bulk {
    Bulk { partitions, chunks, batches, records, segment: 64 }
}

/// Restores all of a vault.
async fn restored(store: &SharedStore, bootstrap: &str, name: &str, budget: usize) -> Report {
    let cluster = Cluster::open(Address::parse_list(bootstrap).unwrap(), ClientOptions::default()).await;
    let mut options = RestoreOptions { budget, ..RestoreOptions::default() };
    options.choice.rename = vec![format!("orders={name}")];
    let (_keep, stop) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let report = restore(cluster.unwrap(), Arc::clone(store), options, progress, stop).await.unwrap();
    assert_eq!((report.exit_code(), &report.errors), (0, &Vec::new()));
    report
}

/// Restores a vault that is far away into brokers in memory, and looks whether all is there. What was asked of the store meanwhile.
async fn from_afar(bulk: Bulk, budget: usize) -> Arc<Counted> {
    let store: SharedStore = Arc::new(MemoryStore::new());
    bulk.put(&store).await;
    let (store, counted) = distant(&store, DELAY);
    let brokers = Brokers::start(1).unwrap();
    let report = restored(&store, &brokers.bootstrap(), "far", budget).await;
    assert_eq!(report.records, Some(bulk.depth() as u64 * u64::from(bulk.partitions)));
    for partition in 0..bulk.partitions as usize {
        let records = brokers.records("far", partition).unwrap();
        let times: Vec<i64> = records.iter().map(|record| record.timestamp).collect();
        assert!(times == (0..bulk.depth()).collect::<Vec<_>>(), "partition {partition}");
    }
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_partition_is_read_far_ahead_in_few_requests() {
    let bulk = bulk(1, 24, LARGE);
    let counted = from_afar(bulk, BUDGET).await;
    let reads = &counted.reads;
    assert!(reads.most_bytes() > 24 << 20, "{reads:?}");
    // Four chunks at a time, and not many more bytes than there are.
    assert!(reads.requests() <= 24 / 4 + 2 && reads.bytes() == bulk.bytes(), "{reads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_few_partitions_is_read_ahead() {
    let bulk = bulk(12, 3, LARGE);
    let counted = from_afar(bulk, BUDGET).await;
    let reads = &counted.reads;
    assert!(reads.most() >= 12 && reads.most_bytes() > 30 << 20, "{reads:?}");
    assert_eq!((reads.requests(), reads.bytes()), (36, bulk.bytes()), "holes are not worth reading");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_partitions_with_small_chunks_are_read_at_a_time() {
    let bulk = bulk(300, 4, (1, 20));
    let counted = from_afar(bulk, BUDGET).await;
    let reads = &counted.reads;
    assert!(reads.most() >= 100, "{reads:?}");
    assert_eq!((reads.requests(), reads.bytes()), (1200, bulk.bytes()), "{reads:?}");
}

/// Chunks of others between them are read as well where they are small, and not where they would be most of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_holes_are_read_through() {
    let counted = from_afar(bulk(2, 100, (1, 20)), BUDGET).await;
    assert!(counted.reads.requests() <= 12, "{:?}", counted.reads);
    let counted = from_afar(bulk(5, 40, (1, 20)), BUDGET).await;
    assert_eq!(counted.reads.requests(), 200, "{:?}", counted.reads);
}

/// With hardly any buffers no partition waits for what another one holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_buffers_are_enough() {
    for (partitions, chunks, form) in [(1, 12, LARGE), (40, 1, LARGE), (12, 8, (4, 20))] {
        let counted = from_afar(bulk(partitions, chunks, form), 1).await;
        assert!(counted.reads.most_bytes() <= 16 << 20, "{:?}", counted.reads);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_ahead() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    Bulk { segment: 1, ..bulk(4, 50, (1, 1)) }.put(&store).await;
    let (store, counted) = distant(&store, DELAY);
    let mut vault = Vault::open(Arc::clone(&store)).await.unwrap();
    let before = counted.gets.requests();
    vault.fold(true).await.unwrap();
    assert_eq!(counted.gets.requests() - before, 401, "each commit and each table once");
    assert!((32..=64).contains(&counted.gets.most()), "{:?}", counted.gets);
}

async fn verified(store: &SharedStore, quick: bool) -> Report {
    let (_keep, stop) = watch::channel(false);
    let options = VerifyOptions { quick, expect: None };
    verify(Arc::clone(store), options, Arc::new(Progress::default()), stop).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_verified_with_much_under_way() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let one = bulk(2, 12, LARGE);
    one.put(&store).await;
    let (far, counted) = distant(&store, DELAY);
    assert_eq!(verified(&far, false).await.exit_code(), 0);
    assert!(counted.reads.most_bytes() > 24 << 20, "one segment: {:?}", counted.reads);
    assert!(counted.reads.most_bytes() <= 128 << 20);

    let store: SharedStore = Arc::new(MemoryStore::new());
    Bulk { segment: 1, ..bulk(4, 25, (1, 1)) }.put(&store).await;
    let (far, counted) = distant(&store, DELAY);
    assert_eq!(verified(&far, true).await.exit_code(), 0);
    assert_eq!(counted.reads.requests(), 0);
    assert!(counted.stats.most() >= 16, "{:?}", counted.stats);
}

/// What the store itself knows of segments: a checksum that is another one is damage, and locks are told.
#[tokio::test]
async fn what_the_store_knows() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    Bulk { segment: 1, ..bulk(3, 1, (1, 1)) }.put(&store).await;
    let distant = Distant::new(Arc::clone(&store), Duration::ZERO);
    let (told, counted) = (Arc::clone(&distant.told), Arc::clone(&distant.counted));
    let far: SharedStore = Arc::new(distant);
    let state = Vault::open(Arc::clone(&store)).await.unwrap().fold(true).await.unwrap();
    let segments: Vec<_> = state.segments.values().cloned().collect();
    let tell = |wrong: u64, until: Option<i64>| {
        for (n, segment) in segments.iter().enumerate() {
            let crc64 = u64::from_str_radix(&segment.crc64, 16).unwrap() ^ if n == 0 { wrong } else { 0 };
            let lock = until.filter(|_| n != 1).map(|until| Lock { mode: "COMPLIANCE".into(), until });
            let stat = Stat { size: segment.bytes, crc64: Some(crc64), lock };
            told.lock().unwrap().insert(segment.path(), stat);
        }
    };
    tell(0, None);
    let sound = verified(&far, true).await;
    assert_eq!((sound.exit_code(), &sound.locks), (0, &None));
    // Segments only are looked at, and whether there is a commit behind the last.
    assert_eq!(counted.stats.requests(), 3 + 1);

    tell(1, None);
    let damaged = verified(&far, true).await;
    assert_eq!((damaged.exit_code(), damaged.errors.len()), (3, 1));
    assert!(damaged.errors[0].message.contains("CRC-64"), "{:?}", damaged.errors);
    assert_eq!(damaged.errors[0].object, Some(segments[0].path()));
    assert_eq!(verified(&far, false).await.exit_code(), 0, "what is read decides");

    let until = 4_000_000_000_000;
    tell(0, Some(until));
    let stat = Stat { lock: Some(Lock { mode: "GOVERNANCE".into(), until: until - 1 }), ..Stat::of_size(1) };
    told.lock().unwrap().insert("log/0000000000000000/0002.json".into(), stat);
    let report = verified(&far, true).await;
    assert_eq!(report.exit_code(), 0);
    let locks = serde_json::to_value(&report).unwrap()["locks"].clone();
    let expected = serde_json::json!({
        "data": {"locked": 2, "unlocked": 1, "expired": 0, "modes": ["COMPLIANCE"], "until": until},
        "log": {"locked": 1, "unlocked": 3, "expired": 0, "modes": ["GOVERNANCE"], "until": until - 1},
    });
    assert_eq!(locks, expected);
    assert!(
        report.notes.iter().any(|note| note.contains("2 of 3 segments are locked")),
        "{:?}",
        report.notes
    );
    tell(0, Some(1));
    told.lock().unwrap().remove("log/0000000000000000/0002.json");
    let report = verified(&far, true).await;
    let locks = report.locks.unwrap();
    assert_eq!((locks.data.locked, locks.data.expired, locks.log.expired), (0, 2, 0));
    let words = "none of 3 segments is locked, of 2 the lock has run out; none of 4 commits is locked";
    assert!(report.notes.iter().any(|note| note.contains(words)), "{:?}", report.notes);
}

/// A store that lets in hardly anything, as one does that was asked for too much: nobody waits for those who wait for him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_gets_by_with_few_requests_at_a_time() {
    let from = MemoryStore::new();
    Bulk { segment: 1, ..bulk(4, 15, (4, 20)) }.put(&shared(&from)).await;
    for requests in [1, 2] {
        let to = MemoryStore::new();
        let narrow = |memory: &MemoryStore| -> SharedStore {
            let cloud: SharedStore = Arc::new(Cloud { part_len: 4 << 10, ..Cloud::new(memory) });
            Arc::new(Limit::new(distant(&cloud, Duration::from_millis(1)).0, requests))
        };
        let (_keep, stop) = watch::channel(false);
        let run = copy(narrow(&from), narrow(&to), CopyOptions::default(), Arc::default(), stop);
        let report = tokio::time::timeout(Duration::from_secs(60), run).await.expect("it hangs").unwrap();
        assert_eq!((report.exit_code(), &report.notes), (0, &Vec::new()));
        assert!(report.copied.unwrap().commits >= 60);
        assert!(*to.objects() == *from.objects());
    }
}

/// Chunks that are looked at one after the other are read ahead, and the first alone is no reason to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_on_reads_ahead() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    bulk(1, 30, (4, 20)).put(&store).await;
    let (far, counted) = distant(&store, DELAY);
    let state = Vault::open(Arc::clone(&far)).await.unwrap().fold(true).await.unwrap();
    let source = bodley_engine::look::Source { store: far, pool: BufferPool::new(8 << 20, 16 << 20) };
    let partition = &state.partitions[&(TOPIC, 0)];
    let mut reader = bodley_engine::look::Reader::new(&source, "orders", partition, Default::default());
    let mut batches = 0;
    while reader.next().await.unwrap().is_some() {
        batches += 1;
        assert!(batches > 4 || counted.reads.requests() == 1);
    }
    assert_eq!((batches, counted.reads.requests()), (120, 30));
    assert!(counted.reads.most() >= 10, "{:?}", counted.reads);
}

/// A GiB into a real Kafka, near and far, in layouts that are hard in different ways: with BODLEY_SOAK, for its figures.
#[test]
fn a_gib_near_and_far() {
    if std::env::var_os("BODLEY_SOAK").is_none() {
        return;
    }
    let kafka = bodley_testbed::Cluster::start(ClusterOptions::new().jvm("-Xmx2g")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let layouts = [(1, 520, LARGE), (12, 44, LARGE), (1000, 1, (15, 70)), (100, 130, (1, 80))];
    for (number, (partitions, chunks, form)) in layouts.into_iter().enumerate() {
        let bulk = Bulk { segment: 128.max(partitions as usize), ..bulk(partitions, chunks, form) };
        let folder = tempfile::tempdir_in(bodley_testbed::paths::target_dir()).unwrap();
        let near: SharedStore = Arc::new(DiskStore::new(folder.path(), DirectIo::Auto));
        runtime.block_on(bulk.put(&near));
        for (round, delay) in [0, 100, 0, 100].into_iter().enumerate() {
            let (store, counted) = distant(&near, Duration::from_millis(delay));
            let name = format!("far-{number}-{round}");
            let start = Instant::now();
            runtime.block_on(restored(&store, &kafka.bootstrap(), &name, BUDGET));
            let (took, mib) = (start.elapsed(), bulk.bytes() as f64 / f64::from(1 << 20));
            let reads = &counted.reads;
            eprintln!(
                "{partitions} partitions, {} KiB chunks, {delay} ms: {mib:.0} MiB in {:.2} s, {:.0} MiB/s; {} reads, {} at a time, {} MiB at a time",
                bulk.bytes() / partitions as usize / chunks / 1024,
                took.as_secs_f64(),
                mib / took.as_secs_f64(),
                reads.requests(),
                reads.most(),
                reads.most_bytes() >> 20,
            );
        }
    }
}

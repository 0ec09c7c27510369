//! The vault over the memory store: what is written reads back, two writers settle their race, damage is found and named.

// Helpers of tests, which clippy does not count as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;

use bodley_engine::error::Severity;
use bodley_engine::vault::VaultError;
use bodley_engine::vault::commit::Receipt;
use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{GroupRow, Kind, Reason, Rows};
use bodley_engine::verify::{VerifyOptions, verify};
use bodley_engine::{EngineError, Progress, Report};
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use common::sample::{self, TOPIC, row};
use tokio::sync::watch;

async fn append(vault: &mut Vault, chunks: &[(u32, i64, i64)]) -> Result<Receipt, VaultError> {
    sample::append(vault, chunks, 0).await
}

async fn sample() -> (MemoryStore, SharedStore, Receipt) {
    let memory = MemoryStore::new();
    let store: SharedStore = Arc::new(memory.clone());
    let mut vault = Vault::create(Arc::clone(&store), "cluster").await.unwrap();
    append(&mut vault, &[(0, 0, -1), (1, 100, -1)]).await.unwrap();
    let receipt = append(&mut vault, &[(0, 10, 10), (1, 110, 110)]).await.unwrap();
    (memory, store, receipt)
}

async fn verified(store: &SharedStore, quick: bool, expect: Option<Receipt>) -> Result<Report, EngineError> {
    let (_keep, stop) = watch::channel(false);
    verify(Arc::clone(store), VerifyOptions { quick, expect }, Arc::new(Progress::default()), stop).await
}

#[tokio::test]
async fn what_was_committed_reads_back() {
    let (_, store, receipt) = sample().await;
    let mut vault = Vault::open(Arc::clone(&store)).await.unwrap();
    assert_eq!(vault.receipt(), &receipt);
    let state = vault.fold(true).await.unwrap();
    let part = &state.partitions[&(TOPIC, 1)];
    assert_eq!(part.cursor.unwrap().next, 120);
    assert_eq!(part.ranges.iter().map(|r| (r.first, r.next)).collect::<Vec<_>>(), [(100, 110), (110, 120)]);
    assert_eq!(state.newest()["orders"].topic, TOPIC);
    let report = verified(&store, false, Some(receipt)).await.unwrap();
    assert_eq!((report.errors.len(), report.records), (0, Some(40)));
}

#[tokio::test]
async fn gaps_groups_and_tombstones() {
    let (_, store, _) = sample().await;
    let mut vault = Vault::open(Arc::clone(&store)).await.unwrap();
    let mut gap = row(0, 20..25, 20);
    gap.kind = Kind::Gap(Reason::Retention);
    let group = |partition, present, offset| GroupRow {
        group: "billing".into(),
        topic: TOPIC,
        partition,
        present,
        kind: String::new(),
        protocol_type: "consumer".into(),
        unstable: false,
        taken: 5,
        offset,
        leader_epoch: -1,
        metadata: None,
    };
    let rows =
        Rows { ranges: vec![gap], groups: vec![group(-1, true, -1), group(0, true, 12)], ..Rows::default() };
    vault.append(Addition { segments: Vec::new(), rows }).await.unwrap();
    let state = vault.fold(false).await.unwrap();
    assert_eq!(state.groups[&("billing".to_owned(), TOPIC)].offsets[&0].offset, 12);
    assert_eq!(state.partitions[&(TOPIC, 0)].cursor.unwrap().next, 25);
    let rows = Rows { groups: vec![group(-1, false, -1)], ..Rows::default() };
    vault.append(Addition { segments: Vec::new(), rows }).await.unwrap();
    let state = vault.fold(false).await.unwrap();
    let pair = &state.groups[&("billing".to_owned(), TOPIC)];
    assert!(!pair.header.present && pair.offsets.is_empty());
    let report = verified(&store, false, None).await.unwrap();
    assert_eq!((report.exit_code(), report.gaps.len()), (0, 1));
}

#[tokio::test]
async fn two_writers_disjoint_and_overlapping() {
    let (_, store, _) = sample().await;
    let mut one = Vault::open(Arc::clone(&store)).await.unwrap();
    let mut two = Vault::open(Arc::clone(&store)).await.unwrap();
    let mut three = Vault::open(Arc::clone(&store)).await.unwrap();
    assert_eq!(append(&mut one, &[(0, 20, 20)]).await.unwrap().seq, 4);
    // Another partition: follows.
    assert_eq!(append(&mut two, &[(1, 120, 120)]).await.unwrap().seq, 5);
    // The same partition: stops and names the other.
    match append(&mut three, &[(2, 0, -1), (0, 20, 20)]).await {
        Err(VaultError::LostRace { writer, count: 1, .. }) => assert_eq!(writer, one.writer()),
        other => panic!("{other:?}"),
    }
    let report = verified(&store, false, None).await.unwrap();
    assert_eq!((report.exit_code(), report.records), (0, Some(60)));
}

/// A writer with several commits must not forget what it followed on the way.
#[tokio::test]
async fn a_commit_that_was_followed_still_counts_later() {
    let (_, store, _) = sample().await;
    let mut ours = Vault::open(Arc::clone(&store)).await.unwrap();
    let mut theirs = Vault::open(Arc::clone(&store)).await.unwrap();
    append(&mut theirs, &[(1, 120, 120)]).await.unwrap();
    append(&mut ours, &[(0, 20, 20)]).await.unwrap();
    let late = append(&mut ours, &[(1, 120, 120)]).await;
    assert!(matches!(late, Err(VaultError::LostRace { .. })), "{late:?}");
    append(&mut ours, &[(0, 30, 30)]).await.unwrap();
    assert_eq!(verified(&store, false, None).await.unwrap().exit_code(), 0);
}

#[tokio::test]
async fn many_writers_never_lose_or_double() {
    for seed in 0..20 {
        let memory = MemoryStore::new();
        let store: SharedStore = Arc::new(memory);
        Vault::create(Arc::clone(&store), "cluster").await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..6u32 {
            let store = Arc::clone(&store);
            let mut random = fastrand::Rng::with_seed(seed * 100 + u64::from(writer));
            tasks.spawn(async move {
                let mut done = 0;
                for _ in 0..8 {
                    let mut vault = Vault::open(Arc::clone(&store)).await.unwrap();
                    let state = vault.fold(false).await.unwrap();
                    let partition = random.u32(0..4);
                    let cursor =
                        state.partitions.get(&(TOPIC, partition)).and_then(|p| p.cursor).map(|c| c.next);
                    for _ in 0..random.u32(0..4) {
                        tokio::task::yield_now().await;
                    }
                    match append(&mut vault, &[(partition, cursor.unwrap_or(0), cursor.unwrap_or(-1))]).await
                    {
                        Ok(_) => done += 10,
                        Err(VaultError::LostRace { .. }) => {}
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
                done
            });
        }
        let done: u64 = tasks.join_all().await.into_iter().sum();
        let report = verified(&store, false, None).await.unwrap();
        assert_eq!((report.exit_code(), report.records), (0, Some(done)), "seed {seed}");
    }
}

#[tokio::test]
async fn rows_that_do_not_join_are_not_committed() {
    let (_, store, receipt) = sample().await;
    let mut vault = Vault::open(Arc::clone(&store)).await.unwrap();
    for ranges in [vec![row(0, 21..30, 20)], vec![row(0, 20..25, 20), row(0, 26..30, 20)]] {
        let rows = Rows { ranges, ..Rows::default() };
        let result = vault.append(Addition { segments: Vec::new(), rows }).await;
        assert!(matches!(result, Err(VaultError::Internal(_))), "{result:?}");
    }
    assert_eq!(Vault::open(store).await.unwrap().receipt(), &receipt);
}

#[tokio::test]
async fn a_flipped_bit_in_any_object_is_found_and_named() {
    let (memory, store, _) = sample().await;
    let paths: Vec<String> = memory.objects().keys().cloned().collect();
    assert_eq!(paths.len(), 1 + 3 + 2 + 2, "{paths:?}");
    for path in paths {
        let whole = memory.objects()[&path].clone();
        for at in (0..whole.len()).step_by(11) {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << (at % 8);
            memory.objects().insert(path.clone(), flipped.into());
            let report = verified(&store, false, None).await;
            match report {
                Ok(report) => {
                    assert_eq!(report.exit_code(), 3, "{path} byte {at}");
                    let named = |issue: &bodley_engine::Issue| issue.object.as_deref() == Some(path.as_str());
                    // vault.json is known by its digest in the first commit.
                    assert!(
                        path == "vault.json" || report.errors.iter().any(named),
                        "{path} byte {at}: {report:?}"
                    );
                }
                Err(error) => assert!(error.severity() >= Severity::Refused, "{path} byte {at}: {error}"),
            }
        }
        memory.objects().insert(path, whole);
    }
}

#[tokio::test]
async fn missing_and_cut_objects() {
    let (memory, store, receipt) = sample().await;
    let paths: Vec<String> = memory.objects().keys().cloned().collect();
    for path in paths.iter().filter(|path| path.starts_with("data/") || path.starts_with("index/")) {
        let whole = memory.objects().remove(path).unwrap();
        for quick in [false, true] {
            let report = verified(&store, quick, None).await.unwrap();
            assert_eq!(report.exit_code(), 3, "{path} missing, quick {quick}");
            assert!(report.errors.iter().any(|issue| issue.object.as_deref() == Some(path)), "{report:?}");
        }
        memory.objects().insert(path.clone(), whole.slice(..whole.len() - 1));
        assert_eq!(verified(&store, true, None).await.unwrap().exit_code(), 3, "{path} cut");
        memory.objects().insert(path.clone(), whole);
    }
    // A hole in the log is damage, a cut tail shows against a receipt only.
    let log: Vec<String> = paths.into_iter().filter(|path| path.starts_with("log/")).collect();
    let middle = memory.objects().remove(&log[1]).unwrap();
    assert_eq!(verified(&store, false, None).await.unwrap().exit_code(), 3);
    memory.objects().insert(log[1].clone(), middle);
    memory.objects().remove(&log[2]);
    assert_eq!(verified(&store, false, None).await.unwrap().exit_code(), 0);
    assert_eq!(verified(&store, false, Some(receipt)).await.unwrap().exit_code(), 3);
}

#[tokio::test]
async fn what_is_no_vault_or_a_newer_one() {
    let memory = MemoryStore::new();
    let store: SharedStore = Arc::new(memory.clone());
    assert!(matches!(Vault::open(Arc::clone(&store)).await, Err(VaultError::Absent { .. })));
    for (json, foreign) in [("{}", true), ("x", true), (r#"{"magic":"bodley-vault","format":2}"#, false)] {
        memory.objects().insert("vault.json".into(), json.as_bytes().to_vec().into());
        match Vault::open(Arc::clone(&store)).await {
            Err(VaultError::Foreign { .. }) => assert!(foreign, "{json}"),
            Err(VaultError::Unsupported(_)) => assert!(!foreign, "{json}"),
            other => panic!("{json}: {other:?}"),
        }
    }
    // A run that died between vault.json and the first commit leaves a vault that the next one goes on with.
    memory.objects().clear();
    Vault::create(Arc::clone(&store), "cluster").await.unwrap();
    memory.objects().retain(|path, _| path == "vault.json");
    assert_eq!(Vault::open(Arc::clone(&store)).await.unwrap().receipt().seq, 0);
    assert_eq!(memory.objects().len(), 1, "opening writes nothing");
    assert_eq!(Vault::open_for_writing(Arc::clone(&store)).await.unwrap().receipt().seq, 1);
    // With data around, the log is lost.
    memory.objects().retain(|path, _| path == "vault.json");
    memory.objects().insert("data/x.seg".into(), vec![1].into());
    assert!(matches!(Vault::open(store).await, Err(VaultError::Damaged { .. })));
}

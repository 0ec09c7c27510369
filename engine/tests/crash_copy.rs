//! A copy dies at each operation of its target, before and after the effect, or loses its power at a system call: what is there is the beginning of
//! the same vault, every byte of it verifies, and the next copy completes it. Or it only stood still while another copy went by.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bodley_engine::copy::{CopyOptions, copy};
use bodley_engine::vault::log::Vault;
use bodley_engine::{EngineError, Report};
use bodley_io::store::SharedStore;
use bodley_io::store::disk::{DirectIo, DiskStore};
use bodley_io::store::memory::MemoryStore;
use common::cloud::Cloud;
use common::files::objects;
use common::frozen::{Frozen, Stop};
use common::machine::{Event, Machine};
use common::memory::{paths, shared};
use common::model::Objects;
use common::sample;
use tokio::sync::watch;

/// A vault of five commits, one of them of a segment in several parts, and a checkpoint.
async fn vault() -> MemoryStore {
    let memory = MemoryStore::new();
    sample::run(&shared(&memory), 3, &mut Vec::new()).await.unwrap();
    let mut vault = Vault::open_for_writing(shared(&memory)).await.unwrap();
    vault.fold(false).await.unwrap();
    vault.checkpoint_every(1);
    vault.checkpoint().await.unwrap().unwrap();
    sample::append(&mut vault, &[(3, 0, -1)], 0).await.unwrap();
    memory
}

async fn carry(from: &MemoryStore, to: SharedStore) -> Result<Report, EngineError> {
    let (_keep, stop) = watch::channel(false);
    copy(shared(from), to, CopyOptions::default(), Arc::default(), stop).await
}

/// What is there is a beginning of the same vault: nothing else under any name, and each commit with all that it names. Returns the number of commits.
async fn is_beginning(from: &MemoryStore, found: &Objects, store: &SharedStore, case: &str) -> u64 {
    let whole = from.objects().clone();
    for (path, bytes) in found {
        assert!(whole.get(path) == Some(bytes), "{case}: {path} is not the source's");
    }
    sample::sound(store, found, &[], case).await
}

#[tokio::test]
async fn a_copy_dies_at_each_operation_and_the_next_completes_it() {
    let from = vault().await;
    let whole = Frozen::new(Arc::new(Cloud::new(&MemoryStore::new())), None);
    carry(&from, Arc::new(whole.clone())).await.unwrap();
    let operations = whole.operations();
    for name in ["create", "write", "finish", "put", "list", "size"] {
        assert!(operations.contains(&name), "{name} is not in {operations:?}");
    }
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for at in 1..=operations.len() {
        for after in [false, true] {
            let memory = MemoryStore::new();
            let mut stop = Some(Stop { at, after });
            let case = format!("{stop:?} in {}", operations[at - 1]);
            // The one after it dies as well.
            for again in [1 + at * 7 % operations.len(), 0] {
                let frozen = Frozen::new(Arc::new(Cloud::new(&memory)), stop);
                let target: SharedStore = Arc::new(frozen.clone());
                if let Some(done) = frozen.live(carry(&from, target)).await {
                    done.unwrap_or_else(|error| panic!("{case}: {error}"));
                }
                let found = memory.objects().clone();
                let commits = is_beginning(&from, &found, &shared(&memory), &case).await;
                *counts.entry(commits).or_default() += 1;
                stop = Some(Stop { at: again, after: !after });
            }
            let report = carry(&from, Arc::new(Cloud::new(&memory))).await.unwrap();
            assert_eq!((report.exit_code(), report.notes.len()), (0, 0), "{case}");
            assert_eq!(*memory.objects(), *from.objects(), "{case}");
        }
    }
    println!("{} operations, commits in the copies {counts:?}", operations.len());
    assert!((0..=5).all(|commits| counts.contains_key(&commits)), "{counts:?}");
}

/// Two copies at once do no harm, whichever stands still, and wherever.
#[tokio::test]
async fn a_copy_stands_still_at_each_operation_while_another_goes_by() {
    let from = vault().await;
    let mut both = 0;
    for at in 1.. {
        for after in [false, true] {
            let case = format!("operation {at}, after it: {after}");
            let memory = MemoryStore::new();
            let frozen = Frozen::new(Arc::new(Cloud::new(&memory)), Some(Stop { at, after }));
            let mut first = Box::pin(carry(&from, Arc::new(frozen.clone())));
            if frozen.live(&mut first).await.is_some() {
                println!("{both} times two");
                assert!(both > 50);
                return;
            }
            carry(&from, Arc::new(Cloud::new(&memory))).await.unwrap();
            frozen.thaw();
            let report = first.await.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!((report.exit_code(), report.receipt.is_some()), (0, true), "{case}: {report:?}");
            assert_eq!(*memory.objects(), *from.objects(), "{case}");
            both += 1;
        }
    }
}

/// Killed, killed again, and then the power goes: names that the second copy only found must be as durable as those that it gave.
#[tokio::test]
async fn a_copy_to_disk_is_killed_at_each_system_call_and_loses_its_power() {
    let from = vault().await;
    let mut random = fastrand::Rng::with_seed(11);
    let mut cases = 0;
    for at in (1..).step_by(if std::env::var_os("BODLEY_SOAK").is_some() { 1 } else { 3 }) {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let base = folder.path().join("live");
        std::fs::create_dir_all(&base).unwrap();
        let machine = Arc::new(Machine::new(&base, true));
        let run = async |event| {
            machine.start(event);
            let files = Arc::clone(&machine);
            let store = DiskStore::with_files(base.join("vault"), DirectIo::Off, files);
            carry(&from, Arc::new(store)).await
        };
        let mut done = run(Some((at, Event::Kill))).await.is_ok();
        if done && machine.hit().is_none() {
            break;
        }
        for seed in 0..3 {
            let case = format!("killed at call {at}, power loss {seed}");
            let after = folder.path().join(format!("lost-{seed}"));
            machine.power_loss(&after, seed);
            let root = after.join("vault");
            let store: SharedStore = Arc::new(DiskStore::new(&root, DirectIo::Off));
            let commits = is_beginning(&from, &objects(&root), &store, &case).await;
            assert!(!done || commits == paths(&from, "log/").len() as u64, "{case}: it was told to be done");
            carry(&from, Arc::clone(&store)).await.unwrap();
            assert_eq!(objects(&root), *from.objects(), "{case}");
            std::fs::remove_dir_all(after).unwrap();
            // What is visible is gone on with, and dies as well.
            done = run(Some((random.usize(1..200), Event::Kill))).await.is_ok();
            assert_eq!(machine.broken(), [""; 0], "{case}");
            cases += 1;
        }
    }
    println!("{cases} cases");
    assert!(cases > 60, "{cases}");
}

//! A run dies at each operation of its store, before and after the effect; so does the next one. Then a run goes on, with nothing repaired: what was
//! told to be in is in, each partition's rows form one chain, every byte verifies. Or it only stood still while another run went by.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use bodley_engine::vault::{Receipt, VaultError};
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use common::frozen::{Frozen, Stop};
use common::sample;

const COMMITS: u32 = 3;

/// A run that may die. `None`: it did; else its operations.
async fn run(memory: &MemoryStore, stop: Option<Stop>, told: &mut Vec<Receipt>) -> Option<Vec<&'static str>> {
    let frozen = Frozen::new(Arc::new(memory.clone()), stop);
    let store: SharedStore = Arc::new(frozen.clone());
    let done = frozen.live(sample::run(&store, COMMITS, told)).await;
    done.map(|result| result.map(|()| frozen.operations()).unwrap())
}

async fn sound(memory: &MemoryStore, told: &[Receipt], case: &str) -> u64 {
    let (store, objects): (SharedStore, _) = (Arc::new(memory.clone()), memory.objects().clone());
    sample::sound(&store, &objects, told, case).await
}

#[tokio::test]
async fn a_run_dies_at_each_operation_and_the_next_goes_on() {
    let operations = run(&MemoryStore::new(), None, &mut Vec::new()).await.unwrap();
    for name in ["create", "write", "finish", "put", "get", "list", "size"] {
        assert!(operations.contains(&name), "{name} is not in {operations:?}");
    }
    assert!(operations.iter().filter(|name| **name == "write").count() > COMMITS as usize, "several parts");
    let soak = std::env::var_os("BODLEY_SOAK").is_some();
    let mut cases = 0;
    for at in 1..=operations.len() {
        for after in [false, true] {
            let first = Stop { at, after };
            // The run after it dies as well, at one operation or at each.
            let again = operations.len() + 2 * COMMITS as usize;
            for second in (1..again).filter(|second| soak || second % 9 == at % 9) {
                let case = format!("{first:?} in {}, then at {second}", operations[at - 1]);
                let (memory, mut told) = (MemoryStore::new(), Vec::new());
                assert!(run(&memory, Some(first), &mut told).await.is_none(), "{case}: it did not die");
                let commits = sound(&memory, &told, &case).await;
                // All but the one whose answer did not come were told of, and the first one.
                assert!(commits <= told.iter().map(|receipt| receipt.seq).max().unwrap_or(1) + 1, "{case}");
                let second = Stop { at: second, after: second % 2 == 0 };
                run(&memory, Some(second), &mut told).await;
                let commits = sound(&memory, &told, &case).await;
                run(&memory, None, &mut told).await.unwrap();
                let missing = if commits == 0 { 1 } else { 0 };
                let whole = sound(&memory, &told, &case).await;
                assert_eq!(whole, commits + missing + u64::from(COMMITS), "{case}");
                cases += 1;
            }
        }
    }
    println!("{} operations, {cases} cases", operations.len());
    assert!(cases > 4 * operations.len());
}

/// As a process that was suspended, or a machine that was cut off.
#[tokio::test]
async fn a_run_stands_still_at_each_operation_while_another_goes_by() {
    let operations = run(&MemoryStore::new(), None, &mut Vec::new()).await.unwrap();
    let (mut lost, mut done) = (0, 0);
    for at in 1..=operations.len() {
        for (after, before) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
            let (memory, mut told, mut theirs) = (MemoryStore::new(), Vec::new(), Vec::new());
            for _ in 0..before {
                run(&memory, None, &mut told).await.unwrap();
            }
            let stop = Stop { at, after };
            let case = format!("{stop:?} in {} after {before} runs", operations[at - 1]);
            let frozen = Frozen::new(Arc::new(memory.clone()), Some(stop));
            let store: SharedStore = Arc::new(frozen.clone());
            let mut ours = Box::pin(sample::run(&store, COMMITS, &mut told));
            let result = match frozen.live(&mut ours).await {
                // A vault that is there takes fewer operations to open than to make.
                Some(result) => result,
                None => {
                    let other = run(&memory, None, &mut theirs).await;
                    assert!(other.is_some(), "{case}");
                    frozen.thaw();
                    ours.as_mut().await
                }
            };
            match result {
                Ok(()) => done += 1,
                Err(VaultError::LostRace { .. }) => lost += 1,
                Err(error) => panic!("{case}: {error}"),
            }
            drop(ours);
            told.extend(theirs);
            let commits = sound(&memory, &told, &case).await;
            told.sort_by_key(|receipt| receipt.seq);
            run(&memory, None, &mut told).await.unwrap();
            assert_eq!(sound(&memory, &told, &case).await, commits + u64::from(COMMITS), "{case}");
        }
    }
    println!("{done} went on, {lost} lost the race");
    assert!(done > 20 && lost > 20, "{done}, {lost}");
}

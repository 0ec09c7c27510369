//! A run dies at each operation of its store, before and after the effect; so does the next one. Then a run goes on, with nothing repaired: what was
//! told to be in is in, each partition's rows form one chain, every byte verifies.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use bodley_engine::vault::Receipt;
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use common::frozen::{Death, Frozen};
use common::sample;

const COMMITS: u32 = 3;

/// A run that may die. `None`: it did; else its operations.
async fn run(
    memory: &MemoryStore,
    death: Option<Death>,
    told: &mut Vec<Receipt>,
) -> Option<Vec<&'static str>> {
    let frozen = Frozen::new(Arc::new(memory.clone()), death);
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
            let first = Death { at, after };
            // The run after it dies as well, at one operation or at each.
            let again = operations.len() + 2 * COMMITS as usize;
            for second in (1..again).filter(|second| soak || second % 9 == at % 9) {
                let case = format!("{first:?} in {}, then at {second}", operations[at - 1]);
                let (memory, mut told) = (MemoryStore::new(), Vec::new());
                assert!(run(&memory, Some(first), &mut told).await.is_none(), "{case}: it did not die");
                let commits = sound(&memory, &told, &case).await;
                // All but the one whose answer did not come were told of, and the first one.
                assert!(commits <= told.iter().map(|receipt| receipt.seq).max().unwrap_or(1) + 1, "{case}");
                let second = Death { at: second, after: second % 2 == 0 };
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

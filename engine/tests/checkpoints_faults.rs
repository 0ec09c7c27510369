//! What is wrong with a checkpoint stays with it: it is not handed on to the next ones, and one that can't be made leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use bodley_engine::vault::checkpoint::Checkpoint;
use bodley_engine::vault::commit::{TableRef, commit_path};
use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::pages::Heads;
use bodley_engine::vault::rows::Rows;
use bodley_engine::vault::table::Table;
use bodley_engine::vault::{State, VaultError};
use bodley_engine::verify::{VerifyOptions, verify};
use bodley_engine::{EngineError, Progress};
use bodley_io::store::SharedStore;
use bodley_io::store::disk::{DirectIo, DiskStore};
use bodley_io::store::memory::MemoryStore;
use common::frozen::Frozen;
use common::memory::{paths, sha256, shared, with_checkpoints};
use common::sample;
use tokio::sync::watch;

fn read(memory: &MemoryStore, path: &str) -> Checkpoint {
    Checkpoint::decode(path, &memory.objects()[path]).unwrap().0
}

fn newest(memory: &MemoryStore) -> (String, Checkpoint) {
    let path = paths(memory, "checkpoint/").pop().unwrap();
    let checkpoint = read(memory, &path);
    (path, checkpoint)
}

async fn fold(memory: &MemoryStore, keep_ranges: bool) -> (State, Vec<String>) {
    let mut vault = Vault::open(shared(memory)).await.unwrap();
    let state = vault.fold(keep_ranges).await.unwrap();
    (state, vault.take_warnings())
}

async fn log_alone(memory: &MemoryStore) -> State {
    let copy = MemoryStore::new();
    copy.objects().clone_from(&memory.objects());
    copy.objects().retain(|path, _| !path.starts_with("checkpoint/"));
    fold(&copy, true).await.0
}

/// As the next backup does.
async fn next_checkpoint(memory: &MemoryStore) -> (Option<String>, Vec<String>) {
    let mut vault = Vault::open(shared(memory)).await.unwrap();
    vault.fold(false).await.unwrap();
    vault.checkpoint_every(2);
    let made = vault.checkpoint().await.unwrap();
    (made, vault.take_warnings())
}

#[tokio::test]
async fn a_rotten_page_is_not_handed_on() {
    for (which, lost) in [(0, false), (0, true), (1, false), (1, true)] {
        let memory = with_checkpoints().await;
        let bad = newest(&memory).1.pages[which].clone();
        let mut bytes = memory.objects()[&bad.path()].to_vec();
        bytes[20] ^= 1;
        memory.objects().insert(bad.path(), bytes.into());
        if lost {
            memory.objects().remove(&bad.path());
        }
        let case = format!("page {which}, lost {lost}");
        // A backup does not look at it, until it makes the next one.
        let (_, warnings) = fold(&memory, false).await;
        assert_eq!(warnings, [""; 0], "{case}");
        let (state, warnings) = fold(&memory, true).await;
        assert_eq!(warnings.len(), 2 - which, "{case}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(&bad.path())), "{case}: {warnings:?}");
        assert!(which == 1 || warnings[1].contains("as well"), "{case}: read again: {warnings:?}");
        assert!(state == log_alone(&memory).await, "{case}");
        let (made, warnings) = next_checkpoint(&memory).await;
        assert_eq!(warnings.len(), 2 - which, "{case}: {warnings:?}");
        let checkpoint = read(&memory, &made.unwrap());
        assert!(!checkpoint.pages.contains(&bad), "{case}");
        let (state, warnings) = fold(&memory, true).await;
        assert_eq!(warnings, [""; 0], "{case}: it is mended");
        assert!(state == log_alone(&memory).await, "{case}");
        let report = sample::verified(&shared(&memory), None).await;
        assert!(!report.notes.iter().any(|note| note.contains("00018-")), "{case}: {:?}", report.notes);
    }
}

/// Heads that are right in themselves, and not what the log says.
fn forge(memory: &MemoryStore) -> String {
    let (path, mut checkpoint) = newest(memory);
    let page = checkpoint.heads.path();
    let (mut heads, _) = Heads::decode(&Table::open(&page, &memory.objects()[&page]).unwrap()).unwrap();
    heads.cursors.iter_mut().for_each(|row| row.cursor.next += 1);
    checkpoint.state = heads.clone().digest().unwrap();
    let table = heads.encode(checkpoint.seq).unwrap();
    let (id, rows) = (ulid::Ulid::generate().to_string(), table.rows());
    let bytes = table.finish().unwrap();
    checkpoint.heads = TableRef { id, bytes: bytes.len() as u64, rows, sha256: sha256(&bytes) };
    memory.objects().insert(checkpoint.heads.path(), bytes.into());
    memory.objects().insert(path.clone(), checkpoint.encode().unwrap().into());
    path
}

#[tokio::test]
async fn one_that_does_not_go_with_the_log_is_not_built_upon() {
    let memory = with_checkpoints().await;
    let forged = forge(&memory);
    let (_, warnings) = fold(&memory, false).await;
    assert!(
        warnings.iter().any(|w| w.starts_with(&forged) && w.contains("does not go with")),
        "{warnings:?}"
    );
    let (made, _) = next_checkpoint(&memory).await;
    assert_eq!(read(&memory, &made.unwrap()).seq, 18);
    for keep_ranges in [false, true] {
        assert_eq!(fold(&memory, keep_ranges).await.1, [""; 0]);
    }
    assert!(fold(&memory, true).await.0 == log_alone(&memory).await);
}

#[tokio::test]
async fn one_that_cannot_be_made_leaves_no_pages() {
    let memory = MemoryStore::new();
    let mut vault = Vault::create(shared(&memory), "cluster").await.unwrap();
    let ranges = (0..100_000).map(|partition| sample::row(partition, 0..5, -1)).collect();
    vault.append(Addition { segments: Vec::new(), rows: Rows { ranges, ..Rows::default() } }).await.unwrap();
    let rows = Rows { ranges: vec![sample::row(0, 5..6, 5)], ..Rows::default() };
    vault.append(Addition { segments: Vec::new(), rows }).await.unwrap();
    // The last commit has a field of a newer version.
    let path = commit_path(3);
    let line = String::from_utf8(memory.objects()[&path].to_vec()).unwrap();
    let line = line.lines().next().unwrap().replacen('{', r#"{"colour":7,"#, 1);
    memory.objects().insert(path, format!("{line}\n{}\n", sha256(line.as_bytes())).into_bytes().into());
    let counted = Frozen::new(shared(&memory), None);
    let mut vault = Vault::open(Arc::new(counted.clone())).await.unwrap();
    vault.fold(false).await.unwrap();
    vault.checkpoint_every(1);
    let made = vault.checkpoint().await;
    assert!(matches!(made, Err(VaultError::Unsupported(_))), "{made:?}");
    assert!(!counted.operations().contains(&"put"), "{:?}", counted.operations());
}

/// A page that can't be read is not the same as one that is wrong.
#[tokio::test]
async fn an_error_of_the_store_ends_verify() {
    let memory = with_checkpoints().await;
    let checkpoint = newest(&memory).1;
    for (page, what) in [(&checkpoint.heads, "heads"), (&checkpoint.pages[1], "history")] {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in memory.objects().iter() {
            let file = folder.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        // Nobody can read a link to itself.
        let file = folder.path().join(page.path());
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&file, &file).unwrap();
        let store: SharedStore = Arc::new(DiskStore::new(folder.path(), DirectIo::Off));
        let (_keep, stop) = watch::channel(false);
        let options = VerifyOptions { quick: true, expect: None };
        let result = verify(store, options, Arc::new(Progress::default()), stop).await;
        assert!(matches!(result, Err(EngineError::Vault(VaultError::Store(_)))), "{what}: {result:?}");
    }
}

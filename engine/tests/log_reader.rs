//! What a log that lies can make its reader do: how much it holds, how far it goes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use bodley_engine::vault::VaultError;
use bodley_engine::vault::commit::{Commit, commit_path};
use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::reading::LogReader;
use bodley_engine::vault::rows::Rows;
use bodley_io::store::memory::MemoryStore;
use common::frozen::Frozen;
use common::memory::shared;
use common::sample;

/// Commits 2 to 11 with a table each.
async fn vault() -> MemoryStore {
    let memory = MemoryStore::new();
    let mut vault = Vault::create(shared(&memory), "cluster").await.unwrap();
    for at in 0..10 {
        let from = if at == 0 { -1 } else { at };
        let rows = Rows { ranges: vec![sample::row(0, at..at + 1, from)], ..Rows::default() };
        vault.append(Addition { segments: Vec::new(), rows }).await.unwrap();
    }
    memory
}

/// Makes all commits say that their tables have so many bytes.
fn say(memory: &MemoryStore, bytes: u64) {
    for seq in 2..=11 {
        let path = commit_path(seq);
        let (mut commit, _) = Commit::decode(&path, seq, &memory.objects()[&path]).unwrap();
        commit.tables[0].bytes = bytes;
        memory.objects().insert(path, commit.encode().unwrap().0.into());
    }
}

#[tokio::test]
async fn large_tables_are_not_held_by_the_dozen() {
    let memory = vault().await;
    // The first commit has no table; one that is larger than what fits is read by itself.
    for (bytes, held) in [(1 << 20, 10), (8 << 20, 4), (20 << 20, 1), (1 << 40, 0)] {
        say(&memory, bytes);
        let counted = Frozen::new(shared(&memory), None);
        let vault = Vault::open(Arc::new(counted.clone())).await.unwrap();
        let gets = || counted.operations().iter().filter(|name| **name == "get").count();
        let before = gets();
        let mut reader = LogReader::new(&vault, 1..=11);
        let mut found = vec![reader.next().await.unwrap()];
        assert_eq!(gets() - before, 11 + held, "{bytes} bytes: eleven commits, and of the tables");
        while let Some(entry) = reader.next().await {
            found.push(entry);
        }
        assert_eq!(gets() - before, 11 + 10, "{bytes} bytes");
        for (seq, entry) in (1..).zip(&found) {
            assert_eq!(entry.seq, seq);
            assert_eq!(entry.commit.as_ref().unwrap().0.seq, seq);
            assert_eq!(entry.tables.len(), usize::from(seq > 1), "{bytes} bytes, commit {seq}");
        }
        assert_eq!(found.len(), 11);
    }
}

#[tokio::test]
async fn no_more_is_read_than_a_commit_says() {
    let memory = vault().await;
    say(&memory, 1);
    let vault = Vault::open(shared(&memory)).await.unwrap();
    let mut reader = LogReader::new(&vault, 2..=11);
    while let Some(entry) = reader.next().await {
        let table = entry.tables.into_iter().next().unwrap();
        let Err(VaultError::Damaged { what, .. }) = table else { panic!("{table:?}") };
        assert!(what.starts_with("it has ") && what.ends_with(" bytes"), "{what}");
    }
}

#[tokio::test]
async fn skipping() {
    let memory = vault().await;
    say(&memory, 20 << 20);
    let vault = Vault::open(shared(&memory)).await.unwrap();
    for to in 2..=11 {
        let mut reader = LogReader::new(&vault, 1..=11);
        assert_eq!(reader.next().await.unwrap().seq, 1);
        assert_eq!(reader.next().await.unwrap().seq, 2);
        reader.skip_to(to);
        assert_eq!(reader.next().await.map(|entry| entry.seq), (to < 11).then_some(to + 1), "to {to}");
    }
    let mut reader = LogReader::new(&vault, 1..=u64::MAX);
    reader.skip_to(u64::MAX);
    assert!(reader.next().await.is_none());
    let mut reader = LogReader::new(&vault, u64::MAX..=u64::MAX);
    assert_eq!(reader.next().await.unwrap().seq, u64::MAX);
    assert!(reader.next().await.is_none());
}

/// One planted file must neither keep `verify` for ever nor make it wrap around.
#[tokio::test]
async fn the_largest_numbers() {
    let memory = vault().await;
    let (largest, last) = (commit_path(u64::MAX), commit_path(u64::MAX - 1));
    let objects = memory.objects().clone();
    let any = objects[&commit_path(2)].clone();
    // The largest is no number of a commit.
    memory.objects().insert(largest.clone(), any.clone());
    let mut vault = Vault::open(shared(&memory)).await.unwrap();
    assert_eq!(vault.receipt().seq, 11);
    vault.fold(true).await.unwrap();
    for both in [false, true] {
        memory.objects().clone_from(&objects);
        memory.objects().insert(last.clone(), any.clone());
        if both {
            memory.objects().insert(largest.clone(), any.clone());
        }
        assert!(Vault::open(shared(&memory)).await.is_err());
        let report = sample::verified(&shared(&memory), None).await;
        let messages: Vec<_> = report.errors.iter().map(|issue| issue.message.as_str()).collect();
        assert_eq!(messages.len(), 3, "{messages:?}");
        let hole = format!("commits 13 to {} are missing", u64::MAX - 2);
        assert!(messages.iter().any(|message| message.starts_with(&hole)), "{messages:?}");
        assert!(messages.iter().any(|message| message.starts_with(&last)), "{messages:?}");
    }
}

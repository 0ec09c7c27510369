//! What else meets checkpoints: the reader that was written from docs/format.md alone, `verify`'s count of orphans, `rebuild`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::Arc;

use bodley_engine::rebuild::{RebuildOptions, rebuild};
use bodley_engine::vault::commit::commit_path;
use bodley_engine::vault::log::Vault;
use bodley_engine::{Progress, Report};
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use bodley_testbed::vault_reader;
use common::history::Histories;
use common::memory::shared;
use common::sample;
use tokio::sync::watch;

/// What the reader says when it has added up a vault and is asked for a topic that there is not.
fn reads(root: &Path, memory: &MemoryStore, args: &[&str]) -> (Option<i32>, String) {
    for (path, bytes) in memory.objects().iter() {
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    let mut command = vault_reader().unwrap();
    let out = command.arg(root).args(["--topic", "none"]).args(args).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).trim().to_owned())
}

#[tokio::test]
async fn another_reader_starts_from_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let fine = (Some(1), "no topic none".to_owned());
    for seed in 0..12 {
        let memory = MemoryStore::new();
        let mut histories = Histories::new(&shared(&memory), seed).await;
        for _ in 0..20 {
            let vault = histories.commit().await;
            vault.checkpoint_every(3 + seed % 4);
            vault.checkpoint().await.unwrap();
        }
        let root = folder.path().join(seed.to_string());
        assert_eq!(reads(&root, &memory, &[]), fine, "seed {seed}");
        assert_eq!(reads(&root, &memory, &["--checkpoint"]), fine, "seed {seed}, from the checkpoint");
        // It does: what lies before is not needed.
        let first = "log/0000000000000000/0001.json";
        std::fs::remove_file(root.join(first)).unwrap();
        memory.objects().remove(first);
        assert_eq!(reads(&root, &memory, &["--checkpoint"]), fine, "seed {seed}, without the first commit");
        assert_eq!(reads(&root, &memory, &[]).0, Some(3), "seed {seed}");
    }
}

/// A vault of real segments, with checkpoints of commits 3 and 6.
async fn vault() -> MemoryStore {
    let memory = MemoryStore::new();
    let mut vault = Vault::create(shared(&memory), "cluster").await.unwrap();
    vault.checkpoint_every(3);
    for at in 0..6 {
        let from = if at == 0 { -1 } else { at * 10 };
        sample::append(&mut vault, &[(0, at * 10, from), (1, at * 10, from)], 0).await.unwrap();
        vault.checkpoint().await.unwrap();
    }
    let checkpoints = memory.objects().keys().filter(|path| path.starts_with("checkpoint/")).count();
    assert_eq!((checkpoints, vault.receipt().seq), (2, 7));
    memory
}

#[tokio::test]
async fn pages_are_no_orphans() {
    let memory = vault().await;
    let report = sample::verified(&shared(&memory), None).await;
    assert_eq!((report.exit_code(), &report.notes), (0, &Vec::new()));
    // Where the end of the log is cut off, the tables of commits 6 and 7 are orphans, not the pages of the checkpoint that tells of it.
    let objects = memory.objects().clone();
    memory.objects().remove(&commit_path(6));
    memory.objects().remove(&commit_path(7));
    let report = sample::verified(&shared(&memory), None).await;
    let cut: Vec<_> = report.errors.iter().filter(|issue| issue.code == "log_cut").collect();
    assert!(matches!(cut.as_slice(), [cut] if cut.message.contains("ends at commit 5")), "{cut:?}");
    assert_eq!(report.exit_code(), 3);
    assert!(
        report.notes.iter().any(|note| note.contains("commit 6 is not in the log")),
        "{:?}",
        report.notes
    );
    assert!(report.notes.iter().any(|note| note.starts_with("2 tables, ")), "{:?}", report.notes);
    memory.objects().clone_from(&objects);
    // Without the checkpoints they are: those of the second are its own and the one before.
    memory.objects().retain(|path, _| !path.starts_with("checkpoint/"));
    let report = sample::verified(&shared(&memory), None).await;
    assert_eq!(report.exit_code(), 0);
    assert!(report.notes.iter().any(|note| note.starts_with("4 tables, ")), "{:?}", report.notes);
}

async fn rebuilt(memory: &MemoryStore) -> (Report, u64) {
    let (_keep, stop) = watch::channel(false);
    let target: SharedStore = Arc::new(MemoryStore::new());
    let (source, options) = (shared(memory), RebuildOptions::default());
    let report = rebuild(source, Arc::clone(&target), options, Arc::new(Progress::default()), stop).await;
    let verified = sample::verified(&target, None).await;
    assert_eq!(verified.exit_code(), 0, "{verified:?}");
    (report.unwrap(), verified.records.unwrap())
}

/// Rows of pages are those of tables: they must not come in twice, nor count as tables of a lost race.
#[tokio::test]
async fn a_rebuild_passes_over_pages() {
    let memory = vault().await;
    memory.objects().retain(|path, _| !path.starts_with("log/"));
    let plain = MemoryStore::new();
    plain.objects().clone_from(&memory.objects());
    let pages = {
        let mut objects = plain.objects();
        let checkpoints: Vec<_> = objects.keys().filter(|p| p.starts_with("checkpoint/")).cloned().collect();
        let text: String =
            checkpoints.iter().map(|path| String::from_utf8_lossy(&objects[path]).into_owned()).collect();
        let pages: Vec<_> =
            objects.keys().filter(|p| p.starts_with("index/") && text.contains(&p[6..32])).cloned().collect();
        objects.retain(|path, _| !path.starts_with("checkpoint/") && !pages.contains(path));
        pages
    };
    assert_eq!(pages.len(), 4);
    let (expected, records) = rebuilt(&plain).await;
    assert_eq!(records, 120);
    let same = async |memory: &MemoryStore, what: &str| {
        let (report, found) = rebuilt(memory).await;
        assert_eq!((&report.errors, &report.notes), (&expected.errors, &expected.notes), "{what}");
        assert_eq!(found, records, "{what}");
    };
    same(&memory, "with checkpoints").await;
    for page in &pages {
        let whole = memory.objects()[page].clone();
        memory.objects().insert(page.clone(), whole.slice(..whole.len() / 2));
        same(&memory, "a page is cut").await;
        memory.objects().insert(page.clone(), whole);
    }
    memory.objects().retain(|path, _| !path.starts_with("checkpoint/"));
    same(&memory, "pages without their checkpoints").await;
}

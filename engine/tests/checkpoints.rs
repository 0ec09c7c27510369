//! Checkpoints: a fold through one is the fold of the whole log, whatever the history, whatever is damaged, wherever a writer of one dies.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use bodley_engine::vault::checkpoint::{Checkpoint, new_path};
use bodley_engine::vault::commit::{Commit, Op, TableRef, commit_path};
use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::pages::History;
use bodley_engine::vault::rows::{Kind, Range, Rows};
use bodley_engine::vault::table::{Table, TableWriter};
use bodley_engine::vault::{State, VaultError};
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use common::frozen::{Frozen, Stop};
use common::history::Histories;
use common::memory::{copy, paths, sha256, shared, with_checkpoints};
use common::sample;

/// Both folds, with and without ranges, and what was said.
async fn folds(memory: &MemoryStore, seq: Option<u64>) -> Result<([State; 2], Vec<String>), VaultError> {
    let mut vault = Vault::open(shared(memory)).await?;
    if let Some(seq) = seq {
        vault.rewind(seq).await?;
    }
    let states = [vault.fold(false).await?, vault.fold(true).await?];
    Ok((states, vault.take_warnings()))
}

/// The same of the log alone.
async fn log_alone(memory: &MemoryStore, seq: Option<u64>) -> [State; 2] {
    let memory = copy(memory);
    memory.objects().retain(|path, _| !path.starts_with("checkpoint/"));
    let (states, warnings) = folds(&memory, seq).await.unwrap();
    assert_eq!(warnings, [""; 0]);
    states
}

#[track_caller]
fn same(found: &[State; 2], expected: &[State; 2], case: &str) {
    for (found, expected) in found.iter().zip(expected) {
        assert!(found == expected, "{case}:\n{found:#?}\nis not\n{expected:#?}");
    }
}

async fn notes_of_verify(memory: &MemoryStore) -> Vec<String> {
    let report = sample::verified(&shared(memory), None).await;
    report.notes.into_iter().filter(|note| note.contains("checkpoint")).collect()
}

#[tokio::test]
async fn a_fold_through_a_checkpoint_is_the_fold_of_the_log() {
    let soak = if std::env::var_os("BODLEY_SOAK").is_some() { 2000 } else { 60 };
    let mut made = 0;
    for seed in 0..soak {
        let memory = MemoryStore::new();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut histories = Histories::new(&shared(&memory), seed).await;
        let every = random.u64(1..8);
        let commits = random.u64(1..30);
        for _ in 0..commits {
            let vault = histories.commit().await;
            vault.checkpoint_every(every);
            made += usize::from(vault.checkpoint().await.unwrap().is_some());
            assert_eq!(vault.take_warnings(), [""; 0], "seed {seed}");
        }
        for seq in [None, Some(1 + random.u64(0..=commits))] {
            let (states, warnings) = folds(&memory, seq).await.unwrap();
            assert_eq!(warnings, [""; 0], "seed {seed}");
            same(&states, &log_alone(&memory, seq).await, &format!("seed {seed}, commit {seq:?}"));
        }
        assert_eq!(notes_of_verify(&memory).await, [""; 0], "seed {seed}");
    }
    assert!(made > soak as usize, "{made} checkpoints only");
}

fn read(memory: &MemoryStore, path: &str) -> Checkpoint {
    Checkpoint::decode(path, &memory.objects()[path]).unwrap().0
}

#[tokio::test]
async fn whatever_is_damaged_the_result_is_that_of_the_log() {
    let memory = with_checkpoints().await;
    let expected = log_alone(&memory, None).await;
    let newest = paths(&memory, "checkpoint/").pop().unwrap();
    let checkpoint = read(&memory, &newest);
    let mut objects = vec![newest.clone()];
    objects.extend(checkpoint.tables().map(TableRef::path));
    assert_eq!(objects.len(), 4, "one heads page, two of history");
    for path in objects {
        let whole = memory.objects()[&path].clone();
        let step = if path == newest { 1 } else { 7 };
        for at in (0..whole.len()).step_by(step) {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << (at % 8);
            for bytes in [flipped, whole[..at].to_vec()] {
                memory.objects().insert(path.clone(), bytes.into());
                let (states, warnings) = folds(&memory, None).await.unwrap();
                assert!(!warnings.is_empty(), "{path}, byte {at}: no warning");
                same(&states, &expected, &format!("{path}, byte {at}"));
            }
        }
        let report = sample::verified(&shared(&memory), None).await;
        assert!(report.notes.iter().any(|note| note.starts_with(&newest)), "{path}: {:?}", report.notes);
        memory.objects().remove(&path);
        let (states, warnings) = folds(&memory, None).await.unwrap();
        // A checkpoint that is not there is none.
        assert_eq!(warnings.is_empty(), path == newest, "{path} is missing: {warnings:?}");
        same(&states, &expected, &path);
        memory.objects().insert(path, whole);
    }
}

/// One way to change a checkpoint.
type Lie = (&'static str, fn(&mut Checkpoint, &Checkpoint));

const LIES: [Lie; 10] = [
    ("another commit", |c, _| c.digest = "0".repeat(64)),
    ("another commit's digest", |c, old| c.digest.clone_from(&old.digest)),
    ("another state", |c, old| c.state.clone_from(&old.state)),
    ("the heads of another", |c, old| c.heads = old.heads.clone()),
    ("another vault", |c, _| c.vault_sha256 = "0".repeat(64)),
    ("a feature", |c, _| c.read_features.push("columns2".into())),
    ("a page is missing", |c, _| drop(c.pages.pop())),
    ("the first page is missing", |c, _| drop(c.pages.remove(0))),
    ("a page twice", |c, _| c.pages.push(c.pages[0].clone())),
    ("pages in another order", |c, _| c.pages.reverse()),
];

#[tokio::test]
async fn checkpoints_that_lie_with_a_right_checksum() {
    let memory = with_checkpoints().await;
    let expected = log_alone(&memory, None).await;
    let all = paths(&memory, "checkpoint/");
    let (old, new) = (read(&memory, &all[0]), read(&memory, &all[1]));
    for (what, lie) in LIES {
        let mut checkpoint = new.clone();
        lie(&mut checkpoint, &old);
        assert_ne!(checkpoint, new, "{what}");
        memory.objects().insert(all[1].clone(), checkpoint.encode().unwrap().into());
        let (states, warnings) = folds(&memory, None).await.unwrap();
        assert!(warnings.iter().any(|warning| warning.contains(&all[1])), "{what}: {warnings:?}");
        same(&states, &expected, what);
        let report = sample::verified(&shared(&memory), None).await;
        // Features are for readers to know; the order does not matter to what is there.
        if !["a feature", "pages in another order"].contains(&what) {
            assert!(report.notes.iter().any(|note| note.starts_with(&all[1])), "{what}: {:?}", report.notes);
        }
    }
    // Under the name of a later commit, of one that is not there, and of the vault next door.
    let objects = memory.objects().clone();
    let bytes = objects[&all[1]].clone();
    memory.objects().insert(all[1].clone(), new.encode().unwrap().into());
    for (path, what) in
        [(new_path(17), "it is of commit 16"), (new_path(400), "commit 400 is not in the log")]
    {
        memory.objects().insert(path.clone(), bytes.clone());
        let (states, warnings) = folds(&memory, None).await.unwrap();
        assert!(warnings.iter().any(|warning| warning.contains(what)), "{what}: {warnings:?}");
        same(&states, &expected, what);
        memory.objects().remove(&path);
    }
    let other = MemoryStore::new();
    let mut histories = Histories::new(&shared(&other), 6).await;
    for _ in 1..18 {
        histories.commit().await;
    }
    let alone = log_alone(&other, None).await;
    other.objects().extend(
        memory
            .objects()
            .clone()
            .into_iter()
            .filter(|(path, _)| !path.starts_with("log/") && path != "vault.json"),
    );
    let (states, warnings) = folds(&other, None).await.unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    same(&states, &alone, "of the vault next door");
}

/// Only whoever reads the log can see this: `verify` does.
#[tokio::test]
async fn verify_holds_pages_against_the_log() {
    let memory = with_checkpoints().await;
    assert_eq!(notes_of_verify(&memory).await, [""; 0]);
    let path = paths(&memory, "checkpoint/").pop().unwrap();
    let mut checkpoint = read(&memory, &path);
    let page = checkpoint.pages[1].path();
    let bytes = memory.objects()[&page].clone();
    let mut history = History::decode(&Table::open(&page, &bytes).unwrap()).unwrap();
    history.ranges[0].1.crc64 ^= 1;
    let table = history.encode(16).unwrap();
    let (id, rows) = (ulid::Ulid::generate().to_string(), table.rows());
    let bytes = table.finish().unwrap();
    checkpoint.pages[1] = TableRef { id, bytes: bytes.len() as u64, rows, sha256: sha256(&bytes) };
    memory.objects().insert(checkpoint.pages[1].path(), bytes.into());
    memory.objects().insert(path.clone(), checkpoint.encode().unwrap().into());
    let notes = notes_of_verify(&memory).await;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with(&path) && notes[0].contains("other rows"), "{notes:?}");
}

#[tokio::test]
async fn a_writer_dies_at_each_operation_of_a_checkpoint() {
    let memory = MemoryStore::new();
    let mut histories = Histories::new(&shared(&memory), 9).await;
    for _ in 0..5 {
        histories.commit().await;
    }
    let expected = log_alone(&memory, None).await;
    let make = async |store: SharedStore| {
        let mut vault = Vault::open(store).await?;
        vault.fold(false).await?;
        vault.checkpoint_every(5);
        vault.checkpoint().await
    };
    let whole = Frozen::new(shared(&copy(&memory)), None);
    assert!(make(Arc::new(whole.clone())).await.unwrap().is_some());
    for at in 1..=whole.operations().len() {
        for after in [false, true] {
            let case = format!("{} {at}, after {after}", whole.operations()[at - 1]);
            let memory = copy(&memory);
            let frozen = Frozen::new(shared(&memory), Some(Stop { at, after }));
            assert!(frozen.live(make(Arc::new(frozen.clone()))).await.is_none(), "{case}: it did not die");
            let (states, warnings) = folds(&memory, None).await.unwrap();
            assert_eq!(warnings, [""; 0], "{case}");
            same(&states, &expected, &case);
            assert_eq!(notes_of_verify(&memory).await, [""; 0], "{case}");
            // The next one makes it, unless the dead one had.
            let had = !paths(&memory, "checkpoint/").is_empty();
            assert_eq!(make(shared(&memory)).await.unwrap().is_some(), !had, "{case}");
            same(&folds(&memory, None).await.unwrap().0, &expected, &case);
        }
    }
}

/// Two writers that make one of the same commit.
#[tokio::test]
async fn two_of_one_commit() {
    let memory = MemoryStore::new();
    let mut histories = Histories::new(&shared(&memory), 3).await;
    for _ in 0..6 {
        histories.commit().await;
    }
    let twin = copy(&memory);
    for memory in [&memory, &twin] {
        let mut vault = Vault::open(shared(memory)).await.unwrap();
        vault.checkpoint_every(2);
        assert!(vault.checkpoint().await.unwrap().is_some());
    }
    memory.objects().extend(twin.objects().clone());
    assert_eq!(paths(&memory, "checkpoint/").len(), 2);
    let (states, warnings) = folds(&memory, None).await.unwrap();
    assert_eq!(warnings, [""; 0]);
    same(&states, &log_alone(&memory, None).await, "two of one commit");
    assert_eq!(notes_of_verify(&memory).await, [""; 0]);
    let mut vault = Vault::open(shared(&memory)).await.unwrap();
    vault.checkpoint_every(2);
    assert_eq!(vault.checkpoint().await.unwrap(), None, "it is there already");
}

/// What a newer version wrote is not copied into pages without the half of it.
#[tokio::test]
async fn no_checkpoint_of_what_is_not_understood() {
    let put = |memory: &MemoryStore, commit: &Commit, field: Option<&str>| {
        let (bytes, _) = commit.encode().unwrap();
        let line = String::from_utf8(bytes).unwrap().lines().next().unwrap().to_owned();
        let line = field.map_or(line.clone(), |field| line.replacen('{', &format!("{{{field},"), 1));
        let object = format!("{line}\n{}\n", sha256(line.as_bytes()));
        memory.objects().insert(commit_path(commit.seq), object.into_bytes().into());
    };
    for case in ["a column", "a section", "a field", "nothing"] {
        let memory = MemoryStore::new();
        let vault = Vault::create(shared(&memory), "cluster").await.unwrap();
        let (first, digest) = vault.read_commit(1).await.unwrap();
        let rows = Rows { ranges: vec![sample::row(0, 0..5, -1)], ..Rows::default() };
        let mut table = TableWriter::default();
        {
            let mut section = table.section("ranges", 1);
            bodley_engine::vault::rows::write_ranges(&mut section, &rows.ranges).unwrap();
            if case == "a column" {
                section.fixed("colour", [7u8].into_iter()).unwrap();
            }
        }
        if case == "a section" {
            table.section("colours", 1).fixed("colour", [7u8].into_iter()).unwrap();
        }
        let (id, count) = (ulid::Ulid::generate().to_string(), table.rows());
        let bytes = table.finish().unwrap();
        let table = TableRef { id, bytes: bytes.len() as u64, rows: count, sha256: sha256(&bytes) };
        memory.objects().insert(table.path(), bytes.into());
        let mut commit = Commit { seq: 2, prev: Some(digest), base: 1, op: Op::Append, ..first };
        (commit.tables, commit.vault_sha256) = (vec![table], None);
        (commit.read_features, commit.write_features) = (None, None);
        put(&memory, &commit, (case == "a field").then_some(r#""colour":7"#));
        let mut vault = Vault::open(shared(&memory)).await.unwrap();
        vault.fold(true).await.unwrap();
        vault.checkpoint_every(1);
        let made = vault.checkpoint().await;
        assert_eq!(matches!(made, Ok(Some(_))), case == "nothing", "{case}: {made:?}");
        assert!(case == "nothing" || matches!(made, Err(VaultError::Unsupported(_))), "{case}: {made:?}");
        assert_eq!(vault.checkpoint().await.unwrap(), None, "{case}: tried again at once");
        same(&folds(&memory, None).await.unwrap().0, &log_alone(&memory, None).await, case);
    }
}

/// Commits of one row each.
async fn aged(memory: &MemoryStore, commits: i64, checkpoints: bool) -> Vault {
    let mut vault = Vault::create(shared(memory), "cluster").await.unwrap();
    for at in 1..commits {
        let from = if at == 1 { -1 } else { at };
        let rows = Rows { ranges: vec![sample::row(0, at..at + 1, from)], ..Rows::default() };
        vault.append(Addition { segments: Vec::new(), rows }).await.unwrap();
        if checkpoints {
            vault.checkpoint().await.unwrap();
        }
    }
    vault
}

/// Operations of opening a vault and folding it.
async fn cost(memory: &MemoryStore, keep_ranges: bool) -> usize {
    let counted = Frozen::new(shared(memory), None);
    let mut vault = Vault::open(Arc::new(counted.clone())).await.unwrap();
    let state = vault.fold(keep_ranges).await.unwrap();
    assert_eq!(state.cursors()[&(sample::TOPIC, 0)], vault.receipt().seq as i64);
    counted.operations().len()
}

#[tokio::test]
async fn opening_does_not_depend_on_the_age() {
    let memory = MemoryStore::new();
    aged(&memory, 10_999, true).await;
    assert_eq!(paths(&memory, "checkpoint/").len(), 10);
    for keep_ranges in [false, true] {
        let operations = cost(&memory, keep_ranges).await;
        // 999 commits and their tables, the checkpoint and its pages, and a few to find them.
        assert!(operations < 2000 + 30, "{operations} operations, ranges: {keep_ranges}");
    }
    // A vault of that age that has none yet.
    memory.objects().retain(|path, _| !path.starts_with("checkpoint/"));
    let mut vault = Vault::open_for_writing(shared(&memory)).await.unwrap();
    vault.fold(false).await.unwrap();
    assert!(vault.checkpoint().await.unwrap().is_some());
    for keep_ranges in [false, true] {
        let operations = cost(&memory, keep_ranges).await;
        assert!(operations < 15, "{operations} operations, ranges: {keep_ranges}");
    }
}

#[tokio::test]
async fn a_hundred_thousand_partitions_in_one_commit() {
    let memory = MemoryStore::new();
    let mut vault = Vault::create(shared(&memory), "cluster").await.unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut cursors = vec![-1; 100_000];
    for commit in 0..2 {
        let (mut position, segment) = (0, ulid::Ulid::generate().to_bytes());
        let ranges = (0..100_000u32).map(|partition| {
            let from = cursors[partition as usize];
            let first = i64::max(from, 0);
            let records = random.i64(1..2000);
            cursors[partition as usize] = first + records;
            let stored = records as u32 * random.u32(90..110);
            position += u64::from(stored);
            let time = 1_700_000_000_000 + commit * 60_000 + random.i64(0..60_000);
            Range {
                kind: Kind::Data,
                segment,
                position: position - u64::from(stored),
                stored,
                records,
                kept: records,
                max_ts: time,
                base_ts: time - random.i64(0..60_000),
                crc64: random.u64(..),
                ..sample::row(partition % 100, first..first + records, from)
            }
        });
        let mut ranges: Vec<Range> = ranges.collect();
        for (n, range) in ranges.iter_mut().enumerate() {
            range.topic[12..].copy_from_slice(&(n as u32 / 100).to_be_bytes());
        }
        vault
            .append(Addition { segments: Vec::new(), rows: Rows { ranges, ..Rows::default() } })
            .await
            .unwrap();
    }
    for (path, object) in memory.objects().iter() {
        assert!(object.len() <= 4 << 20, "{path} has {} bytes", object.len());
    }
    vault.checkpoint_every(1);
    vault.checkpoint().await.unwrap().unwrap();
    let (states, warnings) = folds(&memory, None).await.unwrap();
    assert_eq!(warnings, [""; 0]);
    same(&states, &log_alone(&memory, None).await, "many partitions");
    let pages = paths(&memory, "index/").len() - 2;
    assert_eq!(pages, 3, "two of history, and the heads");
}

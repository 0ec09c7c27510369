//! Copies of a vault: the same objects, only what is missing, up to where the source is sound, and never over what somebody else has written.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use bodley_engine::copy::{CopyOptions, copy};
use bodley_engine::error::Severity;
use bodley_engine::report::Copied;
use bodley_engine::vault::Receipt;
use bodley_engine::vault::commit::commit_path;
use bodley_engine::vault::log::Vault;
use bodley_engine::{EngineError, Progress, Report};
use bodley_io::store::memory::MemoryStore;
use bodley_io::store::{SharedStore, Store};
use bytes::Bytes;
use common::cloud::Cloud;
use common::frozen::{Frozen, Stop};
use common::memory::{copy as duplicate, paths, sha256, shared};
use common::sample;
use tokio::sync::watch;

const LAST: u64 = 7;

/// A vault of commits 1 to [`LAST`], each but the first with a segment of several parts, and checkpoints of commits 3 and 6.
async fn vault() -> (MemoryStore, Receipt) {
    let memory = MemoryStore::new();
    let mut vault = Vault::create(shared(&memory), "cluster").await.unwrap();
    vault.checkpoint_every(3);
    for commit in 0..LAST as i64 - 1 {
        append(&mut vault, commit).await;
        vault.checkpoint().await.unwrap();
    }
    assert_eq!(paths(&memory, "checkpoint/").len(), 2);
    (memory, vault.receipt().clone())
}

async fn append(vault: &mut Vault, nth: i64) {
    use bodley_engine::vault::log::Addition;
    use bodley_engine::vault::rows::Rows;
    let (first, from) = (nth * 10, if nth == 0 { -1 } else { nth * 10 });
    let chunks = [(0, first, from), (1, first, from)];
    let (segment, ranges) = sample::segment_of(vault.store(), &chunks, 0, 20 << 10).await.unwrap();
    let topics = if nth == 0 { vec![sample::topic_row()] } else { Vec::new() };
    let rows = Rows { ranges, topics, ..Rows::default() };
    vault.append(Addition { segments: vec![segment], rows }).await.unwrap();
}

async fn try_copy(from: &MemoryStore, to: impl Store + 'static) -> Result<Report, EngineError> {
    let (_keep, stop) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    copy(shared(from), Arc::new(to), CopyOptions::default(), Arc::clone(&progress), stop).await.inspect(
        |report| {
            let seen = progress.snapshot();
            if report.errors.is_empty() {
                assert_eq!(seen.work_done, seen.work_total);
            }
        },
    )
}

async fn copied(from: &MemoryStore, to: &MemoryStore) -> Report {
    try_copy(from, Cloud::new(to)).await.unwrap()
}

#[track_caller]
fn numbers(report: &Report) -> (u64, u64, u64, u64) {
    let Copied { commits, objects, skipped_commits, skipped_objects, .. } = report.copied.clone().unwrap();
    (commits, objects, skipped_commits, skipped_objects)
}

/// A valid vault, whose newest commit this is.
async fn sound(memory: &MemoryStore, commits: u64, case: &str) {
    let objects = memory.objects().clone();
    assert_eq!(sample::sound(&shared(memory), &objects, &[], case).await, commits, "{case}");
}

/// The object at `path` becomes what `change` makes of it.
fn change(memory: &MemoryStore, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = memory.objects()[path].to_vec();
    change(&mut bytes);
    memory.objects().insert(path.to_owned(), bytes.into());
}

fn flip(memory: &MemoryStore, path: &str) {
    change(memory, path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
}

/// Path of the first segment or table that a commit names.
fn named(memory: &MemoryStore, seq: u64, what: &str) -> String {
    let object = memory.objects()[&commit_path(seq)].clone();
    let line = object.split(|byte| *byte == b'\n').next().unwrap();
    let commit: serde_json::Value = serde_json::from_slice(line).unwrap();
    let id = commit[what][0]["id"].as_str().unwrap().to_owned();
    if what == "segments" { format!("data/{id}.seg") } else { format!("index/{id}.tbl") }
}

#[tokio::test]
async fn a_copy_has_the_same_objects_and_later_only_what_is_new() {
    let (from, receipt) = vault().await;
    let to = MemoryStore::new();
    let report = copied(&from, &to).await;
    assert_eq!((report.exit_code(), &report.errors, &report.notes), (0, &vec![], &vec![]));
    assert_eq!(*to.objects(), *from.objects());
    assert_eq!(report.receipt, Some(receipt.to_string()));
    let whole = report.copied.clone().unwrap();
    assert_eq!(whole.source_receipt, report.receipt);
    let (mut objects, mut bytes) = (0, 0);
    for (_, object) in from.objects().iter().filter(|(path, _)| !path.starts_with("log/")) {
        (objects, bytes) = (objects + 1, bytes + object.len() as u64);
    }
    assert_eq!((whole.commits, whole.objects, whole.bytes), (LAST, objects, bytes));
    assert_eq!((whole.skipped_commits, whole.skipped_objects, whole.skipped_bytes), (0, 0, 0));
    assert_eq!((report.objects, report.bytes), (objects, bytes));
    sound(&to, LAST, "the copy").await;

    let again = copied(&from, &to).await;
    // Pages of checkpoints that are there are not looked at again.
    assert_eq!(numbers(&again), (0, 0, LAST, 2 * (LAST - 1) + 2));
    assert_eq!(again.receipt, Some(receipt.to_string()));

    let mut vault = Vault::open_for_writing(shared(&from)).await.unwrap();
    vault.fold(false).await.unwrap();
    append(&mut vault, LAST as i64 - 1).await;
    append(&mut vault, LAST as i64).await;
    let more = copied(&from, &to).await;
    assert_eq!((numbers(&more).0, numbers(&more).1), (2, 4));
    assert_eq!(more.receipt, Some(vault.receipt().to_string()));
    assert_eq!(*to.objects(), *from.objects());
    // Onto itself: nothing happens.
    let same = try_copy(&from, from.clone()).await.unwrap();
    assert_eq!((same.exit_code(), numbers(&same).0, numbers(&same).1), (0, 0, 0));
    assert_eq!(*to.objects(), *from.objects());
    // A backup goes on in either.
    let mut vault = Vault::open_for_writing(shared(&to)).await.unwrap();
    vault.fold(false).await.unwrap();
    append(&mut vault, LAST as i64 + 1).await;
    sound(&to, LAST + 3, "a backup into the copy").await;
}

#[tokio::test]
async fn orphans_of_the_source_stay_there() {
    let (from, _) = vault().await;
    let whole = duplicate(&from);
    for orphan in ["data/01ARZ3NDEKTSV4RRFFQ69G5FAV.seg", "index/01ARZ3NDEKTSV4RRFFQ69G5FAV.tbl", "notes.txt"]
    {
        from.objects().insert(orphan.into(), Bytes::from_static(b"x"));
    }
    let to = MemoryStore::new();
    assert_eq!(copied(&from, &to).await.exit_code(), 0);
    assert_eq!(*to.objects(), *whole.objects());
}

/// Damage of the source: what lies before the commit that it is in is a whole vault; what it hits is named; once mended, the copy goes on.
#[tokio::test]
async fn a_damaged_source_is_copied_up_to_the_damage() {
    let (whole, receipt) = vault().await;
    for seq in [2, 4, LAST] {
        for what in ["segments", "tables", "commit"] {
            for how in ["flipped", "cut", "missing"] {
                let case = format!("{what} of commit {seq} {how}");
                let path = if what == "commit" { commit_path(seq) } else { named(&whole, seq, what) };
                let (from, to) = (duplicate(&whole), MemoryStore::new());
                match how {
                    "flipped" => flip(&from, &path),
                    "cut" => change(&from, &path, |bytes| bytes.truncate(bytes.len() - 1)),
                    _ => drop(from.objects().remove(&path)),
                }
                let report = copied(&from, &to).await;
                if (what, how, seq) == ("commit", "missing", LAST) {
                    // A log without its end is an older vault.
                    assert_eq!(report.exit_code(), 0, "{case}");
                    continue;
                }
                assert_eq!(report.exit_code(), 3, "{case}: {report:?}");
                for error in &report.errors {
                    assert_eq!(
                        (&*error.code, error.object.as_ref()),
                        ("vault_damaged", Some(&path)),
                        "{case}"
                    );
                    assert!(error.hint.as_ref().unwrap().contains("bodley rebuild"), "{case}");
                }
                if what == "segments" {
                    let hit = |p| (Some("orders".to_owned()), Some(p), Some((seq as i64 - 2) * 10));
                    let found: Vec<_> =
                        report.errors.iter().map(|e| (e.topic.clone(), e.partition, e.offset)).collect();
                    assert_eq!(found, [hit(0), hit(1)], "{case}");
                } else {
                    assert_eq!(report.errors.len(), 1, "{case}");
                }
                let reached: Receipt = report.receipt.unwrap().parse().unwrap();
                assert_eq!(reached.seq, seq - 1, "{case}");
                let note = format!("the copy ends at commit {} and is whole up to there", seq - 1);
                assert!(report.notes.iter().any(|n| n.starts_with(&note)), "{case}: {:?}", report.notes);
                assert_eq!(paths(&to, "log/").len() as u64, seq - 1, "{case}");
                sound(&to, seq - 1, &case).await;
                // Only checkpoints of commits that are there.
                assert_eq!(paths(&to, "checkpoint/").len() as u64, (seq - 1) / 3, "{case}");

                let report = copied(&whole, &to).await;
                assert_eq!((report.exit_code(), report.receipt), (0, Some(receipt.to_string())), "{case}");
                assert_eq!(*to.objects(), *whole.objects(), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_source_without_a_beginning_leaves_the_target_empty() {
    let (whole, _) = vault().await;
    for path in ["vault.json".to_owned(), commit_path(1)] {
        let (from, to) = (duplicate(&whole), MemoryStore::new());
        flip(&from, &path);
        let code = match try_copy(&from, Cloud::new(&to)).await {
            Ok(report) => report.exit_code(),
            Err(error) => error.severity().exit_code(),
        };
        assert_eq!(code, 3, "{path}");
        assert!(to.objects().is_empty(), "{path}");
    }
    let fresh = MemoryStore::new();
    fresh.objects().insert("vault.json".into(), whole.objects()["vault.json"].clone());
    let refused = try_copy(&fresh, Cloud::new(&MemoryStore::new())).await.unwrap_err();
    assert_eq!(refused.severity(), Severity::Refused);
    assert!(refused.to_string().contains("no commit yet"), "{refused}");
}

/// Damage of an old commit does not keep the new ones from those who have the old one.
#[tokio::test]
async fn what_the_target_has_the_source_may_lose() {
    let (from, _) = vault().await;
    let to = MemoryStore::new();
    copied(&from, &to).await;
    let mut vault = Vault::open_for_writing(shared(&from)).await.unwrap();
    vault.fold(false).await.unwrap();
    append(&mut vault, LAST as i64 - 1).await;
    // Also the one that is the newest there.
    let lost = [commit_path(3), commit_path(LAST), named(&from, 4, "segments"), named(&from, 5, "tables")];
    for path in &lost {
        from.objects().remove(path);
    }
    let report = copied(&from, &to).await;
    assert_eq!(report.exit_code(), 3, "{report:?}");
    let found: Vec<_> = report.errors.iter().map(|error| error.object.as_ref()).collect();
    assert_eq!(found, [Some(&lost[0]), Some(&lost[1])]);
    assert_eq!(report.receipt, Some(vault.receipt().to_string()));
    sound(&to, LAST + 1, "all is there").await;
}

#[tokio::test]
async fn what_the_target_has_lost_comes_again_and_what_is_wrong_is_named() {
    let (from, receipt) = vault().await;
    let to = MemoryStore::new();
    copied(&from, &to).await;
    for path in [named(&to, 2, "segments"), named(&to, 3, "tables"), commit_path(4)] {
        to.objects().remove(&path);
    }
    let report = copied(&from, &to).await;
    assert_eq!((report.exit_code(), numbers(&report).0, numbers(&report).1), (0, 1, 2), "{report:?}");
    assert_eq!(report.receipt, Some(receipt.to_string()));
    assert_eq!(*to.objects(), *from.objects());

    // Old objects of another size: named, and the new commit comes all the same.
    let wrong = [named(&to, 2, "segments"), named(&to, 5, "tables")];
    for path in &wrong {
        change(&to, path, |bytes| bytes.truncate(bytes.len() - 1));
    }
    let mut vault = Vault::open_for_writing(shared(&from)).await.unwrap();
    vault.fold(false).await.unwrap();
    append(&mut vault, LAST as i64 - 1).await;
    let report = copied(&from, &to).await;
    let found: Vec<_> = report.errors.iter().map(|e| (&*e.code, e.object.as_deref())).collect();
    assert_eq!(found, wrong.each_ref().map(|path| ("target_damaged", Some(path.as_str()))));
    assert!(report.errors[0].hint.as_ref().unwrap().contains("delete the object"));
    assert_eq!((report.exit_code(), report.receipt), (3, Some(vault.receipt().to_string())));
    for path in &wrong {
        to.objects().remove(path);
    }
    assert_eq!(copied(&from, &to).await.exit_code(), 0);
    assert_eq!(*to.objects(), *from.objects());
}

/// What lies under the name of an object whose commit is not there yet.
#[tokio::test]
async fn an_orphan_of_the_target_is_compared() {
    let (from, receipt) = vault().await;
    for what in ["segments", "tables"] {
        for how in ["same", "flipped", "cut"] {
            let case = format!("{what} {how}");
            let (path, to) = (named(&from, 4, what), MemoryStore::new());
            to.objects().insert(path.clone(), from.objects()[&path].clone());
            to.objects().insert("vault.json".into(), from.objects()["vault.json"].clone());
            match how {
                "flipped" => flip(&to, &path),
                "cut" => change(&to, &path, |bytes| bytes.truncate(bytes.len() - 1)),
                _ => {}
            }
            let report = copied(&from, &to).await;
            if how == "same" {
                assert_eq!((report.exit_code(), numbers(&report).3), (0, 1), "{case}");
                continue;
            }
            assert_eq!(report.exit_code(), 3, "{case}");
            let error = &report.errors[0];
            assert_eq!((&*error.code, error.object.as_ref()), ("target_damaged", Some(&path)), "{case}");
            sound(&to, 3, &case).await;
            to.objects().remove(&path);
            assert_eq!(copied(&from, &to).await.receipt, Some(receipt.to_string()), "{case}");
        }
    }
    // A store that keeps no checksum is believed: verify is for that.
    let (path, to) = (named(&from, 4, "segments"), MemoryStore::new());
    to.objects().insert(path.clone(), from.objects()[&path].clone());
    to.objects().insert("vault.json".into(), from.objects()["vault.json"].clone());
    flip(&to, &path);
    let report = try_copy(&from, Cloud { sums: false, ..Cloud::new(&to) }).await.unwrap();
    assert_eq!(report.exit_code(), 0);
    let found = sample::verified(&shared(&to), None).await;
    assert_eq!((found.exit_code(), found.errors[0].object.as_ref()), (3, Some(&path)));
}

/// Refused, with these words, and nothing is written.
async fn refuses(from: &MemoryStore, to: &MemoryStore, words: &str) {
    let before = to.objects().clone();
    let error = try_copy(from, Cloud::new(to)).await.unwrap_err();
    assert_eq!(error.severity(), Severity::Refused, "{error}");
    assert!(error.to_string().contains(words), "`{words}` is not said: {error}");
    assert_eq!(*to.objects(), before, "{words}");
}

#[tokio::test]
async fn other_targets_are_refused() {
    let (from, _) = vault().await;
    for (path, words) in [
        ("vault.json", "is no vault"),
        ("log/0000000000000000/0001.json", "a log of commits is there"),
        ("data/01ARZ3NDEKTSV4RRFFQ69G5FAV.seg", "segments are there"),
        ("data/x", "no vault.json"),
        ("index/x", "no vault.json"),
        ("checkpoint/x", "no vault.json"),
    ] {
        let to = MemoryStore::new();
        to.objects().insert(path.into(), Bytes::from_static(b"{}"));
        refuses(&from, &to, words).await;
    }
    let (other, _) = vault().await;
    refuses(&from, &other, "holds another vault").await;
    let same_id = duplicate(&from);
    change(&same_id, "vault.json", |bytes| bytes.push(b' '));
    refuses(&from, &same_id, "differs all the same").await;
}

#[tokio::test]
async fn a_target_with_another_log_is_refused() {
    let (from, _) = vault().await;
    let add = async |memory: &MemoryStore, commits| {
        let mut vault = Vault::open_for_writing(shared(memory)).await.unwrap();
        vault.fold(false).await.unwrap();
        for nth in 0..commits {
            append(&mut vault, LAST as i64 - 1 + nth).await;
        }
    };
    let (ahead, forked) = (duplicate(&from), duplicate(&from));
    add(&ahead, 2).await;
    refuses(&from, &ahead, &format!("ahead of the source: its log goes on to commit {}", LAST + 2)).await;
    // The same number of commits, fewer, and more than the source has.
    for (ours, theirs) in [(1, 1), (3, 1), (1, 3), (3, 3)] {
        let (source, target) = (duplicate(&from), duplicate(&forked));
        add(&source, ours).await;
        add(&target, theirs).await;
        refuses(&source, &target, &format!("from commit {} on they differ", LAST + 1)).await;
    }
    // A fork is none the less one where the source's commit of that number is damaged.
    let (source, target) = (duplicate(&from), duplicate(&forked));
    add(&source, 2).await;
    add(&target, 1).await;
    flip(&source, &commit_path(LAST + 1));
    let before = target.objects().clone();
    assert_eq!(copied(&source, &target).await.errors[0].object, Some(commit_path(LAST + 1)));
    assert_eq!(*target.objects(), before);
    // A newest commit that can't be read can't be compared.
    let damaged = duplicate(&from);
    flip(&damaged, &commit_path(LAST));
    let report = copied(&from, &damaged).await;
    let error = &report.errors[0];
    assert_eq!(
        (report.exit_code(), &*error.code, error.object.as_ref()),
        (3, "target_damaged", Some(&commit_path(LAST)))
    );
    damaged.objects().remove(&commit_path(LAST));
    assert_eq!(copied(&from, &damaged).await.exit_code(), 0);
}

/// A commit with other content, its digest made right.
fn forge(memory: &MemoryStore, seq: u64, from: &str, to: &str) {
    change(memory, &commit_path(seq), |bytes| {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        let line = text.lines().next().unwrap().replacen(from, to, 1);
        assert!(!text.starts_with(&line), "{from} is not in commit {seq}");
        *bytes = format!("{line}\n{}\n", sha256(line.as_bytes())).into_bytes();
    });
}

#[tokio::test]
async fn a_log_that_is_not_understood_is_not_copied() {
    let (whole, _) = vault().await;
    for (from, to) in
        [("\"op\":\"append\"", "\"op\":\"rewrite\""), ("\"tool\"", "\"write_features\":[\"x\"],\"tool\"")]
    {
        let source = duplicate(&whole);
        forge(&source, LAST, from, to);
        let target = MemoryStore::new();
        let error = try_copy(&source, Cloud::new(&target)).await.unwrap_err();
        assert_eq!((error.code(), target.objects().len()), ("vault_unsupported", 0), "{to}");
    }
}

#[tokio::test]
async fn names_of_objects_never_leave_their_folders() {
    let (whole, _) = vault().await;
    for what in ["segments", "tables"] {
        let (source, target) = (duplicate(&whole), MemoryStore::new());
        let path = named(&whole, LAST, what);
        let id = path.split(['/', '.']).nth(1).unwrap();
        forge(&source, LAST, id, "../../../etc/passwd");
        let report = copied(&source, &target).await;
        assert_eq!((report.exit_code(), report.errors[0].object.clone()), (3, Some(commit_path(LAST))));
        sound(&target, LAST - 1, what).await;
        assert!(target.objects().keys().all(|path| !path.contains("..")));
    }
}

#[tokio::test]
async fn checkpoints_that_are_no_use_stay_behind() {
    let (whole, _) = vault().await;
    let checkpoints = paths(&whole, "checkpoint/");
    let from = duplicate(&whole);
    flip(&from, &checkpoints[1]);
    let to = MemoryStore::new();
    let report = copied(&from, &to).await;
    assert_eq!((report.exit_code(), report.notes.len()), (0, 1), "{report:?}");
    assert!(report.notes[0].starts_with(&format!("{} was not copied", checkpoints[1])), "{:?}", report.notes);
    assert_eq!(paths(&to, "checkpoint/"), checkpoints[..1]);
    sound(&to, LAST, "without a checkpoint").await;
    // Of another log.
    let (other, _) = vault().await;
    let theirs = paths(&other, "checkpoint/").remove(0);
    let from = duplicate(&whole);
    from.objects().insert(theirs.clone(), other.objects()[&theirs].clone());
    let to = MemoryStore::new();
    let report = copied(&from, &to).await;
    assert!(report.notes[0].contains("does not go with the log"), "{:?}", report.notes);
    assert_eq!(*to.objects(), *whole.objects());
}

#[tokio::test]
async fn a_signal_ends_it_and_what_is_committed_stays() {
    let (from, _) = vault().await;
    let mut met = BTreeSet::new();
    for at in 1.. {
        let (ask, stop) = watch::channel(false);
        let memory = MemoryStore::new();
        let frozen = Frozen::new(Arc::new(Cloud::new(&memory)), Some(Stop { at, after: true }));
        let to: SharedStore = Arc::new(frozen.clone());
        let mut run = Box::pin(copy(shared(&from), to, CopyOptions::default(), Arc::default(), stop));
        if frozen.live(&mut run).await.is_some() {
            break;
        }
        ask.send(true).unwrap();
        let report = run.await.unwrap();
        assert_eq!((report.interrupted, report.exit_code()), (true, 0));
        let seq = report.receipt.map_or(0, |receipt| receipt.parse::<Receipt>().unwrap().seq);
        // The last one may have got there without its answer.
        let commits = paths(&memory, "log/").len() as u64;
        assert!(commits == seq || commits == seq + 1, "{at}: {commits} commits, told {seq}");
        sound(&memory, commits, "ended by a signal").await;
        met.insert(seq);
    }
    assert!(met.len() > 3, "{met:?}");
}

#[tokio::test]
async fn uploads_that_were_left_are_given_up() {
    let (from, _) = vault().await;
    // Who may not list them is not told in every run.
    for (uploads, words) in [(Some(2), Some("gave up 2 uploads that earlier runs left")), (None, None)] {
        let report = try_copy(&from, Cloud { uploads, ..Cloud::new(&MemoryStore::new()) }).await.unwrap();
        assert_eq!(report.exit_code(), 0);
        assert_eq!(report.notes.first().map(String::as_str), words);
    }
}

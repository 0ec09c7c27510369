//! Every kind of damage to every kind of object: `verify` finds it and says what it hits, nothing panics.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod sample;

use bodley_engine::error::Severity;
use bodley_engine::inventory;
use bodley_engine::vault::commit::{Commit, segment_path};
use bodley_engine::vault::rows::{Kind, Range, Rows};
use bodley_engine::vault::table::Table;
use bodley_engine::{EngineError, Issue, Report};
use sample::{Sample, exit_code, name, names};

/// Bits of each byte that are flipped: all of them in a soak, else one, another for each byte.
fn bits(at: usize) -> Vec<u8> {
    match std::env::var_os("BODLEY_SOAK") {
        Some(_) => (0..8).collect(),
        None => vec![(at % 8) as u8],
    }
}

/// The rows of all chunks in the sample.
fn chunks(sample: &Sample) -> Vec<Range> {
    let tables = sample.paths("index/").into_iter();
    let rows = tables
        .flat_map(|path| Rows::decode(&Table::open(&path, &sample.objects[&path]).unwrap()).unwrap().ranges);
    rows.filter(|row| row.kind == Kind::Data).collect()
}

fn row_path(row: &Range) -> String {
    segment_path(&ulid::Ulid::from_bytes(row.segment).to_string())
}

/// Whether an issue names a chunk's object, topic, partition and offsets.
fn tells(issue: &Issue, row: &Range) -> bool {
    let offsets = format!("{}-{} offsets {}..{}", name(row.topic), row.partition, row.first, row.next);
    issue.object.as_deref() == Some(&row_path(row))
        && issue.topic.as_deref() == Some(name(row.topic))
        && (issue.partition, issue.offset) == (Some(row.partition), Some(row.first))
        && issue.message.contains(&offsets)
}

/// `list` and `show` of a damaged vault: what they can't read is an error that names an object, never a panic.
async fn look(sample: &Sample, what: &str) {
    let store = || std::sync::Arc::clone(&sample.store);
    let errors = [
        inventory::list(store(), None).await.err(),
        inventory::show_topic(store(), "orders", None).await.err(),
        inventory::show_commits(store()).await.err(),
        inventory::show_groups(store(), None).await.err(),
    ];
    for error in errors.into_iter().flatten() {
        let issue = Issue::from(&error);
        assert!(error.severity() >= Severity::Refused && !issue.message.is_empty(), "{what}: {error}");
        assert!(issue.object.is_some() || error.severity() == Severity::Refused, "{what}: {error}");
    }
}

fn damaged(result: &Result<Report, EngineError>, path: &str, what: &str) {
    assert_eq!(exit_code(result), 3, "{path} {what}: {result:?}");
    assert!(names(result, path), "{path} {what}: {result:?}");
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_or_a_table() {
    let sample = Sample::new().await;
    let mut cases = 0;
    for path in sample.objects.keys().filter(|path| !path.starts_with("data/")) {
        for at in 0..sample.objects[path].len() {
            for bit in bits(at) {
                let what = format!("byte {at} bit {bit}");
                let mut bytes = sample.objects[path].to_vec();
                bytes[at] ^= 1 << bit;
                sample.put(path, bytes);
                let refused = |result: &Result<Report, EngineError>| {
                    // Another number of the format, which a newer program may have written.
                    path == "vault.json" && exit_code(result) == 2
                };
                for quick in [true, false].into_iter().take(if at % 16 == 0 { 2 } else { 1 }) {
                    let result = sample.verified(quick).await;
                    if !refused(&result) {
                        damaged(&result, path, &what);
                    }
                }
                if at % 16 == 1 {
                    look(&sample, &format!("{path} {what}")).await;
                }
                cases += 1;
            }
        }
        sample.heal();
    }
    assert!(cases > 5_000, "{cases} cases");
    assert_eq!(exit_code(&sample.verified(false).await), 0, "healed");
}

/// Every byte in a soak. Else each byte of a chunk's first header, around the ends of chunks, of the footer's own header, the first of its
/// directory and the trailer, and some of the rest.
fn picked(at: usize, path: &str, sample: &Sample, chunks: &[&Range]) -> bool {
    let ends = |row: &&Range| (row.position as usize, row.position as usize + row.stored as usize);
    let footer = chunks.iter().map(|row| ends(row).1).max().unwrap();
    let of_chunk = |(start, end): (usize, usize)| (start..start + 61).contains(&at) || at.abs_diff(end) < 3;
    std::env::var_os("BODLEY_SOAK").is_some()
        || at.is_multiple_of(13)
        || chunks.iter().map(ends).any(of_chunk)
        || (footer..footer + 60).contains(&at)
        || at + 16 >= sample.objects[path].len()
}

#[tokio::test]
async fn a_flipped_bit_in_a_segment() {
    let sample = Sample::new().await;
    let chunks = chunks(&sample);
    let mut in_chunks = 0;
    for path in sample.paths("data/") {
        let of_segment = chunks.iter().filter(|row| row_path(row) == path).collect::<Vec<_>>();
        for at in (0..sample.objects[&path].len()).filter(|at| picked(*at, &path, &sample, &of_segment)) {
            for bit in bits(at) {
                let what = format!("byte {at} bit {bit}");
                let mut bytes = sample.objects[&path].to_vec();
                bytes[at] ^= 1 << bit;
                sample.put(&path, bytes);
                let result = sample.verified(false).await;
                damaged(&result, &path, &what);
                let holds = |row: &&Range| {
                    row_path(row) == path
                        && (row.position..row.position + u64::from(row.stored)).contains(&(at as u64))
                };
                if let Some(row) = chunks.iter().find(holds) {
                    let report = result.unwrap();
                    assert!(report.errors.iter().any(|issue| tells(issue, row)), "{what}: {report:?}");
                    in_chunks += 1;
                }
            }
        }
        // What --quick does not see.
        assert_eq!(exit_code(&sample.verified(true).await), 0, "{path}");
        look(&sample, &path).await;
        sample.heal();
    }
    assert!(in_chunks > 61 * chunks.len(), "{in_chunks} of {} chunks", chunks.len());
}

#[tokio::test]
async fn objects_cut_at_every_length_or_grown() {
    let sample = Sample::new().await;
    for (path, whole) in &sample.objects {
        let step = if path.starts_with("data/") || path.starts_with("index/") { 7 } else { 1 };
        for len in (0..whole.len()).step_by(step) {
            sample.put(path, whole.slice(..len));
            for quick in [true, false] {
                damaged(&sample.verified(quick).await, path, &format!("cut at {len}"));
            }
            if len % 5 == 0 {
                look(&sample, path).await;
            }
        }
        sample.put(path, [whole.as_ref(), b"\0"].concat());
        for quick in [true, false] {
            damaged(&sample.verified(quick).await, path, "grown");
        }
        sample.heal();
    }
}

#[tokio::test]
async fn a_missing_segment_names_all_that_is_in_it() {
    let sample = Sample::new().await;
    let chunks = chunks(&sample);
    for path in sample.paths("data/") {
        sample.lose(&path);
        for quick in [true, false] {
            let report = sample.verified(quick).await.unwrap();
            assert_eq!(report.exit_code(), 3);
            for row in chunks.iter().filter(|row| row_path(row) == path) {
                assert!(report.errors.iter().any(|issue| tells(issue, row)), "{row:?}: {report:?}");
            }
        }
        look(&sample, &path).await;
        sample.heal();
    }
}

#[tokio::test]
async fn missing_objects_of_the_log() {
    let sample = Sample::new().await;
    let tail = sample.paths("log/").pop().unwrap();
    for path in sample.objects.keys().filter(|path| !path.starts_with("data/") && **path != tail) {
        sample.lose(path);
        for quick in [true, false] {
            damaged(&sample.verified(quick).await, path, "missing");
        }
        look(&sample, path).await;
        sample.heal();
    }
    // A tail that is cut off shows against a receipt, and in what it leaves behind.
    sample.lose(&tail);
    for quick in [true, false] {
        let result = sample.verified(quick).await;
        assert_eq!(exit_code(&result), 0);
        assert!(result.unwrap().notes.iter().any(|note| note.starts_with("1 segment, ")));
        let result = sample::verified(&sample.store, quick, Some(sample.receipt.clone())).await;
        damaged(&result, &tail, "cut off");
    }
    // The whole log, then also vault.json.
    for path in sample.paths("log/").iter().filter(|path| **path != tail) {
        sample.lose(path);
    }
    let first = bodley_engine::vault::commit::commit_path(1);
    damaged(&sample.verified(false).await, &first, "all of the log");
    look(&sample, "all of the log").await;
    sample.lose("vault.json");
    damaged(&sample.verified(false).await, "vault.json", "with the log");
    look(&sample, "vault.json with the log").await;
}

#[tokio::test]
async fn objects_in_the_place_of_others() {
    let sample = Sample::new().await;
    for folder in ["data/", "index/", "log/"] {
        let paths = sample.paths(folder);
        for one in &paths {
            for two in paths.iter().filter(|two| *two != one) {
                let what = format!("with the bytes of {two}");
                // A copy in its place, and both swapped.
                sample.put(one, sample.objects[two].clone());
                damaged(&sample.verified(false).await, one, &what);
                if sample.objects[one].len() != sample.objects[two].len() || folder != "data/" {
                    damaged(&sample.verified(true).await, one, &what);
                }
                sample.put(two, sample.objects[one].clone());
                let swapped = sample.verified(false).await;
                damaged(&swapped, one, &what);
                damaged(&swapped, two, &what);
                look(&sample, one).await;
                sample.heal();
            }
        }
    }
}

/// A commit of an older vault under a newer number, or again at the end of the log.
#[tokio::test]
async fn a_commit_that_is_repeated() {
    let sample = Sample::new().await;
    let log = sample.paths("log/");
    let next = bodley_engine::vault::commit::commit_path(log.len() as u64 + 1);
    for path in &log {
        sample.put(&next, sample.objects[path].clone());
        damaged(&sample.verified(false).await, &next, "repeated as it is");
        // With a number and a digest that fit its place: the link to the one before does not.
        let seq = bodley_engine::vault::commit::seq_of_path(path).unwrap();
        let (mut commit, _) = Commit::decode(path, seq, &sample.objects[path]).unwrap();
        commit.seq = log.len() as u64 + 1;
        sample.put(&next, commit.encode().unwrap().0);
        damaged(&sample.verified(false).await, &next, "repeated with a new number");
        // And with the link: its rows don't join.
        commit.prev = Some(sample.receipt.digest.clone());
        sample.put(&next, commit.encode().unwrap().0);
        damaged(&sample.verified(false).await, &next, "repeated and linked");
        look(&sample, &next).await;
        sample.heal();
    }
}

/// One file with a number far ahead makes a hole of a million million commits: said once, not gone through.
#[tokio::test]
async fn a_commit_far_ahead() {
    let sample = Sample::new().await;
    let far = "log/0000000100000000/0007.json";
    sample.put(far, sample.objects[&sample.paths("log/")[1]].clone());
    for quick in [true, false] {
        let result = sample.verified(quick).await;
        damaged(&result, far, "far ahead");
        let report = result.unwrap();
        assert!(report.errors.len() < 5, "{report:?}");
        let hole = "commits 6 to 1000000000006 are missing";
        assert!(report.errors.iter().any(|issue| issue.message.starts_with(hole)), "{report:?}");
    }
    look(&sample, far).await;
}

/// Larger than anything that makes sense, and than what is read at once.
#[tokio::test]
async fn objects_of_monstrous_size() {
    let sample = Sample::new().await;
    for (path, size) in [("vault.json".to_owned(), 65 << 10), (sample.paths("log/")[1].clone(), 65 << 20)] {
        sample.put(&path, vec![b' '; size]);
        damaged(&sample.verified(true).await, &path, "monstrous");
        look(&sample, &path).await;
        sample.heal();
    }
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_refused() {
    let sample = Sample::new().await;
    let next = bodley_engine::vault::commit::commit_path(sample.receipt.seq + 1);
    let line = |fields: &str| {
        let (seq, prev) = (sample.receipt.seq + 1, &sample.receipt.digest);
        let line = format!(
            r#"{{"seq":{seq},"prev":"{prev}","nonce":"","writer":"w","base":{},"time":1,{fields}}}"#,
            seq - 1
        );
        let digest = sample::sha256(line.as_bytes());
        format!("{line}\n{digest}\n").into_bytes()
    };
    for (fields, code) in [
        (r#""op":"protocol","read_features":["columns2"],"write_features":[]"#, 2),
        (r#""op":"protocol","read_features":[],"write_features":["columns2"]"#, 0),
        (r#""op":"protocol","read_features":[],"write_features":[]"#, 0),
        (r#""op":"append","later":{"field":1}"#, 0),
        (r#""op":"rewrite""#, 2),
        (r#""op":"append","condemn":["x"]"#, 2),
    ] {
        sample.put(&next, line(fields));
        for quick in [true, false] {
            let result = sample.verified(quick).await;
            assert_eq!(exit_code(&result), code, "{fields}: {result:?}");
        }
        let listed = inventory::list(std::sync::Arc::clone(&sample.store), None).await;
        assert_eq!(listed.map_or_else(|e| e.severity().exit_code(), |_| 0), code, "{fields}");
    }
    // Nothing is wrong with this one but that it follows another commit.
    let wrong =
        String::from_utf8(line(r#""op":"append""#)).unwrap().replace(&sample.receipt.digest, &"0".repeat(64));
    let (text, _) = wrong.split_once('\n').unwrap();
    sample.put(&next, format!("{text}\n{}\n", sample::sha256(text.as_bytes())).into_bytes());
    damaged(&sample.verified(false).await, &next, "follows another");
    sample.heal();
    let identity = String::from_utf8(sample.objects["vault.json"].to_vec()).unwrap();
    sample.put("vault.json", identity.replace(r#""format": 1"#, r#""format": 2"#).into_bytes());
    assert_eq!(exit_code(&sample.verified(false).await), 2);
    // A vault.json of something else, without any log: foreign.
    sample.memory.objects().clear();
    sample.put("vault.json", b"{\"name\":\"hashicorp\"}".to_vec());
    assert_eq!(exit_code(&sample.verified(false).await), 2);
    look(&sample, "foreign").await;
}

#[tokio::test]
async fn what_no_commit_names_is_a_note() {
    let sample = Sample::new().await;
    assert_eq!(sample.verified(false).await.unwrap().notes, Vec::<String>::new());
    let strays = [sample::piece(sample::ORDERS, 0, 35, 35, &[sample::plain(35, 10)])];
    let (segment, _) = sample::segment(&sample.store, &strays, &[]).await;
    sample.put(&format!("index/{}.tbl", segment.id), vec![1; 77]);
    for foreign in ["data/readme.txt", "data/x.seg", "index/notes", "log/x.json", "checkpoint/x", "more"] {
        sample.put(foreign, b"hello".to_vec());
    }
    for quick in [true, false] {
        let report = sample.verified(quick).await.unwrap();
        assert_eq!(report.exit_code(), 0, "{report:?}");
        let expected = [
            format!("1 segment, {} bytes, is not part of the backup (a run that was cut)", segment.bytes),
            "1 table, 77 bytes, is not part of the backup (a run that was cut)".to_owned(),
            "3 files are none of bodley's, e.g. data/readme.txt".to_owned(),
        ];
        assert_eq!(report.notes, expected);
    }
    // With a commit that can't be read nobody knows whose they are.
    sample.lose(&sample.paths("log/")[2]);
    let notes = sample.verified(true).await.unwrap().notes;
    assert!(notes[0].ends_with("are named by no commit that can be read"), "{notes:?}");
}

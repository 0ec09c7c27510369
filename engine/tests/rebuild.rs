//! A new vault from the remains of a damaged one: what is left comes over, what is lost or doubtful is listed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_engine::rebuild::{RebuildOptions, rebuild};
use bodley_engine::vault::aborted::Aborted;
use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{GroupRow, Kind, Reason, Rows};
use bodley_engine::vault::state::State;
use bodley_engine::{EngineError, Progress, Report};
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use bodley_protocol::batch;
use sample::{ORDERS, PAYMENTS, Piece, Sample, exit_code, piece, plain, row, verified};
use tokio::sync::watch;

type Batches = BTreeMap<i64, Vec<u8>>;

/// What a vault says, whatever its segments and commits are.
#[derive(Debug, PartialEq)]
struct Content {
    topics: String,
    configs: String,
    groups: Vec<GroupRow>,
    /// Batches that some isolation shows, whether each is aborted, and the cursor.
    parts: BTreeMap<(String, u32), (Batches, Vec<bool>, i64)>,
    gaps: BTreeSet<(String, u32, i64, i64, &'static str)>,
}

impl Content {
    async fn of(store: &SharedStore) -> Self {
        let state = Vault::open(Arc::clone(store)).await.unwrap().fold(true).await.unwrap();
        let mut parts = BTreeMap::new();
        let mut gaps = BTreeSet::new();
        for ((topic, partition), part) in &state.partitions {
            let name = state.topics[topic].name.clone();
            let known = Aborted::from_rows(part.aborted.iter());
            let (mut batches, mut hidden) = (Batches::new(), Vec::new());
            for range in &part.ranges {
                if let Kind::Gap(reason) = range.kind {
                    gaps.insert((name.clone(), *partition, range.first, range.next, reason.name()));
                }
                if range.kind != Kind::Data {
                    continue;
                }
                let path = format!("data/{}.seg", ulid::Ulid::from_bytes(range.segment));
                let segment = store.get(&path, u64::MAX).await.unwrap();
                let mut at = range.position as usize;
                let end = at + range.stored as usize;
                while at < end {
                    let header = batch::view_checked(&segment[at..end]).unwrap().unwrap();
                    let covered = known.covers(header.producer_id, header.base_offset, header.last_offset());
                    hidden.push(header.is_transactional() && !header.is_control() && covered);
                    batches.insert(header.base_offset, segment[at..at + header.size].to_vec());
                    at += header.size;
                }
            }
            parts.insert((name, *partition), (batches, hidden, part.cursor.unwrap().next));
        }
        Self { topics: named(&state), configs: configs(&state), groups: groups(&state), parts, gaps }
    }
}

fn named(state: &State) -> String {
    let rows = state.topics.values().map(|row| (&row.name, row.partitions, row.replication, row.incarnation));
    format!("{:?}", rows.collect::<BTreeSet<_>>())
}

fn configs(state: &State) -> String {
    let rows = state.configs.iter().map(|(id, configs)| (&state.topics[id].name, configs));
    format!("{:?}", rows.collect::<BTreeMap<_, _>>())
}

fn groups(state: &State) -> Vec<GroupRow> {
    state.groups.values().flat_map(|pair| pair.offsets.values().cloned()).collect()
}

/// Rebuilds into a new memory store.
async fn rebuilt(source: &SharedStore) -> (Result<Report, EngineError>, SharedStore) {
    with(source, RebuildOptions::default()).await
}

async fn with(source: &SharedStore, options: RebuildOptions) -> (Result<Report, EngineError>, SharedStore) {
    let target: SharedStore = Arc::new(MemoryStore::new());
    let (_keep, stop) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let report = rebuild(Arc::clone(source), Arc::clone(&target), options, progress, stop).await;
    (report, target)
}

/// The rebuilt vault must be in order, whatever was lost.
async fn in_order(target: &SharedStore) {
    let report = verified(target, false, None).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
}

fn lost(topic: &str, partition: u32, first: i64, next: i64) -> (String, u32, i64, i64, &'static str) {
    (topic.to_owned(), partition, first, next, "lost")
}

fn lose_all(sample: &Sample, folder: &str) {
    sample.paths(folder).iter().for_each(|path| sample.lose(path));
}

#[tokio::test]
async fn without_its_log_nothing_is_missing() {
    let sample = Sample::new().await;
    let expected = Content::of(&sample.store).await;
    let cut: [&[usize]; 5] = [&[], &[0, 1, 2, 3], &[1, 2, 3], &[2], &[3]];
    for removed in cut {
        removed.iter().for_each(|n| sample.lose(&sample.paths("log/")[*n]));
        let left = sample.memory.objects().clone();
        let (report, target) = rebuilt(&sample.store).await;
        assert_eq!(exit_code(&report), 0, "{removed:?}: {report:?}");
        assert_eq!(Content::of(&target).await, expected, "{removed:?}");
        in_order(&target).await;
        assert_eq!(*sample.memory.objects(), left, "the source is only read");
        let old = Vault::open_damaged(Arc::clone(&sample.store)).await.unwrap().identity().clone();
        let new = Vault::open(Arc::clone(&target)).await.unwrap().identity().clone();
        assert_eq!((new.rebuilt_from, &new.cluster_id), (Some(old.vault_id.clone()), &old.cluster_id));
        assert_ne!(new.vault_id, old.vault_id);
        sample.heal();
    }
}

#[tokio::test]
async fn a_backup_goes_on_in_the_new_vault() {
    let sample = Sample::new().await;
    lose_all(&sample, "log/");
    let (_, target) = rebuilt(&sample.store).await;
    for store in [&sample.store, &target] {
        sample.heal();
        let mut vault = Vault::open(Arc::clone(store)).await.unwrap();
        vault.fold(false).await.unwrap();
        sample::commit(&mut vault, &[&[piece(ORDERS, 0, 35, 35, &[plain(35, 5)])]], Rows::default()).await;
        in_order(store).await;
    }
    let state = Vault::open(target).await.unwrap().fold(true).await.unwrap();
    let part = &state.partitions[&(ORDERS, 0)];
    assert_eq!((part.cursor.unwrap().next, part.ranges.last().unwrap().first), (40, 35));
}

#[tokio::test]
async fn without_vault_json_the_cluster_must_be_named() {
    let sample = Sample::new().await;
    let expected = Content::of(&sample.store).await;
    let named = |id: &str| RebuildOptions { cluster_id: Some(id.into()) };
    assert_eq!(exit_code(&with(&sample.store, named("another")).await.0), 2);
    let whole = sample.objects["vault.json"].clone();
    for at in [None, Some(10), Some(whole.len() / 2), Some(whole.len() - 3)] {
        match at {
            None => sample.lose("vault.json"),
            Some(at) => {
                let mut bytes = whole.to_vec();
                bytes[at] ^= 1;
                sample.put("vault.json", bytes);
            }
        }
        let (report, target) = rebuilt(&sample.store).await;
        assert_eq!(exit_code(&report), 2, "{at:?}: {report:?}");
        assert!(report.unwrap_err().to_string().contains("--cluster-id"));
        assert_eq!(target.size("vault.json").await.unwrap(), None, "nothing was written");
        let (report, target) = with(&sample.store, named("cluster")).await;
        assert_eq!(exit_code(&report), 0, "{at:?}: {report:?}");
        assert_eq!(Content::of(&target).await, expected);
        in_order(&target).await;
    }
    // Nothing but tables and segments.
    sample.heal();
    sample.lose("vault.json");
    lose_all(&sample, "log/");
    let (report, target) = with(&sample.store, named("cluster")).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
    assert_eq!(Content::of(&target).await, expected);
    let identity = Vault::open(target).await.unwrap().identity().clone();
    assert_eq!(identity.rebuilt_from.as_deref(), Some("unknown"));
}

/// All records come from the footers, and what is aborted from the markers among them.
#[tokio::test]
async fn without_any_table() {
    let sample = Sample::new().await;
    let mut expected = Content::of(&sample.store).await;
    lose_all(&sample, "index/");
    for log in [true, false] {
        if !log {
            lose_all(&sample, "log/");
        }
        let (report, target) = rebuilt(&sample.store).await;
        let report = report.unwrap();
        assert_eq!(report.exit_code(), 3, "{report:?}");
        for topic in ["orders", "payments"] {
            let settings = |issue: &&bodley_engine::Issue| {
                issue.message == format!("the settings of topic {topic} are lost")
            };
            assert!(report.errors.iter().any(|issue| settings(&issue)), "{report:?}");
        }
        let doubts = report.errors.iter().filter(|issue| issue.code == "doubt");
        assert_eq!(doubts.count(), sample.paths("data/").len());
        in_order(&target).await;
        let found = Content::of(&target).await;
        expected.parts.remove(&("audit".to_owned(), 0));
        assert_eq!(found.parts, expected.parts);
        assert!(found.parts[&("payments".to_owned(), 0)].1.contains(&true));
        // What a table told, that the broker had nothing there or had removed it, is not known any more.
        assert_eq!(found.gaps, BTreeSet::from([lost("orders", 0, 20, 25), lost("orders", 1, 110, 115)]));
    }
}

#[tokio::test]
async fn without_one_table() {
    let sample = Sample::new().await;
    let expected = Content::of(&sample.store).await;
    for log in [true, false] {
        for path in sample.paths("index/") {
            sample.lose(&path);
            if !log {
                lose_all(&sample, "log/");
            }
            let (report, target) = rebuilt(&sample.store).await;
            let report = report.unwrap();
            assert_eq!(report.exit_code(), 3, "{report:?}");
            // With a log its name is known; without one the segments that are in no table tell.
            let named = report.errors.iter().any(|issue| issue.object.as_deref() == Some(&*path));
            assert_eq!(named, log, "{report:?}");
            in_order(&target).await;
            let found = Content::of(&target).await;
            for (key, part) in &found.parts {
                assert_eq!(part, &expected.parts[key], "{path}, {key:?}");
            }
            sample.heal();
        }
    }
}

#[tokio::test]
async fn without_one_segment_its_offsets_are_a_gap() {
    let sample = Sample::new().await;
    let gaps: [&[_]; 4] = [
        &[lost("orders", 0, 0, 10), lost("orders", 1, 100, 110), lost("payments", 0, 0, 8)],
        &[lost("orders", 0, 10, 20)],
        &[lost("orders", 0, 25, 35)],
        &[lost("orders", 1, 115, 125), lost("payments", 0, 8, 11)],
    ];
    let retention = ("orders".to_owned(), 0, 20, 25, "retention");
    for log in [true, false] {
        for (path, gaps) in sample.paths("data/").iter().zip(gaps) {
            for cut in [None, Some(50)] {
                sample.lose(path);
                if let Some(len) = cut {
                    sample.put(path, sample.objects[path].slice(..len));
                }
                if !log {
                    lose_all(&sample, "log/");
                }
                let (report, target) = rebuilt(&sample.store).await;
                let report = report.unwrap();
                assert_eq!(report.exit_code(), 3, "{report:?}");
                let mut expected: BTreeSet<_> = gaps.iter().cloned().collect();
                for (topic, partition, first, next, _) in gaps {
                    let tells = |issue: &&bodley_engine::Issue| {
                        issue.topic.as_deref() == Some(topic)
                            && (issue.partition, issue.offset) == (Some(*partition), Some(*first))
                            && issue.object.as_deref() == Some(path)
                            && issue.message.contains(&format!("{topic}-{partition} offsets {first}..{next}"))
                    };
                    assert!(report.errors.iter().any(|issue| tells(&issue)), "{report:?}");
                }
                expected.insert(retention.clone());
                assert_eq!(Content::of(&target).await.gaps, expected, "{path} {cut:?}");
                in_order(&target).await;
                sample.heal();
            }
        }
    }
}

/// The footer tells what a segment under another's name is.
#[tokio::test]
async fn segments_under_each_others_names() {
    let sample = Sample::new().await;
    let expected = Content::of(&sample.store).await;
    let paths = sample.paths("data/");
    sample.put(&paths[0], sample.objects[&paths[3]].clone());
    sample.put(&paths[3], sample.objects[&paths[0]].clone());
    let (report, target) = rebuilt(&sample.store).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
    assert_eq!(Content::of(&target).await, expected);
}

/// Writes segments that no table and no commit names.
async fn orphan(sample: &Sample, pieces: &[Piece]) -> String {
    format!("data/{}.seg", sample::segment(&sample.store, pieces, &[]).await.0.id)
}

#[tokio::test]
async fn orphans_with_the_same_bytes() {
    let sample = Sample::new().await;
    let expected = Content::of(&sample.store).await;
    // Other borders between chunks, and half of it before what is stored, half behind.
    orphan(&sample, &[piece(ORDERS, 0, 4, 4, &[plain(4, 6), plain(10, 10)])]).await;
    orphan(&sample, &[piece(ORDERS, 1, 115, 115, &[plain(115, 5)])]).await;
    for log in [true, false] {
        if !log {
            lose_all(&sample, "log/");
        }
        let (report, target) = rebuilt(&sample.store).await;
        let report = report.unwrap();
        assert_eq!(report.exit_code(), 0, "{report:?}");
        assert!(report.notes.iter().any(|note| note.contains("orders-0") && note.contains("same bytes")));
        assert_eq!(Content::of(&target).await, expected);
        in_order(&target).await;
    }
}

#[tokio::test]
async fn orphans_with_other_bytes() {
    let sample = Sample::new().await;
    let expected = Content::of(&sample.store).await;
    let stray = orphan(&sample, &[piece(ORDERS, 0, 4, 4, &[sample::other(4, 6), plain(10, 10)])]).await;
    // A commit that can be read settles it.
    let (report, target) = rebuilt(&sample.store).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
    assert!(report.unwrap().notes.iter().any(|note| note.contains(&stray) && note.contains("other records")));
    assert_eq!(Content::of(&target).await, expected);
    // Without a log a table is better than none, and it is said.
    lose_all(&sample, "log/");
    let (report, target) = rebuilt(&sample.store).await;
    let report = report.unwrap();
    assert_eq!(report.exit_code(), 3);
    let doubt = |issue: &&bodley_engine::Issue| {
        issue.code == "doubt"
            && issue.object.as_deref() == Some(&stray)
            && (issue.partition, issue.offset) == (Some(0), Some(4))
    };
    assert!(report.errors.iter().any(|issue| doubt(&issue)), "{report:?}");
    assert_eq!(Content::of(&target).await, expected);
    in_order(&target).await;
}

/// Records that only an orphan has come over; where it and surer rows meet it is cut between batches.
#[tokio::test]
async fn orphans_fill_what_is_lost_and_go_on_behind_the_end() {
    let sample = Sample::new().await;
    let mut expected = Content::of(&sample.store).await;
    orphan(&sample, &[piece(ORDERS, 0, 4, 4, &[plain(4, 6), plain(10, 10)])]).await;
    orphan(&sample, &[piece(ORDERS, 0, 25, 25, &[plain(25, 10), plain(35, 5)])]).await;
    let paths = sample.paths("data/");
    sample.lose(&paths[1]);
    let (report, target) = rebuilt(&sample.store).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
    let orders = expected.parts.get_mut(&("orders".to_owned(), 0)).unwrap();
    orders.0.insert(35, plain(35, 5));
    orders.1.push(false);
    orders.2 = 40;
    assert_eq!(Content::of(&target).await, expected);
    in_order(&target).await;
    // The same when the chunk in the segment is damaged: each chunk is checked on the way.
    sample.put(&paths[1], {
        let mut bytes = sample.objects[&paths[1]].to_vec();
        bytes[70] ^= 8;
        bytes
    });
    let (report, target) = rebuilt(&sample.store).await;
    let report = report.unwrap();
    assert_eq!(report.exit_code(), 0, "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains(&paths[1]) && note.contains("elsewhere as well")));
    assert_eq!(Content::of(&target).await, expected);
}

/// An orphan that reaches into what a commit says otherwise ends there; a byte that no batch's CRC covers is under the chunk's.
#[tokio::test]
async fn surer_rows_and_checksums_of_chunks() {
    let sample = Sample::new().await;
    let mut expected = Content::of(&sample.store).await;
    orphan(&sample, &[piece(ORDERS, 0, 10, 10, &[plain(10, 10), sample::other(25, 10)])]).await;
    let paths = sample.paths("data/");
    sample.lose(&paths[1]);
    let (report, target) = rebuilt(&sample.store).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
    assert_eq!(Content::of(&target).await, expected);
    // The leader epoch of the first batch.
    sample.heal();
    let mut bytes = sample.objects[&paths[1]].to_vec();
    bytes[14] ^= 1;
    sample.put(&paths[1], bytes);
    let (report, target) = rebuilt(&sample.store).await;
    assert_eq!(exit_code(&report), 3, "{report:?}");
    expected.gaps.insert(lost("orders", 0, 10, 20));
    assert_eq!(Content::of(&target).await.gaps, expected.gaps);
}

/// The table of a run that lost its race is like any other once the log is gone.
#[tokio::test]
async fn a_lost_race() {
    let sample = Sample::new().await;
    let expected = Content::of(&sample.store).await;
    let pieces = [piece(ORDERS, 0, 25, 20, &[plain(25, 10)])];
    let (segment, mut ranges) = sample::segment(&sample.store, &pieces, &[]).await;
    ranges.push(row(ORDERS, 0, Kind::Gap(Reason::Retention), 20..25, 20));
    let bytes = Rows { ranges, ..Rows::default() }.encode().unwrap().finish().unwrap();
    sample.put(&format!("index/{}.tbl", segment.id), bytes);
    lose_all(&sample, "log/");
    let (report, target) = rebuilt(&sample.store).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
    assert_eq!(Content::of(&target).await, expected);
    in_order(&target).await;
}

#[tokio::test]
async fn rewinds_keep_their_order() {
    let sample = Sample::new().await;
    let mut vault = Vault::open(Arc::clone(&sample.store)).await.unwrap();
    let pieces = [piece(ORDERS, 0, 30, 35, &[sample::other(30, 4), plain(34, 6)])];
    let (segment, mut ranges) = sample::segment(&sample.store, &pieces, &[]).await;
    ranges[0].rewind = 1;
    // The footer must say the same: written by hand, as no backup rewinds yet.
    let footer = sample.memory.objects().remove(&segment.path()).unwrap();
    let (segment, bytes) = sample::refooted(&segment, &footer, &ranges);
    sample.put(&segment.path(), bytes);
    let rows = Rows { ranges, ..Rows::default() };
    vault.append(Addition { segments: vec![segment], rows }).await.unwrap();
    let expected = Content::of(&sample.store).await;
    assert_eq!(expected.parts[&("orders".to_owned(), 0)].2, 40);
    sample.memory.objects().retain(|path, _| !path.starts_with("log/"));
    let (report, target) = rebuilt(&sample.store).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
    let found = Content::of(&target).await;
    assert_eq!(found.parts, expected.parts);
    assert_eq!(found.gaps, expected.gaps);
}

/// Ids of topics whose broker has none are made from the vault's id.
#[tokio::test]
async fn topics_without_ids_of_their_own() {
    let sample = Sample::new().await;
    let mut vault = Vault::open(Arc::clone(&sample.store)).await.unwrap();
    let topic = bodley_engine::vault::rows::TopicRow { synthetic: true, ..sample::topic_row(PAYMENTS) };
    let rows = Rows { topics: vec![topic], ..Rows::default() };
    vault.append(Addition { segments: Vec::new(), rows }).await.unwrap();
    let expected = Content::of(&sample.store).await;
    let (report, target) = rebuilt(&sample.store).await;
    assert_eq!(exit_code(&report), 0, "{report:?}");
    assert_eq!(Content::of(&target).await, expected);
    in_order(&target).await;
    let mut vault = Vault::open(target).await.unwrap();
    let vault_id = vault.identity().vault_id.clone();
    let bytes: Vec<u8> =
        (0..16).map(|n| u8::from_str_radix(&vault_id[2 * n..2 * n + 2], 16).unwrap()).collect();
    let digest = sample::sha256(&[&bytes[..], b"payments", &[0; 4]].concat());
    let state = vault.fold(false).await.unwrap();
    assert_eq!(bodley_engine::vault::hex(&state.newest()["payments"].topic), digest[..32]);
    assert!(state.topics.contains_key(&ORDERS));
}

#[tokio::test]
async fn what_is_refused() {
    let sample = Sample::new().await;
    // Into a place that holds something; the vault itself, for one.
    for foreign in ["vault.json", "log/x", "data/x", "index/x", "checkpoint/x"] {
        let memory = MemoryStore::new();
        memory.objects().insert(foreign.to_owned(), vec![1].into());
        let (_keep, stop) = watch::channel(false);
        let target: SharedStore = Arc::new(memory.clone());
        let progress = Arc::new(Progress::default());
        let options = RebuildOptions::default();
        let report = rebuild(Arc::clone(&sample.store), target, options, progress, stop).await;
        assert_eq!(exit_code(&report), 2, "{foreign}");
        assert_eq!(memory.objects().len(), 1);
    }
    // From nothing, from something else, from a newer version.
    let empty: SharedStore = Arc::new(MemoryStore::new());
    assert_eq!(exit_code(&rebuilt(&empty).await.0), 2);
    let next = bodley_engine::vault::commit::commit_path(5);
    let line = r#"{"seq":5,"op":"rewrite"}"#;
    sample.put(&next, format!("{line}\n{}\n", sample::sha256(line.as_bytes())).into_bytes());
    assert_eq!(exit_code(&rebuilt(&sample.store).await.0), 2);
    sample.heal();
    let identity = String::from_utf8(sample.objects["vault.json"].to_vec()).unwrap();
    sample.put("vault.json", identity.replace(r#""format": 1"#, r#""format": 2"#).into_bytes());
    assert_eq!(exit_code(&rebuilt(&sample.store).await.0), 2);
}

/// Whatever is damaged: the run ends, the new vault is in order, it holds no batch that the old one had not, and what it has not is
/// told: by a gap, or by an end that lies before the old one.
#[tokio::test]
async fn any_damage() {
    let sample = Sample::new().await;
    let expected = Content::of(&sample.store).await;
    let paths: Vec<String> = sample.objects.keys().cloned().collect();
    let rounds = if std::env::var_os("BODLEY_SOAK").is_some() { 20_000 } else { 600 };
    let mut codes = BTreeMap::new();
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..random.usize(1..5) {
            let path = &paths[random.usize(..paths.len())];
            let mut bytes = sample.memory.objects().remove(path).map(|b| b.to_vec()).unwrap_or_default();
            match random.u8(0..4) {
                0 => {}
                1 => sample.put(path, bytes[..random.usize(..=bytes.len())].to_vec()),
                2 => sample.put(path, sample.objects[&paths[random.usize(..paths.len())]].clone()),
                _ => {
                    let len = bytes.len().max(1);
                    bytes.resize(len, 0);
                    bytes[random.usize(..len)] ^= 1 << random.u8(0..8);
                    sample.put(path, bytes);
                }
            }
        }
        let options = RebuildOptions { cluster_id: Some("cluster".into()) };
        let (report, target) = with(&sample.store, options).await;
        let code = exit_code(&report);
        *codes.entry(code).or_insert(0) += 1;
        sample.heal();
        if code == 2 {
            assert!(target.list("data/", "").await.unwrap().is_empty(), "seed {seed}");
            continue;
        }
        let report = report.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        in_order(&target).await;
        let found = Content::of(&target).await;
        for (key, (batches, ..)) in &found.parts {
            let name = key.0.strip_prefix("lost-").map_or(key.0.as_str(), |id| {
                ["orders", "payments", "audit"][usize::from(id.as_bytes()[1] - b'7')]
            });
            let (all, _, end) = &expected.parts[&(name.to_owned(), key.1)];
            for (base, batch) in all {
                let gap = report.gaps.iter().any(|gap| {
                    (&gap.topic, gap.partition) == (&key.0, key.1) && (gap.first..gap.next).contains(base)
                });
                match batches.get(base) {
                    Some(found) => assert_eq!(found, batch, "seed {seed}"),
                    None => assert!(
                        gap || *base >= found_end(&found, key) || *base < found_start(&found, key),
                        "seed {seed}: {key:?} {base} of {end}"
                    ),
                }
            }
            assert!(batches.keys().all(|base| all.contains_key(base)), "seed {seed}");
        }
    }
    assert!(codes.get(&0).is_some_and(|n| *n > rounds / 20) && codes.contains_key(&3), "{codes:?}");
    assert!(!codes.contains_key(&1), "{codes:?}");
}

fn found_end(found: &Content, key: &(String, u32)) -> i64 {
    found.parts[key].2
}

fn found_start(found: &Content, key: &(String, u32)) -> i64 {
    let first = found.parts[key].0.keys().next().copied();
    first.unwrap_or(i64::MAX)
}

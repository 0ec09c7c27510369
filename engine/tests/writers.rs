//! Several writers of one vault over a store that misbehaves: whatever the seed, each partition's rows form one chain, what was acknowledged is in
//! the log once, what lost is not in it. `BODLEY_SOAK` set: many more seeds. `BODLEY_SEED=N`: that seed alone.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::Rows;
use bodley_engine::vault::state::State;
use bodley_engine::vault::{Receipt, VaultError};
use bodley_io::store::SharedStore;
use bodley_io::store::decorators::Retry;
use bodley_io::store::memory::MemoryStore;
use common::chaos::{Chaos, FAULTS, Tally};
use common::model::Model;
use common::sample::{self, CHUNK, TOPIC, open_or_create, topic_row};

/// What a writer was told of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Acknowledged(Receipt),
    Lost,
    /// The store failed: the commit may be there, now or later.
    Unknown,
    /// It broke a rule and was not tried.
    Refused,
}

#[derive(Debug, Clone)]
struct Attempt {
    tag: i64,
    writer: u32,
    fate: Fate,
}

type Journal = Arc<Mutex<Vec<Attempt>>>;

/// One kind of contest.
#[derive(Debug, Clone, Copy)]
struct Contest {
    writers: u32,
    partitions: u32,
    /// Each partition belongs to one writer.
    disjoint: bool,
    /// Times that a writer opens the vault.
    sessions: u32,
    /// Faults in a thousand operations.
    rate: u32,
}

struct Writer {
    contest: Contest,
    id: u32,
    random: fastrand::Rng,
    store: SharedStore,
    journal: Journal,
    attempts: i64,
}

impl Writer {
    async fn run(mut self) {
        for _ in 0..self.contest.sessions {
            match self.session().await {
                // Damage would be an alarm about a vault that is sound.
                Ok(()) | Err(VaultError::Store(_)) => {}
                Err(error) => panic!("writer {}: {error}", self.id),
            }
        }
    }

    /// As one run of a backup: opens, plans from the fold, commits a few times on the same handle.
    async fn session(&mut self) -> Result<(), VaultError> {
        let mut vault = open_or_create(&self.store).await?;
        let state = vault.fold(false).await?;
        let mut cursors = BTreeMap::new();
        for (key, partition) in &state.partitions {
            cursors.insert(key.1, partition.cursor.unwrap().next);
        }
        for _ in 0..self.random.u32(1..4) {
            if self.random.u32(0..10) == 0 {
                self.broken(&mut vault, &cursors).await?;
            }
            let moved = self.append(&mut vault, &cursors).await?;
            // Going on after a loss or an unclear answer must do no harm either.
            if moved.is_empty() && self.random.bool() {
                break;
            }
            cursors.extend(moved);
        }
        Ok(())
    }

    fn pick(&mut self) -> Vec<u32> {
        let Contest { writers, partitions, disjoint, .. } = self.contest;
        let mine = |p: &u32| !disjoint || p % writers == self.id;
        let mut picked: Vec<u32> = (0..partitions).filter(mine).collect();
        self.random.shuffle(&mut picked);
        picked.truncate(self.random.usize(1..3));
        picked
    }

    fn note(&mut self, fate: Fate) {
        let tag = self.tag();
        self.attempts += 1;
        self.journal.lock().unwrap().push(Attempt { tag, writer: self.id, fate });
    }

    fn tag(&self) -> i64 {
        i64::from(self.id) * 1000 + self.attempts + 1_000_000
    }

    /// The cursors that moved; none when the append failed.
    async fn append(
        &mut self,
        vault: &mut Vault,
        cursors: &BTreeMap<u32, i64>,
    ) -> Result<BTreeMap<u32, i64>, VaultError> {
        let mut moved = BTreeMap::new();
        let mut chunks = Vec::new();
        let mut ranges = Vec::new();
        for partition in self.pick() {
            let cursor = cursors.get(&partition).copied();
            let (first, from) = (cursor.unwrap_or(0), cursor.unwrap_or(-1));
            if chunks.is_empty() {
                chunks.push((partition, first, from));
                moved.insert(partition, first + CHUNK);
            } else {
                ranges.push(sample::row(partition, first..first + 2, from));
                ranges.push(sample::row(partition, first + 2..first + 5, from));
                moved.insert(partition, first + 5);
            }
        }
        // A segment that could not be written is no attempt.
        let (segment, data) = sample::segment(vault.store(), &chunks, self.tag()).await?;
        for range in &mut ranges {
            range.high_watermark = self.tag();
        }
        ranges.extend(data);
        let rows = Rows { ranges, topics: vec![topic_row()], ..Rows::default() };
        // Some runs are told to stop meanwhile.
        let patience = if self.random.u32(0..20) == 0 { self.random.u64(0..100) } else { 3_600_000 };
        let append = vault.append(Addition { segments: vec![segment], rows });
        let fate = match tokio::time::timeout(Duration::from_millis(patience), append).await {
            Ok(Ok(receipt)) => Fate::Acknowledged(receipt),
            Ok(Err(VaultError::LostRace { .. })) => Fate::Lost,
            Ok(Err(VaultError::Store(_))) | Err(_) => Fate::Unknown,
            Ok(Err(error)) => return Err(error),
        };
        let done = matches!(fate, Fate::Acknowledged(_));
        self.note(fate);
        Ok(if done { moved } else { BTreeMap::new() })
    }

    /// Rows that must never get in, whoever made them.
    async fn broken(&mut self, vault: &mut Vault, cursors: &BTreeMap<u32, i64>) -> Result<(), VaultError> {
        let Some(partition) = self.pick().pop() else { return Ok(()) };
        let cursor = cursors.get(&partition).copied();
        let (first, from) = (cursor.unwrap_or(0), cursor.unwrap_or(-1));
        let mut ranges = match self.random.u32(0..4) {
            // A hole inside.
            0 => vec![
                sample::row(partition, first..first + 2, from),
                sample::row(partition, first + 3..first + 5, from),
            ],
            // A hole before, and not owned up to.
            1 => vec![sample::row(partition, first + 3..first + 5, from.max(0))],
            // From a cursor that the partition does not have.
            2 => vec![sample::row(partition, first + 3..first + 5, first + 3)],
            // Backwards.
            _ => vec![sample::row(partition, first..first - 1, from)],
        };
        for range in &mut ranges {
            range.high_watermark = self.tag();
        }
        let rows = Rows { ranges, ..Rows::default() };
        match vault.append(Addition { segments: Vec::new(), rows }).await {
            Err(VaultError::Internal(_)) => self.note(Fate::Refused),
            // Another had moved the partition: that is said first.
            Err(VaultError::LostRace { .. }) => self.note(Fate::Lost),
            other => panic!("writer {}: broken rows: {other:?}", self.id),
        }
        Ok(())
    }
}

/// What all seeds of a contest came to.
#[derive(Debug, Default)]
struct Sum {
    acknowledged: u64,
    lost: u64,
    unknown_in: u64,
    unknown_out: u64,
    refused: u64,
    commits: u64,
}

fn contest_of(seed: u64, contest: Contest, tally: &Tally) -> (Vec<Attempt>, MemoryStore) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // Jitter of pauses.
    fastrand::seed(seed);
    let memory = MemoryStore::new();
    let journal = Journal::default();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for id in 0..contest.writers {
            let mut random = fastrand::Rng::with_seed(seed * 100 + u64::from(id));
            let chaos = Chaos::new(memory.clone(), random.u64(..), contest.rate, tally.clone());
            let patience = Duration::from_millis(random.u64(0..2000));
            let store: SharedStore = Arc::new(Retry::new(Arc::new(chaos), patience));
            let journal = Arc::clone(&journal);
            tasks.spawn(Writer { contest, id, random, store, journal, attempts: 0 }.run());
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        // What is late comes now.
        tokio::time::sleep(Duration::from_secs(3600)).await;
    });
    let attempts = journal.lock().unwrap().clone();
    (attempts, memory)
}

fn check(seed: u64, attempts: &[Attempt], memory: &MemoryStore, sum: &mut Sum) {
    let case = format!("seed {seed}");
    let model = Model::read(&memory.objects(), &case);
    for attempt in attempts {
        let found = model.tagged(attempt.tag);
        let right = match &attempt.fate {
            Fate::Acknowledged(receipt) => {
                sum.acknowledged += 1;
                model.digests.get(receipt.seq as usize - 1) == Some(&receipt.digest)
                    && found.len() == 1
                    && found.contains(&receipt.seq)
            }
            Fate::Unknown => {
                *if found.is_empty() { &mut sum.unknown_out } else { &mut sum.unknown_in } += 1;
                found.len() <= 1
            }
            Fate::Lost => {
                sum.lost += 1;
                found.is_empty()
            }
            Fate::Refused => {
                sum.refused += 1;
                found.is_empty()
            }
        };
        assert!(right, "{case}: {attempt:?} is in commits {found:?}");
    }
    sum.commits += model.digests.len() as u64;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(the_engine_agrees(&model, memory, &case));
}

async fn the_engine_agrees(model: &Model, memory: &MemoryStore, case: &str) {
    let store: SharedStore = Arc::new(memory.clone());
    let mut vault = match Vault::open_for_writing(Arc::clone(&store)).await {
        Ok(vault) => vault,
        Err(VaultError::Absent { .. }) if memory.objects().is_empty() => return,
        Err(error) => panic!("{case}: {error}"),
    };
    let state = vault.fold(true).await.unwrap_or_else(|error| panic!("{case}: {error}"));
    let cursors: BTreeMap<u32, i64> =
        state.partitions.iter().map(|(key, part)| (key.1, part.cursor.unwrap().next)).collect();
    let chains: BTreeMap<u32, i64> = model.chains.iter().map(|(p, (_, next))| (*p, *next)).collect();
    assert_eq!(cursors, chains, "{case}");
    for (partition, (first, next)) in &model.chains {
        let ranges = &state.partitions[&(TOPIC, *partition)].ranges;
        assert_eq!(ranges.first().map(|range| range.first), Some(*first), "{case}");
        assert_eq!(ranges.iter().map(|range| range.next - range.first).sum::<i64>(), next - first, "{case}");
    }
    let report = sample::verified(&store, vault.receipt_text().map(|text| text.parse().unwrap())).await;
    assert_eq!((report.exit_code(), &report.errors), (0, &Vec::new()), "{case}");
    assert_eq!(report.records.unwrap_or(0), model.records(), "{case}");
    // The next run goes on.
    let chunks: Vec<_> = chains.iter().map(|(partition, next)| (*partition, *next, *next)).collect();
    if !chunks.is_empty() {
        sample::append(&mut vault, &chunks, 0).await.unwrap_or_else(|error| panic!("{case}: {error}"));
    }
}

fn seeds(normal: u64) -> std::ops::Range<u64> {
    if let Some(seed) = std::env::var("BODLEY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return seed..seed + 1;
    }
    0..if std::env::var_os("BODLEY_SOAK").is_some() { normal * 20 } else { normal }
}

fn play(contest: Contest, normal: u64) {
    let (tally, mut sum) = (Tally::default(), Sum::default());
    let seeds = seeds(normal);
    for seed in seeds.clone() {
        let (attempts, memory) = contest_of(seed, contest, &tally);
        check(seed, &attempts, &memory, &mut sum);
    }
    println!("{contest:?}, seeds {seeds:?}: {sum:?}, {tally:?}");
    if seeds.end - seeds.start == normal {
        // A contest in which something never happened proves nothing about it.
        for fault in FAULTS {
            assert!(tally.get(fault) > 0, "{fault} never happened");
        }
        let Sum { acknowledged, lost, unknown_in, unknown_out, refused, commits } = sum;
        assert!(commits > normal && acknowledged > normal, "little was committed");
        assert!(contest.disjoint || lost > normal / 10, "nobody lost");
        assert!(unknown_in > 0 && unknown_out > 0 && refused > 0, "no unclear answer, or no broken rows");
    }
}

#[test]
fn two_writers_of_shared_partitions() {
    play(Contest { writers: 2, partitions: 2, disjoint: false, sessions: 3, rate: 60 }, 1500);
}

#[test]
fn two_writers_of_disjoint_partitions() {
    play(Contest { writers: 2, partitions: 4, disjoint: true, sessions: 3, rate: 60 }, 700);
}

#[test]
fn eight_writers_of_shared_partitions() {
    play(Contest { writers: 8, partitions: 6, disjoint: false, sessions: 2, rate: 40 }, 500);
}

#[test]
fn eight_writers_of_disjoint_partitions() {
    play(Contest { writers: 8, partitions: 16, disjoint: true, sessions: 2, rate: 40 }, 300);
}

/// The head of a log of several pages, whatever the listing leaves out, says twice or begins again.
#[test]
fn the_head_does_not_depend_on_the_listing() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let memory = MemoryStore::new();
        let mut vault = Vault::create(Arc::new(memory.clone()), "cluster").await.unwrap();
        for at in 0..2100 {
            let rows = Rows {
                ranges: vec![sample::row(0, at..at + 1, if at == 0 { -1 } else { at })],
                ..Rows::default()
            };
            vault.append(Addition { segments: Vec::new(), rows }).await.unwrap();
        }
        let tally = Tally::default();
        for seed in seeds(60) {
            let store = Arc::new(Chaos::new(memory.clone(), seed, 0, tally.clone()));
            let opened = Vault::open(store).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(opened.receipt(), vault.receipt(), "seed {seed}");
        }
        let stuck = Arc::new(Chaos::new(memory.clone(), 0, 0, tally.clone()).stuck());
        let opened = tokio::time::timeout(Duration::from_secs(3600), Vault::open(stuck)).await;
        assert_eq!(opened.unwrap().unwrap().receipt(), vault.receipt());
        assert!(tally.get("list: newest left out") > 0 && tally.get("list: from the start") > 0);
    });
}

/// Whoever has a failing seed must be able to see it again.
#[test]
fn a_seed_repeats() {
    let contest = Contest { writers: 8, partitions: 6, disjoint: false, sessions: 2, rate: 100 };
    for seed in 0..5 {
        let told = || {
            let (attempts, memory) = contest_of(seed, contest, &Tally::default());
            let fates: Vec<_> = attempts
                .iter()
                .map(|attempt| match &attempt.fate {
                    Fate::Acknowledged(receipt) => (attempt.writer, attempt.tag, receipt.seq),
                    Fate::Lost => (attempt.writer, attempt.tag, 0),
                    Fate::Unknown => (attempt.writer, attempt.tag, u64::MAX),
                    Fate::Refused => (attempt.writer, attempt.tag, u64::MAX - 1),
                })
                .collect();
            (fates, memory.objects().len())
        };
        assert_eq!(told(), told(), "seed {seed}");
    }
}

/// Who commits seldom beside another one who commits often follows it, however much that is.
#[tokio::test(start_paused = true)]
async fn a_slow_writer_beside_a_quick_one() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let mut slow = open_or_create(&store).await.unwrap();
    let mut quick = open_or_create(&store).await.unwrap();
    slow.fold(false).await.unwrap();
    quick.fold(false).await.unwrap();
    sample::append(&mut slow, &[(0, 0, -1)], 1).await.unwrap();
    for n in 0..300 {
        let from = if n == 0 { -1 } else { n * CHUNK };
        sample::append(&mut quick, &[(1, n * CHUNK, from)], 2).await.unwrap();
    }
    let receipt = sample::append(&mut slow, &[(0, CHUNK, CHUNK)], 1).await.unwrap();
    assert_eq!(receipt.seq, 1 + 1 + 300 + 1);
    let lost = sample::append(&mut slow, &[(1, 300 * CHUNK, 300 * CHUNK)], 1).await.unwrap_err();
    assert!(matches!(lost, VaultError::LostRace { .. }), "{lost}");
    let state = Vault::open(store).await.unwrap().fold(true).await.unwrap();
    assert_eq!(state.cursors()[&(TOPIC, 0)], 2 * CHUNK);
}

/// Rows of a few partitions are kept, cursors of all.
#[tokio::test(start_paused = true)]
async fn some_histories_are_read() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let mut vault = open_or_create(&store).await.unwrap();
    vault.fold(false).await.unwrap();
    for n in 0..30 {
        let from = if n == 0 { -1 } else { n * CHUNK };
        let chunks = [0, 1, 2].map(|partition| (partition, n * CHUNK, from));
        sample::append(&mut vault, &chunks, 1).await.unwrap();
        if n == 20 {
            vault.checkpoint().await.unwrap();
        }
    }
    let of = |keys: &[u32]| State::of(keys.iter().map(|partition| (TOPIC, *partition)).collect());
    let mut open = Vault::open(store).await.unwrap();
    let all = open.fold(true).await.unwrap();
    let some = open.fold_onto(of(&[1])).await.unwrap();
    assert_eq!(some.cursors(), all.cursors());
    assert_eq!(some.partitions[&(TOPIC, 1)], all.partitions[&(TOPIC, 1)]);
    assert_eq!(some.partitions[&(TOPIC, 1)].ranges.len(), 30);
    assert!(some.partitions[&(TOPIC, 0)].ranges.is_empty() && some.segments.is_empty());
}

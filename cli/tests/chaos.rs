//! Seeded chaos on the way to a broker: connections that are cut, silent, late, and bits that flip in both directions, at random moments and in the
//! middle of frames. A backup and a restore at a time: all is there, once, or it is said that it is not, and then the same command completes it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use bodley_testbed::proxy::Direction;
use bodley_testbed::workbench::{Codec, Generate, ProduceOptions, Record};
use bodley_testbed::{ClusterOptions, Dump, Proxy};

use common::judge::{Python, same};
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{Ran, Rng, seconds, soak};

const PLAIN: &str = "plain";
const PACKED: &str = "packed";
const TRANSACTIONS: &str = "transactions";
const TOPICS: [&str; 3] = [PLAIN, PACKED, TRANSACTIONS];
/// Of each topic.
const PARTITIONS: i32 = 3;
/// One bit in so many bytes flips, or fewer: a run moves some three million.
const FLIPS_BELOW: u64 = 2 << 20;
/// Connections are cut after so many bytes, or fewer: not so few that no answer of the ordinary size ever gets through.
const CUTS_BELOW: u64 = 8 << 20;

fn fill(site: &Site) {
    for topic in TOPICS {
        site.topic(topic, PARTITIONS);
    }
    for (topic, codec) in [(PLAIN, Codec::None), (PACKED, Codec::Zstd)] {
        let load = Generate {
            count: 1_200,
            partitions: PARTITIONS,
            value_bytes: 1024,
            compressible: true,
            ..Generate::default()
        };
        let options = ProduceOptions { batch_bytes: 32 << 10, linger_ms: 20, ..ProduceOptions::codec(codec) };
        site.bench.generate(topic, &load, &options).unwrap();
    }
    let producer = "producer";
    for n in 0..24 {
        site.bench.begin(producer, &ProduceOptions::default()).unwrap();
        let record = |k| Record::new(k % PARTITIONS).key(format!("{n}-{k}")).value(vec![n as u8; 700]);
        let records: Vec<Record> = (0..60).map(record).collect();
        site.bench.send(producer, TRANSACTIONS, &records).unwrap();
        match n % 3 {
            0 => site.bench.abort(producer).unwrap(),
            _ => site.bench.commit(producer).unwrap(),
        }
    }
    site.wait_until_decided(TRANSACTIONS);
}

/// What a seed does to the line, for as long as runs are under way.
fn disturb(proxy: &Proxy, seed: u64, over: &AtomicBool) {
    let mut rng = Rng::new("chaos", seed);
    // Each seed has some of the faults, so that all of their mixtures come up.
    let kinds = 1 + rng.below(31);
    let has = |kind: u64| kinds & (1 << kind) != 0;
    if has(0) {
        proxy.flip_at_random(Direction::ToClient, seed, FLIPS_BELOW);
    }
    if has(1) {
        proxy.flip_at_random(Direction::ToServer, seed + 1, FLIPS_BELOW);
    }
    if has(2) {
        proxy.cut_at_random(seed + 2, CUTS_BELOW);
    }
    while !over.load(Ordering::Relaxed) {
        let pause = rng.millis(150);
        match rng.below(4) {
            0 if has(3) => {
                let direction = if rng.below(2) == 0 { Direction::ToServer } else { Direction::ToClient };
                proxy.stall_one_way(direction, true);
                thread::sleep(pause);
                proxy.stall_one_way(direction, false);
            }
            1 if has(4) => {
                proxy.delay(rng.millis(40));
                thread::sleep(pause);
                proxy.delay(seconds(0.0));
            }
            2 if has(2) && rng.below(8) == 0 => proxy.cut(),
            _ => thread::sleep(pause),
        }
    }
    proxy.calm();
    // A request with a flipped bit may have the server wait for more of it.
    proxy.cut();
}

/// Runs both under chaos.
fn both(stage: &Stage, seed: u64, vaults: (&Vault, &Vault)) -> (Ran, Ran) {
    let proxy = stage.cluster.proxy(0).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let chaos = scope.spawn(|| disturb(proxy, seed, &over));
        let backup = stage.start("backup", vaults.0, &backup_args());
        let args = restore_args(seed);
        let restore = stage.start("restore", vaults.1, &strs(&args));
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (backup.wait(), restore.wait())));
        over.store(true, Ordering::Relaxed);
        chaos.join().unwrap();
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn backup_args() -> Vec<&'static str> {
    let topics = TOPICS.iter().flat_map(|topic| ["--topic", topic]);
    topics.chain(["--give-up-after", "20s"]).collect()
}

fn target(seed: u64, topic: &str) -> String {
    format!("{topic}-{seed}")
}

fn restore_args(seed: u64) -> Vec<String> {
    let renames = TOPICS.iter().flat_map(|topic| {
        let rename = format!("{topic}={}", target(seed, topic));
        ["--topic".to_owned(), (*topic).to_owned(), "--rename".to_owned(), rename]
    });
    renames.chain(["--give-up-after".to_owned(), "20s".to_owned()]).collect()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// How many runs did not end well at once.
#[derive(Debug, Default)]
struct Failures {
    backups: AtomicUsize,
    restores: AtomicUsize,
}

/// One seed.
fn play(stage: &Stage, seed: u64, known: &Vault, dumps: &[Dump], failures: &Failures) {
    let vault = Vault::new();
    let since = Instant::now();
    let (backup, restore) = both(stage, seed, (&vault, known));
    let took = since.elapsed();
    eprintln!("seed {seed}: {:?} and {:?} after {took:.1?}", backup.code, restore.code);
    if backup.code != Some(0) {
        failures.backups.fetch_add(1, Ordering::Relaxed);
        eprintln!("{backup}");
        // Said with words, see `json`. Nothing is lost for the next run.
        backup.json();
        stage.backup(&vault, &backup_args()).exits(0);
    }
    vault.verified();
    let python = Python::read(&vault, &[]);
    for (topic, dump) in TOPICS.iter().zip(dumps) {
        python.saw(topic, dump);
    }
    if restore.code != Some(0) {
        failures.restores.fetch_add(1, Ordering::Relaxed);
        eprintln!("{restore}");
        restore.json();
        stage.restore(known, &strs(&restore_args(seed))).exits(0);
    }
    for (topic, dump) in TOPICS.iter().zip(dumps) {
        let target = target(seed, topic);
        same(dump, &stage.dump(&target));
        stage.bench.delete_topic(&target).unwrap();
    }
}

fn seeds(from: u64) -> impl Iterator<Item = u64> {
    let chosen = std::env::var("BODLEY_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let most = if soak() { 500 } else { 30 };
    (from..most).step_by(2).filter(move |seed| chosen.is_none_or(|chosen| chosen == *seed))
}

/// Every other seed, on a cluster of its own.
fn chaos(from: u64) {
    static SLOTS: [Slot; 2] = [Slot::new(), Slot::new()];
    let stage = Slot::stage(&SLOTS, ClusterOptions::new(), fill);
    let known = stage.vault_of(&TOPICS);
    let dumps: Vec<Dump> = TOPICS.iter().map(|topic| stage.dump(topic)).collect();
    let (failures, before) = (Failures::default(), Instant::now());
    let mut failed = Vec::new();
    for seed in seeds(from) {
        let played = std::panic::AssertUnwindSafe(|| play(&stage, seed, &known, &dumps, &failures));
        if std::panic::catch_unwind(played).is_err() {
            eprintln!("FAILED: seed {seed}");
            failed.push(seed);
        }
    }
    let proxy = stage.cluster.proxy(0).unwrap();
    eprintln!(
        "{:.0?}: {failures:?}, {} flips, {} cuts, seeds that failed: {failed:?}",
        before.elapsed(),
        proxy.flips(),
        proxy.cuts()
    );
    assert!(failed.is_empty(), "seeds {failed:?}; BODLEY_SEED plays one alone");
}

#[test]
fn even_seeds() {
    chaos(0);
}

#[test]
fn odd_seeds() {
    chaos(1);
}

//! A cluster of three nodes, and what befalls it while runs are under way.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bodley_testbed::ClusterOptions;
use bodley_testbed::workloads::{BulkOptions, bulk};

use crate::common::judge::same_digests;
use crate::common::site::Site;
use crate::common::stage::{Slot, Stage};
use crate::common::vault::Vault;
use crate::common::{Ran, Rng, Running, seconds, soak, topics};

/// Three replicas of twelve partitions, of which two must be in sync.
pub const STEADY: &str = "steady";
/// One replica of each of six partitions: what one node has, nobody else has.
pub const ALONE: &str = "alone";
/// Records of these topics take so much room.
pub const VALUE: u32 = 4096;
const SYNC_LIMIT: Duration = Duration::from_secs(300);
/// A run may take so long.
pub const LIMIT: Duration = Duration::from_secs(1500);

/// Bytes in [`STEADY`].
pub fn steady_bytes() -> u64 {
    if soak() { 3 << 30 } else { 120 << 20 }
}

/// The cluster, which tests take turns with.
pub fn three() -> Stage {
    static THREE: [Slot; 1] = [Slot::new()];
    Slot::stage(&THREE, ClusterOptions::new().nodes(3), |site| {
        site.bench.create_replicated(STEADY, 12, 3, &[("min.insync.replicas", "2")]).unwrap();
        let options = BulkOptions { partitions: 12, value_bytes: VALUE, seed: 5, ..BulkOptions::default() };
        bulk(&site.bench, STEADY, steady_bytes(), options).unwrap();
        site.bench.create_replicated(ALONE, 6, 1, &[]).unwrap();
        let options = BulkOptions { partitions: 6, value_bytes: VALUE, seed: 6, ..BulkOptions::default() };
        bulk(&site.bench, ALONE, 24 << 20, options).unwrap();
    })
}

impl Stage {
    /// Starts a backup of a topic at this rate.
    pub fn backup_at(&self, vault: &Vault, topic: &str, rate: &str, more: &[&str]) -> Running {
        let args = [&["--topic", topic, "--limit-read", rate], more].concat();
        self.start("backup", vault, &args).may_take(LIMIT)
    }

    /// Starts a restore of a topic under another name at this rate.
    pub fn restore_at(&self, vault: &Vault, names: (&str, &str), rate: &str, more: &[&str]) -> Running {
        let (topic, target) = names;
        let rename = format!("{topic}={target}");
        let args = [&["--topic", topic, "--rename", &rename, "--limit-write", rate], more].concat();
        self.start("restore", vault, &args).may_take(LIMIT)
    }

    /// The vault has all of a topic, and what comes back from it is equal.
    #[track_caller]
    pub fn has_all(&self, vault: &Vault, topic: &str) {
        let records: i64 =
            self.bench.describe(topic).unwrap().partitions.iter().map(|p| p.end - p.start).sum();
        assert_eq!(topics(&vault.verified(), topic)[0]["records"], records);
        let target = format!("{topic}-again");
        self.restore_at(vault, (topic, &target), "1G", &[]).wait().exits(0);
        self.came_back(topic, &target);
    }

    /// A restored topic is equal and has its own settings; it is deleted.
    #[track_caller]
    pub fn came_back(&self, topic: &str, target: &str) {
        same_digests(&self.bench, topic, target);
        assert_eq!(
            self.bench.describe(target).unwrap().own_configs(),
            self.bench.describe(topic).unwrap().own_configs()
        );
        self.bench.delete_topic(target).unwrap();
    }

    /// Waits until all replicas of all topics are in sync.
    pub fn in_sync(&self) {
        in_sync(self);
    }

    /// The node whose controller is the active one.
    pub fn controller(&self) -> usize {
        let epoch = |node: usize| {
            let log = fs::read_to_string(self.cluster.nodes()[node].log()).unwrap();
            let became = log.lines().rev().find_map(|line| {
                let (_, behind) = line.split_once("Becoming the active controller at epoch ")?;
                let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
                digits.parse::<u64>().ok()
            });
            became.unwrap_or(0)
        };
        (0..3).max_by_key(|node| epoch(*node)).unwrap()
    }
}

fn in_sync(site: &Site) {
    let deadline = Instant::now() + SYNC_LIMIT;
    let is_whole = |topic: &str| {
        let described = site.bench.describe(topic);
        // One that has just been deleted is in nobody's way.
        described.is_ok_and(|topic| topic.partitions.iter().all(|p| p.isr.len() == p.replicas.len()))
    };
    loop {
        let mut topics = site.bench.topics().unwrap_or_default();
        topics.extend(["__consumer_offsets".to_owned(), "__transaction_state".to_owned()]);
        let there = topics.len() > 2 && site.bench.brokers().is_ok_and(|brokers| brokers.len() == 3);
        if there
            && topics.iter().all(|topic| topic.starts_with("__") && !exists(site, topic) || is_whole(topic))
        {
            return;
        }
        assert!(Instant::now() < deadline, "replicas do not get in sync");
        thread::sleep(seconds(0.2));
    }
}

fn exists(site: &Site, topic: &str) -> bool {
    site.bench.describe(topic).is_ok()
}

/// Kills a node after the other for as long as `work` takes: as soon as all replicas are in sync again, the next one. Returns also how many died.
pub fn while_nodes_die<T>(stage: &Stage, seed: u64, work: impl FnOnce() -> T) -> (T, usize) {
    let over = AtomicBool::new(false);
    let site: &Site = stage;
    thread::scope(|scope| {
        let roller = scope.spawn(|| {
            let mut rng = Rng::new("nodes that die", seed);
            let (mut deaths, mut next) = (0, rng.below(3) as usize);
            while !over.load(Ordering::Relaxed) {
                let node = site.cluster.node(next).unwrap();
                node.kill().unwrap();
                deaths += 1;
                let pause = seconds(2.0) + rng.millis(4000);
                let until = Instant::now() + pause;
                while Instant::now() < until && !over.load(Ordering::Relaxed) {
                    thread::sleep(seconds(0.05));
                }
                node.start().unwrap();
                in_sync(site);
                next = (next + 1 + rng.below(2) as usize) % 3;
            }
            deaths
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        let deaths = roller.join().unwrap();
        match done {
            Ok(done) => (done, deaths),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What a run said of whom it waited for, for a look at it.
pub fn waits(ran: &Ran) -> Vec<&str> {
    let telling = |line: &&str| line.contains("waiting for") || line.contains(" after ");
    ran.err.lines().filter(telling).collect()
}

//! A cluster, an independent client of it, and bodley at work on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_testbed::workbench::{ProduceOptions, Record};
use bodley_testbed::{Cluster, Dump, Isolation, Workbench};

use super::vault::Vault;
use super::{PATIENCE, Ran, Running, start};

/// Where a test works.
#[derive(Clone)]
pub struct Site {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// Apache's client.
    pub bench: Arc<Workbench>,
}

impl Site {
    /// At a cluster.
    pub fn at(cluster: &'static Cluster) -> Self {
        Self { cluster, bench: cluster.workbench().unwrap() }
    }

    /// `bodley VERB -b … --vault … --output json`, started.
    pub fn start(&self, verb: &str, vault: &Vault, args: &[&str]) -> Running {
        let bootstrap = self.cluster.bootstrap();
        let fixed = [verb, "-b", &bootstrap, "--vault", vault.url(), "--output", "json"];
        start(&[&fixed, args].concat())
    }

    /// A backup.
    pub fn backup(&self, vault: &Vault, args: &[&str]) -> Ran {
        self.start("backup", vault, args).wait()
    }

    /// A restore.
    pub fn restore(&self, vault: &Vault, args: &[&str]) -> Ran {
        self.start("restore", vault, args).wait()
    }

    /// Restores one topic under another name.
    pub fn restore_as(&self, vault: &Vault, topic: &str, target: &str) -> Ran {
        self.restore(vault, &["--topic", topic, "--rename", &format!("{topic}={target}")])
    }

    /// Makes a topic without settings of its own.
    pub fn topic(&self, name: &str, partitions: i32) {
        self.bench.create_topic(name, partitions, &[]).unwrap();
    }

    /// Writes `count` records to a partition, in batches of five. Values tell `what` and the number.
    pub fn write(&self, topic: &str, partition: i32, what: &str, count: usize) {
        let record = |n| Record::new(partition).key(format!("key-{n}")).value(format!("{what} {n}"));
        let records: Vec<Record> = (0..count).map(record).collect();
        self.bench.produce(topic, &records, &ProduceOptions::default().flush_every(5)).unwrap();
    }

    /// Waits until a transaction's end, which the producer has been told of, is seen: the last stable offset of partition 0 is this.
    pub fn wait_for_stable_end(&self, topic: &str, offset: i64) {
        let deadline = Instant::now() + PATIENCE;
        while self.bench.describe(topic).unwrap().partitions[0].stable_end != offset {
            assert!(Instant::now() < deadline, "the last stable offset of {topic} does not become {offset}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until no transaction of the topic is open: markers are written after producers are told that they ended.
    pub fn wait_until_decided(&self, topic: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.bench.describe(topic).unwrap().partitions.iter().all(|p| p.stable_end == p.end) {
            assert!(Instant::now() < deadline, "transactions of {topic} remain open");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets a run go on until the target has so many records of it. It stands still while that is looked at: a slow
    /// look must not miss the moment.
    #[track_caller]
    pub fn until(&self, run: &mut Running, target: &str, records: i64) {
        let mut enough = false;
        while !enough {
            assert!(run.leave_alone(Duration::from_millis(50)).is_running(), "too fast for this test");
            run.signal("STOP");
            enough = self.has(target) && self.ends(target).iter().sum::<i64>() >= records;
            run.signal("CONT");
        }
    }

    /// The states of all restores are gone, as after a week.
    pub fn forget_restores(&self) {
        for group in self.bench.groups().unwrap().iter().filter(|name| name.starts_with("bodley-restore-")) {
            self.bench.delete_group(group).unwrap();
        }
    }

    /// Where the partitions of a topic end.
    pub fn ends(&self, topic: &str) -> Vec<i64> {
        self.bench.describe(topic).unwrap().partitions.iter().map(|p| p.end).collect()
    }

    /// A vault with these topics.
    pub fn vault_of(&self, topics: &[&str]) -> Vault {
        let vault = Vault::new();
        let flags: Vec<&str> = topics.iter().flat_map(|topic| ["--topic", topic]).collect();
        self.backup(&vault, &flags).exits(0);
        vault
    }

    /// What a consumer sees.
    pub fn dump(&self, topic: &str) -> Dump {
        self.bench.dump(topic, Isolation::Committed).unwrap()
    }

    /// Whether the topic exists.
    pub fn has(&self, topic: &str) -> bool {
        self.bench.topics().unwrap().iter().any(|name| name == topic)
    }
}

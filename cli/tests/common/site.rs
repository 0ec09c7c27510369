//! A cluster, an independent client of it, and bodley at work on it.

use std::sync::Arc;

use bodley_testbed::workbench::{ProduceOptions, Record};
use bodley_testbed::{Cluster, Dump, Isolation, Workbench};

use super::vault::Vault;
use super::{Ran, Running, start};

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

    /// What a consumer sees.
    pub fn dump(&self, topic: &str) -> Dump {
        self.bench.dump(topic, Isolation::Committed).unwrap()
    }

    /// Whether the topic exists.
    pub fn has(&self, topic: &str) -> bool {
        self.bench.topics().unwrap().iter().any(|name| name == topic)
    }
}

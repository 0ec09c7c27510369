//! Clusters of all versions start, lose a node, and go on, by the judgement of Apache's own client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::fs;

use bodley_testbed::jars::TESTED_VERSIONS;
use bodley_testbed::workbench::{ProduceOptions, Record};
use bodley_testbed::{Cluster, ClusterOptions, Isolation};

fn write(cluster: &Cluster, what: &str) {
    let record = |n| Record::new(n % 2).value(format!("{what} {n}"));
    let records: Vec<Record> = (0..20).map(record).collect();
    cluster.workbench().unwrap().produce("seen", &records, &ProduceOptions::default()).unwrap();
}

fn records(cluster: &Cluster) -> u64 {
    cluster.workbench().unwrap().dump("seen", Isolation::Committed).unwrap().len()
}

/// One after the other: each takes memory.
#[test]
fn every_version_lives_through_a_kill() {
    for version in TESTED_VERSIONS {
        let cluster = Cluster::start(ClusterOptions::new().version(version)).unwrap();
        cluster.workbench().unwrap().create_topic("seen", 2, &[]).unwrap();
        write(&cluster, "before");
        let node = cluster.node(0).unwrap();
        node.kill().unwrap();
        node.start().unwrap();
        cluster.wait_until_up().unwrap();
        write(&cluster, "after");
        assert_eq!(records(&cluster), 40, "{version}");

        let meta = fs::read_to_string(node.data_dir().join("meta.properties")).unwrap();
        assert!(meta.contains(&format!("cluster.id={}", cluster.id())), "{version}: {meta}");
        let log = fs::read_to_string(node.log()).unwrap();
        assert!(!log.contains("multiple SLF4J bindings"), "{version}: {log}");
        assert!(log.contains("INFO"), "{version} logs nothing: {log}");
    }
}

#[test]
fn three_brokers_with_zookeeper_go_on_without_one() {
    let cluster = Cluster::start(ClusterOptions::new().version("2.4.1").nodes(3).proxied()).unwrap();
    let bench = cluster.workbench().unwrap();
    bench.create_topic("seen", 6, &[]).unwrap();
    assert!(bench.describe("seen").unwrap().partitions.iter().all(|p| p.replicas.len() == 3));
    write(&cluster, "before");
    let node = cluster.node(1).unwrap();
    node.kill().unwrap();
    write(&cluster, "meanwhile");
    node.start().unwrap();
    cluster.wait_until_up().unwrap();
    write(&cluster, "after");
    assert_eq!(records(&cluster), 60);
    assert_eq!(bench.brokers().unwrap().len(), 3);
}

//! A cluster of three behind proxies: nodes die, freeze and come back, connections are cut.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::net::TcpStream;
use std::time::{Duration, Instant};

use bodley_testbed::workbench::{Generate, ProduceOptions, Record};
use bodley_testbed::{Cluster, ClusterOptions, CompareOptions, Isolation, Workbench, compare};

#[test]
fn survives_what_tests_do_to_it() {
    let cluster = Cluster::start(ClusterOptions::new().nodes(3).proxied()).unwrap();
    let bench = cluster.workbench().unwrap();
    bench.create_topic("t", 2, &[("min.insync.replicas", "2")]).unwrap();
    assert_eq!(bench.describe("t").unwrap().partitions[0].replicas.len(), 3);
    bench
        .generate("t", &Generate { partitions: 2, ..Generate::default() }, &ProduceOptions::default())
        .unwrap();
    let before = bench.dump("t", Isolation::Committed).unwrap();

    bench.move_leader("t", 0, 1).unwrap();
    cluster.node(1).unwrap().kill().unwrap();
    assert!(cluster.node(1).unwrap().kill().is_err());
    bench.produce("t", &[Record::new(0).value("while node 1 is dead")], &ProduceOptions::default()).unwrap();
    cluster.node(1).unwrap().start().unwrap();
    cluster.wait_until_up().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while bench.brokers().unwrap().len() < 3 {
        assert!(Instant::now() < deadline, "a broker is missing");
        std::thread::sleep(Duration::from_millis(100));
    }
    let after = bench.dump("t", Isolation::Committed).unwrap();
    assert_eq!(after.len(), before.len() + 1);
    compare(&before.then(&after).unwrap(), &after, CompareOptions::default()).unwrap();

    cluster.node(2).unwrap().pause().unwrap();
    cluster.node(2).unwrap().resume().unwrap();
    cluster.node(2).unwrap().restart().unwrap();
    cluster.wait_until_up().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !bench.describe("t").unwrap().partitions.iter().all(|p| p.isr.len() == 3) {
        assert!(Instant::now() < deadline, "replicas do not get in sync");
        std::thread::sleep(Duration::from_millis(100));
    }

    through_proxies(&cluster, &after);
}

/// A client that was given the proxies' addresses stays on them, and what cuts leave behind is complete.
fn through_proxies(cluster: &Cluster, expected: &bodley_testbed::Dump) {
    let client = Workbench::start(&cluster.bootstrap()).unwrap();
    let seen: Vec<u16> = client.brokers().unwrap().iter().map(|b| b.port).collect();
    let proxies: Vec<u16> = (0..3).map(|n| cluster.proxy(n).unwrap().address().port()).collect();
    assert_eq!(seen, proxies);
    for (n, seed) in (0..3).zip([11, 12, 13]) {
        cluster.proxy(n).unwrap().cut_at_random(seed, 150_000);
    }
    let dump = client.dump("t", Isolation::Committed).unwrap();
    compare(expected, &dump, CompareOptions { offsets: true, timestamp_type: true }).unwrap();
    assert!((0..3).map(|n| cluster.proxy(n).unwrap().cuts()).sum::<u64>() > 0);

    let proxy = cluster.proxy(0).unwrap();
    proxy.calm();
    proxy.refuse(true);
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(proxy.address()).is_ok() {
        assert!(Instant::now() < deadline, "it takes connections");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_failed_start_names_the_log() {
    let error = Cluster::start(ClusterOptions::new().set("num.io.threads", "0")).unwrap_err().to_string();
    assert!(error.contains("server.log") && error.contains("num.io.threads"), "{error}");
}

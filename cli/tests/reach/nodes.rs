//! Clusters of several nodes: the nearest replica is read, and nodes go and come back.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use bodley_testbed::security::ALICE;
use bodley_testbed::workloads::{BulkOptions, bulk};
use bodley_testbed::{Cluster, ClusterOptions, Door, Login};

use crate::common::judge::same_digests;
use crate::common::site::Site;
use crate::common::vault::Vault;
use crate::common::{Ran, Running, list, seconds};

use super::client::Client;
use super::places::together;

const TOPIC: &str = "spread";
const BYTES: u64 = 64 << 20;
const RACKS: [&str; 3] = ["a", "b", "c"];
/// The node in rack b.
const NEAR: usize = 1;

/// Three nodes, each in a rack of its own and each with a copy of everything. One test at a time.
fn turn() -> (MutexGuard<'static, ()>, &'static Site) {
    static TURN: Mutex<()> = Mutex::new(());
    static SITE: OnceLock<Site> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let site = SITE.get_or_init(|| {
        let options = ClusterOptions::new().racks(&RACKS).proxied().proxied_door(Door::SaslSsl);
        let cluster = Box::leak(Box::new(Cluster::start(options).unwrap()));
        let site = Site::at(cluster);
        site.topic(TOPIC, 3);
        bulk(&site.bench, TOPIC, BYTES, BulkOptions { partitions: 3, ..BulkOptions::default() }).unwrap();
        site
    });
    // A test that failed may have left a node dead.
    for node in site.cluster.nodes().iter().filter(|node| node.pid().is_none()) {
        node.start().unwrap();
    }
    site.cluster.wait_until_up().unwrap();
    (turn, site)
}

fn in_rack_b(site: &Site) -> Client {
    let client = Client::of(vec![("bootstrap.servers".to_owned(), site.cluster.bootstrap())]);
    client.set("client.rack", RACKS[NEAR])
}

/// Bytes that each node's proxy has delivered.
fn delivered(site: &Site) -> [u64; 3] {
    [0, 1, 2].map(|node| site.cluster.proxy(node).unwrap().delivered())
}

/// Restores the topic under another name; it is as it was.
#[track_caller]
fn comes_back(site: &Site, client: &Client, vault: &Vault, target: &str) {
    let renamed = format!("{TOPIC}={target}");
    client.run("restore", vault, &["--topic", TOPIC, "--rename", &renamed]).exits(0);
    same_digests(&site.bench, TOPIC, target);
}

fn rack_notes(ran: &Ran) -> usize {
    let report = ran.json();
    list(&report, "notes").iter().filter(|note| note.as_str().unwrap().contains("rack b")).count()
}

#[test]
fn the_replica_in_the_same_rack_is_read() {
    let (_others, (_turn, site)) = (together(), turn());
    let (client, vault, before) = (in_rack_b(site), Vault::new(), delivered(site));
    let ran = client.run("backup", &vault, &["--topic", TOPIC]).exits(0);
    let after = delivered(site);
    let bytes = [0, 1, 2].map(|node| after[node] - before[node]);
    eprintln!("rack b: bytes from the nodes in racks {RACKS:?}: {bytes:?}, in {:.1?}", ran.took);
    assert_eq!(rack_notes(&ran), 0, "{ran}");
    assert!(bytes[NEAR] > BYTES && bytes.iter().sum::<u64>() - bytes[NEAR] < BYTES / 50, "{bytes:?}");
    comes_back(site, &client, &vault, "spread-near");
}

#[test]
fn leaders_are_read_when_the_rack_is_dead() {
    let (_others, (_turn, site)) = (together(), turn());
    let (client, vault, before) = (in_rack_b(site), Vault::new(), delivered(site));
    let mut run = client.start("backup", &vault, &["--topic", TOPIC, "--limit-read", "8M"]);
    while delivered(site)[NEAR] - before[NEAR] < BYTES / 4 {
        assert!(run.leave_alone(seconds(0.02)).is_running(), "too fast for this test");
    }
    site.cluster.node(NEAR).unwrap().kill().unwrap();
    let ran = client.end(run).exits(0);
    let after = delivered(site);
    let bytes = [0, 1, 2].map(|node| after[node] - before[node]);
    eprintln!("rack b dies: bytes from the nodes in racks {RACKS:?}: {bytes:?}, in {:.1?}", ran.took);
    assert_eq!(rack_notes(&ran), 1, "{ran}");
    site.cluster.node(NEAR).unwrap().start().unwrap();
    site.cluster.wait_until_up().unwrap();
    comes_back(site, &client, &vault, "spread-far");
}

#[test]
fn nodes_are_restarted_on_the_way() {
    let (_others, (_turn, site)) = (together(), turn());
    let login = Login::password("SCRAM-SHA-512", ALICE);
    let client = Client::new(site.cluster, Door::SaslSsl, &login);
    let vault = Vault::new();
    let restarted = |mut run: Running, node: usize| {
        run.leave_alone(seconds(1.5));
        thread::scope(|scope| {
            let restart = scope.spawn(move || site.cluster.node(node).unwrap().restart().unwrap());
            let ran = client.end(run).exits(0);
            restart.join().unwrap();
            eprintln!("node {node} restarted: {:.1?}", ran.took);
            assert!(ran.took > seconds(6.0), "too fast for this test");
        });
        site.cluster.wait_until_up().unwrap();
    };
    restarted(client.start("backup", &vault, &["--topic", TOPIC, "--limit-read", "6M"]), 2);
    vault.verified();
    let renamed = format!("{TOPIC}=spread-again");
    let args = ["--topic", TOPIC, "--rename", &renamed, "--limit-write", "6M"];
    restarted(client.start("restore", &vault, &args), 0);
    same_digests(&site.bench, TOPIC, "spread-again");
}

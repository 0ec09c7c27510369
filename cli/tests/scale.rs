//! Ten thousand partitions on one broker, and over three: what a run costs beyond the data itself stays small.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bodley_testbed::workloads::Many;
use bodley_testbed::{Cluster, ClusterOptions, Proxy};

use common::site::Site;
use common::vault::Vault;
use common::{Ran, list, seconds, soak};

const PARTITIONS: u32 = 10_000;
/// Topics that are restored (the second number: in soak), into the same broker, which then has their partitions twice. Each partition is an
/// open file there, of which some systems allow 20,000.
const RESTORED: [usize; 2] = [1, 8];
const VALUE: u32 = 1024;
/// Of any process.
const MEMORY: u64 = 256 << 20;
/// Objects that a run adds beside a checkpoint.
const OBJECTS: usize = 6;
/// Requests of a run that finds nothing new, beside one for the broker and one for each thousand partitions.
const REQUESTS: u32 = 5;
/// So many, 10 ms apart, see a connection that counts.
const LOOKS: usize = 25;

/// Connections of a backup to one of three brokers at a time: four that fetch; one for all else, and three more where there are many questions; one to
/// whichever broker answers; and one that a broker has not noticed to be closed.
const BACKUP_CONNECTIONS: usize = 10;
/// Those of a restore: five that produce, and the others.
const RESTORE_CONNECTIONS: usize = 11;

/// How the requests of a run are spread over Kafka's APIs, by number.
fn by_api(apis: &[i16]) -> BTreeMap<i16, usize> {
    let mut counts = BTreeMap::new();
    apis.iter().for_each(|api| *counts.entry(*api).or_default() += 1);
    counts
}

/// A run that ends well and in its memory, and the requests that it made.
#[track_caller]
fn costs(name: &str, proxy: &Proxy, run: impl FnOnce() -> Ran) -> (Ran, usize) {
    let steps = proxy.count_requests();
    let ran = run().exits(0);
    let apis = steps.apis();
    eprintln!(
        "{name}: {:.1?}, {} MiB, {} requests {:?}",
        ran.took,
        ran.peak >> 20,
        apis.len(),
        by_api(&apis)
    );
    assert!(ran.peak <= MEMORY, "{name}: {} MiB of memory: {ran}", ran.peak >> 20);
    (ran, apis.len())
}

#[track_caller]
fn has_records(ran: &Ran, records: u32) {
    let report = ran.json();
    assert_eq!(report["records"], records, "{:#}", report["records"]);
    assert!(list(&report, "errors").is_empty() && list(&report, "gaps").is_empty());
}

#[test]
fn ten_thousand_partitions() {
    let many = Many::new("many-", PARTITIONS).unwrap();
    let cluster = Cluster::start(Many::fit(ClusterOptions::new().proxied())).unwrap();
    // A site is for clusters that live as long as the test binary.
    let site = Site::at(Box::leak(Box::new(cluster)));
    let proxy = site.cluster.proxy(0).unwrap();
    many.create(&site.bench).unwrap();
    many.write(&site.bench, VALUE, 1).unwrap();
    let vault = Vault::new();

    let (first, _) = costs("first", proxy, || site.backup(&vault, &[]));
    has_records(&first, PARTITIONS);
    let of_first = objects(&vault);
    // The vault's own two come on top: vault.json and its first commit.
    assert!(of_first <= OBJECTS + 2, "{of_first} objects of the first run: {:?}", vault.objects());

    let (idle, requests) = costs("nothing new", proxy, || site.backup(&vault, &[]));
    has_records(&idle, 0);
    // What a slow broker does not answer in time is asked for again.
    let allowed = REQUESTS + 2 + 1 + PARTITIONS / 1000;
    assert!(requests <= allowed as usize, "{requests} requests for nothing new, {allowed} are enough");

    many.write(&site.bench, VALUE, 2).unwrap();
    let before = objects(&vault);
    let (more, _) = costs("1 KiB in each", proxy, || site.backup(&vault, &[]));
    has_records(&more, PARTITIONS);
    let of_more = objects(&vault) - before;
    assert!(of_more <= OBJECTS, "{of_more} objects for 1 KiB in each partition: {:?}", vault.objects());

    let (verified, _) = costs("verify", proxy, || vault.bodley("verify", &[]));
    has_records(&verified, 2 * PARTITIONS);

    restores(&site, &many, |flags| costs("restore", proxy, || site.restore(&vault, flags)).0);
}

/// Some of the topics come back under other names.
#[track_caller]
fn restores(site: &Site, many: &Many, restore: impl Fn(&[&str]) -> Ran) {
    let [some, more] = RESTORED;
    let topics = many.topics().into_iter().take(if soak() { more } else { some });
    let topics: Vec<String> = topics.map(|(topic, _)| topic).collect();
    let renames: Vec<String> = topics.iter().map(|topic| format!("{topic}=r-{topic}")).collect();
    let renamed = topics.iter().zip(&renames);
    let flags: Vec<&str> = renamed.flat_map(|(topic, to)| ["--topic", topic, "--rename", to]).collect();
    let restored = restore(&flags);
    let ends: Vec<Vec<i64>> = topics.iter().map(|topic| site.ends(topic)).collect();
    has_records(&restored, ends.iter().flatten().sum::<i64>() as u32);
    for (topic, ends) in topics.iter().zip(ends) {
        assert_eq!(site.ends(&format!("r-{topic}")), ends, "{topic}");
    }
}

/// A run that ends well and in its memory, with so many connections to one broker at most.
#[track_caller]
fn few_connections(name: &str, site: &Site, most: usize, run: impl FnOnce() -> Ran) -> Ran {
    let over = AtomicBool::new(false);
    let ran = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            // A broker on a busy machine may notice late that a connection was closed: what lasts for some looks counts.
            let (mut peaks, mut looks) = ([0; 3], [const { VecDeque::new() }; 3]);
            while !over.load(Ordering::Relaxed) {
                for (node, (peak, looks)) in peaks.iter_mut().zip(&mut looks).enumerate() {
                    looks.push_back(site.cluster.proxy(node).unwrap().connections());
                    if looks.len() > LOOKS {
                        looks.pop_front();
                        *peak = looks.iter().min().copied().unwrap_or(0).max(*peak);
                    }
                }
                thread::sleep(seconds(0.01));
            }
            peaks
        });
        let before: Vec<u64> = (0..3).map(|n| site.cluster.proxy(n).unwrap().opened()).collect();
        let ran = run();
        over.store(true, Ordering::Relaxed);
        let peaks = watch.join().unwrap();
        let opened = (0..3).map(|n| site.cluster.proxy(n).unwrap().opened() - before[n]);
        let opened: Vec<u64> = opened.collect();
        eprintln!(
            "{name}: {:.1?}, {} MiB, connections at a time {peaks:?}, opened {opened:?}",
            ran.took,
            ran.peak >> 20
        );
        assert!(peaks.iter().all(|peak| *peak <= most), "{name}: {peaks:?} connections, {most} are enough");
        assert!(opened.iter().all(|n| *n <= 3 * most as u64), "{name}: {opened:?} connections were opened");
        ran
    });
    assert!(ran.peak <= MEMORY, "{name}: {} MiB of memory: {ran}", ran.peak >> 20);
    ran.exits(0)
}

#[test]
fn ten_thousand_partitions_over_three_brokers() {
    let many = Many::new("wide-", PARTITIONS).unwrap();
    // One replica each: it is the partitions that count.
    let options = ClusterOptions::new().nodes(3).proxied().set("default.replication.factor", "1");
    let site = Site::at(Box::leak(Box::new(Cluster::start(Many::fit(options)).unwrap())));
    many.create(&site.bench).unwrap();
    many.write(&site.bench, VALUE, 1).unwrap();
    let vault = Vault::new();
    let first = few_connections("first of three", &site, BACKUP_CONNECTIONS, || site.backup(&vault, &[]));
    has_records(&first, PARTITIONS);
    let idle =
        few_connections("nothing new of three", &site, BACKUP_CONNECTIONS, || site.backup(&vault, &[]));
    has_records(&idle, 0);
    many.write(&site.bench, VALUE, 2).unwrap();
    let more =
        few_connections("1 KiB in each of three", &site, BACKUP_CONNECTIONS, || site.backup(&vault, &[]));
    has_records(&more, PARTITIONS);
    vault.verified();
    restores(&site, &many, |flags| {
        few_connections("restore to three", &site, RESTORE_CONNECTIONS, || site.restore(&vault, flags))
    });
}

/// How many there are, checkpoints left out.
fn objects(vault: &Vault) -> usize {
    vault.objects().keys().filter(|path| !path.starts_with("checkpoint/")).count()
}

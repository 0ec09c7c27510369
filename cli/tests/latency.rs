//! How long requests take is in the document, with -v also on stderr, and distance shows in it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::time::Duration;

use bodley_testbed::{Cluster, ClusterOptions};
use serde_json::Value;

use common::site::Site;
use common::vault::Vault;
use common::{Ran, bodley};

const TOPIC: &str = "timed";
/// Longer than anything takes without it.
const ROUND_TRIP: Duration = Duration::from_millis(300);
/// The line is not what it is about.
const LINE: u64 = 1_000_000_000;

/// Insists on exactly these kinds in the document and in the table; returns the object.
#[track_caller]
fn measured(ran: &Ran, kinds: &[&str]) -> Value {
    let latency = ran.json()["latency"].clone();
    let mut found: Vec<&str> = latency.as_object().unwrap().keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, kinds, "{latency:#}");
    for kind in kinds {
        let of = |field: &str| latency[*kind][field].as_f64().unwrap();
        assert!(of("count") > 0.0, "{latency:#}");
        let rising = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(of);
        assert!(rising.is_sorted() && rising[4] > 0.0, "{kind}: {rising:?}");
        assert!((1.0..=rising[4]).contains(&of("mean_us")), "{latency:#}");
        let line = ran.err.lines().find(|line| line.starts_with(&format!("{kind} ")));
        let line = line.unwrap_or_else(|| panic!("no line of {kind}: {ran}"));
        let count = line.split_whitespace().nth(1).unwrap();
        assert_eq!(count, latency[*kind]["count"].to_string(), "{line}");
    }
    latency
}

fn p50(latency: &Value, kind: &str) -> Duration {
    Duration::from_micros(latency[kind]["p50_us"].as_u64().unwrap())
}

/// Backs up and restores; the median of Fetch and that of Produce.
fn there_and_back(site: &Site, target: &str) -> (Vault, [Duration; 2]) {
    let vault = Vault::new();
    let backup = site.backup(&vault, &["--topic", TOPIC, "-v"]).exits(0);
    let fetch = p50(&measured(&backup, &["fetch", "store"]), "fetch");
    let rename = format!("{TOPIC}={target}");
    let restore = site.restore(&vault, &["--topic", TOPIC, "--rename", &rename, "-v"]).exits(0);
    let produce = p50(&measured(&restore, &["produce", "read"]), "produce");
    (vault, [fetch, produce])
}

#[test]
fn every_run_says_how_long_its_requests_took() {
    let cluster = Cluster::start(ClusterOptions::new().proxied()).unwrap();
    // A site is for clusters that live as long as the test binary.
    let site = Site::at(Box::leak(Box::new(cluster)));
    site.topic(TOPIC, 4);
    (0..4).for_each(|partition| site.write(TOPIC, partition, "timed", 100));

    let (vault, near) = there_and_back(&site, "near");
    measured(&vault.bodley("verify", &["-v"]).exits(0), &["read"]);
    let quiet = bodley(&["verify", "--vault", vault.url()]).exits(0);
    assert!(!quiet.err.contains("p99"), "{quiet}");
    let nothing = bodley(&["verify", "--vault", vault.url(), "--quick", "-v"]).exits(0);
    assert!(!nothing.err.contains("p99"), "{nothing}");

    let proxy = site.cluster.proxy(0).unwrap();
    proxy.wan(ROUND_TRIP, LINE);
    let (_, far) = there_and_back(&site, "far");
    proxy.calm();
    eprintln!("Fetch and Produce: {near:.1?}, {far:.1?} with {ROUND_TRIP:?} more");
    for (near, far) in near.into_iter().zip(far) {
        assert!(near < far && far >= ROUND_TRIP, "{near:?}, {far:?}");
    }
}

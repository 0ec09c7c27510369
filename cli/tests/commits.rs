//! Runs with more than one commit, writers side by side, and signals while the disk is behind.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::time::Duration;

use bodley_testbed::shared_cluster;
use bodley_testbed::workloads::{BulkOptions, bulk};

use common::judge::{Python, same, same_digests};
use common::list;
use common::site::Site;
use common::vault::Vault;

const MIB: u64 = 1 << 20;

fn filled(topic: &str, mebibytes: u64) -> Site {
    let site = Site::at(shared_cluster().unwrap());
    site.topic(topic, 4);
    bulk(&site.bench, topic, mebibytes * MIB, BulkOptions { partitions: 4, ..BulkOptions::default() })
        .unwrap();
    site
}

#[test]
fn first_and_later_runs_with_several_commits() {
    let site = filled("several", 60);
    let vault = Vault::new();
    let slowly = ["--topic", "several", "--commit-interval", "1s", "--limit-read", "10M"];
    site.backup(&vault, &slowly).exits(0);
    let first = vault.commits();
    assert!(first >= 3, "{first} commits");
    bulk(&site.bench, "several", 60 * MIB, BulkOptions { partitions: 4, seed: 2, ..BulkOptions::default() })
        .unwrap();
    site.backup(&vault, &slowly).exits(0);
    assert!(vault.commits() >= first + 2, "{} commits", vault.commits());
    vault.verified();
    site.restore_as(&vault, "several", "several-back").exits(0);
    same_digests(&site.bench, "several", "several-back");
}

/// The slow store keeps buffers waiting: what a signal cuts must not be half of one.
#[test]
fn a_signal_while_the_store_is_behind() {
    let site = filled("behind", 120);
    for wait in [900, 1700, 2500] {
        let vault = Vault::new();
        let mut run = site.start("backup", &vault, &["--topic", "behind", "--limit-write", "20M", "-v"]);
        run.reads().leave_alone(Duration::from_millis(wait)).signal("TERM");
        run.wait().exits(143);
        vault.verified();
        site.backup(&vault, &["--topic", "behind"]).exits(0);
        vault.verified();
    }
}

/// Both read the same partitions, with several commits each: one is told to stop, and the vault stays whole.
#[test]
fn two_writers_with_several_commits_each() {
    let site = filled("raced", 60);
    let vault = Vault::new();
    let args = ["--topic", "raced", "--commit-interval", "1s", "--limit-read", "6M", "-v"];
    let mut one = site.start("backup", &vault, &args);
    one.reads();
    let two = site.start("backup", &vault, &args);
    let codes = [one.wait().code, two.wait().code];
    assert!(codes.contains(&Some(0)) && codes.contains(&Some(1)), "{codes:?}");
    let report = vault.verified();
    assert!(list(&report, "errors").is_empty(), "{report:#}");
    site.backup(&vault, &["--topic", "raced"]).exits(0);
    site.restore_as(&vault, "raced", "raced-back").exits(0);
    same_digests(&site.bench, "raced", "raced-back");
}

/// A vault of many commits: the next run leaves a checkpoint, and everything works from it, without the log before it.
#[test]
fn a_run_that_leaves_a_checkpoint() {
    let site = Site::at(shared_cluster().unwrap());
    site.topic("aged", 2);
    site.write("aged", 0, "early", 30);
    let vault = Vault::new();
    site.backup(&vault, &["--topic", "aged"]).exits(0);
    age(&vault, 999);
    assert_eq!(vault.objects_in("checkpoint").len(), 0);
    site.write("aged", 1, "late", 20);
    let report = site.backup(&vault, &["--topic", "aged"]).exits(0).json();
    assert_eq!(report["notes"], serde_json::json!([]));
    assert_eq!(vault.objects_in("checkpoint").len(), 1);
    site.write("aged", 0, "later", 10);
    site.backup(&vault, &["--topic", "aged"]).exits(0);
    assert_eq!(vault.objects_in("checkpoint").len(), 1);

    let seen = site.dump("aged");
    assert_eq!(seen.len(), 60);
    for args in [&[][..], &["--checkpoint"]] {
        Python::read(&vault, args).saw("aged", &seen);
    }
    vault.verified();
    let (listed, last) = (vault.listed(), vault.snapshot());
    last.lose("log/0000000000000000/0002.json");
    assert_eq!(last.listed()["topics"], listed["topics"]);
    site.restore_as(&last, "aged", "aged-back").exits(0);
    same(&seen, &site.dump("aged-back"));
    last.bodley("verify", &[]).exits(3);
}

/// Adds commits that say nothing new.
fn age(vault: &Vault, commits: u64) {
    use bodley_engine::vault::log::{Addition, Vault as Log};
    use bodley_io::store::disk::{DirectIo, DiskStore};
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = std::sync::Arc::new(DiskStore::new(vault.root(), DirectIo::Auto));
        let mut log = Log::open_for_writing(store).await.unwrap();
        for _ in 0..commits {
            log.append(Addition::default()).await.unwrap();
        }
    });
}

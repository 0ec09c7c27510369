//! Copies of a vault on disk: verified, gone on with, killed, restored from, and refused where they would do harm.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::fs;

use bodley_testbed::shared_cluster;
use bodley_testbed::workloads::{BulkOptions, bulk};
use common::judge::{Python, same, same_digests};
use common::site::Site;
use common::vault::Vault;
use common::{Ran, Rng, Running, bodley, list, seconds, soak, start};
use serde_json::json;

fn site() -> Site {
    Site::at(shared_cluster().unwrap())
}

fn copying(from: &Vault, to: &Vault, args: &[&str]) -> Running {
    let fixed = ["copy", "--vault", from.url(), "--to-vault", to.url(), "--output", "json"];
    start(&[&fixed, args].concat())
}

fn copy(from: &Vault, to: &Vault) -> Ran {
    copying(from, to, &[]).wait()
}

/// The same objects, byte by byte; the source may have orphans besides.
#[track_caller]
fn equal(from: &Vault, to: &Vault) {
    for object in to.objects().keys() {
        let (ours, theirs) = (from.root().join(object), to.root().join(object));
        assert!(fs::read(ours).unwrap() == fs::read(theirs).unwrap(), "{object}");
    }
    for folder in ["log/", "index/", "data/"] {
        assert_eq!(from.objects_in(folder), to.objects_in(folder));
    }
    assert_eq!(from.verified()["receipt"], to.verified()["receipt"]);
}

#[test]
fn a_copy_is_a_vault_like_the_other_and_later_only_what_is_new_is_copied() {
    let site = site();
    let (vault, replica) = (Vault::below(site.cluster.dir()), Vault::below(site.cluster.dir()));
    site.topic("cpy", 3);
    let flags = ["--topic", "cpy"];
    for round in ["one", "two"] {
        (0..3).for_each(|partition| site.write("cpy", partition, round, 40));
        site.backup(&vault, &flags).exits(0);
    }
    let report = copy(&vault, &replica).exits(0).json();
    let objects = vault.objects_in("data/").len() + vault.objects_in("index/").len() + 1;
    let copied = &report["copied"];
    assert_eq!((&copied["commits"], &copied["objects"]), (&json!(3), &json!(objects)), "{report:#}");
    assert_eq!((&copied["skipped_commits"], &copied["skipped_objects"]), (&json!(0), &json!(0)));
    assert_eq!(
        (&report["receipt"], &copied["source_receipt"]),
        (&vault.listed()["receipt"], &report["receipt"])
    );
    equal(&vault, &replica);

    site.write("cpy", 1, "three", 7);
    site.backup(&vault, &flags).exits(0);
    let report = copy(&vault, &replica).exits(0).json();
    assert_eq!(
        (&report["copied"]["commits"], &report["copied"]["objects"]),
        (&json!(1), &json!(2)),
        "{report:#}"
    );
    equal(&vault, &replica);
    let report = copy(&vault, &replica).exits(0).json();
    assert_eq!(
        (&report["copied"]["commits"], &report["objects"], &report["bytes"]),
        (&json!(0), &json!(0), &json!(0))
    );
    assert_eq!(report["receipt"], vault.listed()["receipt"]);

    site.restore_as(&replica, "cpy", "cpy-back").exits(0);
    same(&site.dump("cpy"), &site.dump("cpy-back"));
    Python::read(&replica, &[]).saw("cpy", &site.dump("cpy"));
    // People are told in one line.
    let text =
        bodley(&["copy", "--vault", vault.url(), "--to-vault", replica.url(), "--single-writer"]).exits(0);
    text.says("copied 0 commits, 0 objects, 0 B; 4 commits").says("the copy is at commit 4");
    let text =
        bodley(&["copy", "--vault", vault.url(), "--to-vault", replica.url(), "--single-writer"]).exits(0);
    text.says("--single-writer is not needed for");

    // A backup goes on in the copy; then it is ahead, and then they part.
    site.write("cpy", 0, "four", 3);
    site.backup(&replica, &flags).exits(0);
    copy(&vault, &replica).exits(2).says("it is ahead of the source: its log goes on to commit 5");
    site.backup(&vault, &flags).exits(0);
    copy(&vault, &replica).exits(2).says("from commit 5 on they differ");
    copy(&replica, &vault).exits(2).says("from commit 5 on they differ");
    assert_eq!((vault.commits(), replica.commits()), (5, 5));
}

/// A vault of 64 MiB in several commits.
fn large(site: &Site, topic: &str) -> Vault {
    let vault = Vault::below(site.cluster.dir());
    site.topic(topic, 4);
    for seed in 0..4 {
        let options = BulkOptions { partitions: 4, value_bytes: 4096, seed, ..BulkOptions::default() };
        bulk(&site.bench, topic, 16 << 20, options).unwrap();
        site.backup(&vault, &["--topic", topic]).exits(0);
    }
    vault
}

/// Killed at random times, looked at each time, and gone on with until it is done.
#[test]
fn a_copy_that_is_killed_goes_on_where_it_stood() {
    let site = site();
    let vault = large(&site, "cpy-kill");
    let mut random = Rng::new("kills of copies", 8);
    for _ in 0..if soak() { 10 } else { 1 } {
        let replica = Vault::below(site.cluster.dir());
        let (mut kills, mut commits) = (0, 0);
        loop {
            let mut run = copying(&vault, &replica, &["--limit-write", "40M"]);
            // Where starting takes long, it is given more time after some kills.
            run.leave_alone(random.millis(900) * (1 + kills / 8));
            if !run.is_running() {
                run.wait().exits(0);
                break;
            }
            run.kill();
            kills += 1;
            assert!(kills < 100, "it makes no progress");
            if replica.root().join("vault.json").exists() {
                replica.verified();
                let now = replica.objects_in("log/").iter().filter(|path| !path.contains(".tmp-")).count();
                assert!(now >= commits, "a commit went away");
                commits = now;
            }
        }
        assert!(kills > 0, "too fast for this test");
        for left in replica.objects().keys().filter(|path| path.contains(".tmp-")) {
            fs::remove_file(replica.root().join(left)).unwrap();
        }
        equal(&vault, &replica);
        site.restore_as(&replica, "cpy-kill", &format!("cpy-kill-{kills}-back")).exits(0);
        same_digests(&site.bench, "cpy-kill", &format!("cpy-kill-{kills}-back"));
    }
}

#[test]
fn a_signal_ends_a_copy_in_order_and_two_at_once_do_no_harm() {
    let site = site();
    let vault = large(&site, "cpy-term");
    let replica = Vault::below(site.cluster.dir());
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut run = copying(&vault, &replica, &["--limit-write", "8M"]);
        let committed = || !replica.objects_in("log/").is_empty();
        run.wait_until("a commit", committed).leave_alone(seconds(0.5)).signal(signal);
        let report = run.wait().exits(code).json();
        assert_eq!(report["interrupted"], true);
        assert!(!replica.objects().keys().any(|path| path.contains(".tmp-")), "unfinished files are removed");
        replica.verified();
    }
    let both = [copying(&vault, &replica, &[]), copying(&vault, &replica, &["--limit-read", "60M"])];
    for run in both {
        let ran = run.wait().exits(0);
        assert!(ran.peak < 256 << 20, "{} MiB", ran.peak >> 20);
    }
    equal(&vault, &replica);
}

#[test]
fn damage_of_the_source_is_named_and_not_copied() {
    let site = site();
    let vault = Vault::below(site.cluster.dir());
    // One partition: a segment for each backup.
    site.topic("cpy-dmg", 1);
    for round in ["one", "two", "three"] {
        site.write("cpy-dmg", 0, round, 20);
        site.backup(&vault, &["--topic", "cpy-dmg"]).exits(0);
    }
    let broken = vault.snapshot();
    let segments = vault.objects_in("data/");
    broken.flip(&segments[1], 1000);
    let replica = Vault::below(site.cluster.dir());
    let report = copy(&broken, &replica).exits(3).json();
    let errors = list(&report, "errors");
    assert_eq!(errors.len(), 1, "{report:#}");
    let error = &errors[0];
    assert_eq!(
        (&error["code"], &error["topic"], &error["partition"], &error["offset"], &error["object"]),
        (&json!("vault_damaged"), &json!("cpy-dmg"), &json!(0), &json!(20), &json!(segments[1]))
    );
    assert!(error["hint"].as_str().unwrap().contains("bodley rebuild"));
    assert_eq!(replica.commits(), 2);
    assert_eq!(replica.verified()["records"], 20);
    // The other copy has it.
    copy(&vault, &replica).exits(0);
    equal(&vault, &replica);

    // Damage of the copy: `verify` finds it, and a copy brings back what is taken away.
    replica.change(&segments[0], |bytes| bytes.truncate(100));
    copy(&vault, &replica).exits(3).says("target_damaged").says("delete the object at the target");
    replica.lose(&segments[0]);
    copy(&vault, &replica).exits(0);
    equal(&vault, &replica);
}

#[test]
fn places_that_are_no_targets_are_refused() {
    let site = site();
    let vault = Vault::below(site.cluster.dir());
    site.topic("cpy-no", 1);
    site.write("cpy-no", 0, "one", 5);
    site.backup(&vault, &["--topic", "cpy-no"]).exits(0);

    let other = site.vault_of(&["cpy-no"]);
    let before = other.objects();
    copy(&vault, &other).exits(2).says("holds another vault");
    assert_eq!(other.objects(), before);

    let foreign = Vault::below(site.cluster.dir());
    fs::create_dir_all(foreign.root().join("data")).unwrap();
    fs::write(foreign.root().join("data/holiday.jpg"), b"x").unwrap();
    copy(&vault, &foreign).exits(2).says("no vault.json");
    assert_eq!(foreign.objects().len(), 1);

    copy(&vault, &vault).exits(2).says("the same place");
    let link = vault.root().with_file_name("link");
    std::os::unix::fs::symlink(vault.root(), &link).unwrap();
    for name in
        [format!("file://{}", vault.url()), format!("{}/", vault.url()), link.to_str().unwrap().to_owned()]
    {
        bodley(&["copy", "--vault", vault.url(), "--to-vault", &name]).exits(2).says("the same place");
    }
    let nothing = Vault::below(site.cluster.dir());
    copy(&nothing, &Vault::below(site.cluster.dir())).exits(2).says("holds no vault");
}

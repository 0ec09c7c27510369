//! Bodley with too little of something: room on the disk, the right to write, file descriptors, memory.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::fs;
use std::sync::OnceLock;

use bodley_testbed::shared_cluster;
use bodley_testbed::workloads::{BulkOptions, bulk};

use common::judge::same_digests;
use common::site::Site;
use common::vault::Vault;
use common::{Ran, Rng, soak, start_in_shell};

const TOPIC: &str = "scarce";
const RECORDS: u64 = 6_000;

/// A cluster with 24 MiB in 3 partitions.
fn site() -> Site {
    static FILLED: OnceLock<()> = OnceLock::new();
    let site = Site::at(shared_cluster().unwrap());
    FILLED.get_or_init(|| {
        site.topic(TOPIC, 3);
        let options = BulkOptions { partitions: 3, value_bytes: 4096, ..BulkOptions::default() };
        bulk(&site.bench, TOPIC, RECORDS * 4096, options).unwrap();
    });
    site
}

/// `bodley backup …` of the topic, in a shell script.
fn backup_in(script: &str, vault: &str) -> Ran {
    let bootstrap = site().cluster.bootstrap();
    start_in_shell(script, &["backup", "-b", &bootstrap, "--vault", vault, "--topic", TOPIC]).wait()
}

/// The next run, without any lack, completes what there is.
#[track_caller]
fn recovers(vault: &Vault) {
    let site = site();
    site.backup(vault, &["--topic", TOPIC]).exits(0);
    let report = vault.verified();
    assert_eq!(common::topics(&report, TOPIC)[0]["records"], records(&site));
}

fn records(site: &Site) -> i64 {
    site.bench.describe(TOPIC).unwrap().partitions.iter().map(|p| p.end - p.start).sum()
}

/// A file system of its own that is full at some point, and then grows.
#[test]
fn a_disk_that_is_full_at_any_point() {
    let mut rng = Rng::new("sizes of disks", 1);
    let folder = tempfile::tempdir().unwrap();
    let mounted = folder.path().to_str().unwrap();
    let vault = format!("{mounted}/vault");
    let mut full = 0;
    for n in 0..if soak() { 200 } else { 12 } {
        // From a page to more than is needed; the smallest ones fail at the first files.
        let kib = if n % 3 == 0 { 4 + rng.below(40) } else { 4 + rng.below(30 << 10) };
        let script = format!(
            r#"exec unshare -m sh -c '
                mount -t tmpfs -o size={kib}k none {mounted} || exit 99
                "$0" "$@" --output json; first=$?
                mount -o remount,size=1g none {mounted} || exit 99
                "$0" "$@" --quiet >/dev/null || exit 98
                "$0" verify --vault {vault} >&2 || exit 97
                exit $first' "$0" "$@""#
        );
        let ran = backup_in(&script, &vault);
        let ran = match ran.code {
            Some(0) => ran.exits(0),
            _ => {
                full += 1;
                ran.exits(1).says("no space left")
            }
        };
        ran.says(&format!("{} records", records(&site())));
    }
    assert!(full > 3, "{full} runs met a full disk");
}

/// Nothing can be written to the vault: a backup says so, and everything else works, a restore and its going on included.
#[test]
fn a_vault_that_is_read_only() {
    let site = site();
    let vault = Vault::new();
    site.backup(&vault, &["--topic", TOPIC]).exits(0);
    site.topic("scarce-two", 1);
    site.write("scarce-two", 0, "late", 20);
    let root = vault.root().to_str().unwrap();
    let script = format!(
        r#"exec unshare -m sh -c 'mount --bind {root} {root} && mount -o remount,ro,bind {root} || exit 99
            exec "$0" "$@"' "$0" "$@""#
    );
    let bootstrap = site.cluster.bootstrap();
    let on = |verb, more: &[&str]| {
        let fixed = [verb, "-b", &bootstrap, "--vault", vault.url(), "--output", "json", "--topic"];
        start_in_shell(&script, &[&fixed[..], more].concat())
    };
    on("backup", &["scarce-two"]).wait().exits(1).says("Read-only").says("data/");
    start_in_shell(&script, &["verify", "--vault", vault.url()]).wait().exits(0);
    let flags = [TOPIC, "--rename", "scarce=scarce-read", "--limit-write", "8M"];
    let mut run = on("restore", &flags);
    run.leave_alone(common::seconds(2.0));
    run.kill();
    on("restore", &flags).wait().exits(0);
    same_digests(&site.bench, TOPIC, "scarce-read");
}

/// Few descriptors: it works, or says what is missing, and nothing is lost.
#[test]
fn few_file_descriptors() {
    let site = site();
    let mut failed = 0;
    for limit in [6, 16, 31, 32, 33, 34, 35, 36, 40] {
        let vault = Vault::new();
        let script = format!(r#"ulimit -n {limit}; exec "$0" "$@""#);
        let ran = backup_in(&script, vault.url());
        failed += usize::from(ran.code != Some(0));
        match ran.code {
            Some(0) => ran,
            _ => ran.exits(1).says("open files"),
        };
        recovers(&vault);
    }
    assert!(failed > 1, "the limits are too wide");
    let vault = Vault::new();
    recovers(&vault);
    for limit in [20, 32, 33, 34, 36] {
        let target = format!("scarce-{limit}");
        let bootstrap = site.cluster.bootstrap();
        let rename = format!("{TOPIC}={target}");
        let args =
            ["restore", "-b", &bootstrap, "--vault", vault.url(), "--topic", TOPIC, "--rename", &rename];
        let script = format!(r#"ulimit -n {limit}; exec "$0" "$@""#);
        let ran = start_in_shell(&script, &args).wait();
        match ran.code {
            Some(0) => ran,
            _ => ran.exits(1).says("open files"),
        };
        site.restore(&vault, &args[5..]).exits(0);
        same_digests(&site.bench, TOPIC, &target);
        site.bench.delete_topic(&target).unwrap();
    }
}

/// Little address space: it works, or says that there is no memory.
#[test]
fn little_memory() {
    let mut failed = 0;
    for mib in [40, 60, 80, 120, 160, 200, 240, 300, 400] {
        let vault = Vault::new();
        let script = format!(r#"ulimit -v {}; exec "$0" "$@""#, mib << 10);
        let ran = backup_in(&script, vault.url());
        eprintln!("{mib} MiB: {:?}", ran.code);
        failed += usize::from(ran.code != Some(0));
        match ran.code {
            Some(0) => ran,
            _ => ran.exits(1).says("memory"),
        };
        if fs::exists(vault.root()).unwrap() {
            recovers(&vault);
        }
    }
    assert!(failed > 0, "the limits are too wide");
}

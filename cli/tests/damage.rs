//! Damaged vaults on disk: what is left of one becomes a new one, and its records come back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::fs;

use bodley_testbed::workloads::{Oddity, write_odd_topics};
use bodley_testbed::{Dump, shared_cluster};
use common::judge::{Python, same};
use common::site::Site;
use common::vault::Vault;
use common::{bodley, list};
use serde_json::json;

/// The vault's log is lost, all of it.
fn lose_the_log(vault: &Vault) {
    fs::remove_dir_all(vault.root().join("log")).unwrap();
}

fn rebuild(from: &Vault, to: &Vault, args: &[&str]) -> common::Ran {
    let fixed = ["rebuild", "--vault", from.url(), "--to-vault", to.url(), "--output", "json"];
    bodley(&[&fixed, args].concat())
}

/// Every oddity that a log can have, backed up, its log deleted, rebuilt, verified, restored, compared.
#[test]
fn odd_topics_come_back_from_a_vault_without_a_log() {
    let site = Site::at(shared_cluster().unwrap());
    let (vault, new) = (Vault::below(site.cluster.dir()), Vault::below(site.cluster.dir()));
    let specs = write_odd_topics(&site.bench, "dmg-").unwrap();
    site.backup(&vault, &["--topic", "dmg-*"]).exits(0);
    let before = vault.listed();
    let copy = vault.snapshot();
    let seen: Vec<Dump> = specs.iter().map(|spec| site.dump(&spec.name)).collect();
    lose_the_log(&vault);

    vault.bodley("verify", &[]).exits(3).says("bodley rebuild");
    vault.bodley("list", &[]).exits(3);
    let report = rebuild(&vault, &new, &[]).exits(0).json();
    assert_eq!(report["gaps"], json!([]));
    let verified = new.verified();
    assert!(list(&verified, "notes")[0].as_str().unwrap().contains("was rebuilt from the remains of vault"));
    let after = new.listed();
    assert_eq!((&after["topics"], &after["groups"]), (&before["topics"], &before["groups"]));
    assert_eq!(after["rebuilt_from"], before["vault_id"]);
    assert!(before["rebuilt_from"].is_null());

    let mut args = Vec::new();
    for spec in &specs {
        let target = spec.name.replacen("dmg-", "mended-", 1);
        args.extend(["--topic".to_owned(), spec.name.clone()]);
        args.extend(["--rename".to_owned(), format!("{}={target}", spec.name)]);
        if spec.oddity.is_compacted() {
            let setting = format!("{target}:min.compaction.lag.ms=315360000000");
            args.extend(["--topic-config".to_owned(), setting]);
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    site.restore(&new, &args).exits(0);
    let python = Python::read(&new, &[]);
    for (spec, seen) in specs.iter().zip(&seen) {
        python.saw(&spec.name, seen);
        same(seen, &site.dump(&spec.name.replacen("dmg-", "mended-", 1)));
    }
    // A backup goes on in it, and finds nothing that it has not.
    let more = site.backup(&new, &["--topic", "dmg-*"]).exits(0).json();
    assert_eq!(more["bytes"], 0, "{more:#}");
    assert_eq!(specs.len(), Oddity::ALL.len());
    // The old one was only read.
    for object in vault.objects().keys() {
        assert_eq!(fs::read(vault.root().join(object)).unwrap(), fs::read(copy.root().join(object)).unwrap());
    }
    // Twice into the same place is refused.
    rebuild(&vault, &new, &[]).exits(2);
}

#[test]
fn what_is_lost_is_listed() {
    let site = Site::at(shared_cluster().unwrap());
    let vault = Vault::below(site.cluster.dir());
    site.topic("dmg2", 1);
    for round in ["one", "two", "three"] {
        site.write("dmg2", 0, round, 50);
        site.backup(&vault, &["--topic", "dmg2"]).exits(0);
    }
    let cluster_id = vault.listed()["cluster_id"].as_str().unwrap().to_owned();
    lose_the_log(&vault);
    fs::write(vault.root().join("data/.tmp-01ARZ3NDEKTSV4RRFFQ69G5FAV"), b"x").unwrap();
    vault.bodley("verify", &[]).exits(3).says("1 unfinished file (.tmp-*), 1 bytes");
    let second = vault.objects_in("data/01").remove(1);
    vault.lose(&second);
    vault.lose("vault.json");

    let new = Vault::below(site.cluster.dir());
    rebuild(&vault, &new, &[]).exits(2).says("--cluster-id");
    let report = rebuild(&vault, &new, &["--cluster-id", &cluster_id]).exits(3).json();
    let gap = json!([{"topic": "dmg2", "partition": 0, "first": 50, "next": 100, "reason": "lost"}]);
    assert_eq!(report["gaps"], gap);
    let error = &list(&report, "errors")[0];
    assert_eq!(
        (&error["code"], &error["topic"], &error["offset"], &error["object"]),
        (&json!("lost"), &json!("dmg2"), &json!(50), &json!(second))
    );
    assert_eq!(new.verified()["gaps"], gap);
    site.restore_as(&new, "dmg2", "dmg2-back").exits(3);
    assert_eq!(site.dump("dmg2-back").len(), 100);
    // What comes later goes on behind it.
    site.write("dmg2", 0, "four", 5);
    site.backup(&new, &["--topic", "dmg2"]).exits(0);
    assert_eq!(new.listed()["topics"][0]["records"], 105);
}

//! `bodley groups` against a real Kafka: what a vault says of groups, setting their positions, and the way back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use bodley_testbed::jars::{DEFAULT_VERSION, Kafka};
use bodley_testbed::shared_cluster;
use bodley_testbed::workbench::{GroupOffset, ProduceOptions, Record};
use common::site::Site;
use common::vault::Vault;
use common::{Ran, bodley, list};
use serde_json::Value;
use tempfile::TempDir;

fn site() -> Site {
    Site::at(shared_cluster().unwrap())
}

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// `bodley groups VERB -b … --output json`
fn groups(site: &Site, verb: &str, args: &[&str]) -> Ran {
    let bootstrap = site.cluster.bootstrap();
    bodley(&[&["groups", verb, "-b", &bootstrap, "--output", "json"], args].concat())
}

/// The same about a vault alone.
fn of_vault(vault: &Vault, verb: &str, args: &[&str]) -> Ran {
    bodley(&[&["groups", verb, "--vault", vault.url(), "--output", "json"], args].concat())
}

/// The time of the first record that a test writes, an hour ago.
fn first_time() -> i64 {
    static FIRST: OnceLock<i64> = OnceLock::new();
    *FIRST.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        now.as_millis() as i64 - 3_600_000
    })
}

/// Writes records with a time each, ten ms apart.
fn write(site: &Site, topic: &str, partition: i32, count: i64) {
    let record = |n: i64| Record::new(partition).value(format!("{topic} {n}")).at(first_time() + 10 * n);
    let records: Vec<Record> = (0..count).map(record).collect();
    site.bench.produce(topic, &records, &ProduceOptions::default().flush_every(5)).unwrap();
}

fn commit(site: &Site, group: &str, offsets: &[(&str, i32, i64)]) {
    let offsets: Vec<GroupOffset> = offsets
        .iter()
        .map(|(topic, partition, offset)| GroupOffset {
            metadata: "mine".into(),
            ..GroupOffset::new(topic, *partition, *offset)
        })
        .collect();
    site.bench.commit_offsets(group, &offsets).unwrap();
}

fn committed(site: &Site, group: &str) -> Vec<(String, i32, i64)> {
    let offsets = site.bench.group_offsets(group).unwrap();
    offsets.into_iter().map(|of| (of.topic, of.partition, of.offset)).collect()
}

fn at(topic: &str, offsets: &[(i32, i64)]) -> Vec<(String, i32, i64)> {
    offsets.iter().map(|(partition, offset)| (topic.to_owned(), *partition, *offset)).collect()
}

/// `group topic-partition field field …` of each row.
fn rows(document: &Value, list_field: &str, fields: &[&str]) -> Vec<String> {
    let row = |row: &Value| {
        let mut text = format!(
            "{} {}-{}",
            row["group"].as_str().unwrap(),
            row["topic"].as_str().unwrap(),
            row["partition"]
        );
        for field in fields {
            write!(text, " {}", row[field]).unwrap();
        }
        text
    };
    list(document, list_field).iter().map(row).collect()
}

fn csv(folder: &TempDir, lines: &str) -> String {
    let path = folder.path().join("offsets.csv");
    fs::write(&path, lines).unwrap();
    path.display().to_string()
}

/// Apache's own kafka-consumer-groups.sh.
fn kafkas_tool(site: &Site, args: &[&str]) -> Output {
    let kafka = Kafka::ensure(DEFAULT_VERSION).unwrap();
    let mut java = kafka.java();
    java.args(["org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server"]);
    let out = java.arg(site.cluster.bootstrap()).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout.clone(), out.stderr.clone()].concat()).into_owned();
    assert!(out.status.success() && !text.contains("Error"), "{args:?}: {text}");
    out
}

#[test]
fn snapshots_over_time_are_shown_compared_and_taken_by_kafkas_own_tool() {
    let (site, vault, folder) = (site(), Vault::new(), folder());
    site.topic("gs-orders", 2);
    site.topic("gs-other", 1);
    write(&site, "gs-orders", 0, 40);
    write(&site, "gs-orders", 1, 40);
    commit(&site, "gs-a", &[("gs-orders", 0, 10), ("gs-orders", 1, 20)]);
    commit(&site, "gs, \"b\"", &[("gs-orders", 0, 5)]);
    let topics = ["--topic", "gs-orders"];
    site.backup(&vault, &topics).exits(0);
    commit(&site, "gs-a", &[("gs-orders", 0, 15)]);
    write(&site, "gs-orders", 0, 1);
    site.backup(&vault, &topics).exits(0);

    let show = |args: &[&str]| of_vault(&vault, "show", args).exits(0).json();
    let now = show(&[]);
    assert_eq!(
        rows(&now, "groups", &["offset", "metadata"]),
        ["gs, \"b\" gs-orders-0 5 \"mine\"", "gs-a gs-orders-0 15 \"mine\"", "gs-a gs-orders-1 20 \"mine\""]
    );
    let first = now["seq"].as_i64().unwrap() - 1;
    let before = show(&["--at", &first.to_string(), "--group", "gs-a"]);
    assert_eq!(rows(&before, "groups", &["offset"]), ["gs-a gs-orders-0 10", "gs-a gs-orders-1 20"]);
    let history = show(&["--history", "--group", "gs-a"]);
    assert_eq!(
        rows(&history, "changes", &["seq", "old", "new"]),
        [
            format!("gs-a gs-orders-0 {first} null 10"),
            format!("gs-a gs-orders-1 {first} null 20"),
            format!("gs-a gs-orders-0 {} 10 15", first + 1)
        ]
    );
    of_vault(&vault, "show", &["--group", "gs-c"]).exits(2).says("there is no group `gs-c` in the vault");
    of_vault(&vault, "show", &["--topic", "gs-c*"]).exits(2).says("no topic matches `gs-c*` in the vault");
    of_vault(&vault, "show", &["--at", "99"]).exits(2).says("there is no commit 99");
    of_vault(&vault, "show", &["--csv"]).exits(2);

    // Compared with another commit, and with what is committed now.
    let other = of_vault(&vault, "diff", &["--at", &first.to_string(), "--with", &(first + 1).to_string()]);
    let other = other.exits(0).json();
    assert_eq!(rows(&other, "groups", &["old", "new", "difference"]), ["gs-a gs-orders-0 10 15 5"]);
    assert_eq!(other["same"], 2);
    commit(&site, "gs-a", &[("gs-orders", 1, 18), ("gs-other", 0, 0)]);
    commit(&site, "gs-new", &[("gs-orders", 1, 7)]);
    let with = groups(&site, "diff", &["--vault", vault.url(), "--group", "gs*"]).exits(0).json();
    assert_eq!(
        rows(&with, "groups", &["old", "new", "difference"]),
        ["gs-a gs-orders-1 20 18 -2", "gs-new gs-orders-1 null 7 null"]
    );

    // The CSV sets the positions with Kafka's own tool: of one group, and of several.
    let csv = |flags: &[&str], name: &str| {
        let flags = [&["groups", "show", "--vault", vault.url(), "--csv"], flags].concat();
        let lines = bodley(&flags).exits(0).out;
        let path = folder.path().join(name);
        fs::write(&path, &lines).unwrap();
        (lines, path.display().to_string())
    };
    let (lines, one) = csv(&["--group", "gs-a"], "one.csv");
    assert_eq!(lines, "gs-a,gs-orders,0,15\ngs-a,gs-orders,1,20\n");
    commit(&site, "gs-a", &[("gs-orders", 0, 0), ("gs-orders", 1, 0)]);
    let reset = ["--reset-offsets", "--execute", "--from-file"];
    kafkas_tool(&site, &[&reset, &[one.as_str(), "--group", "gs-a"][..]].concat());
    assert!(committed(&site, "gs-a").starts_with(&at("gs-orders", &[(0, 15), (1, 20)])));
    let (lines, all) = csv(&[], "all.csv");
    assert_eq!(lines.lines().count(), 3, "{lines}");
    for group in ["gs-a", "gs, \"b\""] {
        commit(&site, group, &[("gs-orders", 0, 0)]);
    }
    kafkas_tool(&site, &[&reset, &[all.as_str(), "--group", "gs-a", "--group", "gs, \"b\""][..]].concat());
    assert!(committed(&site, "gs-a").starts_with(&at("gs-orders", &[(0, 15), (1, 20)])));
    assert_eq!(committed(&site, "gs, \"b\""), at("gs-orders", &[(0, 5)]));

    // And what that tool exports is read here.
    let exported = kafkas_tool(
        &site,
        &[
            "--reset-offsets",
            "--to-earliest",
            "--group",
            "gs-a",
            "--topic",
            "gs-orders",
            "--export",
            "--dry-run",
        ],
    );
    let lines = String::from_utf8(exported.stdout).unwrap();
    let lines: String =
        lines.lines().filter(|line| line.contains("gs-orders,")).map(|line| format!("{line}\n")).collect();
    let file = folder.path().join("exported.csv");
    fs::write(&file, lines).unwrap();
    let plan =
        groups(&site, "reset", &["--from-file", file.to_str().unwrap(), "--group", "gs-a"]).exits(0).json();
    assert_eq!(rows(&plan, "changes", &["now", "new"]), ["gs-a gs-orders-0 15 0", "gs-a gs-orders-1 20 0"]);
}

/// `--save FILE`, in a folder.
fn save(folder: &TempDir, name: &str) -> (PathBuf, String) {
    let path = folder.path().join(name);
    (path.clone(), path.display().to_string())
}

#[test]
fn a_reset_can_be_taken_back_exactly() {
    let (site, folder) = (site(), folder());
    site.topic("gr-t", 3);
    write(&site, "gr-t", 0, 100);
    write(&site, "gr-t", 1, 50);
    commit(&site, "gr-a", &[("gr-t", 0, 30), ("gr-t", 1, 20)]);
    commit(&site, "gr-b", &[("gr-t", 0, 7)]);
    let before = [site.bench.group_offsets("gr-a").unwrap(), site.bench.group_offsets("gr-b").unwrap()];

    // Nothing happens without --execute.
    let time = (first_time() + 405).to_string();
    let plan = groups(&site, "reset", &["--group", "gr-*", "--to", &time]).exits(0).json();
    assert_eq!(
        rows(&plan, "changes", &["now", "new", "difference"]),
        ["gr-a gr-t-0 30 41 11", "gr-a gr-t-1 20 41 21", "gr-b gr-t-0 7 41 34"]
    );
    assert_eq!(plan["executed"], false);
    assert_eq!(site.bench.group_offsets("gr-a").unwrap(), before[0]);
    let of = |to: &str| groups(&site, "reset", &["--group", "gr-a", "--to", to]).exits(0).json();
    assert_eq!(rows(&of("earliest"), "changes", &["new"]), ["gr-a gr-t-0 0", "gr-a gr-t-1 0"]);
    assert_eq!(rows(&of("latest"), "changes", &["new"]), ["gr-a gr-t-0 100", "gr-a gr-t-1 50"]);
    assert_eq!(rows(&of("now"), "changes", &["new"]), ["gr-a gr-t-0 100", "gr-a gr-t-1 50"]);

    // From a file, also where a group has no position, and does not exist; beyond the log's end.
    let file = csv(&folder, "gr-a,gr-t,0,60\ngr-a,gr-t,2,0\ngr-b,gr-t,0,1000\ngr-new,gr-t,1,3\n");
    let (path, saved) = save(&folder, "saved.json");
    let flags = ["--from-file", &file, "--execute", "--save", &saved];
    let done = groups(&site, "reset", &flags).exits(0).json();
    assert_eq!((&done["executed"], &done["groups"]), (&Value::Bool(true), &Value::from(3)));
    assert!(list(&done, "notes")[0].as_str().unwrap().contains("1 position lies outside"), "{done}");
    assert_eq!(committed(&site, "gr-a"), at("gr-t", &[(0, 60), (1, 20), (2, 0)]));
    assert_eq!(committed(&site, "gr-b"), at("gr-t", &[(0, 100)]));
    assert_eq!(committed(&site, "gr-new"), at("gr-t", &[(1, 3)]));
    // A file that is there is never written over, and nothing is done then.
    let text = fs::read(&path).unwrap();
    groups(&site, "reset", &["--group", "gr-a", "--to", "earliest", "--execute", "--save", &saved])
        .exits(2)
        .says("File exists");
    assert_eq!((fs::read(&path).unwrap(), committed(&site, "gr-b")), (text, at("gr-t", &[(0, 100)])));

    let back = groups(&site, "rollback", &[&saved]).exits(0).json();
    assert_eq!(
        rows(&back, "changes", &["now", "new"]),
        ["gr-a gr-t-0 60 30", "gr-a gr-t-2 0 null", "gr-b gr-t-0 100 7", "gr-new gr-t-1 3 null"]
    );
    assert_eq!(committed(&site, "gr-b"), at("gr-t", &[(0, 100)]));
    groups(&site, "rollback", &[&saved, "--execute"]).exits(0);
    let after = [site.bench.group_offsets("gr-a").unwrap(), site.bench.group_offsets("gr-b").unwrap()];
    assert_eq!(after, before);
    assert_eq!(committed(&site, "gr-new"), []);

    // For people, and for Kafka's tool.
    let bootstrap = site.cluster.bootstrap();
    let fixed = ["groups", "reset", "-b", &bootstrap, "--group", "gr-a", "--to", "earliest"];
    let table =
        "group  topic  partition  now  new  difference\ngr-a    gr-t          0   30    0         -30\n";
    let shown = bodley(&fixed).exits(0);
    assert!(shown.out.starts_with(table), "{shown}");
    assert!(shown.out.ends_with("1 group, 2 positions: nothing was changed; --execute does it\n"), "{shown}");
    let lines = bodley(&[&fixed[..], &["--csv"]].concat()).exits(0).out;
    assert_eq!(lines, "gr-a,gr-t,0,0\ngr-a,gr-t,1,0\n");

    // Where nothing is said of a file, it is made here, and named.
    let args = ["groups", "reset", "-b", &bootstrap, "--group", "gr-b", "--to", "latest", "--execute"];
    let mut command = common::command(&args);
    command.current_dir(folder.path());
    common::run(command, &args).exits(0).says("bodley groups rollback").says("bodley-groups-");
    let made = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(made.filter(|name| name.to_str().unwrap().starts_with("bodley-groups-")).count(), 1);
}

#[test]
fn groups_with_live_members_are_named_and_the_others_go_on() {
    let (site, folder) = (site(), folder());
    site.topic("gl-t", 1);
    write(&site, "gl-t", 0, 50);
    for group in ["gl-idle", "gl-classic", "gl-consumer"] {
        commit(&site, group, &[("gl-t", 0, 20)]);
    }
    site.bench.join("gl-classic", "gl-t", "classic", false).unwrap();
    site.bench.join("gl-consumer", "gl-t", "consumer", false).unwrap();
    let (_, saved) = save(&folder, "saved.json");
    let flags = ["--group", "gl-*", "--to", "earliest", "--execute", "--save", &saved];
    let done = groups(&site, "reset", &flags)
        .exits(3)
        .says("group gl-classic has live members")
        .says("group gl-consumer has live members");
    assert!(list(&done.json(), "errors").iter().all(|error| error["code"] == "group_refused"));
    assert_eq!(committed(&site, "gl-idle"), at("gl-t", &[(0, 0)]));
    assert_eq!(committed(&site, "gl-classic"), at("gl-t", &[(0, 20)]));
    assert_eq!(committed(&site, "gl-consumer"), at("gl-t", &[(0, 20)]));

    for group in ["gl-classic", "gl-consumer"] {
        site.bench.leave(group).unwrap();
    }
    site.bench.join("gl-idle", "gl-t", "classic", false).unwrap();
    groups(&site, "rollback", &[&saved, "--execute"]).exits(3).says("group gl-idle has live members");
    site.bench.leave("gl-idle").unwrap();
    groups(&site, "rollback", &[&saved, "--execute"]).exits(0);
    assert_eq!(committed(&site, "gl-idle"), at("gl-t", &[(0, 20)]));
    // A group of the newer kind, without members.
    let (_, saved) = save(&folder, "second.json");
    let flags = ["--group", "gl-consumer", "--to", "latest", "--execute", "--save", &saved];
    groups(&site, "reset", &flags).exits(0);
    assert_eq!(committed(&site, "gl-consumer"), at("gl-t", &[(0, 50)]));
}

#[test]
fn positions_of_a_vault_are_found_by_time_and_by_headers() {
    let (site, vault, folder) = (site(), Vault::new(), folder());
    site.topic("gv-t", 2);
    write(&site, "gv-t", 0, 60);
    write(&site, "gv-t", 1, 10);
    // What was read before the start, at it, inside, the last one, the end, and beyond.
    let positions = [
        ("gv-a", 3, 0),
        ("gv-b", 12, 0),
        ("gv-c", 40, 28),
        ("gv-d", 59, 47),
        ("gv-e", 60, 48),
        ("gv-f", 90, 48),
    ];
    for (group, offset, _) in positions {
        commit(&site, group, &[("gv-t", 0, offset), ("gv-t", 1, 4)]);
    }
    site.bench.delete_records("gv-t", 0, 12).unwrap();
    site.backup(&vault, &["--topic", "gv-t"]).exits(0);
    let restore = |id: &str, more: &[&str]| {
        let flags = [
            "--topic",
            "gv-t",
            "--rename",
            "gv-t=gv-copy",
            "--stamp-headers",
            "--groups",
            "none",
            "--restore-id",
            id,
        ];
        site.restore(&vault, &[&flags, more].concat()).exits(0);
    };
    restore("gv-1", &[]);
    let expected = |add: i64| -> BTreeMap<String, i64> {
        positions.iter().map(|(group, _, offset)| ((*group).to_owned(), offset + add)).collect()
    };
    let found = |flags: &[&str]| -> BTreeMap<String, i64> {
        let fixed = ["--group", "gv-*", "--rename", "gv-t=gv-copy"];
        let plan = groups(&site, "reset", &[&fixed, flags].concat()).exits(0).json();
        let of_first = list(&plan, "changes").iter().filter(|change| change["partition"] == 0);
        of_first.map(|c| (c["group"].as_str().unwrap().to_owned(), c["new"].as_i64().unwrap())).collect()
    };
    assert_eq!(found(&["--vault", vault.url(), "--by", "timestamp"]), expected(0));
    assert_eq!(found(&["--vault", vault.url(), "--by", "headers"]), expected(0));
    let lines: String =
        positions.iter().map(|(group, offset, _)| format!("{group},gv-t,0,{offset}\n")).collect();
    let file = csv(&folder, &lines);
    assert_eq!(found(&["--from-file", &file, "--by", "headers"]), expected(0));
    // Restored twice, the second time with one record more: the last one counts.
    write(&site, "gv-t", 0, 1);
    site.backup(&vault, &["--topic", "gv-t"]).exits(0);
    restore("gv-2", &["--append"]);
    assert_eq!(site.dump("gv-copy").len(), 48 + 10 + 49 + 10);
    let second = BTreeMap::from_iter(expected(48).into_iter().map(|(group, offset)| {
        let end = if group == "gv-f" { 1 } else { 0 };
        (group, offset + end)
    }));
    assert_eq!(found(&["--vault", vault.url(), "--by", "headers"]), second);

    let (_, saved) = save(&folder, "saved.json");
    let flags = [
        "--vault",
        vault.url(),
        "--by",
        "headers",
        "--rename",
        "gv-t=gv-copy",
        "--execute",
        "--save",
        &saved,
    ];
    groups(&site, "reset", &flags).exits(0);
    let of_c = [at("gv-copy", &[(0, 76), (1, 14)]), at("gv-t", &[(0, 40), (1, 4)])].concat();
    assert_eq!(committed(&site, "gv-c"), of_c);

    let refused = |flags: &[&str], says: &str| drop(groups(&site, "reset", flags).exits(2).says(says));
    refused(
        &["--vault", vault.url(), "--by", "headers"],
        "gv-t-0 has no record with a header x-original-offset",
    );
    refused(
        &["--vault", vault.url(), "--by", "headers", "--rename", "gv-t=gv-none"],
        "the cluster has no gv-none-0",
    );
    site.topic("gv-wrong", 2);
    let stamped =
        Record::new(0).header("x-original-offset", Some(b"5")).header("x-source-topic", Some(b"else"));
    site.bench.produce("gv-wrong", &[stamped], &ProduceOptions::default()).unwrap();
    let wrong = ["--vault", vault.url(), "--by", "headers", "--rename", "gv-t=gv-wrong"];
    refused(&wrong, "come from elsewhere than gv-t-0");
}

#[test]
fn headers_of_other_tools() {
    let (site, folder) = (site(), folder());
    site.topic("gh-t", 2);
    let record = |partition: i32, offset: i64| {
        Record::new(partition)
            .value(format!("{offset}"))
            .header("x-original-offset", Some(&offset.to_le_bytes()))
            .header("x-source-partition", Some(&partition.to_le_bytes()))
    };
    let offsets = [1000, 1001, 1005, 1006];
    let mut records: Vec<Record> = offsets.iter().map(|offset| record(0, *offset)).collect();
    records.push(Record::new(0).value("written since"));
    records.push(Record::new(1).header("x-original-offset", Some(&70i64.to_le_bytes())));
    site.bench.produce("gh-t", &records, &ProduceOptions::default().flush_every(2)).unwrap();
    let file = csv(&folder, "gh-a,gh-t,0,1002\ngh-a,gh-t,1,70\ngh-b,gh-t,0,5\ngh-c,gh-t,0,1007\n");
    let plan = groups(&site, "reset", &["--from-file", &file, "--by", "headers"]).exits(0).json();
    assert_eq!(
        rows(&plan, "changes", &["new"]),
        ["gh-a gh-t-0 2", "gh-a gh-t-1 0", "gh-b gh-t-0 0", "gh-c gh-t-0 5"]
    );
}

/// Lines for so many groups and partitions, each at an offset of its own.
fn many(topic: &str, groups: usize, partitions: usize, add: usize) -> String {
    let mut lines = String::new();
    for group in 0..groups {
        for partition in 0..partitions {
            writeln!(lines, "{topic}-{group:04},{topic},{partition},{}", (group + partition + add) % 50)
                .unwrap();
        }
    }
    lines
}

/// With BODLEY_SOAK 1,000 groups of 100 partitions, in ten seconds each way.
#[test]
fn many_groups_at_once() {
    let (site, folder) = (site(), folder());
    let (count, partitions) = if common::soak() { (1000, 100) } else { (150, 20) };
    site.topic("gm", partitions as i32);
    let fill: Vec<Record> = (0..partitions)
        .flat_map(|p| (0..50).map(move |n| Record::new(p as i32).value("x").at(first_time() + n)))
        .collect();
    site.bench.produce("gm", &fill, &ProduceOptions::default()).unwrap();
    let first = csv(&folder, &many("gm", count, partitions, 0));
    let (_, one) = save(&folder, "one.json");
    let reset =
        groups(&site, "reset", &["--from-file", &first, "--execute", "--save", &one]).exits(0).within(60);
    assert_eq!(reset.json()["groups"], count);
    let second = folder.path().join("second.csv");
    fs::write(&second, many("gm", count, partitions, 9)).unwrap();
    let second = second.to_str().unwrap();
    let (_, two) = save(&folder, "two.json");
    let again =
        groups(&site, "reset", &["--from-file", second, "--execute", "--save", &two]).exits(0).within(60);
    let back = groups(&site, "rollback", &[&two, "--execute"]).exits(0).within(60);
    eprintln!(
        "{count} groups of {partitions}: reset {:?}, again {:?}, rollback {:?}",
        reset.took, again.took, back.took
    );
    let is_back = |folder: &Path| {
        let file = folder.join("offsets.csv").display().to_string();
        let plan = groups(&site, "reset", &["--from-file", &file]).exits(0).json();
        assert_eq!(list(&plan, "changes").len(), count * partitions);
        assert!(list(&plan, "changes").iter().all(|change| change["now"] == change["new"]));
    };
    is_back(folder.path());
    let vault = site.vault_of(&["gm"]);
    let by_time = ["--vault", vault.url(), "--by", "timestamp", "--group", "gm-*"];
    let by_time = groups(&site, "reset", &by_time).exits(0).within(60);
    assert_eq!(list(&by_time.json(), "changes").len(), count * partitions);
    eprintln!("planned by time: {:?}", by_time.took);

    // Killed on the way, what was replaced is in the file, and goes back.
    let (path, three) = save(&folder, "three.json");
    let bootstrap = site.cluster.bootstrap();
    let mut run = common::start(&[
        "groups",
        "reset",
        "-b",
        &bootstrap,
        "--from-file",
        second,
        "--execute",
        "--save",
        &three,
    ]);
    while !path.exists() && run.is_running() {
        std::thread::sleep(Duration::from_millis(1));
    }
    run.leave_alone(Duration::from_millis(30));
    run.kill();
    groups(&site, "rollback", &[&three, "--execute"]).exits(0);
    is_back(folder.path());
    // All that they had before the first one: nothing.
    groups(&site, "rollback", &[&one, "--execute"]).exits(0);
    assert_eq!(committed(&site, "gm-0000"), []);
}

#[test]
fn bad_input_is_refused_before_anything_is_done() {
    let (site, vault, folder) = (site(), Vault::new(), folder());
    site.topic("gb-t", 1);
    commit(&site, "gb-a", &[("gb-t", 0, 0)]);
    site.backup(&vault, &["--topic", "gb-t"]).exits(0);
    let refused = |flags: &[&str], says: &str| drop(groups(&site, "reset", flags).exits(2).says(says));
    let of_vault = |more: &[&'static str]| [&["--vault", vault.url()], more].concat().join("\n");
    let split = |flags: &str, says: &str| refused(&flags.split('\n').collect::<Vec<_>>(), says);
    refused(&[], "required");
    refused(&["--to", "earliest"], "--group");
    refused(&["--to", "yesterday", "--group", "gb-a"], "earliest");
    refused(&["--to", "earliest", "--group", "gb-x"], "there is no group `gb-x` at the cluster");
    refused(
        &["--to", "earliest", "--group", "gb-a", "--topic", "gb-x*"],
        "no topic matches `gb-x*` at the cluster",
    );
    refused(&["--to", "earliest", "--group", "gb-a", "--save", "x"], "--save goes with --execute");
    refused(&["--to", "earliest", "--group", "gb-a", "--by", "headers"], "--by");
    refused(&["--to", "earliest", "--group", "gb-a", "--at", "1"], "--at goes with --vault");
    refused(&["--to", "earliest", "--from-file", "x"], "cannot be used with");
    refused(&["--from-file", "/no/such"], "/no/such: can't be read");
    split(&of_vault(&[]), "--by timestamp, --by headers");
    split(&of_vault(&["--by", "timestamp", "--group", "gb-x"]), "there is no group `gb-x` in the vault");
    split(&of_vault(&["--by", "timestamp", "--rename", "gb-x=y"]), "--rename");
    let file = csv(&folder, "gb-a,gb-t,0,0\ngb-a,gb-t,0,x\n");
    refused(&["--from-file", &file], "line 2: offset");
    refused(&["--from-file", &file, "--by", "timestamp"], "a file has no times");
    let file = csv(&folder, "gb-a,gb-t,7,0\n");
    refused(&["--from-file", &file], "the cluster has no gb-t-7");

    let (path, saved) = save(&folder, "saved.json");
    groups(&site, "reset", &["--group", "gb-a", "--to", "latest", "--execute", "--save", &saved]).exits(0);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(site.cluster.id(), "another")).unwrap();
    groups(&site, "rollback", &[&saved]).exits(2).says("the file is of cluster another");
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    groups(&site, "rollback", &[&saved]).exits(2).says("it ends early");
    groups(&site, "rollback", &["/no/such"]).exits(2).says("cannot be read");
    let flags =
        ["groups", "reset", "-b", "127.0.0.1:1", "--group", "a", "--to", "latest", "--give-up-after", "1s"];
    bodley(&flags).exits(1).says("127.0.0.1:1");
}

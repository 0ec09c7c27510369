//! Exactly the part that is wanted, and every group where it stood: on a real Kafka, judged by Apache's own client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use bodley_testbed::dump::DumpedRecord;
use bodley_testbed::shared_cluster;
use bodley_testbed::workbench::{Codec, Generate, GroupOffset, ProduceOptions, Record};
use serde_json::Value;

use common::site::Site;
use common::vault::Vault;
use common::{Rng, list};

/// Times of records count from here: September 2025.
const EPOCH: i64 = 1_757_000_000_000;
/// Times lie in so many ms.
const SPAN: i64 = 1_000_000;
const PARTITIONS: i32 = 3;
const GROUPS: usize = 24;

fn site() -> Site {
    Site::at(shared_cluster().unwrap())
}

/// A topic with times in any order, all codecs, transactions of both kinds, holes and a trimmed start, and groups at random places in it.
struct Mess {
    vault: Vault,
    records: Vec<DumpedRecord>,
    groups: Vec<GroupOffset>,
}

const MESS: &str = "mess";

impl Mess {
    fn get() -> &'static Self {
        static MADE: OnceLock<Mess> = OnceLock::new();
        MADE.get_or_init(Self::make)
    }

    fn make() -> Self {
        let (site, mut rng) = (site(), Rng::new("the mess", 4711));
        let settings = [
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "-1"),
            ("segment.ms", "100"),
            ("min.cleanable.dirty.ratio", "0.01"),
        ];
        site.bench.create_topic(MESS, PARTITIONS, &settings).unwrap();
        let mut n = 0;
        let mut record = |rng: &mut Rng| {
            n += 1;
            let time = EPOCH + n * 400 + rng.below(SPAN as u64 / 3) as i64 - SPAN / 6;
            let record =
                Record::new(rng.below(PARTITIONS as u64) as i32).key(format!("key-{}", rng.below(900)));
            record.value(format!("{n} {}", "x".repeat(rng.below(60) as usize))).at(time)
        };
        for round in 0..12u64 {
            let codec =
                [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd][round as usize % 5];
            let options = ProduceOptions::codec(codec).flush_every(1 + rng.below(40) as u32);
            let records: Vec<Record> = (0..120).map(|_| record(&mut rng)).collect();
            site.bench.produce(MESS, &records, &options).unwrap();
            let producer = format!("mess-{round}");
            site.bench.begin(&producer, &options).unwrap();
            let records: Vec<Record> = (0..40).map(|_| record(&mut rng)).collect();
            site.bench.send(&producer, MESS, &records).unwrap();
            if round % 2 == 0 {
                site.bench.commit(&producer).unwrap()
            } else {
                site.bench.abort(&producer).unwrap()
            }
            site.bench.drop_producer(&producer).unwrap();
        }
        std::thread::sleep(Duration::from_secs(3));
        site.bench.delete_records(MESS, 1, 20).unwrap();
        // The cleaner is done with it: what is backed up is what the consumer sees.
        site.bench
            .alter_config(MESS, &[("cleanup.policy", "delete"), ("segment.ms", "604800000")], &[])
            .unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let ends = site.ends(MESS);
        let mut groups = Vec::new();
        for group in 0..GROUPS {
            for partition in 0..PARTITIONS {
                let end = ends[partition as usize];
                let offset = match group {
                    0 => 0,
                    1 => end,
                    2 => end + 1_000_000,
                    _ => rng.below(end as u64) as i64,
                };
                groups.push((format!("mess-{group:02}"), GroupOffset::new(MESS, partition, offset)));
            }
        }
        for of_group in groups.chunk_by(|a, b| a.0 == b.0) {
            let offsets: Vec<GroupOffset> = of_group.iter().map(|(_, offset)| offset.clone()).collect();
            site.bench.commit_offsets(&of_group[0].0, &offsets).unwrap();
        }
        let vault = Vault::below(site.cluster.dir());
        site.backup(&vault, &["--topic", MESS]).exits(0);
        let records = site.dump(MESS).records().unwrap();
        assert!(records.len() > 800, "{}", records.len());
        Self { vault, records, groups: groups.into_iter().map(|(_, offset)| offset).collect() }
    }

    fn group(index: usize) -> String {
        format!("mess-{:02}", index / PARTITIONS as usize)
    }
}

/// Value, time, and all else that must be the same.
fn content(record: &DumpedRecord) -> (i32, i64, Option<String>, Option<String>) {
    (record.partition, record.timestamp, record.key_text(), record.value_text())
}

/// What a reader at an offset reads next.
fn next<'a>(
    records: impl IntoIterator<Item = &'a DumpedRecord>,
    partition: i32,
    from: i64,
) -> Option<(i32, i64, Option<String>, Option<String>)> {
    let mut records = records.into_iter();
    records.find(|record| record.partition == partition && record.offset >= from).map(content)
}

/// The target holds these records and no others, and each group's next record is the one that it would have read next.
fn judge(site: &Site, target: &str, wanted: impl Fn(&DumpedRecord) -> bool, what: &str) {
    let mess = Mess::get();
    let expected: Vec<&DumpedRecord> = mess.records.iter().filter(|record| wanted(record)).collect();
    let found = site.dump(target).records().unwrap();
    let seen: Vec<_> = found.iter().map(content).collect();
    assert_eq!(seen, expected.iter().map(|record| content(record)).collect::<Vec<_>>(), "{what}");
    let mut of_groups: BTreeMap<String, Vec<GroupOffset>> = BTreeMap::new();
    for (index, position) in mess.groups.iter().enumerate() {
        let group = Mess::group(index);
        let offsets =
            of_groups.entry(group.clone()).or_insert_with(|| site.bench.group_offsets(&group).unwrap());
        let (partition, offset) = (position.partition, position.offset);
        let at = offsets.iter().find(|o| o.topic == target && o.partition == partition);
        let at =
            at.unwrap_or_else(|| panic!("{what}: {group} has no position in {target}-{partition}")).offset;
        let expected = next(expected.iter().copied(), partition, offset);
        let found = next(&found, partition, at);
        assert_eq!(found, expected, "{what}: {group} at {partition}:{offset}, now {at}");
        if expected.is_none() {
            assert_eq!(
                at,
                site.ends(target)[partition as usize],
                "{what}: {group} past the end of {partition}"
            );
        }
    }
}

fn restore_window(site: &Site, target: &str, window: &[String]) -> Value {
    let rename = format!("{MESS}={target}");
    let mut args = vec!["--topic", MESS, "--rename", &rename];
    args.extend(window.iter().map(String::as_str));
    site.restore(&Mess::get().vault, &args).exits(0).json()
}

#[test]
fn any_window_holds_what_a_consumer_saw() {
    let (site, mut rng) = (site(), Rng::new("windows", 99));
    let mess = Mess::get();
    let mut restored = 0;
    for number in 0..16 {
        let target = format!("window-{number}");
        let (a, b) = (rng.below(SPAN as u64) as i64, rng.below(SPAN as u64) as i64);
        let (from, to) = (EPOCH + a.min(b), EPOCH + a.max(b) + 1);
        let mut window = Vec::new();
        let (mut low, mut high) = (i64::MIN, i64::MAX);
        if number % 4 != 1 {
            window.push(format!("--from={from}"));
            low = from;
        }
        if number % 4 != 2 {
            window.push(format!("--to={to}"));
            high = to;
        }
        // Partition 2 has a window of its own, and partition 0 ends earlier.
        let own = if number % 5 == 0 {
            window.push(format!("--window={MESS}:2={}..", EPOCH + SPAN / 2));
            window.push(format!("--to-offset={MESS}:0=300"));
            true
        } else {
            false
        };
        let report = restore_window(&site, &target, &window);
        let wanted = |record: &DumpedRecord| match record.partition {
            2 if own => record.timestamp >= EPOCH + SPAN / 2,
            partition => {
                (low..high).contains(&record.timestamp) && (partition != 0 || !own || record.offset < 300)
            }
        };
        judge(&site, &target, wanted, &format!("{window:?}"));
        let count = mess.records.iter().filter(|record| wanted(record)).count() as u64;
        assert_eq!(report["records"], count, "{window:?}");
        let plan = &report["plan"];
        let (known, cut) =
            (plan["records"].as_u64().unwrap(), plan["records_in_cut_chunks"].as_u64().unwrap());
        assert!(known <= count && count <= known + cut, "{window:?}: {known} + {cut}, {count}");
        restored += count;
    }
    assert!(restored > 2000, "{restored} records in all windows");
}

/// Whoever is killed in a window goes on in it, beside another restore of the same topic.
#[test]
fn a_killed_window_goes_on() {
    let (site, mut rng) = (site(), Rng::new("kills", 7));
    let mess = Mess::get();
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    for (number, window) in
        [vec![], vec![format!("--from={}", EPOCH + SPAN / 4), "--to=-1m".to_owned()]].into_iter().enumerate()
    {
        let target = format!("killed-{number}");
        let rename = format!("{MESS}={target}");
        let mut args =
            vec!["--topic", MESS, "--rename", &rename, "--no-merge", "--report", report.to_str().unwrap()];
        args.extend(window.iter().map(String::as_str));
        let beside = format!("{MESS}=beside-{number}");
        let beside =
            site.start("restore", &mess.vault, &["--topic", MESS, "--rename", &beside, "--groups", "none"]);
        let mut kills = 0;
        let slowly = [&args[..], &["--limit-write", "12K"]].concat();
        while kills < 5 {
            let mut run = site.start("restore", &mess.vault, &slowly);
            run.leave_alone((Duration::from_millis(300) + rng.millis(900)) * (1 + kills / 2));
            if !run.is_running() {
                run.wait().exits(0);
                break;
            }
            run.kill();
            kills += 1;
        }
        let ran = site.restore(&mess.vault, &args).exits(0).json();
        let document = std::fs::read(&report).unwrap();
        beside.wait().exits(0);
        assert!(kills > 1, "{kills}");
        let from = if number == 0 { i64::MIN } else { EPOCH + SPAN / 4 };
        let wanted = |record: &DumpedRecord| record.timestamp >= from;
        judge(&site, &target, wanted, &format!("{window:?}, {kills} kills"));
        judge_map(&site, &target, wanted, &report);
        // Who has lost the report gets another.
        let again = site.restore(&mess.vault, &args).exits(0).says("nothing to do").json();
        assert_eq!(again["offset_map"], ran["offset_map"]);
        reset_by_map(&site, &target, &report);
        judge(&site, &target, wanted, "reset by map");
        let saved: Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(saved["offset_map"], ran["offset_map"]);
        assert!(list(&saved, "offset_map").len() == PARTITIONS as usize, "{saved:#}");
    }
}

/// Groups that were moved elsewhere come back to where the restore had put them.
fn reset_by_map(site: &Site, target: &str, report: &std::path::Path) {
    let bootstrap = site.cluster.bootstrap();
    let folder = tempfile::tempdir().unwrap();
    for (number, how) in [
        &["--topic", target, "--group", "mess-*", "--to", "earliest"][..],
        &["--vault", Mess::get().vault.url(), "--by", "map"],
    ]
    .into_iter()
    .enumerate()
    {
        let save = folder.path().join(number.to_string());
        let mut args =
            vec!["groups", "reset", "-b", &bootstrap, "--execute", "--save", save.to_str().unwrap()];
        args.extend(how);
        if number == 1 {
            args.extend(["--report", report.to_str().unwrap()]);
        }
        common::bodley(&args).exits(0);
    }
}

/// The map in a report leads from each source offset to the record that follows it.
fn judge_map(site: &Site, target: &str, wanted: impl Fn(&DumpedRecord) -> bool, report: &std::path::Path) {
    let found = site.dump(target).records().unwrap();
    let expected: Vec<&DumpedRecord> = Mess::get().records.iter().filter(|record| wanted(record)).collect();
    for partition in 0..PARTITIONS {
        let end = site.ends(MESS)[partition as usize];
        for offset in (0..end + 5).step_by(37) {
            let (of, offset_text) = (format!("{MESS}:{partition}"), offset.to_string());
            let args = ["show", "--offset-map", "--report", report.to_str().unwrap(), "--output", "json"];
            let args = [&args[..], &["--of", &of, "--offset", &offset_text]].concat();
            let shown = common::bodley(&args).exits(0).json();
            let place = &list(&shown, "places")[0];
            assert_eq!(place["exact"], true);
            let at = place["target_offset"].as_i64().unwrap();
            let (source, target_next) =
                (next(expected.iter().copied(), partition, offset), next(&found, partition, at));
            assert_eq!(target_next, source, "{target}: {partition}:{offset} is said to be {at}");
        }
    }
}

#[test]
fn strategies_of_groups() {
    let site = site();
    let mess = Mess::get();
    for (strategy, flags) in [
        ("earliest", &["--group", "mess-0*"][..]),
        ("latest", &[]),
        ("timestamp", &["--exclude-group", "mess-1*"]),
    ] {
        let target = format!("by-{strategy}");
        let rename = format!("{MESS}={target}");
        let args = [&["--topic", MESS, "--rename", &rename, "--groups", strategy], flags].concat();
        let report = site.restore(&mess.vault, &args).exits(0).json();
        assert_eq!(report["plan"]["group_strategy"], strategy);
        let (ends, found) = (site.ends(&target), site.dump(&target).records().unwrap());
        for (index, position) in mess.groups.iter().enumerate() {
            let group = Mess::group(index);
            let chosen = match strategy {
                "earliest" => group.starts_with("mess-0"),
                "latest" => true,
                _ => !group.starts_with("mess-1"),
            };
            let partition = position.partition;
            let offsets = site.bench.group_offsets(&group).unwrap();
            let at = offsets.iter().find(|o| o.topic == target && o.partition == partition).map(|o| o.offset);
            let next = mess.records.iter().find(|r| r.partition == partition && r.offset >= position.offset);
            let end = ends[partition as usize];
            let expected = match (chosen, strategy) {
                (false, _) => None,
                (true, "earliest") => Some(0),
                (true, "latest") => Some(end),
                (true, _) => Some(next.map_or(end, |next| {
                    let not_older =
                        |r: &&DumpedRecord| r.partition == partition && r.timestamp >= next.timestamp;
                    found.iter().find(not_older).map_or(end, |r| r.offset)
                })),
            };
            assert_eq!(at, expected, "{strategy}: {group} in partition {partition}");
        }
    }
}

#[test]
fn stamps_tell_where_records_come_from() {
    let site = site();
    let mess = Mess::get();
    let rename = format!("{MESS}=stamped");
    site.restore(&mess.vault, &["--topic", MESS, "--rename", &rename, "--stamp-headers", "--groups", "none"])
        .exits(0);
    let found = site.dump("stamped").records().unwrap();
    assert_eq!(
        found.iter().map(content).collect::<Vec<_>>(),
        mess.records.iter().map(content).collect::<Vec<_>>()
    );
    for (found, source) in found.iter().zip(&mess.records) {
        let text = |data: &Option<bodley_testbed::dump::Data>| {
            String::from_utf8(data.as_ref().unwrap().bytes().unwrap()).unwrap()
        };
        let headers: Vec<(&str, String)> =
            found.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
        let expected = [
            ("x-source-topic", MESS.to_owned()),
            ("x-source-partition", source.partition.to_string()),
            ("x-original-offset", source.offset.to_string()),
            ("x-original-timestamp", source.timestamp.to_string()),
        ];
        assert_eq!(headers, expected);
    }
}

#[test]
fn lives_partitions_and_commits() {
    let site = site();
    let vault = Vault::new();
    let write = |what: &str, count| {
        site.topic("phoenix", 4);
        (0..4).for_each(|partition| site.write("phoenix", partition, what, count));
    };
    write("first", 10);
    let backup = || site.backup(&vault, &["--topic", "phoenix"]).exits(0);
    backup();
    site.write("phoenix", 1, "later", 5);
    backup();
    site.bench.delete_topic("phoenix").unwrap();
    while site.has("phoenix") {
        std::thread::sleep(Duration::from_millis(50));
    }
    write("second", 3);
    backup();
    let restore = |target: &str, flags: &[&str]| {
        let rename = format!("phoenix={target}");
        site.restore(&vault, &[&["--topic", "phoenix", "--rename", &rename], flags].concat())
    };
    let values = |topic: &str, partition: i32| -> Vec<String> {
        let records = site.dump(topic).records().unwrap().into_iter();
        records.filter(|r| r.partition == partition).map(|r| r.value_text().unwrap()).collect()
    };
    restore("newest", &[]).exits(0);
    assert_eq!(values("newest", 1), ["second 0", "second 1", "second 2"]);
    restore("oldest", &["--incarnation", "phoenix=0"]).exits(0);
    assert_eq!(values("oldest", 1).len(), 15);
    // The init commit is 1.
    restore("early", &["--at", "2"]).exits(0);
    assert_eq!(values("early", 1).len(), 10);
    restore("some", &["--incarnation", "0", "--partitions", "1,3-3"]).exits(0);
    assert_eq!([0, 1, 2, 3].map(|p| values("some", p).len()), [0, 15, 0, 10]);
    assert_eq!(site.ends("some").len(), 4, "the topic has all partitions");
    // Into more partitions, and into fewer.
    site.topic("wide", 6);
    restore("wide", &[]).exits(0);
    assert_eq!([3, 4, 5].map(|p| values("wide", p).len()), [3, 0, 0]);
    site.topic("narrow", 2);
    restore("narrow", &[]).exits(2).says("has 2 partitions at the target").says("--partitions 0-1");
    restore("narrow", &["--partitions", "0-1"]).exits(0);
    assert_eq!([0, 1].map(|p| values("narrow", p).len()), [3, 3]);
    // Many at once under other names, and the time of a commit.
    let shown = vault.bodley("show", &["--commits"]).exits(0).json();
    let time = list(&shown, "commits")[2]["time"].as_i64().unwrap().to_string();
    site.restore(&vault, &["--at", &time, "--rename", "p*=dr.p*"]).exits(0);
    assert_eq!(values("dr.phoenix", 1).len(), 15);
    assert_eq!(list(&vault.listed(), "topics").len(), 2);
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let site = site();
    let mess = Mess::get();
    let topics = site.bench.topics().unwrap().len();
    let from = format!("--from={}", EPOCH + SPAN / 2);
    let flags = ["--topic", MESS, "--rename", "mess=planned", &from, "--topic-config", "retention.ms=1000"];
    let dry = site.restore(&mess.vault, &[&flags[..], &["--dry-run"]].concat()).exits(0).json();
    let plan = &dry["plan"];
    let topic = &list(plan, "topics")[0];
    assert_eq!((&topic["action"], &topic["target"]), (&"create".into(), &"planned".into()));
    assert_eq!(list(plan, "groups").len(), GROUPS);
    for field in ["bytes", "objects", "reads"] {
        assert!(plan[field].as_u64().unwrap() > 0, "{field}: {plan:#}");
    }
    // All of it is older than a second.
    assert!(topic["expired_records"].as_u64().unwrap() > 0, "{plan:#}");
    assert!(
        list(&dry, "notes").iter().any(|note| note.as_str().unwrap().contains("--hold-retention")),
        "{dry:#}"
    );
    assert!(!site.has("planned"));
    let state = format!("bodley-restore-{}", dry["restore_id"].as_str().unwrap());
    assert!(!site.bench.groups().unwrap().contains(&state), "a dry run has no state");
    // The real run has the same plan.
    let real = site.restore(&mess.vault, &flags).exits(0).json();
    assert_eq!(real["plan"], dry["plan"]);
    assert!(site.has("planned") && site.bench.topics().unwrap().len() > topics);
    // Everything that speaks against a restore is told at once.
    let wrong = [
        "--rename",
        "mess=planned-2",
        "--topic-config",
        "cleanup.policy=nonsense",
        "--replication-factor",
        "9",
        "--dry-run",
    ];
    let wrong = site.restore(&mess.vault, &[&["--topic", MESS][..], &wrong].concat()).exits(2).json();
    let said: Vec<&str> = list(&wrong, "errors").iter().map(|e| e["message"].as_str().unwrap()).collect();
    assert!(said.iter().any(|text| text.contains("replication-factor")), "{said:?}");
    assert!(said.iter().any(|text| text.contains("cleanup.policy")), "{said:?}");
    assert!(!site.has("planned-2"));
}

#[test]
fn nonsense_is_refused_before_anything_is_written() {
    let site = site();
    let mess = Mess::get();
    let cases: &[(&[&str], &str)] = &[
        (&["--from", "2026-01-02"], "no time"),
        (&["--from", "yesterday"], "no time"),
        (&["--from", "-5x"], "no time"),
        (&["--from", "1000", "--to", "1000"], "empty"),
        (&["--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], "inverted"),
        (&["--window", "mess=5..4"], "inverted"),
        (&["--window", "other=4..5"], "other=4..5"),
        (&["--window", "mess:9=4..5"], "mess:9"),
        (&["--window", "mess"], "write TOPIC=FROM..TO"),
        (&["--window", "me*=1..2", "--window", "m*=1..2"], "both choose"),
        (&["--from-offset", "mess:0=9", "--to-offset", "mess:0=9"], "holds no offset"),
        (&["--from-offset", "mess:17=9"], "mess:17"),
        (&["--to-offset", "mess=9"], "TOPIC:PARTITION=OFFSET"),
        (&["--partitions", "0,7"], "partition 7"),
        (&["--partitions", "2-1"], "0,3-5"),
        (&["--incarnation", "4"], "none of this number"),
        (&["--incarnation", "x=0"], "among those"),
        (&["--group", "nobody"], "no consumer group `nobody`"),
        (&["--group", "no*body"], "no consumer group matches"),
        (&["--group", "mess-01", "--groups", "none"], "--groups none"),
        (&["--at", "999"], "commits 1 to 2"),
        (&["--at", "1000000000000"], "younger"),
        (&["--at", "first"], "number of a commit"),
        (&["--topic", "mess2"], "no topic `mess2`"),
        (&["--rename", "*=one"], "both sides"),
        (&["--rename", "x*=y*"], "no topic among those"),
        (&["--report", "/no/such/folder/report.json"], "/no/such/folder"),
    ];
    for (flags, said) in cases {
        let mut args = vec!["--topic", MESS];
        if !flags.contains(&"--rename") {
            args.extend(["--rename", "mess=nonsense"]);
        }
        site.restore(&mess.vault, &[&args, *flags].concat()).exits(2).says(said).within(60);
    }
    assert!(!site.has("nonsense"));
    // Two topics must not become one.
    let vault = site.vault_of(&["mess", "stamped-2", "stamped-3"].map(|name| {
        if name != MESS {
            site.topic(name, 1);
        }
        name
    }));
    site.restore(&vault, &["--topic", "stamped-*", "--rename", "stamped-2=one", "--rename", "stamped-3=one"])
        .exits(2)
        .says("would both become `one`");
    assert!(!site.has("one"));
}

/// What is not wanted is not read: neither other topics nor, where times are roughly in order, other times.
#[test]
fn a_window_costs_what_it_holds() {
    const CHUNK: u64 = 2 << 20;
    let site = site();
    // Its records are old.
    site.bench.create_topic("long", 1, &[("retention.ms", "-1")]).unwrap();
    let records = 60_000;
    let generate = Generate {
        count: records,
        partitions: 1,
        key_bytes: 0,
        value_bytes: 1000,
        distinct_keys: 0,
        seed: 5,
        compressible: false,
        first_timestamp: Some(EPOCH),
        timestamp_step: 10,
    };
    site.bench.generate("long", &generate, &ProduceOptions::default().plain()).unwrap();
    let beside: Vec<String> = (0..12).map(|n| format!("long-beside-{n}")).collect();
    for topic in &beside {
        site.topic(topic, 1);
        site.write(topic, 0, "beside", 50);
    }
    let vault = Vault::new();
    site.backup(&vault, &["--topic", "long*"]).exits(0);
    let listed = vault.listed();
    let bytes = |name: &str| common::topics(&listed, name)[0]["bytes"].as_u64().unwrap();
    let one = site
        .restore(&vault, &["--topic", "long-beside-3", "--rename", "long-beside-3=alone"])
        .exits(0)
        .json();
    assert_eq!(one["bytes"], bytes("long-beside-3"));
    // A tenth of the time, in the middle.
    let (from, to) = (EPOCH + 10 * records as i64 * 45 / 100, EPOCH + 10 * records as i64 * 55 / 100);
    let (from, to) = (format!("--from={from}"), format!("--to={to}"));
    let tenth =
        site.restore(&vault, &["--topic", "long", "--rename", "long=tenth", &from, &to]).exits(0).json();
    assert_eq!(tenth["records"], records / 10);
    let (read, all) = (tenth["bytes"].as_u64().unwrap(), bytes("long"));
    assert!(
        read <= all / 10 + 2 * CHUNK + (1 << 20),
        "{read} bytes of {all} were read for a tenth of the records"
    );
    assert_eq!(site.ends("tenth"), [records as i64 / 10]);
}

/// A topic that ends with the same records holds not all of them for that.
#[test]
fn what_is_added_is_counted() {
    let site = site();
    site.topic("tail", 1);
    site.write("tail", 0, "tail", 30);
    let vault = site.vault_of(&["tail"]);
    let restore = |flags: &[&str]| {
        site.restore(&vault, &[&["--topic", "tail", "--rename", "tail=tail-2"], flags].concat())
    };
    restore(&["--from-offset", "tail:0=20"]).exits(0);
    assert_eq!(site.ends("tail-2"), [10]);
    restore(&["--append"]).exits(2).says("can't be told whether all of them are there").says("--restore-id");
    restore(&["--append", "--restore-id", "all-of-it"]).exits(0);
    restore(&["--append", "--restore-id", "all-of-it"]).exits(0).says("nothing to do");
    assert_eq!(site.dump("tail-2").len(), 40);
    restore(&["--append", "--restore-id", "once-more"]).exits(0);
    assert_eq!(site.dump("tail-2").len(), 70);
    // All was sent by one run: recognised, also after a week.
    site.restore(&vault, &["--topic", "tail", "--rename", "tail=tail-3"]).exits(0);
    site.forget_restores();
    let again = ["--topic", "tail", "--rename", "tail=tail-3", "--append"];
    site.restore(&vault, &again).exits(0).says("ends with these very records");
}

/// A report replaces a report, and nothing else.
#[test]
fn reports_replace_reports_only() {
    let site = site();
    site.topic("reported", 1);
    site.write("reported", 0, "reported", 5);
    let vault = site.vault_of(&["reported"]);
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine.json");
    std::fs::write(&mine, "{}").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&mine, &link).unwrap();
    let inside = vault.root().join("report.json");
    let restore = |report: &std::path::Path, more: &[&str]| {
        let report = report.to_str().unwrap();
        let flags = ["--topic", "reported", "--rename", "reported=reported-2", "--report", report];
        site.restore(&vault, &[&flags[..], more].concat())
    };
    restore(&mine, &[]).exits(2).says("no report of a restore");
    restore(&link, &[]).exits(2).says("no regular file");
    restore(&inside, &[]).exits(2).says("in the vault");
    restore(&vault.root().join("vault.json"), &[]).exits(2);
    let report = folder.path().join("report.json");
    restore(&report, &["--dry-run"]).exits(2).says("--dry-run");
    restore(&report, &["--state", report.to_str().unwrap()]).exits(2).says("--state");
    assert!(!site.has("reported-2") && !inside.exists() && !report.exists());
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "{}");
    vault.verified();
    restore(&report, &[]).exits(0);
    restore(&report, &[]).exits(0).says("nothing to do");
    // Whose map it is.
    let shown = |flags: &[&str]| common::bodley(&[&["show", "--offset-map", "--report"], flags].concat());
    shown(&[report.to_str().unwrap(), "--of", "reported:0", "--offset", "3"]).exits(0).says("yes");
    shown(&[report.to_str().unwrap(), "--of", "other"]).exits(2);
    let text = std::fs::read_to_string(&report).unwrap();
    let bootstrap = site.cluster.bootstrap();
    let reset = |text: String| {
        std::fs::write(&mine, text).unwrap();
        let flags = ["groups", "reset", "-b", &bootstrap, "--vault", vault.url(), "--by", "map", "--report"];
        common::bodley(&[&flags[..], &[mine.to_str().unwrap()]].concat())
    };
    let cluster = serde_json::from_str::<Value>(&text).unwrap()["plan"]["target_cluster"].clone();
    reset(text.replace(cluster.as_str().unwrap(), "elsewhere")).exits(2).says("elsewhere");
    let mut hostile: Value = serde_json::from_str(&text).unwrap();
    hostile["offset_map"][0]["runs"] = serde_json::json!([[0, 10, 0, -1]]);
    reset(hostile.to_string()).exits(2).says("don't add up");
    reset(text.get(..100).unwrap().to_owned()).exits(2).says("no report of a restore");
}

//! Topics in message formats 0 and 1, as a Kafka before 0.11 wrote them: stored as they are, restored in the format of today, on a Kafka 2.4.1 that still writes
//! both, judged by Apache's own client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bodley_testbed::dump::DumpedRecord;
use bodley_testbed::workbench::{BatchInfo, Codec, Generate, GroupOffset, ProduceOptions, Record};
use bodley_testbed::{Cluster, ClusterOptions, shared_cluster};
use serde_json::Value;

use common::judge::{Python, same, same_digests};
use common::site::Site;
use common::vault::Vault;
use common::{Rng, bodley, list};

const KAFKA: &str = "2.4.1";
const FORMAT: &str = "message.format.version";
/// What brokers call formats 0 and 1.
const FORMATS: [(&str, i8); 2] = [("0.9.0", 0), ("0.10.0", 1)];
const CODECS: [Codec; 4] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4];
/// Times of records count from here: September 2025.
const EPOCH: i64 = 1_757_000_000_000;
const GROUP: &str = "old-readers";
/// Records of a topic that are in one compressed message.
const SET: u32 = 20;
/// The topic with an append time: sets have one for all of their records.
const STAMPED: &str = "old-stamped";
/// 24 MiB of format 1.
const LARGE: &str = "large";

fn name(magic: i8, codec: Codec) -> String {
    format!("old-{magic}-{}", codec.name())
}

/// One whose keys were written again and again, and cleaned.
fn cleaned(magic: i8, codec: Codec) -> String {
    format!("old-cleaned-{magic}-{}", codec.name())
}

/// Nulls, empty ones, times in no order.
fn record(n: i64) -> Record {
    let mut record = Record::new(0).at(EPOCH + (n * 37) % 1000 * 10);
    if n % 7 != 0 {
        record = record.key(format!("key-{n}"));
    }
    match n % 11 {
        0 => record,
        5 => record.value(""),
        _ => record.value(format!("{n} {}", "x".repeat(n as usize % 60))),
    }
}

/// A Kafka 2.4.1 with old topics, and a vault of them: what was written before the format was raised, and what came behind.
struct Old {
    site: Site,
    vault: Vault,
    topics: BTreeSet<String>,
}

impl Old {
    fn get() -> &'static Self {
        static MADE: OnceLock<Old> = OnceLock::new();
        MADE.get_or_init(Self::make)
    }

    fn make() -> Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        let options = ClusterOptions::new().version(KAFKA);
        let site = Site::at(CLUSTER.get_or_init(|| Cluster::start(options).unwrap()));
        let vault = Vault::below(site.cluster.dir());
        let mut old = Self { site, vault, topics: BTreeSet::new() };
        for (format, magic) in FORMATS {
            for codec in CODECS {
                old.create(&name(magic, codec), format, &[]);
                old.write(&name(magic, codec), codec, 0..100);
                old.create(
                    &cleaned(magic, codec),
                    format,
                    &[("cleanup.policy", "compact"), ("segment.bytes", "1200")],
                );
                old.write_again(&cleaned(magic, codec), codec);
            }
        }
        old.create(STAMPED, "0.10.0", &[("message.timestamp.type", "LogAppendTime")]);
        old.write(STAMPED, Codec::Gzip, 0..60);
        old.write(STAMPED, Codec::None, 60..70);
        for topic in old.topics.iter().filter(|topic| topic.contains("cleaned")) {
            old.wait_until_cleaned(topic);
        }
        old.check_written();
        let middle =
            |topic: &String| GroupOffset::new(topic, 0, if topic.contains("cleaned") { 5 } else { 47 });
        let positions: Vec<GroupOffset> = old.topics.iter().map(middle).collect();
        old.site.bench.commit_offsets(GROUP, &positions).unwrap();
        old.site.backup(&old.vault, &["--topic", "old-*"]).exits(0);
        old.go_on();
        old.site.backup(&old.vault, &["--topic", "old-*"]).exits(0);
        old
    }

    fn create(&mut self, topic: &str, format: &str, more: &[(&str, &str)]) {
        let settings = [&[(FORMAT, format), ("retention.ms", "-1")], more].concat();
        self.site.bench.create_topic(topic, 1, &settings).unwrap();
        self.topics.insert(topic.to_owned());
    }

    fn write(&self, topic: &str, codec: Codec, numbers: std::ops::Range<i64>) {
        let records: Vec<Record> = numbers.map(record).collect();
        let options = ProduceOptions::codec(codec).flush_every(SET).plain();
        self.site.bench.produce(topic, &records, &options).unwrap();
    }

    /// Sets of ten keys, of which later ones take the first, some in the middle, and the last. What comes last fills segments, so that the others are cleaned.
    fn write_again(&self, topic: &str, codec: Codec) {
        let first: Vec<i64> = (0..10).collect();
        let second: Vec<i64> = (10..20).collect();
        let rounds = [&first[..], &second, &[0, 1, 4, 5], &[13, 19], &[20, 21], &[99], &[99]];
        let mut rng = Rng::new(topic, 1);
        for (round, keys) in rounds.iter().enumerate() {
            let len = if keys == &[99] { 60 } else { 3 };
            let record = |key: &i64| {
                let noise: String = (0..len).map(|_| format!("{:016x}", rng.below(u64::MAX))).collect();
                Record::new(0).key(format!("key-{key}")).value(format!("{round} {noise}")).at(EPOCH + key)
            };
            let records: Vec<Record> = keys.iter().map(record).collect();
            self.site.bench.produce(topic, &records, &ProduceOptions::codec(codec).plain()).unwrap();
        }
    }

    fn wait_until_cleaned(&self, topic: &str) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.site.dump(topic).len() != 24 {
            assert!(Instant::now() < deadline, "{topic} is not cleaned");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn batches(&self, topic: &str) -> Vec<BatchInfo> {
        self.site.cluster.batches(0, topic, 0).unwrap()
    }

    /// What lies in the logs is what this test is about.
    fn check_written(&self) {
        for (_, magic) in FORMATS {
            for codec in CODECS {
                for topic in [name(magic, codec), cleaned(magic, codec)] {
                    let batches = self.batches(&topic);
                    assert!(
                        batches.iter().all(|b| b.magic == magic && b.codec == codec.name()),
                        "{topic}: {batches:?}"
                    );
                }
                let sets = self.batches(&name(magic, codec));
                assert_eq!(sets.len(), if codec == Codec::None { 100 } else { 5 }, "{sets:?}");
            }
        }
        let stamped = self.batches(STAMPED);
        assert!(stamped.iter().all(|b| b.magic == 1 && b.timestamp_type == "LogAppendTime"), "{stamped:?}");
        // A set that lost records in its middle is still one.
        let holes = |topic: &str| {
            let offsets: BTreeSet<i64> =
                self.site.dump(topic).records().unwrap().iter().map(|r| r.offset).collect();
            let has_hole =
                |b: &&BatchInfo| (b.base_offset..b.last_offset).any(|offset| !offsets.contains(&offset));
            self.batches(topic).iter().filter(has_hole).count()
        };
        assert!(holes(&cleaned(1, Codec::Gzip)) >= 2 && holes(&cleaned(0, Codec::Lz4)) >= 2);
    }

    /// The format is raised, and batches of today follow; then, in one topic, lowered again. Topics of gzip stay as they are.
    fn go_on(&self) {
        for topic in self.topics.iter().filter(|topic| !is_left_old(topic)) {
            self.site.bench.alter_config(topic, &[], &[FORMAT]).unwrap();
        }
        for (_, magic) in FORMATS {
            for codec in CODECS {
                let topic = name(magic, codec);
                if is_left_old(&topic) {
                    self.write(&topic, codec, 100..150);
                    continue;
                }
                let records: Vec<Record> = (100..150).map(|n| record(n).header("h", Some(b"1"))).collect();
                let options = ProduceOptions::codec(codec).flush_every(SET);
                self.site.bench.produce(&topic, &records, &options).unwrap();
            }
        }
        let mixed = name(1, Codec::Lz4);
        self.site.bench.alter_config(&mixed, &[(FORMAT, "0.10.0")], &[]).unwrap();
        self.write(&mixed, Codec::Lz4, 150..190);
        let magics: Vec<i8> = self.batches(&mixed).iter().map(|batch| batch.magic).collect();
        assert_eq!(magics, [1, 1, 1, 1, 1, 2, 2, 2, 1, 1]);
    }

    /// All records in old formats.
    fn old_records(&self) -> u64 {
        let of = |topic: &String| {
            let records = self.site.dump(topic).records().unwrap();
            let old: Vec<BatchInfo> = self.batches(topic).into_iter().filter(|b| b.magic < 2).collect();
            let is_old = |record: &&DumpedRecord| {
                old.iter().any(|b| (b.base_offset..=b.last_offset).contains(&record.offset))
            };
            records.iter().filter(is_old).count() as u64
        };
        self.topics.iter().map(of).sum()
    }
}

fn is_left_old(topic: &str) -> bool {
    topic.ends_with("gzip")
}

/// Value, time, and all else that must be the same.
fn content(record: &DumpedRecord) -> (i64, Option<String>, Option<String>) {
    (record.timestamp, record.key_text(), record.value_text())
}

/// All topics came to `target` under the names that `named` makes: their records, in batches of today in their own compression, and the group.
fn judge(target: &Site, named: impl Fn(&str) -> String) {
    let old = Old::get();
    let positions = target.bench.group_offsets(GROUP).unwrap();
    let committed = old.site.bench.group_offsets(GROUP).unwrap();
    for topic in &old.topics {
        let there = named(topic);
        let (source, found) = (old.site.dump(topic), target.dump(&there));
        same(&source, &found);
        let (source, found) = (source.records().unwrap(), found.records().unwrap());
        let batches = target.cluster.batches(0, &there, 0).unwrap();
        let data: Vec<&BatchInfo> = batches.iter().filter(|batch| !batch.control).collect();
        assert!(data.iter().all(|batch| batch.magic == 2 && !batch.has_holes()), "{there}: {data:?}");
        let codecs = |batches: &[BatchInfo]| -> BTreeSet<String> {
            batches.iter().filter(|b| !b.control).map(|batch| batch.codec.clone()).collect()
        };
        assert_eq!(codecs(&batches), codecs(&old.batches(topic)), "{there}");
        let position = |of: &[GroupOffset], topic: &str| of.iter().find(|p| p.topic == topic).unwrap().offset;
        let (before, now) = (position(&committed, topic), position(&positions, &there));
        let next = |records: &[DumpedRecord], at: i64| {
            records.iter().find(|record| record.offset >= at).map(content)
        };
        assert_eq!(
            next(&found, now),
            next(&source, before),
            "{there}: the group is at {now}, it was at {before}"
        );
        assert!(next(&found, now).is_some(), "{there}");
    }
}

fn number(document: &Value, field: &str) -> u64 {
    document[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in {document:#}"))
}

#[test]
fn what_is_stored_is_what_a_consumer_saw() {
    let old = Old::get();
    let verified = old.vault.verified();
    assert!(list(&verified, "gaps").is_empty(), "{verified:#}");
    let records: u64 = old.topics.iter().map(|topic| old.site.dump(topic).len()).sum();
    assert_eq!(number(&verified, "records"), records);
    let python = Python::read(&old.vault, &[]);
    for topic in &old.topics {
        let seen = old.site.dump(topic);
        python.saw(topic, &seen);
        let printed = bodley(&["cat", "--vault", old.vault.url(), "--topic", topic]).exits(0);
        let printed: Vec<Value> =
            printed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let shown = |line: &Value| {
            (line["offset"].as_i64(), line["timestamp"].as_i64(), line["key"].clone(), line["value"].clone())
        };
        let text = |text: Option<String>| text.map_or(Value::Null, Value::String);
        let expected: Vec<_> = seen
            .records()
            .unwrap()
            .iter()
            .map(|r| (Some(r.offset), Some(r.timestamp), text(r.key_text()), text(r.value_text())))
            .collect();
        assert_eq!(printed.iter().map(shown).collect::<Vec<_>>(), expected, "{topic}");
    }
}

#[test]
fn it_comes_back_to_the_same_cluster() {
    let old = Old::get();
    let args = ["--topic", "old-*", "--rename", "old-*=back-*"];
    let ran = old.site.restore(&old.vault, &args).exits(0).says("message formats 0 and 1").json();
    let expected = old.old_records();
    assert_eq!(number(&ran, "records_in_old_formats"), expected);
    assert_eq!(number(&ran["plan"], "records_in_old_formats"), expected);
    judge(&old.site, |topic| topic.replace("old-", "back-"));
    for topic in &old.topics {
        let own = |topic: &str| old.site.bench.describe(topic).unwrap().own_configs();
        assert_eq!(own(&topic.replace("old-", "back-")), own(topic));
    }
    old.site.restore(&old.vault, &args).exits(0).says("nothing to do");
}

#[test]
fn it_comes_to_a_kafka_that_knows_no_such_formats() {
    let (old, new) = (Old::get(), Site::at(shared_cluster().unwrap()));
    // Segments as small as these are, Kafka 4 does not take.
    let all = ["--topic", "old-*", "--topic-config", "segment.bytes=1048576"];
    let planned = new.restore(&old.vault, &[&all[..], &["--dry-run"]].concat()).exits(0).json();
    assert_eq!(number(&planned["plan"], "records_in_old_formats"), old.old_records());
    // One by one, too, each in a batch of its own where it was not compressed.
    let stay = ["--topic", "old-?-none", "--rename", "*=alone-*", "--no-merge", "--groups", "none"];
    new.restore(&old.vault, &stay).exits(0);
    for magic in [0, 1] {
        let topic = name(magic, Codec::None);
        same(&old.site.dump(&topic), &new.dump(&format!("alone-{topic}")));
    }
    new.restore(&old.vault, &all).exits(0);
    judge(&new, str::to_owned);
}

#[test]
fn any_window_holds_what_a_consumer_saw() {
    let (old, mut rng) = (Old::get(), Rng::new("windows of old formats", 5));
    let mut restored = 0;
    for round in 0..12 {
        let topic = old.topics.iter().nth(rng.below(old.topics.len() as u64) as usize).unwrap();
        let (a, b) = (rng.below(10_000) as i64, rng.below(10_000) as i64);
        let (from, to) = (EPOCH + a.min(b), EPOCH + a.max(b) + 1);
        let (first, last) = (rng.below(60) as i64, 60 + rng.below(100) as i64);
        let target = format!("window-{round}");
        let rename = format!("{topic}={target}");
        let mut args = vec![
            "--topic".to_owned(),
            topic.clone(),
            "--rename".into(),
            rename,
            "--groups".into(),
            "none".into(),
        ];
        let by_time = topic.contains("old-1") && round % 3 != 0;
        match by_time {
            true => args.extend([format!("--from={from}"), format!("--to={to}")]),
            false => args.extend([
                format!("--from-offset={topic}:0={first}"),
                format!("--to-offset={topic}:0={last}"),
            ]),
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = old.site.restore(&old.vault, &args).exits(0).json();
        let wanted = |record: &&DumpedRecord| match by_time {
            true => (from..to).contains(&record.timestamp),
            false => (first..last).contains(&record.offset),
        };
        let source = old.site.dump(topic).records().unwrap();
        let expected: Vec<_> = source.iter().filter(wanted).map(content).collect();
        let found = old.site.dump(&target).records().unwrap();
        assert_eq!(found.iter().map(content).collect::<Vec<_>>(), expected, "{args:?}");
        assert_eq!(number(&ran, "records"), expected.len() as u64);
        restored += expected.len();
    }
    assert!(restored > 200, "{restored} records in all windows");
}

#[test]
fn a_replica_and_a_rebuilt_vault_are_whole() {
    let old = Old::get();
    let records = number(&old.vault.verified(), "records");
    let copy = Vault::new();
    old.vault.bodley("copy", &["--to-vault", copy.url()]).exits(0);
    assert_eq!(number(&copy.verified(), "records"), records);
    for object in copy.objects_in("log/") {
        copy.lose(&object);
    }
    let rebuilt = Vault::new();
    copy.bodley("rebuild", &["--to-vault", rebuilt.url()]).exits(0);
    assert_eq!(number(&rebuilt.verified(), "records"), records);
}

/// A broker forgets at once who wrote records that are so old.
#[test]
fn killed_until_done() {
    let (old, mut rng) = (Old::get(), Rng::new("kills", 3));
    let site = &old.site;
    site.bench.create_topic(LARGE, 2, &[(FORMAT, "0.10.0"), ("retention.ms", "-1")]).unwrap();
    for codec in [Codec::None, Codec::Lz4] {
        let load = Generate {
            count: 3_000,
            partitions: 2,
            value_bytes: 4096,
            first_timestamp: Some(1_500_000_000_000),
            ..Generate::default()
        };
        let options =
            ProduceOptions { batch_bytes: 64 << 10, linger_ms: 20, ..ProduceOptions::codec(codec).plain() };
        site.bench.generate(LARGE, &load, &options).unwrap();
    }
    let vault = site.vault_of(&[LARGE]);
    let (mut kills, target) = (0, "large-back");
    loop {
        let rename = format!("{LARGE}={target}");
        let args = ["--topic", LARGE, "--rename", &rename, "--limit-write", "8M"];
        let args = if kills % 3 == 1 { [&args[..], &["--no-merge"]].concat() } else { args.to_vec() };
        let mut run = site.start("restore", &vault, &args);
        // Where starting takes long, it is given more time after some kills.
        let patience = (Duration::from_millis(300) + rng.millis(1000)) * (1 + kills / 8);
        if !run.leave_alone(patience).is_running() {
            run.wait().exits(0);
            break;
        }
        run.kill();
        kills += 1;
        assert!(kills < 100, "it makes no progress");
    }
    assert!(kills >= 2, "only {kills} kills");
    same_digests(&site.bench, LARGE, target);
}

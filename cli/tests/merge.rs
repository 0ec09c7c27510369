//! Runs of small batches come back in large ones: the same records in fewer requests, wherever a run is cut and whatever the topic takes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use bodley_testbed::ClusterOptions;
use bodley_testbed::broker::kafka_protocol::messages::ApiKey;
use bodley_testbed::workbench::{BatchInfo, Codec, Generate, GroupOffset, ProduceOptions, Record};
use serde_json::Value;

use common::judge::{same, same_digests};
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{Ran, Running};

/// Each record is a batch.
const TINY: &str = "tiny";
const TINY_RECORDS: i64 = 20_000;
/// The same in one codec each.
const PACKED_RECORDS: u64 = 1_000;

/// Every record is a batch of its own.
fn one_by_one(codec: Codec) -> ProduceOptions {
    ProduceOptions { batch_bytes: 1, linger_ms: 0, ..ProduceOptions::codec(codec) }
}

fn packed(codec: Codec) -> String {
    format!("tiny-{}", codec.name())
}

fn fill(site: &Site) {
    site.topic(TINY, 1);
    let load = Generate { count: TINY_RECORDS as u64, ..Generate::default() };
    site.bench.generate(TINY, &load, &one_by_one(Codec::None)).unwrap();
    for codec in Codec::ALL {
        site.topic(&packed(codec), 2);
        let load =
            Generate { count: PACKED_RECORDS, partitions: 2, compressible: true, ..Generate::default() };
        site.bench.generate(&packed(codec), &load, &one_by_one(codec)).unwrap();
    }
}

fn stage() -> Stage {
    static SLOT: [Slot; 1] = [Slot::new()];
    Slot::stage(&SLOT, ClusterOptions::new(), fill)
}

impl Stage {
    fn restoring(&self, vault: &Vault, topic: &str, target: &str, more: &[&str]) -> Running {
        let rename = format!("{topic}={target}");
        self.start("restore", vault, &[&["--topic", topic, "--rename", &rename], more].concat())
    }

    /// The batches of data in a partition's log.
    fn stored(&self, topic: &str, partition: i32) -> Vec<BatchInfo> {
        let mut batches = self.cluster.batches(0, topic, partition).unwrap();
        batches.retain(|batch| !batch.control);
        batches
    }
}

fn merged(report: &Value) -> (usize, usize) {
    let number = |field: &str| report["merged"][field].as_u64().unwrap() as usize;
    (number("batches"), number("into"))
}

#[test]
fn twenty_thousand_batches_take_few_requests() {
    let stage = stage();
    assert_eq!(stage.stored(TINY, 0).len(), TINY_RECORDS as usize);
    let vault = stage.vault_of(&[TINY]);
    let steps = stage.cluster.proxy(0).unwrap().count_requests();
    let report = stage.restoring(&vault, TINY, "tiny-back", &[]).wait().exits(0).json();
    let produced = steps.apis().iter().filter(|api| **api == ApiKey::Produce as i16).count();
    same_digests(&stage.bench, TINY, "tiny-back");
    let stored = stage.stored("tiny-back", 0);
    assert!(stored.len() < 40 && produced < 40, "{produced} requests, {stored:?}");
    assert!(stored.iter().all(|batch| batch.bytes <= 256 << 10), "{stored:?}");
    assert_eq!(merged(&report), (TINY_RECORDS as usize, stored.len()));
    stage.bench.delete_topic("tiny-back").unwrap();
}

#[test]
fn batches_stay_in_their_codec() {
    let stage = stage();
    for codec in Codec::ALL {
        let (topic, target) = (packed(codec), format!("back-{}", codec.name()));
        let vault = stage.vault_of(&[&topic]);
        stage.restoring(&vault, &topic, &target, &[]).wait().exits(0);
        same(&stage.dump(&topic), &stage.dump(&target));
        for partition in 0..2 {
            let stored = stage.stored(&target, partition);
            assert!(stored.len() <= 3, "{} batches in {}", stored.len(), codec.name());
            assert!(stored.iter().all(|batch| batch.codec == codec.name()), "{stored:?}");
        }
        stage.bench.delete_topic(&target).unwrap();
        // As they were, when that is wanted.
        let report = stage.restoring(&vault, &topic, &target, &["--no-merge"]).wait().exits(0).json();
        assert_eq!(report.get("merged"), None);
        same(&stage.dump(&topic), &stage.dump(&target));
        let sizes = |topic: &str| stage.stored(topic, 0).iter().map(|batch| batch.bytes).collect::<Vec<_>>();
        assert_eq!(sizes(&target), sizes(&topic));
        stage.bench.delete_topic(&target).unwrap();
    }
}

/// Small and large batches, codecs in turn, transactions, and groups in the midst of what is merged.
#[test]
fn all_kinds_in_one_partition() {
    let stage = stage();
    let topic = "kinds";
    stage.topic(topic, 1);
    let record = |n: usize| {
        let record =
            Record::new(0).key(format!("k{n}")).at(1_600_000_000_000 - (n as i64 * 7_919_777) % 86_400_000);
        match n % 4 {
            0 => record,
            1 => record.value(format!("value {n}")).header("h", None).header("h", Some(b"")),
            _ => record.value(vec![n as u8; n % 900]),
        }
    };
    let mut n = 0;
    for round in 0..3 {
        for codec in Codec::ALL {
            let some: Vec<Record> = (n..n + 50).map(record).collect();
            n += 50;
            stage.bench.produce(topic, &some, &ProduceOptions::codec(codec).flush_every(1 + round)).unwrap();
            let name = format!("kinds-{}", codec.name());
            stage.bench.begin(&name, &ProduceOptions::codec(codec)).unwrap();
            stage.bench.send(&name, topic, &[record(n), record(n + 1)]).unwrap();
            if round == 1 { stage.bench.abort(&name) } else { stage.bench.commit(&name) }.unwrap();
            n += 2;
        }
        let large = vec![Record::new(0).value(vec![9; 100_000]), Record::new(0).value(vec![8; 300_000])];
        stage.bench.produce(topic, &large, &ProduceOptions::default().flush_every(1)).unwrap();
    }
    stage.wait_until_decided(topic);
    let end = stage.ends(topic)[0];
    let groups: Vec<(String, i64)> = (0..end).step_by(37).map(|at| (format!("kinds-{at}"), at)).collect();
    for (group, at) in &groups {
        stage.bench.commit_offsets(group, &[GroupOffset::new(topic, 0, *at)]).unwrap();
    }
    let vault = stage.vault_of(&[topic]);
    let (source, before) = (stage.dump(topic), stage.stored(topic, 0).len());
    for flags in [&[][..], &["--no-merge"][..]] {
        stage.restoring(&vault, topic, "kinds-back", flags).wait().exits(0);
        let back = stage.dump("kinds-back");
        same(&source, &back);
        let stored = stage.stored("kinds-back", 0);
        assert!(!flags.is_empty() || stored.len() * 4 < before, "{} of {before} batches", stored.len());
        let behind = |dump: &bodley_testbed::Dump, offset| {
            dump.iter().unwrap().filter(|record| record.as_ref().unwrap().offset < offset).count()
        };
        for (group, at) in &groups {
            let now = stage.bench.group_offsets(group).unwrap();
            let now = now.iter().find(|position| position.topic == "kinds-back").unwrap();
            assert_eq!(behind(&back, now.offset), behind(&source, *at), "{group} at {}", now.offset);
        }
        stage.bench.delete_topic("kinds-back").unwrap();
    }
    stage.bench.delete_topic(topic).unwrap();
}

/// What a topic takes for good bounds what is merged, not only what it takes while it is restored; likewise in a topic in use.
#[test]
fn topics_that_take_small_batches() {
    let stage = stage();
    let vault = stage.vault_of(&[TINY]);
    let is_bounded = |target: &str, most: u32, first: usize| {
        let stored = stage.stored(target, 0);
        let stored = &stored[first..];
        assert!(stored.iter().all(|batch| batch.bytes <= most), "{target}");
        let average = TINY_RECORDS as usize / stored.len();
        assert!(average > 5, "{average} records per batch in {target}");
    };
    let setting = ["--topic-config", "max.message.bytes=2000"];
    stage.restoring(&vault, TINY, "bounded", &setting).wait().exits(0);
    same_digests(&stage.bench, TINY, "bounded");
    is_bounded("bounded", 2000, 0);
    // The broker packs these anew.
    let settings = [("max.message.bytes", "3000"), ("compression.type", "gzip")];
    stage.bench.create_topic("in-use", 1, &settings).unwrap();
    stage.write("in-use", 0, "mine", 1);
    stage.restoring(&vault, TINY, "in-use", &["--append"]).wait().exits(0);
    assert_eq!(stage.dump("in-use").len(), TINY_RECORDS as u64 + 1);
    is_bounded("in-use", 3000, 1);
    for topic in ["bounded", "in-use"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// A restore that is cut goes on from there, whether the one or the other merges; and one that is done is known as such without its state.
#[test]
fn cut_and_gone_on_with_otherwise() {
    let stage = stage();
    let vault = stage.vault_of(&[TINY]);
    let flags = |merge: bool| if merge { &[][..] } else { &["--no-merge"][..] };
    for (first, second) in [(true, false), (false, true)] {
        let target = format!("cut-{first}");
        let slow = |merge| {
            stage.restoring(&vault, TINY, &target, &[flags(merge), &["--limit-write", "700K"]].concat())
        };
        let mut run = slow(first);
        stage.until(&mut run, &target, 3_000);
        run.kill();
        let mut run = slow(second);
        stage.until(&mut run, &target, 9_000);
        run.kill();
        let again = |merge| -> Ran { stage.restoring(&vault, TINY, &target, flags(merge)).wait().exits(0) };
        let report = again(first).json();
        assert_eq!(report["records"], TINY_RECORDS);
        same_digests(&stage.bench, TINY, &target);
        again(second).says("nothing to do");
        stage.forget_restores();
        again(first).says("holds these very records already");
        again(second).says("nothing to do");
        stage.bench.delete_topic(&target).unwrap();
    }
}

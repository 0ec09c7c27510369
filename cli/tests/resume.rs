//! Restores that are cut, and go on: exactly once, whatever was still on its way.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::fs;
use std::path::Path;

use bodley_testbed::dump::Data;
use bodley_testbed::workbench::{Generate, GroupOffset, ProduceOptions, Record};
use bodley_testbed::{ClusterOptions, Dump, Isolation, compare_digests};
use serde_json::{Value, json};

use common::in_flight::InFlight;
use common::judge::same_digests;
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{Rng, Running, list, seconds, soak};

/// 24 MiB in four partitions, records of 4 KiB in batches of at most 64 KiB, written today.
const NEW: &str = "new";
/// The same, dated 2017: a broker forgets the producers of such records at its next look, every three seconds here.
const OLD: &str = "old";

fn fill(site: &Site, partitions: i32) {
    for (topic, first_timestamp) in [(NEW, None), (OLD, Some(1_500_000_000_000))] {
        site.bench.create_topic(topic, partitions, &[("retention.ms", "-1")]).unwrap();
        let load =
            Generate { count: 6_000, partitions, value_bytes: 4096, first_timestamp, ..Generate::default() };
        let options = ProduceOptions { batch_bytes: 64 << 10, linger_ms: 20, ..ProduceOptions::default() };
        site.bench.generate(topic, &load, &options).unwrap();
    }
}

fn one() -> Stage {
    static ONES: [Slot; 2] = [Slot::new(), Slot::new()];
    Slot::stage(&ONES, ClusterOptions::new(), |site| fill(site, 4))
}

fn three() -> Stage {
    static THREE: [Slot; 1] = [Slot::new()];
    Slot::stage(&THREE, ClusterOptions::new().nodes(3), |site| fill(site, 6))
}

impl Stage {
    /// Starts a restore of one topic under another name, slow enough to be met on its way.
    fn restoring(&self, vault: &Vault, topic: &str, target: &str, more: &[&str]) -> Running {
        let rename = format!("{topic}={target}");
        let fixed = ["--topic", topic, "--rename", &rename, "--limit-write", "8M"];
        self.start("restore", vault, &[&fixed, more].concat())
    }

    /// The restore is done, with equal records and the source's settings, and a further run finds nothing to do.
    #[track_caller]
    fn judge(&self, vault: &Vault, topic: &str, target: &str, more: &[&str]) {
        same_digests(&self.bench, topic, target);
        let own = |topic| self.bench.describe(topic).unwrap().own_configs();
        assert_eq!(own(target), own(topic));
        let before = self.ends(target);
        self.restoring(vault, topic, target, more).wait().exits(0).says("nothing to do");
        assert_eq!(self.ends(target), before);
        self.bench.delete_topic(target).unwrap();
    }
}

/// Killed again and again, until it is done.
fn killed_until_done(stage: &Stage, topic: &str, target: &str, seed: u64) -> usize {
    let vault = stage.vault_of(&[topic]);
    let mut rng = Rng::new(target, seed);
    let mut kills: u32 = 0;
    loop {
        let mut run = stage.restoring(&vault, topic, target, &[]);
        // A run takes some three seconds; the first steps, and the fence of later runs, take a fraction of one.
        let patience = if kills.is_multiple_of(2) { rng.millis(400) } else { rng.millis(1200) };
        // Where all that takes longer, more time is given after some kills.
        if !run.leave_alone(patience * (1 + kills / 16)).is_running() {
            run.wait().exits(0);
            break;
        }
        run.kill();
        kills += 1;
        assert!(kills < 100, "it makes no progress");
    }
    stage.judge(&vault, topic, target, &[]);
    kills as usize
}

#[test]
fn killed_at_any_moment() {
    let rounds = if soak() { 40 } else { 1 };
    let kills = [NEW, OLD].iter().map(|topic| {
        let stage = one();
        let round = |seed| killed_until_done(&stage, topic, &format!("{topic}-killed-{seed}"), seed);
        (0..rounds).map(round).sum::<usize>()
    });
    let kills: usize = kills.sum();
    eprintln!("{kills} kills");
    assert!(kills >= 6 * rounds as usize, "only {kills} kills");
}

#[test]
fn killed_while_brokers_die_and_leaders_move() {
    let stage = three();
    let vault = stage.vault_of(&[OLD]);
    let mut rng = Rng::new("kills of both", 5);
    for round in 0..if soak() { 12 } else { 2 } {
        let target = format!("both-{round}");
        let mut run = stage.restoring(&vault, OLD, &target, &[]);
        stage.until(&mut run, &target, 300);
        run.leave_alone(rng.millis(800));
        let node = stage.cluster.node(rng.below(3) as usize).unwrap();
        node.kill().unwrap();
        run.leave_alone(rng.millis(600));
        run.kill();
        let mut run = stage.restoring(&vault, OLD, &target, &[]);
        run.leave_alone(seconds(1.0));
        node.start().unwrap();
        run.wait().exits(0);
        stage.cluster.wait_until_up().unwrap();
        stage.judge(&vault, OLD, &target, &[]);
    }
}

/// acks=all and a follower that stands still: requests time out, and are stored all the same when it goes on.
#[test]
fn a_follower_stands_still() {
    let stage = three();
    let vault = stage.vault_of(&[OLD]);
    let replicated = ["--topic-config", "min.insync.replicas=3", "--replication-factor", "3"];
    let mut run = stage.restoring(&vault, OLD, "still", &replicated);
    stage.until(&mut run, "still", 500);
    let node = stage.cluster.node(1).unwrap();
    node.pause().unwrap();
    run.leave_alone(seconds(2.0));
    run.kill();
    let mut run = stage.restoring(&vault, OLD, "still", &replicated);
    run.leave_alone(seconds(3.0));
    node.resume().unwrap();
    run.wait().exits(0);
    stage.cluster.wait_until_up().unwrap();
    same_digests(&stage.bench, OLD, "still");
    stage.bench.delete_topic("still").unwrap();
}

/// The dead run's requests arrive when the next run is done; in between, the broker has forgotten the old records' producer.
#[test]
fn late_requests_are_refused() {
    let stage = one();
    let held = InFlight::new(&stage, OLD, "late");
    held.resume("one").wait().exits(0);
    std::thread::sleep(seconds(4.0));
    held.let_go();
    stage.judge(&held.vault, OLD, "late", &held.flags("one"));
}

/// They arrive while the next run is at work.
#[test]
fn late_requests_meet_the_next_run() {
    for round in 0..if soak() { 20 } else { 2 } {
        let stage = one();
        let held = InFlight::new(&stage, OLD, "meeting");
        let mut run = held.resume("one");
        run.leave_alone(seconds(0.02 * f64::from(round)));
        held.let_go();
        run.wait().exits(0);
        stage.judge(&held.vault, OLD, "meeting", &held.flags("one"));
    }
}

/// The test of the tests: a run with a fresh producer, without a fence of the old one, that goes on from the log's end, doubles records here.
#[test]
fn a_naive_resume_is_caught() {
    let stage = one();
    let held = InFlight::new(&stage, OLD, "naive");
    let ends = stage.ends("naive");
    edit(&held.state, |line| {
        let end = ends[line["partition"].as_u64().unwrap() as usize];
        line["offset"] = json!(end);
        let state = &mut line["state"];
        (state["restore"], state["records"]) = (json!("two"), json!(end));
        (state["producer"], state["transactional"]) = (json!(999_999_999), json!(false));
    });
    held.resume("two").wait().exits(0);
    same_digests(&stage.bench, OLD, "naive");
    held.let_go();
    let digest = |topic| stage.bench.digest(topic, Isolation::Committed, false).unwrap();
    let difference = compare_digests(&digest(OLD), &digest("naive")).unwrap_err();
    eprintln!("{difference:#}");
    stage.bench.delete_topic("naive").unwrap();
}

fn edit(state: &Path, change: impl Fn(&mut Value)) {
    let text = fs::read_to_string(state).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        change(&mut line);
        format!("{line}\n")
    });
    let text: String = lines.collect();
    fs::write(state, text).unwrap();
}

/// Groups stand where they stood, also in records that earlier runs have restored; a topic's own settings come back after a crash.
#[test]
fn groups_and_settings_after_cuts() {
    let stage = one();
    let positions: Vec<_> = (0..4).map(|p| GroupOffset::new(NEW, p, 100 + i64::from(p) * 400)).collect();
    stage.bench.commit_offsets("reader", &positions).unwrap();
    let vault = stage.vault_of(&[NEW]);
    let own = [("retention.ms", "86400000"), ("min.insync.replicas", "1"), ("segment.ms", "3600000")];
    stage.bench.create_topic("mine", 4, &own).unwrap();
    let before = stage.bench.describe("mine").unwrap().own_configs();
    for records in [500, 1500, 3000] {
        let mut run = stage.restoring(&vault, NEW, "mine", &[]);
        stage.until(&mut run, "mine", records);
        run.kill();
    }
    assert_ne!(stage.bench.describe("mine").unwrap().own_configs(), before);
    stage.restoring(&vault, NEW, "mine", &[]).wait().exits(0);
    assert_eq!(stage.bench.describe("mine").unwrap().own_configs(), before);
    same_digests(&stage.bench, NEW, "mine");
    let of_mine = |group: &GroupOffset| (group.topic == "mine").then_some((group.partition, group.offset));
    let found: Vec<_> = stage.bench.group_offsets("reader").unwrap().iter().filter_map(of_mine).collect();
    // A fence takes an offset: the position is told by the record.
    let next = |topic: &str, partition: i32, offset: i64| {
        let dump = stage.dump(topic);
        let record =
            dump.iter().unwrap().map(Result::unwrap).find(|r| r.partition == partition && r.offset >= offset);
        record.map(|record| record.value)
    };
    assert_eq!(found.len(), 4);
    for (partition, offset) in found {
        let source = positions[partition as usize].offset;
        assert_eq!(next("mine", partition, offset), next(NEW, partition, source), "partition {partition}");
    }
    stage.bench.delete_topic("mine").unwrap();
}

/// One of two topics is deleted between the runs: it is restored anew, the other one is left as it is.
#[test]
fn a_topic_deleted_between_the_runs() {
    let stage = one();
    let vault = Vault::new();
    stage.backup(&vault, &["--topic", NEW, "--topic", OLD]).exits(0);
    let flags = ["--topic", NEW, "--topic", OLD, "--rename", "new=pair-new", "--rename", "old=pair-old"];
    stage.restore(&vault, &flags).exits(0);
    let kept = stage.ends("pair-new");
    stage.bench.delete_topic("pair-old").unwrap();
    stage.restore(&vault, &flags).exits(0);
    same_digests(&stage.bench, OLD, "pair-old");
    assert_eq!(stage.ends("pair-new"), kept);
    stage.restore(&vault, &flags).exits(0).says("nothing to do");
    for topic in ["pair-new", "pair-old"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// A restore keeps to the commit that it was begun with.
#[test]
fn the_vault_goes_on_in_between() {
    let stage = one();
    stage.topic("growing", 1);
    stage.write("growing", 0, "first", 50);
    let vault = Vault::new();
    stage.backup(&vault, &["--topic", "growing"]).exits(0);
    let flags = ["--topic", "growing", "--rename", "growing=grown"];
    stage.restore(&vault, &flags).exits(0);
    stage.write("growing", 0, "second", 50);
    stage.backup(&vault, &["--topic", "growing"]).exits(0);
    stage.restore(&vault, &flags).exits(0).says("nothing to do").says("commit 2").says("--restore-id");
    assert_eq!(stage.ends("grown"), [50]);
    // Another restore of the same topic finds data that is not its own.
    let another = [&flags[..], &["--restore-id", "another"]].concat();
    stage.restore(&vault, &another).exits(2).says("grown").says("--append");
    // To add to it is a choice, and done once.
    let append = [&flags[..], &["--append"]].concat();
    stage.restore(&vault, &append).exits(0);
    assert_eq!(stage.ends("grown"), [150]);
    stage.restore(&vault, &append).exits(0).says("nothing to do");
    assert_eq!(stage.ends("grown"), [150]);
    for topic in ["growing", "grown"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// Its state is gone: the same restore is refused while it is not done, and the way out is told.
#[test]
fn without_its_state() {
    let stage = one();
    let vault = stage.vault_of(&[NEW]);
    let mut run = stage.restoring(&vault, NEW, "stateless", &[]);
    stage.until(&mut run, "stateless", 500);
    run.kill();
    stage.forget_restores();
    let before = stage.ends("stateless");
    stage.restoring(&vault, NEW, "stateless", &[]).wait().exits(2).says("stateless").says("--state");
    assert_eq!(stage.ends("stateless"), before);
    stage.bench.delete_topic("stateless").unwrap();
    stage.restoring(&vault, NEW, "stateless", &[]).wait().exits(0);
    stage.judge(&vault, NEW, "stateless", &[]);
}

/// The state has expired after the restore was done: count and last batch tell that there is nothing to do, unless something was added.
#[test]
fn done_and_its_state_expired() {
    let stage = one();
    let vault = stage.vault_of(&[NEW]);
    stage.restoring(&vault, NEW, "expired", &[]).wait().exits(0);
    stage.forget_restores();
    let before = stage.ends("expired");
    stage.restoring(&vault, NEW, "expired", &[]).wait().exits(0).says("nothing to do");
    assert_eq!(stage.ends("expired"), before);
    stage.write("expired", 0, "another", 5);
    stage.restoring(&vault, NEW, "expired", &[]).wait().exits(2).says("expired");
    stage.bench.delete_topic("expired").unwrap();
}

/// Records of 2017 in a topic of the default retention would be deleted at once.
#[test]
fn retention_is_held() {
    let stage = one();
    stage.bench.create_topic("dated", 1, &[("retention.ms", "-1")]).unwrap();
    let record = |n: i64| Record::new(0).value(format!("{n}")).at(1_500_000_000_000 + n);
    let records: Vec<Record> = (0..20).map(record).collect();
    stage.bench.produce("dated", &records, &ProduceOptions::default()).unwrap();
    let vault = stage.vault_of(&["dated"]);
    let week = ["--topic-config", "retention.ms=604800000", "--hold-retention", "2h"];
    let ran = stage.restoring(&vault, "dated", "held-back", &week).wait().exits(0);
    ran.says("--add-config retention.ms=604800000").says("held-back");
    let described = stage.bench.describe("held-back").unwrap();
    let retention: i64 = described.config("retention.ms").unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let until = 1_500_000_000_000 + retention - now;
    assert!((7_100_000..7_300_000).contains(&until), "kept for {until} ms");
    for topic in ["dated", "held-back"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// A damaged chunk is refused; asked to, restore brings back all else, and says what is missing.
#[test]
fn damage_is_left_out_on_demand() {
    let stage = one();
    let vault = stage.vault_of(&[NEW]);
    let segment = vault.objects().into_keys().find(|path| path.starts_with("data/")).unwrap();
    // Somewhere in the records of a batch.
    vault.change(&segment, |bytes| bytes[3_000_000] ^= 1);
    let ran = stage.restoring(&vault, NEW, "holey", &[]).wait().exits(3).says("--skip-damaged");
    let hit = list(&ran.json(), "errors")[0].clone();
    assert!(hit["topic"] == "holey" && hit["partition"].is_u64() && hit["offset"].is_u64(), "{ran}");
    let ran = stage.restoring(&vault, NEW, "holey", &["--skip-damaged"]).wait().exits(3).says("left out");
    let errors = ran.json();
    let errors = list(&errors, "errors");
    assert_eq!(errors.len(), 1, "{ran}");
    assert_eq!((&errors[0]["partition"], &errors[0]["object"]), (&hit["partition"], &json!(segment)));
    // What is there, is right; what is missing, is one run of one partition.
    let (source, found) = (stage.dump(NEW), stage.dump("holey"));
    for partition in 0..4 {
        let (source, found) = (values(&source, partition), values(&found, partition));
        if hit["partition"] == partition {
            let head = source.iter().zip(&found).take_while(|(a, b)| a == b).count();
            assert!(found.len() < source.len() && source.ends_with(&found[head..]), "partition {partition}");
        } else {
            assert_eq!(source, found, "partition {partition}");
        }
    }
    stage.restoring(&vault, NEW, "holey", &["--skip-damaged"]).wait().exits(3).says("nothing to do");
    stage.bench.delete_topic("holey").unwrap();
}

fn guarded() -> Stage {
    static GUARDED: [Slot; 1] = [Slot::new()];
    let options = ClusterOptions::new()
        .set("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
        .set("allow.everyone.if.no.acl.found", "true")
        // Denied to everybody, so also to the broker itself, which then can't report to its controller.
        .set("broker.session.timeout.ms", "600000");
    Slot::stage(&GUARDED, options, |site| fill(site, 4))
}

/// Without the right to transactional ids the fence is a marker that bodley writes itself; without the right to that, sequences decide.
#[test]
fn weaker_ways() {
    let stage = guarded();
    let vault = stage.vault_of(&[NEW]);
    stage.bench.deny("GROUP", "bodley-restore-", &["ALL"]).unwrap();
    stage.restoring(&vault, NEW, "stateful", &[]).wait().exits(1).says("--state");
    assert!(!stage.has("stateful"));

    stage.bench.deny("TRANSACTIONAL_ID", "bodley-restore-", &["ALL"]).unwrap();
    let cut_twice = |target: &'static str, state: &Path, flag: &'static str| {
        let flags = ["--state", state.to_str().unwrap(), "-v", flag];
        for records in [500, 2500] {
            let mut run = stage.restoring(&vault, NEW, target, &flags);
            stage.until(&mut run, target, records);
            run.kill();
        }
        stage.restoring(&vault, NEW, target, &flags).wait().exits(0)
    };
    cut_twice("marked", &vault.root().with_file_name("marked"), "-v");
    same_digests(&stage.bench, NEW, "marked");
    let markers = stage.ends("marked").iter().sum::<i64>() - 6_000;
    assert!((4..=8).contains(&markers), "{markers} markers");

    // Denied to the broker itself as well: topics can be neither made nor changed from now on, so a topic in use has to do.
    stage.topic("counted", 4);
    (0..4).for_each(|partition| stage.write("counted", partition, "before", 1));
    stage.bench.deny("CLUSTER", "kafka-cluster", &["CLUSTER_ACTION", "ALTER"]).unwrap();
    let ran = cut_twice("counted", &vault.root().with_file_name("counted"), "--append");
    ran.says("by sequences");
    let (source, found) = (stage.dump(NEW), stage.dump("counted"));
    for partition in 0..4 {
        assert_eq!(values(&source, partition), values(&found, partition)[1..], "partition {partition}");
    }
}

fn values(dump: &Dump, partition: i32) -> Vec<Option<Data>> {
    let all = dump.iter().unwrap().map(Result::unwrap);
    all.filter(|record| record.partition == partition).map(|record| record.value).collect()
}

/// One broker, and internal topics that want three: there are no coordinators. What was left of the test cluster's own settings is enough.
#[test]
fn a_target_without_coordinators() {
    static BARE: [Slot; 1] = [Slot::new()];
    let options = ClusterOptions::new()
        .set("transaction.state.log.replication.factor", "3")
        .set("offsets.topic.replication.factor", "3");
    let stage = Slot::stage(&BARE, options, |site| fill(site, 2));
    let vault = stage.vault_of(&[NEW]);
    let impatient = ["--give-up-after", "3s"];
    stage.restoring(&vault, NEW, "bare", &impatient).wait().exits(1).says("--state");
    assert!(!stage.has("bare"));
    let state = vault.root().with_file_name("state");
    let flags = ["--state", state.to_str().unwrap(), "--give-up-after", "30s"];
    let mut run = stage.restoring(&vault, NEW, "bare", &flags);
    stage.until(&mut run, "bare", 500);
    run.kill();
    stage.restoring(&vault, NEW, "bare", &flags).wait().exits(0);
    same_digests(&stage.bench, NEW, "bare");
}

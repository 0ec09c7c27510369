//! Bodley while things break: it is killed and signalled, brokers restart and die, leaders move, connections are cut, stall and lie.
//!
//! Three clusters behind proxies, two of one node and one of three, each with one test at a time.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Instant;

use bodley_testbed::workbench::{Generate, ProduceOptions, Quota, Record};
use bodley_testbed::workloads::{BulkOptions, bulk};
use bodley_testbed::{ClusterOptions, Isolation, Proxy};
use serde_json::{Value, json};

use common::judge::{prefix, same, same_digests};
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{Ran, Rng, Running, list, seconds, soak, topics};

/// 200 MiB in eight partitions, in records of 1 KiB.
const BULK: &str = "bulk";
/// 48 MiB in four partitions, in records of 4 KiB.
const SOME: &str = "some";

/// One node, which writes all requests down.
fn one() -> Stage {
    static ONES: [Slot; 2] = [Slot::new(), Slot::new()];
    let logged = ClusterOptions::new().jvm("-Dorg.slf4j.simpleLogger.log.kafka.request.logger=debug");
    Slot::stage(&ONES, logged, |site| {
        site.topic(BULK, 8);
        bulk(&site.bench, BULK, 200 << 20, BulkOptions { partitions: 8, ..BulkOptions::default() }).unwrap();
        fill_some(site, 4);
    })
}

/// Three nodes.
fn three() -> Stage {
    static THREE: [Slot; 1] = [Slot::new()];
    Slot::stage(&THREE, ClusterOptions::new().nodes(3), |site| fill_some(site, 6))
}

fn fill_some(site: &Site, partitions: i32) {
    site.topic(SOME, partitions);
    let options = BulkOptions { partitions, value_bytes: 4096, seed: 7, ..BulkOptions::default() };
    bulk(&site.bench, SOME, 48 << 20, options).unwrap();
}

impl Stage {
    /// Starts a backup of a topic that takes some seconds.
    fn slow_backup(&self, vault: &Vault, topic: &str, rate: &str) -> Running {
        self.start("backup", vault, &["--topic", topic, "--limit-read", rate, "-v"])
    }

    /// A vault with `some` in it.
    fn vault_of_some(&self) -> Vault {
        let vault = Vault::new();
        self.backup(&vault, &["--topic", SOME]).exits(0);
        vault
    }

    /// Starts a restore of `some` that takes some seconds.
    fn slow_restore(&self, vault: &Vault, target: &str) -> Running {
        let rename = format!("{SOME}={target}");
        self.start("restore", vault, &["--topic", SOME, "--rename", &rename, "--limit-write", "10M"])
    }

    /// The vault holds what the cluster does: counted, and restored and compared.
    #[track_caller]
    fn equal(&self, vault: &Vault, topic: &str, target: &str) {
        let records: i64 =
            self.bench.describe(topic).unwrap().partitions.iter().map(|p| p.end - p.start).sum();
        assert_eq!(topics(&vault.verified(), topic)[0]["records"], records);
        let report = self.restore_as(vault, topic, target).exits(0).json();
        assert_eq!(report["records"], records);
        same_digests(&self.bench, topic, target);
        self.bench.delete_topic(target).unwrap();
    }

    /// A restore of `some` under faults that pass is done, with equal records. (One that gives up goes on with the same command; but of such
    /// faults it should see nothing.)
    #[track_caller]
    fn judge_restore(&self, ran: Ran, vault: &Vault, target: &str) {
        let outlasted = ran.code == Some(0);
        if !outlasted {
            eprintln!("the restore gave up: {ran}");
            ran.exits(1).says(target).says("run the same command again");
            prefix(&self.dump(SOME), &self.dump(target));
            self.restore_as(vault, SOME, target).exits(0);
        }
        same_digests(&self.bench, SOME, target);
        assert_eq!(self.bench.describe(target).unwrap().own_configs(), []);
        self.bench.delete_topic(target).unwrap();
        assert!(outlasted, "the restore did not outlast a fault that passed");
    }
}

// Bodley itself ends

#[test]
fn killed_at_any_moment() {
    let stage = one();
    let vault = Vault::new();
    let mut rng = Rng::new("kills", 2);
    let mut before = 0;
    for n in 0..60 {
        // Where starting takes long, they are given more time.
        if n >= 15 && before > 0 {
            break;
        }
        let args = ["--topic", BULK, "--limit-read", "16M", "--commit-interval", "1s"];
        let mut run = stage.start("backup", &vault, &args);
        run.leave_alone(rng.millis(1800) * (1 + n / 10));
        // Some end in order.
        let ran = if n % 4 == 3 {
            run.signal("TERM");
            run.wait()
        } else {
            run.kill()
        };
        assert!([None, Some(0), Some(143)].contains(&ran.code), "{ran}");
        // What is committed is whole and never becomes less.
        let listed = vault.bodley("list", &[]);
        if listed.code == Some(0) {
            vault.bodley("verify", &["--quick"]).exits(0);
            let now = topics(&listed.json(), BULK).first().map_or(0, |t| t["records"].as_u64().unwrap());
            assert!(now >= before, "{now} records after {before}");
            before = now;
        } else {
            assert!(before == 0 && vault.objects_in("log/").is_empty(), "{listed}");
        }
    }
    assert!(before > 0, "nothing was ever committed");
    stage.backup(&vault, &["--topic", BULK]).exits(0);
    stage.equal(&vault, BULK, "bulk-killed");
    eprintln!("{} segments, {} of them named", vault.objects_in("data/").len(), vault.verified()["objects"]);
}

#[test]
fn signals_end_a_backup_in_order() {
    let stage = one();
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let vault = Vault::new();
        let mut run = stage.slow_backup(&vault, BULK, "16M");
        run.reads().leave_alone(seconds(1.5)).signal(signal);
        let asked = Instant::now();
        let first = run.wait().exits(code).json();
        assert!(asked.elapsed() < seconds(40.0), "{:?}", asked.elapsed());
        assert_eq!(first["interrupted"], true);
        let durable = vault.verified();
        assert!(durable["records"].as_u64().unwrap() > 0, "{durable:#}");
        assert_eq!((&first["records"], &first["receipt"]), (&durable["records"], &durable["receipt"]));
        let second = stage.backup(&vault, &["--topic", BULK]).exits(0).json();
        let bytes = |report: &Value| report["bytes"].as_u64().unwrap();
        assert_eq!(bytes(&first) + bytes(&second), bytes(&vault.listed()), "something was stored twice");
        stage.equal(&vault, BULK, "bulk-signalled");
    }
}

/// Nothing moves, but the end comes.
#[test]
fn a_signal_while_the_broker_is_silent() {
    let stage = one();
    let vault = Vault::new();
    let mut run = stage.slow_backup(&vault, BULK, "16M");
    run.reads().leave_alone(seconds(1.0));
    stage.proxies().for_each(|proxy| proxy.stall(true));
    run.leave_alone(seconds(1.0)).signal("TERM");
    let asked = Instant::now();
    run.wait().exits(143);
    assert!(asked.elapsed() < seconds(40.0), "{:?}", asked.elapsed());
    stage.proxies().for_each(Proxy::calm);
    stage.backup(&vault, &["--topic", BULK]).exits(0);
    stage.equal(&vault, BULK, "bulk-silent");
}

// What is asked of the broker

/// The requests in the broker's log from a place on, by the client called bodley: (API, whole line).
fn requests(stage: &Stage, from: usize) -> Vec<(String, String)> {
    let log = fs::read(stage.cluster.nodes()[0].log()).unwrap();
    let text = String::from_utf8_lossy(&log[from..]).into_owned();
    let ours = text.lines().filter(|line| line.contains("\"clientId\":\"bodley\""));
    let api = |line: &str| {
        let name = line.split_once("\"requestApiKeyName\":\"")?.1.split_once('"')?.0;
        Some((name.to_owned(), line.to_owned()))
    };
    ours.filter_map(api).collect()
}

#[test]
fn a_backup_only_reads_and_reads_nothing_twice() {
    let stage = one();
    stage.bench.create_topic("asked", 3, &[]).unwrap();
    stage.write("asked", 0, "x", 20);
    stage.write("asked", 2, "x", 20);
    let vault = Vault::new();
    let log = stage.cluster.nodes()[0].log();
    let here = || fs::metadata(&log).unwrap().len() as usize;

    let from = here();
    stage.backup(&vault, &["--topic", "asked"]).exits(0);
    thread::sleep(seconds(0.3));
    let first = requests(&stage, from);
    assert!(first.iter().any(|(api, _)| api == "FETCH"), "the broker wrote down {first:#?}");

    let from = here();
    stage.backup(&vault, &["--topic", "asked"]).exits(0);
    stage.backup(&vault, &["--topic", "asked"]).exits(0);
    thread::sleep(seconds(0.3));
    let second = requests(&stage, from);
    assert!(!second.is_empty());
    assert!(!second.iter().any(|(api, _)| api == "FETCH"), "nothing is new, and yet: {second:#?}");

    let reading = [
        "API_VERSIONS",
        "METADATA",
        "DESCRIBE_CONFIGS",
        "LIST_GROUPS",
        "DESCRIBE_GROUPS",
        "FIND_COORDINATOR",
        "OFFSET_FETCH",
        "LIST_OFFSETS",
        "OFFSET_FOR_LEADER_EPOCH",
        "FETCH",
        "DESCRIBE_CLUSTER",
    ];
    let seen: BTreeSet<&str> = first.iter().chain(&second).map(|(api, _)| api.as_str()).collect();
    let writing: Vec<&&str> = seen.iter().filter(|api| !reading.contains(api)).collect();
    assert!(writing.is_empty(), "{writing:?}");
    for (api, line) in first.iter().chain(&second) {
        assert!(api != "METADATA" || !line.contains("\"allowAutoTopicCreation\":true"), "{line}");
    }
}

// The connection

#[test]
fn a_backup_over_connections_that_are_cut() {
    let stage = one();
    let vault = Vault::new();
    let proxy = stage.cluster.proxy(0).unwrap();
    proxy.cut_at_random(31, 12 << 20);
    stage.backup(&vault, &["--topic", SOME]).exits(0);
    assert!(proxy.cuts() > 3, "{} cuts", proxy.cuts());
    proxy.calm();
    stage.equal(&vault, SOME, "some-cut");
}

#[test]
fn a_restore_over_connections_that_are_cut() {
    let stage = one();
    let vault = stage.vault_of_some();
    let proxy = stage.cluster.proxy(0).unwrap();
    let before = proxy.cuts();
    for seed in 0..2 {
        let target = format!("some-back-{seed}");
        let run = stage.start("restore", &vault, &["--topic", SOME, "--rename", &format!("{SOME}={target}")]);
        proxy.cut_at_random(seed, 10 << 20);
        let ran = run.wait();
        proxy.calm();
        stage.judge_restore(ran, &vault, &target);
    }
    assert!(proxy.cuts() - before > 4, "{} cuts", proxy.cuts());
}

/// The requests arrive and the answers do not: what is stored is unclear.
#[test]
fn a_restore_whose_answers_are_lost() {
    let stage = one();
    let vault = stage.vault_of_some();
    let proxy = stage.cluster.proxy(0).unwrap();
    let mut rng = Rng::new("lost answers", 3);
    let mut run = stage.slow_restore(&vault, "some-unclear");
    for _ in 0..4 {
        run.leave_alone(seconds(0.2) + rng.millis(500));
        proxy.swallow_answers(true);
        run.leave_alone(seconds(0.05) + rng.millis(200));
        proxy.cut();
        proxy.swallow_answers(false);
    }
    assert!(run.is_running(), "too fast for this test");
    let ran = run.wait();
    stage.judge_restore(ran, &vault, "some-unclear");
}

/// A broker forgets the producers of old records soon, and with them what tells a repeat from news.
#[test]
fn a_restore_of_old_records_over_connections_that_are_cut() {
    let stage = one();
    stage.bench.create_topic("old", 2, &[("retention.ms", "-1")]).unwrap();
    let load = Generate {
        count: 4_000,
        partitions: 2,
        value_bytes: 4096,
        first_timestamp: Some(1_500_000_000_000),
        ..Generate::default()
    };
    let options = ProduceOptions { batch_bytes: 64 << 10, linger_ms: 20, ..ProduceOptions::default() };
    stage.bench.generate("old", &load, &options).unwrap();
    let vault = Vault::new();
    stage.backup(&vault, &["--topic", "old"]).exits(0);
    let proxy = stage.cluster.proxy(0).unwrap();
    let mut rng = Rng::new("cuts among old records", 8);
    let mut run = stage.start(
        "restore",
        &vault,
        &["--topic", "old", "--rename", "old=old-back", "--limit-write", "3M"],
    );
    for n in 1..=8 {
        stage.until(&mut run, "old-back", 300 * n);
        run.leave_alone(rng.millis(400));
        proxy.swallow_answers(true);
        run.leave_alone(rng.millis(60));
        proxy.cut();
        proxy.swallow_answers(false);
    }
    run.wait().exits(0);
    same_digests(&stage.bench, "old", "old-back");
}

#[test]
fn a_stall_of_some_seconds() {
    let stage = one();
    let vault = stage.vault_of_some();
    let proxy = stage.cluster.proxy(0).unwrap();
    let mut run = stage.slow_restore(&vault, "some-held");
    stage.until(&mut run, "some-held", 1);
    proxy.stall(true);
    run.leave_alone(seconds(4.0));
    assert!(run.is_running(), "too fast for this test");
    proxy.stall(false);
    let ran = run.wait();
    stage.judge_restore(ran, &vault, "some-held");
}

/// A frozen machine: the connections are gone, new ones are taken, and nothing answers for longer than a greeting may take.
#[test]
fn a_broker_that_freezes() {
    let stage = one();
    let vault = Vault::new();
    let node = stage.cluster.node(0).unwrap();
    let mut run = stage.slow_backup(&vault, SOME, "16M");
    run.reads().leave_alone(seconds(0.5));
    node.pause().unwrap();
    stage.proxies().for_each(Proxy::cut);
    run.leave_alone(seconds(12.0));
    let went_on = run.is_running();
    node.resume().unwrap();
    let ran = run.wait().exits(0);
    assert!(went_on, "too fast for this test: {ran}");
    stage.equal(&vault, SOME, "some-frozen");
}

/// A broker that holds a client back answers with nothing, which is not the end of the log.
#[test]
fn quotas() {
    struct Lifted<'a>(&'a Stage);
    impl Drop for Lifted<'_> {
        fn drop(&mut self) {
            for quota in [Quota::Fetch, Quota::Produce] {
                let _ = self.0.bench.set_quota(quota, None);
            }
        }
    }
    let stage = one();
    let vault = Vault::new();
    stage.topic("held", 2);
    let options = BulkOptions { partitions: 2, value_bytes: 4096, ..BulkOptions::default() };
    bulk(&stage.bench, "held", 13 << 20, options).unwrap();
    let lifted = Lifted(&stage);
    // Kafka counts over some ten seconds: the first ten MiB pass.
    stage.bench.set_quota(Quota::Fetch, Some(1 << 20)).unwrap();
    thread::sleep(seconds(0.5));
    let backup = stage.backup(&vault, &["--topic", "held"]).exits(0);
    assert!(backup.took > seconds(1.0), "it was not held back: {backup}");
    stage.bench.set_quota(Quota::Fetch, None).unwrap();
    if soak() {
        stage.bench.set_quota(Quota::Produce, Some(1 << 20)).unwrap();
        thread::sleep(seconds(0.5));
    }
    stage.equal(&vault, "held", "held-back");
    drop(lifted);
}

/// TCP's checksum lets one through: Kafka's own notices, and the batch is read again.
#[test]
fn bits_that_flip_on_the_way() {
    let stage = one();
    let mut rng = Rng::new("flips on the way", 4);
    for n in 0..3 {
        let vault = Vault::new();
        let proxy = stage.cluster.proxy(0).unwrap();
        proxy.flip_bit_after((1 << 20) + rng.below(40 << 20));
        stage.backup(&vault, &["--topic", SOME]).exits(0);
        proxy.calm();
        stage.equal(&vault, SOME, &format!("some-flipped-{n}"));
    }
}

// The brokers

#[test]
fn the_only_broker_restarts() {
    let stage = one();
    let vault = Vault::new();
    let node = stage.cluster.node(0).unwrap();
    let mut run = stage.slow_backup(&vault, SOME, "16M");
    run.reads().leave_alone(seconds(0.5));
    node.restart().unwrap();
    run.wait().exits(0);
    stage.equal(&vault, SOME, "some-restarted");

    let mut run = stage.slow_restore(&vault, "some-back");
    stage.until(&mut run, "some-back", 1);
    node.kill().unwrap();
    run.leave_alone(seconds(1.0));
    node.start().unwrap();
    let ran = run.wait();
    stage.judge_restore(ran, &vault, "some-back");
}

#[test]
fn one_of_three_dies() {
    let stage = three();
    let vault = Vault::new();
    let node = stage.cluster.node(1).unwrap();
    let mut run = stage.slow_backup(&vault, SOME, "4M");
    run.reads().leave_alone(seconds(0.5));
    node.kill().unwrap();
    run.leave_alone(seconds(2.0));
    assert!(run.is_running(), "too fast for this test");
    node.start().unwrap();
    run.wait().exits(0);
    stage.cluster.wait_until_up().unwrap();
    stage.equal(&vault, SOME, "some-died");

    // The leader of some of the partitions that are written to.
    let mut run = stage.slow_restore(&vault, "some-back");
    stage.until(&mut run, "some-back", 1);
    let node = stage.cluster.node(2).unwrap();
    node.kill().unwrap();
    run.leave_alone(seconds(2.0));
    node.start().unwrap();
    let ran = run.wait();
    stage.cluster.wait_until_up().unwrap();
    stage.judge_restore(ran, &vault, "some-back");
}

/// A broker that lags behind the controller does not know new topics yet, nor their settings.
#[test]
fn one_of_three_lags() {
    let stage = three();
    let vault = stage.vault_of_some();
    let node = stage.cluster.node(2).unwrap();
    for n in 0..2 {
        let target = format!("some-lag-{n}");
        node.pause().unwrap();
        let mut run = stage.slow_restore(&vault, &target);
        run.leave_alone(seconds(1.5 * f64::from(n + 1)));
        node.resume().unwrap();
        let ran = run.wait();
        stage.cluster.wait_until_up().unwrap();
        stage.judge_restore(ran, &vault, &target);
    }
}

/// It is dead, and for some seconds the cluster still lists it. The others have everything: nobody has to wait for it to come back.
#[test]
fn one_of_three_has_just_died() {
    let stage = three();
    let known = stage.vault_of_some();
    let node = stage.cluster.node(1).unwrap();
    node.kill().unwrap();
    let vault = Vault::new();
    let restore = stage.slow_restore(&known, "some-bereft");
    let backup = stage.start("backup", &vault, &["--topic", SOME]);
    let (backup, restore) = (backup.wait(), restore.wait());
    node.start().unwrap();
    stage.cluster.wait_until_up().unwrap();
    backup.exits(0).within(120);
    stage.equal(&vault, SOME, "some-mourned");
    assert!(restore.took < seconds(120.0), "{restore}");
    stage.judge_restore(restore, &known, "some-bereft");
}

#[test]
fn leaders_move() {
    let stage = three();
    let vault = Vault::new();
    let next_leader = |topic: &str, partition: usize| {
        let leader = stage.bench.describe(topic).unwrap().partitions[partition].leader;
        stage.bench.move_leader(topic, partition as i32, (leader + 1) % 3).unwrap();
    };
    let mut run = stage.slow_backup(&vault, SOME, "2M");
    run.reads();
    for partition in [0, 1, 2, 3, 0, 4] {
        run.leave_alone(seconds(0.3));
        next_leader(SOME, partition);
    }
    assert!(run.is_running(), "too fast for this test");
    run.wait().exits(0);
    stage.equal(&vault, SOME, "some-led");

    // Afterwards there is nothing new, though each leader is another.
    next_leader(SOME, 5);
    let objects = vault.objects();
    stage.backup(&vault, &["--topic", SOME]).exits(0);
    assert_eq!(vault.objects(), objects);

    let mut run = stage.slow_restore(&vault, "some-led");
    for partition in [0, 1, 2, 3, 0, 4] {
        run.leave_alone(seconds(0.4));
        if stage.has("some-led") {
            next_leader("some-led", partition);
        }
    }
    let ran = run.wait();
    stage.judge_restore(ran, &vault, "some-led");
}

#[test]
fn replicas_for_a_smaller_cluster() {
    let stage = three();
    let vault = stage.vault_of_some();
    stage.bench.create_topic("strict", 1, &[("min.insync.replicas", "2")]).unwrap();
    stage.write("strict", 0, "x", 10);
    stage.backup(&vault, &["--topic", "strict"]).exits(0);
    let small = one();
    let rename = ["--topic", "strict", "--rename", "strict=strict-small"];
    small.restore(&vault, &rename).exits(2).says("--replication-factor").says("strict-small");
    small
        .restore(&vault, &[&rename[..], &["--replication-factor", "2"]].concat())
        .exits(2)
        .says("--replication-factor");
    assert!(!small.has("strict-small"));
    // With the source's min.insync.replicas nobody could write to it, bodley included.
    let ran = small.restore(&vault, &[&rename[..], &["--replication-factor", "1"]].concat());
    if ran.code == Some(0) {
        same(&stage.dump("strict"), &small.dump("strict-small"));
    } else {
        assert!(ran.took < seconds(60.0), "{ran}");
        ran.says("min.insync.replicas");
        small.bench.delete_topic("strict-small").ok();
        let fewer = ["--replication-factor", "1", "--topic-config", "min.insync.replicas=1"];
        small.restore(&vault, &[&rename[..], &fewer].concat()).exits(0);
        same(&stage.dump("strict"), &small.dump("strict-small"));
    }
}

/// The source forgets what the vault has: said, kept, and never papered over.
#[test]
fn an_unclean_election_takes_records_back() {
    let stage = three();
    let config = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1")];
    stage.bench.create_replicated("unclean", 1, 3, &config).unwrap();
    stage.bench.reassign("unclean", 0, &[1, 2]).unwrap();
    stage.bench.move_leader("unclean", 0, 1).unwrap();
    stage.write("unclean", 0, "on both", 20);
    let (leader, follower) = (stage.cluster.node(1).unwrap(), stage.cluster.node(2).unwrap());
    follower.stop().unwrap();
    stage.write("unclean", 0, "on one", 20);
    let vault = Vault::new();
    stage.backup(&vault, &["--topic", "unclean"]).exits(0);
    let before = vault.listed()["seq"].to_string();
    let dump = stage.dump("unclean");
    assert_eq!(dump.len(), 40);
    // Two of three nodes are a quorum: the old follower comes back before the leader dies.
    leader.pause().unwrap();
    follower.launch().unwrap();
    follower.wait_until_up(2).unwrap();
    leader.kill().unwrap();
    let deadline = Instant::now() + seconds(60.0);
    // The admin client is slow to give up on the dead one; the controllers' logs tell at once.
    let elected = || {
        let mut logs =
            stage.cluster.nodes().iter().map(|node| fs::read_to_string(node.log()).unwrap_or_default());
        logs.any(|log| log.contains("UNCLEAN partition change for unclean-0"))
    };
    while !elected() {
        assert!(Instant::now() < deadline, "no unclean election came about");
        thread::sleep(seconds(0.2));
    }
    stage.write("unclean", 0, "instead", 30);
    let report = stage.backup(&vault, &["--topic", "unclean"]).exits(3).json();
    assert_eq!(list(&report, "errors")[0]["code"], "truncated", "{report:#}");
    assert_eq!(list(&report, "errors")[0]["topic"], "unclean");
    let hint = list(&report, "errors")[0]["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("--at"), "{report:#}");
    leader.start().unwrap();
    stage.cluster.wait_until_up().unwrap();
    // Said once; what comes then is backed up as ever.
    stage.write("unclean", 0, "later", 10);
    stage.backup(&vault, &["--topic", "unclean"]).exits(0);
    vault.verified();
    stage.restore_as(&vault, "unclean", "unclean-now").exits(0);
    same(&stage.dump("unclean"), &stage.dump("unclean-now"));
    // What was there is there.
    let before = ["--at", before.as_str(), "--topic", "unclean", "--rename", "unclean=unclean-back"];
    stage.restore(&vault, &before).exits(0);
    same(&dump, &stage.dump("unclean-back"));
}

// The source changes meanwhile

#[test]
fn retention_overtakes_a_run() {
    let stage = one();
    stage.topic("overtaken", 1);
    let record = Record::new(0).value(vec![7; 100_000]);
    let options = ProduceOptions::default().flush_every(10);
    for _ in 0..20 {
        stage.bench.produce("overtaken", &vec![record.clone(); 20], &options).unwrap();
    }
    let vault = Vault::new();
    let mut run = stage.slow_backup(&vault, "overtaken", "4M");
    run.reads().leave_alone(seconds(0.5));
    stage.bench.delete_records("overtaken", 0, 390).unwrap();
    let report = run.wait().exits(3).json();
    let gap = &list(&report, "gaps")[0];
    assert_eq!((&gap["next"], &gap["reason"]), (&json!(390), &json!("retention")), "{report:#}");
    let lost = 390 - gap["first"].as_u64().unwrap();
    assert_eq!(topics(&vault.verified(), "overtaken")[0]["records"], 400 - lost);
    stage.backup(&vault, &["--topic", "overtaken"]).exits(0);
    stage.restore_as(&vault, "overtaken", "overtaken-back").exits(3);
    assert_eq!(stage.dump("overtaken-back").len(), 400 - lost);
}

#[test]
fn a_topic_goes_away_during_a_run() {
    let stage = one();
    for name in ["leaves", "leaves-not"] {
        stage.topic(name, 2);
        let load = Generate { count: 4_000, partitions: 2, value_bytes: 4096, ..Generate::default() };
        stage.bench.generate(name, &load, &ProduceOptions::default()).unwrap();
    }
    let vault = Vault::new();
    let mut run = stage.slow_backup(&vault, "leaves*", "8M");
    run.reads().leave_alone(seconds(0.3));
    stage.bench.delete_topic("leaves").unwrap();
    let ran = run.wait();
    assert!([Some(0), Some(3)].contains(&ran.code), "{ran}");
    if ran.code == Some(3) {
        let report = ran.json();
        for what in list(&report, "errors").iter().chain(list(&report, "gaps")) {
            assert!(what["topic"] == "leaves" || what["topic"].is_null(), "{ran}");
        }
    }
    vault.verified();
    stage.equal(&vault, "leaves-not", "leaves-not-back");
    stage.backup(&vault, &["--topic", "leaves*"]).exits(0);
    assert_eq!(topics(&vault.listed(), "leaves")[0]["present"], false);
}

#[test]
fn a_topic_grows_during_a_run() {
    let stage = one();
    stage.topic("grows", 2);
    let write = |seed| {
        let load = Generate { count: 3_000, partitions: 2, value_bytes: 2048, seed, ..Generate::default() };
        stage.bench.generate("grows", &load, &ProduceOptions::default()).unwrap();
    };
    write(1);
    let vault = Vault::new();
    let mut run = stage.slow_backup(&vault, "grows", "2M");
    run.reads();
    for seed in 2..5 {
        run.leave_alone(seconds(0.2));
        write(seed);
    }
    // The end is that of the run's beginning.
    let report = run.wait().exits(0).json();
    assert_eq!(report["records"], 3_000);
    let report = stage.backup(&vault, &["--topic", "grows"]).exits(0).json();
    assert_eq!(report["records"], 9_000);
    stage.equal(&vault, "grows", "grows-back");
}

// Memory

const MOST_MEMORY: u64 = 256 << 20;

#[test]
fn memory_is_bounded() {
    let stage = one();
    let (topic, target) = ("large", "large-back");
    let topic = if soak() {
        stage.topic(topic, 16);
        let options = BulkOptions { partitions: 16, seed: 3, ..BulkOptions::default() };
        bulk(&stage.bench, topic, 1 << 30, options).unwrap();
        topic
    } else {
        BULK
    };
    let vault = Vault::new();
    let rename = format!("{topic}={target}");
    let runs = [
        stage.start("backup", &vault, &["--topic", topic]).wait(),
        vault.bodley("verify", &[]),
        stage.start("restore", &vault, &["--topic", topic, "--rename", &rename]).wait(),
        vault.bodley("list", &[]),
    ];
    for ran in runs {
        let ran = ran.exits(0);
        eprintln!("{} MiB at most, {:?}", ran.peak >> 20, ran.took);
        assert!(ran.peak < MOST_MEMORY, "{} MiB: {ran}", ran.peak >> 20);
    }
    let digest = |topic| stage.bench.digest(topic, Isolation::Committed, false).unwrap();
    bodley_testbed::compare_digests(&digest(topic), &digest(target)).unwrap();
    stage.bench.delete_topic(target).unwrap();
    if soak() {
        stage.bench.delete_topic(topic).unwrap();
    }
}

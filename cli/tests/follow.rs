//! `bodley backup --follow`: what is written while it runs, what comes and goes, what fails, and how it ends; and `bodley status`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bodley_testbed::workbench::{GroupOffset, ProduceOptions, Record};
use bodley_testbed::{ClusterOptions, Isolation};
use serde_json::{Value, json};

use common::judge::same;
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{PATIENCE, Ran, Rng, Running, list, seconds, soak, topics};

fn one() -> Stage {
    static ONES: [Slot; 2] = [Slot::new(), Slot::new()];
    Slot::stage(&ONES, ClusterOptions::new(), |_| ())
}

fn three() -> Stage {
    static THREE: [Slot; 1] = [Slot::new()];
    Slot::stage(&THREE, ClusterOptions::new().nodes(3), |_| ())
}

/// A backup that follows and commits every second.
fn follow(site: &Site, vault: &Vault, args: &[&str]) -> Running {
    let fixed = ["--follow", "--commit-interval", "1s", "--groups-interval", "1s"];
    site.start("backup", vault, &[&fixed, args].concat())
}

/// Ends it as a supervisor does.
fn end(mut run: Running) -> Ran {
    assert!(run.is_running(), "it ended by itself: {}", run.wait());
    run.signal("TERM");
    run.wait()
}

/// Waits until the vault has everything that there is to be had.
#[track_caller]
fn complete(mut run: Running, vault: &Vault) -> Running {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = vault.bodley("status", &[]).exits(0);
        if status.json()["status"]["complete"].as_u64().is_some_and(|complete| complete >= now) {
            return run;
        }
        if !run.leave_alone(seconds(0.3)).is_running() || Instant::now() > deadline {
            panic!("it is never complete: {status}\n{}", run.kill());
        }
    }
}

fn records(listed: &Value, topic: &str) -> i64 {
    topics(listed, topic).iter().filter_map(|topic| topic["records"].as_i64()).sum()
}

#[test]
fn what_comes_is_taken_up() {
    let stage = one();
    let vault = Vault::new();
    stage.topic("comes", 2);
    stage.write("comes", 0, "before", 100);
    let mut run = follow(&stage, &vault, &["--topic", "comes*"]);
    run = vault.until(run, "the first records", |listed| records(listed, "comes") == 100);

    // More of it, a partition more, a topic more, another that is none of ours.
    stage.write("comes", 1, "while", 50);
    stage.bench.add_partitions("comes", 3).unwrap();
    stage.write("comes", 2, "grown", 25);
    stage.topic("comes-new", 1);
    stage.topic("elsewhere", 1);
    stage.write("comes-new", 0, "new", 30);
    stage.write("elsewhere", 0, "none of ours", 30);
    stage.bench.alter_config("comes", &[("retention.ms", "777000000")], &[]).unwrap();
    let positions = [GroupOffset::new("comes", 0, 40), GroupOffset::new("comes", 2, 25)];
    stage.bench.commit_offsets("comes-group", &positions).unwrap();
    run = vault.until(run, "all of it", |listed| {
        records(listed, "comes") == 175 && records(listed, "comes-new") == 30 && listed["groups"] == 1
    });
    assert!(topics(&vault.listed(), "elsewhere").is_empty());

    // A transaction that is open holds back its partition and nothing else.
    stage.write("comes-new", 0, "more", 10);
    run = vault.until(run, "more", |listed| records(listed, "comes-new") == 40);

    let ran = end(run).exits(0);
    let report = ran.json();
    assert_eq!((&report["interrupted"], &report["gaps"]), (&json!(false), &json!([])), "{ran}");
    assert_eq!(list(&report, "topics").len(), 2);
    assert_eq!(topics(&report, "comes")[0]["partitions"], 3);
    assert_eq!(vault.verified()["records"], 215);
    let shown = vault.bodley("show", &["--groups"]).exits(0).json();
    let offsets: Vec<_> = list(&shown, "groups")
        .iter()
        .map(|row| (row["partition"].as_i64(), row["offset"].as_i64()))
        .collect();
    assert_eq!(offsets, [(Some(0), Some(40)), (Some(2), Some(25))]);
    stage.restore_as(&vault, "comes", "back-comes").exits(0);
    same(&stage.dump("comes"), &stage.dump("back-comes"));

    // Settings are looked at once a minute: the next run finds them, and the one after that has nothing to do.
    stage.backup(&vault, &["--topic", "comes*"]).exits(0);
    let shown = vault.bodley("show", &["comes"]).exits(0).json();
    assert_eq!(list(&shown, "incarnations")[0]["configs"]["retention.ms"], "777000000", "{shown:#}");
    let objects = vault.objects();
    stage.backup(&vault, &["--topic", "comes*"]).exits(0);
    assert_eq!(vault.objects(), objects);
}

#[test]
fn settings_that_change_and_topics_that_go() {
    let stage = one();
    let vault = Vault::new();
    for topic in ["goes-a", "goes-b"] {
        stage.topic(topic, 1);
        stage.write(topic, 0, "first life", 20);
    }
    let mut run = follow(&stage, &vault, &["--topic", "goes-*"]);
    run = vault
        .until(run, "the first lives", |listed| records(listed, "goes-a") + records(listed, "goes-b") == 40);
    stage.bench.delete_topic("goes-a").unwrap();
    stage.bench.delete_topic("goes-b").unwrap();
    stage.topic("goes-b", 2);
    stage.write("goes-b", 1, "second life", 33);
    run = vault.until(run, "the second life", |listed| {
        let lives = topics(listed, "goes-b");
        let gone = topics(listed, "goes-a");
        lives.len() == 2 && records(listed, "goes-b") == 53 && gone[0]["present"] == false
    });
    // Who is gone is not waited for.
    run.leave_alone(seconds(6.0));
    let report = end(complete(run, &vault)).exits(0).json();
    assert_eq!(report["gaps"], json!([]), "{report:#}");
    let notes = list(&report, "notes");
    assert!((2..=4).contains(&notes.len()), "{report:#}");
    assert!(topics(&vault.listed(), "goes-a")[0]["present"] == false);
    vault.verified();
    stage.restore_as(&vault, "goes-b", "back-goes-b").exits(0);
    same(&stage.dump("goes-b"), &stage.dump("back-goes-b"));
}

/// A service may be there before its topics.
#[test]
fn topics_that_are_not_there_yet() {
    let stage = one();
    let vault = Vault::new();
    let run = follow(&stage, &vault, &["--topic", "later-*", "--topic", "latest"]);
    let mut run = vault.until(run, "a vault", |listed| list(listed, "topics").is_empty());
    run = complete(run, &vault);
    for topic in ["later-a", "latest"] {
        stage.topic(topic, 1);
        stage.write(topic, 0, "at last", 30);
        run = vault.until(run, topic, |listed| records(listed, topic) == 30);
    }
    end(run).exits(0).says("no topic matches `later-*` in the cluster");
}

#[test]
fn a_vault_that_is_taken_away_ends_it() {
    let stage = one();
    let vault = Vault::new();
    stage.topic("homeless", 1);
    stage.write("homeless", 0, "kept", 50);
    let run = follow(&stage, &vault, &["--topic", "homeless"]);
    let mut run = vault.until(run, "the first records", |listed| records(listed, "homeless") == 50);
    while std::fs::remove_dir_all(vault.root()).is_err() {
        assert!(run.leave_alone(seconds(0.1)).is_running(), "it can't be taken away");
    }
    std::fs::create_dir_all(vault.root()).unwrap();
    stage.write("homeless", 0, "lost", 50);
    run.leave_alone(PATIENCE);
    assert!(!run.is_running(), "{}", run.kill());
    let ran = run.wait();
    assert!(ran.code == Some(1) || ran.code == Some(3), "{ran}");
    // A commit may have been under way.
    assert!(vault.objects_in("log").len() <= 1, "{ran}");
}

#[test]
fn retention_that_overtakes_it_is_a_gap() {
    let stage = one();
    let vault = Vault::new();
    stage.topic("overtaken", 1);
    stage.write("overtaken", 0, "kept", 50);
    let mut run = follow(&stage, &vault, &["--topic", "overtaken"]);
    run = vault.until(run, "the first records", |listed| records(listed, "overtaken") == 50);
    let pid = run.pid().to_string();
    let signal = |name: &str| {
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    // The request that is under way is answered before there is anything.
    thread::sleep(seconds(1.0));
    stage.write("overtaken", 0, "lost", 50);
    stage.bench.delete_records("overtaken", 0, 80).unwrap();
    stage.write("overtaken", 0, "kept", 7);
    signal("-CONT");
    run = vault.until(run, "what is behind the gap", |listed| {
        list(listed, "gaps").len() == 1 && records(listed, "overtaken") == 77
    });
    let report = end(run).exits(3).says("gap: overtaken-0 offsets 50..80 (retention) are lost").json();
    let gap = &list(&report, "gaps")[0];
    assert_eq!((gap["first"].as_i64(), gap["next"].as_i64()), (Some(50), Some(80)), "{report:#}");
    vault.verified();
}

/// What is not stable is waited for, and what was aborted is not restored.
#[test]
fn transactions() {
    let stage = one();
    let vault = Vault::new();
    stage.topic("transacted", 1);
    let mut run = follow(&stage, &vault, &["--topic", "transacted"]);
    for n in 0..6 {
        stage.bench.begin("transactor", &ProduceOptions::default()).unwrap();
        let record = [Record::new(0).value(format!("value {n}"))];
        stage.bench.send("transactor", "transacted", &record).unwrap();
        if n % 2 == 0 { stage.bench.commit("transactor") } else { stage.bench.abort("transactor") }.unwrap();
    }
    stage.bench.drop_producer("transactor").unwrap();
    stage.wait_for_stable_end("transacted", 12);
    run = vault.until(run, "three", |listed| records(listed, "transacted") == 3);
    end(run).exits(0);
    stage.restore_as(&vault, "transacted", "back-transacted").exits(0);
    let committed = stage.bench.dump("transacted", Isolation::Committed).unwrap();
    same(&committed, &stage.dump("back-transacted"));
}

#[test]
fn brokers_die_while_it_follows() {
    let stage = three();
    let vault = Vault::new();
    stage.bench.create_replicated("dying", 6, 3, &[("min.insync.replicas", "2")]).unwrap();
    let mut run = follow(&stage, &vault, &["--topic", "dying"]);
    let mut written = 0;
    for node in [0, 1, 2] {
        let node = stage.cluster.node(node).unwrap();
        for partition in 0..6 {
            stage.write("dying", partition, "before", 20);
        }
        node.kill().unwrap();
        for partition in 0..6 {
            stage.write("dying", partition, "meanwhile", 20);
        }
        written += 240;
        run = vault.until(run, "all, though one is dead", |listed| records(listed, "dying") == written);
        node.start().unwrap();
        stage.cluster.wait_until_up().unwrap();
    }
    let report = end(run).exits(0).json();
    assert_eq!(report["errors"], json!([]), "{report:#}");
    vault.verified();
    stage.restore_as(&vault, "dying", "back-dying").exits(0);
    same(&stage.dump("dying"), &stage.dump("back-dying"));
}

/// One node down at any time, a producer (acks=all, idempotent) that goes on, and all that it was told is written is in the vault, once.
#[test]
fn rolling_kills_while_a_producer_writes() {
    let stage = three();
    let vault = Vault::new();
    stage.bench.create_replicated("rolled", 6, 3, &[("min.insync.replicas", "2")]).unwrap();
    let mut run = follow(&stage, &vault, &["--topic", "rolled", "--give-up-after", "15s"]);
    let until_ms = if soak() { 300_000 } else { 45_000 };
    let end_at = Instant::now() + Duration::from_millis(until_ms);
    let acked = thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::new("rolling kills", 9);
            while Instant::now() < end_at {
                let node = stage.cluster.node(rng.below(3) as usize).unwrap();
                node.kill().unwrap();
                thread::sleep(seconds(1.0) + rng.millis(2000));
                node.start().unwrap();
                stage.cluster.wait_until_up().unwrap();
            }
        });
        let mut acked = 0;
        for round in 0.. {
            if Instant::now() > end_at {
                break;
            }
            let value = |n: i32| format!("round {round} record {n}");
            let records: Vec<Record> = (0..60).map(|n| Record::new(n % 6).value(value(n))).collect();
            let told = stage.bench.produce("rolled", &records, &ProduceOptions::default().flush_every(5));
            acked += told.unwrap().iter().map(|acked| acked.records as i64).sum::<i64>();
        }
        acked
    });
    run = vault.until(run, "all that was acknowledged", |listed| records(listed, "rolled") >= acked);
    let report = end(run).exits(0).json();
    assert_eq!((&report["errors"], &report["gaps"]), (&json!([]), &json!([])), "{report:#}");
    assert!(list(&report, "brokers").iter().any(|broker| broker["errors"].as_i64() > Some(0)), "{report:#}");
    vault.verified();
    let source = stage.dump("rolled");
    assert_eq!(source.len() as i64, acked, "an idempotent producer writes once");
    stage.restore_as(&vault, "rolled", "back-rolled").exits(0);
    same(&source, &stage.dump("back-rolled"));
}

/// Everything is gone for longer than a bounded run would wait; it costs next to nothing, and goes on when they are back.
#[test]
fn all_brokers_are_down_for_a_while() {
    let stage = three();
    let vault = Vault::new();
    stage.bench.create_replicated("dark", 3, 3, &[]).unwrap();
    stage.write("dark", 0, "before", 10);
    let mut run = follow(&stage, &vault, &["--topic", "dark", "--give-up-after", "5s"]);
    run = vault.until(run, "the beginning", |listed| records(listed, "dark") == 10);
    for node in stage.cluster.nodes() {
        node.kill().unwrap();
    }
    run.leave_alone(seconds(8.0));
    let before = cpu(run.pid());
    run.leave_alone(seconds(10.0));
    let spent = cpu(run.pid()) - before;
    assert!(run.is_running());
    assert!(spent <= Duration::from_millis(1500), "{spent:?} of CPU in 10 s of darkness");
    vault.bodley("status", &["--max-lag", "10s"]).exits(1).says("lagging");
    for node in stage.cluster.nodes() {
        node.launch().unwrap();
    }
    stage.cluster.wait_until_up().unwrap();
    stage.write("dark", 1, "after", 10);
    run = vault.until(run, "what came after", |listed| records(listed, "dark") == 20);
    run = complete(run, &vault);
    end(run).exits(0).says("waiting for broker").says("is back after");
    vault.verified();
}

/// CPU time that a process has spent.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Many partitions with little each: few objects, little memory, and it keeps up.
#[test]
fn many_partitions_few_objects() {
    let stage = one();
    let vault = Vault::new();
    stage.topic("many", 300);
    let run = follow(&stage, &vault, &["--topic", "many"]);
    let mut run = vault.until(run, "its partitions", |listed| topics(listed, "many").len() == 1);
    let mut written = 0;
    let mut write = || {
        let records: Vec<Record> = (0..300).map(|n| Record::new(n).value(vec![7; 1000])).collect();
        stage.bench.produce("many", &records, &ProduceOptions::default()).unwrap();
        written += 300;
    };
    let end_at = Instant::now() + seconds(if soak() { 120.0 } else { 15.0 });
    while Instant::now() < end_at {
        write();
    }
    run.wait_until("it keeps up", || {
        write();
        thread::sleep(seconds(0.2));
        vault.bodley("status", &["--max-lag", "10s"]).code == Some(0)
    });
    run = vault.until(run, "all", |listed| records(listed, "many") == written);
    let ran = end(run).exits(0);
    assert!(ran.peak < 256 << 20, "{} MiB", ran.peak >> 20);
    let (commits, tables) = (vault.objects_in("log/").len(), vault.objects_in("index/").len());
    assert!(tables <= commits, "{tables} tables, {commits} commits");
    // Four connections, so four segments a commit at most.
    let segments = vault.objects_in("data/").len();
    assert!(segments <= 4 * commits, "{segments} segments, {commits} commits");
    vault.verified();
}

/// A broker that accepts and says nothing holds up nobody else's commits.
#[test]
fn a_silent_broker_holds_up_nobody() {
    let stage = three();
    let vault = Vault::new();
    // Each partition on one node only: the silent one's can't be read elsewhere.
    stage.bench.create_topic("silent", 3, &[]).unwrap();
    for partition in 0..3 {
        stage.bench.reassign("silent", partition, &[partition]).unwrap();
        stage.write("silent", partition, "before", 10);
    }
    let mut run = follow(&stage, &vault, &["--topic", "silent"]);
    run = vault.until(run, "the beginning", |listed| records(listed, "silent") == 30);
    stage.cluster.proxy(2).unwrap().stall(true);
    thread::sleep(seconds(1.0));
    for n in 1..4 {
        for partition in 0..2 {
            stage.write("silent", partition, "meanwhile", 10);
        }
        let since = Instant::now();
        run = vault.until(run, "the others' records", |listed| records(listed, "silent") == 30 + 20 * n);
        assert!(since.elapsed() < seconds(90.0), "held up for {:?}", since.elapsed());
    }
    // It is not complete, and says so.
    thread::sleep(seconds(5.0));
    vault.bodley("status", &["--max-lag", "5s"]).exits(1).says("lagging");
    vault.bodley("status", &["--max-age", "15s"]).exits(0);
    stage.write("silent", 2, "late", 10);
    stage.cluster.proxy(2).unwrap().stall(false);
    run = vault.until(run, "all", |listed| records(listed, "silent") == 100);
    run = complete(run, &vault);
    end(run).exits(0);
    vault.verified();
}

#[test]
fn status() {
    let stage = one();
    let vault = Vault::new();
    vault.bodley("status", &[]).exits(2);
    stage.topic("aged", 1);
    stage.write("aged", 0, "x", 10);
    stage.backup(&vault, &["--topic", "aged"]).exits(0);
    let told = vault.bodley("status", &["--max-age", "1m", "--max-lag", "1m"]).exits(0).json();
    let status = &told["status"];
    let ages = [status["age_ms"].as_i64().unwrap(), status["lag_ms"].as_i64().unwrap()];
    assert!(ages.iter().all(|age| (0..60_000).contains(age)), "{told:#}");
    assert!(status["complete"].as_i64() <= status["committed"].as_i64(), "{told:#}");
    assert_eq!(told["receipt"], vault.listed()["receipt"]);
    thread::sleep(Duration::from_millis(2100));
    vault.bodley("status", &["--max-age", "2s"]).exits(1).says("stale");
    vault.bodley("status", &["--max-lag", "2s"]).exits(1).says("lagging");
    let text = common::bodley(&["status", "--vault", vault.url(), "--max-age", "2s"]).exits(1);
    text.says("more than 2 s").says("complete to 20").says("receipt ");
    common::bodley(&["status", "--vault", vault.url(), "--max-age", "soon"]).exits(2);
}

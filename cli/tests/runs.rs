//! Restores that are cut, and go on: what a second run, another writer, lost state and changed flags do to them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use bodley_testbed::ClusterOptions;
use bodley_testbed::proxy::Direction;
use bodley_testbed::workbench::{Generate, GroupOffset, ProduceOptions};

use common::judge::same_digests;
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{Running, list, seconds};

/// 24 MiB in four partitions, records of 4 KiB in batches of at most 64 KiB.
const LARGE: &str = "large";

/// The same, dated 2017: a broker forgets the producers of such records at its next look, every three seconds here.
const OLD: &str = "old";

/// A rate at which [`LARGE`] takes 48 s.
const SLOW: &str = "512K";

fn fill(site: &Site) {
    for (topic, first_timestamp) in [(LARGE, None), (OLD, Some(1_500_000_000_000))] {
        site.bench.create_topic(topic, 4, &[("retention.ms", "-1")]).unwrap();
        let load = Generate {
            count: 6_000,
            partitions: 4,
            value_bytes: 4096,
            first_timestamp,
            ..Generate::default()
        };
        let options = ProduceOptions { batch_bytes: 64 << 10, linger_ms: 20, ..ProduceOptions::default() };
        site.bench.generate(topic, &load, &options).unwrap();
    }
}

fn one() -> Stage {
    static ONES: [Slot; 2] = [Slot::new(), Slot::new()];
    Slot::stage(&ONES, ClusterOptions::new(), fill)
}

impl Stage {
    /// Starts a restore of `large` under another name, slow enough to be met on its way.
    fn restoring(&self, vault: &Vault, target: &str, more: &[&str]) -> Running {
        self.restoring_at("8M", vault, target, more)
    }

    /// At most so many bytes per second.
    fn restoring_at(&self, rate: &str, vault: &Vault, target: &str, more: &[&str]) -> Running {
        let rename = format!("{LARGE}={target}");
        self.start("restore", vault, &[&["--rename", &rename, "--limit-write", rate], more].concat())
    }
}

/// A run that is met by another one of the same restore is stopped by its fence; the other one completes it.
#[test]
fn another_run_takes_over() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    let mut first = stage.restoring_at(SLOW, &vault, "taken", &[]);
    stage.until(&mut first, "taken", 100);
    stage.restoring(&vault, "taken", &[]).wait().exits(0);
    first.wait().exits(1).says("another run");
    same_digests(&stage.bench, LARGE, "taken");
    stage.bench.delete_topic("taken").unwrap();
}

/// The topic is deleted, the file with the state is not: the topic is restored anew.
#[test]
fn a_topic_deleted_and_a_file() {
    let stage = one();
    stage.topic("filed", 1);
    stage.write("filed", 0, "record", 20);
    let vault = stage.vault_of(&["filed"]);
    let state = vault.root().with_file_name("state");
    let flags = ["--rename", "filed=refiled", "--state", state.to_str().unwrap()];
    stage.restore(&vault, &flags).exits(0);
    stage.restore(&vault, &flags).exits(0).says("nothing to do");
    stage.bench.delete_topic("refiled").unwrap();
    stage.restore(&vault, &flags).exits(0);
    same_digests(&stage.bench, "filed", "refiled");
    // Another topic of the same name.
    stage.bench.delete_topic("refiled").unwrap();
    stage.topic("refiled", 1);
    stage.restore(&vault, &flags).exits(0);
    same_digests(&stage.bench, "filed", "refiled");
    for topic in ["filed", "refiled"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// A connection breaks, the run puts a fence behind what it may have carried and goes on, and is killed: the state tells of that fence.
#[test]
fn killed_behind_a_fence_of_its_own() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    let mut run = stage.restoring(&vault, "own-fence", &[]);
    stage.until(&mut run, "own-fence", 800);
    stage.cluster.proxy(0).unwrap().cut();
    stage.until(&mut run, "own-fence", 3000);
    run.kill();
    stage.restoring(&vault, "own-fence", &[]).wait().exits(0);
    same_digests(&stage.bench, LARGE, "own-fence");
    stage.bench.delete_topic("own-fence").unwrap();
}

/// Somebody writes to a partition that is being restored: the run stops with the next answer.
#[test]
fn another_writer_on_the_way() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    let mut run = stage.restoring_at(SLOW, &vault, "shared", &[]);
    stage.until(&mut run, "shared", 100);
    stage.write("shared", 0, "foreign", 1);
    run.wait().exits(1).says("nothing more is sent").within(40);
    stage.restoring(&vault, "shared", &[]).wait().exits(1).says("shared-0");
    stage.bench.delete_topic("shared").unwrap();
}

/// Somebody writes to a partition that is restored already, while others are not.
#[test]
fn another_writer_behind_the_end() {
    let stage = one();
    stage.topic("little", 1);
    stage.write("little", 0, "record", 20);
    let vault = stage.vault_of(&[LARGE, "little"]);
    let mut run = stage.restoring_at(SLOW, &vault, "big", &["--rename", "little=small"]);
    stage.until(&mut run, "small", 20);
    stage.until(&mut run, "big", 100);
    stage.write("small", 0, "foreign", 1);
    run.wait().exits(1).says("somebody else");
    for topic in ["little", "small", "big"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// The name of a restore goes with its plan.
#[test]
fn another_plan_under_the_same_name() {
    let stage = one();
    stage.topic("further", 1);
    stage.write("further", 0, "record", 20);
    let vault = stage.vault_of(&[LARGE, "further"]);
    let named = ["--topic", LARGE, "--restore-id", "named"];
    let mut run = stage.restoring(&vault, "planned", &named);
    stage.until(&mut run, "planned", 500);
    run.kill();
    let before = stage.ends("planned");
    let more = [&named[..], &["--topic", "further", "--rename", "further=farther"]].concat();
    stage.restoring(&vault, "planned", &more).wait().exits(2).says("another plan");
    assert!(stage.ends("planned") == before && !stage.has("farther"));
    stage.restoring(&vault, "planned", &named).wait().exits(0);
    same_digests(&stage.bench, LARGE, "planned");
    for topic in ["further", "planned"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// A topic without records among those of a restore that is cut.
#[test]
fn an_empty_topic_among_others() {
    let stage = one();
    stage.topic("empty", 2);
    let vault = stage.vault_of(&[LARGE, "empty"]);
    let flags = ["--rename", "empty=void"];
    let mut run = stage.restoring(&vault, "full", &flags);
    stage.until(&mut run, "full", 500);
    run.kill();
    stage.restoring(&vault, "full", &flags).wait().exits(0);
    let own = |topic| stage.bench.describe(topic).unwrap().own_configs();
    assert_eq!(own("void"), own("empty"));
    stage.restoring(&vault, "full", &flags).wait().exits(0).says("nothing to do");
    for topic in ["empty", "void", "full"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// Two runs are started at the same moment where an earlier one was cut: whatever becomes of them, the restore can be completed.
#[test]
fn two_runs_at_once() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    for round in 0..4_u32 {
        let target = format!("twice-{round}");
        let mut run = stage.restoring(&vault, &target, &[]);
        stage.until(&mut run, &target, 500);
        run.kill();
        let mut one = stage.restoring(&vault, &target, &[]);
        one.leave_alone(seconds(0.02 * f64::from(round)));
        let two = stage.restoring(&vault, &target, &[]);
        let (one, two) = (one.wait(), two.wait());
        let three = stage.restoring(&vault, &target, &[]).wait();
        assert_eq!(three.code, Some(0), "{one}\n{two}\n{three}");
        same_digests(&stage.bench, LARGE, &target);
        stage.bench.delete_topic(&target).unwrap();
    }
}

/// A run has put its fence and counted, and its next requests are held back on their way, while another run completes the restore. When they
/// arrive, the broker has forgotten the old records' producers.
#[test]
fn a_run_that_is_held_back_behind_its_fence() {
    let stage = one();
    let vault = stage.vault_of(&[OLD]);
    let proxy = stage.cluster.proxy(0).unwrap();
    for step in 7..10 {
        let target = format!("held-{step}");
        let rename = format!("{OLD}={target}");
        // Where a topic has temporary settings, the run that wakes up misses them, and stops.
        stage.bench.create_topic(&target, 4, &[("retention.ms", "-1")]).unwrap();
        stage.write(&target, 0, "before", 1);
        let flags = ["--rename", &rename, "--append", "--limit-write", "8M"];
        let mut run = stage.start("restore", &vault, &flags);
        stage.until(&mut run, &target, 500);
        run.kill();
        std::thread::sleep(seconds(0.5));
        let cut: i64 = stage.ends(&target).iter().sum();
        proxy.delay(std::time::Duration::from_millis(60));
        let mut held = stage.start("restore", &vault, &flags);
        while stage.ends(&target).iter().sum::<i64>() < cut + 4 {
            assert!(held.leave_alone(seconds(0.005)).is_running());
        }
        held.leave_alone(seconds(0.06 * f64::from(step)));
        proxy.stall_one_way(Direction::ToServer, true);
        held.leave_alone(seconds(0.2));
        let bootstrap = stage.cluster.direct_bootstrap();
        let other = ["restore", "-b", &bootstrap, "--vault", vault.url(), "--rename", &rename, "--append"];
        common::start(&other).wait().exits(0);
        std::thread::sleep(seconds(4.0));
        proxy.calm();
        let held = held.wait();
        let records = stage.dump(&target).iter().unwrap().count();
        assert_eq!(records, 6_001, "step {step}: {held}");
        stage.bench.delete_topic(&target).unwrap();
    }
}

/// What was added to a topic in use is not added again when the state has expired.
#[test]
fn added_and_the_state_expired() {
    let stage = one();
    stage.topic("source", 1);
    stage.write("source", 0, "record", 50);
    let vault = stage.vault_of(&["source"]);
    stage.topic("used", 1);
    stage.write("used", 0, "before", 10);
    let append = ["--rename", "source=used", "--append"];
    stage.restore(&vault, &append).exits(0);
    assert_eq!(stage.ends("used"), [60]);
    stage.forget_restores();
    let ran = stage.restore(&vault, &append);
    assert_eq!(stage.ends("used"), [60], "{ran}");
    for topic in ["source", "used"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// The same when it was cut.
#[test]
fn being_added_and_the_state_lost() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    stage.topic("in-use", 4);
    stage.write("in-use", 0, "before", 10);
    let mut run = stage.restoring(&vault, "in-use", &["--append"]);
    stage.until(&mut run, "in-use", 500);
    run.kill();
    stage.forget_restores();
    let ran = stage.restoring(&vault, "in-use", &["--append"]).wait();
    let sum = stage.ends("in-use").iter().sum::<i64>();
    assert!(ran.code != Some(0) || sum < 6_010 + 100, "{sum} records: {ran}");
    stage.bench.delete_topic("in-use").unwrap();
}

/// Data that one run left out is still missing when a later run has restored all else.
#[test]
fn what_is_missing_stays_missing() {
    let stage = one();
    stage.topic("whole", 1);
    stage.write("whole", 0, "record", 20);
    let holey = stage.vault_of(&[LARGE]);
    let segment = holey.objects().into_keys().find(|path| path.starts_with("data/")).unwrap();
    stage.backup(&holey, &["--topic", LARGE, "--topic", "whole"]).exits(0);
    holey.change(&segment, |bytes| bytes[3_000_000] ^= 1);
    let flags = ["--rename", "large=holes", "--rename", "whole=sound", "--skip-damaged"];
    let ran = stage.restore(&holey, &flags).exits(3).says("left out");
    assert!(list(&ran.json(), "errors").iter().all(|error| error["topic"] == "holes"), "{ran}");
    stage.restore(&holey, &flags).exits(3).says("nothing to do");
    stage.bench.delete_topic("sound").unwrap();
    let again = stage.restore(&holey, &flags);
    let last = stage.restore(&holey, &flags);
    assert_eq!((again.code, last.code), (Some(3), Some(3)), "{again}\n{last}");
    for topic in ["whole", "sound", "holes"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// The command that sets a topic's real retention again tells the value that it had before the first of several runs.
#[test]
fn held_retention_after_a_cut() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    let hold = ["--hold-retention", "2h"];
    stage.bench.create_topic("found", 4, &[("retention.ms", "60000")]).unwrap();
    let mut run = stage.restoring(&vault, "found", &hold);
    stage.until(&mut run, "found", 500);
    run.kill();
    stage.restoring(&vault, "found", &hold).wait().exits(0).says("--add-config retention.ms=60000");
    stage.bench.delete_topic("found").unwrap();
}

/// A restore with --skip-damaged that was cut is gone on with by the same flag: without it, it is said what to do.
#[test]
fn a_flag_forgotten() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    let segment = vault.objects().into_keys().find(|path| path.starts_with("data/")).unwrap();
    vault.change(&segment, |bytes| bytes[5_000_000] ^= 1);
    let mut run = stage.restoring(&vault, "forgotten", &["--skip-damaged"]);
    stage.until(&mut run, "forgotten", 1500);
    run.kill();
    let ran = stage.restoring(&vault, "forgotten", &[]).wait();
    assert_ne!(ran.code, Some(0), "{ran}");
    let ran = ran.says("--skip-damaged");
    assert!(!ran.err.contains("delete the topic"), "{ran}");
    stage.restoring(&vault, "forgotten", &["--skip-damaged"]).wait().exits(3).says("left out");
    stage.bench.delete_topic("forgotten").unwrap();
}

/// Positions of groups are asked for after the records are there.
#[test]
fn groups_after_the_records() {
    let stage = one();
    stage.topic("read", 1);
    stage.write("read", 0, "record", 20);
    stage.bench.commit_offsets("reader", &[GroupOffset::new("read", 0, 7)]).unwrap();
    let vault = stage.vault_of(&["read"]);
    let flags = ["--rename", "read=reread", "--groups"];
    stage.restore(&vault, &[&flags[..], &["none"]].concat()).exits(0);
    let ran = stage.restore(&vault, &[&flags[..], &["map"]].concat());
    let found = stage.bench.group_offsets("reader").unwrap();
    let moved = found.iter().any(|group| group.topic == "reread" && group.offset == 7);
    assert!(moved || ran.code != Some(0), "{ran}");
    for topic in ["read", "reread"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// A group that reads a topic in use has not read all that was there before: what is added does not take that from it.
#[test]
fn a_group_of_a_topic_in_use() {
    let stage = one();
    stage.topic("origin", 1);
    stage.write("origin", 0, "record", 20);
    stage.bench.commit_offsets("worker", &[GroupOffset::new("origin", 0, 15)]).unwrap();
    let vault = stage.vault_of(&["origin"]);
    stage.topic("busy", 1);
    stage.write("busy", 0, "before", 10);
    stage.bench.commit_offsets("worker", &[GroupOffset::new("busy", 0, 4)]).unwrap();
    let ran = stage.restore(&vault, &["--rename", "origin=busy", "--append"]);
    let found = stage.bench.group_offsets("worker").unwrap();
    let at = found.iter().find(|group| group.topic == "busy").map(|group| group.offset);
    assert_eq!(at, Some(4), "{ran}");
    for topic in ["origin", "busy"] {
        stage.bench.delete_topic(topic).unwrap();
    }
}

/// A restore whose last records lie behind a fence, and whose state has expired.
#[test]
fn cut_and_done_and_its_state_expired() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    let mut run = stage.restoring(&vault, "fenced", &[]);
    stage.until(&mut run, "fenced", 500);
    run.kill();
    stage.restoring(&vault, "fenced", &[]).wait().exits(0);
    stage.forget_restores();
    stage.restoring(&vault, "fenced", &[]).wait().exits(0).says("nothing to do");
    stage.bench.delete_topic("fenced").unwrap();
}

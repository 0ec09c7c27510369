//! Restores that are cut, and go on: what a second run, another writer, lost state and changed flags do to them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use bodley_testbed::ClusterOptions;
use bodley_testbed::workbench::{Generate, ProduceOptions};

use common::judge::same_digests;
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{Running, seconds};

/// 24 MiB in four partitions, records of 4 KiB in batches of at most 64 KiB.
const LARGE: &str = "large";

fn fill(site: &Site) {
    site.bench.create_topic(LARGE, 4, &[("retention.ms", "-1")]).unwrap();
    let load = Generate { count: 6_000, partitions: 4, value_bytes: 4096, ..Generate::default() };
    let options = ProduceOptions { batch_bytes: 64 << 10, linger_ms: 20, ..ProduceOptions::default() };
    site.bench.generate(LARGE, &load, &options).unwrap();
}

fn one() -> Stage {
    static ONES: [Slot; 2] = [Slot::new(), Slot::new()];
    Slot::stage(&ONES, ClusterOptions::new(), fill)
}

impl Stage {
    fn vault_of(&self, topics: &[&str]) -> Vault {
        let vault = Vault::new();
        let flags: Vec<&str> = topics.iter().flat_map(|topic| ["--topic", topic]).collect();
        self.backup(&vault, &flags).exits(0);
        vault
    }

    /// Starts a restore of `large` under another name, slow enough to be met on its way.
    fn restoring(&self, vault: &Vault, target: &str, more: &[&str]) -> Running {
        let rename = format!("{LARGE}={target}");
        self.start("restore", vault, &[&["--rename", &rename, "--limit-write", "8M"], more].concat())
    }

    /// Lets a run go on until the target has so many records of it.
    #[track_caller]
    fn until(&self, run: &mut Running, target: &str, records: i64) {
        while !self.has(target) || self.ends(target).iter().sum::<i64>() < records {
            assert!(run.leave_alone(seconds(0.05)).is_running(), "too fast for this test");
        }
    }

    fn ends(&self, topic: &str) -> Vec<i64> {
        self.bench.describe(topic).unwrap().partitions.iter().map(|p| p.end).collect()
    }
}

/// A run that is met by another one of the same restore is stopped by its fence; the other one completes it.
#[test]
fn another_run_takes_over() {
    let stage = one();
    let vault = stage.vault_of(&[LARGE]);
    let mut first = stage.restoring(&vault, "taken", &[]);
    stage.until(&mut first, "taken", 500);
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
    let mut run = stage.restoring(&vault, "shared", &[]);
    stage.until(&mut run, "shared", 500);
    stage.write("shared", 0, "foreign", 1);
    run.wait().exits(1).says("nothing more is sent").within(3);
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
    let mut run = stage.restoring(&vault, "big", &["--rename", "little=small"]);
    stage.until(&mut run, "small", 20);
    stage.until(&mut run, "big", 500);
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

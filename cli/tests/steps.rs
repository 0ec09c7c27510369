//! Runs that are killed at every one of their requests to Kafka: the request is lost, comes late, or is the last that had its effect. The same command, run again,
//! goes on exactly once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

#[path = "steps/restoring.rs"]
mod restoring;

use bodley_testbed::broker::kafka_protocol::messages::ApiKey;
use bodley_testbed::proxy::{Delivery, Steps};
use bodley_testbed::workbench::GroupOffset;
use bodley_testbed::{ClusterOptions, Dump};

use common::judge::Python;
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{Ran, Rng, Running, seconds, soak};
use restoring::{Case, Late, Scene};

const TOPICS: [&str; 2] = ["orders", "events"];
const PARTITIONS: i32 = 3;
/// Of each partition. A request has one batch, of five, where none are merged.
const RECORDS: usize = 60;
/// Its positions, at the same place in both topics.
const GROUP: &str = "reader";
const POSITIONS: [i64; 3] = [0, 33, RECORDS as i64];
/// These are few in a run; a run is killed at each of them in every way.
const RARE: [ApiKey; 6] = [
    ApiKey::InitProducerId,
    ApiKey::CreateTopics,
    ApiKey::OffsetCommit,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::AddPartitionsToTxn,
    ApiKey::EndTxn,
];

fn fill(site: &Site) {
    for topic in TOPICS {
        site.bench.create_topic(topic, PARTITIONS, &[("retention.ms", "-1")]).unwrap();
        (0..PARTITIONS).for_each(|partition| site.write(topic, partition, topic, RECORDS));
        let position = |(partition, offset)| GroupOffset::new(topic, partition, offset);
        let positions: Vec<GroupOffset> = (0..).zip(POSITIONS).map(position).collect();
        site.bench.commit_offsets(GROUP, &positions).unwrap();
    }
}

fn stage() -> Stage {
    static SLOTS: [Slot; 2] = [Slot::new(), Slot::new()];
    Slot::stage(&SLOTS, ClusterOptions::new(), fill)
}

/// Numbers of the requests to be killed at, in one of three ways: each number is met in one of them, or in all.
fn chosen(apis: &[i16], way: usize) -> Vec<usize> {
    let rare = |n: &usize| RARE.iter().any(|api| *api as i16 == apis[n - 1]);
    (1..=apis.len()).filter(|n| soak() || n % 3 == way || rare(n)).collect()
}

/// Waits until a run has been stopped at its request; false: it has ended before.
fn is_stopped(run: &mut Running, steps: &Steps) -> bool {
    while !steps.stopped() {
        if !run.is_running() {
            return false;
        }
        std::thread::sleep(seconds(0.002));
    }
    true
}

/// The names of APIs, each with how often it was asked.
fn tally(apis: &[i16]) -> String {
    let name = |api: i16| ApiKey::try_from(api).map_or(format!("{api}"), |api| format!("{api:?}"));
    let mut counts = std::collections::BTreeMap::<i16, usize>::new();
    apis.iter().for_each(|api| *counts.entry(*api).or_default() += 1);
    counts.into_iter().map(|(api, count)| format!(" {}: {count}", name(api))).collect()
}

/// Kills a restore at each of its requests, and says how often.
fn killed_restores(scene: &Scene, way: usize, delivery: Delivery, late: impl Fn(usize) -> Late) {
    let apis = scene.whole(&format!("whole-{way}"));
    eprintln!("{} requests:{}", apis.len(), tally(&apis));
    let numbers = chosen(&apis, way);
    let mut kills = 0;
    for at in &numbers {
        let name = format!("{}-{at}", if delivery == Delivery::Held { "held" } else { "delivered" });
        let case = Case { name, cuts: vec![(*at, delivery)], late: late(*at) };
        kills += scene.play(&case);
    }
    eprintln!("{kills} kills in {} cases", numbers.len());
    // The number of requests varies from run to run: batches that are ready share one.
    assert!(kills * 5 >= numbers.len() * 4, "{kills} kills in {} cases", numbers.len());
}

/// The request is lost with the run.
#[test]
fn a_restore_killed_at_every_request() {
    killed_restores(&Scene::new(stage()), 0, Delivery::Held, |_| Late::Lost);
}

/// The request arrives when the next run is at work.
#[test]
fn a_restore_killed_at_every_request_that_arrives_late() {
    killed_restores(&Scene::new(stage()), 1, Delivery::Held, |at| Late::Meets(at * 7 % 40));
}

/// The request has its effect, and the run does not learn of it.
#[test]
fn a_restore_killed_behind_every_request() {
    killed_restores(&Scene::new(stage()), 2, Delivery::Delivered, |_| Late::Lost);
}

/// The next run, which fences and counts, is killed as well.
#[test]
fn a_restore_killed_twice() {
    let scene = Scene::new(stage());
    let apis = scene.whole("whole-twice");
    let mut rng = Rng::new("pairs", 11);
    let rounds = if soak() { 300 } else { 12 };
    let mut kills = 0;
    for round in 0..rounds {
        // A run that is cut early leaves the next one nothing to fence.
        let first = apis.len() / 3 + rng.below(apis.len() as u64 * 2 / 3) as usize;
        let mut cut = |at| (at, if rng.below(2) == 0 { Delivery::Held } else { Delivery::Delivered });
        let cuts = vec![cut(first), cut(1 + (first * 31 + round * 17) % apis.len())];
        let late = if rng.below(2) == 0 { Late::Lost } else { Late::Meets(rng.below(40) as usize) };
        kills += scene.play(&Case { name: format!("twice-{round}"), cuts, late });
    }
    eprintln!("{kills} kills in {rounds} cases");
    assert!(kills > rounds, "{kills} kills in {rounds} cases");
}

/// The vault has every record of these, once.
#[track_caller]
fn has_all(vault: &Vault, expected: &[Dump]) {
    let verified = vault.verified();
    let all: u64 = expected.iter().map(Dump::len).sum();
    assert_eq!(verified["records"], all, "{verified:#}");
    let python = Python::read(vault, &[]);
    for dump in expected {
        python.saw(dump.topic(), dump);
    }
}

#[test]
fn a_backup_killed_at_every_request() {
    let stage = stage();
    let expected = TOPICS.map(|topic| stage.dump(topic));
    let proxy = stage.cluster.proxy(0).unwrap();
    let topics = ["--topic", TOPICS[0], "--topic", TOPICS[1]];
    let again = |vault: &Vault| -> Ran { stage.backup(vault, &topics).exits(0) };
    let counted = proxy.count_requests();
    again(&Vault::new());
    let apis = counted.apis();
    eprintln!("{} requests:{}", apis.len(), tally(&apis));
    let mut kills = 0;
    for at in 1..=apis.len() {
        for delivery in [Delivery::Held, Delivery::Delivered] {
            if !soak() && (at % 2 == 0) != (delivery == Delivery::Held) {
                continue;
            }
            let vault = Vault::new();
            let steps = proxy.stop_at_request(at, delivery);
            let mut run = stage.start("backup", &vault, &topics);
            if !is_stopped(&mut run, &steps) {
                run.wait().exits(0);
                continue;
            }
            run.kill();
            kills += 1;
            drop(steps);
            again(&vault);
            has_all(&vault, &expected);
            let before = vault.commits();
            assert_eq!(again(&vault).json()["bytes"], 0);
            assert_eq!(vault.commits(), before, "killed at {at}");
        }
    }
    eprintln!("{kills} kills");
    // No two runs need quite as many.
    assert!(10 * kills >= 8 * apis.len(), "{kills} kills at {} requests", apis.len());
}

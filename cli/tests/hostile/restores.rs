//! Brokers that lie to a restore: it never says that all is well when it is not, and with honest ones a restore from scratch works.

use std::time::Duration;

use bodley_testbed::broker::kafka_protocol::messages::produce_response::PartitionProduceResponse;
use bodley_testbed::broker::kafka_protocol::messages::*;
use bodley_testbed::broker::{Action, Call};

use crate::common::vault::Vault;
use crate::common::{Ran, bodley};
use crate::liar::{MEMORY, ORDERS, RECORDS, Stage, always, each, seeds};

/// A vault of honest brokers, and a target.
struct Scene {
    source: Stage,
    target: Stage,
}

impl Scene {
    fn new() -> Self {
        let source = Stage::new();
        source.recovers();
        Self { source, target: Stage::empty() }
    }

    fn vault(&self) -> &Vault {
        &self.source.vault
    }

    fn restore(&self, args: &[&str]) -> Ran {
        let bootstrap = self.target.brokers.bootstrap();
        let fixed = ["restore", "-b", &bootstrap, "--vault", self.vault().url(), "--output", "json"];
        let ran = bodley(&[&fixed, args].concat());
        assert!(ran.peak < MEMORY, "{} bytes of memory: {ran}", ran.peak);
        ran
    }

    /// Honest again, and without what was left over.
    #[track_caller]
    fn recovers(&self) {
        self.target.brokers.honest();
        self.target.brokers.world(|world| {
            world.topics.clear();
            world.groups.clear();
        });
        self.restore(&[]).exits(0);
        assert!(self.is_restored());
    }

    /// Every record is there once.
    fn is_restored(&self) -> bool {
        let keys = |stage: &Stage, partition| {
            let records = stage.brokers.records(ORDERS, partition).unwrap_or_default();
            records.into_iter().map(|r| (r.key, r.value, r.timestamp)).collect::<Vec<_>>()
        };
        (0..3).all(|partition| {
            let there = keys(&self.target, partition);
            there.len() == RECORDS && there == keys(&self.source, partition)
        })
    }

    /// A run under a lie: a failure with words, or all is there. What became of a batch is asked of the log, whatever Produce answered.
    #[track_caller]
    fn judge(&self, ran: Ran, words: &str) {
        match ran.code {
            Some(0) => assert!(self.is_restored(), "{ran}"),
            Some(1..=3) => _ = ran.says(words),
            _ => panic!("{ran}"),
        }
    }
}

/// What a restore asks.
const ASKED: [ApiKey; 9] = [
    ApiKey::ApiVersions,
    ApiKey::Metadata,
    ApiKey::CreateTopics,
    ApiKey::DescribeConfigs,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::InitProducerId,
    ApiKey::Produce,
    ApiKey::ListOffsets,
    ApiKey::OffsetCommit,
];

type Lie = fn(&Call<'_>) -> Action;

const LIES: [(&str, Lie); 7] = [
    ("silence", |_| Action::Silence),
    ("the end of the connection", |_| Action::Close),
    ("a length of 2 GiB", |_| Action::Frame(vec![0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0])),
    ("another correlation id", |call| call.mangle(true, |frame| frame[7] ^= 0x40)),
    ("half of an answer", |call| call.mangle(true, |frame| frame.truncate(4 + (frame.len() - 4) / 2))),
    ("nothing but ones", |call| call.mangle(true, |frame| frame[8..].fill(0xff))),
    ("a byte at a time", |_| Action::Drip(Duration::from_millis(300), Box::new(Action::Honest))),
];

#[test]
fn no_lie_about_frames_is_believed() {
    let mut cases: Vec<(ApiKey, &(&str, Lie))> =
        ASKED.iter().flat_map(|api| LIES.iter().map(move |lie| (*api, lie))).collect();
    if std::env::var_os("BODLEY_SOAK").is_none() {
        // What is stored is found out by asking, batch after batch: that takes its time.
        cases.retain(|(api, lie)| *api != ApiKey::Produce || lie.0 != "a byte at a time");
    }
    let name = |(api, lie): &(ApiKey, &(&str, Lie))| format!("{api:?}: {}", lie.0);
    each(&cases, name, |(api, lie)| {
        let scene = Scene::new();
        scene.target.brokers.script(always(*api, lie.1));
        let ran = scene.restore(&["--give-up-after", "1s"]);
        scene.judge(ran, if *api == ApiKey::ListOffsets { "orders-" } else { "127.0.0.1" });
        scene.recovers();
    });
}

#[test]
fn no_hostile_number_breaks_out() {
    let cases: Vec<(ApiKey, u64)> = ASKED.iter().flat_map(|api| seeds(2).map(|seed| (*api, seed))).collect();
    each(
        &cases,
        |case| format!("{case:?}"),
        |(api, seed)| {
            let scene = Scene::new();
            let seed = *seed;
            scene.target.brokers.script(always(*api, move |call| {
                if call.nth >= 3 {
                    return Action::Honest;
                }
                let mut rng = crate::common::Rng::new("number", seed * 100 + call.nth as u64);
                call.mangle(false, |frame| {
                    let at = 16.min(frame.len() - 1);
                    let at = at + rng.below((frame.len() - at) as u64) as usize;
                    let end = (at + 4).min(frame.len());
                    let number =
                        [[0x7f, 0xff, 0xff, 0xff], [0xff, 0xff, 0xff, 0xfe], [0x80, 0x80, 0x80, 0x80]];
                    frame[at..end].copy_from_slice(&number[rng.below(3) as usize][..end - at]);
                })
            }));
            let ran = scene.restore(&["--give-up-after", "1s"]);
            assert!(matches!(ran.code, Some(0..=3)), "{ran}");
            scene.recovers();
        },
    );
}

fn acks(call: &Call<'_>, change: impl Fn(&mut PartitionProduceResponse)) -> Action {
    call.edit::<ProduceRequest>(|response| {
        let partitions = response.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses);
        partitions.for_each(change);
    })
}

/// An answer to Produce, without storing anything.
fn unstored(call: &Call<'_>, change: impl Fn(&mut PartitionProduceResponse)) -> Action {
    if call.api != ApiKey::Produce {
        return Action::Honest;
    }
    let ends = |world: &mut bodley_testbed::broker::World| {
        let logs = world.topics.values().flat_map(|topic| &topic.partitions);
        logs.map(|log| (log.end, log.batches.len())).collect::<Vec<_>>()
    };
    let before = call.world(|world| ends(world));
    let action = acks(call, change);
    call.world(|world| {
        let logs = world.topics.values_mut().flat_map(|topic| &mut topic.partitions);
        for (log, (end, batches)) in logs.zip(before) {
            log.end = end;
            log.batches.truncate(batches);
        }
    });
    action
}

#[test]
fn no_lie_about_what_is_stored_is_believed() {
    let lies: [(&str, Lie, &str); 10] = [
        ("offsets too large", |c| acks(c, |p| p.base_offset += 1), "orders-"),
        ("offsets below zero", |c| acks(c, |p| p.base_offset = -9), "orders-"),
        ("the largest offset", |c| acks(c, |p| p.base_offset = i64::MAX), "orders-"),
        ("another partition", |c| acks(c, |p| p.index += 30), "orders-"),
        ("a negative partition", |c| acks(c, |p| p.index = -1), "orders-"),
        ("nothing", |c| c.edit::<ProduceRequest>(|r| r.responses.clear()), "orders-"),
        ("an unknown error", |c| acks(c, |p| p.error_code = 31_999), "31999"),
        ("never enough replicas", |c| refuse(c, 19), "NOT_ENOUGH_REPLICAS"),
        // What the scripted broker takes back may be a fence of another connection: then the log is not as it was left.
        ("another leader for ever", |c| refuse(c, 6), "orders-"),
        ("success without storing", |c| unstored(c, |_| {}), "orders-"),
    ];
    each(
        &lies,
        |(name, ..)| (*name).to_owned(),
        |(_, lie, words)| {
            let scene = Scene::new();
            scene.target.brokers.script(*lie);
            let ran = scene.restore(&["--give-up-after", "1s"]);
            scene.judge(ran, words);
            scene.recovers();
        },
    );
}

/// An error in place of storing.
fn refuse(call: &Call<'_>, code: i16) -> Action {
    unstored(call, |p| (p.error_code, p.base_offset) = (code, -1))
}

/// Twice stored, as by a leader that forgot its producers: the end tells.
#[test]
fn what_is_stored_twice_is_noticed() {
    let scene = Scene::new();
    scene.target.brokers.script(always(ApiKey::Produce, |call| {
        let action = acks(call, |_| {});
        call.world(|world| {
            for log in world.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
                if let Some(last) = log.batches.last().map(|stored| stored.bytes.clone()) {
                    log.append(last).unwrap();
                }
            }
        });
        action
    }));
    scene.restore(&["--give-up-after", "1s"]).exits(1).says("orders-");
    scene.recovers();
}

/// A topic that is made and never seen.
#[test]
fn a_topic_that_never_shows() {
    if std::env::var_os("BODLEY_SOAK").is_none() {
        return; // it is waited for a minute
    }
    let scene = Scene::new();
    scene.target.brokers.script(always(ApiKey::Metadata, |call| {
        call.edit::<MetadataRequest>(|metadata| metadata.topics.clear())
    }));
    scene.restore(&["--give-up-after", "1s"]).exits(1).says(ORDERS);
    scene.recovers();
}

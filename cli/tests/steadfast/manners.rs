//! What a cluster hears of a run that can't go on, and what the run costs meanwhile: next to nothing, in whatever way it is held up.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bodley_testbed::Brokers;
use bodley_testbed::broker::kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, TopicProduceResponse,
};
use bodley_testbed::broker::kafka_protocol::messages::*;
use bodley_testbed::broker::kafka_protocol::protocol::Encodable;
use bodley_testbed::broker::{Action, Call};

use crate::common::vault::Vault;
use crate::common::{Running, seconds, soak, start};

const TOPIC: &str = "many";
const PARTITIONS: usize = 1_000;
/// In each of them.
const RECORDS: usize = 20;
/// Bytes per second that a run may move: with this it takes half a minute.
const RATE: &str = "20K";
/// Partitions that have records in an answer: with fewer answers a backup would have all before any trouble.
const AT_A_TIME: usize = 4;
/// How long it is looked on, once the trouble is some seconds old.
const LOOKED_ON: f64 = 20.0;
/// Of one core.
const MOST_CPU: f64 = 0.05;
/// Metadata requests in that time: one in a second or so, whoever else wants one.
const MOST_METADATA: usize = 40;
/// Connections in that time to one broker that does not work: the run's and the metadata's own.
const MOST_CONNECTIONS: usize = 40;
/// The first Produce version that tells ids in place of names.
const PRODUCE_WITH_IDS: i16 = 13;

/// A backup or a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Backup,
    Restore,
}

/// What the brokers do from some moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// One of three takes connections and closes them.
    OneCloses,
    /// All do.
    AllClose,
    /// All take connections and answer nothing.
    AllSilent,
    /// Nobody leads anything that is read or written, whatever the metadata say.
    NoLeaders,
    /// A quota holds everything back for long.
    Throttled,
}

const TROUBLES: [Trouble; 5] =
    [Trouble::OneCloses, Trouble::AllClose, Trouble::AllSilent, Trouble::NoLeaders, Trouble::Throttled];

/// Requests by broker and API since the trouble began.
type Counts = Arc<Mutex<BTreeMap<(i32, i16), usize>>>;

impl Trouble {
    fn answer(self, call: &Call<'_>) -> Action {
        match self {
            Self::OneCloses if call.node != 1 => in_little_bites(call),
            Self::OneCloses | Self::AllClose => Action::Close,
            Self::AllSilent => Action::Silence,
            Self::NoLeaders => no_leader(call),
            Self::Throttled => match call.api {
                ApiKey::Produce => call.edit::<ProduceRequest>(|answer| answer.throttle_time_ms = 4000),
                _ => call.edit::<FetchRequest>(|answer| {
                    answer.throttle_time_ms = 4000;
                    answer.responses.clear();
                }),
            },
        }
    }
}

/// Honest, but no answer has much.
fn in_little_bites(call: &Call<'_>) -> Action {
    call.edit::<FetchRequest>(|answer| {
        let all = answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
        let filled = all.filter(|p| p.records.as_ref().is_some_and(|records| !records.is_empty()));
        filled.skip(AT_A_TIME).for_each(|partition| partition.records = Some(Default::default()));
    })
}

fn no_leader(call: &Call<'_>) -> Action {
    const NOT_LEADER: i16 = 6;
    let Some(request) = call.request::<ProduceRequest>() else {
        return call.edit::<FetchRequest>(|answer| {
            for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
                (partition.error_code, partition.records) = (NOT_LEADER, None);
            }
        });
    };
    let topics = request.topic_data.into_iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|data| {
            let refused = PartitionProduceResponse::default().with_index(data.index);
            refused.with_error_code(NOT_LEADER).with_base_offset(-1)
        });
        let answer = TopicProduceResponse::default().with_partition_responses(partitions.collect());
        match call.version >= PRODUCE_WITH_IDS {
            true => answer.with_topic_id(topic.topic_id),
            false => answer.with_name(topic.name),
        }
    });
    let answer = ProduceResponse::default().with_responses(topics.collect());
    let mut body = Vec::new();
    answer.encode(&mut body, call.version).unwrap();
    Action::Body(body.into())
}

/// Seconds of a processor that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    let ticks: Vec<u64> =
        behind_name.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap()).collect();
    (ticks[0] + ticks[1]) as f64 / 100.0
}

/// Brokers with the topic, or without.
fn brokers(filled: bool) -> Brokers {
    let brokers = Brokers::start(3).unwrap();
    if filled {
        brokers.topic(TOPIC, PARTITIONS);
        (0..PARTITIONS).for_each(|partition| brokers.write(TOPIC, partition, RECORDS).unwrap());
    }
    brokers
}

fn run(verb: Verb, brokers: &Brokers, vault: &Vault) -> Running {
    let bootstrap = brokers.bootstrap();
    let (name, limit) = match verb {
        Verb::Backup => ("backup", "--limit-read"),
        Verb::Restore => ("restore", "--limit-write"),
    };
    start(&[name, "-b", &bootstrap, "--vault", vault.url(), limit, RATE, "--output", "json"])
}

/// A run meets with trouble in its middle, is looked at, and goes on when that is over.
fn play(verb: Verb, trouble: Trouble, filled: &Vault) {
    let name = format!("{verb:?}, {trouble:?}");
    let (brokers, vault) = match verb {
        Verb::Backup => (brokers(true), Vault::new()),
        Verb::Restore => (brokers(false), filled.snapshot()),
    };
    let moved = if verb == Verb::Backup { ApiKey::Fetch } else { ApiKey::Produce };
    brokers.script(in_little_bites);
    let mut run = run(verb, &brokers, &vault);
    while brokers.asked(moved) < 20 {
        assert!(run.leave_alone(seconds(0.1)).is_running(), "{name}: {}", run.wait());
    }
    let counts = Counts::default();
    let counted = Arc::clone(&counts);
    brokers.script(move |call| {
        *counted.lock().unwrap().entry((call.node, call.api as i16)).or_default() += 1;
        trouble.answer(call)
    });
    run.leave_alone(seconds(6.0));
    let (used, heard) = (cpu(run.pid()), snapshot(&counts));
    run.leave_alone(seconds(LOOKED_ON));
    assert!(run.is_running(), "{name}: {}", run.wait());
    let used = (cpu(run.pid()) - used) / LOOKED_ON;
    let heard = since(&heard, &snapshot(&counts));
    let of = |api: ApiKey| {
        let counts = heard.iter().filter(|((_, of), _)| *of == api as i16).map(|((node, _), n)| (*node, *n));
        counts.collect::<BTreeMap<i32, usize>>()
    };
    let (metadata, connections) = (of(ApiKey::Metadata), of(ApiKey::ApiVersions));
    eprintln!(
        "{name}: {:.1} % of a core, metadata {metadata:?}, connections {connections:?}, {} requests in all",
        used * 100.0,
        heard.values().sum::<usize>()
    );
    // A busy loop takes all of one; on machines that are slow or busy, a little work is a larger share.
    let most = if soak() { MOST_CPU } else { 3.0 * MOST_CPU };
    assert!(used < most, "{name}: {:.1} % of a core", used * 100.0);
    assert!(metadata.values().sum::<usize>() <= MOST_METADATA, "{name}: {metadata:?}");
    assert!(connections.values().all(|n| *n <= MOST_CONNECTIONS), "{name}: {connections:?}");
    brokers.honest();
    let ran = run.wait().exits(0);
    match trouble {
        Trouble::Throttled => {}
        Trouble::NoLeaders => _ = ran.says("waiting for ").says(" partitions ("),
        Trouble::OneCloses => {
            _ = ran.says("waiting for broker 1 at 127.0.0.1:").says("broker 1 is back after")
        }
        Trouble::AllClose | Trouble::AllSilent => _ = ran.says("waiting for broker 0 at 127.0.0.1:"),
    }
    match verb {
        Verb::Backup => assert_eq!(vault.verified()["records"], PARTITIONS * RECORDS, "{name}"),
        Verb::Restore => {
            let records = |partition| brokers.records(TOPIC, partition).unwrap().len();
            let wrong = (0..PARTITIONS).find(|partition| records(*partition) != RECORDS);
            assert_eq!(wrong.map(|partition| (partition, records(partition))), None, "{name}");
        }
    }
}

fn snapshot(counts: &Counts) -> BTreeMap<(i32, i16), usize> {
    counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn since(
    before: &BTreeMap<(i32, i16), usize>,
    now: &BTreeMap<(i32, i16), usize>,
) -> BTreeMap<(i32, i16), usize> {
    now.iter().map(|(key, n)| (*key, n - before.get(key).copied().unwrap_or(0))).collect()
}

fn all(verb: Verb) {
    let filled = Vault::new();
    if verb == Verb::Restore {
        let source = brokers(true);
        start(&["backup", "-b", &source.bootstrap(), "--vault", filled.url()]).wait().exits(0);
    }
    thread::scope(|scope| {
        let filled = &filled;
        let under_way: Vec<_> =
            TROUBLES.iter().map(|trouble| scope.spawn(move || play(verb, *trouble, filled))).collect();
        let failed = under_way.into_iter().map(|play| play.join().is_err());
        let failed = failed.filter(|failed| *failed).count();
        assert_eq!(failed, 0, "of {} cases", TROUBLES.len());
    });
}

#[test]
fn a_backup_that_waits() {
    all(Verb::Backup);
}

#[test]
fn a_restore_that_waits() {
    all(Verb::Restore);
}

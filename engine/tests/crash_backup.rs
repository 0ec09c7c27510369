//! A backup dies at each operation of its store, before and after the effect: the process is gone with all its tasks. The next run, with nothing repaired, completes
//! it, and each partition's chunks are the broker's log, byte by byte. Then the same with a restore, which dies at each of its reads.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bodley_engine::backup::{BackupOptions, backup};
use bodley_engine::restore::{Choice, RestoreOptions, restore};
use bodley_engine::{EngineError, Progress, Report, Selection};
use bodley_io::kafka::{Address, ClientOptions, Cluster};
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use bodley_testbed::Brokers;
use bodley_testbed::broker::kafka_protocol::messages::FetchRequest;
use bodley_testbed::broker::{Action, Call};
use tokio::runtime::Builder;
use tokio::sync::watch;

use common::frozen::{Frozen, Stop};
use common::model::Model;
use common::sample::verified;

const TOPIC: &str = "orders";
const PARTITIONS: usize = 3;
/// Of each partition; a run's second half comes later.
const RECORDS: usize = 240;
/// Bytes of a partition in an answer: a few batches, and a cut one.
const ANSWER: usize = 1500;

/// Two brokers that answer little at a time, and take their time.
fn brokers() -> Brokers {
    let brokers = Brokers::start(2).unwrap();
    brokers.topic(TOPIC, PARTITIONS);
    write(&brokers);
    brokers.script(slowly);
    brokers
}

fn write(brokers: &Brokers) {
    (0..PARTITIONS).for_each(|partition| brokers.write(TOPIC, partition, RECORDS).unwrap());
}

fn slowly(call: &Call<'_>) -> Action {
    if call.request::<FetchRequest>().is_none() {
        return Action::Honest;
    }
    let few = call.edit::<FetchRequest>(|response| {
        for partition in response.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.records.iter_mut().for_each(|records| records.truncate(ANSWER));
        }
    });
    Action::After(Duration::from_millis(6), Box::new(few))
}

/// What a process does with a cluster and a store.
trait Work: AsyncFn(Arc<Cluster>, SharedStore) -> Result<Report, EngineError> {}
impl<F: AsyncFn(Arc<Cluster>, SharedStore) -> Result<Report, EngineError>> Work for F {}

/// A process: a runtime of its own, which dies with all its tasks. `Err`: it was stopped at this operation; else all its operations.
fn process(
    brokers: &Brokers,
    store: &MemoryStore,
    stop: Option<Stop>,
    work: impl Work,
) -> Result<Vec<&'static str>, &'static str> {
    let frozen = Frozen::new(Arc::new(store.clone()), stop);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async {
        let bootstrap = Address::parse_list(&brokers.bootstrap()).unwrap();
        let cluster = Cluster::open(bootstrap, ClientOptions::default()).await.unwrap();
        frozen.live(work(cluster, Arc::new(frozen.clone()))).await
    });
    drop(runtime);
    let operations = frozen.operations();
    match done {
        Some(report) => {
            let report = report.unwrap();
            assert_eq!((report.exit_code(), &report.errors), (0, &Vec::new()));
            Ok(operations)
        }
        None => Err(operations[stop.unwrap().at - 1]),
    }
}

async fn back_up(cluster: Arc<Cluster>, store: SharedStore) -> Result<Report, EngineError> {
    let (_keep, stop) = watch::channel(false);
    let options = BackupOptions {
        selection: Selection { topics: vec![TOPIC.into()], ..Selection::default() },
        commit_interval: Duration::from_millis(4),
        ..BackupOptions::default()
    };
    backup(cluster, store, options, Arc::new(Progress::default()), stop).await
}

/// A store of its own with the same objects.
fn copy(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::new();
    copy.objects().clone_from(&store.objects());
    copy
}

/// The vault is sound, and begins like the broker's log. Bytes of it by partition.
#[track_caller]
fn sound(brokers: &Brokers, store: &MemoryStore, case: &str) -> Vec<usize> {
    let objects = store.objects().clone();
    let model = Model::read(&objects, case);
    if !model.digests.is_empty() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(verified(&(Arc::new(store.clone()) as SharedStore), None));
        assert_eq!((report.exit_code(), &report.errors), (0, &Vec::new()), "{case}");
    }
    let of = |partition: usize| {
        let mut kept = Vec::new();
        for (_, row) in model.rows.iter().filter(|(_, row)| row.partition as usize == partition) {
            let segment = ulid::Ulid::from_bytes(row.segment);
            let at = row.position as usize;
            if row.stored > 0 {
                kept.extend_from_slice(
                    &objects[&format!("data/{segment}.seg")][at..at + row.stored as usize],
                );
            }
        }
        let log = log(brokers, partition);
        assert!(log.starts_with(&kept), "{case}: partition {partition} is not the broker's log");
        kept.len()
    };
    (0..PARTITIONS).map(of).collect()
}

fn log(brokers: &Brokers, partition: usize) -> Vec<u8> {
    brokers.world(|world| {
        let log = world.log(TOPIC, partition).unwrap();
        log.batches.iter().flat_map(|stored| stored.bytes.to_vec()).collect()
    })
}

/// Runs a backup on the bare store; then all is there, once.
#[track_caller]
fn completes(brokers: &Brokers, store: &MemoryStore, case: &str) {
    process(brokers, store, None, back_up).unwrap();
    let whole: Vec<usize> = (0..PARTITIONS).map(|partition| log(brokers, partition).len()).collect();
    assert_eq!(sound(brokers, store, case), whole, "{case}");
}

/// Kills a backup of `before` at each operation, before and behind it; and each third time the next one as well. Returns the operations met.
fn killed_everywhere(brokers: &Brokers, before: &MemoryStore, what: &str) -> BTreeSet<(&'static str, bool)> {
    let (mut met, mut cases, mut survived) = (BTreeSet::new(), 0, 0);
    // How many operations there are differs a little from run to run.
    for at in 1.. {
        if survived >= 6 {
            break;
        }
        for after in [false, true] {
            let (store, stop) = (copy(before), Stop { at, after });
            let Err(name) = process(brokers, &store, Some(stop), back_up) else {
                survived += 1;
                continue;
            };
            let case = format!("{what}: {stop:?} in {name}");

            met.insert((name, after));
            cases += 1;
            let kept = sound(brokers, &store, &case);
            if at % 3 == 0 {
                let second = Stop { at: 1 + (at * 7) % 50, after: !after };
                let _ = process(brokers, &store, Some(second), back_up);
                let more = sound(brokers, &store, &case);
                assert!(
                    kept.iter().zip(&more).all(|(kept, more)| kept <= more),
                    "{case}: {kept:?}, {more:?}"
                );
            }
            completes(brokers, &store, &case);
        }
    }
    println!("{what}: {cases} cases");
    met
}

#[test]
fn a_backup_dies_at_each_operation_and_the_next_completes_it() {
    let brokers = brokers();
    let mut met = killed_everywhere(&brokers, &MemoryStore::new(), "the first run");
    let before = MemoryStore::new();
    completes(&brokers, &before, "the first run");
    let commits = Model::read(&before.objects(), "the first run").digests.len();
    assert!(commits > 2, "{commits} commits");
    write(&brokers);
    met.extend(killed_everywhere(&brokers, &before, "a later run"));
    for name in ["create", "write", "finish", "put", "get", "list", "size"] {
        for after in [false, true] {
            assert!(met.contains(&(name, after)), "nothing died at {name}, {after}: {met:?}");
        }
    }
}

/// Restores into a topic of this name; its state is in the file.
async fn bring_back(
    target: &str,
    state: &Path,
    cluster: Arc<Cluster>,
    store: SharedStore,
) -> Result<Report, EngineError> {
    let (_keep, stop) = watch::channel(false);
    let options = RestoreOptions {
        choice: Choice {
            selection: Selection { topics: vec![TOPIC.into()], ..Selection::default() },
            rename: vec![format!("{TOPIC}={target}")],
            ..Choice::default()
        },
        state: Some(state.into()),
        ..RestoreOptions::default()
    };
    restore(cluster, store, options, Arc::new(Progress::default()), stop).await
}

#[test]
fn a_restore_dies_at_each_read_and_the_next_completes_it() {
    let brokers = brokers();
    let store = MemoryStore::new();
    completes(&brokers, &store, "the backup");
    let folder = tempfile::tempdir().unwrap();
    let run = |target: &str, stop| {
        let state = folder.path().join(target);
        process(&brokers, &store, stop, async |cluster, store| {
            bring_back(target, &state, cluster, store).await
        })
    };
    let is_whole = |target: &str| {
        let seen = |topic, partition| {
            let records = brokers.records(topic, partition).unwrap().into_iter();
            records.map(|record| (record.timestamp, record.key, record.value)).collect::<Vec<_>>()
        };
        (0..PARTITIONS).for_each(|partition| {
            assert!(seen(target, partition) == seen(TOPIC, partition), "{target}-{partition}");
        });
    };
    let operations = run("whole", None).unwrap();
    is_whole("whole");
    let mut cases = 0;
    for at in 1..=operations.len() {
        for after in [false, true] {
            let target = format!("killed-{at}-{after}");
            let stop = Stop { at, after };
            cases += usize::from(run(&target, Some(stop)).is_err());
            if at % 2 == 0 {
                let again = 1 + at * 5 % operations.len();
                cases += usize::from(run(&target, Some(Stop { at: again, after: !after })).is_err());
            }
            run(&target, None).unwrap();
            is_whole(&target);
        }
    }
    println!("{} operations, {cases} kills", operations.len());
    assert!(cases >= 2 * operations.len());
}

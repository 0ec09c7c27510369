//! Lies about record batches: what is damaged is recorded as a gap of exactly its offsets, and everything else is backed up.

use std::ops::Range;

use bodley_testbed::broker::kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse};
use bodley_testbed::broker::{Action, Call, Log};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use crate::common::{Ran, bodley, list};
use crate::liar::{ORDERS, RECORDS, Stage, always, each};

/// Batches of five: this is the third.
const THIRD: Range<i64> = 10..15;

const LENGTH: usize = 8;
const MAGIC: usize = 16;
const LAST_OFFSET_DELTA: usize = 23;
const COUNT: usize = 57;
const PAYLOAD: usize = 70;

fn set(batch: &mut [u8], at: usize, value: &[u8]) {
    batch[at..at + value.len()].copy_from_slice(value);
}

/// Damages a batch in place.
type Damage = fn(&mut Vec<u8>);

const DAMAGES: [(&str, Damage); 12] = [
    ("a bit of the payload", |b| b[PAYLOAD] ^= 1),
    ("a last offset far away", |b| set(b, LAST_OFFSET_DELTA, &1000i32.to_be_bytes())),
    ("a last offset below the first", |b| set(b, LAST_OFFSET_DELTA, &(-3i32).to_be_bytes())),
    ("two thousand million records", |b| set(b, COUNT, &i32::MAX.to_be_bytes())),
    ("fewer than no records", |b| set(b, COUNT, &(-1i32).to_be_bytes())),
    ("magic 3", |b| b[MAGIC] = 3),
    // As messages of these formats look, but for the checksum.
    ("magic 0", |b| b[MAGIC] = 0),
    ("magic 1", |b| b[MAGIC] = 1),
    ("a length shorter than the header", |b| set(b, LENGTH, &20i32.to_be_bytes())),
    ("a negative length", |b| set(b, LENGTH, &(-20i32).to_be_bytes())),
    ("an offset that jumps ahead", |b| b[7] ^= 32),
    ("an offset beyond the end of the log", |b| b[2] ^= 1),
];

fn damage(log: &mut Log, nth: usize, damage: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = log.batches[nth].bytes.to_vec();
    damage(&mut bytes);
    log.batches[nth].bytes = bytes.into();
}

fn gap(partition: usize, lost: &Range<i64>) -> Value {
    json!({"topic": ORDERS, "partition": partition, "first": lost.start, "next": lost.end, "reason": "corrupt"})
}

/// All but these offsets of a partition is in the vault, and comes back.
fn all_but(stage: &Stage, ran: &Ran, partition: usize, lost: &Range<i64>) {
    let report = ran.json();
    assert_eq!(list(&report, "gaps"), [gap(partition, lost)], "{ran}");
    assert_eq!(stage.vault.verified()["gaps"], json!([gap(partition, lost)]));
    // Once told is enough.
    stage.run("backup", &[]).exits(0);
    let target = Stage::empty();
    let bootstrap = target.brokers.bootstrap();
    bodley(&["restore", "-b", &bootstrap, "--vault", stage.vault.url(), "--output", "json"]).exits(3);
    for at in 0..3 {
        let key = |n: i64| Bytes::from(format!("key-{n}"));
        let there = (0..RECORDS as i64).filter(|n| at != partition || !lost.contains(n)).map(key);
        let restored = target.brokers.records(ORDERS, at).unwrap();
        let restored: Vec<Bytes> = restored.into_iter().map(|record| record.key.unwrap()).collect();
        assert_eq!(restored, there.collect::<Vec<_>>(), "partition {at}");
    }
}

#[test]
fn a_damaged_batch_becomes_a_gap_of_its_offsets() {
    each(
        &DAMAGES,
        |(name, _)| (*name).to_owned(),
        |(_, how)| {
            let stage = Stage::new();
            stage.brokers.world(|world| damage(world.log(ORDERS, 1).unwrap(), 2, how));
            let ran = stage.backup_to(3).says("corrupt");
            all_but(&stage, &ran, 1, &THIRD);
        },
    );
}

/// The answers end behind the bad batch, so nothing bears its end out.
#[test]
fn the_end_of_a_damaged_batch_is_looked_for() {
    // An offset is not covered by a checksum: that it is wrong shows by what follows only.
    each(
        &DAMAGES[..10],
        |(name, _)| (*name).to_owned(),
        |(_, how)| {
            let stage = Stage::new();
            stage.brokers.world(|world| damage(world.log(ORDERS, 1).unwrap(), 2, how));
            stage.brokers.script(always(ApiKey::Fetch, one_batch));
            let ran = stage.backup_to(3).says("corrupt");
            all_but(&stage, &ran, 1, &THIRD);
        },
    );
}

/// The first batch of each partition only.
fn one_batch(call: &Call<'_>) -> Action {
    call.edit::<FetchRequest>(|response| {
        each_records(response, |records| {
            let length = records.get(LENGTH..).and_then(|b| b.first_chunk());
            let length = length.map_or(0, |b| i32::from_be_bytes(*b));
            // A broker goes by its index, not by what is damaged.
            if length > 60 && length < 500 {
                records.truncate(12 + length as usize);
            }
        });
    })
}

fn each_records(response: &mut FetchResponse, change: impl Fn(&mut Vec<u8>)) {
    for data in response.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
        let mut records = data.records.take().unwrap_or_default().to_vec();
        change(&mut records);
        data.records = Some(Bytes::from(records));
    }
}

#[test]
fn the_last_batch_and_several_at_once() {
    let stage = Stage::new();
    stage.brokers.world(|world| {
        let log = world.log(ORDERS, 2).unwrap();
        damage(log, 11, |b| b[PAYLOAD] ^= 1);
        damage(log, 4, |b| b[PAYLOAD] ^= 1);
        damage(log, 5, |b| b[PAYLOAD] ^= 1);
    });
    let ran = stage.backup_to(3);
    // Neighbours are one gap.
    let lost = [gap(2, &(20..30)), gap(2, &(55..60))];
    assert_eq!(list(&ran.json(), "gaps"), lost, "{ran}");
    assert_eq!(stage.vault.verified()["records"], 3 * RECORDS - 15);
    stage.run("backup", &[]).exits(0);
}

#[test]
fn a_damage_that_passes_leaves_no_trace() {
    each(
        &DAMAGES,
        |(name, _)| (*name).to_owned(),
        |(_, how)| {
            let stage = Stage::new();
            let how = *how;
            stage.brokers.script(always(ApiKey::Fetch, move |call| match call.nth {
                0 | 1 => call.edit::<FetchRequest>(|response| {
                    each_records(response, |records| {
                        if records.len() > 300 {
                            how(records);
                        }
                    });
                }),
                _ => Action::Honest,
            }));
            stage.backup_to(0);
            stage.recovers();
        },
    );
}

/// The leader's copy is bad, the follower's is not.
#[test]
fn another_replica_is_asked() {
    let stage = Stage::new();
    stage.brokers.script(always(ApiKey::Fetch, |call| {
        let asked = call.request::<FetchRequest>().unwrap();
        // Partitions are led by the two brokers in turn.
        if asked.topics[0].partitions.iter().any(|p| p.partition % 2 != call.node) {
            return Action::Honest;
        }
        call.edit::<FetchRequest>(|response| {
            each_records(response, |records| {
                if records.len() > PAYLOAD {
                    records[PAYLOAD] ^= 1;
                }
            });
        })
    }));
    stage.backup_to(0);
    stage.recovers();
}

type Order = fn(&mut Vec<Bytes>);

/// Batches that are good in themselves, in an order that cannot be.
#[test]
fn batches_out_of_order_are_not_believed() {
    const ORDERS_OF_BATCHES: [(&str, Order); 4] = [
        ("backwards", |batches| batches.reverse()),
        ("swapped", |batches| {
            if batches.len() > 3 {
                batches.swap(1, 2);
            }
        }),
        ("one twice", |batches| {
            if let Some(first) = batches.first().cloned() {
                batches.insert(0, first);
            }
        }),
        ("again from the start", |batches| {
            let copy = batches.clone();
            batches.extend(copy);
        }),
    ];
    each(
        &ORDERS_OF_BATCHES,
        |(name, _)| (*name).to_owned(),
        |(_, order)| {
            let stage = Stage::new();
            let order = *order;
            // Four times for each partition.
            stage.brokers.script(always(ApiKey::Fetch, move |call| {
                if call.nth > 8 {
                    return Action::Honest;
                }
                call.edit::<FetchRequest>(|response| {
                    each_records(response, |records| {
                        let mut batches = split(records);
                        order(&mut batches);
                        *records = batches.iter().flatten().copied().collect();
                    });
                })
            }));
            let ran = stage.run("backup", &["--give-up-after", "20s"]);
            let lost: i64 = list(&ran.json(), "gaps")
                .iter()
                .map(|gap| gap["next"].as_i64().unwrap() - gap["first"].as_i64().unwrap())
                .sum();
            assert_eq!(ran.code, Some(if lost > 0 { 3 } else { 0 }), "{ran}");
            assert_eq!(stage.vault.verified()["records"], 3 * RECORDS as i64 - lost, "{ran}");
        },
    );
}

fn split(records: &[u8]) -> Vec<Bytes> {
    let mut rest = Bytes::from(BytesMut::from(records));
    let mut batches = Vec::new();
    while rest.len() > 12 {
        let length = i32::from_be_bytes(*rest[LENGTH..].first_chunk().unwrap());
        batches.push(rest.split_to(12 + length as usize));
    }
    batches
}

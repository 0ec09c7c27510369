//! What leaves of odd logs: exactly the records that a consumer saw in a window, wherever a run begins; and where groups and the offset map find them.

use std::ops::Range;
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::kafka::TopicPartition;
use bodley_protocol::batch;
use bodley_protocol::records::Payload;
use bodley_protocol::stamp::{Origin, Stamp};

use super::ahead::Source;
use super::map::OffsetMap;
use super::outgo::{Handed, Order, Passed, start};
use super::scan;
use super::stand::{Stand, Writer};
use super::work::Work;
use crate::look::Window;
use common::odd_log::{Bytes, Made, OddLog, TIMES};

#[path = "../../tests/common/mod.rs"]
mod common;

const SEEDS: Range<u64> = 0..2500;
/// Where the first record goes.
const BASE: i64 = 1000;

/// A record that left: offset at the target, time, key, value, headers.
type Left = (i64, i64, Bytes, Bytes, Vec<(Vec<u8>, Bytes)>);

struct All {
    records: Vec<Left>,
    /// How many records there are behind each batch that left.
    ends: Vec<i64>,
    passed: Passed,
}

fn source(log: &OddLog) -> Source {
    let store = common::memory::shared(&log.memory);
    Source::new(store, BufferPool::new(64 << 10, 4 << 20))
}

fn tp() -> TopicPartition {
    TopicPartition::new(&Arc::from("orders"), 0)
}

async fn all(log: &OddLog, work: &Work, stand: &Stand) -> All {
    let order = Order { tp: tp(), work: Arc::new(work.clone()), stand: stand.clone() };
    let mut inbox = start(source(log), order);
    let (mut records, mut ends) = (Vec::new(), Vec::new());
    while let Some(handed) = inbox.recv().await {
        match handed.unwrap() {
            Handed::Chunk(batches, _) => {
                for outgoing in batches {
                    let header = batch::view_checked(outgoing.bytes()).unwrap().unwrap();
                    assert!(!header.has_holes() && header.attributes & !7 == 0);
                    let payload = Payload::unpack(&header, outgoing.bytes()).unwrap();
                    for record in payload.records() {
                        let record = record.unwrap();
                        let body = record.parse_body().unwrap();
                        let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                        let headers = body.headers.iter().map(|(name, value)| (name.to_vec(), own(*value)));
                        let offset = outgoing.target + record.offset;
                        records.push((
                            offset,
                            record.timestamp,
                            own(body.key),
                            own(body.value),
                            headers.collect(),
                        ));
                    }
                    ends.push(outgoing.target + i64::from(outgoing.records) - BASE);
                }
            }
            Handed::End(passed) => return All { records, ends, passed },
        }
    }
    panic!("no end");
}

fn some_window(random: &mut fastrand::Rng, end: i64) -> Window {
    let mut bounds = |of: Range<i64>| {
        let (a, b) = (random.i64(of.clone()), random.i64(of));
        (a.min(b), a.max(b) + 1)
    };
    let ((from, to), offsets) = (bounds(-5..TIMES), bounds(0..end + 5));
    let mut some = |bound: i64| random.bool().then_some(bound);
    let (from, to) = (some(from), some(to));
    let cut = random.u8(0..3) == 0;
    let (from_offset, to_offset) = (cut.then_some(offsets.0), cut.then_some(offsets.1));
    Window { from, to, from_offset, to_offset }
}

fn check(expected: &[&Made], found: &[Left], (from, is_stamped): (i64, bool), what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (n, (made, left)) in expected.iter().zip(found).enumerate() {
        assert_eq!((left.0, left.1), (from + n as i64, made.timestamp), "{what}, record {n}");
        assert_eq!((&left.2, &left.3), (&made.key, &made.value), "{what}, record {n}");
        let own = made.headers.len();
        assert_eq!(left.4.get(..own), Some(made.headers.as_slice()), "{what}, record {n}");
        assert_eq!(left.4.len(), own + if is_stamped { 4 } else { 0 }, "{what}, record {n}");
        if is_stamped {
            let headers = left.4.iter().map(|(name, value)| (name.as_slice(), value.as_deref())).collect();
            let origin = Origin::of(&bodley_protocol::records::Body { key: None, value: None, headers });
            assert_eq!((origin.topic.as_deref(), origin.partition), (Some("orders"), Some(0)));
            assert_eq!((origin.offset, origin.timestamp), (Some(made.offset), Some(made.timestamp)));
        }
    }
}

#[tokio::test]
async fn exactly_what_is_wanted_leaves() {
    let (mut cut, mut whole) = (0, 0);
    for seed in SEEDS {
        let log = OddLog::new(seed).await;
        let mut random = fastrand::Rng::with_seed(seed);
        let end = log.partition().cursor.map_or(0, |cursor| cursor.next);
        let window = some_window(&mut random, end);
        let what = format!("seed {seed}, {window:?}");
        let is_wanted = |made: &&Made| window.holds(made.offset, made.timestamp);
        let expected: Vec<&Made> = log.records.iter().filter(is_wanted).collect();
        let partition = log.partition();
        let mut work = Work::new(partition, window);
        let is_stamped = random.u8(0..4) == 0;
        work.stamp = is_stamped.then(|| Stamp::new("orders", 0));
        work.marks = (0..end + 3).filter(|_| random.bool()).collect();
        let fresh = Stand::fresh(BASE, Writer::NOBODY);
        let stored = all(&log, &work, &fresh).await;
        check(&expected, &stored.records, (BASE, is_stamped), &what);
        (cut, whole) = (
            cut + work.chunks.iter().filter(|c| !c.is_exact).count(),
            whole + work.chunks.iter().filter(|c| c.is_exact).count(),
        );

        // Merged or not, and begun wherever a run was cut, with a fence before what is left.
        work.merge_up_to = random.bool().then_some(256 << 10);
        work.needs_exact_map = random.bool();
        let done = match random.bool() {
            true => 0,
            false => random.choice(&stored.ends).copied().unwrap_or(0),
        };
        let fenced = if done > 0 { fresh.behind_fence(done, BASE + done + 3, Writer::NOBODY) } else { fresh };
        let later = all(&log, &work, &fenced).await;
        let rest = expected.get(done as usize..).unwrap();
        check(rest, &later.records, (fenced.offset_of(done), is_stamped), &what);

        let number = |position: i64| {
            expected.iter().position(|made| made.offset >= position).unwrap_or(expected.len()) as i64
        };
        let marks: Vec<(i64, i64)> = work.marks.iter().map(|mark| (*mark, number(*mark))).collect();
        for all in [stored, later] {
            let found: Vec<(i64, i64)> = all.passed.positions.into_iter().collect();
            assert_eq!(found, marks, "{what}");
            let runs = all.passed.map.finish(&fenced);
            let end = fenced.offset_of(expected.len() as i64);
            let map = OffsetMap {
                topic: "a".into(),
                target: "b".into(),
                partition: 0,
                appended: false,
                coarse: false,
                end,
                runs,
            };
            for (position, number) in &marks {
                let (found, exact) = map.find(*position);
                let place = fenced.offset_of(*number);
                let may_be_early = done > 0 && !work.needs_exact_map;
                assert!(found <= place && (exact || may_be_early), "{what}: position {position} at {found}");
                assert!(
                    !exact || found == place,
                    "{what}: position {position} at {found}, not {place}: {map:?}"
                );
            }
            assert_eq!(map.flaw(), None, "{what}");
        }

        let outcome = scan::outcome(&source(&log), &tp(), &work).await.unwrap();
        assert_eq!(outcome.records, expected.len() as i64, "{what}");
        let (known, is_all) = work.records();
        assert!(
            if is_all { known == expected.len() as u64 } else { known <= expected.len() as u64 },
            "{what}"
        );
    }
    assert!(cut > 1000 && whole > 1000, "{cut} chunks were cut, {whole} were whole");
}

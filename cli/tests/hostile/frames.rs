//! Lies about frames, told by each API for ever.

use std::time::Duration;

use bodley_testbed::broker::kafka_protocol::messages::ApiKey;
use bodley_testbed::broker::{Action, Call};

use crate::liar::{ORDERS, RECORDS, Stage, always, each, seeds};

/// What a backup asks.
const ASKED: [ApiKey; 9] = [
    ApiKey::ApiVersions,
    ApiKey::Metadata,
    ApiKey::DescribeConfigs,
    ApiKey::ListGroups,
    ApiKey::FindCoordinator,
    ApiKey::OffsetFetch,
    ApiKey::ListOffsets,
    ApiKey::Fetch,
    ApiKey::OffsetForLeaderEpoch,
];

type Lie = fn(&Call<'_>) -> Action;

const LIES: [(&str, Lie); 15] = [
    ("a length of 2 GiB", |_| Action::Frame(vec![0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0])),
    ("a length of -1", |_| Action::Frame(vec![0xff; 32])),
    ("the least length", |_| Action::Frame(vec![0x80, 0, 0, 0, 0, 0, 0, 0])),
    ("a length of 0", |_| Action::Frame(vec![0; 4])),
    ("a length of 3", |_| Action::Frame(vec![0, 0, 0, 3, 0, 0, 0])),
    ("a length of 100 MiB and silence", |call| call.mangle(false, |frame| frame[0] = 6)),
    ("half of an answer", |call| call.mangle(true, |frame| frame.truncate(4 + (frame.len() - 4) / 2))),
    ("a byte too many", |call| call.mangle(true, |frame| frame.push(0))),
    ("another correlation id", |call| call.mangle(true, |frame| frame[7] ^= 0x40)),
    ("an answer to nothing before the answer", |call| {
        call.mangle(false, |frame| {
            let mut other = frame.clone();
            other[4] = 0x55;
            frame.splice(0..0, other);
        })
    }),
    ("nothing but ones", |call| call.mangle(true, |frame| frame[8..].fill(0xff))),
    ("a cut varint", |call| {
        call.mangle(true, |frame| {
            frame.truncate(9);
            frame.extend_from_slice(&[0x80; 3]);
        })
    }),
    ("silence", |_| Action::Silence),
    ("a byte at a time", |_| Action::Drip(Duration::from_millis(300), Box::new(Action::Honest))),
    ("the end of the connection", |_| Action::Close),
];

#[test]
fn honest_brokers_are_believed() {
    let stage = Stage::new();
    stage.recovers();
    let target = Stage::empty();
    let other = target.brokers.bootstrap();
    let args = ["restore", "-b", &other, "--vault", stage.vault.url(), "--output", "json"];
    crate::common::bodley(&args).exits(0);
    for partition in 0..3 {
        let (source, restored) = (&stage.brokers, &target.brokers);
        assert_eq!(restored.records(ORDERS, partition).unwrap(), source.records(ORDERS, partition).unwrap());
    }
}

#[test]
fn no_lie_about_frames_is_believed() {
    let cases: Vec<(ApiKey, &(&str, Lie))> =
        ASKED.iter().flat_map(|api| LIES.iter().map(move |lie| (*api, lie))).collect();
    let name = |(api, lie): &(ApiKey, &(&str, Lie))| format!("{api:?}: {}", lie.0);
    each(&cases, name, |(api, lie)| {
        let stage = Stage::new();
        if *api == ApiKey::OffsetForLeaderEpoch {
            stage.new_leaders();
        }
        stage.brokers.script(always(*api, lie.1));
        let ran = stage.backup();
        // What came before the lie, with a good checksum, may be believed: then all has to be there.
        match ran.code {
            Some(0) => assert_eq!(stage.vault.verified()["records"], 3 * RECORDS, "{ran}"),
            _ => _ = ran.exits(1).says("127.0.0.1"),
        }
        stage.recovers();
    });
}

/// Numbers where lengths and counts stand, or anything else.
#[test]
fn no_hostile_number_breaks_out() {
    const NUMBERS: [&[u8]; 6] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xfe],
        &[0x80, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        &[0x7f, 0xff],
    ];
    let cases: Vec<(ApiKey, u64)> = ASKED.iter().flat_map(|api| seeds(4).map(|seed| (*api, seed))).collect();
    each(
        &cases,
        |case| format!("{case:?}"),
        |(api, seed)| {
            let stage = Stage::new();
            let seed = *seed;
            // Three answers are lies, each of its own kind; then all is well again.
            stage.brokers.script(always(*api, move |call| {
                if call.nth >= 3 {
                    return Action::Honest;
                }
                let mut rng = crate::common::Rng::new("number", seed * 100 + call.nth as u64);
                call.mangle(false, |frame| {
                    let number = NUMBERS[rng.below(NUMBERS.len() as u64) as usize];
                    // Behind the error code and throttle time: those are lies of another kind.
                    let room = frame.len().saturating_sub(16).max(1) as u64;
                    let at = (16 + rng.below(room) as usize).min(frame.len() - 1);
                    let end = (at + number.len()).min(frame.len());
                    frame[at..end].copy_from_slice(&number[..end - at]);
                })
            }));
            let ran = stage.backup();
            assert!([Some(0), Some(1), Some(2), Some(3)].contains(&ran.code), "{ran}");
            // Some numbers make another cluster of it, or another log; what is in the vault is whole in any case.
            stage.brokers.honest();
            let honest = stage.run("backup", &[]);
            assert!([Some(0), Some(2), Some(3)].contains(&honest.code), "{ran}{honest}");
            stage.vault.verified();
        },
    );
}

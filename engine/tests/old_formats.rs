//! The walk over logs in which messages of the formats 0 and 1 and batches stand one behind the other.

// Helpers of tests, which clippy does not count as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use bodley_engine::vault::aborted::Aborted;
use bodley_engine::vault::walk::{Bad, Checked, Times, WHOLE, walk, walk_on};
use bodley_protocol::batch::{self, BatchError};
use bodley_protocol::codecs::Codec;
use common::old::{Form, OldRecord, set};
use common::sample::records as batch_of;
use proptest::prelude::*;

const CODECS: [Codec; 4] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4];
/// The epoch of the batches of [`common::sample`].
const EPOCH: i32 = 0;

/// What stands in a log: a batch of some records, or a set of an old form.
#[derive(Debug, Clone)]
enum Piece {
    New(i32),
    Old { magic: u8, codec: usize, is_append_time: bool, steps: Vec<(i64, i64)> },
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let time = prop_oneof![Just(-1i64), 0i64..1 << 42];
    let steps = proptest::collection::vec((prop_oneof![4 => Just(1i64), 1 => 2i64..9], time), 1..12);
    let old = (0u8..2, 0usize..4, any::<bool>(), steps).prop_map(|(magic, codec, append, steps)| {
        Piece::Old { magic, codec, is_append_time: append && magic == 1, steps }
    });
    proptest::collection::vec(prop_oneof![1 => (1i32..9).prop_map(Piece::New), 2 => old], 1..12)
}

/// A log, and what is in it: where pieces begin, how many records, the times of old ones.
#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    next: i64,
    records: i64,
    old_times: Vec<i64>,
    has_new: bool,
    ends_new: bool,
}

impl Log {
    fn of(pieces: &[Piece]) -> Self {
        let mut log = Self::default();
        pieces.iter().for_each(|piece| log.add(piece));
        log
    }

    fn add(&mut self, piece: &Piece) {
        match piece {
            Piece::New(count) => {
                self.bytes.extend(batch_of(self.next, *count, 30));
                (self.has_new, self.ends_new) = (true, true);
                (self.next, self.records) = (self.next + i64::from(*count), self.records + i64::from(*count));
            }
            Piece::Old { magic, codec, is_append_time, steps } => {
                let form = Form { magic: *magic, codec: CODECS[*codec], is_append_time: *is_append_time };
                let mut offset = self.next - 1;
                let record = |(step, timestamp): &(i64, i64)| {
                    offset += step;
                    OldRecord { offset, timestamp: *timestamp, key: None, value: Some(vec![7; 20]) }
                };
                let records: Vec<OldRecord> = steps.iter().map(record).collect();
                self.bytes.extend(set(form, &records));
                self.records += records.len() as i64;
                self.next = records.last().unwrap().offset + 1;
                self.ends_new = false;
                let last = steps.last().unwrap().1;
                let stamped = *is_append_time && form.codec != Codec::None;
                let time = |time: i64| match (magic, stamped) {
                    (0, _) => -1,
                    (_, true) => last,
                    (_, false) => time,
                };
                self.old_times.extend(steps.iter().map(|(_, told)| time(*told)));
            }
        }
    }
}

proptest! {
    #[test]
    fn old_and_new_are_accounted_for(pieces in pieces(), step in 1usize..200, grain in prop_oneof![Just(100usize), Just(1 << 20)]) {
        let log = Log::of(&pieces);
        let mut checked = Checked::with_times(false).cutting(grain);
        (0..log.bytes.len()).step_by(step).for_each(|len| checked.advance(&log.bytes[..len]));
        let walked = walk_on(&log.bytes, &mut checked, 0..WHOLE, &mut Aborted::default());
        prop_assert_eq!(&walked.bad, &None);
        prop_assert_eq!((walked.all.len, walked.all.next), (log.bytes.len(), log.next));
        prop_assert_eq!((walked.all.records, walked.all.kept), (log.records, log.records));
        prop_assert_eq!(walked.all.last_epoch, if log.ends_new { EPOCH } else { -1 });
        if !log.has_new {
            let (min, max) = (log.old_times.iter().min(), log.old_times.iter().max());
            let Some(Times { min: least, max: greatest, .. }) = walked.all.times else { panic!("no times") };
            prop_assert_eq!((Some(&least), Some(&greatest)), (min, max));
        }
        // Each part is a chunk that says the same by itself, of one kind only.
        let (mut at, mut next) = (0, 0);
        for part in &walked.parts {
            let bytes = &log.bytes[at..at + part.len];
            let alone = walk(bytes, next, WHOLE, &mut Aborted::default());
            prop_assert_eq!((&alone.all, alone.bad), (part, None));
            let mut rest = bytes;
            while let Some(header) = batch::view(rest).unwrap() {
                prop_assert_eq!(header.is_old(), part.last_epoch == -1);
                rest = &rest[header.size..];
            }
            (at, next) = (at + part.len, part.next);
        }
        prop_assert_eq!(at, log.bytes.len());
        // As a Fetch brings it, its last message cut.
        let cut = walk(&log.bytes[..log.bytes.len() - 1], 0, WHOLE, &mut Aborted::default());
        prop_assert!(cut.bad.is_none() && cut.all.len < log.bytes.len() && cut.all.next < log.next);
    }

    #[test]
    fn damage_is_found_where_it_is(pieces in pieces(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let log = Log::of(&pieces);
        let mut bytes = log.bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let walked = walk(&bytes, 0, WHOLE, &mut Aborted::default());
        // Nothing but an offset, a length or an epoch lies outside of checksums; before the damage all is well.
        prop_assert!(walked.all.len <= bytes.len());
        let whole = walk(&log.bytes[..walked.all.len], 0, WHOLE, &mut Aborted::default());
        if walked.all.len <= at {
            prop_assert_eq!(walked.all, whole.all);
        }
    }
}

fn records(offsets: &[i64]) -> Vec<OldRecord> {
    let record =
        |offset: &i64| OldRecord { offset: *offset, timestamp: 5, key: None, value: Some(vec![1; 9]) };
    offsets.iter().map(record).collect()
}

/// No CRC covers a message's own offset: one that is too large shows by where the next one begins, also where that is a compressed message, which tells its
/// last offset only.
#[test]
fn an_offset_that_is_too_large_is_no_hole() {
    for codec in CODECS {
        for magic in [0, 1] {
            let form = Form { magic, codec, is_append_time: false };
            let plain = Form { codec: Codec::None, ..form };
            let behind = set(form, &records(&[12, 13, 14, 15, 16, 17, 18, 19, 20]));
            let mut log = [set(plain, &records(&[10, 11])), behind].concat();
            let second = batch::declared_size(&log).unwrap();
            let good = walk(&log, 10, 100, &mut Aborted::default());
            assert_eq!((good.all.next, good.bad), (21, None));
            log[second + 7] = 15;
            let bad = walk(&log, 10, 100, &mut Aborted::default());
            assert_eq!(bad.all.next, 11, "{form:?}");
            assert_eq!(
                bad.bad,
                Some((Bad::Order { base: 15, last: 15, expected: 11 }, (Some(12), None))),
                "{form:?}"
            );
        }
    }
}

#[test]
fn a_set_that_begins_before_the_offset_asked_for() {
    let form = Form { magic: 1, codec: Codec::Lz4, is_append_time: false };
    let log = [set(form, &records(&[10, 12, 17])), set(form, &records(&[20, 21]))].concat();
    for from in 10..18 {
        let walked = walk(&log, from, WHOLE, &mut Aborted::default());
        assert_eq!((walked.all.next, walked.all.records, walked.bad), (22, 5, None), "{from}");
    }
    let more = [log.clone(), set(form, &records(&[22, 23]))].concat();
    let ended = walk(&more, 15, 20, &mut Aborted::default());
    assert_eq!((ended.all.next, ended.beyond_end), (18, Some(21)));
    let mut damaged = log.clone();
    damaged[40] ^= 1;
    let (bad, behind) = walk(&damaged, 15, WHOLE, &mut Aborted::default()).bad.unwrap();
    assert!(matches!(bad, Bad::Batch(BatchError::OldCrc { offset: 17, .. })), "{bad}");
    assert_eq!(behind.0, Some(20));
}

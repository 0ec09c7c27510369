//! The one walk over fetched records: header, CRC-32C, checksum of the chunk, counts, times. No record's body is looked at.
//!
//! On the way of a byte: the connection reads the records into their place; what has arrived is checked while it is in the processor's cache
//! ([`Checked`]), which is several times faster than a pass over memory; what the walk then accepts stays there and is a chunk.

use bodley_protocol::batch::{self, BatchError, Header};
use bodley_protocol::checksum::{crc64, crc64_combine};
use bodley_protocol::times::Span;

use super::aborted::Aborted;
pub use super::checked::Checked;
use super::rows::{NO_TIME, Range, TIME_UNKNOWN};

/// What the walk found.
#[derive(Debug, PartialEq, Eq)]
pub struct Walk {
    /// All accepted batches.
    pub all: Stretch,
    /// The same between the cuts of [`Checked`], one behind the other: each is to be a chunk.
    pub parts: Vec<Stretch>,
    /// A batch at or beyond the end was seen, with this last offset: nothing lies between the accepted ones and the end.
    pub beyond_end: Option<i64>,
    /// The batch behind the accepted ones is bad.
    pub bad: Option<(Bad, Behind)>,
}

/// A run of accepted batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Bytes of the batches.
    pub len: usize,
    /// Offset behind the last one; where the run began if there is none.
    pub next: i64,
    /// Leader epoch of the last one; -1: none.
    pub last_epoch: i32,
    /// Records in them.
    pub records: i64,
    /// Those neither control nor aborted.
    pub kept: i64,
    /// Of all records but those of control batches; `None`: there is no such record.
    pub times: Option<Times>,
    /// CRC-64 of the batches.
    pub crc64: u64,
}

/// The times of records, ms. A record without a time has -1, which counts as a time here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// No record is older; [`TIME_UNKNOWN`].
    pub min: i64,
    /// No record is newer.
    pub max: i64,
    /// Least time of a batch's first record.
    pub base: i64,
}

/// What bytes say of the offset behind a bad batch: as a good batch that follows bears it out, and as the bad one says itself.
pub type Behind = (Option<i64>, Option<i64>);

/// Why a batch was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// The batch itself.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// It does not follow the one before.
    #[error("batches are out of order: one of offsets {base}..={last} where {expected} was expected")]
    Order {
        /// Its base offset.
        base: i64,
        /// Its last offset.
        last: i64,
        /// First acceptable offset.
        expected: i64,
    },
}

/// The end of a stored chunk: all of it counts.
pub const WHOLE: i64 = i64::MAX;

/// Walks over `bytes`, which a Fetch at offset `from` brought, up to the first batch at or beyond `end`. A cut last batch is left out.
pub fn walk(bytes: &[u8], from: i64, end: i64, aborted: &mut Aborted) -> Walk {
    walk_on(bytes, &mut Checked::with_times(false), from..end, aborted)
}

/// As [`walk`] over offsets `from..end`, where the first batches have been checked already.
pub fn walk_on(
    bytes: &[u8],
    checked: &mut Checked,
    offsets: std::ops::Range<i64>,
    aborted: &mut Aborted,
) -> Walk {
    checked.advance(bytes);
    let (from, end) = (offsets.start, offsets.end);
    let mut walk = Walk { all: Stretch::at(from), parts: Vec::new(), beyond_end: None, bad: None };
    let mut part = Stretch::at(from);
    let (mut spans, mut cuts) = (checked.spans(), checked.cuts().peekable());
    loop {
        let (len, next) = (walk.all.len, walk.all.next);
        let rest = bytes.get(len..).unwrap_or_default();
        if let Some(cut) = cuts.next_if(|cut| cut.end <= len) {
            walk.end_part(&mut part, cut.crc64);
        }
        let viewed = if len < checked.bytes() { batch::view(rest) } else { batch::view_checked(rest) };
        let header = match viewed {
            Ok(Some(header)) => header,
            Ok(None) => break,
            Err(error) => {
                walk.bad = Some((error.into(), behind(rest, next)));
                break;
            }
        };
        // The first batch may begin below the offset asked for, but must reach it; every other one follows.
        let in_order = header.last_offset() >= next && (len == 0 || header.base_offset >= next);
        // Base offsets lie outside of the CRC. One that is too large shows by what follows: offsets never go back.
        let follower_base = (header.base_offset > next).then(|| follower_base(rest, &header));
        if !in_order || follower_base.flatten().is_some_and(|base| base <= header.last_offset()) {
            let (base, last) = (header.base_offset, header.last_offset());
            let behind = (follower(rest).filter(|behind| *behind > next), None);
            walk.bad = Some((Bad::Order { base, last, expected: next }, behind));
            break;
        }
        // With nothing behind it that could tell, it is left for the next answer, which begins with it.
        if follower_base == Some(None) && len > 0 && end != WHOLE {
            break;
        }
        if header.base_offset >= end {
            walk.beyond_end = Some(header.last_offset());
            break;
        }
        let span = if checked.reads(&header) { spans.next().flatten() } else { None };
        let batch = Stretch::of(&header, span, aborted);
        walk.all.add(&batch);
        part.add(&batch);
    }
    let (begin, len) = (walk.all.len - part.len, walk.all.len);
    let crc = match len == checked.bytes() {
        true => checked.crc64(),
        false => crc64(bytes.get(begin..len).unwrap_or_default()),
    };
    walk.end_part(&mut part, crc);
    walk
}

/// The offset behind the bad batch at the head of `rest`. No CRC covers its base offset and its length, and the rest fails its CRC. A message of format 0 or 1
/// may as well be a batch whose magic is damaged: what it holds must make sense.
fn behind(rest: &[u8], next: i64) -> Behind {
    let header = batch::view(rest).ok().flatten();
    let claimed = header.map(|header| header.last_offset().saturating_add(1)).filter(|behind| *behind > next);
    let follower = follower(rest).filter(|behind| *behind > next);
    // Between the two lie holes of compaction, unless the bad batch claims too much.
    (follower.map(|follower| claimed.map_or(follower, |claimed| claimed.min(follower))), claimed)
}

/// The base offset of a good batch behind the one at the head of `rest`.
fn follower(rest: &[u8]) -> Option<i64> {
    let next = rest.get(batch::declared_size(rest)?..)?;
    batch::view_checked(next).ok().flatten().map(|header| header.base_offset)
}

/// The base offset of whatever follows the batch at the head of `rest`, good or not. A compressed message of format 0 or 1 tells its last one alone, unless it is
/// all there.
fn follower_base(rest: &[u8], header: &Header) -> Option<i64> {
    let next = rest.get(header.size..)?;
    let told = next.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
    match batch::view(next) {
        Ok(Some(follower)) => Some(follower.base_offset),
        Ok(None) if batch::magic(next).is_none_or(|magic| magic < 2) => None,
        _ => told,
    }
}

impl Walk {
    /// Puts the run to the others, with its checksum, if there is anything in it; the next one begins.
    fn end_part(&mut self, part: &mut Stretch, crc64: u64) {
        if part.len > 0 {
            let ended = std::mem::replace(part, Stretch::at(part.next));
            self.all.crc64 = crc64_combine(self.all.crc64, crc64, ended.len as u64);
            self.parts.push(Stretch { crc64, ..ended });
        }
    }
}

impl Stretch {
    /// `row` with what is known of these batches.
    pub fn describe(&self, row: Range) -> Range {
        let no_time = Times { min: NO_TIME, max: NO_TIME, base: NO_TIME };
        let times = self.times.unwrap_or(no_time);
        Range {
            next: self.next,
            last_epoch: self.last_epoch,
            stored: self.len as u32,
            records: self.records,
            kept: self.kept,
            min_ts: times.min,
            max_ts: times.max,
            base_ts: times.base,
            crc64: self.crc64,
            ..row
        }
    }

    /// Nothing yet.
    fn at(next: i64) -> Self {
        Self { len: 0, next, last_epoch: -1, records: 0, kept: 0, times: None, crc64: 0 }
    }

    /// One batch. `span`: the times of its records, if they have been read.
    fn of(header: &Header, span: Option<Span>, aborted: &mut Aborted) -> Self {
        let count = i64::from(header.record_count);
        let mut batch = Self {
            len: header.size,
            next: header.last_offset().saturating_add(1),
            last_epoch: header.leader_epoch,
            records: count,
            kept: 0,
            times: None,
            crc64: 0,
        };
        if header.is_control() {
            if header.is_transactional() {
                aborted.close(header.producer_id, header.base_offset);
            }
            return batch;
        }
        let dropped = header.is_transactional()
            && aborted.covers(header.producer_id, header.base_offset, header.last_offset());
        batch.kept = if dropped { 0 } else { count };
        batch.times = (count > 0).then(|| times(header, span));
        batch
    }

    /// Adds a batch that follows, but for its checksum.
    fn add(&mut self, batch: &Self) {
        self.len += batch.len;
        (self.next, self.last_epoch) = (batch.next, batch.last_epoch);
        self.records += batch.records;
        self.kept += batch.kept;
        self.times = match (self.times, batch.times) {
            (Some(ours), Some(theirs)) => Some(ours.and(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
    }
}

impl Times {
    /// No record is known to be older than `min` or newer than `max`. Earlier versions left records without a time aside.
    pub fn keep_to(&self, min: i64, max: i64) -> bool {
        let is_told = self.min != TIME_UNKNOWN && self.min != NO_TIME;
        (!is_told || min <= self.min) && max >= self.max
    }

    /// Those of both.
    fn and(self, other: Self) -> Self {
        Self {
            // Unknown is less than any time, and stays.
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            base: self.base.min(other.base),
        }
    }
}

/// The times of a batch with records.
fn times(header: &Header, span: Option<Span>) -> Times {
    let exact = header.is_append_time() || header.record_count == 1;
    let told = match (header.is_old(), exact) {
        (true, _) => header.base_timestamp,
        (false, true) => header.max_timestamp,
        (false, false) => TIME_UNKNOWN,
    };
    let base = match header.is_append_time() || header.has_delete_horizon() {
        true => header.max_timestamp,
        false => header.base_timestamp,
    };
    match span {
        // A broker may have let a producer say what it liked: no record is newer than either.
        Some(Span { least, greatest }) => Times { min: least, max: greatest.max(header.max_timestamp), base },
        None => Times { min: told, max: header.max_timestamp, base },
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Kind;
    use super::*;
    use bodley_protocol::codecs::Codec;
    use bodley_protocol::fetch::AbortedTransaction;
    use bodley_protocol::records::Builder;
    use proptest::prelude::*;

    fn batch(base_offset: i64, count: i32, attributes: i16, producer_id: i64) -> Vec<u8> {
        let header = Header {
            magic: 2,
            base_offset,
            size: 0,
            leader_epoch: 3,
            crc: 0,
            attributes,
            last_offset_delta: count - 1,
            base_timestamp: 100 + base_offset,
            max_timestamp: 200 + base_offset,
            producer_id,
            producer_epoch: 0,
            base_sequence: 0,
            record_count: count,
        };
        batch::encode(&header, b"payload")
    }

    /// A batch of records with these times.
    fn timed(base_offset: i64, codec: u8, attributes: i16, times: &[i64]) -> Vec<u8> {
        let mut builder = Builder::new(Codec::from_number(codec).unwrap());
        times.iter().for_each(|time| builder.push(*time, 0, &[1, 1, 0]));
        let bytes = builder.finish().unwrap();
        let header = batch::view(&bytes).unwrap().unwrap();
        let max_timestamp = times.iter().copied().max().unwrap();
        let attributes = header.attributes | attributes;
        batch::encode(
            &Header { base_offset, attributes, max_timestamp, ..header },
            &bytes[batch::HEADER_LEN..],
        )
    }

    fn any_batch() -> impl Strategy<Value = (u8, i16, Vec<i64>)> {
        let time = prop_oneof![Just(-1i64), -3i64..10, 0i64..1 << 42];
        let codec = prop_oneof![3 => Just(0u8), 1 => 1u8..5];
        // None, append time, transactional, control.
        let attributes = prop_oneof![5 => Just(0i16), 1 => Just(8i16), 1 => Just(16i16), 1 => Just(48i16)];
        (codec, attributes, proptest::collection::vec(time, 1..6))
    }

    /// Least and greatest time as consumers see them.
    fn truth(batches: &[(u8, i16, Vec<i64>)]) -> Option<(i64, i64)> {
        let seen = batches.iter().filter(|(_, attributes, _)| attributes & 32 == 0);
        let times: Vec<i64> = seen
            .flat_map(|(_, attributes, times)| {
                let append = (attributes & 8 != 0).then(|| *times.iter().max().unwrap());
                times.iter().map(move |time| append.unwrap_or(*time))
            })
            .collect();
        Some((*times.iter().min()?, *times.iter().max()?))
    }

    proptest! {
        #[test]
        fn times_are_true_where_they_are_known(batches in proptest::collection::vec(any_batch(), 1..12), exact: bool, step in 1usize..500) {
            let (mut log, mut next) = (Vec::new(), 0);
            for (codec, attributes, times) in &batches {
                log.extend(timed(next, *codec, *attributes, times));
                next += times.len() as i64;
            }
            let mut checked = Checked::with_times(exact);
            // Of other bytes before.
            checked.advance(&timed(0, 0, 0, &[-9, 9]));
            checked.restart();
            (0..log.len()).step_by(step).for_each(|len| checked.advance(&log[..len]));
            let walk = walk_on(&log, &mut checked, 0..WHOLE, &mut Aborted::default());
            prop_assert_eq!((walk.all.len, walk.all.next), (log.len(), next));
            let hidden = |(codec, attributes, times): &(u8, i16, Vec<i64>)| {
                *codec > 0 && attributes & 40 == 0 && times.len() > 1 && !exact
            };
            match (walk.all.times, truth(&batches)) {
                (None, truth) => prop_assert_eq!(truth, None),
                (Some(times), Some((least, greatest))) => {
                    prop_assert_eq!(times.max, greatest);
                    let known = if batches.iter().any(hidden) { TIME_UNKNOWN } else { least };
                    prop_assert_eq!(times.min, known);
                    prop_assert!(times.keep_to(known, greatest));
                    prop_assert!(!times.keep_to(known, greatest - 1));
                    prop_assert!([TIME_UNKNOWN, NO_TIME].contains(&known) || !times.keep_to(known + 1, greatest));
                }
                (Some(_), None) => prop_assert!(false, "times without records"),
            }
            let row = walk.all.describe(Range::without_chunk(([0; 16], 0), 0, Kind::Data, 0..next, -1));
            prop_assert!(row.max_ts >= row.base_ts && (row.min_ts == TIME_UNKNOWN || row.min_ts <= row.max_ts));
        }
    }

    #[test]
    fn a_record_without_a_time_counts() {
        let of = |batches: &[Vec<u8>]| walk(&batches.concat(), 0, WHOLE, &mut Aborted::default()).all.times;
        let times = |min, max, base| Some(Times { min, max, base });
        assert_eq!(of(&[timed(0, 0, 0, &[-1]), timed(1, 0, 0, &[5])]), times(-1, 5, -1));
        assert_eq!(of(&[timed(0, 0, 0, &[-1, 7])]), times(-1, 7, -1));
        assert_eq!(of(&[timed(0, 0, 0, &[-1])]), times(-1, -1, -1));
        assert_eq!(of(&[timed(0, 0, CONTROL, &[3])]), None);
    }

    #[test]
    fn a_payload_that_its_header_belies_has_no_least_time() {
        let good = timed(0, 0, 0, &[7, 3, 9]);
        let header = batch::view(&good).unwrap().unwrap();
        let records = &good[batch::HEADER_LEN..];
        for payload in [&records[..records.len() - 1], &[records, &[0]].concat(), &[0xff; 30], &[]] {
            let log = batch::encode(&header, payload);
            let walk = walk(&log, 0, WHOLE, &mut Aborted::default());
            assert_eq!((walk.all.len, walk.bad), (log.len(), None));
            assert_eq!(walk.all.times, Some(Times { min: TIME_UNKNOWN, max: 9, base: 7 }));
        }
    }

    const TRANSACTIONAL: i16 = 16;
    const CONTROL: i16 = 16 | 32;

    #[test]
    fn counts_ends_and_cut_tails() {
        let log = [batch(10, 5, 0, -1), batch(15, 1, 0, -1), batch(20, 5, 0, -1)].concat();
        let whole = walk(&log, 12, WHOLE, &mut Aborted::default());
        let most = walk(&log, 12, 100, &mut Aborted::default());
        assert_eq!((most.all.next, most.bad), (16, None), "a hole that nothing bears out yet");
        assert_eq!(
            (whole.all.len, whole.all.next, whole.all.records, whole.all.kept),
            (log.len(), 25, 11, 11)
        );
        assert_eq!(
            (whole.all.times, whole.all.last_epoch),
            (Some(Times { min: TIME_UNKNOWN, max: 220, base: 110 }), 3)
        );
        assert_eq!(whole.all.crc64, bodley_protocol::checksum::crc64(&log));
        let cut = walk(&log[..log.len() - 1], 12, 100, &mut Aborted::default());
        assert_eq!((cut.all.next, cut.bad), (16, None));
        let ended = walk(&log, 12, 18, &mut Aborted::default());
        assert_eq!((ended.all.next, ended.beyond_end, whole.beyond_end), (16, None, None));
        let nothing = walk(&log[cut.all.len..], 16, 18, &mut Aborted::default());
        assert_eq!(
            (nothing.all.len, nothing.all.next, nothing.beyond_end, nothing.bad),
            (0, 16, Some(24), None)
        );
        assert_eq!(walk(&log, 15, 100, &mut Aborted::default()).bad.unwrap().1, (None, None));
    }

    #[test]
    fn what_arrives_in_pieces_is_walked_as_a_whole() {
        let mut log: Vec<u8> = (0..40).flat_map(|n| batch(10 + 5 * n, 5, 0, -1)).collect();
        for damage in [None, Some(0), Some(log.len() / 2), Some(log.len() - 1)] {
            let flip = |log: &mut Vec<u8>| damage.and_then(|at| log.get_mut(at)).map(|byte| *byte ^= 1);
            flip(&mut log);
            for (step, end) in [(1, 1000), (7, 100), (100, 1000), (3000, WHOLE)] {
                let mut checked = Checked::with_times(false);
                (0..log.len()).step_by(step).for_each(|len| checked.advance(&log[..len]));
                let pieces = walk_on(&log, &mut checked, 10..end, &mut Aborted::default());
                let whole = walk(&log, 10, end, &mut Aborted::default());
                assert_eq!(pieces, whole);
                assert_eq!(whole.all.crc64, crc64(&log[..whole.all.len]));
            }
            flip(&mut log);
        }
    }

    #[test]
    fn cuts_lie_between_batches_and_change_nothing_else() {
        // A large batch at each place; of others, some have records without a time.
        for large in 0..20 {
            let batch = |n: i64| timed(2 * n, 0, 0, &if n == large { vec![5; 400] } else { vec![n, n - 2] });
            let mut bases: Vec<i64> = (0..20).map(|n| if n > large { 2 * n + 398 } else { 2 * n }).collect();
            let log: Vec<u8> = (0..20)
                .zip(&bases)
                .flat_map(|(n, base)| [&base.to_be_bytes()[..], &batch(n)[8..]].concat())
                .collect();
            bases.push(438);
            for (damage, end) in [(false, 1000), (true, 1000), (false, 20), (false, WHOLE)] {
                let mut log = log.clone();
                if damage {
                    let at = log.len() - 100;
                    log[at] ^= 1;
                }
                let (mut checked, mut known) = (Checked::with_times(false).cutting(300), Aborted::default());
                (0..log.len()).step_by(70).for_each(|len| checked.advance(&log[..len]));
                let cut = walk_on(&log, &mut checked, 0..end, &mut known);
                let whole = walk(&log, 0, end, &mut known);
                assert_eq!((&cut.all, &cut.bad, cut.beyond_end), (&whole.all, &whole.bad, whole.beyond_end));
                assert_eq!(whole.parts, std::slice::from_ref(&whole.all));
                // Nothing but the large batch may begin before an early end.
                assert!(end == 20 || cut.parts.len() > 2);
                let mut at = (0, 0);
                for part in &cut.parts {
                    let bytes = &log[at.0..at.0 + part.len];
                    let alone = walk(bytes, at.1, WHOLE, &mut known);
                    assert_eq!((&alone.all, alone.bad), (part, None));
                    assert!(part.len <= 300 || part.records == 400);
                    assert!(bases.contains(&part.next));
                    at = (at.0 + part.len, part.next);
                }
                assert_eq!(at, (whole.all.len, whole.all.next));
            }
        }
    }

    #[test]
    fn bad_batches_are_named_with_a_way_around() {
        let good = [batch(10, 5, 0, -1), batch(15, 2, 0, -1)].concat();
        let damaged = |behind: Vec<u8>, at: usize, value: u8| {
            let mut log = [good.clone(), behind].concat();
            log[at] ^= value;
            let walk = walk(&log, 10, 100, &mut Aborted::default());
            assert_eq!((walk.all.next, walk.all.records), (15, 5));
            walk.bad.unwrap()
        };
        let (second, end) = (good.len() / 2, good.len());
        let (bad, behind) = damaged(Vec::new(), end - 1, 1);
        assert!(matches!(bad, Bad::Batch(BatchError::Crc { offset: 15, .. })), "{bad}");
        assert_eq!(behind, (None, Some(17)));
        // What follows bears it out; a hole behind it is none of its own.
        assert_eq!(damaged(batch(17, 3, 0, -1), end - 1, 1).1, (Some(17), Some(17)));
        assert_eq!(damaged(batch(30, 3, 0, -1), end - 1, 1).1, (Some(17), Some(17)));
        // It claims too many offsets, or has another magic.
        assert_eq!(damaged(batch(17, 3, 0, -1), second + 26, 64).1, (Some(17), Some(81)));
        assert_eq!(damaged(batch(17, 3, 0, -1), second + 16, 1).1, (Some(17), None));
        // Its base offset is too large: its CRC is good, but the next one goes back.
        let (bad, behind) = damaged(batch(17, 3, 0, -1), second + 7, 32);
        assert_eq!(bad, Bad::Order { base: 47, last: 48, expected: 15 });
        assert_eq!(behind, (Some(17), None));
        let (bad, behind) = damaged(batch(17, 3, 0, -1), second, 64);
        assert!(matches!(bad, Bad::Order { expected: 15, .. }), "{bad}");
        assert_eq!(behind, (Some(17), None));
    }

    #[test]
    fn aborted_and_control_records_are_not_kept() {
        let log = [
            batch(0, 2, TRANSACTIONAL, 7),
            batch(2, 3, TRANSACTIONAL, 8),
            batch(5, 1, CONTROL, 7),
            batch(6, 4, TRANSACTIONAL, 7),
            batch(10, 1, CONTROL, 7),
            batch(11, 1, CONTROL, 8),
        ];
        let mut aborted = Aborted::default();
        aborted.learn(&[AbortedTransaction { producer_id: 7, first_offset: 0 }], 0);
        let walk = walk(&log.concat(), 0, 100, &mut aborted);
        assert_eq!((walk.all.records, walk.all.kept), (12, 7));
        let rows = aborted.take_rows(([0; 16], 0), 0);
        assert_eq!(rows.iter().map(|r| (r.producer_id, r.first, r.marker)).collect::<Vec<_>>(), [(7, 0, 5)]);
    }
}

//! The one walk over fetched records: header, CRC-32C, checksum of the chunk, counts. Nothing is decoded.
//!
//! On the way of a byte: the connection has read the records into their place; what the walk accepts stays there and is a chunk.

use bodley_protocol::batch::{self, BatchError, Header};
use bodley_protocol::checksum::Crc64;

use super::aborted::Aborted;
use super::rows::{NO_TIME, TIME_UNKNOWN};

/// What the walk found.
#[derive(Debug, PartialEq, Eq)]
pub struct Walk {
    /// Bytes of the accepted batches, from the start.
    pub len: usize,
    /// Offset behind the last accepted batch; where the walk began if there is none.
    pub next: i64,
    /// Leader epoch of the last accepted batch; -1: none.
    pub last_epoch: i32,
    /// Records in accepted batches.
    pub records: i64,
    /// Those neither control nor aborted.
    pub kept: i64,
    /// See [`super::rows::Range::min_ts`].
    pub min_ts: i64,
    /// Greatest time.
    pub max_ts: i64,
    /// Least time of a batch's first record.
    pub base_ts: i64,
    /// CRC-64 of the accepted batches.
    pub crc64: u64,
    /// A batch at or beyond the end was seen: nothing lies between `next` and the end.
    pub beyond_end: bool,
    /// The batch at `next` is bad: why, and the offset behind it if its header can be believed.
    pub bad: Option<(Bad, Option<i64>)>,
}

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

/// Walks over `bytes`, which a Fetch at offset `from` brought, up to the first batch at or beyond `end`. A cut last batch is left out.
pub fn walk(bytes: &[u8], from: i64, end: i64, aborted: &mut Aborted) -> Walk {
    let mut walk = Walk {
        len: 0,
        next: from,
        last_epoch: -1,
        records: 0,
        kept: 0,
        min_ts: NO_TIME,
        max_ts: NO_TIME,
        base_ts: NO_TIME,
        crc64: 0,
        beyond_end: false,
        bad: None,
    };
    let mut crc = Crc64::new();
    loop {
        let rest = bytes.get(walk.len..).unwrap_or_default();
        let header = match batch::view_checked(rest) {
            Ok(Some(header)) => header,
            Ok(None) => break,
            Err(error) => {
                walk.bad = Some((error.into(), behind(rest, walk.next)));
                break;
            }
        };
        if header.base_offset >= end {
            walk.beyond_end = true;
            break;
        }
        // The first batch may begin below the offset asked for, but must reach it; every other one follows.
        let in_order =
            header.last_offset() >= walk.next && (walk.len == 0 || header.base_offset >= walk.next);
        if !in_order {
            let (base, last) = (header.base_offset, header.last_offset());
            walk.bad = Some((Bad::Order { base, last, expected: walk.next }, None));
            break;
        }
        crc.update(rest.get(..header.size).unwrap_or_default());
        walk.accept(&header, aborted);
    }
    walk.crc64 = crc.finish();
    walk
}

/// The offset behind the batch at the head of `rest`, if its header makes sense.
fn behind(rest: &[u8], next: i64) -> Option<i64> {
    let header = batch::view(rest).ok()??;
    (header.last_offset() >= next).then(|| header.last_offset().saturating_add(1))
}

impl Walk {
    fn accept(&mut self, header: &Header, aborted: &mut Aborted) {
        self.len += header.size;
        self.next = header.last_offset().saturating_add(1);
        self.last_epoch = header.leader_epoch;
        let count = i64::from(header.record_count);
        self.records += count;
        if header.is_control() {
            if header.is_transactional() {
                aborted.close(header.producer_id, header.base_offset);
            }
            return;
        }
        let dropped = header.is_transactional()
            && aborted.covers(header.producer_id, header.base_offset, header.last_offset());
        if !dropped {
            self.kept += count;
        }
        self.times(header);
    }

    fn times(&mut self, header: &Header) {
        if header.record_count == 0 {
            return;
        }
        let exact = header.is_append_time() || header.record_count == 1;
        let min = if exact { header.max_timestamp } else { TIME_UNKNOWN };
        let base = match header.is_append_time() || header.has_delete_horizon() {
            true => header.max_timestamp,
            false => header.base_timestamp,
        };
        let first = self.max_ts == NO_TIME && self.base_ts == NO_TIME && self.min_ts == NO_TIME;
        self.min_ts = if first { min } else { self.min_ts.min(min) };
        self.max_ts = self.max_ts.max(header.max_timestamp);
        self.base_ts = if first { base } else { self.base_ts.min(base) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_protocol::fetch::AbortedTransaction;

    fn batch(base_offset: i64, count: i32, attributes: i16, producer_id: i64) -> Vec<u8> {
        let header = Header {
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

    const TRANSACTIONAL: i16 = 16;
    const CONTROL: i16 = 16 | 32;

    #[test]
    fn counts_ends_and_cut_tails() {
        let log = [batch(10, 5, 0, -1), batch(15, 1, 0, -1), batch(20, 5, 0, -1)].concat();
        let whole = walk(&log, 12, 100, &mut Aborted::default());
        assert_eq!((whole.len, whole.next, whole.records, whole.kept), (log.len(), 25, 11, 11));
        assert_eq!(
            (whole.base_ts, whole.max_ts, whole.min_ts, whole.last_epoch),
            (110, 220, TIME_UNKNOWN, 3)
        );
        assert_eq!(whole.crc64, bodley_protocol::checksum::crc64(&log));
        let cut = walk(&log[..log.len() - 1], 12, 100, &mut Aborted::default());
        assert_eq!((cut.next, cut.bad), (16, None));
        let ended = walk(&log, 12, 18, &mut Aborted::default());
        assert_eq!((ended.next, ended.beyond_end, whole.beyond_end), (16, true, false));
        let nothing = walk(&log[cut.len..], 16, 18, &mut Aborted::default());
        assert_eq!((nothing.len, nothing.next, nothing.beyond_end, nothing.bad), (0, 16, true, None));
        assert_eq!(walk(&log, 15, 100, &mut Aborted::default()).bad.unwrap().1, None);
    }

    #[test]
    fn bad_batches_are_named_with_a_way_around() {
        let mut log = [batch(10, 5, 0, -1), batch(15, 1, 0, -1)].concat();
        let at = log.len() - 1;
        log[at] ^= 1;
        let walk = walk(&log, 10, 100, &mut Aborted::default());
        assert_eq!((walk.next, walk.records), (15, 5));
        assert!(matches!(walk.bad, Some((Bad::Batch(BatchError::Crc { offset: 15, .. }), Some(16)))));
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
        assert_eq!((walk.records, walk.kept), (12, 7));
        let rows = aborted.take_rows(([0; 16], 0), 0);
        assert_eq!(rows.iter().map(|r| (r.producer_id, r.first, r.marker)).collect::<Vec<_>>(), [(7, 0, 5)]);
    }
}

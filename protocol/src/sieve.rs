//! Which records of a batch are wanted, by offset and time, and what is added to each of them on the way back.
//!
//! A header tells the greatest time of a batch, and not the least: the base timestamp is the first record's, and records may be in any order. So what
//! a header can't tell is looked up in the records ([`Fate::Look`]).

use std::ops::Range;

use crate::batch::Header;
use crate::records::{Builder, Record, RecordsError};
use crate::stamp::Stamp;

/// What to do with a batch that has records to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All of it is wanted: patch the header, send the payload as it is.
    Verbatim,
    /// All of it is wanted, but a broker would change it: decode it and make a new one.
    Remake,
    /// Decode it and make a new one of what is wanted and there.
    Rewrite,
    /// Its records must tell whether it is wanted whole, in part or not at all.
    Look,
    /// It holds nothing to restore.
    Skip,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sieve {
    /// Records with these offsets.
    pub offsets: Range<i64>,
    /// Records with these times, ms; `None`: whatever their time is.
    pub times: Option<Range<i64>>,
    /// What is added to each.
    pub stamp: Option<Stamp>,
}

impl Sieve {
    /// Records with these offsets.
    pub fn of_offsets(offsets: Range<i64>) -> Self {
        Self { offsets, times: None, stamp: None }
    }

    /// Whether a record is wanted.
    pub fn keeps(&self, record: &Record<'_>) -> bool {
        self.offsets.contains(&record.offset)
            && self.times.as_ref().is_none_or(|times| times.contains(&record.timestamp))
    }

    /// Decides the fate of a batch that is neither a control batch nor aborted, by its header alone. What is to be added to its records is left aside.
    pub fn fate(&self, header: &Header) -> Fate {
        let Range { start, end } = self.offsets;
        if header.record_count == 0 || header.last_offset() < start || header.base_offset >= end {
            return Fate::Skip;
        }
        let cut = header.base_offset < start || header.last_offset() >= end;
        let whole = match (cut || header.has_holes(), header.is_append_time() || header.is_old()) {
            (true, _) => Fate::Rewrite,
            (false, true) => Fate::Remake,
            (false, false) => Fate::Verbatim,
        };
        let Some(times) = &self.times else { return whole };
        let newest = header.max_timestamp;
        // Of a single record it is the time, even where the broker has stamped it.
        let is_exact = header.is_append_time() || header.record_count == 1;
        match (newest < times.start, newest < times.end) {
            (true, _) => Fate::Skip,
            (false, false) if is_exact => Fate::Skip,
            (false, true) if is_exact || times.start == i64::MIN => whole,
            _ => Fate::Look,
        }
    }

    /// Puts a record behind those of `builder`, with what is added to it.
    pub fn push(&self, builder: &mut Builder, record: &Record<'_>) -> Result<(), RecordsError> {
        match &self.stamp {
            None => builder.push(record.timestamp, record.attributes, record.body),
            Some(stamp) => builder.push(record.timestamp, record.attributes, &stamp.body(record)?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(attributes: i16, record_count: i32, max_timestamp: i64) -> Header {
        Header {
            magic: 2,
            base_offset: 100,
            size: 70,
            leader_epoch: 0,
            crc: 0,
            attributes,
            last_offset_delta: 9,
            base_timestamp: 1000,
            max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count,
        }
    }

    #[test]
    fn fates_by_offset() {
        let header = header(0, 10, 1000);
        let fate = |header: &Header, offsets: Range<i64>| Sieve::of_offsets(offsets).fate(header);
        assert_eq!(fate(&header, 0..110), Fate::Verbatim);
        assert_eq!(fate(&header, 101..200), Fate::Rewrite);
        assert_eq!(fate(&header, 0..109), Fate::Rewrite);
        assert_eq!(fate(&header, 110..200), Fate::Skip);
        assert_eq!(fate(&header, 0..100), Fate::Skip);
        assert_eq!(fate(&Header { record_count: 9, ..header }, 0..200), Fate::Rewrite);
        assert_eq!(fate(&Header { record_count: 0, ..header }, 0..200), Fate::Skip);
        assert_eq!(fate(&Header { attributes: 8, ..header }, 0..200), Fate::Remake);
        assert_eq!(fate(&Header { attributes: 8, ..header }, 0..105), Fate::Rewrite);
        assert_eq!(fate(&Header { magic: 1, ..header }, 0..200), Fate::Remake);
        assert_eq!(fate(&Header { magic: 0, record_count: 9, ..header }, 0..200), Fate::Rewrite);
        // A delete horizon changes nothing in the payload: deltas count from base timestamp all the same.
        assert_eq!(fate(&Header { attributes: 64, ..header }, 0..200), Fate::Verbatim);
    }

    #[test]
    fn fates_by_time() {
        let fate = |header: &Header, times: Range<i64>| {
            Sieve { times: Some(times), ..Sieve::of_offsets(0..i64::MAX) }.fate(header)
        };
        let many = header(0, 10, 1000);
        assert_eq!(fate(&many, i64::MIN..1001), Fate::Verbatim);
        // The newest record is behind the end: others may lie before it.
        assert_eq!(fate(&many, i64::MIN..1000), Fate::Look);
        assert_eq!(fate(&many, 0..2000), Fate::Look);
        assert_eq!(fate(&many, 1001..2000), Fate::Skip);
        let one = Header { last_offset_delta: 0, ..header(0, 1, 1000) };
        assert_eq!(fate(&one, 1000..1001), Fate::Verbatim);
        assert_eq!(fate(&one, 999..1000), Fate::Skip);
        let stamped = header(8, 10, 1000);
        assert_eq!(fate(&stamped, 1000..1001), Fate::Remake);
        assert_eq!(fate(&stamped, 0..1000), Fate::Skip);
    }
}

//! Which records are asked for: by time and by offset.

use std::ops::Range as Span;

use bodley_protocol::batch::Header;

use crate::error::EngineError;
use crate::moment::Moment;
use crate::vault::rows::{Kind, NO_TIME, Range, TIME_UNKNOWN};

/// Bounds of times (ms) and offsets; lower ones are inclusive, upper ones exclusive, and none is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Least time.
    pub from: Option<i64>,
    /// All times are less.
    pub to: Option<i64>,
    /// Least offset.
    pub from_offset: Option<i64>,
    /// All offsets are less.
    pub to_offset: Option<i64>,
}

impl Window {
    /// Refuses a window that can hold nothing.
    pub fn check(&self) -> Result<(), EngineError> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            let (from, to) = (Moment::At(from), Moment::At(to));
            return Err(EngineError::Refused(format!(
                "no time is between --from {from} and --to {to}: --from is inclusive, --to is not"
            )));
        }
        if let (Some(from), Some(to)) = (self.from_offset, self.to_offset)
            && from >= to
        {
            return Err(EngineError::Refused(format!(
                "no offset is between --from-offset {from} and --to-offset {to}: --from-offset is inclusive, --to-offset is not"
            )));
        }
        Ok(())
    }

    /// Whether a record is asked for.
    pub fn holds(&self, offset: i64, timestamp: i64) -> bool {
        self.offsets().contains(&offset)
            && self.from.is_none_or(|from| timestamp >= from)
            && self.to.is_none_or(|to| timestamp < to)
    }

    /// Offsets that are asked for.
    pub fn offsets(&self) -> Span<i64> {
        self.from_offset.unwrap_or(i64::MIN)..self.to_offset.unwrap_or(i64::MAX)
    }

    /// No record of a chunk is asked for, as its row tells.
    pub(crate) fn misses(&self, row: &Range) -> bool {
        row.kept == 0 || !self.meets(row) || is_before(row, self.from) || is_behind(row, self.to)
    }

    /// Every record of a chunk that counts is asked for, as its row tells.
    pub(crate) fn holds_all(&self, row: &Range) -> bool {
        let offsets = self.offsets();
        offsets.start <= row.first && row.next <= offsets.end && self.holds_times(row)
    }

    /// Every record of a chunk has a time that is asked for, as its row tells.
    pub(crate) fn holds_times(&self, row: &Range) -> bool {
        let late = self.from.is_none_or(|from| is_known(row.min_ts) && row.min_ts >= from);
        let early = self.to.is_none_or(|to| row.max_ts != NO_TIME && row.max_ts < to);
        late && early
    }

    /// Times that are asked for; `None`: whatever they are.
    pub(crate) fn times(&self) -> Option<Span<i64>> {
        let is_bound = self.from.is_some() || self.to.is_some();
        is_bound.then(|| self.from.unwrap_or(i64::MIN)..self.to.unwrap_or(i64::MAX))
    }

    /// Some offsets of a row are asked for.
    pub(super) fn meets(&self, row: &Range) -> bool {
        let offsets = self.offsets();
        row.next > offsets.start && row.first < offsets.end
    }

    /// No record of a batch is asked for, as its header tells.
    pub(super) fn misses_batch(&self, header: &Header) -> bool {
        let offsets = self.offsets();
        header.record_count == 0
            || header.last_offset() < offsets.start
            || header.base_offset >= offsets.end
            || self.from.is_some_and(|from| header.max_timestamp < from)
            || header.is_append_time() && self.to.is_some_and(|to| header.max_timestamp >= to)
    }

    /// Every record of a batch is asked for, as its header tells.
    pub(super) fn holds_batch(&self, header: &Header) -> bool {
        let offsets = self.offsets();
        self.from.is_none_or(|from| header.is_append_time() && header.max_timestamp >= from)
            && self.to.is_none_or(|to| header.max_timestamp < to)
            && offsets.start <= header.base_offset
            && header.last_offset() < offsets.end
    }

    /// A gap may have held records that are asked for. A gap has no times: its neighbours' tell, where times are roughly in order. Both must say that it
    /// lies outside.
    pub(crate) fn may_hold_gap(&self, ranges: &[Range], index: usize) -> bool {
        let data = |range: &&Range| range.kind == Kind::Data && range.kept != 0;
        let before = ranges.iter().take(index).rev().find(data).map(|row| row.max_ts);
        let behind = ranges.iter().skip(index).find(data).map(|row| row.base_ts);
        let beside: Vec<i64> = before.into_iter().chain(behind).filter(|time| *time != NO_TIME).collect();
        let all = |is: &dyn Fn(i64) -> bool| !beside.is_empty() && beside.iter().all(|time| is(*time));
        let older = self.from.is_some_and(|from| all(&|time| time < from));
        let newer = self.to.is_some_and(|to| all(&|time| time >= to));
        // What follows the newest chunk may have any later time, and what comes before the first one any earlier.
        let (older, newer) = (older && behind.is_some(), newer && before.is_some());
        ranges.get(index).is_some_and(|gap| self.meets(gap)) && !older && !newer
    }
}

/// All records of a chunk are older.
fn is_before(row: &Range, from: Option<i64>) -> bool {
    from.is_some_and(|from| row.max_ts != NO_TIME && row.max_ts < from)
}

/// No record of a chunk is older.
fn is_behind(row: &Range, to: Option<i64>) -> bool {
    to.is_some_and(|to| is_known(row.min_ts) && row.min_ts >= to)
}

fn is_known(min_ts: i64) -> bool {
    min_ts != TIME_UNKNOWN && min_ts != NO_TIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let row = |kept, min_ts, max_ts| {
            let row = Range::without_chunk(([1; 16], 0), 0, Kind::Data, 100..200, -1);
            Range { kept, min_ts, max_ts, ..row }
        };
        let times = |times: Span<i64>| {
            let bound = |value: i64, none: i64| (value != none).then_some(value);
            Window { from: bound(times.start, i64::MIN), to: bound(times.end, i64::MAX), ..Window::default() }
        };
        let fate = |window: Window, row: &Range| (window.misses(row), window.holds_all(row));
        let (known, unknown) = (row(5, 10, 20), row(5, TIME_UNKNOWN, 20));
        assert_eq!(fate(times(10..21), &known), (false, true));
        assert_eq!(fate(times(10..20), &known), (false, false));
        assert_eq!(fate(times(21..30), &known), (true, false));
        assert_eq!(fate(times(0..10), &known), (true, false));
        assert_eq!(fate(times(0..10), &unknown), (false, false));
        assert_eq!(fate(times(i64::MIN..21), &unknown), (false, true));
        assert_eq!(fate(times(0..21), &unknown), (false, false));
        assert_eq!(fate(Window { to_offset: Some(150), ..times(10..21) }, &known), (false, false));
        assert_eq!(fate(Window { to_offset: Some(100), ..times(10..21) }, &known), (true, false));
        // Records without a time have -1, which in a row also says that there is no record.
        assert_eq!(fate(times(-1..0), &row(5, NO_TIME, NO_TIME)), (false, false));
        assert!(times(5..6).misses(&row(0, NO_TIME, NO_TIME)));
    }
}

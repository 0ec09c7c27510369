//! The offset map: which offset at the source became which at the target. A few numbers for each run of records, none for each record.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::stand::Stand;

/// Runs that one restore keeps in all: some 50 MB. Beyond that a run goes on over holes, and positions in it become a little too early.
const MAX_RUNS: usize = 1 << 20;

/// Records of the plan in the order of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Source offset of the first.
    source: i64,
    /// Source offset behind the last.
    next: i64,
    /// Records of the plan before them.
    number: i64,
    /// How many they are; fewer than offsets where room for more runs was missing.
    records: i64,
}

/// How many runs there may still be, for all partitions together.
#[derive(Debug, Clone)]
pub struct Room(Arc<AtomicUsize>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(MAX_RUNS)))
    }
}

impl Room {
    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn give_back(&self, runs: usize) {
        self.0.fetch_add(runs, Ordering::Relaxed);
    }
}

/// One partition's map while its records pass by.
#[derive(Debug)]
pub struct Builder {
    runs: Vec<Run>,
    room: Room,
}

impl Builder {
    /// Nothing yet.
    pub fn new(room: Room) -> Self {
        Self { runs: Vec::new(), room }
    }

    /// Records `number` and the following of the plan have `records` source offsets from `source` on, one behind the other.
    pub fn push(&mut self, source: i64, number: i64, records: i64) {
        if records <= 0 {
            return;
        }
        let next = source.saturating_add(records);
        if let Some(last) = self.runs.last_mut() {
            let follows = last.next == source && last.records == last.next - last.source;
            if follows || !self.room.take() {
                (last.next, last.records) = (next, number + records - last.number);
                return;
            }
        }
        self.runs.push(Run { source, next, number, records });
    }

    /// The same for records of which only is known that their source offsets are among these.
    pub fn push_span(&mut self, offsets: Range<i64>, number: i64, records: i64) {
        if records <= 0 {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if !self.room.take() => {
                (last.next, last.records) = (offsets.end, number + records - last.number)
            }
            _ => self.runs.push(Run { source: offsets.start, next: offsets.end, number, records }),
        }
    }

    /// The same for records whose source offsets are these, in order.
    pub fn push_each(&mut self, offsets: &[i64], number: i64) {
        let mut number = number;
        for run in offsets.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            if let Some(first) = run.first() {
                self.push(*first, number, run.len() as i64);
                number += run.len() as i64;
            }
        }
    }

    /// As it came out at a target where the partition stands so. Records in flight and behind are not there yet.
    pub fn finish(mut self, stand: &Stand) -> Vec<MapRun> {
        let runs = std::mem::take(&mut self.runs);
        let mut map = Vec::with_capacity(runs.len());
        for run in &runs {
            run.place(stand, &mut map);
        }
        map
    }
}

impl Drop for Builder {
    /// Of a partition that is begun anew the runs are not kept.
    fn drop(&mut self) {
        // The first of each partition needs no room.
        self.room.give_back(self.runs.len().saturating_sub(1));
    }
}

impl Run {
    /// Cuts it where a fence lies between its records at the target.
    fn place(&self, stand: &Stand, map: &mut Vec<MapRun>) {
        let mut run = *self;
        while run.records > 0 {
            let here = stand.records_in_a_row(run.number).min(run.records);
            // Where offsets are missing inside of it nobody knows on which side of the fence they lie.
            let dense = run.records == run.next - run.source;
            let next = if here < run.records && dense { run.source + here } else { run.next };
            map.push(MapRun { source: run.source, next, target: stand.offset_of(run.number), records: here });
            run = Run { source: next, number: run.number + here, records: run.records - here, ..run };
            if !dense {
                break;
            }
        }
    }
}

/// Records whose source offsets lie in a row, and whose target offsets do. In JSON `[source, next, target, records]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, i64, i64, i64)", into = "(i64, i64, i64, i64)")]
pub struct MapRun {
    /// Source offset of the first record, or, where there are holes, not behind it.
    pub source: i64,
    /// Source offset behind the last record, or not before it.
    pub next: i64,
    /// Target offset of the first record.
    pub target: i64,
    /// Records. Where they are fewer than source offsets, these have holes that are not told, and only the first record's place is exact.
    pub records: i64,
}

impl From<(i64, i64, i64, i64)> for MapRun {
    fn from((source, next, target, records): (i64, i64, i64, i64)) -> Self {
        Self { source, next, target, records }
    }
}

impl From<MapRun> for (i64, i64, i64, i64) {
    fn from(run: MapRun) -> Self {
        (run.source, run.next, run.target, run.records)
    }
}

/// The map of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetMap {
    /// Topic at the source.
    pub topic: String,
    /// Topic at the target.
    pub target: String,
    /// Partition, at both.
    pub partition: i32,
    /// The topic held data before: who stands before the first run reads something else there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub appended: bool,
    /// The restore was cut so often that places had to be forgotten: all may lie some records too early.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub coarse: bool,
    /// Where the restored records end at the target, exclusive.
    pub end: i64,
    /// In order.
    pub runs: Vec<MapRun>,
}

impl OffsetMap {
    /// What is wrong with a map that was read from a file, if anything is.
    pub fn flaw(&self) -> Option<&'static str> {
        let adds_up = |run: &MapRun| {
            let end = run.target.checked_add(run.records);
            (0..run.next).contains(&run.source)
                && run.target >= 0
                && (1..=run.next - run.source).contains(&run.records)
                && end.is_some_and(|end| end <= self.end)
        };
        let in_order = self.runs.windows(2).all(|pair| match pair {
            [a, b] => a.next <= b.source && a.target <= b.target,
            _ => true,
        });
        match () {
            () if self.end < 0 || self.partition < 0 => Some("an offset or a partition is negative"),
            () if !self.runs.iter().all(adds_up) => Some("the numbers of a run don't add up"),
            () if !in_order => Some("its runs are out of order"),
            () => None,
        }
    }

    /// The target offset of the first restored record at or behind source offset `offset`, or the end of what was restored; `false`: it may lie some records
    /// too early.
    pub fn find(&self, offset: i64) -> (i64, bool) {
        let at = self.runs.partition_point(|run| run.next <= offset);
        let Some(run) = self.runs.get(at) else { return (self.end, true) };
        if offset <= run.source {
            return (run.target, !self.coarse);
        }
        let exact = run.records == run.next.saturating_sub(run.source) && !self.coarse;
        // At most so many records can be left behind `offset`.
        let left = run.next.saturating_sub(offset).clamp(0, run.records);
        (run.target + run.records - left, exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::stand::Writer;
    use proptest::prelude::*;

    /// A map of records with these source offsets, at a target with fences behind these numbers of records.
    fn map(offsets: &[i64], fences: &[i64], room: usize) -> (OffsetMap, Vec<i64>) {
        let mut builder = Builder::new(Room(Arc::new(AtomicUsize::new(room))));
        builder.push_each(offsets, 0);
        let mut stand = Stand::fresh(1000, Writer::NOBODY);
        for done in fences {
            let offset = stand.offset_of(*done) + 1;
            stand = stand.behind_fence(*done, offset, Writer::NOBODY);
        }
        let places = (0..offsets.len() as i64).map(|number| stand.offset_of(number)).collect();
        let end = stand.offset_of(offsets.len() as i64);
        let runs = builder.finish(&stand);
        (
            OffsetMap {
                topic: "a".into(),
                target: "b".into(),
                partition: 0,
                appended: false,
                coarse: false,
                end,
                runs,
            },
            places,
        )
    }

    proptest! {
        #[test]
        fn every_position_is_found(steps in proptest::collection::vec(prop_oneof![4 => Just(1i64), 1 => 1i64..5], 1..200),
                                   mut fences in proptest::collection::vec(0i64..200, 0..4), room in prop_oneof![Just(1usize << 20), 0usize..8]) {
            let offsets: Vec<i64> = steps.iter().scan(10, |at, step| { *at += step; Some(*at) }).collect();
            fences.iter_mut().for_each(|fence| *fence = (*fence).min(offsets.len() as i64));
            fences.sort_unstable();
            let (map, places) = map(&offsets, &fences, room);
            for position in 0..offsets.last().unwrap() + 3 {
                let next = offsets.iter().position(|offset| *offset >= position);
                let expected = next.map_or(map.end, |next| places[next]);
                let (found, exact) = map.find(position);
                prop_assert!(found <= expected, "{position}: {found} is behind {expected}");
                prop_assert!(!exact || found == expected, "{position}: {found}, expected {expected}: {map:?}");
                prop_assert!(exact || room < 8);
            }
            prop_assert!(map.runs.len() <= room + 1 + fences.len());
            prop_assert_eq!(map.flaw(), None);
            let text = serde_json::to_string(&map).unwrap();
            prop_assert_eq!(serde_json::from_str::<OffsetMap>(&text).unwrap(), map);
        }
    }

    proptest! {
        #[test]
        fn hostile_maps_are_told(runs in proptest::collection::vec((any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>()), 0..4),
                                 small in proptest::collection::vec((-1i64..20, 0i64..20, -1i64..20, -1i64..20), 0..4),
                                 end: i64, offset: i64) {
            for runs in [runs, small] {
                let runs = runs.into_iter().map(MapRun::from).collect();
                let map = OffsetMap { topic: "a".into(), target: "b".into(), partition: 0, appended: false, coarse: false, end, runs };
                if map.flaw().is_none() {
                    prop_assert!((0..=end).contains(&map.find(offset).0));
                }
            }
        }
    }

    #[test]
    fn a_hundred_batches_are_one_run() {
        let (map, _) = map(&(0..100_000).collect::<Vec<_>>(), &[], 1 << 20);
        assert_eq!(map.runs, [MapRun { source: 0, next: 100_000, target: 1000, records: 100_000 }]);
    }
}

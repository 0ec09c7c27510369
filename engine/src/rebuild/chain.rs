//! Which row says what about an offset: rows of one partition and rewind epoch that may overlap become a chain without holes.

use std::collections::BTreeMap;

use crate::vault::rows::{Kind, Range};

/// How sure it is that a row was part of the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// A footer alone says so: a commit whose table is lost, or a run that never committed.
    Footer,
    /// An index table does.
    Table,
    /// A commit that can be read does.
    Log,
}

/// A row that may be taken.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub row: Range,
    /// Where its chunk is; empty for a row without one.
    pub object: String,
    pub rank: Rank,
    /// No table that can be read has it.
    pub footer_only: bool,
}

impl Candidate {
    pub fn is_data(&self) -> bool {
        self.row.kind == Kind::Data
    }
}

/// A row that can't be taken, and why.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub first: i64,
    pub next: i64,
    pub object: String,
    pub what: String,
}

/// All that is known of one partition in one rewind epoch.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub candidates: Vec<Candidate>,
    pub troubles: Vec<Trouble>,
    /// Markers of aborted transactions by producer and first offset; `i64::MAX`: not seen.
    pub aborted: BTreeMap<(i64, i64), i64>,
    /// Where the partition's rows began and ended, as far as any row tells.
    pub extent: Option<(i64, i64)>,
    /// A row at the start of the extent is the first that there ever was.
    pub opens: bool,
}

impl Part {
    /// Notes what a row tells about the extent, whether or not it can be taken.
    pub fn reach(&mut self, row: &Range) {
        let (first, next) = self.extent.unwrap_or((row.first, row.next));
        let opens = row.from == -1 || row.rewind > 0;
        if row.first < first || self.extent.is_none() {
            self.opens = opens;
        } else if row.first == first {
            self.opens |= opens;
        }
        self.extent = Some((first.min(row.first), next.max(row.next).max(row.from)));
    }
}

/// What comes next in a chain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Candidate `index`, up to `limit`, where a surer one begins.
    Take { index: usize, limit: i64 },
    /// Nothing up to this offset.
    Hole(i64),
    /// Nothing more.
    Done,
}

/// Walks over candidates in the order of their offsets.
pub(super) struct Chain {
    pub candidates: Vec<Candidate>,
    end: i64,
    /// The first candidate that begins behind all offsets asked for so far.
    ahead: usize,
    /// Those that have begun and not ended.
    active: Vec<usize>,
}

impl Chain {
    pub fn new(mut candidates: Vec<Candidate>, end: i64) -> Self {
        candidates.sort_by_key(|c| (c.row.first, c.row.next, std::cmp::Reverse(c.rank), c.row.segment));
        Self { candidates, end, ahead: 0, active: Vec::new() }
    }

    /// What to do at offset `at`, which never goes back.
    pub fn step(&mut self, at: i64) -> Step {
        while self.candidates.get(self.ahead).is_some_and(|c| c.row.first <= at) {
            self.active.push(self.ahead);
            self.ahead += 1;
        }
        let candidates = &self.candidates;
        self.active.retain(|index| candidates.get(*index).is_some_and(|c| c.row.next > at));
        let sure = |index: &&usize| {
            candidates.get(**index).map(|c| (c.rank, c.row.next, std::cmp::Reverse(**index)))
        };
        if let Some((index, chosen)) =
            self.active.iter().max_by_key(sure).and_then(|index| Some((*index, candidates.get(*index)?)))
        {
            let behind = candidates.get(self.ahead..).unwrap_or_default().iter();
            let mut inside = behind.take_while(|c| c.row.first < chosen.row.next);
            let limit = inside.find(|c| c.rank > chosen.rank && c.row.next > c.row.first);
            return Step::Take { index, limit: limit.map_or(chosen.row.next, |c| c.row.first) };
        }
        match candidates.get(self.ahead) {
            Some(next) => Step::Hole(next.row.first),
            None if at < self.end => Step::Hole(self.end),
            None => Step::Done,
        }
    }

    /// A candidate can't be read.
    pub fn drop(&mut self, index: usize) {
        self.active.retain(|active| *active != index);
    }

    /// A row without offsets at `at`, which tells of an empty partition or of its newest leader.
    pub fn empty_at(&self, at: i64) -> Option<&Range> {
        let rows = self.candidates.iter().map(|c| &c.row);
        rows.filter(|row| row.first == at && row.next == at).max_by_key(|row| row.leader_epoch)
    }

    /// Whether data rows say something about the same offsets.
    pub fn overlaps(&self) -> bool {
        let mut end = i64::MIN;
        self.candidates.iter().filter(|c| c.is_data()).any(|c| {
            let overlaps = c.row.first < end;
            end = end.max(c.row.next);
            overlaps
        })
    }
}

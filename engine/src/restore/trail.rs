//! What lies in a log between two offsets, found out backwards from its end without reading it: runs of records, and markers between them.
//!
//! Each producer of a restore counts its sequences from 0, and everything that one of them has sent to a partition stands together. So the header of
//! a run's last batch tells where the run begins.

use std::collections::{BTreeMap, HashMap};

use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_protocol::ErrorCode;
use bodley_protocol::batch::{self, HEADER_LEN, Header};

use super::stand::SEQUENCES;

/// Records that one producer has put one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Offset of the first.
    pub begin: i64,
    /// How many.
    pub records: i64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trail {
    /// Runs in the order of the log, with nothing but markers between them.
    Whole(Vec<Run>),
    /// It is not such; an offset where that shows, and in words why.
    Broken(i64, &'static str),
}

/// From where to where to look.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// First offset, inclusive.
    pub floor: i64,
    /// Log end.
    pub end: i64,
}

struct Open {
    floor: i64,
    /// Everything behind this is known.
    at: i64,
    /// The latest first.
    runs: Vec<Run>,
}

/// Follows each partition back from its end. `is_ours` says whose data batches are expected.
pub async fn follow(
    cluster: &Cluster,
    spans: Vec<(TopicPartition, Span)>,
    is_ours: impl Fn(&Header) -> bool,
) -> Result<HashMap<TopicPartition, Trail>, KafkaError> {
    let mut done = HashMap::new();
    let mut open: BTreeMap<TopicPartition, Open> = BTreeMap::new();
    for (tp, Span { floor, end }) in spans {
        open.insert(tp, Open { floor, at: end, runs: Vec::new() });
    }
    loop {
        open.retain(|tp, open| {
            let trail = match open.at.cmp(&open.floor) {
                std::cmp::Ordering::Greater => return true,
                std::cmp::Ordering::Equal => Trail::Whole(open.runs.drain(..).rev().collect()),
                std::cmp::Ordering::Less => Trail::Broken(open.at, "it ends before what was sent"),
            };
            done.insert(tp.clone(), trail);
            false
        });
        if open.is_empty() {
            return Ok(done);
        }
        let asked: Vec<_> = open.iter().map(|(tp, open)| (tp.clone(), open.at - 1)).collect();
        for (tp, peeked) in cluster.peek(&asked, HEADER_LEN).await? {
            let Some(state) = open.get_mut(&tp) else { continue };
            let step = match peeked {
                Ok(peeked) => state.step(&peeked.bytes, &is_ours),
                Err(error) if error.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) => {
                    Err("retention has removed what is to be counted")
                }
                Err(error) => return Err(error),
            };
            if let Err(what) = step {
                done.insert(tp.clone(), Trail::Broken(state.at - 1, what));
                open.remove(&tp);
            }
        }
    }
}

impl Open {
    fn step(&mut self, bytes: &[u8], is_ours: &impl Fn(&Header) -> bool) -> Result<(), &'static str> {
        let header = batch::view_cut(bytes).ok().flatten().ok_or("a batch has no readable header")?;
        if header.last_offset() != self.at - 1 {
            return Err("somebody else has written to the topic");
        }
        if header.is_control() {
            self.at = header.base_offset;
            return Ok(());
        }
        if !is_ours(&header) {
            return Err("somebody else has written to the topic");
        }
        let sequence = ends_at(&header).ok_or("somebody else has written to the topic")?;
        let all = self.at - self.floor;
        let records = match i64::from(sequence) {
            sequence if all.rem_euclid(SEQUENCES) == sequence => all,
            0 => SEQUENCES,
            sequence => sequence,
        };
        self.at -= records;
        self.runs.push(Run { begin: self.at, records });
        if self.at < self.floor { Err("the records there are not those that were sent") } else { Ok(()) }
    }
}

/// The sequence behind a batch.
pub fn ends_at(header: &Header) -> Option<i32> {
    let next = i64::from(header.base_sequence) + i64::from(header.record_count);
    (header.base_sequence >= 0).then_some(next.rem_euclid(SEQUENCES) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: i64, count: i32, sequence: i32, control: bool) -> Vec<u8> {
        let header = Header {
            magic: 2,
            base_offset,
            size: 0,
            leader_epoch: 0,
            crc: 0,
            attributes: if control { 0x30 } else { 0 },
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 1,
            producer_epoch: 0,
            base_sequence: sequence,
            record_count: count,
        };
        batch::encode(&header, b"")
    }

    #[test]
    fn back_over_runs_and_markers() {
        // 10: twelve records in two batches, 22: two markers, 24: five records, 29: a marker, then the end.
        let mut open = Open { floor: 10, at: 30, runs: Vec::new() };
        let log = [
            batch(29, 1, -1, true),
            batch(24, 5, 0, false),
            batch(23, 1, -1, true),
            batch(22, 1, -1, true),
            batch(19, 3, 9, false),
        ];
        for bytes in &log {
            open.step(bytes, &|_| true).unwrap();
        }
        assert_eq!((open.at, open.floor), (10, 10));
        assert_eq!(open.runs, [Run { begin: 24, records: 5 }, Run { begin: 10, records: 12 }]);
        // Of somebody else, at another place, with other sequences.
        let open = || Open { floor: 10, at: 30, runs: Vec::new() };
        assert!(open().step(&batch(25, 5, 0, false), &|_| false).is_err());
        assert!(open().step(&batch(25, 4, 0, false), &|_| true).is_err());
        assert!(open().step(&batch(25, 5, 40, false), &|_| true).is_err());
        assert!(open().step(&[0; 61], &|_| true).is_err());
    }

    #[test]
    fn sequences_that_wrapped() {
        let mut open = Open { floor: 0, at: SEQUENCES + 7, runs: Vec::new() };
        open.step(&batch(SEQUENCES + 2, 5, 2, false), &|_| true).unwrap();
        assert_eq!(open.runs, [Run { begin: 0, records: SEQUENCES + 7 }]);
    }
}

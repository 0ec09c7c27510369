//! Positions by the headers of restored records, which tell where each comes from.
//!
//! Offsets of the source grow along a partition unless it was restored more than once: where they fall back another restore begins, and the last one
//! counts. That can only be known by looking at all of it, so each partition is read once, for all groups together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_io::kafka::{Cluster, TopicPartition};
use bodley_protocol::batch;
use bodley_protocol::records::Payload;
use bodley_protocol::stamp::Origin;

use super::of_topic;
use super::settle::Ends;
use crate::error::EngineError;

/// Partitions that are read at a time, each with up to 2 MiB, or one batch that is larger.
const AT_A_TIME: usize = 8;

/// By source offset the offset at the target; `None`: no record is at or behind it.
type Found = BTreeMap<i64, Option<i64>>;

/// For each partition the offset of the first record of the last restore that was not before each of the given offsets at the source.
pub(super) async fn find(
    cluster: &Arc<Cluster>,
    asked: BTreeMap<TopicPartition, BTreeSet<i64>>,
    sources: &BTreeMap<Arc<str>, String>,
) -> Result<BTreeMap<TopicPartition, Found>, EngineError> {
    let ends = Ends::of(cluster, &asked.keys().cloned().collect()).await?;
    let mut waiting = asked.into_iter().map(|(tp, offsets)| {
        let source = sources.get(&tp.topic).cloned().unwrap_or_else(|| tp.topic.to_string());
        let (next, end) = (ends.start(&tp), ends.end(&tp));
        Search { source, next, end, run: Run::new(offsets), empty: next >= end, stamped: 0, elsewhere: 0, tp }
    });
    let mut found = BTreeMap::new();
    let mut open: Vec<Search> = Vec::new();
    loop {
        open.extend(waiting.by_ref().take(AT_A_TIME.saturating_sub(open.len())));
        let (done, rest): (Vec<Search>, Vec<Search>) = open.into_iter().partition(Search::is_over);
        for search in done {
            let (tp, of) = search.finish()?;
            found.insert(tp, of);
        }
        open = rest;
        if open.len() < AT_A_TIME && waiting.len() > 0 {
            continue;
        }
        if open.is_empty() {
            return Ok(found);
        }
        let of: Vec<(TopicPartition, i64)> =
            open.iter().map(|search| (search.tp.clone(), search.next)).collect();
        let mut peeked = cluster.peek(&of, usize::MAX).await?;
        for search in &mut open {
            match peeked.remove(&search.tp) {
                Some(Ok(peeked)) => search.take(&peeked.bytes)?,
                Some(Err(error)) => return Err(of_topic(&search.tp, error)),
                None => {}
            }
        }
    }
}

/// One partition under way.
struct Search {
    tp: TopicPartition,
    /// Topic at the source.
    source: String,
    next: i64,
    end: i64,
    run: Run,
    /// There was nothing to read.
    empty: bool,
    /// Records that tell where they come from.
    stamped: u64,
    /// Records that come from elsewhere.
    elsewhere: u64,
}

impl Search {
    fn is_over(&self) -> bool {
        self.next >= self.end
    }

    /// Takes what was fetched from `next` on: whole batches, the last of which may be cut.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), EngineError> {
        let (before, tp) = (self.next, self.tp.clone());
        let bad = |offset: i64, what: String| {
            EngineError::Diverged(format!("{tp}: the batch at offset {offset} can't be read: {what}"))
        };
        while let Some(header) = batch::view_checked(bytes).map_err(|e| bad(self.next, e.to_string()))? {
            if !header.is_control() && header.record_count > 0 {
                let unreadable = |e: String| bad(header.base_offset, e);
                let payload = Payload::unpack(&header, bytes).map_err(|e| unreadable(e.to_string()))?;
                for record in payload.records() {
                    let record = record.map_err(|e| unreadable(e.to_string()))?;
                    let body = record.parse_body().map_err(|e| unreadable(e.to_string()))?;
                    let offset = self.offset_of(&Origin::of(&body));
                    if let Some(offset) = offset.filter(|_| record.offset < self.end) {
                        self.run.add(offset, record.offset);
                    }
                }
            }
            self.next = self.next.max(header.last_offset().saturating_add(1));
            bytes = bytes.get(header.size..).unwrap_or_default();
        }
        if self.next == before {
            return Err(bad(before, "the broker sends nothing that goes on from there".into()));
        }
        Ok(())
    }

    /// The offset at the source, if the record comes from this partition there.
    fn offset_of(&mut self, origin: &Origin<'_>) -> Option<i64> {
        let offset = origin.offset?;
        let topic = origin.topic.as_deref().is_none_or(|topic| topic == self.source);
        if topic && origin.partition.is_none_or(|partition| partition == self.tp.partition) {
            self.stamped += 1;
            return Some(offset);
        }
        self.elsewhere += 1;
        None
    }

    fn finish(self) -> Result<(TopicPartition, Found), EngineError> {
        let Self { tp, source, .. } = &self;
        if self.stamped > 0 || self.empty {
            return Ok((self.tp, self.run.finish()));
        }
        Err(EngineError::Refused(match self.elsewhere {
            0 => format!(
                "{tp} has no record with a header x-original-offset: was it restored with --stamp-headers? Else reset --by timestamp"
            ),
            _ => format!(
                "the records of {tp} say that they come from elsewhere than {source}-{}: say with --rename SOURCE=TARGET what was restored where",
                tp.partition
            ),
        }))
    }
}

/// The answers of one restore.
struct Run {
    /// Sorted.
    offsets: Vec<i64>,
    /// Of the first ones: offset, and the source offset of the record there.
    found: Vec<(i64, i64)>,
    /// What was found of an asked offset before source offsets fell back; counts where nothing is found behind.
    earlier: BTreeMap<i64, i64>,
    last: i64,
}

impl Run {
    fn new(offsets: BTreeSet<i64>) -> Self {
        Self { offsets: offsets.into_iter().collect(), found: Vec::new(), earlier: BTreeMap::new(), last: -1 }
    }

    fn add(&mut self, source: i64, offset: i64) {
        if source < self.last {
            // What came again is answered anew; what lies before it is not.
            let stays = self.found.partition_point(|(_, of)| *of < source);
            let dropped = self.found.drain(stays..).map(|(offset, _)| offset);
            self.earlier.extend(self.offsets.iter().skip(stays).copied().zip(dropped));
        }
        self.last = source;
        while self.offsets.get(self.found.len()).is_some_and(|asked| *asked <= source) {
            self.found.push((offset, source));
        }
    }

    fn finish(self) -> Found {
        let found = self.found.into_iter().map(|(offset, _)| Some(offset)).chain(std::iter::repeat(None));
        let earlier = self.earlier;
        let answer =
            |(asked, found): (i64, Option<i64>)| (asked, found.or_else(|| earlier.get(&asked).copied()));
        self.offsets.into_iter().zip(found).map(answer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(asked: &[i64], records: &[(i64, i64)]) -> Vec<Option<i64>> {
        let mut run = Run::new(asked.iter().copied().collect());
        records.iter().for_each(|(source, offset)| run.add(*source, *offset));
        run.finish().into_values().collect()
    }

    #[test]
    fn the_next_record_of_the_last_restore() {
        let once = [(10, 0), (11, 1), (15, 3), (16, 4)];
        assert_eq!(run(&[0, 10, 12, 16, 17], &once), [Some(0), Some(0), Some(3), Some(4), None]);
        let twice = [(10, 0), (11, 1), (15, 2), (10, 3), (11, 4), (15, 5)];
        assert_eq!(run(&[0, 11, 12, 16], &twice), [Some(3), Some(4), Some(5), None]);
        // A record that came twice begins nothing new.
        assert_eq!(run(&[11, 12], &[(10, 0), (11, 1), (11, 2), (12, 3)]), [Some(1), Some(3)]);
        // A producer that tries again repeats the last ones: what lies before them keeps its place.
        let again = [(10, 0), (11, 1), (12, 2), (13, 3), (12, 4), (13, 5), (14, 6)];
        assert_eq!(run(&[10, 11, 12, 14], &again), [Some(0), Some(1), Some(4), Some(6)]);
        // Newer records first, then older ones: whoever stands among the newer reads on from there.
        let turned = [(60, 0), (61, 1), (10, 2), (11, 3)];
        assert_eq!(run(&[10, 37, 61, 70], &turned), [Some(2), Some(0), Some(1), None]);
        assert_eq!(run(&[5], &[]), [None]);
    }
}

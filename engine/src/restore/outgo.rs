//! Chunks on their way back: read by range, checked; which batches leave, and which number each record has.
//!
//! On the way of a byte: [`crate::vault`]'s chunk is read into a part buffer; `tray.rs` patches, merges or rewrites its batches there, and from
//! there they leave (`sender.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::kafka::TopicPartition;
use bodley_io::store::SharedStore;
use bodley_protocol::batch::Header;
use bodley_protocol::sieve::Fate;
use tokio::sync::mpsc;

use super::map::{Builder, Room};
use super::stand::Stand;
use super::tray::{Outgoing, Tray, Wanted};
use super::work::{Chunk, Work};
use crate::error::EngineError;
use crate::vault::aborted::Aborted;
use crate::vault::rows::Range;
use crate::vault::segment::read_chunk;

/// What a partition's preparation hands over.
#[derive(Debug)]
pub enum Handed {
    /// The batches of one chunk, and the bytes of it.
    Chunk(Vec<Outgoing>, u64),
    /// All is handed over.
    End(Passed),
}

/// What was learnt while a partition's records passed by.
#[derive(Debug)]
pub struct Passed {
    /// Group positions.
    pub positions: Translated,
    /// Which record has which offset.
    pub map: Builder,
}

/// Group positions: source offset to the number of the record of the plan that the group would read next.
pub type Translated = BTreeMap<i64, i64>;

/// Where chunks come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The vault's objects.
    pub store: SharedStore,
    /// Part buffers.
    pub pool: Arc<BufferPool>,
    /// For the offset maps.
    pub room: Room,
}

/// What of which partition is to be prepared.
#[derive(Debug, Clone)]
pub struct Order {
    /// At the target.
    pub tp: TopicPartition,
    /// All of it.
    pub work: Arc<Work>,
    /// What is done of it, and who goes on where.
    pub stand: Stand,
}

/// Starts to prepare what is not done of a partition; at most one chunk waits to be taken.
pub fn start(source: Source, order: Order) -> mpsc::Receiver<Result<Handed, EngineError>> {
    let (handed, outbox) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut preparer = Preparer::new(source, order);
        // A place for it first, then a buffer: what waits to be taken holds one buffer, not two.
        while let Ok(place) = handed.reserve().await {
            let Some(result) = preparer.next().await else { return };
            let ended = result.is_err();
            place.send(result);
            if ended {
                return;
            }
        }
    });
    outbox
}

/// Goes through a partition's chunks.
pub(super) struct Preparer {
    source: Source,
    tp: TopicPartition,
    work: Arc<Work>,
    stand: Stand,
    /// A rewind epoch, and the transactions that were aborted in it.
    aborted: Option<(u32, Aborted)>,
    next_chunk: usize,
    /// Records of the plan passed so far.
    passed: i64,
    next_mark: usize,
    positions: Translated,
    map: Builder,
    ended: bool,
}

impl Preparer {
    /// At the begin.
    pub(super) fn new(source: Source, order: Order) -> Self {
        let Order { tp, work, stand } = order;
        let map = Builder::new(source.room.clone());
        Self {
            source,
            tp,
            work,
            stand,
            aborted: None,
            next_chunk: 0,
            passed: 0,
            next_mark: 0,
            positions: BTreeMap::new(),
            map,
            ended: false,
        }
    }

    async fn next(&mut self) -> Option<Result<Handed, EngineError>> {
        while let Some(chunk) = self.work.chunks.get(self.next_chunk).cloned() {
            self.next_chunk += 1;
            if self.counts(&chunk) {
                continue;
            }
            return Some(self.chunk(&chunk).await);
        }
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        if self.passed < self.stand.done {
            return Some(Err(self.misplaced("it has more records than the vault")));
        }
        // A position at or past the end is the log's end.
        self.pass_marks(i64::MAX, |_| 0);
        let map = std::mem::replace(&mut self.map, Builder::new(self.source.room.clone()));
        Some(Ok(Handed::End(Passed { positions: std::mem::take(&mut self.positions), map })))
    }

    /// Whether the next chunk need not be read: what is done is counted, unless a group stands in it or an exact map is wanted and it has holes.
    pub(super) fn counts(&mut self, chunk: &Chunk) -> bool {
        let Some(count) = chunk.count().filter(|count| self.passed.saturating_add(*count) <= self.stand.done)
        else {
            return false;
        };
        let is_dense = count == chunk.next - chunk.first;
        if self.marks_before(chunk.next) || !is_dense && self.work.needs_exact_map {
            return false;
        }
        match is_dense {
            true => self.map.push(chunk.first, self.passed, count),
            false => self.map.push_span(chunk.first..chunk.next, self.passed, count),
        }
        self.passed += count;
        true
    }

    /// Records passed, and where each lies at the target.
    pub(super) fn into_map(self) -> (i64, Builder) {
        (self.passed, self.map)
    }

    /// Reads the next chunk. It must have as many records as it is said to.
    pub(super) async fn chunk(&mut self, row: &Chunk) -> Result<Handed, EngineError> {
        let before = self.passed;
        if self.aborted.as_ref().is_none_or(|(rewind, _)| *rewind != row.rewind) {
            // What another rewind epoch aborted was of another log.
            let rows = self.work.aborted.iter().filter(|of| of.rewind == row.rewind);
            self.aborted = Some((row.rewind, Aborted::from_rows(rows)));
        }
        let path = row.segment_path();
        let read = read_chunk(&self.source.store, &self.source.pool, &path, row).await?;
        let (chunk, checked) = read.map_err(|flaw| self.damaged(&path, row, flaw.words()))?;
        let mut tray = Tray::new((chunk, checked), self.work.sieve(row), self.work.merge_up_to);
        while !tray.is_at_end() {
            let number = self.passed;
            let has_worked = self.batch(&mut tray).map_err(|what| self.damaged(&path, row, &what))?;
            if number < self.stand.done && self.passed > self.stand.done {
                return Err(self.misplaced("it ends inside a batch of the vault"));
            }
            if has_worked {
                // Merging takes time, and connections wait on these same threads.
                tokio::task::yield_now().await;
            }
        }
        if let Some(count) = row.count().filter(|count| self.passed - before != *count) {
            let what = format!("{} records are in it, {count} in its row", self.passed - before);
            return Err(self.damaged(&path, row, &what));
        }
        let outgoing = tray.finish(&self.stand).map_err(|what| damaged(&path, &self.tp.topic, row, what))?;
        Ok(Handed::Chunk(outgoing, u64::from(row.stored)))
    }

    /// Deals with the tray's next batch. Returns whether that was much work. An error says in words how the batch is damaged.
    fn batch(&mut self, tray: &mut Tray) -> Result<bool, String> {
        let header = tray.head()?;
        // Where a rewind has cut the chunk, what lies behind is another log's.
        let behind = header.last_offset().saturating_add(1).min(tray.end());
        let fate = if self.is_hidden(&header) { Fate::Skip } else { tray.fate(&header) };
        let (wanted, worked) = match fate {
            Fate::Skip => (Wanted::None, false),
            Fate::Verbatim | Fate::Remake => (Wanted::All, false),
            Fate::Rewrite | Fate::Look => (tray.wanted(&header, fate)?, true),
        };
        match &wanted {
            Wanted::None => self.pass_marks(behind, |_| 0),
            Wanted::All => self.pass_marks(behind, |mark| (mark - header.base_offset).max(0)),
            Wanted::Some(kept) => {
                self.pass_marks(behind, |mark| kept.partition_point(|offset| *offset < mark) as i64)
            }
        }
        let count = match &wanted {
            Wanted::None => 0,
            Wanted::All => i64::from(header.record_count),
            Wanted::Some(kept) => kept.len() as i64,
        };
        match &wanted {
            Wanted::Some(kept) => self.map.push_each(kept, self.passed),
            _ => self.map.push(header.base_offset, self.passed, count),
        }
        // What is done is only counted.
        if count == 0 || self.passed < self.stand.done {
            self.passed += count;
            tray.skip(&header);
            return Ok(worked);
        }
        let rewrite = fate == Fate::Remake || matches!(wanted, Wanted::Some(_)) || tray.stamps();
        let taken = tray.take(&header, rewrite, &self.stand, self.passed)?;
        self.passed += i64::from(taken.records);
        Ok(taken.has_worked || worked)
    }

    /// No consumer with isolation read_committed sees it.
    fn is_hidden(&self, header: &Header) -> bool {
        header.is_control()
            || header.is_transactional()
                && self.aborted.as_ref().is_some_and(|(_, aborted)| {
                    aborted.covers(header.producer_id, header.base_offset, header.last_offset())
                })
    }

    fn marks_before(&self, offset: i64) -> bool {
        self.work.marks.get(self.next_mark).is_some_and(|mark| *mark < offset)
    }

    /// Translates the group positions below source offset `behind`; `within` counts the current batch's records before a position.
    fn pass_marks(&mut self, behind: i64, within: impl Fn(i64) -> i64) {
        while let Some(mark) = self.work.marks.get(self.next_mark).copied().filter(|mark| *mark < behind) {
            self.positions.insert(mark, self.passed + within(mark));
            self.next_mark += 1;
        }
    }

    fn damaged(&self, path: &str, range: &Range, what: &str) -> EngineError {
        damaged(path, &self.tp.topic, range, what.to_owned())
    }

    /// The target does not stand where a run of this plan can have left it.
    fn misplaced(&self, what: &str) -> EngineError {
        EngineError::Diverged(format!(
            "{}: the log at the target is not as this restore left it: {what}; delete the topic, and run the restore again",
            self.tp
        ))
    }
}

/// Damage of a chunk, with its place.
pub fn damaged(path: &str, topic: &str, range: &Range, what: String) -> EngineError {
    let (object, topic) = (path.to_owned(), topic.to_owned());
    EngineError::Damaged { object, what, topic, partition: range.partition, offsets: range.first..range.next }
}

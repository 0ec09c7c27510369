//! The records of one partition that are asked for, batch by batch.

use std::ops::Range as Span;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bodley_io::store::SharedStore;
use bodley_io::{BufferPool, Filled};
use bodley_protocol::batch::Header;
use bodley_protocol::records::{Body, Payload};

use super::chunk::{Chunk, damaged};
use super::window::Window;
use crate::error::EngineError;
use crate::report::Gap;
use crate::vault::ahead::{Origin, Reads, UnderWay, Wanted};
use crate::vault::rows::{Kind, Range};
use crate::vault::segment::{ChunkFlaw, check_chunk, flaw_of};
use crate::vault::state::PartitionState;

/// Where chunks come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The vault's objects.
    pub store: SharedStore,
    /// Part buffers; a reader holds one at a time, and reads ahead in up to a half of them.
    pub pool: Arc<BufferPool>,
}

/// Rows of chunks that are known to the reads ahead at a time.
const ROWS_AHEAD: usize = 1000;
/// Bytes that are read ahead when some chunks have been gone through; twice as many with each that follows. Who looks for a few records needs no more.
const AHEAD: usize = 4 << 20;

/// A chunk, and how many bytes of it from the start are checked.
type Checked = Result<(Filled, usize), ChunkFlaw>;

/// What comes next in a partition.
#[derive(Debug)]
pub enum Seen {
    /// Records.
    Batch(Batch),
    /// Offsets that are lost, some of which are asked for.
    Gap(Gap),
    /// Records can't be read; [`EngineError::Damaged`]. What lies behind them comes next.
    Damage(EngineError),
}

/// The records of a batch that are asked for; one at least.
pub struct Batch {
    payload: Payload,
    is_append_time: bool,
    /// Offsets that count.
    offsets: Span<i64>,
    window: Window,
    /// So many are passed over.
    skip: usize,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// At the source.
    pub offset: i64,
    /// ms; the append time where the batch says so.
    pub timestamp: i64,
    /// The broker set the time, not the producer.
    pub is_append_time: bool,
    /// Key, value and headers.
    pub body: Body<'a>,
}

impl Batch {
    /// Unpacks a batch; no record may be asked for. An error says in words what is wrong with it.
    fn open((header, bytes): (&Header, &[u8]), offsets: Span<i64>, window: Window) -> Result<Self, String> {
        let payload = Payload::unpack(header, bytes).map_err(|e| e.to_string())?;
        for record in payload.records() {
            record.map_err(|e| e.to_string())?.parse_body().map_err(|e| e.to_string())?;
        }
        Ok(Self { payload, is_append_time: header.is_append_time(), offsets, window, skip: 0 })
    }

    /// In order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        // All of them were readable when the batch was opened.
        self.wanted().skip(self.skip).filter_map(|record| {
            let body = record.parse_body().ok()?;
            let (offset, timestamp) = (record.offset, record.timestamp);
            Some(Record { offset, timestamp, is_append_time: self.is_append_time, body })
        })
    }

    fn wanted(&self) -> impl Iterator<Item = bodley_protocol::records::Record<'_>> {
        self.payload.records().flatten().filter(|record| {
            self.offsets.contains(&record.offset) && self.window.holds(record.offset, record.timestamp)
        })
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

/// Goes through a partition.
pub struct Reader<'a> {
    source: &'a Source,
    topic: &'a str,
    partition: &'a PartitionState,
    window: Window,
    /// The range behind the one that is read.
    next: usize,
    chunk: Option<Chunk>,
    /// So many records of the next chunk are passed over.
    skip: u64,
    /// Chunks that will be asked for, with their indices among the ranges.
    ahead: Option<Reads<(usize, Range), Checked>>,
    /// Chunks that were asked for.
    taken: Arc<AtomicU32>,
}

impl<'a> Reader<'a> {
    /// At the begin of what is asked for. `topic` is its name, for messages.
    pub fn new(source: &'a Source, topic: &'a str, partition: &'a PartitionState, window: Window) -> Self {
        let start = window.offsets().start;
        let next = partition.ranges.partition_point(|row| row.next <= start);
        let (chunk, ahead, taken) = (None, None, Arc::default());
        Self { source, topic, partition, window, next, chunk, skip: 0, ahead, taken }
    }

    /// Only the last `count` records of what is asked for come, as far as rows tell how many there are. To be called before anything has come. Reads no chunk
    /// of which all or nothing is asked for.
    pub async fn only_last(&mut self, count: u64) -> Result<(), EngineError> {
        let (first, mut left) = (self.next, count);
        for index in (first..self.partition.ranges.len()).rev() {
            let Some(row) = self.partition.ranges.get(index) else { break };
            if row.kind != Kind::Data || self.window.misses(row) {
                continue;
            }
            let exact = self.partition.is_exact(index) && self.window.holds_all(row);
            let there = if exact { row.kept.unsigned_abs() } else { self.count(row).await? };
            if there >= left {
                (self.next, self.skip) = (index, there - left);
                return Ok(());
            }
            left -= there;
        }
        Ok(())
    }

    /// What comes next; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Seen>, EngineError> {
        loop {
            if let Some(seen) = self.next_in_chunk() {
                tokio::task::yield_now().await;
                return Ok(Some(seen));
            }
            let (index, partition) = (self.next, self.partition);
            let Some(row) = partition.ranges.get(index) else { return Ok(None) };
            if row.first >= self.window.offsets().end {
                return Ok(None);
            }
            self.next += 1;
            match row.kind {
                Kind::Gap(reason) if self.window.may_hold_gap(&partition.ranges, index) => {
                    let gap = Gap::new(self.topic, row.partition, row.first..row.next, reason);
                    return Ok(Some(Seen::Gap(gap)));
                }
                Kind::Data if !self.window.misses(row) => match self.read_next(index, row).await {
                    Ok(chunk) => self.chunk = Some(chunk),
                    Err(damage @ EngineError::Damaged { .. }) => {
                        self.skip = 0;
                        return Ok(Some(Seen::Damage(damage)));
                    }
                    Err(error) => return Err(error),
                },
                _ => {}
            }
        }
    }

    /// What comes next in the chunk in hand, which is let go of at its end.
    fn next_in_chunk(&mut self) -> Option<Seen> {
        let chunk = self.chunk.as_mut()?;
        let row = self.partition.ranges.get(self.next.checked_sub(1)?)?;
        let offsets = chunk.offsets();
        let mut at = offsets.start;
        loop {
            let (header, bytes) = match chunk.next() {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(what) => {
                    (self.chunk, self.skip) = (None, 0);
                    return Some(Seen::Damage(damaged(self.topic, row, at..offsets.end, what)));
                }
            };
            let behind = header.last_offset().saturating_add(1).min(offsets.end);
            let begin = std::mem::replace(&mut at, behind).max(header.base_offset);
            if self.window.misses_batch(&header) {
                continue;
            }
            let is_whole = offsets.start <= header.base_offset
                && behind > header.last_offset()
                && self.window.holds_batch(&header);
            let count = u64::from(header.record_count.unsigned_abs());
            if is_whole && count <= self.skip {
                self.skip -= count;
                continue;
            }
            let mut batch = match Batch::open((&header, bytes), offsets.clone(), self.window) {
                Ok(batch) => batch,
                Err(what) => return Some(Seen::Damage(damaged(self.topic, row, begin..behind, what))),
            };
            let count = batch.wanted().count() as u64;
            let skip = self.skip.min(count);
            self.skip -= skip;
            if skip < count {
                batch.skip = skip as usize;
                return Some(Seen::Batch(batch));
            }
        }
        (self.chunk, self.skip) = (None, 0);
        None
    }

    /// The chunk of a range, which is the next one that is wanted.
    async fn read_next(&mut self, index: usize, row: &Range) -> Result<Chunk, EngineError> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let mut next = self.next_ahead(index).await;
        if next.is_none() && taken > 0 {
            self.ahead = Some(self.read_ahead(index));
            next = self.next_ahead(index).await;
        }
        let Some(next) = next else { return self.read(row).await };
        let read = flaw_of(next.done().await)?;
        Chunk::open(read, self.topic, row, &self.partition.aborted)
    }

    async fn next_ahead(&mut self, index: usize) -> Option<UnderWay<(usize, Range), Checked>> {
        let next = self.ahead.as_mut()?.next().await;
        next.filter(|next| next.what.0 == index)
    }

    /// Begins to read the chunks that are wanted from a range on.
    fn read_ahead(&self, index: usize) -> Reads<(usize, Range), Checked> {
        let (window, end) = (self.window, self.window.offsets().end);
        let ranges = self.partition.ranges.iter().enumerate().skip(index);
        let wanted = ranges
            .take_while(|(_, row)| row.first < end)
            .filter(|(_, row)| row.kind == Kind::Data && !window.misses(row))
            .take(ROWS_AHEAD);
        let wanted = wanted.map(|(index, row)| Wanted {
            path: row.segment_path(),
            at: row.position,
            len: row.stored as usize,
            room: 0,
            what: (index, row.clone()),
        });
        let wanted: Vec<_> = wanted.collect();
        let (taken, most) = (Arc::clone(&self.taken), self.source.pool.budget() / 2);
        let share = move || match taken.load(Ordering::Relaxed) {
            0..=2 => 0,
            chunks => AHEAD.saturating_mul(1 << (chunks - 3).min(16)).min(most),
        };
        let origin = Origin::new(&self.source.store, &self.source.pool);
        Reads::start(origin, wanted.into_iter(), share, |(_, row), bytes| {
            check_chunk(&bytes, &row).map(|good| (bytes, good))
        })
    }

    async fn read(&self, row: &Range) -> Result<Chunk, EngineError> {
        let from = (&self.source.store, &self.source.pool);
        Chunk::read(from, self.topic, row, &self.partition.aborted).await
    }

    /// Counts the records of a chunk that are asked for and can be read.
    async fn count(&self, row: &Range) -> Result<u64, EngineError> {
        let mut chunk = match self.read(row).await {
            Ok(chunk) => chunk,
            Err(EngineError::Damaged { .. }) => return Ok(0),
            Err(error) => return Err(error),
        };
        let (offsets, mut count) = (chunk.offsets(), 0);
        while let Ok(Some((header, bytes))) = chunk.next() {
            if !self.window.misses_batch(&header)
                && let Ok(batch) = Batch::open((&header, bytes), offsets.clone(), self.window)
            {
                count += batch.wanted().count() as u64;
                tokio::task::yield_now().await;
            }
        }
        Ok(count)
    }
}

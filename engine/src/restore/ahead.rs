//! Chunks of a partition, read before they are asked for, and those together that lie near each other in a segment.
//!
//! What is read ahead is a guess of what will be asked for, and nothing depends on it: what was not read is read when it is asked for. What is read can be sent
//! without another buffer, so partitions that wait for one wait for batches that are on their way to the target, never for each other in a circle.

use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bodley_io::store::{SharedStore, StoreError};
use bodley_io::{BufferPool, Filled};

use super::map::Room;
use super::work::Work;
use crate::error::EngineError;
use crate::vault::ahead::{Origin, Reads, Wanted};
use crate::vault::segment::{ChunkFlaw, SLACK, check_chunk};

/// Bytes that one partition reads ahead at most: far more than a target takes while a far store answers. Of a small budget a quarter: one that stands
/// still keeps what it has read.
const MOST_AHEAD: usize = 64 << 20;
/// Bytes of other partitions between two chunks that are read rather than left out by another request.
const HOLE: u64 = 256 << 10;
/// What is made of batches may be larger than they are: so much room behind them, bytes, is enough for most.
const ROOM: usize = 256 << 10;

/// Where chunks come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The vault's objects.
    pub store: SharedStore,
    /// Part buffers.
    pub pool: Arc<BufferPool>,
    /// For the offset maps.
    pub room: Room,
    origin: Origin,
    /// Partitions that read ahead now.
    readers: Arc<AtomicUsize>,
}

impl Source {
    /// The objects of `store`, in buffers of `pool`.
    pub fn new(store: SharedStore, pool: Arc<BufferPool>) -> Self {
        let origin = Origin::new(&store, &pool);
        Self { store, pool, room: Room::default(), origin, readers: Arc::default() }
    }

    /// Bytes that each partition may have ahead. A quarter of all is left to what is being sent.
    fn share(&self) -> usize {
        let readers = self.readers.load(Ordering::Relaxed).max(1);
        let budget = self.pool.budget();
        (budget / 4 * 3 / readers).min(budget / 4).min(MOST_AHEAD)
    }

    /// Bytes that are read at once with `room` behind them, unless one chunk is larger.
    fn span_len(&self, room: usize) -> usize {
        let one = self.store.part_len().min(self.pool.part_len()).saturating_sub(SLACK + room);
        // Two at least, so that one is there while the next is under way.
        one.min(self.share() / 2)
    }

    /// How much of `most` bytes of room behind `len` bytes there is in the buffers that these take anyway.
    fn room(&self, len: usize, most: usize) -> usize {
        let part = self.pool.part_len();
        let over = len.saturating_add(SLACK) % part;
        if over == 0 { 0 } else { most.min(part - over) }
    }
}

/// Counts a partition among those that read ahead, as long as it lives.
struct Reading(Arc<AtomicUsize>);

impl Reading {
    fn begin(source: &Source) -> Self {
        source.readers.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&source.readers))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A chunk in what was read at once.
#[derive(Debug)]
pub struct Placed {
    /// Of the chunk, in its partition's work.
    pub index: usize,
    /// Where its bytes are.
    pub place: Range<usize>,
    /// Bytes of it, from the start, that are whole batches whose CRC-32C is good; or what is wrong with it as a whole.
    pub checked: Result<usize, ChunkFlaw>,
}

/// What was read at once, and the chunks in it.
type Read = (Filled, Vec<Placed>);

/// What became of a read.
#[derive(Debug)]
pub enum Loaded {
    /// The chunk that was asked for, and others that lie near.
    Chunks(Filled, Vec<Placed>),
    /// The chunk is not there, or not all of it.
    Flawed(ChunkFlaw),
}

/// Which chunks are read at once: small holes between them are read as well.
struct Spans<I: Iterator<Item = usize>> {
    source: Source,
    work: Arc<Work>,
    /// Each chunk is read by itself.
    alone: bool,
    wanted: Peekable<I>,
    _reading: Reading,
}

impl<I: Iterator<Item = usize>> Iterator for Spans<I> {
    type Item = Wanted<Vec<usize>>;

    fn next(&mut self) -> Option<Self::Item> {
        let work = &self.work;
        let room = if work.merge_up_to.is_some() { ROOM } else { 0 };
        let most = if self.alone { 0 } else { self.source.span_len(room) };
        let index = self.wanted.next()?;
        let first = work.chunks.get(index)?;
        let (at, mut len) = (first.position, first.stored as usize);
        let (mut chunks, mut useful) = (vec![index], len);
        while let Some(next) = self.wanted.peek().and_then(|index| work.chunks.get(*index)) {
            let end = at.saturating_add(len as u64);
            let hole = next.position.checked_sub(end).filter(|hole| *hole <= HOLE);
            let Some(hole) = hole.filter(|_| next.segment == first.segment) else { break };
            let longer = len + hole as usize + next.stored as usize;
            useful += next.stored as usize;
            // At least half of what is read is wanted.
            if longer > most || longer > 2 * useful {
                break;
            }
            len = longer;
            chunks.extend(self.wanted.next());
        }
        let room = self.source.room(len, room.min(len / 8));
        Some(Wanted { path: first.segment_path(), at, len, room, what: chunks })
    }
}

/// Looks at each of the chunks in what was read at once.
fn place(work: &Work, chunks: Vec<usize>, bytes: Filled) -> Read {
    let at = chunks.first().and_then(|first| work.chunks.get(*first)).map_or(0, |row| row.position);
    let placed = chunks.into_iter().filter_map(|index| {
        let row = work.chunks.get(index)?;
        let start = row.position.saturating_sub(at) as usize;
        let place = start..start + row.stored as usize;
        let checked = check_chunk(bytes.get(place.clone()).unwrap_or_default(), row);
        Some(Placed { index, place, checked })
    });
    let placed = placed.collect();
    (bytes, placed)
}

/// A partition's chunks, read ahead.
pub struct Ahead {
    source: Source,
    work: Arc<Work>,
    alone: bool,
    reads: Option<Reads<Vec<usize>, Read>>,
}

impl Ahead {
    /// Of a partition; nothing is read yet.
    pub fn new(source: Source, work: Arc<Work>) -> Self {
        Self { source, work, alone: false, reads: None }
    }

    /// From now on each chunk is read by itself.
    pub fn one_by_one(&mut self) {
        self.alone = true;
    }

    /// Reads the `wanted` chunks, some ahead. What was read ahead before is let go of.
    pub fn start(&mut self, wanted: impl Iterator<Item = usize> + Send + 'static) {
        self.reads = None;
        let (source, work, alone) = (self.source.clone(), Arc::clone(&self.work), self.alone);
        let origin = source.origin.clone();
        let (of_share, of_place) = (source.clone(), Arc::clone(&work));
        let _reading = Reading::begin(&source);
        let spans = Spans { source, work, alone, wanted: wanted.peekable(), _reading };
        let each = move |chunks, bytes| place(&of_place, chunks, bytes);
        self.reads = Some(Reads::start(origin, spans, move || of_share.share(), each));
    }

    /// The chunk `index`, and what was read with it. `None`: it is not what comes next, and [`Ahead::start`] must begin with it.
    pub async fn take(&mut self, index: usize) -> Result<Option<Loaded>, EngineError> {
        while let Some(reads) = &mut self.reads {
            let Some(next) = reads.next().await else { break };
            if next.what.last().is_some_and(|last| *last < index) {
                continue;
            }
            if !next.what.contains(&index) {
                break;
            }
            let is_alone = next.what.len() == 1;
            return match next.done().await {
                Ok((bytes, placed)) => Ok(Some(Loaded::Chunks(bytes, placed))),
                Err(StoreError::NotFound { .. }) => Ok(Some(Loaded::Flawed(ChunkFlaw::Missing))),
                Err(StoreError::Short { .. }) if is_alone => Ok(Some(Loaded::Flawed(ChunkFlaw::Cut))),
                // The segment is cut somewhere in it: the chunks before that are there.
                Err(StoreError::Short { .. }) => {
                    self.alone = true;
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            };
        }
        Ok(None)
    }
}

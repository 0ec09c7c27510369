//! Chunks on their way back: which batches leave, and which number each record has.
//!
//! On the way of a byte: `ahead.rs` reads [`crate::vault`]'s chunks into a part buffer and checks them; `tray.rs` patches, merges or rewrites its batches there, and from
//! there they leave (`sender.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bodley_io::kafka::TopicPartition;
use bodley_protocol::batch::Header;
use bodley_protocol::sieve::Fate;
use tokio::sync::mpsc;

use super::ahead::{Ahead, Loaded, Placed, Source};
use super::map::Builder;
use super::stand::Stand;
use super::tray::{Outgoing, Tray, Wanted};
use super::work::{Chunk, Work};
use crate::error::EngineError;
use crate::vault::VaultError;
use crate::vault::aborted::Aborted;
use crate::vault::rows::Range;

/// What a partition's preparation hands over.
#[derive(Debug)]
pub enum Handed {
    /// The batches of some chunks that were read at once, and the bytes of these.
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

/// Starts to prepare what is not done of a partition; what was read at once waits to be taken once at most.
pub fn start(source: Source, order: Order) -> mpsc::Receiver<Result<Handed, EngineError>> {
    let (handed, outbox) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut preparer = Preparer::new(source, order);
        // A place for it first: what waits to be prepared had best stay in few buffers.
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

/// What has been passed of a partition.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Records of the plan.
    records: i64,
    /// Group positions.
    marks: usize,
}

impl Place {
    /// The records of a chunk that need not be read, when everything before it has been passed: what is done is counted, unless a group stands in it or
    /// an exact map is wanted and it has holes.
    fn counted(&self, work: &Work, chunk: &Chunk, done: i64) -> Option<i64> {
        let count = chunk.count().filter(|count| self.records.saturating_add(*count) <= done)?;
        let is_marked = work.marks.get(self.marks).is_some_and(|mark| *mark < chunk.next);
        let is_told = is_dense(chunk, count) || !work.needs_exact_map;
        (!is_marked && is_told).then_some(count)
    }
}

/// Every offset of a chunk has a record that is wanted.
fn is_dense(chunk: &Chunk, count: i64) -> bool {
    count == chunk.next - chunk.first
}

/// Which chunks will be read, as far as can be told before they are: how many records each has that are wanted is not always known.
struct Forecast {
    work: Arc<Work>,
    done: i64,
    next: usize,
    place: Place,
}

impl Iterator for Forecast {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            let (index, work) = (self.next, &self.work);
            let chunk = work.chunks.get(index)?;
            self.next += 1;
            let counted = self.place.counted(work, chunk, self.done);
            self.place.records = self.place.records.saturating_add(chunk.count().unwrap_or(chunk.kept));
            let marks = work.marks.get(self.place.marks..).unwrap_or_default();
            self.place.marks += marks.partition_point(|mark| *mark < chunk.next);
            if counted.is_none() {
                return Some(index);
            }
        }
    }
}

/// Goes through a partition's chunks.
pub(super) struct Preparer {
    source: Source,
    ahead: Ahead,
    tp: TopicPartition,
    work: Arc<Work>,
    stand: Stand,
    /// A rewind epoch, and the transactions that were aborted in it.
    aborted: Option<(u32, Aborted)>,
    next_chunk: usize,
    passed: Place,
    positions: Translated,
    map: Builder,
    /// What comes next, behind the chunks that were read with what is damaged.
    failed: Option<EngineError>,
    ended: bool,
}

impl Preparer {
    /// At the begin.
    pub(super) fn new(source: Source, order: Order) -> Self {
        let Order { tp, work, stand } = order;
        let map = Builder::new(source.room.clone());
        Self {
            ahead: Ahead::new(source.clone(), Arc::clone(&work)),
            source,
            tp,
            work,
            stand,
            aborted: None,
            next_chunk: 0,
            passed: Place::default(),
            positions: BTreeMap::new(),
            map,
            failed: None,
            ended: false,
        }
    }

    async fn next(&mut self) -> Option<Result<Handed, EngineError>> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        self.pass_counted(usize::MAX);
        if self.next_chunk < self.work.chunks.len() {
            return Some(self.read().await);
        }
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        if self.passed.records < self.stand.done {
            return Some(Err(self.misplaced("it has more records than the vault")));
        }
        // A position at or past the end is the log's end.
        self.pass_marks(i64::MAX, |_| 0);
        let map = std::mem::replace(&mut self.map, Builder::new(self.source.room.clone()));
        Some(Ok(Handed::End(Passed { positions: std::mem::take(&mut self.positions), map })))
    }

    /// Passes the chunks that need not be read and come next, before chunk `end`.
    fn pass_counted(&mut self, end: usize) {
        let work = Arc::clone(&self.work);
        while let Some(chunk) = work.chunks.get(self.next_chunk).filter(|_| self.next_chunk < end) {
            if !self.counts(chunk) {
                return;
            }
            self.next_chunk += 1;
        }
    }

    /// Whether the next chunk need not be read; then it is passed.
    pub(super) fn counts(&mut self, chunk: &Chunk) -> bool {
        let Some(count) = self.passed.counted(&self.work, chunk, self.stand.done) else { return false };
        match is_dense(chunk, count) {
            true => self.map.push(chunk.first, self.passed.records, count),
            false => self.map.push_span(chunk.first..chunk.next, self.passed.records, count),
        }
        self.passed.records += count;
        true
    }

    /// Records passed, and where each lies at the target.
    pub(super) fn into_map(self) -> (i64, Builder) {
        (self.passed.records, self.map)
    }

    /// These chunks will be asked for, each by itself.
    pub(super) fn expect(&mut self, chunks: Vec<usize>) {
        self.ahead.one_by_one();
        self.ahead.start(chunks.into_iter());
    }

    /// Reads the chunk `index`, which is next or lies behind it, and nothing else.
    pub(super) async fn chunk(&mut self, index: usize) -> Result<Handed, EngineError> {
        self.ahead.one_by_one();
        self.next_chunk = index;
        self.read().await
    }

    /// What is read of the next chunk.
    async fn load(&mut self) -> Result<Loaded, EngineError> {
        let next = self.next_chunk;
        if let Some(loaded) = self.ahead.take(next).await? {
            return Ok(loaded);
        }
        let (work, place, done) = (Arc::clone(&self.work), self.passed.clone(), self.stand.done);
        let behind = Forecast { work, done, next, place }.filter(move |index| *index > next);
        self.ahead.start(std::iter::once(next).chain(behind));
        let loaded = self.ahead.take(next).await?;
        loaded.ok_or_else(|| VaultError::Internal("a chunk was not read".into()).into())
    }

    /// Reads the next chunk, and deals with it and with what was read with it.
    async fn read(&mut self) -> Result<Handed, EngineError> {
        let work = Arc::clone(&self.work);
        let (bytes, placed) = match self.load().await? {
            Loaded::Chunks(bytes, placed) => (bytes, placed),
            Loaded::Flawed(flaw) => {
                let row = work.chunks.get(self.next_chunk);
                self.next_chunk += 1;
                let missing = || VaultError::Internal("a chunk was asked for that is none".into()).into();
                return Err(row.map_or_else(missing, |row| self.damaged(row, flaw.words())));
            }
        };
        let (asked, mut read) = (self.next_chunk, 0);
        let mut tray = Tray::new(bytes, work.merge_up_to);
        for placed in placed {
            if placed.index != asked {
                self.pass_counted(placed.index.saturating_add(1));
            }
            match self.next_chunk.cmp(&placed.index) {
                std::cmp::Ordering::Greater => continue,
                std::cmp::Ordering::Equal => {}
                // A chunk between was taken for one that need not be read.
                std::cmp::Ordering::Less => break,
            }
            let Some(row) = work.chunks.get(placed.index) else { break };
            self.next_chunk += 1;
            if let Err(error) = self.prepare(&mut tray, row, placed).await {
                if read == 0 {
                    return Err(error);
                }
                tray.abandon_chunk();
                self.failed = Some(error);
                break;
            }
            read += u64::from(row.stored);
        }
        Ok(Handed::Chunk(tray.finish(&self.stand), read))
    }

    /// Deals with one chunk of what was read. It must have as many records as it is said to.
    async fn prepare(&mut self, tray: &mut Tray, row: &Chunk, placed: Placed) -> Result<(), EngineError> {
        let before = self.passed.records;
        if self.aborted.as_ref().is_none_or(|(rewind, _)| *rewind != row.rewind) {
            // What another rewind epoch aborted was of another log.
            let rows = self.work.aborted.iter().filter(|of| of.rewind == row.rewind);
            self.aborted = Some((row.rewind, Aborted::from_rows(rows)));
        }
        let checked = placed.checked.map_err(|flaw| self.damaged(row, flaw.words()))?;
        tray.begin(placed.place, checked, self.work.sieve(row));
        while !tray.is_at_end() {
            let number = self.passed.records;
            let has_worked = self.batch(tray).map_err(|what| self.damaged(row, &what))?;
            if number < self.stand.done && self.passed.records > self.stand.done {
                return Err(self.misplaced("it ends inside a batch of the vault"));
            }
            if has_worked {
                // Merging takes time, and connections wait on these same threads.
                tokio::task::yield_now().await;
            }
        }
        let passed = self.passed.records - before;
        if let Some(count) = row.count().filter(|count| passed != *count) {
            return Err(self.damaged(row, &format!("{passed} records are in it, {count} in its row")));
        }
        tray.end_chunk().map_err(|what| self.damaged(row, &what))
    }

    /// Deals with the tray's next batch. Returns whether that was much work. An error says in words how the batch is damaged.
    fn batch(&mut self, tray: &mut Tray) -> Result<bool, String> {
        let header = tray.head()?;
        // Where a rewind has cut the chunk, what lies behind is another log's.
        let behind = header.last_offset().saturating_add(1).min(tray.end_of_wanted());
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
            Wanted::Some(kept) => self.map.push_each(kept, self.passed.records),
            _ => self.map.push(header.base_offset, self.passed.records, count),
        }
        // What is done is only counted.
        if count == 0 || self.passed.records < self.stand.done {
            self.passed.records += count;
            tray.skip(&header);
            return Ok(worked);
        }
        let as_stored = matches!(wanted, Wanted::All) && fate != Fate::Remake && !header.is_old();
        let rewrite = !as_stored || tray.stamps();
        let taken = tray.take(&header, rewrite, &self.stand, self.passed.records)?;
        self.passed.records += i64::from(taken.records);
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

    /// Translates the group positions below source offset `behind`; `within` counts the current batch's records before a position.
    fn pass_marks(&mut self, behind: i64, within: impl Fn(i64) -> i64) {
        while let Some(mark) = self.work.marks.get(self.passed.marks).copied().filter(|mark| *mark < behind) {
            self.positions.insert(mark, self.passed.records + within(mark));
            self.passed.marks += 1;
        }
    }

    fn damaged(&self, range: &Range, what: &str) -> EngineError {
        damaged(&range.segment_path(), &self.tp.topic, range, what.to_owned())
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

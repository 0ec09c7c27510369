//! Chunks on their way from the remains into new segments: read, checked, cut where rows overlap, written.

use std::collections::BTreeMap;
use std::sync::Arc;

use bodley_io::store::SharedStore;
use bodley_io::{BufferPool, Filled};
use bodley_protocol::TopicId;
use bodley_protocol::batch::{self, Header};
use tokio::sync::watch;

use crate::error::{EngineError, Severity};
use crate::progress::Progress;
use crate::report::{Issue, Report};
use crate::vault::SegmentRef;
use crate::vault::aborted::Aborted;
use crate::vault::rows::{AbortedRow, Kind, Range, Reason, TIME_UNKNOWN, TopicRow};
use crate::vault::segment::{ChunkFlaw, Footer, SegmentWriter, read_chunk};
use crate::vault::state::PartKey;
use crate::vault::walk::walk;

use super::Copied;
use super::chain::{Candidate, Chain, Part, Rank, Step, Trouble};
use super::transactions;

/// A segment is closed when it has so many bytes.
const SEGMENT_LEN: u64 = 1 << 30;
/// A part buffer for reading: a chunk of 8 MiB and the slack.
const READ_LEN: usize = 10 << 20;

/// Reads chunks of the remains.
pub(super) struct Reader {
    source: SharedStore,
    pool: Arc<BufferPool>,
}

/// A chunk that has passed all checks.
pub(super) struct Chunk {
    bytes: Filled,
    batches: Vec<(usize, Header)>,
}

impl Chunk {
    /// Bytes and header of each batch.
    pub fn batches(&self) -> impl Iterator<Item = (&[u8], &Header)> {
        self.batches
            .iter()
            .map(|(at, header)| (self.bytes.get(*at..*at + header.size).unwrap_or_default(), header))
    }

    /// The bytes of the batches that hold offsets from `from` on and begin below `limit`.
    fn cut(&self, from: i64, limit: i64) -> &[u8] {
        let inside = |(_, h): &&(usize, Header)| h.last_offset() >= from && h.base_offset < limit;
        let mut inside = self.batches.iter().filter(inside);
        let Some((start, first)) = inside.next() else { return &[] };
        let (last, header) = inside.next_back().map_or((*start, *first), |(at, header)| (*at, *header));
        self.bytes.get(*start..last + header.size).unwrap_or_default()
    }
}

impl Reader {
    pub fn new(source: SharedStore) -> Self {
        Self { source, pool: BufferPool::new(READ_LEN, 2 * READ_LEN) }
    }

    /// The chunk of a candidate, or what is wrong with it.
    pub async fn chunk(&self, candidate: &Candidate) -> Result<Result<Chunk, String>, EngineError> {
        let row = &candidate.row;
        Ok(match read_chunk(&self.source, &self.pool, &candidate.object, row).await? {
            Ok((bytes, _)) => batches(&bytes, row).map(|batches| Chunk { bytes, batches }),
            Err(ChunkFlaw::Missing | ChunkFlaw::Cut) => Err("it is cut or missing".into()),
            Err(ChunkFlaw::Checksum) => Err("the CRC-64 of a chunk does not match".into()),
        })
    }
}

/// Splits a chunk; its batches must be whole, in order, and inside its row.
fn batches(bytes: &[u8], row: &Range) -> Result<Vec<(usize, Header)>, String> {
    let (mut found, mut at, mut next) = (Vec::new(), 0, row.first);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let header = batch::view_checked(rest).map_err(|e| e.to_string())?.ok_or("a batch is cut")?;
        let follows = found.is_empty() || header.base_offset >= next;
        if !follows || header.last_offset() < next || header.last_offset() >= row.next {
            return Err(format!("a batch of offset {} is out of place", header.base_offset));
        }
        next = header.last_offset() + 1;
        found.push((at, header));
        at += header.size;
    }
    if found.is_empty() { Err("a chunk has no batch".into()) } else { Ok(found) }
}

/// Writes the new segments and gathers their rows.
pub(super) struct Copier<'a> {
    reader: Reader,
    target: SharedStore,
    pool: Arc<BufferPool>,
    writer_id: String,
    topics: &'a BTreeMap<TopicId, TopicRow>,
    segment: Option<SegmentWriter>,
    copied: Copied,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
}

/// Where one partition is on its way.
struct Place {
    key: PartKey,
    rewind: u32,
    /// The cursor before this rewind epoch.
    from: i64,
    next: i64,
    aborted: Vec<AbortedRow>,
    holes: Vec<(i64, i64)>,
    /// Base offset, last offset, size and CRC of the batches taken; only where rows overlap.
    taken: Option<BTreeMap<i64, Print>>,
}

/// Tells two batches apart.
type Print = (i64, usize, u32);

impl<'a> Copier<'a> {
    pub fn new(
        source: SharedStore,
        target: SharedStore,
        writer_id: &str,
        topics: &'a BTreeMap<TopicId, TopicRow>,
        (progress, stop): (Arc<Progress>, watch::Receiver<bool>),
    ) -> Self {
        let pool = BufferPool::new(target.part_len(), 4 * target.part_len());
        Self {
            reader: Reader::new(source),
            target,
            pool,
            writer_id: writer_id.to_owned(),
            topics,
            segment: None,
            copied: Copied::default(),
            progress,
            stop,
        }
    }

    /// Copies one partition in one rewind epoch; `before` is the cursor that the lower epochs lead to, -1: there are none. Returns the cursor.
    pub async fn part(
        &mut self,
        (key, rewind): (PartKey, u32),
        mut part: Part,
        before: i64,
        report: &mut Report,
    ) -> Result<i64, EngineError> {
        let Some((first, end)) = part.extent else { return Ok(before) };
        transactions::complete(&mut part, &self.reader).await?;
        let start = match before {
            -1 if part.opens => first,
            -1 => 0,
            before => before.min(first),
        };
        let aborted = part.aborted.iter().map(|((producer_id, first), marker)| AbortedRow {
            topic: key.0,
            partition: key.1,
            rewind,
            producer_id: *producer_id,
            first: *first,
            marker: *marker,
        });
        let aborted = aborted.collect();
        let mut chain = Chain::new(part.candidates, end);
        let taken = chain.overlaps().then(BTreeMap::new);
        let mut place = Place { key, rewind, from: before, next: start, aborted, holes: Vec::new(), taken };
        if let Some(row) = chain.empty_at(start).filter(|_| first == end || rewind > 0) {
            self.keep(&place, Range { ..row.clone() });
        }
        self.follow(&mut chain, &mut place, &mut part.troubles, report).await?;
        self.compare(&chain, &place, report).await?;
        self.copied.aborted.append(&mut place.aborted);
        Ok(place.next)
    }

    async fn follow(
        &mut self,
        chain: &mut Chain,
        place: &mut Place,
        troubles: &mut Vec<Trouble>,
        report: &mut Report,
    ) -> Result<(), EngineError> {
        while !*self.stop.borrow() {
            match chain.step(place.next) {
                Step::Done => break,
                Step::Hole(end) => {
                    report.errors.push(self.lost(place, end, troubles));
                    place.holes.push((place.next, end));
                    let gap = blank(place, Kind::Gap(Reason::Lost), end);
                    self.keep(place, gap);
                    place.next = end;
                }
                Step::Take { index, limit } => {
                    let Some(candidate) = chain.candidates.get(index).cloned() else { break };
                    if !candidate.is_data() {
                        let row = Range { first: place.next, next: limit, ..candidate.row };
                        self.keep(place, row);
                        place.next = limit;
                    } else if let Some(what) = self.take(&candidate, limit, place, report).await? {
                        chain.drop(index);
                        let Range { first, next, .. } = candidate.row;
                        troubles.push(Trouble { first, next, object: candidate.object, what });
                    }
                }
            }
        }
        let replaced = |t: &&Trouble| !place.holes.iter().any(|hole| t.first < hole.1 && t.next > hole.0);
        for trouble in troubles.iter().filter(replaced) {
            report.notes.push(format!(
                "{} is damaged ({}), but {} offsets {}..{} are elsewhere as well",
                trouble.object,
                trouble.what,
                self.name(&place.key),
                trouble.first,
                trouble.next
            ));
        }
        Ok(())
    }

    /// Copies a chunk from the place's offset up to `limit`. Tells what is wrong if it can't be.
    async fn take(
        &mut self,
        candidate: &Candidate,
        limit: i64,
        place: &mut Place,
        report: &mut Report,
    ) -> Result<Option<String>, EngineError> {
        let chunk = match self.reader.chunk(candidate).await? {
            Ok(chunk) => chunk,
            Err(what) => return Ok(Some(what)),
        };
        self.progress.advance(chunk.bytes.len() as u64, chunk.bytes.len() as u64);
        let bytes = chunk.cut(place.next, limit);
        if bytes.is_empty() {
            let row = blank(place, Kind::Empty, limit);
            self.keep(place, row);
            place.next = limit;
            return Ok(None);
        }
        let mut known = Aborted::from_rows(place.aborted.iter());
        let walk = walk(bytes, place.next, i64::MAX, &mut known);
        let whole = bytes.len() == chunk.bytes.len();
        if whole && (walk.all.records, walk.all.kept) != (candidate.row.records, candidate.row.kept) {
            report.errors.push(self.doubt(
                place,
                candidate,
                "which of its records were aborted is not certain",
            ));
        }
        let told = candidate.row.min_ts;
        let mut row = walk.all.describe(Range { first: place.next, from: place.from, ..candidate.row });
        // The backup had unpacked batches to learn it.
        if row.min_ts == TIME_UNKNOWN {
            row.min_ts = told;
        }
        self.write(bytes, row).await?;
        self.copied.used.insert(candidate.object.clone());
        if let Some(taken) = &mut place.taken {
            let prints =
                chunk.batches().filter(|(_, h)| h.last_offset() >= place.next && h.base_offset < limit);
            taken.extend(prints.map(|(_, h)| (h.base_offset, (h.last_offset(), h.size, h.crc))));
        }
        place.next = walk.all.next;
        Ok(None)
    }

    async fn write(&mut self, bytes: &[u8], row: Range) -> Result<(), EngineError> {
        if self.segment.as_ref().is_some_and(|segment| segment.len() >= SEGMENT_LEN) {
            self.close().await?;
        }
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None => SegmentWriter::create(&self.target, &self.pool).await?,
        };
        segment.put(bytes).await?;
        segment.keep(row);
        self.segment = Some(segment);
        Ok(())
    }

    /// A row without a chunk.
    fn keep(&mut self, place: &Place, mut row: Range) {
        row.from = place.from;
        self.copied.ranges.push(row);
    }

    async fn close(&mut self) -> Result<(), EngineError> {
        if let Some(segment) = self.segment.take() {
            let topics: Vec<TopicRow> =
                segment.topics().iter().filter_map(|id| self.topics.get(id).cloned()).collect();
            let footer = Footer { topics: &topics, writer: &self.writer_id, base: 1 };
            let (segment, ranges): (SegmentRef, _) = segment.finish(footer).await?;
            self.copied.segments.push(segment);
            self.copied.ranges.extend(ranges);
        }
        Ok(())
    }

    pub async fn finish(mut self) -> Result<Copied, EngineError> {
        self.close().await?;
        Ok(self.copied)
    }

    /// Looks whether chunks that were not taken, or not as a whole, say the same as those that were.
    async fn compare(
        &mut self,
        chain: &Chain,
        place: &Place,
        report: &mut Report,
    ) -> Result<(), EngineError> {
        let Some(taken) = &place.taken else { return Ok(()) };
        let mut same = 0;
        for candidate in chain.candidates.iter().filter(|c| c.is_data()) {
            let Ok(chunk) = self.reader.chunk(candidate).await? else { continue };
            let theirs: BTreeMap<i64, Print> =
                chunk.batches().map(|(_, h)| (h.base_offset, (h.last_offset(), h.size, h.crc))).collect();
            let (first, next) = (candidate.row.first, candidate.row.next);
            let from = theirs.keys().next().copied().unwrap_or(first).min(first);
            let ours = taken.range(from..next);
            if ours.map(|(base, print)| (*base, *print)).eq(theirs) {
                same += 1;
                continue;
            }
            let issue = self.doubt(
                place,
                candidate,
                "other segments hold other records for the same offsets, and those were taken",
            );
            let settled = |c: &Candidate| c.rank == Rank::Log && c.row.first < next && c.row.next > first;
            match candidate.rank < Rank::Log && chain.candidates.iter().any(settled) {
                true => report.notes.push(issue.message),
                false => report.errors.push(issue),
            }
        }
        let chunks = chain.candidates.iter().filter(|c| c.is_data()).count();
        if same == chunks {
            report.notes.push(format!(
                "{}: some offsets are stored more than once, always with the same bytes; one copy was taken",
                self.name(&place.key)
            ));
        }
        Ok(())
    }

    fn name(&self, key: &PartKey) -> String {
        self.topics.get(&key.0).map_or_else(|| crate::vault::hex(&key.0), |topic| topic.name.clone())
            + &format!("-{}", key.1)
    }

    fn topic_name(&self, key: &PartKey) -> String {
        self.topics.get(&key.0).map(|topic| topic.name.clone()).unwrap_or_default()
    }

    fn lost(&self, place: &Place, end: i64, troubles: &[Trouble]) -> Issue {
        let name = self.name(&place.key);
        let hit = troubles.iter().find(|t| t.first < end && t.next > place.next);
        let why = hit.map_or("no footer and no table that is left tells of them".to_owned(), |trouble| {
            format!("{}: {}", trouble.object, trouble.what)
        });
        let message = format!("{name} offsets {}..{end} are lost: {why}", place.next);
        let issue = Issue::new("lost", Severity::Missing, message);
        let issue = issue.at(&self.topic_name(&place.key), place.key.1, Some(place.next));
        match hit {
            Some(trouble) => issue.object(trouble.object.clone()),
            None => issue,
        }
    }

    fn doubt(&self, place: &Place, candidate: &Candidate, what: &str) -> Issue {
        let Range { first, next, .. } = candidate.row;
        let by = match candidate.rank {
            Rank::Footer => "its footer alone",
            Rank::Table => "an index table",
            Rank::Log => "a commit",
        };
        let name = self.name(&place.key);
        let message =
            format!("{name} offsets {first}..{next} in {} (named by {by}): {what}", candidate.object);
        let issue = Issue::new("doubt", Severity::Missing, message).object(candidate.object.clone());
        issue.at(&self.topic_name(&place.key), place.key.1, Some(first))
    }
}

/// A row from the place's offset to `next` that has nothing in it.
fn blank(place: &Place, kind: Kind, next: i64) -> Range {
    Range::without_chunk(place.key, place.rewind, kind, place.next..next, place.from)
}

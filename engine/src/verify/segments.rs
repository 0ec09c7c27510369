//! Segments: that each is there, and holds what the log says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::store::{SharedStore, Stat, StoreError};
use bodley_protocol::checksum::{crc64, crc64_combine};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::locks::LockCount;
use crate::error::{EngineError, Severity};
use crate::progress::Progress;
use crate::report::{Issue, Report};
use crate::vault::aborted::Aborted;
use crate::vault::ahead::{Origin, Reads, Wanted};
use crate::vault::commit::SegmentRef;
use crate::vault::now_ms;
use crate::vault::reading::AHEAD;
use crate::vault::rows::{Range, Rows};
use crate::vault::segment::{MAX_FOOTER, SLACK, TRAILER_LEN, footer_len};
use crate::vault::state::{PartKey, State};
use crate::vault::table::Table;
use crate::vault::walk::{WHOLE, walk};

/// Bytes read at a time.
const SPAN: usize = 8 << 20;
/// What a buffer for them has.
const BUFFER: usize = SPAN + (2 << 20);
/// Segments that are read at a time.
const SEGMENTS: usize = 4;
/// Bytes of a segment that are read ahead of what is checked.
const READ_AHEAD: usize = 4 * SPAN;
/// Bytes of all buffers.
const BUDGET: usize = 12 * BUFFER;

/// Rows of chunks, by segment.
pub type BySegment = HashMap<[u8; 16], Vec<Range>>;

/// What segments are held against.
pub struct Checker {
    /// The vault's objects.
    pub store: SharedStore,
    /// What the log comes to.
    pub state: State,
    /// Segments are not read.
    pub quick: bool,
    /// No commit or table is unreadable: every segment's rows are known.
    pub whole: bool,
    /// Counters.
    pub progress: Arc<Progress>,
}

/// What was found out of one segment.
#[derive(Default)]
struct Found {
    issues: Vec<Issue>,
    /// As the store knows it, if it is there.
    stat: Option<Stat>,
}

/// Checks all segments, and says how many are locked.
pub async fn check(
    checker: Arc<Checker>,
    mut by_segment: BySegment,
    mut stop: watch::Receiver<bool>,
    report: &mut Report,
) -> Result<LockCount, EngineError> {
    let pool = BufferPool::new(BUFFER, BUDGET);
    let slots = Arc::new(Semaphore::new(if checker.quick { AHEAD } else { SEGMENTS }));
    let mut tasks: JoinSet<Result<Found, EngineError>> = JoinSet::new();
    let mut segments: Vec<SegmentRef> = checker.state.segments.values().cloned().collect();
    segments.sort_by(|a, b| a.id.cmp(&b.id));
    report.objects += segments.len() as u64;
    for segment in segments {
        let id = ulid::Ulid::from_string(&segment.id).map(|id| id.to_bytes()).unwrap_or_default();
        let rows = by_segment.remove(&id).unwrap_or_default();
        let (checker, pool, slots) = (Arc::clone(&checker), Arc::clone(&pool), Arc::clone(&slots));
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let found = checker.segment(&segment, rows, &pool).await;
            checker.progress.partition_done();
            found
        });
    }
    for (id, rows) in by_segment {
        let message = format!(
            "{} chunks are in segment {}, which no commit names",
            rows.len(),
            ulid::Ulid::from_bytes(id)
        );
        report.errors.push(Issue::new("vault_damaged", Severity::Missing, message));
    }
    let (mut locks, now) = (LockCount::default(), now_ms());
    loop {
        tokio::select! {
            joined = tasks.join_next() => match joined {
                Some(Ok(found)) => {
                    let Found { issues, stat } = found?;
                    report.errors.extend(issues);
                    stat.iter().for_each(|stat| locks.count(stat, now));
                }
                Some(Err(error)) => return Err(EngineError::Refused(format!("a check ended abnormally: {error}"))),
                None => break,
            },
            _ = stop.wait_for(|stop| *stop) => {
                report.interrupted = true;
                break;
            }
        }
    }
    report.bytes = checker.progress.snapshot().bytes;
    Ok(locks)
}

impl Checker {
    /// Checks one segment.
    async fn segment(
        &self,
        segment: &SegmentRef,
        mut rows: Vec<Range>,
        pool: &Arc<BufferPool>,
    ) -> Result<Found, EngineError> {
        rows.sort_by_key(|row| row.position);
        let path = segment.path();
        let stat = self.store.stat(&path).await?;
        let issues = match self.flaw(segment, stat.as_ref()) {
            Some(what) => self.hit(&path, &rows, &what),
            None if self.quick => Vec::new(),
            None if rows.is_empty() && !self.whole => self.checksum(segment, pool).await?,
            None => match self.read_segment(segment, &rows, pool).await {
                // It changed under our hands.
                Err(EngineError::Store(StoreError::NotFound { .. } | StoreError::Short { .. })) => {
                    self.hit(&path, &rows, "it is cut or missing")
                }
                result => result?,
            },
        };
        Ok(Found { issues, stat })
    }

    /// What is wrong with a segment, as far as the store can tell without reading it.
    fn flaw(&self, segment: &SegmentRef, stat: Option<&Stat>) -> Option<String> {
        let Some(stat) = stat else { return Some("it is missing".to_owned()) };
        if stat.size != segment.bytes {
            return Some(format!("it has {} bytes, its commit says {}", stat.size, segment.bytes));
        }
        // What is read is summed up anyway.
        let crc = stat.crc64.filter(|_| self.quick).map(|crc| format!("{crc:016x}"))?;
        (crc != segment.crc64)
            .then(|| format!("its CRC-64 is {crc} in the store, its commit says {}", segment.crc64))
    }

    /// Reads ranges of a segment, some ahead.
    fn read(
        &self,
        segment: &SegmentRef,
        spans: Vec<(u64, usize)>,
        pool: &Arc<BufferPool>,
    ) -> Reads<(), bodley_io::Filled> {
        let path = segment.path();
        let wanted =
            spans.into_iter().map(move |(at, len)| Wanted { path: path.clone(), at, len, room: 0, what: () });
        Reads::start(Origin::new(&self.store, pool), wanted, || READ_AHEAD, |(), bytes| bytes)
    }

    async fn read_segment(
        &self,
        segment: &SegmentRef,
        rows: &[Range],
        pool: &Arc<BufferPool>,
    ) -> Result<Vec<Issue>, EngineError> {
        let path = segment.path();
        let mut issues = Vec::new();
        let spans = spans_of(rows);
        let mut reads = self.read(segment, spans.iter().map(|span| (span.at, span.len)).collect(), pool);
        let (mut crc, mut at, mut rest) = (0, 0u64, rows);
        for span in spans {
            let Some(read) = reads.next().await else { break };
            let bytes = read.done().await?;
            let (rows, behind) = rest.split_at(span.rows);
            let mut chunk_at = 0;
            for row in rows {
                let chunk = bytes.get(chunk_at..chunk_at + row.stored as usize).unwrap_or_default();
                chunk_at += row.stored as usize;
                let (of_chunk, issue) = self.chunk(&path, row, chunk);
                crc = crc64_combine(crc, of_chunk, row.stored.into());
                issues.extend(issue);
            }
            self.progress.advance(span.len as u64, span.len as u64);
            (at, rest) = (at + span.len as u64, behind);
        }
        if !rest.is_empty() {
            issues.extend(self.hit(&path, rest, &format!("the chunks do not join at byte {at}")));
            return Ok(issues);
        }
        issues.extend(self.footer(segment, rows, (at, crc), pool).await?);
        Ok(issues)
    }

    /// The rows of the segment are in a table that can't be read: its checksum as a whole is all there is.
    async fn checksum(
        &self,
        segment: &SegmentRef,
        pool: &Arc<BufferPool>,
    ) -> Result<Vec<Issue>, EngineError> {
        let starts = (0..segment.bytes).step_by(SPAN);
        let spans = starts.map(|at| (at, (segment.bytes - at).min(SPAN as u64) as usize)).collect();
        let (mut crc, mut reads) = (0, self.read(segment, spans, pool));
        while let Some(read) = reads.next().await {
            let bytes = read.done().await?;
            let len = bytes.len() as u64;
            crc = crc64_combine(crc, crc64(&bytes), len);
            self.progress.advance(len, len);
        }
        match format!("{crc:016x}") == segment.crc64 {
            true => Ok(Vec::new()),
            false => Ok(self.hit(&segment.path(), &[], "it does not match the CRC-64 in its commit")),
        }
    }

    /// Checks a chunk against its row: checksum (also returned), batches, offsets, counts.
    fn chunk(&self, path: &str, row: &Range, chunk: &[u8]) -> (u64, Option<Issue>) {
        let key = (row.topic, row.partition);
        let mut aborted = self.aborted(&key, row.rewind);
        let walk = walk(chunk, row.first, WHOLE, &mut aborted);
        // The walk has summed up what it accepted, which is all unless something is wrong.
        let crc = if walk.all.len == chunk.len() { walk.all.crc64 } else { crc64(chunk) };
        let what = if let Some((bad, _)) = &walk.bad {
            bad.to_string()
        } else if crc != row.crc64 {
            "its CRC-64 does not match".to_owned()
        } else if walk.all.len != chunk.len() || walk.all.next != row.next {
            format!("its batches end at offset {}, its row says {}", walk.all.next, row.next)
        } else if walk.all.records != row.records || walk.all.kept != row.kept {
            format!(
                "it has {} records ({} kept), its row says {} ({})",
                walk.all.records, walk.all.kept, row.records, row.kept
            )
        } else if let Some(times) = walk.all.times.filter(|times| !times.keep_to(row.min_ts, row.max_ts)) {
            format!(
                "its records are of times {} to {}, its row says {} to {}",
                times.min, times.max, row.min_ts, row.max_ts
            )
        } else {
            return (crc, None);
        };
        (crc, self.issue(path, row, &what))
    }

    fn aborted(&self, key: &PartKey, rewind: u32) -> Aborted {
        let known =
            self.state.partitions.get(key).map(|partition| partition.aborted.as_slice()).unwrap_or_default();
        Aborted::from_rows(known.iter().filter(|row| row.rewind == rewind))
    }

    /// One issue for each chunk in `rows`.
    fn hit(&self, path: &str, rows: &[Range], what: &str) -> Vec<Issue> {
        if rows.is_empty() {
            let issue = Issue::new("vault_damaged", Severity::Missing, format!("{path} is damaged: {what}"));
            return vec![issue.object(path)];
        }
        // Whole runs of a partition, not chunk by chunk.
        let mut runs: BTreeMap<PartKey, Range> = BTreeMap::new();
        for row in rows {
            let run = runs.entry((row.topic, row.partition)).or_insert_with(|| row.clone());
            (run.first, run.next) = (run.first.min(row.first), run.next.max(row.next));
        }
        runs.values().filter_map(|row| self.issue(path, row, what)).collect()
    }

    fn issue(&self, path: &str, row: &Range, what: &str) -> Option<Issue> {
        let key = (row.topic, row.partition);
        let message = format!(
            "{path} is damaged: {what}: {} offsets {}..{}",
            self.state.part_name(&key),
            row.first,
            row.next
        );
        let topic = self.state.topics.get(&row.topic).map_or_else(String::new, |topic| topic.name.clone());
        let issue = Issue::new("vault_damaged", Severity::Missing, message).at(
            &topic,
            row.partition,
            Some(row.first),
        );
        Some(issue.object(path).hint("restore the object from a copy of the vault"))
    }

    /// Checks the footer (which serves recovery) and the checksum of the whole.
    async fn footer(
        &self,
        segment: &SegmentRef,
        rows: &[Range],
        (at, crc): (u64, u64),
        pool: &Arc<BufferPool>,
    ) -> Result<Option<Issue>, EngineError> {
        let path = segment.path();
        let len = segment.bytes.saturating_sub(at);
        let damaged = |what: &str| {
            let issue = Issue::new(
                "vault_damaged",
                Severity::Missing,
                format!("{path} is damaged: its footer {what}"),
            );
            Ok(Some(issue.object(&path)))
        };
        if len > MAX_FOOTER {
            return damaged("is longer than any footer");
        }
        let buf = pool.fit(len as usize + SLACK).await.map_err(StoreError::from)?;
        let bytes = self.store.read(&path, at, len as usize, buf).await?;
        self.progress.advance(len, len);
        let whole = crc64_combine(crc, crc64(&bytes), len);
        let Some((table, trailer)) = bytes.split_last_chunk::<TRAILER_LEN>() else {
            return damaged("is cut");
        };
        if footer_len(trailer) != Some(table.len() as u64) {
            return damaged("is not where its length says");
        }
        let read = Table::open(&path, table).and_then(|table| Rows::decode(&table));
        let footer_rows = match read {
            Ok(rows) => rows.ranges,
            Err(error) => return damaged(&format!("can't be read: {error}")),
        };
        let mut expected = rows.to_vec();
        let mut found = footer_rows;
        expected.iter_mut().chain(&mut found).for_each(|row| row.from = 0);
        found.sort_by_key(|row| row.position);
        if expected != found {
            return damaged("has other rows than the log");
        }
        if format!("{whole:016x}") != segment.crc64 {
            return damaged("or the whole does not match the CRC-64 in its commit");
        }
        Ok(None)
    }
}

/// Chunks that stand together and are read together.
struct Span {
    at: u64,
    len: usize,
    /// Chunks.
    rows: usize,
}

/// Of the rows of a segment, in order of their positions: from its begin on, as far as they join.
fn spans_of(rows: &[Range]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut end = 0u64;
    for row in rows {
        if row.position != end {
            break;
        }
        let stored = row.stored as usize;
        match spans.last_mut().filter(|span| span.len + stored <= SPAN) {
            Some(span) => (span.len, span.rows) = (span.len + stored, span.rows + 1),
            None => spans.push(Span { at: end, len: stored, rows: 1 }),
        }
        end = end.saturating_add(stored as u64);
    }
    spans
}

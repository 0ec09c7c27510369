//! Verify: proves that what the log names is there, unchanged, and covers every offset. Goes on after damage, to name all of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::store::{SharedStore, StoreError};
use bodley_protocol::checksum::{crc64, crc64_combine};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::error::{EngineError, Severity};
use crate::inventory;
use crate::progress::Progress;
use crate::report::{Issue, Report};
use crate::strays;
use crate::vault::VaultError;
use crate::vault::aborted::Aborted;
use crate::vault::audit::Audit;
use crate::vault::commit::{Receipt, SegmentRef, TableRef, commit_path, seq_of_path};
use crate::vault::log::Vault;
use crate::vault::reading::{Entry, Features, LogReader, decode_table};
use crate::vault::rows::{Kind, Range, Rows};
use crate::vault::segment::{MAX_FOOTER, SLACK, TRAILER_LEN, footer_len};
use crate::vault::state::{Inconsistency, PartKey, State};
use crate::vault::table::Table;
use crate::vault::walk::{WHOLE, walk};

/// Bytes read at a time.
const SPAN: usize = 8 << 20;
/// Segments that are read at a time.
const SEGMENTS: usize = 4;

/// A hole in the log of so many commits is gone through number by number.
const ONE_BY_ONE: u64 = 100;

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Don't read segments.
    pub quick: bool,
    /// A commit that must be there.
    pub expect: Option<Receipt>,
}

/// Verifies a vault.
pub async fn verify(
    store: SharedStore,
    options: VerifyOptions,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Report, EngineError> {
    let mut vault = Vault::open_damaged(Arc::clone(&store)).await?;
    let mut report = Report { receipt: vault.receipt_text(), ..Report::default() };
    report.notes.extend(vault.take_warnings());
    if let Some(from) = &vault.identity().rebuilt_from {
        report.notes.push(format!("this vault was rebuilt from the remains of vault {from}"));
    }
    // A first run may begin between the two looks.
    if vault.receipt().seq == 0
        && !store.list("data/", "").await?.is_empty()
        && store.size(&commit_path(1)).await?.is_none()
    {
        let message = "there is no commit, and segments are there: the log is lost";
        let issue = Issue::new("vault_damaged", Severity::Missing, message).object(commit_path(1));
        report.errors.push(issue.hint(
            "restore log/ from a copy of the vault, or make a new vault of what is left: bodley rebuild",
        ));
    }
    if let Some(expected) = &options.expect {
        expect(&vault, expected, &mut report).await?;
    }
    let Log { state, by_segment, whole, named } = read_log(&vault, &mut report).await?;
    if vault.receipt().seq > 0 {
        report.notes.extend(strays::notes(&store, &named, whole).await?);
    }
    for topic in state.topics.values() {
        report.topics.push(inventory::summarize(&state, topic));
        report.gaps.extend(inventory::gaps(&state, topic));
    }
    report.topics.sort_by(|a, b| (&a.topic, a.incarnation).cmp(&(&b.topic, b.incarnation)));
    report.records = report.topics.iter().map(|topic| topic.records).sum();
    let groups: std::collections::BTreeSet<_> = state.groups.keys().map(|(group, _)| group).collect();
    report.groups = groups.len() as u64;
    let bytes = state.segments.values().map(|segment| segment.bytes).sum();
    progress.plan(state.segments.len() as u64, bytes);
    let checker = Arc::new(Checker { store, state, quick: options.quick, whole, progress });
    check_segments(&checker, by_segment, stop, &mut report).await?;
    report.errors.sort_by(|a, b| {
        (&a.object, &a.topic, a.partition, a.offset).cmp(&(&b.object, &b.topic, b.partition, b.offset))
    });
    Ok(report)
}

async fn expect(vault: &Vault, expected: &Receipt, report: &mut Report) -> Result<(), EngineError> {
    let found = match vault.read_commit(expected.seq).await {
        Ok((_, digest)) if digest == expected.digest => return Ok(()),
        Ok((_, digest)) => format!("commit {} has the digest {digest}", expected.seq),
        Err(VaultError::Damaged { .. }) => format!("commit {} is missing or damaged", expected.seq),
        Err(error) => return Err(error.into()),
    };
    let message = format!("the commit of receipt {expected} is not in the vault: {found}");
    let issue = Issue::new("receipt_missing", Severity::Missing, message).object(commit_path(expected.seq));
    report.errors.push(issue.hint("the log was cut or replaced: look for another copy of the vault"));
    Ok(())
}

/// Damage becomes an issue; anything else ends the run.
fn damage(error: VaultError, report: &mut Report) -> Result<(), EngineError> {
    match error {
        VaultError::Damaged { object, what } => {
            let issue =
                Issue::new("vault_damaged", Severity::Missing, format!("{object} is damaged: {what}"));
            report.errors.push(issue.object(object).hint("restore the object from a copy of the vault"));
            Ok(())
        }
        error => Err(error.into()),
    }
}

type BySegment = HashMap<[u8; 16], Vec<Range>>;

/// What could be read of the log.
struct Log {
    state: State,
    by_segment: BySegment,
    /// All of it could.
    whole: bool,
    /// Paths of the segments and tables in it.
    named: HashSet<String>,
}

/// Reads all commits and tables; what is damaged is left out of the state and reported. Checkpoints are held against what comes out.
async fn read_log(vault: &Vault, report: &mut Report) -> Result<Log, EngineError> {
    let state = State::new(true);
    let mut log = Log { state, by_segment: BySegment::new(), whole: true, named: HashSet::new() };
    let mut audit = Audit::begin(vault).await?;
    report.errors.extend(audit.beyond_log().map(|(path, seq)| cut_off(path, vault.receipt().seq, *seq)));
    let mut features = Features::default();
    let mut prev = None;
    let mut reader = LogReader::new(vault, 1..=vault.receipt().seq);
    while let Some(Entry { seq, commit, tables }) = reader.next().await {
        report.objects += 1;
        let (commit, digest) = match commit {
            Ok(read) => read,
            Err(error) => {
                damage(error, report)?;
                (prev, log.whole) = (None, false);
                reader.skip_to(skip_hole(vault, seq, report).await?);
                continue;
            }
        };
        // Behind a commit that can't be read no link can be checked.
        if (seq == 1 || prev.is_some())
            && let Err(error) = vault.check_link(&commit, prev.as_ref())
        {
            damage(error, report)?;
        }
        features.note(&commit)?;
        log.state.add_commit(&commit);
        audit.add_commit(&commit);
        log.named.extend(commit.segments.iter().map(SegmentRef::path));
        log.named.extend(commit.tables.iter().map(TableRef::path));
        for (table, bytes) in commit.tables.iter().zip(tables) {
            report.objects += 1;
            match bytes.and_then(|bytes| decode_table(table, &bytes)) {
                Ok(rows) => {
                    audit.add_rows(seq, &rows);
                    log.add_rows(seq, rows);
                }
                Err(error) => {
                    damage(error, report)?;
                    log.whole = false;
                }
            }
        }
        if log.whole {
            audit.reached(seq, &digest, &log.state)?;
        }
        prev = Some(digest);
    }
    // With rows missing every partition in them would be reported again as a hole; the table says it all.
    if log.whole {
        report.errors.extend(log.state.inconsistencies.iter().map(|wrong| not_covered(&log.state, wrong)));
    }
    log.named.extend(audit.pages());
    report.notes.extend(audit.finish(vault).await?);
    Ok(log)
}

impl Log {
    fn add_rows(&mut self, seq: u64, rows: Rows) {
        for range in rows.ranges.iter().filter(|range| range.kind == Kind::Data) {
            self.by_segment.entry(range.segment).or_default().push(range.clone());
        }
        self.state.add_rows(seq, rows);
    }
}

fn not_covered(state: &State, wrong: &Inconsistency) -> Issue {
    let name = wrong.part.map(|key| state.part_name(&key)).unwrap_or_default();
    let message = format!("commit {}: {name}: {}", wrong.seq, wrong.what);
    let mut issue = Issue::new("not_covered", Severity::Missing, message);
    if let Some((topic, partition)) = wrong.part {
        let topic = state.topics.get(&topic).map_or_else(String::new, |topic| topic.name.clone());
        issue = issue.at(&topic, partition, None);
    }
    issue.object(commit_path(wrong.seq))
}

/// Where many commits behind `seq` are missing, one issue says so. Returns the last number that is dealt with.
async fn skip_hole(vault: &Vault, seq: u64, report: &mut Report) -> Result<u64, EngineError> {
    let listed = vault.store().list("log/", &commit_path(seq)).await?;
    let next = listed.iter().find_map(|object| seq_of_path(&object.path)).unwrap_or(seq);
    // A listing may be short: numbers nearby are tried one by one.
    if next <= seq.saturating_add(ONE_BY_ONE) {
        return Ok(seq);
    }
    let (first, last) = (commit_path(seq + 1), commit_path(next - 1));
    let message = format!("commits {} to {} are missing: {first} to {last}", seq + 1, next - 1);
    report.errors.push(Issue::new("vault_damaged", Severity::Missing, message).object(first));
    Ok(next - 1)
}

struct Checker {
    store: SharedStore,
    state: State,
    quick: bool,
    /// No commit or table is unreadable: every segment's rows are known.
    whole: bool,
    progress: Arc<Progress>,
}

async fn check_segments(
    checker: &Arc<Checker>,
    mut by_segment: BySegment,
    mut stop: watch::Receiver<bool>,
    report: &mut Report,
) -> Result<(), EngineError> {
    let pool = BufferPool::new(SPAN + (2 << 20), 2 * SEGMENTS * (SPAN + (2 << 20)));
    let slots = Arc::new(Semaphore::new(SEGMENTS));
    let mut tasks: JoinSet<Result<Vec<Issue>, EngineError>> = JoinSet::new();
    let mut segments: Vec<SegmentRef> = checker.state.segments.values().cloned().collect();
    segments.sort_by(|a, b| a.id.cmp(&b.id));
    report.objects += segments.len() as u64;
    for segment in segments {
        let id = ulid::Ulid::from_string(&segment.id).map(|id| id.to_bytes()).unwrap_or_default();
        let rows = by_segment.remove(&id).unwrap_or_default();
        let (checker, pool, slots) = (Arc::clone(checker), Arc::clone(&pool), Arc::clone(&slots));
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let issues = checker.segment(&segment, rows, &pool).await;
            checker.progress.partition_done();
            issues
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
    loop {
        tokio::select! {
            joined = tasks.join_next() => match joined {
                Some(Ok(issues)) => report.errors.extend(issues?),
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
    Ok(())
}

/// A checkpoint tells of commits that the log does not have.
fn cut_off(path: &str, head: u64, seq: u64) -> Issue {
    let message =
        format!("the log's end was cut off: it ends at commit {head}, and {path} was made at commit {seq}");
    Issue::new("log_cut", Severity::Missing, message)
        .object(path)
        .hint("bring the missing objects of log/ back from a copy, or see `bodley help rebuild`, before anything else is backed up into this vault")
}

impl Checker {
    /// Checks one segment; what is wrong with it.
    async fn segment(
        &self,
        segment: &SegmentRef,
        mut rows: Vec<Range>,
        pool: &Arc<BufferPool>,
    ) -> Result<Vec<Issue>, EngineError> {
        rows.sort_by_key(|row| row.position);
        let path = segment.path();
        let found = self.store.size(&path).await?;
        if found != Some(segment.bytes) {
            let what = match found {
                None => "it is missing".to_owned(),
                Some(size) => format!("it has {size} bytes, its commit says {}", segment.bytes),
            };
            return Ok(self.hit(&path, &rows, &what));
        }
        if self.quick {
            return Ok(Vec::new());
        }
        if rows.is_empty() && !self.whole {
            return self.checksum(segment, pool).await;
        }
        match self.read_segment(segment, &rows, pool).await {
            // It changed under our hands.
            Err(EngineError::Store(StoreError::NotFound { .. } | StoreError::Short { .. })) => {
                Ok(self.hit(&path, &rows, "it is cut or missing"))
            }
            result => result,
        }
    }

    async fn read_segment(
        &self,
        segment: &SegmentRef,
        rows: &[Range],
        pool: &Arc<BufferPool>,
    ) -> Result<Vec<Issue>, EngineError> {
        let path = segment.path();
        let mut issues = Vec::new();
        let (mut crc, mut at, mut rest) = (0, 0u64, rows);
        while let Some(first) = rest.first() {
            if first.position != at {
                issues.extend(self.hit(&path, rest, &format!("the chunks do not join at byte {at}")));
                return Ok(issues);
            }
            // Chunks that stand together are read together.
            let mut len = 0usize;
            let fits = |row: &&Range| {
                let joins = row.position == at + len as u64;
                let take = joins && (len == 0 || len + row.stored as usize <= SPAN);
                len += if take { row.stored as usize } else { 0 };
                take
            };
            let n = rest.iter().take_while(fits).count();
            let (span, behind) = rest.split_at(n);
            let buf = pool.get(len + SLACK).await.map_err(StoreError::from)?;
            let bytes = self.store.read(&path, at, len, buf).await?;
            let mut chunk_at = 0;
            for row in span {
                let chunk = bytes.get(chunk_at..chunk_at + row.stored as usize).unwrap_or_default();
                chunk_at += row.stored as usize;
                let (of_chunk, issue) = self.chunk(&path, row, chunk);
                crc = crc64_combine(crc, of_chunk, row.stored.into());
                issues.extend(issue);
            }
            self.progress.advance(len as u64, len as u64);
            (at, rest) = (at + len as u64, behind);
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
        let (mut crc, mut at) = (0, 0);
        while at < segment.bytes {
            let len = (segment.bytes - at).min(SPAN as u64);
            let buf = pool.get(SPAN + SLACK).await.map_err(StoreError::from)?;
            let bytes = self.store.read(&segment.path(), at, len as usize, buf).await?;
            crc = crc64_combine(crc, crc64(&bytes), len);
            self.progress.advance(len, len);
            at += len;
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
        let crc = if walk.len == chunk.len() { walk.crc64 } else { crc64(chunk) };
        let what = if let Some((bad, _)) = &walk.bad {
            bad.to_string()
        } else if crc != row.crc64 {
            "its CRC-64 does not match".to_owned()
        } else if walk.len != chunk.len() || walk.next != row.next {
            format!("its batches end at offset {}, its row says {}", walk.next, row.next)
        } else if walk.records != row.records || walk.kept != row.kept {
            format!(
                "it has {} records ({} kept), its row says {} ({})",
                walk.records, walk.kept, row.records, row.kept
            )
        } else if let Some(times) = walk.times.filter(|times| !times.keep_to(row.min_ts, row.max_ts)) {
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
        let buf = pool.get(len as usize + SLACK).await.map_err(StoreError::from)?;
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

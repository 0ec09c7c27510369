//! Verify: proves that what the log names is there, unchanged, and covers every offset. Goes on after damage, to name all of it.

mod locks;
mod segments;

use std::collections::HashSet;
use std::sync::Arc;

use bodley_io::store::SharedStore;
use tokio::sync::watch;

use crate::error::{EngineError, Severity};
use crate::inventory;
use crate::progress::Progress;
use crate::report::{Issue, Report};
use crate::strays;
use crate::vault::VaultError;
use crate::vault::audit::Audit;
use crate::vault::commit::{Receipt, SegmentRef, TableRef, commit_path, seq_of_path};
use crate::vault::log::Vault;
use crate::vault::reading::{Entry, Features, LogReader, decode_table};
use crate::vault::rows::{Kind, Rows};
use crate::vault::state::{Inconsistency, State};

pub use locks::{LockCount, Locks};
use segments::{BySegment, Checker};

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
    let store = Arc::clone(vault.store());
    let checker = Checker { store, state, quick: options.quick, whole, progress };
    let data = segments::check(Arc::new(checker), by_segment, stop.clone(), &mut report).await?;
    if data.has_any() && !report.interrupted {
        match locks::of_log(&vault, stop).await? {
            Some(log) => {
                let locks = Locks { data, log };
                report.notes.push(locks.in_words());
                report.locks = Some(locks);
            }
            None => report.interrupted = true,
        }
    }
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

/// A checkpoint tells of commits that the log does not have.
fn cut_off(path: &str, head: u64, seq: u64) -> Issue {
    let message =
        format!("the log's end was cut off: it ends at commit {head}, and {path} was made at commit {seq}");
    Issue::new("log_cut", Severity::Missing, message)
        .object(path)
        .hint("bring the missing objects of log/ back from a copy, or see `bodley help rebuild`, before anything else is backed up into this vault")
}

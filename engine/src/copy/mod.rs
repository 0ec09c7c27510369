//! Copy: a vault moves between stores, or is replicated, object by object and byte by byte. See docs/copy.md.
//!
//! ```text
//! target.rs   what is there already, and whether its log is the beginning of the source's      plan.rs  what is missing, commit by commit
//! courier.rs  carries the objects of a commit, checked on the way                              checkpoints.rs  the cache, last
//! ```
//! A commit is put when all that it names is in the target, and in the order of the log: so the target is a valid vault at every moment, and
//! whoever comes after a run that was cut goes on where it stood.

mod checkpoints;
mod courier;
mod deliver;
mod plan;
mod target;

use std::collections::HashMap;
use std::sync::Arc;

use bodley_io::store::SharedStore;
use bodley_protocol::TopicId;
use tokio::sync::watch;

use crate::error::{EngineError, Severity};
use crate::progress::Progress;
use crate::report::{Copied, Issue, Report, counted};
use crate::strays;
use crate::vault::log::Vault;
use crate::vault::rows::Kind;
use crate::vault::{Receipt, VaultError, commit::commit_path};

use courier::{Courier, Trouble};
use plan::Plan;

/// With what means a vault is copied.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Bytes of buffers.
    pub budget: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { budget: 160 << 20 }
    }
}

/// Copies what `target` lacks of the vault in `source`, up to the commit that is its newest now. `stop` ends it early: what is committed in the
/// target by then stays, and is a valid vault.
pub async fn copy(
    source: SharedStore,
    target: SharedStore,
    options: CopyOptions,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Report, EngineError> {
    let mut asked_to_stop = stop.clone();
    let mut report = Report { copied: Some(Copied::default()), ..Report::default() };
    tokio::select! {
        biased;
        // Whatever is under way is dropped, which leaves no object; an orphan at worst.
        _ = asked_to_stop.wait_for(|stop| *stop) => report.interrupted = true,
        done = run(source, Arc::clone(&target), options, progress, &mut report) => done?,
    }
    if let Some(copied) = &report.copied {
        (report.bytes, report.objects) = (copied.bytes, copied.objects);
    }
    if !report.interrupted {
        strays::tidy(&target, stop, &mut report.notes).await;
    }
    Ok(report)
}

async fn run(
    source: SharedStore,
    target: SharedStore,
    options: CopyOptions,
    progress: Arc<Progress>,
    report: &mut Report,
) -> Result<(), EngineError> {
    let from = open_source(&source, report).await?;
    let standing = match target::look(&from, &target).await? {
        Ok(standing) => standing,
        Err(trouble) => {
            report.errors.push(trouble.issue());
            return Ok(());
        }
    };
    let plan = Plan::make(&from, &target, &standing).await?;
    if let Some(receipt) = standing.receipt() {
        report.receipt = Some(receipt.to_string());
    }
    if let Some(copied) = &mut report.copied {
        copied.source_receipt = from.receipt_text();
        copied.skipped_commits = plan.skipped.commits;
        plan.skipped.add_to(copied);
    }
    progress.plan(plan.work.len() as u64, plan.bytes());
    // Where commit 1 is damaged nothing at all can be copied, and an empty target stays as it is.
    if plan.is_hopeless() {
        report.errors.extend(plan.troubles.iter().map(Trouble::issue));
        return Ok(());
    }
    standing.make_ready(&from, &target, report).await?;
    if !target.decides_races() && !plan.single_writer {
        report.notes.push(
            "this copy's store does not settle races between writers, and its log does not say so: give --single-writer to \
             every backup into it"
                .into(),
        );
    }
    carry_out(&from, target, plan, (options, progress), report).await
}

/// Opens the source also when its newest commit is damaged: what lies before that is copied.
async fn open_source(source: &SharedStore, report: &mut Report) -> Result<Vault, EngineError> {
    let mut from = Vault::open_damaged(Arc::clone(source)).await?;
    report.notes.extend(from.take_warnings());
    if from.receipt().seq > 0 {
        return Ok(from);
    }
    if !source.list("data/", "").await?.is_empty() {
        return Err(
            VaultError::damaged(&commit_path(1), "it is missing, and segments are there".into()).into()
        );
    }
    Err(EngineError::Refused(format!(
        "the vault at {} has no commit yet: there is nothing to copy",
        source.url()
    )))
}

async fn carry_out(
    from: &Vault,
    target: SharedStore,
    plan: Plan,
    (options, progress): (CopyOptions, Arc<Progress>),
    report: &mut Report,
) -> Result<(), EngineError> {
    let Plan { work, troubles: commits, digests, .. } = plan;
    let courier = Courier::new(Arc::clone(from.store()), target, options.budget, progress);
    let troubles = deliver::deliver(&courier, work, report).await?;
    let names = names(from, &troubles).await;
    for trouble in troubles.into_iter().chain(commits) {
        describe(from, &names, trouble, report).await;
    }
    let reached =
        report.receipt.as_deref().and_then(|text| text.parse::<Receipt>().ok()).map_or(0, |r| r.seq);
    let missing = from.receipt().seq.saturating_sub(reached);
    if missing > 0 {
        report.notes.push(format!(
            "the copy ends at commit {reached} and is whole up to there; {} of the source {} not in it",
            counted(missing as usize, "commit"),
            if missing == 1 { "is" } else { "are" },
        ));
    }
    checkpoints::carry(from, &courier, (&digests, reached), report).await;
    Ok(())
}

/// Damage becomes one issue, or for a segment of the source one for each partition that is hit.
async fn describe(from: &Vault, names: &Names, trouble: Trouble, report: &mut Report) {
    let hits = match trouble.source_segment() {
        Some((seq, id)) => hits(from, names, seq, id).await,
        None => Vec::new(),
    };
    if hits.is_empty() {
        report.errors.push(trouble.issue());
    }
    for Hit { topic, partition, offsets } in hits {
        let message =
            format!("{}: {topic}-{partition} offsets {}..{}", trouble.words(), offsets.start, offsets.end);
        let issue = Issue::new(trouble.code(), Severity::Missing, message);
        let issue = issue.at(&topic, partition, Some(offsets.start)).object(trouble.object.clone());
        report.errors.push(issue.hint(trouble.hint()));
    }
}

/// Offsets of a partition that are in a segment.
struct Hit {
    topic: String,
    partition: u32,
    offsets: std::ops::Range<i64>,
}

/// What commit `seq` has in the segment of this id, as far as it can be read.
async fn hits(from: &Vault, names: &Names, seq: u64, id: [u8; 16]) -> Vec<Hit> {
    let mut runs = std::collections::BTreeMap::new();
    let Ok((commit, _)) = from.read_commit(seq).await else { return Vec::new() };
    for table in &commit.tables {
        let rows = from.read_table(table).await.unwrap_or_default();
        for row in rows.ranges.iter().filter(|row| row.kind == Kind::Data && row.segment == id) {
            let run = runs.entry((row.topic, row.partition)).or_insert(row.first..row.next);
            *run = run.start.min(row.first)..run.end.max(row.next);
        }
    }
    let name = |topic: TopicId| names.get(&topic).cloned().unwrap_or_else(|| crate::vault::hex(&topic));
    runs.into_iter()
        .map(|((topic, partition), offsets)| Hit { topic: name(topic), partition, offsets })
        .collect()
}

/// Names of topics.
type Names = HashMap<TopicId, String>;

/// Names of the topics that damaged segments may hold. They are in the log up to the last of these, or where that can't be read whole, up to the first;
/// none where that can't be either.
async fn names(from: &Vault, troubles: &[Trouble]) -> Names {
    let seqs = || troubles.iter().filter_map(Trouble::source_segment).map(|(seq, _)| seq);
    for seq in [seqs().max(), seqs().min()].into_iter().flatten() {
        let state = async {
            let mut vault = Vault::open_damaged(Arc::clone(from.store())).await?;
            vault.rewind(seq).await?;
            vault.fold(false).await
        };
        if let Ok(state) = state.await {
            return state.topics.into_iter().map(|(id, topic)| (id, topic.name)).collect();
        }
    }
    Names::new()
}

//! Backup: metadata, groups, one round of ListOffsets that fixes the end of the run, then Fetch until every partition is there.
//!
//! ```text
//! plan.rs    which topics                  ends.rs     where each partition starts and ends   rewind.rs  where a truncated log parts from ours
//! groups.rs  committed offsets of groups   access.rs   what may not be read                   transactions.rs  what is open, and what hangs
//! run.rs     hands tasks to workers        commit.rs   gathers what they made durable         troubles.rs  who can't be read, and what then
//! follow.rs  a run that goes on            survey.rs   looks at the cluster beside a run
//! worker.rs  one connection: fetch, roll   session.rs  what a Fetch says                      settle.rs  what an answer says
//! intake.rs  records into the segment      task.rs     one partition                          hunt.rs  a batch that stays bad
//! ```

mod access;
mod commit;
mod ends;
mod follow;
mod groups;
mod hunt;
mod intake;
mod plan;
mod rewind;
mod run;
mod session;
mod settle;
mod survey;
mod task;
mod transactions;
mod troubles;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bodley_io::BufferPool;
use bodley_io::kafka::Cluster;
use bodley_io::store::SharedStore;
use bodley_io::throttle::Throttle;
use bodley_protocol::RetryClass;
use tokio::sync::watch;

use crate::error::{EngineError, Severity};
use crate::progress::Progress;
use crate::report::{Issue, Report, TopicReport, counted, known_time};
use crate::select::Selection;
use crate::strays;
use crate::vault::commit::Receipt;
use crate::vault::log::Vault;
use crate::vault::rows::Rows;
use crate::vault::state::State;
use crate::vault::{VaultError, hex};

pub use follow::Follow;

/// A run that ends begins again so often when topics are replaced under it.
const MOST_REPLACED: u32 = 5;
/// And not before so long.
const BEFORE_ANOTHER: Duration = Duration::from_secs(1);

/// What a backup is to do and with what means.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Which topics.
    pub selection: Selection,
    /// Bytes of buffers.
    pub budget: usize,
    /// Connections that fetch from each broker.
    pub connections: usize,
    /// Data is committed at least so often.
    pub commit_interval: Duration,
    /// Bound on bytes read from the source.
    pub limit_read: Option<Arc<Throttle>>,
    /// Unpack compressed batches to learn the least time of their records.
    pub exact_times: bool,
    /// The user says that no other run writes to the vault at the same time.
    pub single_writer: bool,
    /// The run goes on until it is stopped.
    pub follow: Option<Follow>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            budget: 160 << 20,
            connections: 4,
            commit_interval: Duration::from_secs(60),
            limit_read: None,
            exact_times: false,
            single_writer: false,
            follow: None,
        }
    }
}

/// Backs up everything selected, from the vault's cursors to the last stable offsets as they are now, and in a run that goes on to what comes. `stop`
/// ends it early: what is durable is committed.
pub async fn backup(
    cluster: Arc<Cluster>,
    store: SharedStore,
    options: BackupOptions,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Report, EngineError> {
    let pool = BufferPool::new(store.part_len(), options.budget);
    let means =
        || run::Means { pool: Arc::clone(&pool), progress: Arc::clone(&progress), stop: stop.clone() };
    let mut report = Report { records: Some(0), ..Report::default() };
    let mut replaced = 0;
    let finished = loop {
        match attempt(&cluster, &store, &options, means(), &mut report).await {
            // What was read since the last commit is left behind, and read again.
            Err(error @ EngineError::Replaced { .. })
                if options.follow.is_some() || replaced < MOST_REPLACED =>
            {
                replaced += 1;
                report.take_back();
                note_replaced(&error, &mut report);
            }
            // What cannot be planned anew now can be later.
            Err(EngineError::Kafka(error))
                if options.follow.is_some() && replaced > 0 && error.retry_class() != RetryClass::Never =>
            {
                tracing::warn!("the run can't go on, which is tried again: {error}");
                report.take_back();
            }
            // It is told beside what is committed: what a run has found to be lost no other run finds again.
            Err(error) if report.is_standing() => {
                report.take_back();
                report.ends_early();
                if options.follow.is_none() {
                    // They go along with the last commit alone.
                    report.groups = 0;
                }
                report.errors.push(Issue::from(&error));
                break None;
            }
            attempted => break attempted?,
        }
        cluster.health().forget_waiting();
        let mut asked_to_stop = stop.clone();
        let _ = tokio::time::timeout(BEFORE_ANOTHER, asked_to_stop.wait_for(|stop| *stop)).await;
    };
    // A signal is how a run that goes on ends.
    report.interrupted &= options.follow.is_none();
    report.topics.sort_by(|a, b| (&a.topic, a.incarnation).cmp(&(&b.topic, b.incarnation)));
    if finished.is_some() && options.follow.is_none() && !report.interrupted {
        strays::tidy(&store, stop, &mut report.notes).await;
    }
    if let Some(finished) = finished {
        report.receipt = Some(finished.to_string());
    }
    report.gaps.sort_by(|a, b| (&a.topic, a.partition, a.first).cmp(&(&b.topic, b.partition, b.first)));
    if !report.gaps.is_empty() {
        report.errors.push(gap_issue(&report));
    }
    Ok(report)
}

/// Backs up from the vault's last commit on, until all is read or the run is told to end. `None`: there was no time to begin.
async fn attempt(
    cluster: &Arc<Cluster>,
    store: &SharedStore,
    options: &BackupOptions,
    means: run::Means,
    report: &mut Report,
) -> Result<Option<Receipt>, EngineError> {
    let mut asked_to_stop = means.stop.clone();
    let prepared = tokio::select! {
        prepared = prepare(cluster, Arc::clone(store), options) => prepared?,
        // Nothing has been read: there is nothing to keep.
        _ = asked_to_stop.wait_for(|stop| *stop) => {
            report.interrupted = true;
            return Ok(None);
        }
    };
    let Prepared { vault, state, mut plan, snapshot, open, watches } = prepared;
    plan.groups_are_late = snapshot.is_none();
    let snapshot = snapshot.unwrap_or_default();
    report.groups = snapshot.groups;
    report.notes.append(&mut plan.notes);
    report.gaps.append(&mut plan.gaps);
    plan.issues.extend(snapshot.issues);
    plan.issues.extend(open.issues);
    // In a run that goes on, what can't be read now may be read later.
    let lasts = |issue: &mut Issue| options.follow.is_none() || issue.severity == Severity::Missing;
    report.errors.extend(plan.issues.extract_if(.., lasts));
    report.notes.extend(open.notes);
    report.transactions = open.transactions;
    add_topics(report, &plan);
    let rows = std::mem::take(&mut plan.rows);
    if options.follow.is_some() {
        cluster.health().never_gives_up();
    }
    let run = run::Run::new((Arc::clone(cluster), watches), (vault, state), plan, options.clone(), means);
    run.finish(rows, snapshot.rows, report).await.map(Some)
}

/// Says that a topic was replaced, once for each: the run goes on.
fn note_replaced(error: &EngineError, report: &mut Report) {
    let hint =
        "what was committed before is in the vault; what is there now is backed up as a new incarnation";
    let issue = Issue { severity: Severity::Missing, ..Issue::from(error) }.hint(hint);
    tracing::warn!("{}: the run goes on from its last commit", issue.message);
    if !report.errors.iter().any(|known| (&known.code, &known.topic) == (&issue.code, &issue.topic)) {
        report.errors.push(issue);
    }
    report.stands();
}

/// Adds a plan's topics to the report, and what became of those that it has.
fn add_topics(report: &mut Report, plan: &plan::Plan) {
    for topic in plan.topics.values() {
        let told = topic_report(topic);
        match report.topics.iter_mut().find(|known| known.topic_id == told.topic_id) {
            Some(known) => (known.partitions, known.present) = (told.partitions, true),
            None => report.topics.push(told),
        }
    }
    for gone in plan.rows.topics.iter().filter(|row| !row.present) {
        let id = hex(&gone.topic);
        let known = report.topics.iter_mut().filter(|known| known.topic_id == id);
        known.for_each(|known| known.present = false);
    }
}

struct Prepared {
    vault: Vault,
    state: State,
    plan: plan::Plan,
    /// `None`: that takes long.
    snapshot: Option<groups::Snapshot>,
    open: transactions::Found,
    watches: troubles::Watches,
}

/// Everything that comes before the first Fetch.
async fn prepare(
    cluster: &Arc<Cluster>,
    store: SharedStore,
    options: &BackupOptions,
) -> Result<Prepared, EngineError> {
    let layout = cluster.layout();
    access::check_names(cluster, &layout, &options.selection).await?;
    let mut chosen = plan::choose(&layout, &options.selection, options.follow.is_some())?;
    let cluster_id = layout.cluster_id.clone().unwrap_or_default();
    let mut vault = open_or_create(store, &cluster_id).await?;
    if options.single_writer {
        vault.write_alone();
    }
    let state = vault.fold(false).await?;
    vault.check_writing()?;
    let warnings = vault.take_warnings();
    let mut rights = plan::Plan::default();
    access::check(cluster, &state, &options.selection, &mut chosen, &mut rights).await?;
    let mut reborn = BTreeMap::new();
    let (mut plan, snapshot) = loop {
        let mut plan = rights.rights();
        let basis = plan::Basis { state: &state, vault_id: &vault.identity().vault_id, reborn: &reborn };
        plan.catalog(&basis, &options.selection, &chosen);
        plan.settings(cluster, &state, &rights.closed).await?;
        // Before the ends are fixed: a position taken now lies within what will be read.
        let snapshot = first_groups(cluster, &state, &plan, options).await?;
        let goes_on = options.follow.is_some();
        let patience = if goes_on { survey::PATIENCE } else { cluster.options().give_up_after };
        let sight = ends::Sight { cluster, store: vault.store(), state: &state, goes_on, patience };
        let parts = plan.parts();
        plan.ends(&sight, parts).await?;
        // Topics that turn out to be others than before are planned as such.
        if plan.reborn.keys().all(|name| reborn.contains_key(name)) {
            break (plan, snapshot);
        }
        reborn.append(&mut plan.reborn);
    };
    plan.notes.splice(..0, warnings);
    let open = transactions::look(cluster, &plan.suspects).await;
    let watches = troubles::watches(cluster).await?;
    Ok(Prepared { vault, state, plan, snapshot, open, watches })
}

/// The groups before a run. One that goes on does not wait for coordinators: it asks again from time to time.
async fn first_groups(
    cluster: &Arc<Cluster>,
    state: &State,
    plan: &plan::Plan,
    options: &BackupOptions,
) -> Result<Option<groups::Snapshot>, EngineError> {
    let asked = groups::snapshot(cluster, state, &plan.topics);
    if options.follow.is_none() {
        return asked.await.map(Some);
    }
    match tokio::time::timeout(survey::PATIENCE, asked).await {
        Ok(snapshot) => snapshot.map(Some),
        Err(_) => {
            tracing::info!("consumer groups take long to be read: that is done beside the run");
            Ok(None)
        }
    }
}

async fn open_or_create(store: SharedStore, cluster_id: &str) -> Result<Vault, EngineError> {
    let vault = match Vault::open_for_writing(Arc::clone(&store)).await {
        Err(VaultError::Absent { .. }) => Vault::create(store, cluster_id).await?,
        other => other?,
    };
    let theirs = &vault.identity().cluster_id;
    if theirs != cluster_id {
        return Err(EngineError::Refused(format!(
            "this vault holds cluster {theirs}, the brokers say that they are cluster {cluster_id}: use a new vault for another cluster"
        )));
    }
    Ok(vault)
}

fn topic_report(topic: &crate::vault::rows::TopicRow) -> TopicReport {
    TopicReport {
        topic: topic.name.clone(),
        topic_id: hex(&topic.topic),
        partitions: topic.partitions,
        records: Some(0),
        present: true,
        incarnation: topic.incarnation,
        ..TopicReport::default()
    }
}

fn gap_issue(report: &Report) -> Issue {
    let lost: i64 = report.gaps.iter().map(|gap| gap.next - gap.first).sum();
    let message = format!(
        "{lost} offsets in {} are lost: they were gone or damaged at the source",
        counted(report.gaps.len(), "gap")
    );
    Issue::new("gap", Severity::Missing, message)
        .hint("the gaps are recorded in the vault; back up more often than the topics' retention")
}

/// Makes a checkpoint of the vault if one is due: what is backed up is in already, so whatever goes wrong here is a note.
async fn checkpoint(vault: &mut Vault, mut stop: watch::Receiver<bool>, report: &mut Report) {
    let made = tokio::select! {
        made = vault.checkpoint() => made,
        _ = stop.wait_for(|stop| *stop) => Ok(None),
    };
    report.notes.extend(vault.take_warnings());
    if let Err(error) = made {
        report.notes.push(format!("no checkpoint could be made, so this vault opens more slowly: {error}"));
    }
}

/// Adds rows to a report's topics.
fn count(report: &mut Report, rows: &Rows) {
    let places = report.topics.iter().enumerate().map(|(at, topic)| (topic.topic_id.clone(), at));
    let places: HashMap<String, usize> = places.collect();
    for range in &rows.ranges {
        report.bytes += u64::from(range.stored);
        let place = places.get(&hex(&range.topic)).copied();
        let Some(topic) = place.and_then(|at| report.topics.get_mut(at)) else { continue };
        topic.bytes += u64::from(range.stored);
        topic.records = topic.records.filter(|_| range.kept >= 0).map(|records| records + range.kept as u64);
        let (min, max) = (range.oldest(), known_time(range.max_ts));
        topic.min_timestamp = [topic.min_timestamp, min].into_iter().flatten().min();
        topic.max_timestamp = topic.max_timestamp.max(max);
    }
    report.records = report.topics.iter().map(|topic| topic.records).sum();
}

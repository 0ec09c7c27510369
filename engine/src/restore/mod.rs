//! Restore: plan, create topics, temporary settings, stream batches, real settings, groups, count.
//!
//! ```text
//! options.rs   what is asked                                          names.rs     which topics, which partitions, under which names
//! window.rs    which records                                          work.rs      of which chunks of a partition
//! plan.rs      what the vault has, what would be created              target.rs    what the target has, what conflicts
//! prepare.rs   all that comes before the first write                  preview.rs   the plan in words and numbers
//! identity.rs  which restore this is                                  ledger.rs    its state, which outlives a run
//! fence.rs     keeps late requests out, counts what is stored         stand.rs     which record lies at which offset
//! trail.rs     what lies at the end of a log, without reading it
//! map.rs       which source offset became which target offset
//! run.rs       hands partitions to senders, settles what is unclear   settings.rs  temporary and real settings
//! ahead.rs     reads chunks before they are asked for                 outgo.rs     chunks: leave out, count
//! tray.rs      batches: patch, merge, rewrite
//! sender.rs    one connection, requests in flight                     job.rs       one partition on its way
//! topics.rs    creates them, waits for them                           groups.rs    positions of consumer groups
//! scan.rs      reads chunks without sending them: damage, and what a complete restore ends with
//! ```

mod ahead;
mod fence;
mod groups;
mod identity;
mod job;
mod ledger;
mod map;
mod names;
mod options;
mod outgo;
mod plan;
mod prepare;
mod preview;
mod run;
mod scan;
mod sender;
mod settings;
mod stand;
mod target;
#[cfg(test)]
mod tests;
mod topics;
mod trail;
mod tray;
mod window;
mod work;

use std::collections::HashMap;
use std::sync::Arc;

use bodley_io::kafka::{Cluster, TopicPartition};
use bodley_io::store::SharedStore;
use tokio::sync::watch;

use crate::error::{EngineError, Severity};
use crate::progress::Progress;
use crate::report::{Issue, Report};
use job::Job;
use ledger::{Ledger, TopicState};
use plan::{Plan, Status};
use prepare::{Begun, Prepared, Ready, prepare};
use run::Author;
use settings::Settings;
use stand::Stand;

pub use identity::PREFIX as GROUP_PREFIX;
pub use map::{MapRun, OffsetMap};
pub(crate) use names::Renames;
pub use options::{Choice, GroupStrategy, RestoreOptions};
pub use preview::{PlanReport, PlannedGroup, PlannedTopic, PlannedWindow};
pub use window::WindowFlags;

/// A restore before its first write.
pub struct Planned {
    cluster: Arc<Cluster>,
    options: RestoreOptions,
    plan: Plan,
    report: Report,
    work: Option<Ready>,
}

/// Looks at vault and target and says what a restore will do, or everything that speaks against it. Writes nothing.
pub async fn plan(
    cluster: Arc<Cluster>,
    store: SharedStore,
    options: RestoreOptions,
    mut stop: watch::Receiver<bool>,
) -> Result<Planned, EngineError> {
    let Prepared { plan, report, work } = tokio::select! {
        prepared = prepare(&cluster, &store, &options) => prepared?,
        // Nothing has been written: there is nothing to tell.
        _ = stop.wait_for(|stop| *stop) => {
            let report = Report { interrupted: true, ..Report::default() };
            Prepared { plan: Plan::default(), report, work: None }
        }
    };
    Ok(Planned { cluster, options, plan, report, work })
}

/// Restores the selected topics into a cluster where they are missing or empty, or goes on where an earlier run of the same restore was cut.
pub async fn restore(
    cluster: Arc<Cluster>,
    store: SharedStore,
    options: RestoreOptions,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Report, EngineError> {
    plan(cluster, store, options, stop.clone()).await?.carry_out(progress, stop).await
}

impl Planned {
    /// What is known so far: the plan, and what is worth knowing about it.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Nothing is to be done: it was a dry run, an earlier run has done all, or a signal came.
    pub fn is_over(&self) -> bool {
        self.work.is_none()
    }

    /// Does what is planned. Of a dry run that is nothing.
    pub async fn carry_out(
        self,
        progress: Arc<Progress>,
        stop: watch::Receiver<bool>,
    ) -> Result<Report, EngineError> {
        let Self { cluster, options, mut plan, mut report, work } = self;
        let Some(ready) = work else { return Ok(report) };
        let mut asked_to_stop = stop.clone();
        let begun = tokio::select! {
            begun = ready.begin(&cluster, &plan, &mut report) => Some(begun?),
            _ = asked_to_stop.wait_for(|stop| *stop) => None,
        };
        let Some(begun) = begun else {
            report.interrupted = true;
            return Ok(report);
        };
        let means = Means { options, progress, stop };
        write(&cluster, &mut plan, (begun, means), report).await
    }
}

/// What a run is given.
struct Means {
    options: RestoreOptions,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
}

/// Everything from the first write on.
async fn write(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    (begun, means): (Begun, Means),
    mut report: Report,
) -> Result<Report, EngineError> {
    let Begun { restore, place, entries, producer, source } = begun;
    let Means { options, progress, stop } = means;
    let mut asked_to_stop = stop.clone();
    let states = tokio::select! {
        states = make_topics(cluster, plan, &options) => states,
        _ = asked_to_stop.wait_for(|stop| *stop) => {
            report.interrupted = true;
            report.notes.push(left_over(plan, None).in_a_line());
            return Ok(report);
        }
    };
    report.notes.append(&mut plan.notes);
    let states = match states {
        Ok(states) => states,
        // Before anything was made it is a plain refusal.
        Err(error @ (EngineError::Refused(_) | EngineError::Denied(_))) => return Err(error),
        Err(error) => {
            report.errors.push(Issue::from(&error));
            report.errors.push(left_over(plan, Some(&error)));
            return Ok(report);
        }
    };
    let ledger = Ledger::new(place, restore, states, entries);
    let mut author = Author { producer, ledger };
    let means = run::Means { source, options, progress, stop };
    let result = carry_out(cluster, plan, &means, &mut author, &mut report).await;
    report.notes.append(&mut plan.notes);
    if let Err(error) = &result {
        report.errors.push(Issue::from(error));
        report.errors.push(left_over(plan, Some(error)));
    } else if report.interrupted {
        report.notes.push(left_over(plan, None).in_a_line());
    }
    Ok(report)
}

/// Creates what is missing and settles what its settings will be.
async fn make_topics(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    options: &RestoreOptions,
) -> Result<HashMap<Arc<str>, TopicState>, EngineError> {
    topics::create(cluster, plan, options).await?;
    let states = topic_states(cluster, plan);
    if let Some(hold) = options.hold_retention {
        topics::hold(cluster, plan, hold).await?;
    }
    let typed = !options.topic_config.is_empty() || options.replication_factor.is_some();
    let found = plan.topics.iter().filter(|topic| matches!(topic.status, Status::Found | Status::InUse));
    let found: Vec<&str> = found.map(|topic| &*topic.target).collect();
    if typed && !found.is_empty() {
        plan.notes.push(format!(
            "these topics are there already, so --topic-config and --replication-factor leave them as they are: {}",
            found.join(", ")
        ));
    }
    if options.hold_retention.is_some() && plan.topics.iter().any(|topic| topic.status == Status::InUse) {
        plan.notes.push("--hold-retention does not change topics that are in use".into());
    }
    Ok(states)
}

/// What the state says of each topic.
fn topic_states(cluster: &Cluster, plan: &Plan) -> HashMap<Arc<str>, TopicState> {
    let layout = cluster.layout();
    let state = |topic: &plan::TopicPlan| {
        let state = TopicState {
            id: layout.topic_id(&topic.target),
            created: matches!(topic.status, Status::Missing | Status::Created),
            in_use: topic.status == Status::InUse,
            old: if topic.status == Status::Found { topic.settings.replaced() } else { Default::default() },
        };
        (Arc::clone(&topic.target), state)
    };
    plan.topics.iter().map(state).collect()
}

/// Everything from the first write of the state to the last.
async fn carry_out(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    means: &run::Means,
    author: &mut Author,
    report: &mut Report,
) -> Result<(), EngineError> {
    // What would be refused at the end is better known now.
    topics::check(cluster.alter_configs(&plan.changes(Settings::end), true).await)?;
    let mut stop = means.stop.clone();
    let stands = tokio::select! {
        ready = make_ready(cluster, plan, author, means.options.merge) => ready?,
        _ = stop.wait_for(|stop| *stop) => {
            report.interrupted = true;
            return Ok(());
        }
    };
    let mut done = stream(cluster, plan, stands, means, author).await?;
    sum_up(plan, (&mut done, author.ledger.coarse), means, report);
    if done.interrupted {
        report.interrupted = true;
        return Ok(());
    }
    let refused = cluster.alter_configs(&plan.changes(Settings::end), false).await;
    if refused.is_empty() {
        topics::settle_back(cluster, plan).await;
    }
    report.errors.extend(refused.into_iter().map(|error| {
        let message =
            format!("all records are restored, but a topic keeps temporary settings (no retention): {error}");
        Issue::new("settings_refused", Severity::Failed, message)
            .hint("run the restore again, or set the topic's real settings by hand; `bodley show TOPIC` lists those of the source")
    }));
    let wanted: Vec<_> = plan.topics.iter().flat_map(|topic| topic.positions.iter().cloned()).collect();
    let in_use = plan.topics.iter().filter(|topic| topic.status == Status::InUse);
    let in_use = in_use.map(|topic| Arc::clone(&topic.target)).collect();
    let wanted = groups::Wanted { strategy: means.options.groups, positions: wanted, in_use };
    groups::commit(cluster, wanted, &done.positions, report).await;
    if author.ledger.coarse {
        report
            .notes
            .push("this restore was cut very often: group positions may lie some records too early".into());
    }
    let failed = report.errors.iter().any(|issue| issue.severity == Severity::Failed);
    if !failed {
        let groups = (means.options.groups != GroupStrategy::None).then(|| groups::how(&means.options));
        if let Err(error) = author.ledger.finish(report.exit_code(), groups).await {
            let message = format!(
                "everything is restored, but this could not be noted in the restore's state: {error}"
            );
            report.errors.push(Issue::new("restore_state", Severity::Failed, message).hint(
                "run the same command again before consumers start: it finds all records there, and sets groups once more",
            ));
        }
    }
    Ok(())
}

/// All up to the first batch: where each partition stands.
async fn make_ready(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    author: &mut Author,
    merge: bool,
) -> Result<HashMap<TopicPartition, Stand>, EngineError> {
    let stands = begin(cluster, plan, author).await?;
    topics::settle(cluster, plan).await?;
    if merge {
        topics::allow_merging(cluster, plan).await?;
    }
    Ok(stands)
}

/// Writes the state, makes the settings temporary, and finds where each partition stands.
async fn begin(
    cluster: &Arc<Cluster>,
    plan: &Plan,
    author: &mut Author,
) -> Result<HashMap<TopicPartition, Stand>, EngineError> {
    let Author { producer, ledger } = author;
    let mut fresh = Vec::new();
    let mut unsettled = Vec::new();
    // Who may have sent something to partitions of which there is no state.
    let suspect = producer.others.last().copied().or(producer.earlier);
    for partition in plan.open_topics().flat_map(|topic| &topic.partitions) {
        match &partition.stand {
            Some(stand) => unsettled.push((partition.tp.clone(), stand.clone())),
            None => {
                let writer = suspect.unwrap_or(producer.writer);
                fresh.push((partition.tp.clone(), Stand::fresh(partition.base, writer)));
            }
        }
    }
    ledger.save(&fresh).await?;
    topics::check(cluster.alter_configs(&plan.changes(Settings::begin), false).await)?;
    if suspect.is_some() {
        unsettled.append(&mut fresh);
    }
    let settled = producer.settle(unsettled).await?;
    ledger.check_left_out(plan, &settled)?;
    ledger.save(&settled).await?;
    Ok(fresh.into_iter().chain(settled).collect())
}

/// Streams everything and checks the ends.
async fn stream(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    mut stands: HashMap<TopicPartition, Stand>,
    means: &run::Means,
    author: &mut Author,
) -> Result<run::Done, EngineError> {
    let layout = cluster.layout();
    let mut jobs = Vec::new();
    for partition in plan.topics.iter_mut().flat_map(|topic| std::mem::take(&mut topic.partitions)) {
        let Some(stand) = stands.remove(&partition.tp) else { continue };
        let id = layout.topic_id(&partition.tp.topic);
        jobs.push(Job::new(partition.tp, Arc::new(partition.work), stand, id));
    }
    run::run(cluster, jobs, means, author).await
}

/// Topic by topic what is at the target now.
fn sum_up(plan: &mut Plan, (done, coarse): (&mut run::Done, bool), means: &run::Means, report: &mut Report) {
    let mut by_topic: HashMap<&str, u64> = HashMap::new();
    for (tp, records) in &done.records {
        *by_topic.entry(&tp.topic).or_default() += *records as u64;
    }
    for topic in &mut plan.topics {
        if topic.status != Status::Done {
            topic.summary.records = Some(by_topic.get(&*topic.target).copied().unwrap_or(0));
        }
        report.topics.push(topic.summary.clone());
    }
    let by_target: HashMap<&str, &plan::TopicPlan> =
        plan.topics.iter().map(|topic| (&*topic.target, topic)).collect();
    for (tp, found) in std::mem::take(&mut done.maps) {
        let topic = by_target.get(&*tp.topic);
        let map = topic.map(|topic| OffsetMap { coarse, ..topic.offset_map(tp.partition, found) });
        report.offset_map.extend(map);
    }
    report.records = report.topics.iter().map(|topic| topic.records).sum();
    report.bytes = means.progress.snapshot().bytes;
    report.merged = (done.merged.into > 0).then_some(done.merged);
    report.records_in_old_formats = u64::try_from(done.old_records).ok().filter(|records| *records > 0);
    let earlier = done.records.values().sum::<i64>() - done.sent;
    if earlier > 0 {
        report.notes.push(format!(
            "{earlier} of these records were there already, from an earlier run of this restore"
        ));
    }
}

fn left_over(plan: &Plan, error: Option<&EngineError>) -> Issue {
    let open = plan.topics.iter().filter(|topic| !matches!(topic.status, Status::Done | Status::InUse));
    let names: Vec<&str> = open.map(|topic| &*topic.target).collect();
    let shown = names.iter().take(10).copied().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 10 { format!(" and {} more", names.len() - 10) } else { String::new() };
    let message = match names.is_empty() {
        true => "the restore is incomplete".to_owned(),
        false => format!(
            "the restore is incomplete, and these topics may still have temporary settings (no retention): {shown}{more}"
        ),
    };
    let hint = match error {
        Some(EngineError::Damaged { .. }) => {
            "run the same command again with --skip-damaged: it restores all but what is damaged"
        }
        Some(EngineError::Diverged(_)) => {
            "if somebody else wrote to a topic that was made for the restore, delete that topic; then run the same command again: it restores that one anew and goes on with the others"
        }
        Some(EngineError::Fenced(_)) => "let the other run go on, or end it and run the same command again",
        Some(EngineError::Produce(_)) => {
            "change what the target refuses (a setting of the topic, a limit), then run the same command again: it goes on from here"
        }
        _ => "run the same command again: it goes on from here, without duplicates",
    };
    Issue::new("incomplete", Severity::Failed, message).hint(hint)
}

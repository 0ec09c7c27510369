//! Restore: plan, create topics, temporary settings, stream batches, real settings, groups, count.
//!
//! ```text
//! plan.rs      what there is, what would be created, what conflicts   settings.rs  temporary and real settings
//! run.rs       hands partitions to senders, settles what is unclear   groups.rs    positions of consumer groups
//! outgo.rs     chunks to batches: check, leave out, patch, rewrite    sender.rs    one connection, requests in flight
//! ```

mod groups;
mod outgo;
mod plan;
mod run;
mod sender;
mod settings;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::BufferPool;
use bodley_io::kafka::produce::ProducerIdentity;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_io::store::SharedStore;
use bodley_io::throttle::Throttle;
use tokio::sync::watch;

use crate::error::EngineError;
use crate::progress::Progress;
use crate::report::{Issue, Report};
use crate::select::Selection;
use crate::vault::log::Vault;
use crate::vault::segment::PART_LEN;
use plan::{Plan, TopicPlan};
use settings::Settings;

/// What happens to the positions of consumer groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupStrategy {
    /// Each becomes that of the record which it would have read next.
    #[default]
    Map,
    /// They are left alone.
    None,
}

/// What a restore is to do and with what means.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Which of the vault's topics.
    pub selection: Selection,
    /// `FROM=TO`.
    pub rename: Vec<String>,
    /// Replicas of created topics; the source's by default.
    pub replication_factor: Option<i16>,
    /// `[TOPIC:]KEY=VALUE`.
    pub topic_config: Vec<String>,
    /// Positions of consumer groups.
    pub groups: GroupStrategy,
    /// Bytes of buffers.
    pub budget: usize,
    /// Connections to each broker.
    pub connections: usize,
    /// Bound on bytes written to the target.
    pub limit_write: Option<Arc<Throttle>>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            rename: Vec::new(),
            replication_factor: None,
            topic_config: Vec::new(),
            groups: GroupStrategy::Map,
            budget: 160 << 20,
            connections: 4,
            limit_write: None,
        }
    }
}

/// How long the target may take to show created topics with leaders, or changed settings.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// Restores the selected topics into a cluster where they are missing or empty.
pub async fn restore(
    cluster: Arc<Cluster>,
    store: SharedStore,
    options: RestoreOptions,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Report, EngineError> {
    let mut asked_to_stop = stop.clone();
    let prepared = tokio::select! {
        prepared = prepare(&cluster, &store, &options) => prepared?,
        // Nothing has been written: there is nothing to tell.
        _ = asked_to_stop.wait_for(|stop| *stop) => return Ok(Report { interrupted: true, ..Report::default() }),
    };
    let Prepared { mut plan, mut report, producer } = prepared;
    create(&cluster, &mut plan, &options).await?;
    report.notes = std::mem::take(&mut plan.notes);
    // What would be refused at the end is better known now.
    check(cluster.alter_configs(&plan.changes(Settings::end), true).await)?;
    check(cluster.alter_configs(&plan.changes(Settings::begin), false).await)?;
    let means = run::Means { store, producer, options, progress, stop };
    let result = write(&cluster, &mut plan, means, &mut report).await;
    let unfinished = report.interrupted || result.is_err();
    if let Err(error) = result {
        report.errors.push(Issue::from(&error));
    }
    if unfinished {
        report.errors.extend((!report.interrupted).then(|| left_over(&plan)));
        report.notes.extend(report.interrupted.then(|| left_over(&plan).in_a_line()));
        return Ok(report);
    }
    let refused = cluster.alter_configs(&plan.changes(Settings::end), false).await;
    report.errors.extend(refused.into_iter().map(|error| {
        let message =
            format!("all records are restored, but a topic keeps temporary settings (no retention): {error}");
        Issue::new("settings_refused", crate::error::Severity::Failed, message)
            .hint("set the topic's real settings by hand; `bodley show TOPIC` lists those of the source")
    }));
    Ok(report)
}

struct Prepared {
    plan: Plan,
    report: Report,
    producer: ProducerIdentity,
}

/// Everything that comes before the first write.
async fn prepare(
    cluster: &Arc<Cluster>,
    store: &SharedStore,
    options: &RestoreOptions,
) -> Result<Prepared, EngineError> {
    let mut vault = Vault::open(Arc::clone(store)).await?;
    let state = vault.fold(true).await?;
    let mut plan = plan::plan(cluster, &state, options).await?;
    plan::check_segments(store, &state, &plan).await?;
    let mut report = Report { receipt: Some(vault.receipt().to_string()), ..Report::default() };
    report.gaps = std::mem::take(&mut plan.gaps);
    report.errors = std::mem::take(&mut plan.issues);
    // Before anything is made: a cluster that can't give one yet is waited for.
    let producer = cluster.init_producer_id().await?;
    Ok(Prepared { plan, report, producer })
}

fn check(errors: Vec<KafkaError>) -> Result<(), KafkaError> {
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Creates missing topics and waits until all have leaders.
async fn create(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    options: &RestoreOptions,
) -> Result<(), EngineError> {
    let topics = plan::new_topics(plan, options);
    let results = cluster.create_topics(&topics, true).await?;
    if let Some(error) = results.into_iter().find_map(Result::err) {
        return Err(EngineError::Refused(format!("nothing was written: {error}")));
    }
    for result in cluster.create_topics(&topics, false).await? {
        result?;
    }
    let start = Instant::now();
    loop {
        let seen = cluster.layout();
        let layout = if topics.is_empty() { seen } else { cluster.refresh(&seen).await? };
        let missing = plan.topics.iter().find(|topic| {
            let has_leaders = |partition: u32| {
                let tp = TopicPartition::new(&topic.target, partition as i32);
                layout.partition(&tp).is_some_and(|partition| partition.leader.is_some())
            };
            !(0..topic.source.partitions).all(has_leaders)
        });
        match missing {
            None => break,
            Some(topic) if start.elapsed() > SETTLE_WITHIN => {
                let what = format!("topic {} was created but has partitions without leaders", topic.target);
                return Err(KafkaError::NoRoute(what).into());
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    check_names(cluster, plan).await
}

/// Where the target had no topic to ask for the names of settings, it has one now.
async fn check_names(cluster: &Arc<Cluster>, plan: &mut Plan) -> Result<(), EngineError> {
    let unchecked = plan.topics.iter().find(|topic| !topic.settings.is_checked());
    let Some(any) = unchecked.map(|topic| Arc::clone(&topic.target)) else { return Ok(()) };
    let described = cluster.describe_configs(&[any]).await?;
    let known: BTreeSet<String> = described.into_values().flat_map(|configs| configs.into_keys()).collect();
    for topic in &mut plan.topics {
        topic.settings.restrict(Some(&known), &topic.target, &mut plan.notes);
    }
    Ok(())
}

/// Streams everything, checks the ends, and commits the positions of groups.
async fn write(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    means: run::Means,
    report: &mut Report,
) -> Result<(), EngineError> {
    settle(cluster, &plan.topics).await?;
    let pool = BufferPool::new(PART_LEN, means.options.budget);
    let source = outgo::Source { store: Arc::clone(&means.store), pool, producer: means.producer };
    let partitions = plan.topics.iter_mut().flat_map(|topic| std::mem::take(&mut topic.partitions)).collect();
    let done = run::run(cluster, source, partitions, &means).await?;
    report.interrupted = done.interrupted;
    for topic in &mut plan.topics {
        let of = |tp: &TopicPartition| tp.topic == topic.target;
        topic.summary.records =
            Some(done.records.iter().filter(|(tp, _)| of(tp)).map(|(_, n)| *n as u64).sum());
        report.topics.push(topic.summary.clone());
    }
    report.records = report.topics.iter().map(|topic| topic.records).sum();
    report.bytes = means.progress.snapshot().bytes;
    if !report.interrupted {
        let wanted: Vec<_> = plan.topics.iter().flat_map(|topic| topic.positions.iter().cloned()).collect();
        groups::commit(cluster, &wanted, &done.positions, report).await;
    }
    Ok(())
}

/// Waits until every broker shows the temporary settings: a leader that still has the real ones would refuse or change records.
async fn settle(cluster: &Arc<Cluster>, topics: &[TopicPlan]) -> Result<(), EngineError> {
    // A target that does not know the setting that we look for can't be asked.
    let Some(last) = topics.iter().rfind(|topic| topic.settings.has_mark()) else { return Ok(()) };
    let start = Instant::now();
    for broker in cluster.layout().brokers.keys() {
        loop {
            let seen = cluster.layout();
            let configs = match cluster.describe_topic_at(*broker, &last.target).await {
                Ok(configs) => configs,
                Err(error) if start.elapsed() > SETTLE_WITHIN => return Err(error.into()),
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    // Who has left the cluster leads nothing.
                    let layout = cluster.refresh(&seen).await;
                    if layout.is_ok_and(|layout| !layout.brokers.contains_key(broker)) {
                        break;
                    }
                    continue;
                }
            };
            let mark = configs.get(settings::TEMPORARY_MARK.0).and_then(|config| config.value.as_deref());
            if mark == Some(settings::TEMPORARY_MARK.1) {
                break;
            }
            if start.elapsed() > SETTLE_WITHIN {
                let what =
                    format!("broker {broker} does not take over the settings of topic {}", last.target);
                return Err(KafkaError::NoRoute(what).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

fn left_over(plan: &Plan) -> Issue {
    let names: Vec<&str> = plan.topics.iter().map(|topic| &*topic.target).collect();
    let shown = names.iter().take(10).copied().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 10 { format!(" and {} more", names.len() - 10) } else { String::new() };
    let message = format!(
        "the restore is incomplete, and these topics still have temporary settings (no retention): {shown}{more}"
    );
    Issue::new("incomplete", crate::error::Severity::Failed, message)
        .hint("delete these topics, then run the restore again: until then it is refused")
}

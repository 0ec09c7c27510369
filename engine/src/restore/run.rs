//! The run: hands partitions to senders by leader, and where it is not clear what is stored, asks the leader and goes on from there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::kafka::offsets::End;
use bodley_io::kafka::produce::ProducerIdentity;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_io::store::SharedStore;
use tokio::sync::{mpsc, watch};

use super::RestoreOptions;
use super::groups::Positions;
use super::outgo::Source;
use super::plan::PartitionPlan;
use super::sender::{Event, Job, Sender, Shared};
use crate::error::EngineError;
use crate::progress::Progress;

/// How long a partition rests before its leader is asked.
const REST: Duration = Duration::from_millis(250);

/// Senders get so long to end after a signal.
const STOP_WITHIN: Duration = Duration::from_secs(12);
/// A topic that is gone from the metadata for so long was deleted.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// What a run works with.
pub struct Means {
    /// The vault's objects.
    pub store: SharedStore,
    /// The restore's producer.
    pub producer: ProducerIdentity,
    /// What was asked for.
    pub options: RestoreOptions,
    /// Counters.
    pub progress: Arc<Progress>,
    /// Turns true when the run is to end.
    pub stop: watch::Receiver<bool>,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Done {
    /// Records acknowledged, by target partition.
    pub records: HashMap<TopicPartition, i64>,
    /// Translated group positions.
    pub positions: Positions,
    /// Ended by a signal.
    pub interrupted: bool,
}

struct Run<'a> {
    cluster: &'a Arc<Cluster>,
    shared: Arc<Shared>,
    connections: usize,
    senders: BTreeMap<(i32, usize), mpsc::UnboundedSender<Vec<Job>>>,
    events: mpsc::UnboundedSender<Event>,
    active: usize,
    /// Which of a broker's senders is next.
    turns: HashMap<i32, usize>,
    parked: Vec<(Instant, Job)>,
    done: Done,
    ends: Vec<(TopicPartition, i64)>,
}

/// Restores `partitions` and checks at the end that each log ends where it must.
pub async fn run(
    cluster: &Arc<Cluster>,
    source: Source,
    partitions: Vec<PartitionPlan>,
    means: &Means,
) -> Result<Done, EngineError> {
    let (events, mut inbox) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        cluster: Arc::clone(cluster),
        source,
        progress: Arc::clone(&means.progress),
        stop: means.stop.clone(),
        limit: means.options.limit_write.clone(),
    });
    means.progress.plan(partitions.len() as u64, partitions.iter().map(PartitionPlan::bytes).sum());
    let mut run = Run {
        cluster,
        shared,
        connections: means.options.connections,
        senders: BTreeMap::new(),
        events,
        active: 0,
        turns: HashMap::new(),
        parked: Vec::new(),
        done: Done::default(),
        ends: Vec::new(),
    };
    let layout = cluster.layout();
    let id = |tp: &TopicPartition| layout.topics.get(&tp.topic).map_or([0; 16], |topic| topic.id);
    let jobs = partitions.into_iter().map(|plan| {
        let id = id(&plan.tp);
        Job::new(plan, id)
    });
    run.dispatch(jobs.collect())?;
    run.until_done(&mut inbox, means.stop.clone()).await?;
    if !run.done.interrupted {
        run.check_ends().await?;
    }
    Ok(run.done)
}

impl Run<'_> {
    async fn until_done(
        &mut self,
        inbox: &mut mpsc::UnboundedReceiver<Event>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        while self.active > 0 || !self.parked.is_empty() {
            let wake = self.parked.iter().map(|(until, _)| *until).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => self.handle(event)?,
                    None => break,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = stop.wait_for(|stop| *stop) => {
                    self.done.interrupted = true;
                    break;
                }
            }
            tokio::select! {
                result = self.unpark() => result?,
                _ = stop.wait_for(|stop| *stop) => {
                    self.done.interrupted = true;
                    break;
                }
            }
        }
        // Senders wait for what is in flight, then say so.
        let mut running = if self.done.interrupted { self.senders.len() } else { 0 };
        let deadline = tokio::time::Instant::now() + STOP_WITHIN;
        while running > 0 {
            match tokio::time::timeout_at(deadline, inbox.recv()).await {
                Ok(Some(Event::Stopped | Event::Fatal(_))) => running -= 1,
                Ok(Some(Event::Done(job))) => self.finished(*job),
                Ok(Some(Event::Back(..))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), EngineError> {
        match event {
            Event::Done(job) => {
                self.active -= 1;
                self.finished(*job);
                Ok(())
            }
            Event::Back(job, error) => {
                self.active -= 1;
                self.park(*job, error)
            }
            Event::Fatal(error) => Err(error),
            Event::Stopped => Ok(()),
        }
    }

    fn finished(&mut self, job: Job) {
        self.shared.progress.partition_done();
        self.ends.push((job.plan.tp.clone(), job.acknowledged()));
        self.done.records.insert(job.plan.tp.clone(), job.records);
        self.done.positions.insert(job.plan.tp, job.positions);
    }

    fn dispatch(&mut self, jobs: Vec<Job>) -> Result<(), EngineError> {
        let layout = self.cluster.layout();
        let per_broker = (16 / layout.brokers.len().max(1)).clamp(1, self.connections.max(1));
        let mut by_sender: HashMap<(i32, usize), Vec<Job>> = HashMap::new();
        for job in jobs {
            match layout.partition(&job.plan.tp).and_then(|partition| partition.leader) {
                Some(leader) => {
                    let turn = self.turns.entry(leader).or_insert(0);
                    *turn += 1;
                    by_sender.entry((leader, *turn % per_broker)).or_default().push(job);
                }
                None => {
                    let error = KafkaError::NoRoute(format!("{} has no leader", job.plan.tp));
                    self.park(job, error)?;
                }
            }
        }
        for (key, jobs) in by_sender {
            self.active += jobs.len();
            let (shared, events) = (&self.shared, &self.events);
            let sender = self
                .senders
                .entry(key)
                .or_insert_with(|| Sender::start(Arc::clone(shared), key.0, events.clone()));
            let _ = sender.send(jobs);
        }
        Ok(())
    }

    fn park(&mut self, mut job: Job, error: KafkaError) -> Result<(), EngineError> {
        let since = *job.stuck.get_or_insert_with(Instant::now);
        let patience = self.cluster.options().give_up_after;
        tracing::info!("{}: {error}", job.plan.tp);
        if since.elapsed() >= patience {
            return Err(KafkaError::GaveUp { after: patience, last: Box::new(error) }.into());
        }
        self.parked.push((Instant::now() + REST, job));
        Ok(())
    }

    /// Asks the leaders of rested partitions what is stored, and goes on from there.
    async fn unpark(&mut self) -> Result<(), EngineError> {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.parked).into_iter().partition(|(at, _)| *at <= now);
        self.parked = later;
        if due.is_empty() {
            return Ok(());
        }
        let seen = self.cluster.layout();
        let refreshed = self.cluster.refresh(&seen).await;
        let layout = self.cluster.layout();
        let (due, gone): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, job)| {
            layout.topics.get(&job.plan.tp.topic).is_some_and(|topic| topic.id == job.topic_id)
        });
        for (_, job) in gone {
            let what = format!("topic {} was deleted at the target while it was written", job.plan.tp.topic);
            if refreshed.is_ok() && job.stuck.is_some_and(|since| since.elapsed() > GONE_AFTER) {
                return Err(EngineError::Diverged(what));
            }
            self.park(job, KafkaError::NoRoute(what))?;
        }
        let parts: Vec<TopicPartition> = due.iter().map(|(_, job)| job.plan.tp.clone()).collect();
        let (replicated, written) = match refreshed {
            Ok(_) => (
                self.cluster.list_offsets(&parts, End::HighWatermark).await?,
                self.cluster.list_offsets(&parts, End::LogEnd).await?,
            ),
            Err(error) => {
                for (_, job) in due {
                    self.park(job, KafkaError::NoRoute(error.to_string()))?;
                }
                return Ok(());
            }
        };
        let mut ready = Vec::new();
        for (_, mut job) in due {
            let high_watermark = replicated.found.get(&job.plan.tp).map(|found| found.offset);
            let log_end = written.found.get(&job.plan.tp).map(|found| found.offset);
            match (high_watermark, log_end) {
                // Only what is replicated and is all that was written is settled.
                (Some(high_watermark), Some(log_end)) if high_watermark == log_end => {
                    job.settle(log_end)
                        .map_err(|what| EngineError::Diverged(format!("{}: {what}", job.plan.tp)))?;
                    ready.push(job);
                }
                _ => {
                    let what = format!("{}: what is written is not replicated yet", job.plan.tp);
                    self.park(job, KafkaError::NoRoute(what))?;
                }
            }
        }
        self.dispatch(ready)
    }

    /// Count at the end: each log ends where the acknowledged records say.
    async fn check_ends(&self) -> Result<(), EngineError> {
        let parts: Vec<TopicPartition> = self.ends.iter().map(|(tp, _)| tp.clone()).collect();
        let answers = self.cluster.list_offsets(&parts, End::HighWatermark).await?;
        for (tp, expected) in &self.ends {
            let found = answers.found.get(tp).map(|found| found.offset);
            if found != Some(*expected) {
                let found = found.map_or("unknown".to_owned(), |found| found.to_string());
                return Err(EngineError::Diverged(format!(
                    "{tp} ends at offset {found}, {expected} was expected after the restore: somebody else writes to the topic"
                )));
            }
        }
        Ok(())
    }
}

//! The run: hands partitions to senders by leader, and where it is not clear what is stored, asks the leader and goes on from there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::backoff::rest;
use bodley_io::kafka::offsets::End;
use bodley_io::kafka::{Cluster, ELSEWHERE_AFTER, KafkaError, TopicPartition, is_same_topic};
use bodley_protocol::batch::{self, HEADER_LEN};
use bodley_protocol::{ErrorCode, RetryClass};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::RestoreOptions;
use super::ahead::Source;
use super::fence::Producer;
use super::groups::Positions;
use super::job::Job;
use super::ledger::Ledger;
use super::map::MapRun;
use super::outgo::Passed;
use super::sender::{Event, Sender, Shared};
use super::trail::ends_at;
use crate::error::EngineError;
use crate::progress::Progress;
use crate::report::Merged;

/// Who is stuck for so long does not keep buffers that others could use.
const KEEPS: Duration = Duration::from_secs(2);

/// Senders get so long to end after a signal.
const STOP_WITHIN: Duration = Duration::from_secs(12);
/// A topic that is gone from the metadata for so long was deleted.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// The state is written again so often: a target forgets a group that nothing is heard of for some days.
const RENEW_EVERY: Duration = Duration::from_secs(86_400);

/// What a run works with.
pub struct Means {
    /// Where chunks come from.
    pub source: Source,
    /// What was asked for.
    pub options: RestoreOptions,
    /// Counters.
    pub progress: Arc<Progress>,
    /// Turns true when the run is to end.
    pub stop: watch::Receiver<bool>,
}

/// Who writes, and what is remembered of it.
pub struct Author {
    /// The restore's producer.
    pub producer: Producer,
    /// The restore's state.
    pub ledger: Ledger,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Done {
    /// Records of the plan at the target, by target partition, as far as is known.
    pub records: HashMap<TopicPartition, i64>,
    /// Of these, sent by this run.
    pub sent: i64,
    /// What was merged in them.
    pub merged: Merged,
    /// Those that were in message format 0 or 1.
    pub old_records: i64,
    /// Translated group positions.
    pub positions: Positions,
    /// By target partition: where what was restored ends, and the runs of its offset map.
    pub maps: BTreeMap<TopicPartition, (i64, Vec<MapRun>)>,
    /// Ended by a signal.
    pub interrupted: bool,
}

impl Done {
    fn count(&mut self, job: &Job) {
        self.sent += job.sent;
        self.merged.add(job.merged);
        self.old_records += job.old_records;
        self.records.insert(job.tp.clone(), job.stand.done);
    }
}

struct Run<'a> {
    cluster: &'a Arc<Cluster>,
    author: &'a mut Author,
    shared: Arc<Shared>,
    connections: usize,
    senders: BTreeMap<(i32, usize), mpsc::UnboundedSender<Vec<Job>>>,
    events: mpsc::UnboundedSender<Event>,
    active: usize,
    /// Which of a broker's senders is next.
    turns: HashMap<i32, usize>,
    parked: Vec<(Instant, Job)>,
    done: Done,
    ends: Vec<Finished>,
}

/// A partition of which all is acknowledged.
struct Finished {
    tp: TopicPartition,
    /// Its log must end here.
    end: i64,
    /// Sequence behind its last record; `None` where this run sent nothing, or put a fence behind it.
    sequence: Option<i32>,
}

/// Restores what `jobs` say and checks at the end that each log ends as it must.
pub async fn run(
    cluster: &Arc<Cluster>,
    jobs: Vec<Job>,
    means: &Means,
    author: &mut Author,
) -> Result<Done, EngineError> {
    let (events, mut inbox) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        cluster: Arc::clone(cluster),
        source: means.source.clone(),
        progress: Arc::clone(&means.progress),
        stop: means.stop.clone(),
        limit: means.options.limit_write.clone(),
    });
    let bytes = jobs.iter().map(|job| job.bytes).sum();
    means.progress.plan(jobs.len() as u64, bytes);
    let mut run = Run {
        cluster,
        author,
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
    run.dispatch(jobs)?;
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
        let mut renew = tokio::time::interval_at(tokio::time::Instant::now() + RENEW_EVERY, RENEW_EVERY);
        while self.active > 0 || !self.parked.is_empty() {
            let wake = self.parked.iter().map(|(until, _)| *until).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => self.handle(event)?,
                    None => break,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = renew.tick() => self.author.ledger.renew().await?,
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
                Ok(Some(Event::Stopped(jobs))) => {
                    running -= 1;
                    jobs.iter().for_each(|job| self.done.count(job));
                }
                Ok(Some(Event::Fatal(_))) => running -= 1,
                Ok(Some(Event::Done(job))) => self.finished(*job),
                Ok(Some(Event::Back(job, _))) => self.done.count(&job),
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
            Event::Stopped(_) => Ok(()),
        }
    }

    fn finished(&mut self, mut job: Job) {
        self.cluster.health().goes_on(&job.tp);
        self.shared.progress.partition_done();
        let written = job.sent > 0 && job.stand.done > job.stand.piece.records;
        let sequence = written.then(|| job.stand.sequence_of(job.stand.done));
        self.ends.push(Finished { tp: job.tp.clone(), end: job.acknowledged(), sequence });
        self.done.count(&job);
        let Some(Passed { positions, map }) = job.passed.take() else { return };
        let offset = |(mark, number): (i64, i64)| (mark, job.stand.offset_of(number));
        self.done.positions.insert(job.tp.clone(), positions.into_iter().map(offset).collect());
        self.done.maps.insert(job.tp.clone(), (job.acknowledged(), map.finish(&job.stand)));
    }

    fn dispatch(&mut self, jobs: Vec<Job>) -> Result<(), EngineError> {
        let layout = self.cluster.layout();
        let per_broker = (16 / layout.brokers.len().max(1)).clamp(1, self.connections.max(1));
        let mut by_sender: HashMap<(i32, usize), Vec<Job>> = HashMap::new();
        for job in jobs {
            match layout.partition(&job.tp).and_then(|partition| partition.leader) {
                Some(leader) => {
                    let turn = self.turns.entry(leader).or_insert(0);
                    *turn += 1;
                    by_sender.entry((leader, *turn % per_broker)).or_default().push(job);
                }
                None => {
                    let error = KafkaError::NoRoute(format!("{} has no leader", job.tp));
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
        let stuck = job.stuck.get_or_insert_with(Instant::now).elapsed();
        let patience = self.cluster.options().give_up_after;
        tracing::info!("{}: {error}", job.tp);
        let layout = self.cluster.layout();
        let leader = layout.partition(&job.tp).and_then(|partition| partition.leader);
        self.cluster.health().waits(&job.tp, leader, &error);
        if stuck >= patience {
            let last = KafkaError::NoRoute(format!("{}: {error}", job.tp));
            return Err(KafkaError::GaveUp { after: patience, last: Box::new(last) }.into());
        }
        if stuck >= KEEPS {
            job.let_go();
        }
        self.parked.push((Instant::now() + rest(stuck), job));
        Ok(())
    }

    /// Rested partitions go on: where it is not clear what is stored, behind a fence.
    async fn unpark(&mut self) -> Result<(), EngineError> {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.parked).into_iter().partition(|(at, _)| *at <= now);
        self.parked = later;
        if due.is_empty() {
            return Ok(());
        }
        let seen = self.cluster.layout();
        let stuck = |job: &Job| job.stuck.is_some_and(|since| since.elapsed() > ELSEWHERE_AFTER);
        let asked = match due.iter().any(|(_, job)| stuck(job)) {
            true => self.cluster.refresh_elsewhere(&seen).await,
            false => self.cluster.refresh(&seen).await,
        };
        let refreshed = match asked {
            Err(error) if error.retry_class() == RetryClass::Never => return Err(error.into()),
            refreshed => refreshed,
        };
        let layout = self.cluster.layout();
        let mut clear = Vec::new();
        let mut unclear = HashMap::new();
        for (_, mut job) in due {
            let topic =
                layout.topics.get(&job.tp.topic).filter(|topic| is_same_topic(topic.id, job.topic_id));
            let leader = layout.partition(&job.tp).and_then(|partition| partition.leader);
            match (&refreshed, topic, leader) {
                (Err(error), ..) => self.park(job, KafkaError::NoRoute(error.to_string()))?,
                (Ok(_), None, _) => {
                    let what =
                        format!("topic {} was deleted at the target while it was written", job.tp.topic);
                    if job.stuck.is_some_and(|since| since.elapsed() > GONE_AFTER) {
                        return Err(EngineError::Diverged(what));
                    }
                    self.park(job, KafkaError::NoRoute(what))?;
                }
                (Ok(_), Some(_), None) => {
                    let what = format!("{} has no leader", job.tp);
                    self.park(job, KafkaError::NoRoute(what))?;
                }
                (Ok(_), Some(_), Some(_)) if job.unclear => {
                    unclear.insert(job.tp.clone(), job);
                }
                (Ok(_), Some(_), Some(_)) => {
                    job.send_again();
                    clear.push(job);
                }
            }
        }
        self.dispatch(clear)?;
        let unclear = self.with_leaders_that_answer(unclear).await?;
        let begun = Instant::now();
        let cleared = self.clear_up(unclear).await?;
        // Nobody was tried meanwhile.
        for (_, job) in &mut self.parked {
            job.stuck = job.stuck.map(|since| since + begun.elapsed());
        }
        self.dispatch(cleared)
    }

    /// A fence would wait for a leader that is dead and not yet known to be, and all others with it: its partitions rest on.
    async fn with_leaders_that_answer(
        &mut self,
        unclear: HashMap<TopicPartition, Job>,
    ) -> Result<HashMap<TopicPartition, Job>, EngineError> {
        let layout = self.cluster.layout();
        let leader = |tp: &TopicPartition| layout.partition(tp).and_then(|partition| partition.leader);
        let mut asked = JoinSet::new();
        for broker in unclear.keys().filter_map(leader).collect::<BTreeSet<i32>>() {
            let cluster = Arc::clone(self.cluster);
            asked.spawn(async move { (broker, cluster.answers(broker).await) });
        }
        let mut silent: BTreeMap<i32, String> = BTreeMap::new();
        while let Some(Ok((broker, answer))) = asked.join_next().await {
            silent.extend(answer.err().map(|error| (broker, error.to_string())));
        }
        let mut rest = HashMap::new();
        for (tp, job) in unclear {
            match leader(&tp).and_then(|broker| Some((broker, silent.get(&broker)?))) {
                Some((broker, error)) => {
                    self.park(job, KafkaError::NoRoute(format!("broker {broker}: {error}")))?;
                }
                None => _ = rest.insert(tp, job),
            }
        }
        Ok(rest)
    }

    /// Fences partitions of which a batch may be stored or not, and counts what is there.
    async fn clear_up(&mut self, mut jobs: HashMap<TopicPartition, Job>) -> Result<Vec<Job>, EngineError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let parts = jobs.iter().map(|(tp, job)| (tp.clone(), job.stand.clone())).collect();
        let Author { producer, ledger } = &mut *self.author;
        producer.advance().await?;
        let stands = producer.settle(parts).await?;
        ledger.save(&stands).await?;
        let restart = |(tp, stand)| Some(jobs.remove(&tp)?.restart(stand));
        Ok(stands.into_iter().filter_map(restart).collect())
    }

    /// Count and tail at the end: each log ends where the acknowledged records say, with the last of them.
    async fn check_ends(&self) -> Result<(), EngineError> {
        let parts: Vec<TopicPartition> = self.ends.iter().map(|finished| finished.tp.clone()).collect();
        let answers = self.cluster.list_offsets(&parts, End::HighWatermark).await?;
        if let Some((tp, error)) = answers.failed.into_iter().next() {
            tracing::info!("the end of {tp} is not known");
            return Err(error.into());
        }
        for Finished { tp, end, .. } in &self.ends {
            let found = answers.found.get(tp).map_or(-1, |found| found.offset);
            if found != *end {
                return Err(EngineError::Diverged(format!(
                    "{tp} ends at offset {found}, {end} was expected after the restore: somebody else writes to the topic"
                )));
            }
        }
        let written = self.ends.iter().filter(|finished| finished.sequence.is_some());
        let last: Vec<_> = written.map(|finished| (finished.tp.clone(), finished.end - 1)).collect();
        let tails = self.cluster.peek(&last, HEADER_LEN).await?;
        for Finished { tp, end, sequence } in &self.ends {
            let tail = match tails.get(tp) {
                Some(Ok(tail)) => batch::view_cut(&tail.bytes).ok().flatten(),
                // In a topic that is in use retention may have been faster.
                Some(Err(error)) if error.code() != Some(ErrorCode::OFFSET_OUT_OF_RANGE) => {
                    return Err(EngineError::Diverged(format!("the end of {tp} can't be read: {error}")));
                }
                _ => continue,
            };
            if tail.is_none_or(|tail| ends_at(&tail) != *sequence || tail.last_offset() != end - 1) {
                return Err(EngineError::Diverged(format!(
                    "{tp}: the last batch is not the last one of this restore: somebody else writes to the topic"
                )));
            }
        }
        Ok(())
    }
}

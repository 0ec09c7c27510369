//! The run: hands partitions to workers, follows them when leaders move, and goes on until all is read or it is told to end.
//!
//! What is done about partitions that can't be read: `troubles.rs`. What becomes durable is committed: `commit.rs`. A run that goes on: `follow.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bodley_io::BufferPool;
use bodley_io::kafka::{Cluster, KafkaError};
use tokio::sync::{mpsc, watch};

use super::BackupOptions;
use super::commit::Rolls;
use super::follow::{First, Following};
use super::intake::Intake;
use super::plan::Plan;
use super::survey::{Survey, Surveyed};
use super::task::Task;
use super::troubles::{Again, LOOK_EVERY, Watches};
use super::worker::{Event, Order, Pace, Shared, Worker, WorkerKey};
use crate::error::{EngineError, Severity};
use crate::progress::Progress;
use crate::report::{Issue, Report};
use crate::vault::commit::Receipt;
use crate::vault::log::{Addition, Vault};
use crate::vault::rows::{GroupRow, Rows};
use crate::vault::state::{PartKey, State};

/// A commit that is under way has so long after a signal, and the last one as long again: 20 s in all.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Between looks at whether there is something to commit, when that is due.
const OVERDUE: Duration = Duration::from_millis(200);
/// What is said when that was not enough.
const ABANDONED: &str = "what was not durable in time after the signal was abandoned";
/// Workers that have not handed over what they have so long after a signal are left behind.
const STOP_ROLLING: Duration = Duration::from_secs(6);

/// What a run works with.
pub struct Means {
    /// Part buffers.
    pub pool: Arc<BufferPool>,
    /// Counters.
    pub progress: Arc<Progress>,
    /// Turns true when the run is to end.
    pub stop: watch::Receiver<bool>,
}

/// A backup under way.
pub struct Run {
    pub(super) cluster: Arc<Cluster>,
    pub(super) vault: Vault,
    pub(super) options: BackupOptions,
    pub(super) means: Means,
    pub(super) shared: Arc<Shared>,
    pub(super) workers: BTreeMap<WorkerKey, mpsc::UnboundedSender<Order>>,
    events: mpsc::UnboundedSender<Event>,
    pub(super) inbox: mpsc::UnboundedReceiver<Event>,
    /// Tasks at workers.
    pub(super) active: usize,
    /// Which of a broker's workers is next.
    turns: HashMap<i32, usize>,
    /// Tasks that rest, and until when.
    pub(super) parked: Vec<(Instant, Task)>,
    new: Vec<Task>,
    /// Partitions that are to be looked at again.
    pub(super) again: BTreeMap<PartKey, Again>,
    /// A survey is under way, of these.
    pub(super) surveyed: Option<BTreeMap<PartKey, Again>>,
    /// When the last one began.
    surveyed_at: Option<Instant>,
    /// The cluster is being asked for its layout.
    pub(super) refreshing: bool,
    /// For the next commit.
    pub(super) pending: Addition,
    pub(super) rolls: Rolls,
    /// The vault as committed.
    pub(super) state: Arc<State>,
    pub(super) following: Option<Following>,
    /// Last stable offsets at the start.
    stable: HashMap<PartKey, i64>,
    /// What was stable then is in the vault when all is read; ms of our clock.
    pub(super) asked_at: i64,
    pub(super) watches: Watches,
}

impl Run {
    /// Ready to go. `state`: the vault as the plan found it.
    pub fn new(
        (cluster, watches): (Arc<Cluster>, Watches),
        (vault, state): (Vault, State),
        plan: Plan,
        options: BackupOptions,
        means: Means,
    ) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            cluster: Arc::clone(&cluster),
            topics: RwLock::new(Arc::new(plan.topics)),
            writer: vault.writer().to_owned(),
            base: vault.receipt().seq,
            stop: means.stop.clone(),
            limit: options.limit_read.clone(),
            near_failed: Mutex::default(),
            compares_logs: watches.logs,
            pace: pace(&options),
        });
        let following = options.follow.clone().map(|follow| {
            let first = First {
                unavailable: plan.unavailable,
                complaints: plan.issues,
                unread: plan.unread,
                closed: plan.closed,
                groups_are_late: plan.groups_are_late,
            };
            Following::new(follow, options.commit_interval, first)
        });
        let tasks = plan.tasks.len() as u64;
        let offsets = plan.tasks.iter().map(|task| task.known_end().saturating_sub(task.next).max(0) as u64);
        let offsets = offsets.fold(0, u64::saturating_add);
        tracing::info!("the ends are known: {offsets} offsets of {tasks} partitions are read");
        means.progress.plan(tasks, offsets);
        let rolls = Rolls::new(&vault, means.progress.snapshot().bytes);
        Self {
            cluster,
            vault,
            options,
            means,
            shared,
            workers: BTreeMap::new(),
            events,
            inbox,
            active: 0,
            turns: HashMap::new(),
            parked: Vec::new(),
            new: plan.tasks,
            again: BTreeMap::new(),
            surveyed: None,
            surveyed_at: None,
            refreshing: false,
            pending: Addition::default(),
            rolls,
            state: Arc::new(state),
            following,
            stable: plan.stable,
            asked_at: plan.asked_at,
            watches,
        }
    }

    /// Runs to the end. `rows` go into the first commit, `groups` into the last, or into one that reaches as far as they do.
    pub async fn finish(
        mut self,
        rows: Rows,
        groups: Vec<GroupRow>,
        report: &mut Report,
    ) -> Result<Receipt, EngineError> {
        self.pending.rows = rows;
        let mut groups = Some(groups);
        if self.following.is_some() {
            let stable = std::mem::take(&mut self.stable);
            self.first_positions(groups.take().unwrap_or_default(), &stable);
        }
        let tasks = std::mem::take(&mut self.new);
        self.dispatch(tasks, report);
        let mut stop = self.means.stop.clone();
        while self.goes_on() {
            let wake = self.wake();
            let event = tokio::select! {
                event = self.inbox.recv() => event,
                () = tokio::time::sleep_until(wake.into()) => None,
                _ = stop.wait_for(|stop| *stop) => {
                    report.interrupted = true;
                    break;
                }
            };
            // Nothing here waits for a broker: that is done beside the run, or by its workers.
            if let Some(event) = event
                && let Err(error) = self.handle(event, report)
            {
                return Err(self.end_with(error, report).await);
            }
            self.unpark();
            let is_due = self.commit_is_due() || self.survey_is_due() && self.survey_needs_a_commit();
            if is_due && !self.commit_in_time(None, report).await? {
                return Ok(self.vault.receipt().clone());
            }
            self.survey();
            self.ask_groups();
            self.checkpoint_beside();
        }
        self.end(groups.unwrap_or_default(), report).await
    }

    /// Where another cluster answers in the place of the one that was read, what is durable of that is all there ever will be.
    async fn end_with(&mut self, error: EngineError, report: &mut Report) -> EngineError {
        let is_ours = self.watches.topics;
        if is_ours && matches!(error, EngineError::Kafka(KafkaError::OtherCluster { .. })) {
            let commit = tokio::time::timeout(STOP_WITHIN, self.commit(None, report)).await;
            if !matches!(commit, Ok(Ok(()))) {
                tracing::warn!("what was read since the last commit could not be committed");
            }
        }
        error
    }

    fn goes_on(&self) -> bool {
        let looks = self.surveyed.is_some() || !self.again.is_empty();
        self.following.is_some() || self.active > 0 || !self.parked.is_empty() || looks
    }

    /// Commits what there is, and the groups when all was read.
    async fn end(mut self, groups: Vec<GroupRow>, report: &mut Report) -> Result<Receipt, EngineError> {
        if report.interrupted {
            report.groups = if self.following.is_some() { report.groups } else { 0 };
            self.rolls.patience = STOP_ROLLING;
            // Groups stay as they were: their positions may lie beyond what this commit holds.
            let commit = tokio::time::timeout(STOP_WITHIN, self.commit(None, report));
            match commit.await {
                Ok(result) => result?,
                Err(_) => {
                    report.notes.push(ABANDONED.into());
                }
            }
        } else {
            self.rolls.patience = Duration::MAX;
            if !self.commit_in_time(Some(groups), report).await? {
                return Ok(self.vault.receipt().clone());
            }
            self.pay_debts().await;
            super::checkpoint(&mut self.vault, self.means.stop.clone(), report).await;
        }
        self.say_what_fails(report);
        Ok(self.vault.receipt().clone())
    }

    /// Commits; false: a signal came, and this has had its time since.
    async fn commit_in_time(
        &mut self,
        groups: Option<Vec<GroupRow>>,
        report: &mut Report,
    ) -> Result<bool, EngineError> {
        let mut stop = self.means.stop.clone();
        let late = async {
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::sleep(STOP_WITHIN).await;
        };
        tokio::select! {
            committed = self.commit(groups, report) => return committed.map(|()| true),
            () = late => {}
        }
        report.interrupted = true;
        report.groups = if self.following.is_some() { report.groups } else { 0 };
        report.notes.push(ABANDONED.into());
        self.say_what_fails(report);
        Ok(false)
    }

    fn say_what_fails(&mut self, report: &mut Report) {
        if let Some(following) = &mut self.following {
            report.errors.append(&mut following.issues());
        }
    }

    /// What the last answers brought counts as well for the bound on bytes per second.
    async fn pay_debts(&self) {
        let mut stop = self.means.stop.clone();
        if let Some(limit) = &self.options.limit_read {
            tokio::select! {
                () = limit.take(0) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    fn wake(&self) -> Instant {
        let now = Instant::now();
        // A commit that is due and has nothing to say yet is looked at again before long; what waits for an answer wakes by it.
        let interval = self.options.commit_interval;
        let mut wake = (self.rolls.committed_at + interval).max(now + OVERDUE.min(interval));
        if !self.refreshing {
            wake = self.parked.iter().map(|(until, _)| *until).fold(wake, Instant::min);
        }
        let soonest = self.surveyed_at.map_or(now, |at| at + LOOK_EVERY);
        if self.surveyed.is_none() {
            wake = self.again.values().map(|again| again.at.max(soonest)).fold(wake, Instant::min);
        }
        if let Some(following) = &self.following {
            let (census, groups) = following.wake();
            let census = if self.surveyed.is_some() { wake } else { census.max(soonest) };
            wake = wake.min(census).min(groups.unwrap_or(wake));
        }
        wake.max(now + Duration::from_millis(5))
    }

    pub(super) fn handle(&mut self, event: Event, report: &mut Report) -> Result<(), EngineError> {
        match event {
            Event::Done => {
                self.active -= 1;
                self.means.progress.partition_done();
            }
            Event::Back(task, trouble) => {
                self.active -= 1;
                self.look_after(*task, trouble, report);
            }
            Event::Reads(watches) => self.watches.lower(watches),
            Event::Rolled(rolled) => self.take(rolled, report),
            Event::Refreshed(refreshed) => return self.refreshed(refreshed, report),
            Event::Surveyed(surveyed) => return self.learn(surveyed, report),
            Event::Groups(positions) => self.take_positions(positions, report),
            Event::Fatal(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives tasks to the workers of their leaders; those without a leader rest.
    pub(super) fn dispatch(&mut self, tasks: Vec<Task>, report: &mut Report) {
        if let Some(following) = &mut self.following {
            following.begin(&tasks);
        }
        let layout = self.cluster.layout();
        let parts = self.means.pool.parts();
        // Each worker may hold one buffer while it waits for its broker; as many are kept for writing.
        let per_broker = (parts / 2 / layout.brokers.len().max(1)).clamp(1, self.options.connections.max(1));
        let mut by_worker: HashMap<WorkerKey, Vec<Task>> = HashMap::new();
        for mut task in tasks {
            let partition = layout.partition(&task.tp);
            match partition.and_then(|partition| Some((partition.leader?, partition.leader_epoch))) {
                Some((_, epoch)) if self.is_in_doubt(&task, epoch) => self.look_again(task, true, report),
                Some((leader, epoch)) => {
                    (task.leader_epoch, task.is_compared) = (epoch, self.watches.logs);
                    let near = task.near.map(|(replica, _)| replica);
                    let broker = task.elsewhere.or(near).unwrap_or(leader);
                    let turn = self.turns.entry(broker).or_insert(0);
                    *turn += 1;
                    by_worker.entry((broker, *turn % per_broker)).or_default().push(task);
                }
                None => {
                    let error = KafkaError::NoRoute(format!("{} has no leader", task.tp));
                    self.park(task, &error, report);
                }
            }
        }
        for (key, tasks) in by_worker {
            self.active += tasks.len();
            let number = self.rolls.send(key, &tasks);
            let _ = self.worker(key).send(Order::Add(tasks, number));
        }
    }

    /// Where Fetch does not compare logs, a new leader's is looked at before it is read.
    fn is_in_doubt(&self, task: &Task, epoch: i32) -> bool {
        !self.watches.logs && task.leader_epoch >= 0 && task.leader_epoch != epoch && task.last_epoch >= 0
    }

    fn worker(&mut self, key: WorkerKey) -> &mpsc::UnboundedSender<Order> {
        self.workers.entry(key).or_insert_with(|| {
            let (store, pool) = (Arc::clone(self.vault.store()), Arc::clone(&self.means.pool));
            let intake = Intake::new(store, pool, Arc::clone(&self.means.progress), self.options.exact_times);
            Worker::start(Arc::clone(&self.shared), key, intake, self.events.clone())
        })
    }

    /// What partitions would be looked at by is not committed and can't be for now.
    pub(super) fn look_later(&mut self) {
        self.surveyed_at = Some(Instant::now());
    }

    /// Whether partitions are to be looked at now. What was read of them is committed before.
    fn survey_is_due(&self) -> bool {
        let census = self.following.as_ref().is_some_and(Following::census_is_due);
        let now = Instant::now();
        let is_soon = self.surveyed_at.is_some_and(|at| now < at + LOOK_EVERY);
        self.surveyed.is_none() && !is_soon && (census || self.again.values().any(|again| again.at <= now))
    }

    /// A survey goes by what is committed: all of the partitions that it looks at, and what the one before found.
    fn survey_needs_a_commit(&self) -> bool {
        let rows = &self.pending.rows;
        let is_read = |key: &PartKey| self.following.as_ref().is_some_and(|following| following.reads(key));
        let is_looked_at = rows.ranges.iter().any(|range| !is_read(&(range.topic, range.partition)));
        is_looked_at || !rows.topics.is_empty() || !rows.configs.is_empty()
    }

    /// Starts to look at partitions, unless that is under way.
    fn survey(&mut self) {
        // The commit before may have been put off.
        if !self.survey_is_due() || self.survey_needs_a_commit() {
            return;
        }
        let again = std::mem::take(&mut self.again);
        let survey = Survey {
            cluster: Arc::clone(&self.cluster),
            store: Arc::clone(self.vault.store()),
            state: Arc::clone(&self.state),
            vault_id: self.vault.identity().vault_id.clone(),
            topics: self.shared.topics(),
            again: again.iter().map(|(key, again)| (*key, again.doubted)).collect(),
            census: self.following.as_mut().map(|following| following.census(&self.options.selection)),
        };
        (self.surveyed, self.surveyed_at) = (Some(again), Some(Instant::now()));
        let events = self.events.clone();
        tokio::spawn(async move {
            let _ = events.send(Event::Surveyed(survey.run().await.map(Box::new)));
        });
    }

    fn learn(
        &mut self,
        surveyed: Result<Box<Surveyed>, EngineError>,
        report: &mut Report,
    ) -> Result<(), EngineError> {
        let again = self.surveyed.take().unwrap_or_default();
        let Surveyed { mut plan, census, missed } = match surveyed {
            Ok(surveyed) => *surveyed,
            Err(error) => return self.survey_failed(again, error),
        };
        report.gaps.extend(std::mem::take(&mut plan.gaps).into_iter().map(|gap| self.told(gap)));
        if let Some(counted) = census {
            self.learn_census(&mut plan, (counted, missed), &again, report);
        } else {
            report.errors.append(&mut plan.issues);
            report.errors.extend(plan.reborn.iter().map(|(topic, rebirth)| replaced(topic, &rebirth.why)));
            let read = plan.tasks.len();
            let done = again.len().saturating_sub(read);
            (0..done).for_each(|_| self.means.progress.partition_done());
        }
        let Rows { ranges, aborted, topics, configs, .. } = &mut self.pending.rows;
        ranges.append(&mut plan.rows.ranges);
        aborted.append(&mut plan.rows.aborted);
        topics.append(&mut plan.rows.topics);
        configs.append(&mut plan.rows.configs);
        for task in &mut plan.tasks {
            task.stuck = again.get(&task.key).map(|again| again.since);
        }
        report.notes.append(&mut plan.notes);
        self.dispatch(plan.tasks, report);
        Ok(())
    }

    pub(super) fn events(&self) -> mpsc::UnboundedSender<Event> {
        self.events.clone()
    }

    /// Reads groups beside the run, if that is due.
    fn ask_groups(&mut self) {
        let Some(following) = self.following.as_mut().filter(|following| following.groups_are_due()) else {
            return;
        };
        let question = following.question(&self.cluster, &self.state, self.shared.topics());
        let events = self.events.clone();
        tokio::spawn(async move {
            let _ = events.send(Event::Groups(question.ask().await));
        });
    }
}

/// In a run that ends, what a topic without an id has become is left to the next one.
fn replaced(topic: &str, why: &str) -> Issue {
    let message = format!("topic {topic} was truncated, or deleted and created again, during the run: {why}");
    Issue::new("topic_replaced", Severity::Failed, message)
        .topic(topic)
        .hint("run again: what is there now is backed up as a new incarnation")
}

fn pace(options: &BackupOptions) -> Pace {
    match options.follow {
        None => Pace { goes_on: false, wait_ms: 500, min_bytes: 1 },
        // Answers that bring much make few chunks; a quarter of an interval is soon enough for who has little.
        Some(_) => {
            let quarter = options.commit_interval.as_millis() / 4;
            Pace { goes_on: true, wait_ms: quarter.clamp(250, 2_500) as i32, min_bytes: 4 << 20 }
        }
    }
}

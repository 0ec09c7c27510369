//! The run: hands partitions to workers, follows them when leaders move, rolls all segments together, and commits what is durable.
//!
//! A commit is a line that all workers cross in order: each closes its segment when it reads the order to roll, so rows of one
//! partition that moves between workers never skip a commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bodley_io::BufferPool;
use bodley_io::kafka::offsets::End;
use bodley_io::kafka::{Cluster, KafkaError};
use bodley_protocol::RetryClass;
use tokio::sync::{mpsc, watch};

use super::intake::Intake;
use super::plan::{Plan, truncated};
use super::task::Task;
use super::worker::{Event, Order, Rolled, Shared, Trouble, Worker};
use super::{BackupOptions, count};
use crate::error::{EngineError, Severity};
use crate::progress::Progress;
use crate::report::{Gap, Issue, Report};
use crate::vault::commit::Receipt;
use crate::vault::log::{Addition, Vault};
use crate::vault::rows::{GroupRow, Kind, Reason, Rows};
use crate::vault::state::PartKey;

/// Data is committed when so much is not yet.
const COMMIT_BYTES: u64 = 8 << 30;
/// What is durable is committed within this time after a signal.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long a task rests before it is tried again.
const REST: Duration = Duration::from_millis(250);

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
    cluster: Arc<Cluster>,
    vault: Vault,
    options: BackupOptions,
    means: Means,
    shared: Arc<Shared>,
    workers: BTreeMap<(i32, usize), mpsc::UnboundedSender<Order>>,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    /// Tasks at workers.
    active: usize,
    /// Which of a broker's workers is next.
    turns: HashMap<i32, usize>,
    /// Tasks that rest, and until when.
    parked: Vec<(Instant, Task)>,
    new: Vec<Task>,
    /// For the next commit.
    pending: Addition,
    /// Cursors as committed, of partitions that this run moves; who is not in it stands where its rows say.
    cursors: HashMap<PartKey, i64>,
    committed_at: Instant,
    committed_bytes: u64,
}

impl Run {
    /// Ready to go.
    pub fn new(
        cluster: Arc<Cluster>,
        vault: Vault,
        plan: Plan,
        options: BackupOptions,
        means: Means,
    ) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            cluster: Arc::clone(&cluster),
            topics: plan.topics,
            writer: vault.writer().to_owned(),
            base: vault.receipt().seq,
            stop: means.stop.clone(),
            limit: options.limit_read.clone(),
            leaders_only: AtomicBool::new(false),
        });
        let offsets = plan.tasks.iter().map(|task| task.end.saturating_sub(task.next).max(0) as u64);
        let work = offsets.fold(0, u64::saturating_add);
        means.progress.plan(plan.tasks.len() as u64, work);
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
            pending: Addition::default(),
            cursors: HashMap::new(),
            committed_at: Instant::now(),
            committed_bytes: 0,
        }
    }

    /// Runs to the end. `rows` go into the first commit, `groups` into the last.
    pub async fn finish(
        mut self,
        rows: Rows,
        groups: Vec<GroupRow>,
        report: &mut Report,
    ) -> Result<Receipt, EngineError> {
        self.pending.rows = rows;
        let tasks = std::mem::take(&mut self.new);
        self.dispatch(tasks, report);
        let mut stop = self.means.stop.clone();
        while self.active > 0 || !self.parked.is_empty() {
            let wake = self.wake();
            let event = tokio::select! {
                event = self.inbox.recv() => event,
                () = tokio::time::sleep_until(wake.into()) => None,
                _ = stop.wait_for(|stop| *stop) => {
                    report.interrupted = true;
                    break;
                }
            };
            // Asking brokers can take long; a signal does not wait for them.
            let work = async {
                if let Some(event) = event {
                    self.handle(event, report).await?;
                }
                self.unpark(report).await;
                Ok::<(), EngineError>(())
            };
            let cut = tokio::select! {
                result = work => {
                    result?;
                    false
                }
                _ = stop.wait_for(|stop| *stop) => true,
            };
            if cut {
                report.interrupted = true;
                break;
            }
            if self.commit_is_due() {
                self.commit(Vec::new(), report).await?;
            }
        }
        if report.interrupted {
            report.groups = 0;
            // Groups stay as they were: their positions may lie beyond what this commit holds.
            let commit = tokio::time::timeout(STOP_WITHIN, self.commit(Vec::new(), report));
            match commit.await {
                Ok(result) => result?,
                Err(_) => {
                    report.notes.push("what was not durable in time after the signal was abandoned".into())
                }
            }
        } else {
            self.commit(groups, report).await?;
            super::checkpoint(&mut self.vault, stop, report).await;
        }
        Ok(self.vault.receipt().clone())
    }

    fn wake(&self) -> Instant {
        let commit = self.committed_at + self.options.commit_interval;
        let parked = self.parked.iter().map(|(until, _)| *until).min();
        parked.map_or(commit, |parked| parked.min(commit)).max(Instant::now() + Duration::from_millis(5))
    }

    fn commit_is_due(&self) -> bool {
        let uncommitted = self.means.progress.snapshot().bytes - self.committed_bytes;
        uncommitted >= COMMIT_BYTES
            || (uncommitted > 0 && self.committed_at.elapsed() >= self.options.commit_interval)
    }

    async fn handle(&mut self, event: Event, report: &mut Report) -> Result<(), EngineError> {
        match event {
            Event::Done => {
                self.active -= 1;
                self.means.progress.partition_done();
            }
            Event::Back(task, trouble) => {
                self.active -= 1;
                self.look_after(*task, trouble, report).await;
            }
            Event::Rolled(rolled) => self.take(rolled, report),
            Event::Fatal(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives tasks to the workers of their leaders; those without a leader rest.
    fn dispatch(&mut self, tasks: Vec<Task>, report: &mut Report) {
        let layout = self.cluster.layout();
        let parts = self.means.pool.parts();
        // Each worker may hold one buffer while it waits for its broker; as many are kept for writing.
        let per_broker = (parts / 2 / layout.brokers.len().max(1)).clamp(1, self.options.connections.max(1));
        let mut by_worker: HashMap<(i32, usize), Vec<Task>> = HashMap::new();
        for mut task in tasks {
            match layout
                .partition(&task.tp)
                .and_then(|partition| Some((partition.leader?, partition.leader_epoch)))
            {
                Some((leader, epoch)) => {
                    task.leader_epoch = epoch;
                    let broker = task.elsewhere.or(task.near).unwrap_or(leader);
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
            let _ = self.worker(key).send(Order::Add(tasks));
        }
    }

    fn worker(&mut self, key: (i32, usize)) -> &mpsc::UnboundedSender<Order> {
        self.workers.entry(key).or_insert_with(|| {
            let (store, pool) = (Arc::clone(self.vault.store()), Arc::clone(&self.means.pool));
            let intake = Intake::new(store, pool, Arc::clone(&self.means.progress), self.options.exact_times);
            Worker::start(Arc::clone(&self.shared), key.0, intake, self.events.clone())
        })
    }

    /// Lets a task rest before its next try, unless it has been stuck for too long.
    fn park(&mut self, mut task: Task, error: &KafkaError, report: &mut Report) {
        let since = *task.stuck.get_or_insert_with(Instant::now);
        let patience = self.cluster.options().give_up_after;
        if since.elapsed() < patience {
            self.parked.push((Instant::now() + REST, task));
            return;
        }
        let message =
            format!("{}: gave up after {} s without progress: {error}", task.tp, patience.as_secs());
        self.give_up(&task, Issue::new("partition_unavailable", Severity::Failed, message), report);
    }

    fn give_up(&self, task: &Task, issue: Issue, report: &mut Report) {
        tracing::info!("{}", issue.message);
        let offset = issue.offset.or(Some(task.next));
        let issue = issue.at(&task.tp.topic, task.key.1, offset);
        let hint = issue.hint.clone().unwrap_or_else(|| "run again: it goes on from the last commit".into());
        report.errors.push(issue.hint(hint));
    }

    async fn unpark(&mut self, report: &mut Report) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.parked).into_iter().partition(|(at, _)| *at <= now);
        self.parked = later;
        if due.is_empty() {
            return;
        }
        let seen = self.cluster.layout();
        if let Err(error) = self.cluster.refresh(&seen).await {
            for (_, task) in due {
                // What no other try helps, such as a password that is no good any more, is not tried over and over.
                match error.retry_class() {
                    RetryClass::Never => {
                        let issue = Issue::new("partition_unreadable", Severity::Failed, error.to_string());
                        self.give_up(&task, issue, report);
                    }
                    _ => self.park(task, &error, report),
                }
            }
            return;
        }
        let layout = self.cluster.layout();
        let mut tasks = Vec::new();
        for (_, task) in due {
            match layout.topics.get(&task.tp.topic).map(|topic| topic.id) {
                Some(id) if id == task.fetch_id => tasks.push(task),
                found => self.park_or_lose(task, found.is_some(), report),
            }
        }
        self.dispatch(tasks, report);
    }

    /// The topic is not in the metadata, or is another one now. Metadata can be late, so it is asked for some time.
    fn park_or_lose(&mut self, task: Task, replaced: bool, report: &mut Report) {
        let what = if replaced { "was deleted and created again" } else { "was deleted" };
        let settled = task.stuck.is_some_and(|since| since.elapsed() > Duration::from_secs(5));
        if !settled {
            let error = KafkaError::NoRoute(format!("{}: topic {what}", task.tp));
            return self.park(task, &error, report);
        }
        let message = format!(
            "{}: the topic {what} during the run; offsets {}..{} were not read",
            task.tp, task.next, task.end
        );
        // As with retention: the source removed what had not been read.
        self.pending.rows.ranges.push(task.row(Kind::Gap(Reason::Retention), task.end));
        report.gaps.push(Gap::new(&task.tp.topic, task.key.1, task.next..task.end, Reason::Retention));
        let issue = Issue::new("topic_deleted", Severity::Missing, message);
        self.give_up(&task, issue.hint("what was read before is in the vault"), report);
    }

    async fn look_after(&mut self, task: Task, trouble: Trouble, report: &mut Report) {
        match trouble {
            Trouble::Nearer(replica) => self.read_near(task, replica, report),
            // Whatever it is, the leader may know better.
            trouble if task.near.is_some() && task.elsewhere.is_none() => {
                self.leave_near(task, &trouble, report);
            }
            Trouble::OtherReplica => self.ask_elsewhere(task, report),
            Trouble::Route(_) | Trouble::Hopeless(_) | Trouble::OutOfRange | Trouble::Diverged(_)
                if task.elsewhere.is_some() =>
            {
                self.ask_elsewhere(task, report);
            }
            Trouble::Leader => self.ask_leader(task, report),
            Trouble::Route(error) => self.park(task, &error, report),
            Trouble::OutOfRange => self.out_of_range(task, report).await,
            Trouble::Diverged(end) => {
                let message = format!(
                    "{}: the leader's log parts from what was read at offset {end}: it was truncated (an unclean leader election)",
                    task.tp
                );
                let issue = truncated(&task, message);
                self.give_up(&task, issue, report);
            }
            Trouble::Hopeless(error) => {
                let issue = Issue::new("partition_unreadable", Severity::Failed, error.to_string());
                self.give_up(&task, issue, report);
            }
            Trouble::BadBatch(what) => {
                let message = format!("{}: {what}", task.tp);
                let issue = Issue::new("bad_batch", Severity::Missing, message);
                let hint = "the partition is backed up to here; message formats 0 and 1 are not supported by this version; a damaged batch is passed by once a good one follows it";
                self.give_up(&task, issue.hint(hint), report);
            }
        }
    }

    /// The next replica may have a good batch where the others' is bad; after the last one it is the leader's again.
    fn ask_elsewhere(&mut self, mut task: Task, report: &mut Report) {
        let layout = self.cluster.layout();
        let other = layout.partition(&task.tp).and_then(|partition| {
            let asked = |id: &&i32| Some(**id) != partition.leader && !task.asked.contains(id);
            partition.replicas.iter().filter(|id| layout.brokers.contains_key(id)).find(asked).copied()
        });
        task.replicas_asked = other.is_none();
        task.asked.extend(other);
        task.elsewhere = other;
        self.dispatch(vec![task], report);
    }

    /// Reads from the replica in our rack.
    fn read_near(&mut self, mut task: Task, replica: i32, report: &mut Report) {
        if task.near.is_some() {
            return self.leave_near(task, &Trouble::Nearer(replica), report);
        }
        let known = self.cluster.layout().brokers.contains_key(&replica);
        if known && !self.shared.leaders_only.load(Ordering::Relaxed) {
            (task.near, task.stuck) = (Some(replica), None);
            self.dispatch(vec![task], report);
        } else {
            self.shared.leaders_only.store(true, Ordering::Relaxed);
            let error =
                KafkaError::NoRoute(format!("{}: its leader sends us on to broker {replica}", task.tp));
            self.park(task, &error, report);
        }
    }

    /// From now on all is read from leaders.
    fn leave_near(&mut self, mut task: Task, trouble: &Trouble, report: &mut Report) {
        let why = match trouble {
            Trouble::Route(error) | Trouble::Hopeless(error) => error.to_string(),
            other => format!("{other:?}"),
        };
        if !self.shared.leaders_only.swap(true, Ordering::Relaxed) {
            report.notes.push(format!(
                "{}: its replica in rack {} could not be read ({why}): the rest of the run reads from leaders",
                task.tp,
                self.cluster.options().rack
            ));
        }
        (task.near, task.stuck) = (None, None);
        self.dispatch(vec![task], report);
    }

    fn ask_leader(&mut self, mut task: Task, report: &mut Report) {
        task.elsewhere = None;
        self.dispatch(vec![task], report);
    }

    /// The log moved away under the cursor: retention, or truncation.
    async fn out_of_range(&mut self, mut task: Task, report: &mut Report) {
        let of = [task.tp.clone()];
        let start = self.cluster.list_offsets(&of, End::Earliest).await;
        let end = self.cluster.list_offsets(&of, End::HighWatermark).await;
        let offset = |answers: Result<bodley_io::kafka::offsets::Answers, KafkaError>| {
            answers.ok().and_then(|answers| answers.found.get(&task.tp).map(|found| found.offset))
        };
        match (offset(start), offset(end)) {
            (Some(start), _) if start > task.next => {
                self.pending.rows.ranges.push(task.row(Kind::Gap(Reason::Retention), start));
                report.gaps.push(Gap::new(&task.tp.topic, task.key.1, task.next..start, Reason::Retention));
                task.jump(start);
                if task.is_done() {
                    self.pending.rows.aborted.extend(task.aborted.take_rows(task.key, task.rewind));
                    self.means.progress.partition_done();
                } else {
                    self.dispatch(vec![task], report);
                }
            }
            (Some(_), Some(end)) if end < task.next => {
                let message = format!(
                    "{} ends at offset {end} but was read to {}: the source's log was truncated",
                    task.tp, task.next
                );
                let issue = truncated(&task, message);
                self.give_up(&task, issue, report);
            }
            (Some(_), Some(_)) if task.last_epoch >= 0 => {
                // In range after all: then it is the epoch of the last batch that is unknown there.
                task.last_epoch = -1;
                self.dispatch(vec![task], report);
            }
            _ => self.park(task, &KafkaError::NoRoute("offset out of range".into()), report),
        }
    }

    /// What is durable goes into the next commit, segments together with their rows.
    fn take(&mut self, rolled: Rolled, report: &mut Report) {
        for range in &rolled.ranges {
            if let Kind::Gap(reason) = range.kind {
                let topic = self.shared.topics.get(&range.topic).map_or("", |topic| topic.name.as_str());
                report.gaps.push(Gap::new(topic, range.partition, range.first..range.next, reason));
            }
        }
        report.objects += rolled.segments.len() as u64;
        let Addition { segments, rows } = &mut self.pending;
        segments.extend(rolled.segments);
        rows.ranges.extend(rolled.ranges);
        rows.aborted.extend(rolled.aborted);
    }

    /// Rolls all workers' segments and commits what they hand over.
    async fn commit(&mut self, groups: Vec<GroupRow>, report: &mut Report) -> Result<(), EngineError> {
        self.committed_bytes = self.means.progress.snapshot().bytes;
        let mut waiting = 0;
        for worker in self.workers.values() {
            waiting += usize::from(worker.send(Order::Roll).is_ok());
        }
        // Tasks that come back meanwhile are looked after when the commit stands.
        let mut later = Vec::new();
        while waiting > 0 {
            match self.inbox.recv().await {
                Some(Event::Rolled(rolled)) => {
                    waiting -= 1;
                    self.take(rolled, report);
                }
                Some(Event::Fatal(error)) => return Err(error),
                Some(other) => later.push(other),
                None => break,
            }
        }
        let Addition { segments, mut rows } = std::mem::take(&mut self.pending);
        rows.groups = groups;
        if !rows.is_empty() || !segments.is_empty() {
            merge_aborted(&mut rows);
            for range in &mut rows.ranges {
                // Tasks know the cursor that the run began at; earlier commits of this run have moved it.
                range.from = self.cursors.get(&(range.topic, range.partition)).copied().unwrap_or(range.from);
            }
            count(report, &rows);
            let moved: Vec<(PartKey, i64)> =
                rows.ranges.iter().map(|r| ((r.topic, r.partition), r.next)).collect();
            let receipt = self.vault.append(Addition { segments, rows }).await?;
            for (key, next) in moved {
                let cursor = self.cursors.entry(key).or_insert(next);
                *cursor = next.max(*cursor);
            }
            report.objects += 2;
            tracing::info!("commit {}", receipt.seq);
        }
        self.committed_at = Instant::now();
        for event in later {
            self.handle(event, report).await?;
        }
        Ok(())
    }
}

/// A task that moved between workers may have noted the same transaction twice: what saw the marker wins.
fn merge_aborted(rows: &mut Rows) {
    rows.aborted
        .sort_by_key(|row| (row.topic, row.partition, row.rewind, row.producer_id, row.first, row.marker));
    rows.aborted.dedup_by_key(|row| (row.topic, row.partition, row.rewind, row.producer_id, row.first));
}

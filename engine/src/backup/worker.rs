//! One connection to one broker and the partitions read over it: a task that fetches, rolls its segment when told, and gives back
//! partitions that it can't read here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bodley_io::kafka::fetch::Answer;
use bodley_io::kafka::{Cluster, Connection, KafkaError};
use bodley_io::latency::Kind as Latency;
use bodley_io::throttle::Throttle;
use bodley_protocol::fetch::{Isolation, Limits, Partition};
use bodley_protocol::{ErrorCode, RetryClass};
use tokio::sync::{mpsc, watch};

use super::hunt;
use super::intake::{Intake, Outcome};
use super::task::Task;
use crate::error::EngineError;
use crate::vault::commit::SegmentRef;
use crate::vault::rows::{AbortedRow, Kind, Range, TopicRow};
use crate::vault::segment::Footer;
use crate::vault::state::PartKey;

/// Bytes asked of one partition at a time: large, so that a request costs little; half a part buffer, so that parts fill well.
pub const PARTITION_BYTES: i32 = 4 << 20;
/// Bytes asked for by one request.
const RESPONSE_BYTES: i32 = 16 << 20;
/// Partitions asked of one request.
const PARTITIONS_PER_FETCH: usize = 400;
const MAX_WAIT_MS: i32 = 500;
/// A segment is closed at this size even without a commit.
const SEGMENT_BYTES: u64 = 1 << 30;
/// How often the broker must say that it has no batch up to the run's end, as after compaction.
const EMPTY_TRIES: u32 = 3;
/// A replica in our rack that lags behind its leader is waited for so long.
const NEAR_PATIENCE: Duration = Duration::from_secs(5);
/// A quota's pause is cut to this, so that a commit does not wait for it.
const LONGEST_THROTTLE: Duration = Duration::from_secs(5);

/// What a worker is told.
#[derive(Debug)]
pub enum Order {
    /// Read these.
    Add(Vec<Task>),
    /// Close the open segment and hand over everything since the last roll.
    Roll,
}

/// What a worker tells.
#[derive(Debug)]
pub enum Event {
    /// Everything since the last roll, durable.
    Rolled(Rolled),
    /// A task has reached its end.
    Done,
    /// It can't be read here, or not now.
    Back(Box<Task>, Trouble),
    /// Nothing more can be stored.
    Fatal(EngineError),
}

/// What keeps a task from being read.
#[derive(Debug)]
pub enum Trouble {
    /// The way to its leader; look for it and try again.
    Route(KafkaError),
    /// The offset is not in the log.
    OutOfRange,
    /// The leader's log is not the one that we read before: ours parts from it at this offset, if known.
    Diverged(i64),
    /// It cannot be read by this program or not at all.
    Hopeless(KafkaError),
    /// A batch that can't be stored and can't be skipped.
    BadBatch(String),
    /// The batch at `next` is bad here; another replica may have a good one.
    OtherReplica,
    /// Another replica had a good one: the leader is asked again.
    Leader,
    /// The leader would rather have it read from this replica.
    Nearer(i32),
}

/// What a roll hands over.
#[derive(Debug, Default)]
pub struct Rolled {
    /// Durable segments.
    pub segments: Vec<SegmentRef>,
    /// Their rows, and rows without chunks.
    pub ranges: Vec<Range>,
    /// New or closed aborted transactions.
    pub aborted: Vec<AbortedRow>,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The source.
    pub cluster: Arc<Cluster>,
    /// Topic rows by id, for footers.
    pub topics: std::collections::BTreeMap<bodley_protocol::TopicId, TopicRow>,
    /// Our id.
    pub writer: String,
    /// The commit that the run began at.
    pub base: u64,
    /// Turns true when the run is to end.
    pub stop: watch::Receiver<bool>,
    /// Bound on bytes read from the source.
    pub limit: Option<Arc<Throttle>>,
    /// A replica in our rack has failed us: leaders are to send us nowhere.
    pub leaders_only: AtomicBool,
}

/// Reads partitions whose leader is `broker`.
pub struct Worker {
    shared: Arc<Shared>,
    broker: i32,
    connection: Option<Connection>,
    intake: Intake,
    /// Keys of the intake's tasks; who was served goes to the back.
    queue: VecDeque<PartKey>,
    rolled: Rolled,
    events: mpsc::UnboundedSender<Event>,
}

impl Worker {
    /// Starts a worker; orders go to the sender, its end ends the worker.
    pub fn start(
        shared: Arc<Shared>,
        broker: i32,
        intake: Intake,
        events: mpsc::UnboundedSender<Event>,
    ) -> mpsc::UnboundedSender<Order> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let rolled = Rolled::default();
        let worker =
            Self { shared, broker, connection: None, intake, queue: VecDeque::new(), rolled, events };
        tokio::spawn(worker.run(inbox));
        orders
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        let stop = self.shared.stop.clone();
        loop {
            let idle = self.queue.is_empty() || *stop.borrow();
            let order = if idle { inbox.recv().await } else { inbox.try_recv().ok() };
            let result = match order {
                Some(Order::Add(tasks)) => {
                    for task in tasks {
                        self.queue.push_back(task.key);
                        self.intake.add(task);
                    }
                    Ok(())
                }
                Some(Order::Roll) => self.roll().await,
                None if idle => return,
                // Never dropped half-way: it may be handing a buffer to the store. Its waits end by themselves on a signal.
                None => self.round().await,
            };
            if let Err(error) = result {
                let _ = self.events.send(Event::Fatal(error));
                return;
            }
        }
    }

    /// One Fetch.
    async fn round(&mut self) -> Result<(), EngineError> {
        if self.connection.as_ref().is_none_or(Connection::is_dead) {
            let mut stop = self.shared.stop.clone();
            let connected = tokio::select! {
                connected = self.shared.cluster.connect(self.broker) => connected,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            match connected {
                Ok(mut connection) => {
                    connection.stop_when(stop);
                    self.connection = Some(connection);
                }
                Err(error) => return self.give_all_back(&error),
            }
        }
        let asked: Vec<PartKey> = self.queue.iter().take(PARTITIONS_PER_FETCH).copied().collect();
        let answer = self.fetch(&asked).await;
        let received = std::mem::take(&mut self.intake.received);
        let outcomes = std::mem::take(&mut self.intake.outcomes);
        let answer = match answer {
            Ok(answer) => answer,
            Err(EngineError::Kafka(KafkaError::Stopped)) => {
                self.connection = None;
                return self.settle(outcomes, false);
            }
            Err(EngineError::Kafka(error)) => {
                self.connection = None;
                self.settle(outcomes, false)?;
                return self.give_all_back(&error);
            }
            Err(error) => return Err(error),
        };
        self.intake.progress.latencies().record(Latency::Fetch, answer.took);
        if answer.error != ErrorCode::NONE {
            let code = answer.error;
            let subject = format!("broker {}", self.broker);
            return self.give_all_back(&KafkaError::Refused { api: "Fetch", subject, code, message: None });
        }
        // Empty can mean that a quota or the other partitions left no room; only an answer without any bytes says more.
        let conclusive = received == 0 && answer.throttle_ms == 0;
        self.note_the_stuck(&asked, &outcomes);
        self.settle(outcomes, conclusive)?;
        self.give_up_on_the_stuck();
        if self.intake.segment.as_ref().is_some_and(|segment| segment.len() >= SEGMENT_BYTES) {
            self.close_segment().await?;
        }
        pause(&self.shared, &answer).await;
        Ok(())
    }

    async fn fetch(&mut self, asked: &[PartKey]) -> Result<Answer, EngineError> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(KafkaError::NoRoute(format!("no connection to broker {}", self.broker)).into());
        };
        self.intake.expect(asked);
        connection.tell_rack(!self.shared.leaders_only.load(Ordering::Relaxed));
        // The request borrows nothing of the intake, which takes the answer.
        let tasks: Vec<_> = asked.iter().filter_map(|key| self.intake.tasks.get(key)).collect();
        let topics: Vec<Arc<str>> = tasks.iter().map(|task| Arc::clone(&task.tp.topic)).collect();
        let mut partitions: Vec<Partition<'_>> = tasks
            .iter()
            .zip(&topics)
            .map(|(task, topic)| {
                let (offset, last_fetched_epoch) = task.wanted();
                Partition {
                    topic,
                    topic_id: task.fetch_id,
                    partition: task.tp.partition,
                    offset,
                    leader_epoch: task.leader_epoch,
                    last_fetched_epoch,
                    max_bytes: PARTITION_BYTES,
                }
            })
            .collect();
        // Partitions of a topic stand together; among topics the queue's order stays, so that nobody starves.
        let rank: std::collections::HashMap<&str, usize> =
            partitions.iter().enumerate().rev().map(|(at, partition)| (partition.topic, at)).collect();
        partitions.sort_by_key(|partition| rank.get(partition.topic).copied());
        let isolation = Isolation::Committed;
        let limits = Limits { isolation, max_wait_ms: MAX_WAIT_MS, min_bytes: 1, max_bytes: RESPONSE_BYTES };
        connection.fetch(limits, &partitions, &mut self.intake).await
    }

    /// Acts on what the answer said of each partition. `conclusive`: an empty partition really has nothing there.
    fn settle(&mut self, outcomes: Vec<(PartKey, Outcome)>, conclusive: bool) -> Result<(), EngineError> {
        for (key, outcome) in outcomes {
            let Some(task) = self.intake.tasks.get_mut(&key) else { continue };
            let trouble = match outcome {
                Outcome::Progress if task.elsewhere.is_some() && !task.is_done() => Some(Trouble::Leader),
                Outcome::Progress => {
                    self.queue.retain(|other| *other != key);
                    self.queue.push_back(key);
                    None
                }
                // What a follower does not have, the leader may have.
                Outcome::Cut | Outcome::Empty(_) | Outcome::Ended if task.elsewhere.is_some() => {
                    Some(Trouble::OtherReplica)
                }
                Outcome::Cut => None,
                Outcome::Empty(lso) => {
                    task.empty_tries += u32::from(conclusive && lso >= task.end);
                    if task.empty_tries >= EMPTY_TRIES {
                        skip_to_end(task, &mut self.rolled.ranges);
                    }
                    None
                }
                Outcome::Nearer(replica) => Some(Trouble::Nearer(replica)),
                Outcome::Hunted(good) => hunt::go_on(task, good, &mut self.rolled.ranges),
                Outcome::Ended => {
                    skip_to_end(task, &mut self.rolled.ranges);
                    None
                }
                Outcome::Code(ErrorCode::OFFSET_OUT_OF_RANGE) => Some(Trouble::OutOfRange),
                Outcome::Code(code) => {
                    let error = KafkaError::Refused {
                        api: "Fetch",
                        subject: task.tp.to_string(),
                        code,
                        message: None,
                    };
                    Some(match code.retry_class() {
                        RetryClass::Never if code != ErrorCode(-1) => Trouble::Hopeless(error),
                        _ => Trouble::Route(error),
                    })
                }
                Outcome::Diverged(end) => Some(Trouble::Diverged(end)),
                Outcome::Bad(bad, behind) => hunt::bad_batch(task, &bad, behind, &mut self.rolled.ranges),
            };
            match trouble {
                Some(trouble) => self.give_back(key, trouble),
                None if self.intake.tasks.get(&key).is_some_and(Task::is_done) => self.finish(key),
                None => {}
            }
        }
        Ok(())
    }

    /// The first batch of an answer is always a whole one. When nobody went on, who is not at its end now is stuck, unless it turns out
    /// to be empty; that a quota leaves nobody any room is no better. While others go on, who waits for a turn is not stuck.
    fn note_the_stuck(&mut self, asked: &[PartKey], outcomes: &[(PartKey, Outcome)]) {
        let progress = outcomes.iter().any(|(_, outcome)| outcome.is_progress());
        let refused = |key: &PartKey| outcomes.iter().any(|(k, o)| k == key && matches!(o, Outcome::Code(_)));
        for key in asked {
            let refused = progress && refused(key);
            let Some(task) = self.intake.tasks.get_mut(key) else { continue };
            match progress {
                true if !refused => task.stuck = None,
                true => {}
                false => _ = task.stuck.get_or_insert_with(Instant::now),
            }
        }
    }

    /// Partitions for which the broker has long had neither data nor an error go back to the run, which gives up on them.
    fn give_up_on_the_stuck(&mut self) {
        let patience = self.shared.cluster.options().give_up_after;
        let stuck = |task: &&Task| {
            let patience = if task.near.is_some() { NEAR_PATIENCE.min(patience) } else { patience };
            task.stuck.is_some_and(|since| since.elapsed() > patience)
        };
        let stuck: Vec<PartKey> = self.intake.tasks.values().filter(stuck).map(|task| task.key).collect();
        for key in stuck {
            let what = format!("broker {} has no data below the end that it told before", self.broker);
            self.give_back(key, Trouble::Route(KafkaError::NoRoute(what)));
        }
    }

    fn finish(&mut self, key: PartKey) {
        if let Some(mut task) = self.drop_task(key) {
            self.rolled.aborted.extend(task.aborted.take_rows(key, task.rewind));
        }
        let _ = self.events.send(Event::Done);
    }

    fn give_back(&mut self, key: PartKey, trouble: Trouble) {
        if let Some(mut task) = self.drop_task(key) {
            self.rolled.aborted.extend(task.aborted.take_rows(key, task.rewind));
            let _ = self.events.send(Event::Back(Box::new(task), trouble));
        }
    }

    fn drop_task(&mut self, key: PartKey) -> Option<Task> {
        self.queue.retain(|other| *other != key);
        self.intake.tasks.remove(&key)
    }

    fn give_all_back(&mut self, error: &KafkaError) -> Result<(), EngineError> {
        tracing::info!("broker {}: {error}", self.broker);
        for key in std::mem::take(&mut self.queue) {
            let again = KafkaError::NoRoute(format!("broker {}: {error}", self.broker));
            let trouble = match error.retry_class() {
                RetryClass::Never => Trouble::Hopeless(again),
                _ => Trouble::Route(again),
            };
            self.give_back(key, trouble);
        }
        Ok(())
    }

    async fn roll(&mut self) -> Result<(), EngineError> {
        self.close_segment().await?;
        for (key, task) in &mut self.intake.tasks {
            self.rolled.aborted.extend(task.aborted.take_rows(*key, task.rewind));
        }
        let _ = self.events.send(Event::Rolled(std::mem::take(&mut self.rolled)));
        Ok(())
    }

    async fn close_segment(&mut self) -> Result<(), EngineError> {
        let Some(segment) = self.intake.segment.take().filter(|segment| !segment.is_empty()) else {
            return Ok(());
        };
        let topics: Vec<TopicRow> =
            segment.topics().iter().filter_map(|id| self.shared.topics.get(id)).cloned().collect();
        let footer = Footer { topics: &topics, writer: &self.shared.writer, base: self.shared.base };
        let (segment, ranges) = segment.finish(footer).await?;
        self.rolled.segments.push(segment);
        self.rolled.ranges.extend(ranges);
        Ok(())
    }
}

/// Waits as the user's limit and the broker's quota demand, unless the run is to end.
async fn pause(shared: &Shared, answer: &Answer) {
    let mut stop = shared.stop.clone();
    let pause = async {
        if let Some(limit) = &shared.limit {
            limit.take(answer.bytes as u64).await;
        }
        let throttle = Duration::from_millis(answer.throttle_ms.max(0) as u64);
        let longest = LONGEST_THROTTLE.min(shared.cluster.options().give_up_after);
        tokio::time::sleep(throttle.min(longest)).await;
    };
    tokio::select! {
        () = pause => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// The broker has no batch from `next` to the run's end.
fn skip_to_end(task: &mut Task, ranges: &mut Vec<Range>) {
    ranges.push(task.row(Kind::Empty, task.end));
    (task.next, task.last_epoch) = (task.end, -1);
}

//! One connection to one broker and the partitions read over it: a task that fetches, rolls its segment when told, and gives back
//! partitions that it can't read here. (What it makes of an answer: `settle.rs`.)
//!
//! While it waits for its broker it still takes orders, so that a broker that is slow or gone holds up nobody's commit.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use bodley_io::kafka::fetch::Answer;
use bodley_io::kafka::{Cluster, Connection, KafkaError, Layout};
use bodley_io::latency::Kind as Latency;
use bodley_io::throttle::Throttle;
use bodley_protocol::fetch::{Isolation, Limits};
use bodley_protocol::messages::FetchRequest;
use bodley_protocol::{ErrorCode, TopicId};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};

use super::intake::Intake;
use super::plan::Topics;
use super::session::{Book, Request};
use super::task::Task;
use super::troubles::Watches;
use crate::error::EngineError;
use crate::vault::commit::SegmentRef;
use crate::vault::now_ms;
use crate::vault::rows::{AbortedRow, Range, TopicRow};
use crate::vault::segment::Footer;
use crate::vault::state::PartKey;

/// Bytes asked of one partition at a time: large, so that a request costs little; half a part buffer, so that parts fill well.
pub const PARTITION_BYTES: i32 = 4 << 20;
/// Bytes asked for by one request.
pub const RESPONSE_BYTES: i32 = 16 << 20;
/// A segment is closed at this size even without a commit.
const SEGMENT_BYTES: u64 = 1 << 30;
/// Not every server waits until it has something to say.
const AFTER_NOTHING: Duration = Duration::from_millis(50);
/// A quota's pause that is longer is not believed. Until it is over the broker does not read from the connection.
const LONGEST_THROTTLE: Duration = Duration::from_secs(600);

/// After a replica in our rack could not be read, leaders are read for so long.
pub const LEADERS_FOR: Duration = Duration::from_secs(300);

/// A broker that refuses so many new sessions in a row has another trouble.
const SESSION_TRIES: u32 = 3;

/// Which of the connections to which broker.
pub type WorkerKey = (i32, usize);

/// What a worker is told.
#[derive(Debug)]
pub enum Order {
    /// Read these; the orders of this kind are numbered from 1.
    Add(Vec<Task>, u64),
    /// Give back what is read of these topics.
    Drop(Arc<BTreeSet<TopicId>>),
    /// Close the open segment and hand over everything since the last roll, under this number.
    Roll(u64),
}

/// What a worker, or another task of the run, tells.
#[derive(Debug)]
pub enum Event {
    /// Everything since the last roll, durable.
    Rolled(Rolled),
    /// A connection is there whose broker's Fetch looks at so much by itself.
    Reads(Watches),
    /// A task has reached its end.
    Done,
    /// It can't be read here, or not now. All that was read of it has been handed over before.
    Back(Box<Task>, Trouble),
    /// The cluster has been asked for its layout.
    Refreshed(Result<(), KafkaError>),
    /// Partitions have been looked at.
    Surveyed(Result<Box<super::survey::Surveyed>, EngineError>),
    /// Groups have been read.
    Groups(Result<super::follow::Positions, EngineError>),
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
    /// The leader's log is not the one that we read before.
    Diverged,
    /// It cannot be read by this program or not at all.
    Hopeless(KafkaError),
    /// A batch that can't be stored and can't be skipped.
    BadBatch(String),
    /// The batch at `next` is bad here; another replica may have a good one.
    OtherReplica,
    /// The leader is to be asked again, in place of another replica.
    Leader,
    /// The leader would rather have it read from this replica.
    Nearer(i32),
    /// The topic is not there any more.
    Gone,
}

/// What a roll hands over.
#[derive(Debug, Default)]
pub struct Rolled {
    /// Who.
    pub worker: WorkerKey,
    /// The number of the order; 0: without one.
    pub number: u64,
    /// The newest order to add that has been obeyed.
    pub added: u64,
    /// Durable segments.
    pub segments: Vec<SegmentRef>,
    /// Their rows, and rows without chunks.
    pub ranges: Vec<Range>,
    /// New or closed aborted transactions.
    pub aborted: Vec<AbortedRow>,
    /// Of the worker's tasks: all that was stable then has been read (ms of our clock; 0: not yet); `None`: it has no tasks.
    pub complete: Option<i64>,
    /// Partitions that could be read since.
    pub well: Vec<PartKey>,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The source.
    pub cluster: Arc<Cluster>,
    /// Topic rows by id, for footers.
    pub topics: RwLock<Arc<Topics>>,
    /// Our id.
    pub writer: String,
    /// The commit that the run began at.
    pub base: u64,
    /// Turns true when the run is to end.
    pub stop: watch::Receiver<bool>,
    /// Bound on bytes read from the source.
    pub limit: Option<Arc<Throttle>>,
    /// When a replica in our rack failed us: leaders are to send us nowhere for [`LEADERS_FOR`].
    pub near_failed: Mutex<Option<Instant>>,
    /// All brokers that answered at the begin compare logs by themselves.
    pub compares_logs: bool,
    /// How the broker is to wait for data.
    pub pace: Pace,
}

impl Shared {
    /// The run's topics as they are known now.
    pub fn topics(&self) -> Arc<Topics> {
        Arc::clone(&self.topics.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether leaders are to send us nowhere.
    pub fn leaders_only(&self) -> bool {
        let failed = self.near_failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|at| at.elapsed() < LEADERS_FOR)
    }

    /// From now on that is so for some time; whether it was already.
    pub fn read_leaders(&self) -> bool {
        let mut failed = self.near_failed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failed.replace(Instant::now());
        before.is_some_and(|at| at.elapsed() < LEADERS_FOR)
    }

    /// The most that is asked for at once: of a bound on bytes per second, no more than a part of a second's.
    fn response_bytes(&self) -> i32 {
        let part = self.limit.as_ref().map_or(u64::MAX, |limit| limit.rate() / 2);
        part.clamp(64 << 10, RESPONSE_BYTES as u64) as i32
    }

    /// Others take their place.
    pub fn set_topics(&self, topics: Arc<Topics>) {
        *self.topics.write().unwrap_or_else(PoisonError::into_inner) = topics;
    }
}

/// How a broker is to wait for data.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The run goes on: fetch sessions are kept.
    pub goes_on: bool,
    /// At most so long, ms.
    pub wait_ms: i32,
    /// Unless there are so many bytes.
    pub min_bytes: i32,
}

/// Reads partitions whose leader is `broker`.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    key: WorkerKey,
    connection: Option<Connection>,
    pub(super) book: Book,
    pub(super) intake: Intake,
    /// Keys of the intake's tasks; who was served goes to the back.
    pub(super) queue: VecDeque<PartKey>,
    pub(super) rolled: Rolled,
    /// The newest order to add that has been obeyed.
    added: u64,
    /// Sessions refused in a row.
    refusals: u32,
    /// The layout by which leaders were looked at last.
    pub(super) seen: Weak<Layout>,
    /// Its broker was found not to compare logs, against what was known at the begin.
    doubts: bool,
    pub(super) events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Order>,
}

impl Worker {
    /// Starts a worker; orders go to the sender, its end ends the worker.
    pub fn start(
        shared: Arc<Shared>,
        key: WorkerKey,
        intake: Intake,
        events: mpsc::UnboundedSender<Event>,
    ) -> mpsc::UnboundedSender<Order> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let book = Book::new(shared.pace.goes_on);
        let (queue, rolled) = (VecDeque::new(), Rolled::default());
        let worker = Self {
            shared,
            key,
            connection: None,
            book,
            intake,
            queue,
            rolled,
            added: 0,
            refusals: 0,
            seen: Weak::new(),
            doubts: false,
            events,
            inbox,
        };
        tokio::spawn(worker.run());
        orders
    }

    pub(super) fn broker(&self) -> i32 {
        self.key.0
    }

    async fn run(mut self) {
        let stop = self.shared.stop.clone();
        loop {
            let idle = self.queue.is_empty() || *stop.borrow();
            let order = match idle {
                true => self.inbox.recv().await,
                false => match self.inbox.try_recv() {
                    Err(TryRecvError::Disconnected) => return,
                    order => order.ok(),
                },
            };
            let result = match order {
                Some(order) => self.obey(order).await,
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

    async fn obey(&mut self, order: Order) -> Result<(), EngineError> {
        match order {
            Order::Add(tasks, number) => {
                self.added = number;
                for task in tasks {
                    self.queue.push_back(task.key);
                    self.intake.add(task);
                }
                if self.doubts { self.doubt_all().await } else { Ok(()) }
            }
            Order::Drop(topics) => {
                let gone = self.queue.iter().filter(|(topic, _)| topics.contains(topic));
                let gone = gone.map(|key| (*key, Trouble::Gone)).collect();
                self.give_back(gone).await
            }
            Order::Roll(number) => self.roll(number).await,
        }
    }

    /// Waits for `work`, which does not touch what orders do, and obeys orders meanwhile. `None`: the run is over.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<Option<T>, EngineError> {
        tokio::pin!(work);
        loop {
            let order = tokio::select! {
                biased;
                done = &mut work => return Ok(Some(done)),
                order = self.inbox.recv() => order,
            };
            match order {
                Some(order) => self.obey(order).await?,
                None => return Ok(None),
            }
        }
    }

    /// A connection that lives; `None`: the run is to end, or the tasks have been given back.
    async fn connected(&mut self) -> Result<Option<Connection>, EngineError> {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_dead()) {
            return Ok(Some(connection));
        }
        self.book = Book::new(self.shared.pace.goes_on);
        let (cluster, broker) = (Arc::clone(&self.shared.cluster), self.broker());
        let mut stop = self.shared.stop.clone();
        let connect = async {
            tokio::select! {
                connected = cluster.connect(broker) => Some(connected),
                _ = stop.wait_for(|stop| *stop) => None,
            }
        };
        match self.attend(connect).await?.flatten() {
            Some(Ok(mut connection)) => {
                connection.stop_when(self.shared.stop.clone());
                // Before anything is read over it. What it does not speak at all the first request says.
                if let Ok(version) = connection.version::<FetchRequest>(i16::MAX) {
                    let watches = Watches::of(version);
                    let _ = self.events.send(Event::Reads(watches));
                    if self.shared.compares_logs
                        && !watches.logs
                        && !std::mem::replace(&mut self.doubts, true)
                    {
                        self.connection = Some(connection);
                        return self.doubt_all().await.map(|()| None);
                    }
                }
                Ok(Some(connection))
            }
            Some(Err(error)) => {
                self.give_all_back(&error).await?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Nobody compared the broker's logs with what was read before: the run is to do it.
    async fn doubt_all(&mut self) -> Result<(), EngineError> {
        let known = self.intake.tasks.values().filter(|task| task.last_epoch >= 0 && task.is_compared);
        let known = known.map(|task| (task.key, Trouble::Diverged)).collect();
        self.give_back(known).await
    }

    /// One Fetch.
    async fn round(&mut self) -> Result<(), EngineError> {
        let Some(mut connection) = self.connected().await? else { return Ok(()) };
        let request = self.book.next(&self.queue, &self.intake.tasks);
        self.intake.expect(&request.keys);
        let asked_at = now_ms();
        let Some(answer) = self.fetch(&mut connection, &request).await? else { return Ok(()) };
        let received = std::mem::take(&mut self.intake.received);
        let outcomes = std::mem::take(&mut self.intake.outcomes);
        // Before anybody is told of it: the run's end waits for what is not paid for.
        let bytes = answer.as_ref().map_or(received, |answer| answer.bytes) as u64;
        let paid = self.shared.limit.as_ref().map(|limit| limit.charge(bytes));
        let answer = match answer {
            Ok(answer) => answer,
            Err(EngineError::Kafka(KafkaError::Stopped)) => return self.settle(outcomes, false).await,
            Err(EngineError::Kafka(error)) => {
                self.shared.cluster.has_failed(self.broker(), &error);
                self.settle(outcomes, false).await?;
                return self.give_all_back(&error).await;
            }
            Err(error) => return Err(error),
        };
        let health = self.shared.cluster.health();
        health.requests(self.broker(), received as u64, answer.throttle_ms);
        self.connection = Some(connection);
        self.intake.progress.latencies().record(Latency::Fetch, answer.took);
        self.refusals = if answer.error.is_of_session() { self.refusals + 1 } else { 0 };
        if request.is_of_session() && (1..=SESSION_TRIES).contains(&self.refusals) {
            self.book.forget();
            return self.pause(&answer, (received, paid)).await;
        }
        if answer.error != ErrorCode::NONE {
            let (code, subject) = (answer.error, format!("broker {}", self.broker()));
            self.book.forget();
            let refused = KafkaError::Refused { api: "Fetch", subject, code, message: None };
            return self.give_all_back(&refused).await;
        }
        // Empty can mean that a quota or the other partitions left no room; only an answer without any bytes says more.
        let conclusive = received == 0 && answer.throttle_ms == 0;
        if self.shared.pace.goes_on {
            let has_room = answer.throttle_ms == 0 && received < self.shared.response_bytes() as usize / 2;
            let silent_is_well = has_room && request.is_of_session();
            self.note_the_complete(&request.keys, &outcomes, (asked_at, silent_is_well));
        } else {
            self.note_the_stuck(&request.keys, &outcomes);
        }
        let turn = (request.keys.len() < self.queue.len()).then(|| request.keys.clone());
        self.book.answered(request, &answer);
        self.settle(outcomes, conclusive).await?;
        if let Some(asked) = turn {
            self.make_way(asked);
        }
        self.give_up_on_the_stuck().await?;
        if self.intake.segment.as_ref().is_some_and(|segment| segment.len() >= SEGMENT_BYTES) {
            self.close_segment().await?;
        }
        self.pause(&answer, (received, paid)).await
    }

    /// Waits as the user's limit and the broker's quota demand, unless the run is to end. `received`: bytes of records; `paid`: when what was read
    /// so far is within the limit.
    async fn pause(
        &mut self,
        answer: &Answer,
        (received, paid): (usize, Option<Instant>),
    ) -> Result<(), EngineError> {
        let throttle = Duration::from_millis(answer.throttle_ms.max(0) as u64);
        let longest = LONGEST_THROTTLE.min(self.shared.cluster.options().give_up_after);
        let least = if received == 0 { AFTER_NOTHING } else { Duration::ZERO };
        let mut stop = self.shared.stop.clone();
        let pause = async {
            let rest = async {
                if let Some(paid) = paid {
                    tokio::time::sleep_until(paid.into()).await;
                }
                tokio::time::sleep(throttle.min(longest).max(least)).await;
            };
            tokio::select! {
                () = rest => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        };
        self.attend(pause).await.map(|_| ())
    }

    /// Asks and takes the answer. `None`: the run is over.
    async fn fetch(
        &mut self,
        connection: &mut Connection,
        request: &Request,
    ) -> Result<Option<Result<Answer, EngineError>>, EngineError> {
        connection.tell_rack(!self.shared.leaders_only());
        let Pace { wait_ms, min_bytes, .. } = self.shared.pace;
        let limits = Limits {
            isolation: Isolation::Committed,
            max_wait_ms: wait_ms,
            min_bytes,
            max_bytes: self.shared.response_bytes(),
        };
        let (said, forgotten) = request.partitions();
        let asked = request.asked(&said, &forgotten);
        let asking = self.shared.cluster.asking(self.broker());
        let coming = self.attend(connection.ask(limits, &asked)).await?;
        drop(asking);
        match coming {
            Some(Ok(coming)) => Ok(Some(connection.take(coming, &mut self.intake).await)),
            Some(Err(error)) => Ok(Some(Err(error.into()))),
            None => Ok(None),
        }
    }

    /// Hands over everything since the last roll.
    pub(super) async fn roll(&mut self, number: u64) -> Result<(), EngineError> {
        self.close_segment().await?;
        for (key, task) in &mut self.intake.tasks {
            self.rolled.aborted.extend(task.aborted.take_rows(*key, task.rewind));
        }
        let complete = self.intake.tasks.values().map(|task| task.complete).min();
        let (worker, added) = (self.key, self.added);
        let rolled = Rolled { worker, number, added, complete, ..std::mem::take(&mut self.rolled) };
        let _ = self.events.send(Event::Rolled(rolled));
        Ok(())
    }

    /// The same, if there is anything of these partitions.
    pub(super) async fn roll_if_any_of(&mut self, keys: &BTreeSet<PartKey>) -> Result<(), EngineError> {
        let open = self.intake.segment.iter().flat_map(|segment| segment.rows());
        let ranges = open.chain(&self.rolled.ranges).map(|row| (row.topic, row.partition));
        let aborted = self.rolled.aborted.iter().map(|row| (row.topic, row.partition));
        let any = ranges.chain(aborted).any(|key| keys.contains(&key));
        if any { self.roll(0).await } else { Ok(()) }
    }

    async fn close_segment(&mut self) -> Result<(), EngineError> {
        let Some(segment) = self.intake.segment.take().filter(|segment| !segment.is_empty()) else {
            return Ok(());
        };
        let known = self.shared.topics();
        let topics: Vec<TopicRow> = segment.topics().iter().filter_map(|id| known.get(id)).cloned().collect();
        let footer = Footer { topics: &topics, writer: &self.shared.writer, base: self.shared.base };
        let (segment, ranges) = segment.finish(footer).await?;
        self.rolled.segments.push(segment);
        self.rolled.ranges.extend(ranges);
        Ok(())
    }
}

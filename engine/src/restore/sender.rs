//! One connection to one broker of the target: keeps Produce requests in flight, and matches answers with what was sent.
//!
//! Several partitions share a request. After an error nothing more of that partition is sent from here: it goes back to the run, which finds out
//! what is stored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::kafka::produce::{Ack, Acks};
use bodley_io::kafka::{Cluster, Connection, KafkaError, TopicPartition};
use bodley_io::latency::Kind;
use bodley_io::throttle::Throttle;
use bodley_protocol::produce::Target;
use bodley_protocol::{ErrorCode, NO_TOPIC_ID, RetryClass};
use tokio::sync::{mpsc, watch};

use super::ahead::Source;
use super::job::{IN_FLIGHT, Job, next_ready, take};
use super::outgo::{self, Order};
use crate::error::EngineError;
use crate::progress::Progress;

/// Bytes of batches in one request, unless the first alone is larger.
const REQUEST_BYTES: usize = 1 << 20;
/// Partitions in one request.
const REQUEST_BATCHES: usize = 64;
/// Partitions that are worked on at a time, if there are so many.
const ACTIVE: usize = 8;
/// As many when they are so small that these alone can't be read far enough ahead: with fewer bytes in all of them than these, up to so many.
const SMALL_ACTIVE: (u64, usize) = (32 << 20, 64);
/// Answers are awaited so long after a signal.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// With one of these nothing was stored.
const NOT_STORED: [ErrorCode; 5] = [
    ErrorCode::NOT_ENOUGH_REPLICAS,
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::MESSAGE_TOO_LARGE,
    ErrorCode::INVALID_TIMESTAMP,
    ErrorCode::INVALID_RECORD,
];
/// What an idempotent producer meets when a batch before is missing, or when its state is gone.
const SEQUENCE_ERRORS: [ErrorCode; 3] = [
    ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
    ErrorCode::DUPLICATE_SEQUENCE_NUMBER,
    ErrorCode::UNKNOWN_PRODUCER_ID,
];

/// What a sender tells.
#[derive(Debug)]
pub enum Event {
    /// All of a partition is acknowledged.
    Done(Box<Job>),
    /// It is not known what is stored of it, or its leader is elsewhere.
    Back(Box<Job>, KafkaError),
    /// The restore cannot go on.
    Fatal(EngineError),
    /// After a signal: nothing is in flight any more. The partitions as they stand.
    Stopped(Vec<Job>),
}

/// What all senders share.
#[derive(Debug)]
pub struct Shared {
    /// The target.
    pub cluster: Arc<Cluster>,
    /// Where batches come from.
    pub source: Source,
    /// Counters.
    pub progress: Arc<Progress>,
    /// Turns true when the run is to end.
    pub stop: watch::Receiver<bool>,
    /// Bound on bytes written to the target.
    pub limit: Option<Arc<Throttle>>,
}

/// Sends partitions whose leader is `broker`.
pub struct Sender {
    shared: Arc<Shared>,
    broker: i32,
    connection: Option<Connection>,
    version: i16,
    waiting: VecDeque<Job>,
    active: Vec<Job>,
    /// Partitions of the requests in flight, the oldest first.
    sent: VecDeque<Vec<TopicPartition>>,
    /// Who comes first in the next request.
    turn: usize,
    /// The broker takes batches here, and some that wait for their turn may think that it does not.
    works: bool,
    /// A quota holds us back until then.
    held_until: Option<Instant>,
    orders: mpsc::UnboundedReceiver<Vec<Job>>,
    events: mpsc::UnboundedSender<Event>,
}

impl Sender {
    /// Starts a sender; its end of orders ends it.
    pub fn start(
        shared: Arc<Shared>,
        broker: i32,
        events: mpsc::UnboundedSender<Event>,
    ) -> mpsc::UnboundedSender<Vec<Job>> {
        let (inlet, orders) = mpsc::unbounded_channel();
        let sender = Self {
            shared,
            broker,
            connection: None,
            version: 0,
            waiting: VecDeque::new(),
            active: Vec::new(),
            sent: VecDeque::new(),
            turn: 0,
            works: false,
            held_until: None,
            orders,
            events,
        };
        tokio::spawn(sender.run());
        inlet
    }

    async fn run(mut self) {
        let mut stop = self.shared.stop.clone();
        loop {
            if *stop.borrow() {
                self.drain().await;
                self.stopped();
                return;
            }
            while let Ok(jobs) = self.orders.try_recv() {
                self.take_on(jobs);
            }
            if self.waiting.is_empty() && self.active.is_empty() {
                tokio::select! {
                    jobs = self.orders.recv() => match jobs {
                        Some(jobs) => self.take_on(jobs),
                        None => return,
                    },
                    _ = stop.wait_for(|stop| *stop) => {}
                }
                continue;
            }
            let overdue = async {
                let _ = stop.wait_for(|stop| *stop).await;
                tokio::time::sleep(STOP_WITHIN).await;
            };
            let result = tokio::select! {
                result = self.step() => result,
                () = overdue => {
                    self.stopped();
                    return;
                }
            };
            if let Err(error) = result {
                match error {
                    // What no other try helps, such as a password that is no good any more, is not tried over and over.
                    EngineError::Kafka(error) if error.retry_class() != RetryClass::Never => {
                        self.give_all_back(&error);
                    }
                    error => {
                        let _ = self.events.send(Event::Fatal(error));
                        return;
                    }
                }
            }
        }
    }

    /// Sends one request, or takes one answer, or waits for something to send.
    async fn step(&mut self) -> Result<(), EngineError> {
        if self.connection.as_ref().is_none_or(Connection::is_dead) {
            let connection = self.shared.cluster.connect(self.broker).await?;
            let ids = self.waiting.iter().chain(&self.active).all(|job| job.topic_id != NO_TOPIC_ID);
            self.version = connection.produce_version(ids)?;
            self.connection = Some(connection);
            self.held_until = None;
            self.sent.clear();
        }
        self.activate();
        self.fail_the_unanswered();
        self.take_ready()?;
        self.retire();
        let in_flight = self.connection.as_ref().map_or(0, Connection::in_flight);
        // A session that is to be renewed is, by the first request that finds nothing in flight.
        let held = self.held();
        if in_flight == 0 && !held.is_zero() {
            tokio::time::sleep(held).await;
        }
        let full = in_flight >= IN_FLIGHT
            || in_flight > 0 && !held.is_zero()
            || in_flight > 0 && self.connection.as_ref().is_some_and(Connection::is_renewal_due);
        let picks = if full { Vec::new() } else { self.pick() };
        if !picks.is_empty() {
            self.send(picks).await
        } else if in_flight > 0 {
            self.receive().await
        } else if self.active.is_empty() {
            Ok(())
        } else {
            // Those that come back hold buffers, for which the ones here may be waiting.
            tokio::select! {
                ready = next_ready(&mut self.active, &self.shared.progress) => ready,
                Some(jobs) = self.orders.recv() => {
                    self.take_on(jobs);
                    Ok(())
                }
            }
        }
    }

    /// How long a quota still holds us back.
    fn held(&self) -> Duration {
        self.held_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Takes partitions on. Those begun elsewhere hold buffers, which they give back only by being sent: they never wait.
    fn take_on(&mut self, jobs: Vec<Job>) {
        self.works = false;
        for job in jobs {
            if job.inbox.is_some() {
                self.active.push(job);
            } else {
                self.waiting.push_back(job);
            }
        }
    }

    /// Begins partitions up to a number.
    fn activate(&mut self) {
        while self.wants_more() {
            let Some(mut job) = self.waiting.pop_front() else { break };
            let order = Order { tp: job.tp.clone(), work: Arc::clone(&job.work), stand: job.stand.clone() };
            job.inbox = Some(outgo::start(self.shared.source.clone(), order));
            self.active.push(job);
        }
    }

    fn wants_more(&self) -> bool {
        let (bytes, most) = SMALL_ACTIVE;
        let begun = || self.active.iter().map(|job| job.bytes).fold(0, u64::saturating_add);
        self.active.len() < ACTIVE || self.active.len() < most && begun() < bytes
    }

    /// An answer that left a partition out says nothing of it: the leader is asked.
    fn fail_the_unanswered(&mut self) {
        if self.connection.as_ref().is_some_and(|connection| connection.in_flight() > 0) {
            return;
        }
        for job in self.active.iter_mut().filter(|job| job.outstanding > 0) {
            (job.outstanding, job.unclear) = (0, true);
            let what = format!("a Produce answer left {} out", job.tp);
            job.failed.get_or_insert(KafkaError::NoRoute(what));
        }
    }

    /// Takes what is prepared, without waiting.
    fn take_ready(&mut self) -> Result<(), EngineError> {
        for job in self.active.iter_mut().filter(|job| job.ready.is_empty() && !job.exhausted) {
            if let Some(handed) = job.inbox.as_mut().and_then(|inbox| inbox.try_recv().ok()) {
                take(job, handed?, &self.shared.progress);
            }
        }
        Ok(())
    }

    /// Lets go of partitions that are done, and of failed ones of which nothing is in flight.
    fn retire(&mut self) {
        let mut at = 0;
        while let Some(job) = self.active.get(at) {
            let gone = job.is_done() || (job.failed.is_some() && job.outstanding == 0);
            if !gone {
                at += 1;
                continue;
            }
            let mut job = self.active.swap_remove(at);
            let event = match job.failed.take() {
                Some(error) => Event::Back(Box::new(job), error),
                None => Event::Done(Box::new(job)),
            };
            let _ = self.events.send(event);
        }
    }

    /// Partitions with a batch for the next request, each once, beginning with another one each time.
    fn pick(&mut self) -> Vec<usize> {
        let n = self.active.len().max(1);
        self.turn = (self.turn + 1) % n;
        let mut bytes = 0;
        let mut picks = Vec::new();
        for at in (0..n).map(|i| (self.turn + i) % n) {
            let Some(job) = self.active.get(at).filter(|job| job.may_send()) else { continue };
            let len = job.ready.front().map_or(0, |batch| batch.bytes().len());
            if !picks.is_empty() && (bytes + len > REQUEST_BYTES || picks.len() >= REQUEST_BATCHES) {
                continue;
            }
            bytes += len;
            picks.push(at);
        }
        // Partitions of one topic stand together.
        picks.sort_by(|a, b| self.tp(*a).cmp(&self.tp(*b)));
        picks
    }

    fn tp(&self, at: usize) -> Option<&TopicPartition> {
        self.active.get(at).map(|job| &job.tp)
    }

    async fn send(&mut self, mut picks: Vec<usize>) -> Result<(), EngineError> {
        if self.shared.limit.is_some() {
            self.pause(&picks).await?;
            picks.retain(|at| self.active.get(*at).is_some_and(Job::may_send));
        }
        let Some(connection) = self.connection.as_mut().filter(|_| !picks.is_empty()) else { return Ok(()) };
        // Counted as sent before it is: what a broken connection may have carried is unclear.
        for at in &picks {
            let Some(job) = self.active.get_mut(*at) else { continue };
            if let Some(batch) = job.ready.pop_front() {
                job.unacked.push_back(batch);
                job.outstanding += 1;
            }
        }
        let sent: Vec<(&Job, &[u8])> = picks
            .iter()
            .filter_map(|at| self.active.get(*at))
            .filter_map(|job| Some((job, job.unacked.back()?.bytes())))
            .collect();
        let targets: Vec<Target<'_>> = sent
            .iter()
            .map(|(job, batch)| Target {
                topic: &job.tp.topic,
                topic_id: job.topic_id,
                partition: job.tp.partition,
                batch_len: batch.len(),
            })
            .collect();
        let batches: Vec<&[u8]> = sent.iter().map(|(_, batch)| *batch).collect();
        self.sent.push_back(sent.iter().map(|(job, _)| job.tp.clone()).collect());
        Ok(connection.send_produce(self.version, &targets, &batches).await?)
    }

    /// Waits as long as the limit wants it for the next batches of these. A session may come to its end over that: then nothing stays in flight.
    async fn pause(&mut self, picks: &[usize]) -> Result<(), EngineError> {
        let next = |at: &usize| Some(self.active.get(*at)?.ready.front()?.bytes().len());
        let bytes: usize = picks.iter().filter_map(next).sum();
        if let Some(limit) = &self.shared.limit {
            limit.take(bytes as u64).await;
        }
        while self.connection.as_ref().is_some_and(|c| c.is_renewal_due() && c.in_flight() > 0) {
            self.receive().await?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), EngineError> {
        let held = self.held();
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        let asking = if held.is_zero() { self.shared.cluster.asking(self.broker) } else { None };
        let Acks { acks, took, throttle } = connection.receive_produce_held(self.version, held).await?;
        drop(asking);
        // A pause that is longer is not believed.
        let throttle = throttle.min(self.shared.cluster.options().give_up_after);
        self.held_until = (!throttle.is_zero()).then(|| Instant::now() + throttle);
        self.shared.progress.latencies().record(Kind::Produce, took);
        let mut stored = 0;
        let asked = self.sent.pop_front().unwrap_or_default();
        for ack in acks {
            self.check_asked(&ack, &asked)?;
            stored += self.acknowledge(&ack)?;
        }
        let throttle_ms = i32::try_from(throttle.as_millis()).unwrap_or(i32::MAX);
        self.shared.cluster.health().requests(self.broker, stored, throttle_ms);
        if stored > 0 {
            self.turns_come();
        }
        Ok(())
    }

    /// The broker takes batches: who waits for a turn is not stuck, however long that takes.
    fn turns_come(&mut self) {
        if std::mem::replace(&mut self.works, true) {
            return;
        }
        for job in self.waiting.iter_mut().filter(|job| job.stuck.is_some()) {
            job.stuck = None;
            self.shared.cluster.health().goes_on(&job.tp);
        }
    }

    /// No checksum covers the number of a partition: a batch can get into another one than it was sent to, which the answer then names.
    fn check_asked(&self, ack: &Ack, asked: &[TopicPartition]) -> Result<(), EngineError> {
        let known = self.active.iter().find(|job| job.topic_id == ack.topic_id && ack.topic.is_empty());
        let topic = known.map_or(ack.topic.as_str(), |job| &*job.tp.topic);
        let is_it = |tp: &TopicPartition| *tp.topic == *topic && tp.partition == ack.partition;
        // Of a topic that is unknown here nothing can be said, and partitions that failed are looked into anyway.
        if topic.is_empty() || ack.error != ErrorCode::NONE || asked.iter().any(is_it) {
            return Ok(());
        }
        Err(EngineError::Diverged(format!(
            "{topic}-{}: broker {} says that it has stored a batch there, and none was sent to it: a batch of another partition may lie there; delete the topic before the restore is run again",
            ack.partition, self.broker
        )))
    }

    /// Bytes that are stored now.
    fn acknowledge(&mut self, ack: &Ack) -> Result<u64, EngineError> {
        let answers = |job: &&mut Job| {
            let topic =
                if ack.topic.is_empty() { job.topic_id == ack.topic_id } else { *job.tp.topic == ack.topic };
            topic && job.tp.partition == ack.partition
        };
        let Some(job) = self.active.iter_mut().find(answers) else { return Ok(0) };
        job.outstanding = job.outstanding.saturating_sub(1);
        if let Some(failed) = &job.failed {
            // Behind a batch that was not stored no other is, unless the leader has forgotten the sequences.
            let code = Some(ack.error);
            job.unclear |= !NOT_STORED.iter().chain(&SEQUENCE_ERRORS).any(|c| Some(*c) == code);
            tracing::debug!("{}: {} after {failed}", job.tp, ack.error);
            return Ok(0);
        }
        if ack.error == ErrorCode::NONE {
            let Some(batch) = job.unacked.pop_front() else { return Ok(0) };
            if ack.base_offset != batch.target {
                return Err(EngineError::Diverged(format!(
                    "{}: the batch of source offset {} was stored at offset {}, expected was {}: somebody else writes to the topic; nothing more is sent",
                    job.tp, batch.source, ack.base_offset, batch.target
                )));
            }
            if job.stuck.is_some() {
                self.shared.cluster.health().goes_on(&job.tp);
            }
            job.stored(&batch);
            return Ok(batch.bytes().len() as u64);
        }
        let source = job.unacked.front().map_or(-1, |batch| batch.source);
        let subject = format!("{} (source offset {source})", job.tp);
        let error =
            KafkaError::Refused { api: "Produce", subject, code: ack.error, message: ack.message.clone() };
        if ack.error.is_fenced() {
            return Err(EngineError::Fenced(job.tp.to_string()));
        }
        if ack.error.retry_class() == RetryClass::Never && !SEQUENCE_ERRORS.contains(&ack.error) {
            return Err(EngineError::Produce(error));
        }
        job.unclear |= !NOT_STORED.contains(&ack.error);
        job.failed = Some(error);
        Ok(0)
    }

    fn give_all_back(&mut self, error: &KafkaError) {
        tracing::info!("broker {}: {error}", self.broker);
        // That no connection came about was noted by who tried.
        if self.connection.take().is_some() {
            self.shared.cluster.has_failed(self.broker, error);
        }
        for mut job in self.active.drain(..).chain(self.waiting.drain(..)) {
            job.unclear |= job.outstanding > 0;
            let error = KafkaError::NoRoute(format!("broker {}: {error}", self.broker));
            let _ = self.events.send(Event::Back(Box::new(job), error));
        }
    }

    fn stopped(self) {
        let _ = self.events.send(Event::Stopped(self.active.into_iter().chain(self.waiting).collect()));
    }

    /// Waits for the answers to what is in flight, a bounded time.
    async fn drain(&mut self) {
        let deadline = tokio::time::Instant::now() + STOP_WITHIN;
        while self
            .connection
            .as_ref()
            .is_some_and(|connection| !connection.is_dead() && connection.in_flight() > 0)
        {
            match tokio::time::timeout_at(deadline, self.receive()).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }
}

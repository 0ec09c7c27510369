//! How each broker of a cluster fares, who is waited for, and the words for it.
//!
//! Whoever meets a broker says here how it went; a task that lives as long as the cluster says on stderr for whom the run has waited for some
//! seconds, and when it goes on. Nothing here decides anything: a broker that is said to be down is tried all the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::address::Address;
use super::error::KafkaError;
use super::layout::TopicPartition;

/// Shorter waits are not worth a word.
const SILENCE: Duration = Duration::from_secs(5);
/// A wait that goes on is said again so often.
const AGAIN: Duration = Duration::from_secs(30);
/// A broker whose last failure is older, and for whom no partition waits, is not waited for: nobody wants it.
const WANTED: Duration = Duration::from_secs(10);
/// How often it is looked whether something is to be said.
const LOOK: Duration = Duration::from_secs(1);
/// Brokers that are named at once.
const NAMED: usize = 5;
/// Partitions that are named at once.
const NAMED_PARTITIONS: usize = 3;

/// A broker as a report shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerHealth {
    /// Its id.
    pub id: i32,
    /// Where it was when we came last.
    pub address: String,
    /// Connections to it that are open now.
    pub connections: u32,
    /// Answered requests.
    pub requests: u64,
    /// Bytes of records in them, as far as they were told.
    pub bytes: u64,
    /// Failures on the way to it.
    pub errors: u64,
    /// How long its quotas have held us back.
    pub throttled_ms: u64,
    /// How long its failure has stood; `None`: all is well, as far as is known.
    pub down_for: Option<Duration>,
    /// The last failure, also when it is over.
    pub last_error: Option<String>,
}

/// The brokers of a cluster as this process meets them.
#[derive(Debug)]
pub struct Health {
    patience: Duration,
    /// Nobody gives up.
    endless: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    brokers: BTreeMap<i32, Broker>,
    waiting: HashMap<TopicPartition, Waiting>,
    /// When it was said last that partitions wait, and since when they do.
    told: Option<(Instant, Instant)>,
    /// What was given up: since when it had waited, and when that was. Whoever takes it up again soon goes on waiting.
    left: HashMap<TopicPartition, (Instant, Instant)>,
    /// What `told` was then.
    left_told: Option<(Instant, Instant)>,
    next: u64,
}

#[derive(Debug, Default)]
struct Broker {
    address: String,
    connections: Arc<AtomicU32>,
    requests: u64,
    bytes: u64,
    errors: u64,
    throttled_ms: u64,
    down_since: Option<Instant>,
    failed: Option<Instant>,
    last_error: Option<String>,
    /// Questions that are not answered yet.
    asked: BTreeMap<u64, Instant>,
    /// When it was said last that it is waited for, and since when it is.
    told: Option<(Instant, Instant)>,
    /// It has done something for us since.
    works: bool,
}

#[derive(Debug)]
struct Waiting {
    broker: Option<i32>,
    since: Instant,
    why: String,
}

/// An open connection, for as long as it lives.
#[derive(Debug)]
pub(super) struct Guest(Arc<AtomicU32>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A question to a broker, until it is dropped: answered, or given up.
#[derive(Debug)]
pub struct Asking {
    health: Arc<Health>,
    broker: i32,
    number: u64,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.health.state();
        if let Some(broker) = state.brokers.get_mut(&self.broker) {
            broker.asked.remove(&self.number);
        }
    }
}

impl Health {
    /// Of a cluster that is given up after so long without progress.
    pub fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self { patience, endless: AtomicBool::new(false), state: Mutex::default() })
    }

    /// From now on partitions are waited for as long as it takes.
    pub fn never_gives_up(&self) {
        self.endless.store(true, Ordering::Relaxed);
    }

    /// How a wait ends.
    fn end(&self) -> String {
        match self.endless.load(Ordering::Relaxed) {
            true => "it is waited for as long as it takes".to_owned(),
            false => format!("gives up after {} s without progress", self.patience.as_secs()),
        }
    }

    /// A failure on the way to a broker.
    pub fn down(&self, broker: i32, address: &Address, error: &KafkaError) {
        let now = Instant::now();
        let mut state = self.state();
        let broker = state.broker(broker, address);
        broker.errors += 1;
        (broker.failed, broker.last_error) = (Some(now), Some(error.to_string()));
        broker.down_since.get_or_insert(now);
    }

    /// A broker works.
    pub fn up(&self, broker: i32) {
        if let Some(broker) = self.state().brokers.get_mut(&broker) {
            broker.works();
        }
    }

    /// A request was answered, with so many bytes of records; the broker's quota holds us back for so long. So it works.
    pub fn requests(&self, broker: i32, bytes: u64, throttle_ms: i32) {
        let mut state = self.state();
        let broker = state.brokers.entry(broker).or_default();
        broker.requests += 1;
        broker.bytes = broker.bytes.saturating_add(bytes);
        broker.throttled_ms = broker.throttled_ms.saturating_add(u64::try_from(throttle_ms).unwrap_or(0));
        broker.works();
    }

    /// A broker is asked something whose answer should not take long: silence is told of. Hold it until the answer is there.
    pub fn asking(self: &Arc<Self>, broker: i32, address: &Address) -> Asking {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.broker(broker, address).asked.insert(number, Instant::now());
        Asking { health: Arc::clone(self), broker, number }
    }

    /// A partition can't go on: for its leader's sake, if it has one. Said again and again while that is so. Whether this is news.
    pub fn waits(&self, partition: &TopicPartition, leader: Option<i32>, why: &KafkaError) -> bool {
        let mut state = self.state();
        let known = state.waiting.get(partition).map(|waiting| waiting.since);
        let since = known.or_else(|| state.resumes(partition)).unwrap_or_else(Instant::now);
        let waiting = Waiting { broker: leader, since, why: why.to_string() };
        state.waiting.insert(partition.clone(), waiting);
        known.is_none()
    }

    /// Nobody waits for any partition: whoever did begins anew.
    pub fn forget_waiting(&self) {
        let mut state = self.state();
        state.waiting.clear();
        state.left.clear();
        (state.told, state.left_told) = (None, None);
    }

    /// It is not waited for any more, but does not go on.
    pub fn gives_up(&self, partition: &TopicPartition) {
        let mut state = self.state();
        if let Some(Waiting { since, .. }) = state.waiting.remove(partition) {
            state.left.insert(partition.clone(), (since, Instant::now()));
        }
        if state.waiting.is_empty() {
            state.left_told = state.told.take();
            state.left.retain(|_, (_, at)| at.elapsed() < AGAIN);
        }
    }

    /// It goes on.
    pub fn goes_on(&self, partition: &TopicPartition) {
        let mut state = self.state();
        if !state.waiting.is_empty() {
            state.waiting.remove(partition);
        }
        if !state.left.is_empty() {
            state.left.remove(partition);
        }
    }

    /// All brokers that were ever met, by id.
    pub fn snapshot(&self) -> Vec<BrokerHealth> {
        let state = self.state();
        let all = state.brokers.iter().map(|(id, broker)| BrokerHealth {
            id: *id,
            address: broker.address.clone(),
            connections: broker.connections.load(Ordering::Relaxed),
            requests: broker.requests,
            bytes: broker.bytes,
            errors: broker.errors,
            throttled_ms: broker.throttled_ms,
            down_for: broker.down_since.map(|since| since.elapsed()),
            last_error: broker.last_error.clone(),
        });
        all.collect()
    }

    /// Counts a connection to a broker.
    pub(super) fn opened(&self, broker: i32, address: &Address) -> Guest {
        let mut state = self.state();
        let connections = Arc::clone(&state.broker(broker, address).connections);
        connections.fetch_add(1, Ordering::Relaxed);
        Guest(connections)
    }

    /// Says on stderr what is to be said, as long as somebody holds this.
    pub(super) fn watch(self: &Arc<Self>) {
        let health: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut look = tokio::time::interval(LOOK);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                look.tick().await;
                let Some(health) = health.upgrade() else { return };
                health.lines(Instant::now()).iter().for_each(|line| tracing::warn!("{line}"));
            }
        });
    }

    /// What is to be said now.
    fn lines(&self, now: Instant) -> Vec<String> {
        let end = self.end();
        let mut state = self.state();
        let mut lines = Vec::new();
        let mut by_broker: HashMap<i32, usize> = HashMap::new();
        for broker in state.waiting.values().filter_map(|waiting| waiting.broker) {
            *by_broker.entry(broker).or_default() += 1;
        }
        for (id, broker) in &mut state.brokers {
            let partitions = by_broker.get(id).copied().unwrap_or(0);
            lines.extend(broker.line(*id, partitions, &end, now));
        }
        if lines.len() > NAMED {
            let more = format!("and so with {} more brokers", lines.len() - NAMED);
            lines.truncate(NAMED);
            lines.push(more);
        }
        lines.extend(state.line_of_partitions(&end, now));
        lines
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn broker(&mut self, id: i32, address: &Address) -> &mut Broker {
        let broker = self.brokers.entry(id).or_default();
        let address = address.to_string();
        if broker.address != address {
            broker.address = address;
        }
        broker
    }

    /// Since when a partition has waited that was given up a moment ago.
    fn resumes(&mut self, partition: &TopicPartition) -> Option<Instant> {
        let (since, at) = self.left.remove(partition)?;
        if at.elapsed() >= AGAIN {
            return None;
        }
        self.told = self.told.or(self.left_told.take());
        Some(since)
    }

    /// Partitions that wait for something else than a broker that is down: a leader, or replicas of theirs.
    fn line_of_partitions(&mut self, end: &str, now: Instant) -> Option<String> {
        let is_down = |id: i32| self.brokers.get(&id).is_some_and(|broker| broker.told.is_some());
        let waiting = self.waiting.iter().filter(|(_, waiting)| !waiting.broker.is_some_and(is_down));
        let mut waiting: Vec<(&TopicPartition, &Waiting)> = waiting.collect();
        waiting.sort_by_key(|(tp, waiting)| (waiting.since, *tp));
        let Some((_, first)) = waiting.first() else {
            let (_, since) = self.told.take().filter(|_| self.waiting.is_empty())?;
            let waited = now.saturating_duration_since(since).as_secs();
            return Some(format!("all partitions go on after {waited} s"));
        };
        let waited = now.saturating_duration_since(first.since);
        if waited < SILENCE || self.told.is_some_and(|(at, _)| now.saturating_duration_since(at) < AGAIN) {
            return None;
        }
        let since = self.told.map_or(first.since, |(_, since)| since);
        let names = waiting.iter().take(NAMED_PARTITIONS).map(|(tp, _)| tp.to_string());
        let mut names = names.collect::<Vec<_>>().join(", ");
        if waiting.len() > NAMED_PARTITIONS {
            names.push_str(", …");
        }
        let line = format!(
            "waiting for {} ({names}): {} ({} s); {end}",
            partitions(waiting.len()),
            first.why,
            waited.as_secs(),
        );
        self.told = Some((now, since));
        Some(line)
    }
}

impl Broker {
    fn works(&mut self) {
        (self.down_since, self.failed, self.works) = (None, None, true);
    }

    /// Since when it is waited for.
    fn waited_since(&self, partitions: usize, now: Instant) -> Option<Instant> {
        let wanted = partitions > 0
            || self.failed.is_some_and(|failed| now.saturating_duration_since(failed) < WANTED)
            || !self.asked.is_empty();
        let down = self.down_since.filter(|_| wanted);
        let asked = self.asked.values().min().copied();
        let since = down.into_iter().chain(asked).min()?;
        (now.saturating_duration_since(since) >= SILENCE).then_some(since)
    }

    fn line(&mut self, id: i32, waiting: usize, end: &str, now: Instant) -> Option<String> {
        let since = match self.waited_since(waiting, now) {
            Some(since) => since,
            // It is not wanted any more, or it has not failed for good: nothing is known of its return.
            None if self.down_since.is_some() || !(self.works || self.asked.is_empty()) => return None,
            None => {
                let (_, since) = self.told.take()?;
                let waited = now.saturating_duration_since(since).as_secs();
                return Some(format!("broker {id} is back after {waited} s"));
            }
        };
        if self.told.is_some_and(|(at, _)| now.saturating_duration_since(at) < AGAIN) {
            return None;
        }
        let begun = self.told.map_or(since, |(_, begun)| begun.min(since));
        (self.told, self.works) = (Some((now, begun)), false);
        let at = if self.address.is_empty() { String::new() } else { format!(" at {}", self.address) };
        let whom = if waiting > 0 { format!(" ({})", partitions(waiting)) } else { String::new() };
        let failure = self.last_error.as_deref().filter(|_| self.down_since.is_some());
        Some(format!(
            "waiting for broker {id}{at}{whom}: {} ({} s); {end}",
            failure.unwrap_or("it does not answer"),
            now.saturating_duration_since(begun).as_secs(),
        ))
    }
}

fn partitions(n: usize) -> String {
    if n == 1 { "1 partition".into() } else { format!("{n} partitions") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    fn address() -> Address {
        Address { host: "kafka-2".into(), port: 9092 }
    }

    fn in_seconds(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn a_broker_is_waited_for_and_comes_back() {
        let health = Health::new(PATIENCE);
        let tp = TopicPartition::new(&Arc::from("orders"), 3);
        let error = KafkaError::NoRoute("cannot connect".into());
        health.down(2, &address(), &error);
        health.waits(&tp, Some(2), &error);
        assert_eq!(health.lines(in_seconds(1)), [""; 0]);
        let said = health.lines(in_seconds(6));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("waiting for broker 2 at kafka-2:9092 (1 partition): cannot connect ("),
            "{said:?}"
        );
        assert!(said[0].ends_with("gives up after 120 s without progress"), "{said:?}");
        // Not over and over.
        assert_eq!(health.lines(in_seconds(20)), [""; 0]);
        assert_eq!(health.lines(in_seconds(37)).len(), 1);
        let snapshot = health.snapshot();
        assert!(snapshot[0].down_for.is_some() && snapshot[0].errors == 1, "{snapshot:?}");
        health.up(2);
        health.goes_on(&tp);
        let said = health.lines(in_seconds(38));
        assert!(said.len() == 1 && said[0].starts_with("broker 2 is back after 3"), "{said:?}");
        assert_eq!(health.lines(in_seconds(39)), [""; 0]);
        assert_eq!(health.snapshot()[0].down_for, None);
    }

    #[tokio::test]
    async fn whom_nobody_wants_is_not_waited_for() {
        let health = Health::new(PATIENCE);
        health.down(2, &address(), &KafkaError::NoRoute("cannot connect".into()));
        assert_eq!(health.lines(in_seconds(15)), [""; 0]);
    }

    #[tokio::test]
    async fn silence_is_told_of() {
        let health = Health::new(PATIENCE);
        let asking = health.asking(1, &address());
        assert_eq!(health.lines(in_seconds(2)), [""; 0]);
        let said = health.lines(in_seconds(7));
        assert!(
            said.len() == 1
                && said[0].starts_with("waiting for broker 1 at kafka-2:9092: it does not answer"),
            "{said:?}"
        );
        drop(asking);
        // The next question is under way when it is looked again.
        let _asking = health.asking(1, &address());
        health.requests(1, 100, 7);
        assert!(health.lines(in_seconds(3))[0].starts_with("broker 1 is back"));
        let snapshot = health.snapshot();
        assert_eq!((snapshot[0].requests, snapshot[0].bytes, snapshot[0].throttled_ms), (1, 100, 7));
    }

    #[tokio::test]
    async fn partitions_without_a_leader_are_told_of_together() {
        let health = Health::new(PATIENCE);
        let topic: Arc<str> = Arc::from("orders");
        let all: Vec<_> = (0..7).map(|n| TopicPartition::new(&topic, n)).collect();
        let error = KafkaError::NoRoute("orders-0 has no leader".into());
        assert!(all.iter().all(|tp| health.waits(tp, None, &error)));
        assert!(!health.waits(&all[0], None, &error), "it is no news");
        let said = health.lines(in_seconds(6));
        let expected = "waiting for 7 partitions (orders-0, orders-1, orders-2, …): orders-0 has no leader (";
        assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
        all.iter().for_each(|tp| health.goes_on(tp));
        assert!(health.lines(in_seconds(9))[0].starts_with("all partitions go on after"));
        // Who is given up does not go on.
        assert!(health.waits(&all[0], None, &error));
        assert_eq!(health.lines(in_seconds(16)).len(), 1);
        health.gives_up(&all[0]);
        assert_eq!(health.lines(in_seconds(17)), [""; 0]);
        // Whoever takes it up again goes on waiting, and does not say so anew.
        assert!(health.waits(&all[0], None, &error));
        assert_eq!(health.lines(in_seconds(20)), [""; 0]);
        let said = health.lines(in_seconds(47));
        assert!(said.len() == 1 && said[0].starts_with("waiting for 1 partition (orders-0)"), "{said:?}");
        health.goes_on(&all[0]);
        assert!(health.lines(in_seconds(48))[0].starts_with("all partitions go on after"));
    }

    #[test]
    fn connections_are_counted_while_they_live() {
        let health = Health::new(PATIENCE);
        let guests: Vec<_> = (0..3).map(|_| health.opened(4, &address())).collect();
        assert_eq!(health.snapshot()[0].connections, 3);
        drop(guests);
        assert_eq!(health.snapshot()[0].connections, 0);
    }
}

//! What is done about partitions that can't be read: another broker, a rest, another look, or giving up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::backoff::rest;
use bodley_io::kafka::cluster::To;
use bodley_io::kafka::{Cluster, ELSEWHERE_AFTER, KafkaError, is_same_topic};
use bodley_protocol::messages::FetchRequest;
use bodley_protocol::{NO_TOPIC_ID, RetryClass, TopicId};
use futures_util::future::join_all;

use super::run::Run;
use super::task::Task;
use super::worker::{Event, LEADERS_FOR, Order, Trouble};
use crate::error::{EngineError, Severity};
use crate::report::{Gap, Issue, Report};
use crate::vault::rows::{Kind, Reason, TopicRow};

/// Between looks at partitions.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between tries in a run that goes on, once its patience is over.
const LONG_REST: Duration = Duration::from_secs(5);
/// Metadata can be late: what it does not show is believed gone after so long.
const SETTLED: Duration = Duration::from_secs(5);
/// How long a broker is waited for that is asked for its version.
const VERSION_WITHIN: Duration = Duration::from_secs(2);
/// How long metadata are waited for before a commit, where topics are read by name.
const IDENTITIES_WITHIN: Duration = Duration::from_secs(15);
/// What became of a topic that a census does not find any more.
const GONE: &str = "was deleted, or deleted and created again,";

/// A batch that can be neither stored nor passed by.
pub const BAD_BATCH: &str = "bad_batch";

/// A partition that is to be looked at again.
#[derive(Debug, Clone, Copy)]
pub struct Again {
    /// Its log may not be the one that we read.
    pub doubted: bool,
    /// How far it was complete.
    pub complete: i64,
    /// Since when there has been no progress.
    pub since: Instant,
    /// Not before.
    pub at: Instant,
}

impl Run {
    pub(super) fn look_after(&mut self, task: Task, trouble: Trouble, report: &mut Report) {
        match trouble {
            Trouble::Gone => self.lose(&task, GONE, report),
            Trouble::Nearer(replica) => self.read_near(task, replica, report),
            Trouble::Leader => self.ask_leader(task, report),
            // Whatever it is, the leader may know better.
            trouble if task.near.is_some() && task.elsewhere.is_none() => {
                self.leave_near(task, &trouble, report);
            }
            Trouble::OtherReplica => self.ask_elsewhere(task, report),
            Trouble::Route(_) | Trouble::Hopeless(_) | Trouble::OutOfRange | Trouble::Diverged
                if task.elsewhere.is_some() =>
            {
                self.ask_elsewhere(task, report);
            }
            Trouble::Route(error) => self.park(task, &error, report),
            Trouble::OutOfRange | Trouble::Diverged => self.look_again(task, true, report),
            Trouble::Hopeless(error) => {
                let issue = Issue::new("partition_unreadable", Severity::Failed, error.to_string());
                self.give_up(&task, issue, report);
            }
            Trouble::BadBatch(what) => {
                let message = format!("{}: {what}", task.tp);
                let issue = Issue::new(BAD_BATCH, Severity::Missing, message);
                let hint = "the partition is backed up to here; a damaged batch is passed by once a good one follows it";
                self.give_up(&task, issue.hint(hint), report);
            }
        }
    }

    /// Lets a task rest before its next try, unless it has been stuck for too long.
    pub(super) fn park(&mut self, mut task: Task, error: &KafkaError, report: &mut Report) {
        let stuck = task.stuck.get_or_insert_with(Instant::now).elapsed();
        let patience = self.cluster.options().give_up_after;
        let leader = self.cluster.layout().partition(&task.tp).and_then(|partition| partition.leader);
        self.cluster.health().waits(&task.tp, leader, error);
        task.waits = true;
        let tp = &task.tp;
        let mut pause = rest(stuck);
        match &mut self.following {
            None if stuck >= patience => {
                let seconds = patience.as_secs();
                let message = format!("{tp}: gave up after {seconds} s without progress: {error}");
                let issue = Issue::new("partition_unavailable", Severity::Failed, message);
                return self.give_up(&task, issue, report);
            }
            Some(following) if stuck >= patience => {
                let message = format!("{tp}: no progress for {} s: {error}", stuck.as_secs());
                let issue = Issue::new("partition_unavailable", Severity::Failed, message);
                following.suffers(&task, issue.at(&tp.topic, task.key.1, Some(task.next)));
                pause = LONG_REST;
            }
            _ => {}
        }
        self.parked.push((Instant::now() + pause, task));
    }

    /// In a run that goes on, the partition is looked at again with the next census.
    fn give_up(&mut self, task: &Task, issue: Issue, report: &mut Report) {
        self.cluster.health().gives_up(&task.tp);
        let offset = issue.offset.or(Some(task.next));
        let issue = issue.at(&task.tp.topic, task.key.1, offset);
        let hint = issue.hint.clone().unwrap_or_else(|| "run again: it goes on from the last commit".into());
        let issue = issue.hint(hint);
        match &mut self.following {
            Some(following) => following.fails(task, issue),
            None => {
                tracing::info!("{}", issue.message);
                report.errors.push(issue);
            }
        }
    }

    /// Tasks that have rested long enough go to their leaders as a new look at the cluster tells them.
    pub(super) fn unpark(&mut self) {
        let now = Instant::now();
        if self.refreshing || !self.parked.iter().any(|(at, _)| *at <= now) {
            return;
        }
        self.refreshing = true;
        let (cluster, events) = (self.cluster.clone(), self.events());
        // Who tells of leaders that are none may lag.
        let stuck = |task: &Task| task.stuck.is_some_and(|since| since.elapsed() > ELSEWHERE_AFTER);
        let elsewhere = self.parked.iter().any(|(_, task)| stuck(task));
        tokio::spawn(async move {
            let seen = cluster.layout();
            let refreshed = match elsewhere {
                true => cluster.refresh_elsewhere(&seen).await,
                false => cluster.refresh(&seen).await,
            };
            let _ = events.send(Event::Refreshed(refreshed.map(|_| ())));
        });
    }

    pub(super) fn refreshed(
        &mut self,
        refreshed: Result<(), KafkaError>,
        report: &mut Report,
    ) -> Result<(), EngineError> {
        self.refreshing = false;
        if let Err(error @ KafkaError::OtherCluster { .. }) = refreshed {
            return Err(error.into());
        }
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.parked).into_iter().partition(|(at, _)| *at <= now);
        self.parked = later;
        if let Err(error) = refreshed {
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
            return Ok(());
        }
        let layout = self.cluster.layout();
        let mut tasks = Vec::new();
        for (_, mut task) in due {
            match layout.topics.get(&task.tp.topic).map(|topic| topic.id) {
                Some(id) if is_same_topic(id, task.fetch_id) => {
                    if id != NO_TOPIC_ID {
                        task.fetch_id = id;
                    }
                    task.absent = None;
                    tasks.push(task);
                }
                found => self.park_or_lose(task, found.is_some(), report),
            }
        }
        self.dispatch(tasks, report);
        Ok(())
    }

    /// The topic is not in the metadata, or is another one now. Metadata can be late, so it is asked for some time; in a run that goes on a census
    /// decides.
    fn park_or_lose(&mut self, mut task: Task, replaced: bool, report: &mut Report) {
        let what = if replaced { "was deleted and created again" } else { "was deleted" };
        let settled = task.absent.get_or_insert_with(Instant::now).elapsed() > SETTLED;
        if !settled || self.following.is_some() {
            let error = KafkaError::NoRoute(format!("{}: topic {what}", task.tp));
            return self.park(task, &error, report);
        }
        self.lose(&task, what, report);
    }

    /// What had not been read of a topic that is gone is lost.
    fn lose(&mut self, task: &Task, what: &str, report: &mut Report) {
        self.cluster.health().gives_up(&task.tp);
        let end = task.known_end();
        if let Some(following) = &mut self.following {
            following.ends(task);
        }
        if end <= task.next {
            return;
        }
        let message = format!(
            "{}: the topic {what} during the run; offsets {}..{end} were not read",
            task.tp, task.next
        );
        // As with retention: the source removed what had not been read.
        self.pending.rows.ranges.push(task.row(Kind::Gap(Reason::Retention), end));
        let gap = Gap::new(&task.tp.topic, task.key.1, task.next..end, Reason::Retention);
        report.gaps.push(self.told(gap));
        let issue = Issue::new("topic_deleted", Severity::Missing, message);
        let issue = issue.at(&task.tp.topic, task.key.1, Some(task.next));
        report.errors.push(issue.hint("what was read before is in the vault"));
    }

    /// These topics are gone, or others have taken their names: nothing more is read of them.
    pub(super) fn drop_topics(&mut self, gone: BTreeSet<TopicId>, report: &mut Report) {
        if gone.is_empty() {
            return;
        }
        let (lost, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.parked).into_iter().partition(|(_, task)| gone.contains(&task.key.0));
        self.parked = kept;
        lost.iter().for_each(|(_, task)| self.lose(task, GONE, report));
        self.again.retain(|(topic, _), _| !gone.contains(topic));
        let gone = Arc::new(gone);
        for worker in self.workers.values() {
            let _ = worker.send(Order::Drop(Arc::clone(&gone)));
        }
    }

    /// Where Fetch names topics only, what was read of them is theirs if they are still the same: with another id it may be another topic's.
    pub(super) async fn check_identities(&self) -> Result<(), EngineError> {
        if self.watches.topics {
            return Ok(());
        }
        let topics = self.shared.topics();
        let read: BTreeSet<_> = self.pending.rows.ranges.iter().map(|range| range.topic).collect();
        let known = |id| topics.get(id).or_else(|| self.state.topics.get(id));
        let read: Vec<_> = read.iter().filter_map(known).filter(|topic| !topic.synthetic).collect();
        if read.is_empty() {
            return Ok(());
        }
        let layout = match tokio::time::timeout(IDENTITIES_WITHIN, self.cluster.fresh_layout()).await {
            Ok(layout) => layout?,
            Err(_) => return Err(KafkaError::NoRoute("the cluster's metadata do not come".into()).into()),
        };
        let is_other = |topic: &&&TopicRow| !is_same_topic(layout.topic_id(&topic.name), topic.topic);
        let Some(other) = read.iter().find(is_other) else { return Ok(()) };
        let (name, now) = (&other.name, layout.topic_id(&other.name));
        let lives = self.state.lives(name);
        if lives.iter().any(|life| life.topic == now && life.incarnation < other.incarnation) {
            let what = format!("a broker that lags tells of topic {name} as it was before it was made anew");
            return Err(KafkaError::NoRoute(what).into());
        }
        Err(EngineError::Replaced { topic: name.clone() })
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
        if known && !self.shared.leaders_only() {
            (task.near, task.stuck) = (Some((replica, Instant::now())), None);
            self.dispatch(vec![task], report);
        } else {
            self.shared.read_leaders();
            let error =
                KafkaError::NoRoute(format!("{}: its leader sends us on to broker {replica}", task.tp));
            self.park(task, &error, report);
        }
    }

    /// For some time all is read from leaders.
    fn leave_near(&mut self, mut task: Task, trouble: &Trouble, report: &mut Report) {
        let why = match trouble {
            Trouble::Route(error) | Trouble::Hopeless(error) => error.to_string(),
            other => format!("{other:?}"),
        };
        if !self.shared.read_leaders() {
            let (rack, minutes) = (&self.cluster.options().rack, LEADERS_FOR.as_secs() / 60);
            let what = format!("{}: its replica in rack {rack} could not be read ({why})", task.tp);
            match self.following {
                Some(_) => tracing::warn!("{what}: leaders are read for {minutes} minutes"),
                None => {
                    report.notes.push(format!("{what}: leaders were read for {minutes} minutes from then on"))
                }
            }
        }
        (task.near, task.stuck) = (None, None);
        self.dispatch(vec![task], report);
    }

    fn ask_leader(&mut self, mut task: Task, report: &mut Report) {
        (task.elsewhere, task.near) = (None, None);
        self.dispatch(vec![task], report);
    }

    /// The log moved away under the cursor (retention, truncation), or is another one: it is looked at as at the start of a run, once all
    /// that was read of it is committed.
    pub(super) fn look_again(&mut self, task: Task, doubted: bool, report: &mut Report) {
        let since = task.stuck.unwrap_or_else(Instant::now);
        let patience = self.cluster.options().give_up_after;
        if self.following.is_none() && since.elapsed() >= patience {
            let message = format!("{}: its leader and its log do not agree on offset {}", task.tp, task.next);
            return self.give_up(
                &task,
                Issue::new("partition_unavailable", Severity::Failed, message),
                report,
            );
        }
        let stuck = since.elapsed();
        match &mut self.following {
            Some(following) if stuck >= patience => {
                let what = "its leader and its log do not agree on offset";
                let message =
                    format!("{}: no progress for {} s: {what} {}", task.tp, stuck.as_secs(), task.next);
                let issue = Issue::new("partition_unavailable", Severity::Failed, message);
                following.fails(&task, issue.at(&task.tp.topic, task.key.1, Some(task.next)));
            }
            Some(following) => following.ends(&task),
            None => {}
        }
        self.cluster.health().goes_on(&task.tp);
        // The first look is taken at once.
        let pause = match task.stuck {
            Some(_) if stuck >= patience => LONG_REST,
            Some(_) => LOOK_EVERY,
            None => Duration::ZERO,
        };
        let at = Instant::now() + pause;
        let again = Again { doubted, complete: task.complete, since, at };
        self.again.insert(task.key, again);
    }
}

/// What the brokers' Fetch looks at by itself.
#[derive(Debug, Clone, Copy)]
pub struct Watches {
    /// Whether a log is the one that was read before (KIP-595).
    pub logs: bool,
    /// Whether a topic is the one that was read before (KIP-516).
    pub topics: bool,
}

impl Watches {
    /// Of a broker that speaks Fetch in this version.
    pub fn of(version: i16) -> Self {
        Self { logs: version >= 12, topics: version >= bodley_protocol::versions::FETCH_TOPIC_ID }
    }

    /// Another broker's Fetch looks at no more than this.
    pub fn lower(&mut self, other: Self) {
        (self.logs, self.topics) = (self.logs && other.logs, self.topics && other.topics);
    }
}

/// As the oldest broker has it, of those that answer: others say so when they are read.
pub async fn watches(cluster: &Cluster) -> Result<Watches, EngineError> {
    let mut version = cluster.version::<FetchRequest>(To::Any, i16::MAX).await?;
    let layout = cluster.layout();
    let ask = |broker: &i32| {
        let asked = cluster.version::<FetchRequest>(To::Broker(*broker), i16::MAX);
        tokio::time::timeout(VERSION_WITHIN, asked)
    };
    for asked in join_all(layout.brokers.keys().map(ask)).await {
        if let Ok(Ok(theirs)) = asked {
            version = version.min(theirs);
        }
    }
    Ok(Watches::of(version))
}

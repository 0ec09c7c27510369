//! A run that goes on: new topics and partitions are taken up, deleted ones end, groups are read from time to time, and what can't be read is tried
//! again for ever.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::kafka::offsets::End;
use bodley_io::kafka::{Cluster, TopicPartition};
use bodley_protocol::{RetryClass, TopicId};

use super::access::DENIED;
use super::groups::{self, Snapshot};
use super::plan::{Plan, Topics};
use super::run::Run;
use super::survey::{Census, Counted, PATIENCE};
use super::task::Task;
use super::troubles::Again;
use crate::error::{EngineError, Severity};
use crate::report::{Issue, Report};
use crate::select::Selection;
use crate::vault::rows::{GroupRow, Rows};
use crate::vault::state::{PartKey, State};

/// The cluster's topics are looked at twice in a commit interval, within these bounds.
const CENSUS_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// One that failed is made again after so long.
const CENSUS_AGAIN: Duration = Duration::from_secs(10);
/// Their settings and rights, too, so often.
const SETTINGS_EVERY: Duration = Duration::from_secs(60);
/// Positions that could not be committed for so long, as their partitions lag, give way to newer ones.
const POSITIONS_LAST: Duration = Duration::from_secs(600);

/// More partitions that fail at once are not named one by one.
const MOST_LINES: usize = 20;

/// How a run goes on.
#[derive(Debug, Clone)]
pub struct Follow {
    /// Consumer groups are read so often.
    pub groups_interval: Duration,
}

/// What a run that goes on keeps beside its tasks.
#[derive(Debug)]
pub struct Following {
    follow: Follow,
    /// Partitions that are being read.
    open: BTreeSet<PartKey>,
    /// Partitions that could not be looked at or read, how far they were complete, and what is wrong.
    failing: BTreeMap<PartKey, (i64, Option<Issue>)>,
    /// What the last census complained of.
    complaints: Vec<Issue>,
    /// What the last census complained of that looked at rights.
    denials: Vec<Issue>,
    /// Transactions that hang.
    hanging: Vec<Issue>,
    /// Topics that may not be read.
    unread: BTreeSet<String>,
    /// Topics whose settings may not be read.
    closed: BTreeSet<String>,
    /// Topics that the last census did not see.
    missed: BTreeSet<String>,
    census_every: Duration,
    census_at: Instant,
    settings_at: Instant,
    groups_at: Instant,
    asking_groups: bool,
    /// When the last census that succeeded began, ms of our clock; 0: none has.
    counted_at: i64,
    /// By group: what is to be committed when the data reach as far.
    positions: BTreeMap<String, Waiting>,
    /// Partitions that were said to fail since the last census began.
    said: usize,
    /// What could not be read of groups the last time.
    unreadable: Vec<Issue>,
}

/// What the plan at the start could not do.
#[derive(Debug)]
pub struct First {
    /// Partitions that could not be looked at.
    pub unavailable: Vec<PartKey>,
    /// What was said of it.
    pub complaints: Vec<Issue>,
    /// Topics that may not be read.
    pub unread: BTreeSet<String>,
    /// Topics whose settings may not be read.
    pub closed: BTreeSet<String>,
    /// Groups are still to be read.
    pub groups_are_late: bool,
}

/// Rows of one group that wait for the data.
#[derive(Debug)]
struct Waiting {
    rows: Vec<GroupRow>,
    /// The last stable offsets that were told after the group was read.
    reach: HashMap<PartKey, i64>,
    since: Instant,
}

/// Groups as they were read.
#[derive(Debug)]
pub struct Positions {
    snapshot: Snapshot,
    stable: HashMap<PartKey, i64>,
}

/// All that is needed to read groups beside the run.
pub struct Question {
    cluster: Arc<Cluster>,
    state: Arc<State>,
    topics: Arc<Topics>,
}

impl Question {
    /// Reads groups, and then how far the data must reach so that no position lies beyond them.
    pub async fn ask(self) -> Result<Positions, EngineError> {
        let snapshot = groups::snapshot(&self.cluster, &self.state, &self.topics).await?;
        let mut parts: BTreeMap<TopicPartition, PartKey> = BTreeMap::new();
        for row in snapshot.rows.iter().filter(|row| row.partition >= 0) {
            let Some(topic) = self.topics.get(&row.topic) else { continue };
            let tp = TopicPartition::new(&Arc::from(topic.name.as_str()), row.partition);
            parts.insert(tp, (row.topic, row.partition as u32));
        }
        let all: Vec<TopicPartition> = parts.keys().cloned().collect();
        let told = self.cluster.list_offsets_within(&all, End::LastStable, PATIENCE).await?;
        // Whose end can't be told is not reached.
        let end = |tp| told.found.get(tp).map_or(i64::MAX, |found| found.offset);
        let stable = parts.iter().map(|(tp, key)| (*key, end(tp))).collect();
        Ok(Positions { snapshot, stable })
    }
}

impl Following {
    /// At the start of a run.
    pub fn new(follow: Follow, commit_interval: Duration, first: First) -> Self {
        let First { unavailable, complaints, unread, closed, groups_are_late } = first;
        let now = Instant::now();
        let census_every = (commit_interval / 2).clamp(CENSUS_EVERY.0, CENSUS_EVERY.1);
        Self {
            groups_at: if groups_are_late { now } else { now + follow.groups_interval },
            follow,
            open: BTreeSet::new(),
            failing: unavailable.into_iter().map(|key| (key, (0, None))).collect(),
            complaints,
            denials: Vec::new(),
            hanging: Vec::new(),
            unread,
            closed,
            missed: BTreeSet::new(),
            census_every,
            census_at: now + census_every,
            said: 0,
            settings_at: now + SETTINGS_EVERY,
            asking_groups: false,
            counted_at: 0,
            positions: BTreeMap::new(),
            unreadable: Vec::new(),
        }
    }

    /// When the next census is due, and when groups are to be read, unless that is under way.
    pub fn wake(&self) -> (Instant, Option<Instant>) {
        (self.census_at, (!self.asking_groups).then_some(self.groups_at))
    }

    /// Whether the cluster is to be looked at.
    pub fn census_is_due(&self) -> bool {
        self.census_at <= Instant::now()
    }

    /// The census that is due.
    pub fn census(&mut self, selection: &Selection) -> Census {
        let now = Instant::now();
        let thorough = self.settings_at <= now;
        if thorough {
            self.settings_at = now + SETTINGS_EVERY;
        }
        self.census_at = now + self.census_every;
        self.said = 0;
        let (selection, open) = (selection.clone(), self.open.clone());
        let (unread, closed) = (self.unread.clone(), self.closed.clone());
        Census { selection, open, thorough, missed: std::mem::take(&mut self.missed), unread, closed }
    }

    /// Whether groups are to be read.
    pub fn groups_are_due(&self) -> bool {
        !self.asking_groups && self.groups_at <= Instant::now()
    }

    /// What is needed to read them.
    pub fn question(&mut self, cluster: &Arc<Cluster>, state: &Arc<State>, topics: Arc<Topics>) -> Question {
        self.asking_groups = true;
        Question { cluster: Arc::clone(cluster), state: Arc::clone(state), topics }
    }

    /// These are being read.
    pub fn begin(&mut self, tasks: &[Task]) {
        self.open.extend(tasks.iter().map(|task| task.key));
    }

    /// Whether it is being read.
    pub fn reads(&self, key: &PartKey) -> bool {
        self.open.contains(key)
    }

    /// It is not being read any more.
    pub fn ends(&mut self, task: &Task) {
        self.open.remove(&task.key);
    }

    /// It can't be read; the next census looks at it again.
    pub fn fails(&mut self, task: &Task, issue: Issue) {
        self.ends(task);
        self.suffers(task, issue);
    }

    /// It has rested for long, and is tried all the time.
    pub fn suffers(&mut self, task: &Task, issue: Issue) {
        if !matches!(self.failing.get(&task.key), Some((_, Some(_)))) {
            self.said += 1;
            match self.said {
                ..=MOST_LINES => tracing::warn!("{}: it is tried again", issue.in_a_line()),
                _ => tracing::info!("{}: it is tried again", issue.in_a_line()),
            }
        }
        self.failing.insert(task.key, (task.complete, Some(issue)));
    }

    /// These could be read.
    pub fn are_well(&mut self, keys: &[PartKey]) {
        for key in keys {
            if let Some((_, Some(issue))) = self.failing.remove(key) {
                tracing::warn!("it goes on again: {}", issue.message);
            }
        }
    }

    /// What is wrong now.
    pub fn issues(&mut self) -> Vec<Issue> {
        let failing = std::mem::take(&mut self.failing).into_values().filter_map(|(_, issue)| issue);
        let mut issues: Vec<Issue> = failing.collect();
        issues.append(&mut self.complaints);
        issues.append(&mut self.denials);
        issues.append(&mut self.hanging);
        issues.append(&mut self.unreadable);
        issues
    }

    /// The least time up to which partitions without a task are complete, and topics are known; `first`: as the plan knew them.
    pub fn complete(&self, first: i64) -> i64 {
        let without = self.failing.iter().filter(|(key, _)| !self.open.contains(*key));
        let counted = if self.counted_at > 0 { self.counted_at } else { first };
        without.map(|(_, (complete, _))| *complete).fold(counted, i64::min)
    }

    /// Groups' rows wait until the data reach as far as `stable`.
    fn wait_with(&mut self, rows: Vec<GroupRow>, stable: &HashMap<PartKey, i64>) {
        self.positions.retain(|_, waiting| waiting.since.elapsed() < POSITIONS_LAST);
        let mut by_group: BTreeMap<String, Vec<GroupRow>> = BTreeMap::new();
        for row in rows {
            by_group.entry(row.group.clone()).or_default().push(row);
        }
        for (group, rows) in by_group {
            let parts = rows.iter().filter(|row| row.partition >= 0);
            let keys = parts.map(|row| (row.topic, row.partition as u32));
            let reach = keys.map(|key| (key, stable.get(&key).copied().unwrap_or(i64::MAX))).collect();
            let since = Instant::now();
            self.positions.entry(group).or_insert(Waiting { rows, reach, since });
        }
    }

    /// Takes the rows of groups whose positions the vault reaches, once `rows` are in it.
    pub fn reached(&mut self, state: &State, rows: &Rows) -> Vec<GroupRow> {
        if self.positions.is_empty() {
            return Vec::new();
        }
        let mut ends: HashMap<PartKey, i64> = HashMap::new();
        for range in &rows.ranges {
            let end = ends.entry((range.topic, range.partition)).or_insert(range.next);
            *end = range.next.max(*end);
        }
        let cursor = |key: &PartKey| Some(state.partitions.get(key)?.cursor?.next);
        let reaches =
            |(key, end): (&PartKey, &i64)| ends.get(key).copied().or_else(|| cursor(key)) >= Some(*end);
        let mut reached = Vec::new();
        self.positions.retain(|_, waiting| {
            let is_reached = waiting.reach.iter().all(reaches);
            if is_reached {
                reached.append(&mut waiting.rows);
            }
            !is_reached
        });
        reached
    }
}

/// What was not said before is said.
fn warn_of_new(issues: &[Issue], old: &[Issue]) {
    let is_new = |issue: &&Issue| !old.iter().any(|old| old.message == issue.message);
    issues.iter().filter(is_new).take(MOST_LINES).for_each(|issue| tracing::warn!("{}", issue.in_a_line()));
}

impl Run {
    /// The groups that were read at the start.
    pub(super) fn first_positions(&mut self, rows: Vec<GroupRow>, stable: &HashMap<PartKey, i64>) {
        if let Some(following) = &mut self.following {
            following.wait_with(rows, stable);
        }
    }

    pub(super) fn take_positions(&mut self, positions: Result<Positions, EngineError>, report: &mut Report) {
        let Some(following) = &mut self.following else { return };
        following.asking_groups = false;
        following.groups_at = Instant::now() + following.follow.groups_interval;
        match positions {
            Ok(Positions { snapshot, stable }) => {
                report.groups = snapshot.groups;
                following.unreadable = snapshot.issues;
                following.wait_with(snapshot.rows, &stable);
            }
            Err(error) => {
                let message = format!("consumer groups could not be read: {error}");
                tracing::warn!("{message}");
                following.unreadable = vec![Issue::new("group_unreadable", Severity::Failed, message)];
            }
        }
    }

    pub(super) fn learn_census(
        &mut self,
        plan: &mut Plan,
        (counted, missed): (Counted, BTreeSet<String>),
        again: &BTreeMap<PartKey, Again>,
        report: &mut Report,
    ) {
        self.add_topics(plan, report);
        self.drop_topics(self.superseded(plan), report);
        let Some(following) = &mut self.following else { return };
        following.missed = missed;
        (following.unread, following.closed) =
            (std::mem::take(&mut plan.unread), std::mem::take(&mut plan.closed));
        // As long as a topic can't be read, not all is complete.
        if !plan.is_blind {
            following.counted_at = counted.begun;
        }
        let (lost, passing): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.issues)
            .into_iter()
            .partition(|issue| issue.severity == Severity::Missing);
        lost.iter().for_each(|issue| tracing::warn!("{}", issue.in_a_line()));
        report.errors.extend(lost);
        let (denials, complaints): (Vec<_>, Vec<_>) =
            passing.into_iter().partition(|issue| issue.code == DENIED);
        warn_of_new(&complaints, &following.complaints);
        following.complaints = complaints;
        if counted.checked {
            warn_of_new(&denials, &following.denials);
            following.denials = denials;
        }
        if let Some(hanging) = counted.hanging {
            warn_of_new(&hanging, &following.hanging);
            following.hanging = hanging;
        }
        // Those that have been said to fail are well again when they are read.
        for task in &mut plan.tasks {
            match following.failing.get(&task.key) {
                Some((_, Some(_))) => task.waits = true,
                _ => _ = following.failing.remove(&task.key),
            }
        }
        let tasks: BTreeSet<PartKey> = plan.tasks.iter().map(|task| task.key).collect();
        let unavailable = std::mem::take(&mut plan.unavailable).into_iter().map(|key| (key, 0));
        let silent = again.iter().filter(|(key, _)| !tasks.contains(key));
        for (key, complete) in silent.map(|(key, again)| (*key, again.complete)).chain(unavailable) {
            following.failing.entry(key).or_insert((complete, None));
        }
        following.failing.retain(|key, _| plan.topics.contains_key(&key.0) || following.open.contains(key));
    }

    /// Lives of topics that are read and that the census does not find any more, or has found to be over.
    fn superseded(&self, plan: &Plan) -> BTreeSet<TopicId> {
        let told = plan.rows.topics.iter().filter(|row| !row.present).map(|row| row.topic);
        // What is told of once is committed then, but a task may have been on its way from one worker to another.
        let read = self.following.iter().flat_map(|following| following.open.iter().map(|(topic, _)| *topic));
        let is_over = |topic: &TopicId| self.state.topics.get(topic).is_some_and(|row| !row.present);
        told.chain(read.filter(is_over)).filter(|topic| !plan.topics.contains_key(topic)).collect()
    }

    /// New topics are in the report and known to workers; those that are gone and not read any more are not.
    fn add_topics(&mut self, plan: &Plan, report: &mut Report) {
        super::add_topics(report, plan);
        let Some(following) = &self.following else { return };
        let mut topics = (*self.shared.topics()).clone();
        topics.retain(|id, _| following.open.range((*id, 0)..=(*id, u32::MAX)).next().is_some());
        topics.extend(plan.topics.iter().map(|(id, row)| (*id, row.clone())));
        self.shared.set_topics(Arc::new(topics));
    }

    /// A census that fails for a passing reason is made again; without one the run can't go on.
    pub(super) fn survey_failed(
        &mut self,
        again: BTreeMap<PartKey, Again>,
        error: EngineError,
    ) -> Result<(), EngineError> {
        let is_passing =
            matches!(&error, EngineError::Kafka(error) if error.retry_class() != RetryClass::Never);
        let gave_up = matches!(&error, EngineError::Kafka(bodley_io::kafka::KafkaError::GaveUp { .. }));
        if self.following.is_none() || !(is_passing || gave_up) {
            return Err(error);
        }
        // Who is waited for is said by the cluster's health.
        tracing::info!("the cluster could not be looked at, which is tried again: {error}");
        let at = Instant::now() + CENSUS_AGAIN;
        if let Some(following) = &mut self.following {
            following.census_at = at;
        }
        self.again.extend(again.into_iter().map(|(key, again)| (key, Again { at, ..again })));
        Ok(())
    }
}

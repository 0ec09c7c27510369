//! Before a restore writes: what the vault has, what the target has, what would be created, and everything that speaks against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_io::kafka::topics::{Change, NewTopic};
use bodley_io::kafka::{Layout, TopicPartition};
use bodley_io::store::SharedStore;
use bodley_protocol::ErrorCode;
use bodley_protocol::stamp::Stamp;
use futures_util::stream::{self, StreamExt};

use super::map::{MapRun, OffsetMap};
use super::names::{Lives, Partitions, Renames};
use super::outgo::damaged;
use super::settings::Settings;
use super::stand::Stand;
use super::target::{Look, check_target};
use super::window::Windows;
use super::work::Work;
use super::{RestoreOptions, groups};
use crate::error::{EngineError, Severity};
use crate::inventory;
use crate::look::Window;
use crate::report::{Gap, Issue, TopicReport, counted};
use crate::rights::Touched;
use crate::vault::commit::segment_path;
use crate::vault::reading::AHEAD;
use crate::vault::rows::{Kind, Range, TopicRow};
use crate::vault::state::{PartitionState, State};

/// Bound on a stamped batch, bytes: brokers take no larger request by default (socket.request.max.bytes).
const STAMPED_LARGEST: u32 = 98 << 20;

/// Everything that a restore will do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Topic by topic, by target name.
    pub topics: Vec<TopicPlan>,
    /// Offsets in it that the vault does not have.
    pub gaps: Vec<Gap>,
    /// Worth knowing.
    pub notes: Vec<String>,
    /// What is wrong but does not stop it.
    pub issues: Vec<Issue>,
    /// What topics at the target have where they have no setting of their own; empty where it does not tell.
    pub inherited: BTreeMap<String, String>,
}

/// One topic on its way back.
#[derive(Debug)]
pub struct TopicPlan {
    /// In the vault.
    pub source: TopicRow,
    /// Name at the target.
    pub target: Arc<str>,
    /// What is to be done with it.
    pub status: Status,
    /// The target's topic speaks against it.
    pub refused: bool,
    /// It held data before an earlier run added to it.
    pub appended: bool,
    /// Settings while it is written and after.
    pub settings: Settings,
    /// Partitions that it must have at the target.
    pub needs: u32,
    /// Chosen partitions that the vault knows.
    pub partitions: Vec<PartitionPlan>,
    /// For the report.
    pub summary: TopicReport,
    /// Committed offsets of groups in it.
    pub positions: Vec<Position>,
}

impl TopicPlan {
    /// The offset map of one of its partitions, of which these are end and runs.
    pub fn offset_map(&self, partition: i32, (end, runs): (i64, Vec<MapRun>)) -> OffsetMap {
        let (topic, target) = (self.source.name.clone(), self.target.to_string());
        let appended = self.status == Status::InUse || self.appended;
        OffsetMap { topic, target, partition, appended, coarse: false, end, runs }
    }
}

/// How a topic stands at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// To be created.
    Missing,
    /// There, made by this restore.
    Created,
    /// There, somebody else made it; without data before the restore.
    Found,
    /// There with data, to which the restore appends.
    InUse,
    /// An earlier run has done everything.
    Done,
}

/// A group's committed offset on its way back.
#[derive(Debug, Clone)]
pub struct Position {
    /// Group.
    pub group: String,
    /// Partition at the target.
    pub tp: TopicPartition,
    /// At the source.
    pub offset: i64,
    /// Time of the record that it would have read next, ms, if that has been looked up and there is one.
    pub time: Option<i64>,
    /// The client's own words.
    pub metadata: Option<String>,
}

/// One partition on its way back.
#[derive(Debug, Clone)]
pub struct PartitionPlan {
    /// At the target.
    pub tp: TopicPartition,
    /// What is to be sent.
    pub work: Work,
    /// Log end at the target before the restore: where its first record goes.
    pub base: i64,
    /// Where an earlier run stood when it began.
    pub stand: Option<Stand>,
}

/// What is to go where, as vault and flags have it. Times ago count from `now`, ms.
pub fn draft(state: &State, options: &RestoreOptions, now: i64) -> Result<Plan, EngineError> {
    let choice = &options.choice;
    let newest = state.newest();
    let there = newest.values().map(|topic| (topic.name.as_str(), topic.internal));
    let place = if choice.at.is_some() { "in the vault as it was then" } else { "in the vault" };
    let chosen = choice.selection.choose(there, place)?;
    if chosen.is_empty() && !newest.is_empty() {
        return Err(EngineError::Refused("nothing is left to restore: every topic is excluded".into()));
    }
    let rows = Lives::parse(&choice.incarnation)?.choose(state, &chosen)?;
    let partitions = Partitions::parse(choice.partitions.as_deref())?;
    let windows = Windows::new(&choice.window, now)?;
    let targets = Renames::parse(&choice.rename)?.targets(&chosen)?;
    groups::check_names(state, options)?;
    let mut plan = Plan::default();
    let mut parts = BTreeSet::new();
    for (name, source) in rows {
        parts.extend((0..source.partitions).filter(|n| partitions.covers(*n)).map(|n| (name, n)));
        let Some(target) = targets.get(name) else { continue };
        plan.add(state, (source, target), &Wanted { options, partitions: &partitions, windows: &windows })?;
    }
    partitions.check_used(&parts)?;
    windows.check_used(&parts)?;
    Ok(plan)
}

/// What is wanted of a topic.
struct Wanted<'a> {
    options: &'a RestoreOptions,
    partitions: &'a Partitions,
    windows: &'a Windows,
}

/// Looks at the target and completes the plan, or says everything that speaks against it. Writes nothing.
pub async fn complete(
    plan: &mut Plan,
    look: &Look<'_>,
    state: &State,
    options: &RestoreOptions,
) -> Result<(), EngineError> {
    let mut conflicts = Vec::new();
    known_settings(look, state, options, plan).await?;
    check_target(look, plan, &mut conflicts).await?;
    check_replication(look.layout, options, plan, &mut conflicts);
    groups::mark(state, options, plan);
    if !plan.gaps.is_empty() {
        let message =
            format!("the vault itself has {} in what was restored", counted(plan.gaps.len(), "gap"));
        plan.issues
            .push(Issue::new("gap", Severity::Missing, message).hint("`bodley show TOPIC` names them"));
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    let separator = if conflicts.len() > 1 { "\n  " } else { " " };
    Err(EngineError::Refused(format!("nothing was written:{separator}{}", conflicts.join(separator))))
}

/// What a restore will touch at the target.
pub fn touched(plan: &Plan, layout: &Layout, state: &State, options: &RestoreOptions) -> Touched {
    let targets = plan.topics.iter().map(|topic| Arc::clone(&topic.target));
    let (present, absent) = targets.partition(|target| layout.topics.contains_key(target));
    Touched { present, absent, settings_stay: options.append, groups: groups::names(state, options, plan) }
}

/// Topics that are there and get temporary settings.
pub fn empty_topics(plan: &Plan) -> Vec<Arc<str>> {
    let empty = plan.topics.iter().filter(|topic| matches!(topic.status, Status::Found | Status::Created));
    empty.map(|topic| Arc::clone(&topic.target)).collect()
}

/// The gaps of a partition that a window may reach, and how many others there are.
fn gaps_in(topic: &str, partition: u32, part: &PartitionState, window: &Window) -> (Vec<Gap>, usize) {
    let (mut inside, mut outside) = (Vec::new(), 0);
    for (at, row) in part.ranges.iter().enumerate() {
        let Kind::Gap(reason) = row.kind else { continue };
        match window.may_hold_gap(&part.ranges, at) {
            true => inside.push(Gap::new(topic, partition, row.first..row.next, reason)),
            false => outside += 1,
        }
    }
    (inside, outside)
}

/// Settles each topic's settings, by the names that the target knows.
async fn known_settings(
    look: &Look<'_>,
    state: &State,
    options: &RestoreOptions,
    plan: &mut Plan,
) -> Result<(), EngineError> {
    let Look { cluster, layout, .. } = look;
    // Any topic tells the names, if we may see its settings; else the target is asked what a new one would have, and where it does not tell,
    // when the first is created.
    let own =
        plan.topics.iter().map(|topic| &topic.target).find(|target| layout.topics.contains_key(*target));
    let mut known = None;
    match own.or(layout.topics.keys().next()) {
        Some(any) => match cluster.describe_configs(std::slice::from_ref(any)).await {
            Err(error) if error.code() == Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED) => {}
            described => {
                known = described?.into_values().next().map(|configs| configs.into_keys().collect());
                plan.inherited = cluster.inherited_configs(any).await?;
            }
        },
        None => {
            if let Some(topic) = plan.topics.first() {
                let configs = cluster.configs_of_new(&topic.target).await?;
                known = (!configs.is_empty()).then(|| configs.keys().cloned().collect::<BTreeSet<String>>());
                plan.inherited =
                    configs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            }
        }
    }
    let overrides = super::settings::Overrides::parse(&options.topic_config)?;
    overrides.check_topics(plan.topics.iter().map(|topic| &*topic.target))?;
    overrides.check_names(known.as_ref())?;
    for topic in &mut plan.topics {
        let own = state.configs.get(&topic.source.topic).cloned().unwrap_or_default();
        let largest =
            topic.partitions.iter().flat_map(|p| &p.work.chunks).map(|chunk| chunk.stored).max().unwrap_or(0);
        // How large a batch becomes that is stamped is not known before.
        let largest = if options.choice.stamp_headers { STAMPED_LARGEST } else { largest };
        topic.settings = Settings::of_source(own, &overrides, &topic.target, u64::from(largest));
        topic.settings.cap_min_insync(replication(topic, options));
        topic.settings.restrict(known.as_ref(), &topic.target, &mut plan.notes);
    }
    Ok(())
}

fn check_replication(layout: &Layout, options: &RestoreOptions, plan: &Plan, conflicts: &mut Vec<String>) {
    // Who has replicas belongs to the cluster, also while it is down: the controller places new ones there all the same.
    let partitions = layout.topics.values().flat_map(|topic| &topic.partitions);
    let replicas = partitions.flat_map(|partition| partition.replicas.iter());
    let brokers = layout.brokers.keys().chain(replicas).collect::<BTreeSet<_>>().len();
    let missing = plan.topics.iter().filter(|topic| topic.status == Status::Missing);
    let mut wanted = missing.map(|topic| (topic, replication(topic, options)));
    // One flag cures all: one sentence suffices.
    let first = wanted.find(|(_, wanted)| *wanted as usize > brokers);
    conflicts.extend(first.map(|(topic, wanted)| {
        format!(
            "topic {} needs {wanted} replicas and the target has {brokers} broker(s): use --replication-factor {brokers}",
            topic.target
        )
    }));
}

/// Replicas of a topic that is created.
pub fn replication(topic: &TopicPlan, options: &RestoreOptions) -> i16 {
    options.replication_factor.unwrap_or((topic.source.replication as i16).max(1))
}

/// The topics to create.
pub fn new_topics(plan: &Plan, options: &RestoreOptions) -> Vec<NewTopic> {
    let missing = plan.topics.iter().filter(|topic| topic.status == Status::Missing && !topic.refused);
    missing
        .map(|topic| NewTopic {
            name: Arc::clone(&topic.target),
            partitions: (topic.source.partitions as i32).max(1),
            replication_factor: replication(topic, options),
            configs: topic.settings.at_creation(),
        })
        .collect()
}

impl Plan {
    /// Adds what is wanted of a topic of the vault, which is to have this name.
    fn add(
        &mut self,
        state: &State,
        (source, target): (&TopicRow, &str),
        wanted: &Wanted<'_>,
    ) -> Result<(), EngineError> {
        let target: Arc<str> = Arc::from(target);
        let mut partitions = Vec::new();
        let mut outside = 0;
        let mut summary = inventory::summarize(state, source);
        for ((_, number), part) in state.partitions.range((source.topic, 0)..=(source.topic, u32::MAX)) {
            if !wanted.partitions.covers(*number) {
                continue;
            }
            let window = wanted.windows.of(&source.name, *number)?;
            let (gaps, others) = gaps_in(&source.name, *number, part, &window);
            self.gaps.extend(gaps);
            outside += others;
            let mut work = Work::new(part, window);
            work.needs_exact_map = wanted.options.map_again;
            work.stamp = wanted.options.choice.stamp_headers.then(|| Stamp::new(&source.name, *number));
            let tp = TopicPartition::new(&target, *number as i32);
            partitions.push(PartitionPlan { tp, work, base: 0, stand: None });
        }
        if outside > 0 {
            self.notes.push(format!(
                "topic {}: {} of the vault left aside: outside of what is wanted, as far as offsets and the times around tell",
                source.name,
                counted(outside, "gap")
            ));
        }
        if partitions.iter().any(|p| p.work.window.is_some()) || !wanted.partitions.is_all() {
            let counts = partitions.iter().map(|p| p.work.records());
            summary.records = counts.map(|(known, all)| all.then_some(known)).sum();
            summary.bytes = partitions.iter().map(|p| p.work.bytes()).sum();
            // What is known are the times of all of it.
            (summary.min_timestamp, summary.max_timestamp) = (None, None);
            if partitions.iter().all(|p| p.work.chunks.is_empty()) {
                self.notes
                    .push(format!("topic {}: the vault has nothing of what is wanted of it", source.name));
            }
        }
        summary.target = (*target != *source.name).then(|| target.to_string());
        let chosen = (0..source.partitions).filter(|number| wanted.partitions.covers(*number));
        self.topics.push(TopicPlan {
            source: source.clone(),
            target,
            status: Status::Missing,
            refused: false,
            appended: false,
            settings: Settings::default(),
            needs: chosen.max().map_or(0, |last| last + 1),
            partitions,
            summary,
            positions: Vec::new(),
        });
        Ok(())
    }

    /// Topics that are worked on.
    pub fn open_topics(&self) -> impl Iterator<Item = &TopicPlan> {
        self.topics.iter().filter(|topic| topic.status != Status::Done)
    }

    /// A change of settings for each topic that is worked on.
    pub fn changes(&self, of: impl Fn(&Settings) -> Vec<Change>) -> Vec<(Arc<str>, Vec<Change>)> {
        let changes = self.open_topics().map(|topic| (Arc::clone(&topic.target), of(&topic.settings)));
        changes.filter(|(_, changes)| !changes.is_empty()).collect()
    }
}

/// Looks whether every segment that the plan reads is there in full length: a restore that can't end is better not begun.
pub async fn check_segments(store: &SharedStore, state: &State, plan: &Plan) -> Result<(), EngineError> {
    let mut wanted: BTreeMap<[u8; 16], (&str, &Range)> = BTreeMap::new();
    for topic in plan.open_topics() {
        for chunk in topic.partitions.iter().flat_map(|partition| &partition.work.chunks) {
            wanted.entry(chunk.segment).or_insert((topic.source.name.as_str(), chunk));
        }
    }
    let sizes = stream::iter(wanted).map(async |(id, wanted)| {
        let id = ulid::Ulid::from_bytes(id).to_string();
        let path = segment_path(&id);
        let expected = state.segments.get(&id).map(|segment| segment.bytes);
        let found = store.size(&path).await;
        (path, wanted, expected, found)
    });
    let mut sizes = std::pin::pin!(sizes.buffered(AHEAD));
    while let Some((path, (topic, range), expected, found)) = sizes.next().await {
        if found? != expected || expected.is_none() {
            let what =
                "it is missing or has another length than its commit says (nothing was written)".to_owned();
            return Err(damaged(&path, topic, range, what));
        }
    }
    Ok(())
}

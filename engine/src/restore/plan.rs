//! Before a restore writes: what the vault has, what the target has, what would be created, and everything that speaks against it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodley_io::kafka::cluster::is_topic_name;
use bodley_io::kafka::topics::{Change, NewTopic};
use bodley_io::kafka::{Layout, TopicPartition};
use bodley_io::store::SharedStore;
use bodley_protocol::ErrorCode;

use super::outgo::damaged;
use super::settings::Settings;
use super::stand::Stand;
use super::target::{Look, check_target};
use super::{RestoreOptions, groups};
use crate::error::{EngineError, Severity};
use crate::inventory;
use crate::report::{Gap, Issue, TopicReport};
use crate::rights::Touched;
use crate::vault::commit::segment_path;
use crate::vault::rows::{AbortedRow, Kind, Range, TopicRow};
use crate::vault::state::State;

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
    /// Settings while it is written and after.
    pub settings: Settings,
    /// Partitions with data.
    pub partitions: Vec<PartitionPlan>,
    /// For the report.
    pub summary: TopicReport,
    /// Committed offsets of groups in it.
    pub positions: Vec<Position>,
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

/// What a partition has in the vault.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Chunks were left out behind so many records.
    pub left_out_behind: Option<i64>,
    /// Chunks in order.
    pub ranges: Vec<Range>,
    /// What they hold of aborted transactions.
    pub aborted: Vec<AbortedRow>,
    /// Group positions (source offsets, sorted) to be translated along the way.
    pub marks: Vec<i64>,
    /// Small batches are merged up to so many bytes. What is sent, and where, does not depend on it.
    pub merge_up_to: Option<usize>,
}

impl Work {
    /// Whether the records that restore counts in a chunk are those that the vault counted. A chunk that follows another one begins with a whole batch,
    /// any other may begin inside one.
    pub fn is_exact(&self, index: usize) -> bool {
        let Some(range) = self.ranges.get(index) else { return false };
        let before = index.checked_sub(1).and_then(|before| self.ranges.get(before));
        let follows = before.is_some_and(|b| b.next == range.first && b.rewind == range.rewind);
        range.kept >= 0 && (follows || range.first == 0)
    }

    /// Leaves chunks out, by their places in order.
    pub fn leave_out(&mut self, places: &[usize]) {
        let Some(first) = places.first() else { return };
        let before = self.ranges.iter().take(*first);
        self.left_out_behind = Some(before.map(|range| range.kept.max(0)).sum());
        let mut index = 0;
        self.ranges.retain(|_| {
            index += 1;
            !places.contains(&(index - 1))
        });
    }

    /// Bytes to read when the first `done` records are at the target.
    pub fn bytes_behind(&self, done: i64) -> u64 {
        let mut records = 0;
        let mut bytes = 0;
        for range in &self.ranges {
            records += range.kept.max(0);
            if records > done || range.kept < 0 {
                bytes += u64::from(range.stored);
            }
        }
        bytes
    }
}

/// `FROM=TO` pairs of --rename.
fn renames(
    options: &RestoreOptions,
    chosen: &BTreeSet<String>,
) -> Result<HashMap<String, String>, EngineError> {
    let mut map = HashMap::new();
    for pair in &options.rename {
        let split = pair.split_once('=').filter(|(from, to)| !from.is_empty() && !to.is_empty());
        let (from, to) =
            split.ok_or_else(|| EngineError::Refused(format!("--rename `{pair}`: write FROM=TO")))?;
        if from.contains(['*', '?']) || to.contains(['*', '?']) {
            return Err(EngineError::Refused(format!(
                "--rename `{pair}`: this version renames whole names only, no globs"
            )));
        }
        if !chosen.contains(from) {
            return Err(EngineError::Refused(format!(
                "--rename `{pair}`: topic `{from}` is not among those to restore"
            )));
        }
        if !is_topic_name(to) {
            return Err(EngineError::Refused(format!(
                "`{to}` is no topic name: at most 249 letters, digits, dots, underscores and dashes"
            )));
        }
        if to.starts_with("__") {
            return Err(EngineError::Refused(format!(
                "--rename `{pair}`: names that begin with __ are the brokers' own"
            )));
        }
        if map.insert(from.to_owned(), to.to_owned()).is_some() {
            return Err(EngineError::Refused(format!("--rename names topic `{from}` twice")));
        }
    }
    Ok(map)
}

/// What is to go where, as vault and flags have it.
pub fn draft(state: &State, options: &RestoreOptions) -> Result<Plan, EngineError> {
    let newest = state.newest();
    let there = newest.values().map(|topic| (topic.name.as_str(), topic.internal));
    let chosen = options.selection.choose(there, "in the vault")?;
    if chosen.is_empty() && !newest.is_empty() {
        return Err(EngineError::Refused("nothing is left to restore: every topic is excluded".into()));
    }
    let renames = renames(options, &chosen)?;
    let mut plan = Plan::default();
    let mut targets: HashMap<String, &str> = HashMap::new();
    for name in &chosen {
        let Some(source) = newest.get(name.as_str()) else { continue };
        let target = renames.get(name).unwrap_or(name);
        if target.starts_with("__") {
            return Err(EngineError::Refused(format!(
                "topic `{target}` belongs to the target's brokers: restore it under another name with --rename"
            )));
        }
        if let Some(other) = targets.insert(target.clone(), name) {
            return Err(EngineError::Refused(format!(
                "topics `{other}` and `{name}` would both become `{target}`"
            )));
        }
        let topic = topic_plan(state, source, target);
        plan.gaps.extend(inventory::gaps(state, source));
        plan.topics.push(topic);
    }
    Ok(plan)
}

/// Looks at the target and completes the plan, or says everything that speaks against it. Writes nothing.
pub async fn complete(
    mut plan: Plan,
    look: &Look<'_>,
    state: &State,
    options: &RestoreOptions,
) -> Result<Plan, EngineError> {
    let mut conflicts = Vec::new();
    known_settings(look, state, options, &mut plan).await?;
    check_target(look, &mut plan, &mut conflicts).await?;
    check_replication(look.layout, options, &plan, &mut conflicts);
    groups::mark(state, options, &mut plan);
    if !plan.gaps.is_empty() {
        let message = format!("the vault itself has {} gaps in what was restored", plan.gaps.len());
        plan.issues
            .push(Issue::new("gap", Severity::Missing, message).hint("`bodley show TOPIC` names them"));
    }
    if conflicts.is_empty() {
        return Ok(plan);
    }
    let separator = if conflicts.len() > 1 { "\n  " } else { "" };
    Err(EngineError::Refused(format!("nothing was written: {separator}{}", conflicts.join(separator))))
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

fn topic_plan(state: &State, source: &TopicRow, target: &str) -> TopicPlan {
    let target: Arc<str> = Arc::from(target);
    let mut partitions = Vec::new();
    for ((_, partition), part) in state.partitions.range((source.topic, 0)..=(source.topic, u32::MAX)) {
        let ranges: Vec<Range> =
            part.ranges.iter().filter(|range| range.kind == Kind::Data).cloned().collect();
        let tp = TopicPartition::new(&target, *partition as i32);
        let work = Work { ranges, aborted: part.aborted.clone(), ..Work::default() };
        partitions.push(PartitionPlan { tp, work, base: 0, stand: None });
    }
    let mut summary = inventory::summarize(state, source);
    summary.target = (*target != *source.name).then(|| target.to_string());
    TopicPlan {
        source: source.clone(),
        target,
        status: Status::Missing,
        settings: Settings::default(),
        partitions,
        summary,
        positions: Vec::new(),
    }
}

/// Settles each topic's settings, by the names that the target knows.
async fn known_settings(
    look: &Look<'_>,
    state: &State,
    options: &RestoreOptions,
    plan: &mut Plan,
) -> Result<(), EngineError> {
    let Look { cluster, layout, .. } = look;
    // Any topic tells the names, if we may see its settings; without one the target is asked when the first is created.
    let own =
        plan.topics.iter().map(|topic| &topic.target).find(|target| layout.topics.contains_key(*target));
    let known: Option<BTreeSet<String>> = match own.or(layout.topics.keys().next()) {
        Some(any) => match cluster.describe_configs(std::slice::from_ref(any)).await {
            Err(error) if error.code() == Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED) => None,
            described => described?.into_values().next().map(|configs| configs.into_keys().collect()),
        },
        None => None,
    };
    let overrides = super::settings::Overrides::parse(&options.topic_config)?;
    overrides.check_topics(plan.topics.iter().map(|topic| &*topic.target))?;
    overrides.check_names(known.as_ref())?;
    for topic in &mut plan.topics {
        let own = state.configs.get(&topic.source.topic).cloned().unwrap_or_default();
        let largest =
            topic.partitions.iter().flat_map(|p| &p.work.ranges).map(|range| range.stored).max().unwrap_or(0);
        topic.settings = Settings::of_source(own, &overrides, &topic.target, u64::from(largest));
        topic.settings.cap_min_insync(replication(topic, options));
        topic.settings.restrict(known.as_ref(), &topic.target, &mut plan.notes);
    }
    Ok(())
}

fn check_replication(layout: &Layout, options: &RestoreOptions, plan: &Plan, conflicts: &mut Vec<String>) {
    let brokers = layout.brokers.len();
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

fn replication(topic: &TopicPlan, options: &RestoreOptions) -> i16 {
    options.replication_factor.unwrap_or((topic.source.replication as i16).max(1))
}

/// The topics to create.
pub fn new_topics(plan: &Plan, options: &RestoreOptions) -> Vec<NewTopic> {
    let missing = plan.topics.iter().filter(|topic| topic.status == Status::Missing);
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
        for range in topic.partitions.iter().flat_map(|partition| &partition.work.ranges) {
            wanted.entry(range.segment).or_insert((topic.source.name.as_str(), range));
        }
    }
    for (id, (topic, range)) in wanted {
        let id = ulid::Ulid::from_bytes(id).to_string();
        let path = segment_path(&id);
        let expected = state.segments.get(&id).map(|segment| segment.bytes);
        if expected.is_none() || store.size(&path).await? != expected {
            let what =
                "it is missing or has another length than its commit says (nothing was written)".to_owned();
            return Err(damaged(&path, topic, range, what));
        }
    }
    Ok(())
}

//! Before a restore writes: what the vault has, what the target has, what would be created, and everything that speaks against it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodley_io::kafka::offsets::End;
use bodley_io::kafka::topics::{Change, NewTopic};
use bodley_io::kafka::{Cluster, Layout, TopicPartition};
use bodley_io::store::SharedStore;

use super::outgo::damaged;
use super::settings::{Settings, TEMPORARY_MARK};
use super::{RestoreOptions, groups};
use crate::error::{EngineError, Severity};
use crate::inventory;
use crate::report::{Gap, Issue, TopicReport};
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
    /// To be created.
    pub missing: bool,
    /// Settings while it is written and after.
    pub settings: Settings,
    /// Partitions with data.
    pub partitions: Vec<PartitionPlan>,
    /// For the report.
    pub summary: TopicReport,
    /// Committed offsets of groups in it.
    pub positions: Vec<Position>,
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
    /// Chunks in order.
    pub ranges: Vec<Range>,
    /// What they hold of aborted transactions.
    pub aborted: Vec<AbortedRow>,
    /// Group positions (source offsets, sorted) to be translated along the way.
    pub marks: Vec<i64>,
    /// Log end at the target before the restore: where its first record goes.
    pub base: i64,
}

impl PartitionPlan {
    /// The plan with its work taken out, for who does the work; who waits for it keeps the rest.
    pub fn take_work(&mut self) -> Self {
        Self {
            tp: self.tp.clone(),
            ranges: std::mem::take(&mut self.ranges),
            aborted: std::mem::take(&mut self.aborted),
            marks: std::mem::take(&mut self.marks),
            base: self.base,
        }
    }

    /// Bytes to read.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| u64::from(range.stored)).sum()
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
        check_name(to)?;
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

/// Kafka's rule for topic names.
fn check_name(name: &str) -> Result<(), EngineError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.len() <= 249 && name.chars().all(legal) && name != "." && name != ".." {
        true => Ok(()),
        false => Err(EngineError::Refused(format!(
            "`{name}` is no topic name: at most 249 letters, digits, dots, underscores and dashes"
        ))),
    }
}

/// Makes the plan, or says everything that speaks against it. Writes nothing.
pub async fn plan(
    cluster: &Arc<Cluster>,
    state: &State,
    options: &RestoreOptions,
) -> Result<Plan, EngineError> {
    let newest = state.newest();
    let there = newest.values().map(|topic| (topic.name.as_str(), topic.internal));
    let chosen = options.selection.choose(there, "in the vault")?;
    if chosen.is_empty() && !newest.is_empty() {
        return Err(EngineError::Refused("nothing is left to restore: every topic is excluded".into()));
    }
    let renames = renames(options, &chosen)?;
    let layout = cluster.layout();
    let mut plan = Plan::default();
    let mut conflicts = Vec::new();
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
    known_settings(cluster, state, options, &layout, &mut plan).await?;
    check_target(cluster, &layout, &mut plan, &mut conflicts).await?;
    check_replication(&layout, options, &plan, &mut conflicts);
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

fn topic_plan(state: &State, source: &TopicRow, target: &str) -> TopicPlan {
    let target: Arc<str> = Arc::from(target);
    let mut partitions = Vec::new();
    for ((_, partition), part) in state.partitions.range((source.topic, 0)..=(source.topic, u32::MAX)) {
        let ranges: Vec<Range> =
            part.ranges.iter().filter(|range| range.kind == Kind::Data).cloned().collect();
        let tp = TopicPartition::new(&target, *partition as i32);
        partitions.push(PartitionPlan {
            tp,
            ranges,
            aborted: part.aborted.clone(),
            marks: Vec::new(),
            base: 0,
        });
    }
    let mut summary = inventory::summarize(state, source);
    summary.target = (*target != *source.name).then(|| target.to_string());
    TopicPlan {
        source: source.clone(),
        target,
        missing: true,
        settings: Settings::default(),
        partitions,
        summary,
        positions: Vec::new(),
    }
}

/// Settles each topic's settings, by the names that the target knows.
async fn known_settings(
    cluster: &Arc<Cluster>,
    state: &State,
    options: &RestoreOptions,
    layout: &Layout,
    plan: &mut Plan,
) -> Result<(), EngineError> {
    // Any topic tells the names; without one the target is asked when the first is created.
    let known: Option<BTreeSet<String>> = match layout.topics.keys().next() {
        Some(any) => {
            let described = cluster.describe_configs(std::slice::from_ref(any)).await?;
            described.into_values().next().map(|configs| configs.into_keys().collect())
        }
        None => None,
    };
    let overrides = super::settings::Overrides::parse(&options.topic_config)?;
    overrides.check_topics(plan.topics.iter().map(|topic| &*topic.target))?;
    overrides.check_names(known.as_ref())?;
    for topic in &mut plan.topics {
        let own = state.configs.get(&topic.source.topic).cloned().unwrap_or_default();
        let largest =
            topic.partitions.iter().flat_map(|p| &p.ranges).map(|range| range.stored).max().unwrap_or(0);
        topic.settings = Settings::of_source(own, &overrides, &topic.target, u64::from(largest));
        topic.settings.cap_min_insync(replication(topic, options));
        topic.settings.restrict(known.as_ref(), &topic.target, &mut plan.notes);
    }
    Ok(())
}

/// Looks at the topics that are there already: they must be empty, large enough, and not left over from a restore that was cut.
async fn check_target(
    cluster: &Arc<Cluster>,
    layout: &Layout,
    plan: &mut Plan,
    conflicts: &mut Vec<String>,
) -> Result<(), EngineError> {
    let mut parts = Vec::new();
    let mut present = Vec::new();
    for topic in &mut plan.topics {
        let Some(found) = layout.topics.get(&topic.target) else { continue };
        topic.missing = false;
        present.push(Arc::clone(&topic.target));
        let wanted = topic.source.partitions as usize;
        if found.partitions.len() < wanted {
            let there = found.partitions.len();
            conflicts.push(format!(
                "topic {} has {there} partitions at the target, {wanted} are needed",
                topic.target
            ));
        }
        parts.extend(
            found.partitions.iter().map(|partition| TopicPartition::new(&topic.target, partition.index)),
        );
    }
    if present.is_empty() {
        return Ok(());
    }
    let starts = cluster.list_offsets(&parts, End::Earliest).await?;
    let ends = cluster.list_offsets(&parts, End::HighWatermark).await?;
    if let Some((_, error)) = starts.failed.into_iter().chain(ends.failed).next() {
        return Err(error.into());
    }
    let mut holds: BTreeMap<&Arc<str>, i64> = BTreeMap::new();
    for (tp, end) in &ends.found {
        let start = starts.found.get(tp).map_or(0, |start| start.offset);
        if end.offset > start {
            *holds.entry(&tp.topic).or_default() += end.offset - start;
        }
    }
    let configs = cluster.describe_configs(&present).await?;
    for topic in plan.topics.iter_mut().filter(|topic| !topic.missing) {
        let own = configs.get(&topic.target);
        let mark = own.and_then(|own| own.get(TEMPORARY_MARK.0)).and_then(|config| config.value.as_deref());
        let cut = mark == Some(TEMPORARY_MARK.1);
        match holds.get(&topic.target) {
            Some(offsets) => conflicts.push(format!(
                "topic {} holds data at the target ({offsets} offsets{}): delete it, or restore under another name with --rename",
                topic.target,
                if cut { ", from a restore that was cut" } else { "" },
            )),
            None if cut => conflicts.push(format!(
                "topic {} has the temporary settings of a restore that was cut: delete it",
                topic.target
            )),
            None => {}
        }
        if let Some(own) = own {
            topic.settings.keep_targets_own(own);
        }
        for partition in &mut topic.partitions {
            partition.base = ends.found.get(&partition.tp).map_or(0, |end| end.offset);
        }
    }
    Ok(())
}

fn check_replication(layout: &Layout, options: &RestoreOptions, plan: &Plan, conflicts: &mut Vec<String>) {
    let brokers = layout.brokers.len();
    for topic in plan.topics.iter().filter(|topic| topic.missing) {
        let wanted = replication(topic, options);
        if wanted as usize > brokers {
            conflicts.push(format!(
                "topic {} needs {wanted} replicas and the target has {brokers} broker(s): use --replication-factor {brokers}",
                topic.target
            ));
        }
    }
    // One flag cures all: one sentence suffices.
    if plan.topics.len() > 1 {
        let about_replicas = |text: &String| text.contains("--replication-factor");
        let first = conflicts.iter().find(|text| about_replicas(text)).cloned();
        conflicts.retain(|text| !about_replicas(text));
        conflicts.extend(first);
    }
}

fn replication(topic: &TopicPlan, options: &RestoreOptions) -> i16 {
    options.replication_factor.unwrap_or((topic.source.replication as i16).max(1))
}

/// The topics to create.
pub fn new_topics(plan: &Plan, options: &RestoreOptions) -> Vec<NewTopic> {
    let missing = plan.topics.iter().filter(|topic| topic.missing);
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
    /// A change of settings for each topic.
    pub fn changes(&self, of: impl Fn(&Settings) -> Vec<Change>) -> Vec<(Arc<str>, Vec<Change>)> {
        self.topics.iter().map(|topic| (Arc::clone(&topic.target), of(&topic.settings))).collect()
    }
}

/// Looks whether every segment that the plan reads is there in full length: a restore that can't end is better not begun.
pub async fn check_segments(store: &SharedStore, state: &State, plan: &Plan) -> Result<(), EngineError> {
    let mut wanted: BTreeMap<[u8; 16], (&str, &Range)> = BTreeMap::new();
    for topic in &plan.topics {
        for range in topic.partitions.iter().flat_map(|partition| &partition.ranges) {
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

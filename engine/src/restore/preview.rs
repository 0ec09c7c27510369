//! The plan in words and numbers: what a restore would create, write and leave, before it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_io::kafka::Cluster;
use serde::Serialize;

use super::plan::{PartitionPlan, Plan, Status, TopicPlan};
use super::topics::keeps;
use super::{GroupStrategy, RestoreOptions, groups};
use crate::look::Window;
use crate::report::known_time;
use crate::vault::log::Vault;
use crate::vault::state::State;

/// What a restore is taken to write in a second where nothing bounds it, bytes.
const ASSUMED_RATE: u64 = 200 << 20;

/// What a restore does, before it does.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PlanReport {
    /// Commit of the vault that is restored.
    pub seq: u64,
    /// Its time, ms.
    pub committed: i64,
    /// Id of the target cluster.
    pub target_cluster: String,
    /// Topic by topic.
    pub topics: Vec<PlannedTopic>,
    /// Records to be restored, as far as the vault's rows tell; see `records_are_exact`.
    pub records: u64,
    /// `false`: chunks that a window cuts hold up to so many records as `records_in_cut_chunks` beside them.
    pub records_are_exact: bool,
    /// Records in chunks that a window cuts, as far as they are known.
    pub records_in_cut_chunks: u64,
    /// Up to so many records are stored in message formats 0 and 1, and are written as batches of today.
    pub records_in_old_formats: u64,
    /// Bytes of record batches to be read.
    pub bytes: u64,
    /// Segments that are read from.
    pub objects: u64,
    /// Ranged reads.
    pub reads: u64,
    /// Seconds that it takes at `bytes_per_second`.
    pub estimated_seconds: f64,
    /// The limits that were given, or an assumption.
    pub bytes_per_second: u64,
    /// Positions of groups that are set.
    pub groups: Vec<PlannedGroup>,
    /// How: `map`, `timestamp`, `earliest`, `latest`, `none`.
    pub group_strategy: &'static str,
}

/// A topic in a [`PlanReport`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PlannedTopic {
    /// In the vault.
    pub topic: String,
    /// Its life there.
    pub incarnation: u32,
    /// At the target.
    pub target: String,
    /// Still at the source when it was last looked for.
    pub present: bool,
    /// `create`, `continue` (made by an earlier run), `fill` (there, without data), `append`, `done`, `refused`.
    pub action: &'static str,
    /// Partitions that it has at the source.
    pub partitions: u32,
    /// Those with records to restore.
    pub partitions_with_data: u32,
    /// What is wanted of partitions of which not all is.
    pub windows: Vec<PlannedWindow>,
    /// Replicas, of a topic that is created.
    pub replication_factor: Option<i16>,
    /// Records, as far as rows tell.
    pub records: u64,
    /// That is all of them.
    pub records_are_exact: bool,
    /// Bytes to be read.
    pub bytes: u64,
    /// Settings that it has in the end, of a topic that is created.
    pub settings: BTreeMap<String, String>,
    /// Records that the topic's own retention may delete as soon as the restore is done.
    pub expired_records: u64,
    /// Partitions that hold more bytes than its retention keeps.
    pub oversized_partitions: u32,
}

/// What is wanted of a partition. Lower bounds are inclusive, upper ones exclusive; null: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PlannedWindow {
    /// Partition.
    pub partition: i32,
    /// Least time, ms.
    pub from: Option<i64>,
    /// All times are less, ms.
    pub to: Option<i64>,
    /// Least offset.
    pub from_offset: Option<i64>,
    /// All offsets are less.
    pub to_offset: Option<i64>,
}

/// A group in a [`PlanReport`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PlannedGroup {
    /// Its name.
    pub group: String,
    /// Partitions in which its position is set.
    pub partitions: u64,
    /// It has live members at the target: as long as it has, its position is not set.
    pub live: bool,
}

/// Describes a plan. `now`: ms since 1970.
pub fn of(
    (plan, state): (&mut Plan, &State),
    options: &RestoreOptions,
    vault: &Vault,
    target_cluster: &str,
    now: i64,
) -> PlanReport {
    let mut report = PlanReport {
        seq: vault.receipt().seq,
        committed: vault.head_time(),
        target_cluster: target_cluster.to_owned(),
        records_are_exact: true,
        group_strategy: strategy(options.groups),
        ..PlanReport::default()
    };
    let mut segments = BTreeSet::new();
    for topic in &plan.topics {
        let planned = planned(plan, topic, options, now);
        if topic.status != Status::Done {
            report.records += planned.records;
            report.records_are_exact &= planned.records_are_exact;
            report.bytes += planned.bytes;
            for chunk in topic.partitions.iter().flat_map(|p| &p.work.chunks) {
                segments.insert(chunk.segment);
                report.reads += 1;
                let records = chunk.kept.max(0) as u64;
                report.records_in_cut_chunks += if chunk.is_exact { 0 } else { records };
                report.records_in_old_formats += if chunk.may_be_old() { records } else { 0 };
            }
        }
        report.topics.push(planned);
    }
    report.objects = segments.len() as u64;
    let limit = options.limit_write.iter().map(|limit| limit.rate()).chain(options.limit_read).min();
    report.bytes_per_second = limit.map_or(ASSUMED_RATE, |limit| limit.min(ASSUMED_RATE)).max(1);
    report.estimated_seconds = report.bytes as f64 / report.bytes_per_second as f64;
    let mut groups: BTreeMap<&str, u64> = BTreeMap::new();
    for position in plan.topics.iter().flat_map(|topic| &topic.positions) {
        *groups.entry(&position.group).or_default() += 1;
    }
    let group =
        |(group, partitions): (&str, u64)| PlannedGroup { group: group.to_owned(), partitions, live: false };
    report.groups = groups.into_iter().map(group).collect();
    if report.records_in_old_formats > 0 {
        plan.notes.push(format!(
            "up to {} records are stored in message formats 0 and 1, which no broker of today takes: they are written as batches of format 2, with the same keys, values and times",
            report.records_in_old_formats
        ));
    }
    let skipped = left_alone(plan, state, options);
    if skipped > 0 {
        plan.notes.push(format!(
            "{skipped} positions of groups lie in partitions that are not restored: they are left alone"
        ));
    }
    expired(&report, plan);
    report
}

impl PlanReport {
    /// Notes which groups have live members. A target that does not tell is asked again when they are set.
    pub async fn look_at_groups(&mut self, cluster: &Arc<Cluster>) -> Option<String> {
        let names: BTreeSet<String> = self.groups.iter().map(|group| group.group.clone()).collect();
        if names.is_empty() {
            return None;
        }
        let live = match cluster.live_groups(&names).await {
            Ok(live) => live,
            Err(error) => {
                tracing::info!("whether groups have live members is not known: {error}");
                return None;
            }
        };
        self.groups.iter_mut().for_each(|group| group.live = live.contains(&group.group));
        let shown: Vec<&str> = live.iter().take(10).map(String::as_str).collect();
        let more = live.len().saturating_sub(shown.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!live.is_empty()).then(|| {
            format!(
                "groups with live members at the target keep their positions: {}{more}; stop their consumers before the restore ends",
                shown.join(", ")
            )
        })
    }
}

/// Positions in partitions of chosen topics that were not chosen.
fn left_alone(plan: &Plan, state: &State, options: &RestoreOptions) -> usize {
    if options.groups == GroupStrategy::None {
        return 0;
    }
    let open = plan.topics.iter().filter(|topic| topic.status != Status::Done);
    let all = open.map(|topic| {
        let pairs = groups::of_topic(state, options, topic.source.topic);
        let positions: usize = pairs.map(|(_, pair)| pair.offsets.len()).sum();
        positions.saturating_sub(topic.positions.len())
    });
    all.sum()
}

fn planned(plan: &Plan, topic: &TopicPlan, options: &RestoreOptions, now: i64) -> PlannedTopic {
    // What is done is neither read nor written.
    let open = topic.partitions.iter().filter(|_| topic.status != Status::Done);
    let counts: Vec<(u64, bool)> = open.clone().map(|p| p.work.records()).collect();
    let is_created = matches!(topic.status, Status::Missing | Status::Created);
    PlannedTopic {
        topic: topic.source.name.clone(),
        incarnation: topic.source.incarnation,
        target: topic.target.to_string(),
        present: topic.source.present,
        action: match topic.status {
            _ if topic.refused => "refused",
            Status::Missing => "create",
            Status::Created => "continue",
            Status::Found if topic.partitions.iter().any(|p| p.stand.is_some()) => "continue",
            Status::Found => "fill",
            Status::InUse => "append",
            Status::Done => "done",
        },
        partitions: topic.source.partitions,
        partitions_with_data: topic.partitions.iter().filter(|p| !p.work.chunks.is_empty()).count() as u32,
        windows: topic.partitions.iter().filter_map(window).collect(),
        replication_factor: is_created.then(|| super::plan::replication(topic, options)),
        records: counts.iter().map(|(records, _)| records).sum(),
        records_are_exact: counts.iter().all(|(_, exact)| *exact),
        bytes: open.map(|p| p.work.bytes()).sum(),
        settings: if is_created { settings(plan, topic, options, now) } else { BTreeMap::new() },
        expired_records: if options.hold_retention.is_some() { 0 } else { expired_records(plan, topic, now) },
        oversized_partitions: if options.hold_retention.is_some() { 0 } else { oversized(plan, topic) },
    }
}

fn window(partition: &PartitionPlan) -> Option<PlannedWindow> {
    let Window { from, to, from_offset, to_offset } = partition.work.window?;
    Some(PlannedWindow { partition: partition.tp.partition, from, to, from_offset, to_offset })
}

/// What a created topic has in the end.
fn settings(plan: &Plan, topic: &TopicPlan, options: &RestoreOptions, now: i64) -> BTreeMap<String, String> {
    let mut settings = topic.settings.clone();
    if let Some(hold) = options.hold_retention {
        settings.hold_retention(keeps(topic, hold, now), &plan.inherited);
    }
    settings.real().clone()
}

/// Partitions of which retention by size may delete the oldest segments at once.
fn oversized(plan: &Plan, topic: &TopicPlan) -> u32 {
    if matches!(topic.status, Status::Done | Status::InUse) {
        return 0;
    }
    let Some(keep) = topic.settings.deletes_beyond(&plan.inherited) else { return 0 };
    topic.partitions.iter().filter(|p| p.work.bytes() > keep).count() as u32
}

/// Records in chunks that are older as a whole than retention by time keeps. Brokers delete whole segments, by their newest record.
fn expired_records(plan: &Plan, topic: &TopicPlan, now: i64) -> u64 {
    if matches!(topic.status, Status::Done | Status::InUse) {
        return 0;
    }
    let Some(keep) = topic.settings.deletes_after(&plan.inherited) else { return 0 };
    let limit = now.saturating_sub(keep);
    let chunks = topic.partitions.iter().flat_map(|p| &p.work.chunks);
    let old = chunks.filter(|chunk| known_time(chunk.max_ts).is_some_and(|newest| newest < limit));
    old.map(|chunk| chunk.kept.max(0) as u64).sum()
}

/// A created topic may ask for more replicas in sync than it has.
fn short_of_replicas(topic: &PlannedTopic) -> Option<String> {
    let replicas = topic.replication_factor?;
    let wanted: i16 = topic.settings.get("min.insync.replicas")?.parse().ok()?;
    (wanted > replicas).then(|| {
        format!(
            "topic {}: min.insync.replicas={wanted} and {replicas} replicas: brokers before 4.0 take no records with acks=all then; --topic-config min.insync.replicas={replicas}",
            topic.target
        )
    })
}

fn expired(report: &PlanReport, plan: &mut Plan) {
    let mut said: Vec<String> = report.topics.iter().filter_map(short_of_replicas).collect();
    for topic in &report.topics {
        let what = match (topic.expired_records, topic.oversized_partitions) {
            (0, 0) => continue,
            (0, partitions) => {
                format!("{partitions} of its partitions are larger than its retention.bytes allows")
            }
            (records, _) => {
                format!("up to {records} restored records are older than its retention.ms allows")
            }
        };
        said.push(format!(
            "topic {}: {what}, and its broker may delete records as soon as the restore is done: keep them with --hold-retention 7d",
            topic.target
        ));
    }
    let more = said.len().saturating_sub(10);
    plan.notes.extend(said.into_iter().take(10));
    if more > 0 {
        plan.notes
            .push(format!("… and {more} such notes more: --output json has the settings of each topic"));
    }
}

fn strategy(strategy: GroupStrategy) -> &'static str {
    match strategy {
        GroupStrategy::Map => "map",
        GroupStrategy::Timestamp => "timestamp",
        GroupStrategy::Earliest => "earliest",
        GroupStrategy::Latest => "latest",
        GroupStrategy::None => "none",
    }
}

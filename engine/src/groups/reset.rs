//! Setting positions: to an end, a time, to what a file says, or to what a vault holds, by time or by the headers of restored records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::kafka::{Cluster, TopicPartition};
use bodley_io::store::SharedStore;

use super::apply::Plan;
use super::csv::FileRow;
use super::headers::find;
use super::settle::{Goal, Settled, Wish, check_partitions, settle};
use super::snapshot::{fold, of_state};
use super::{Position, Positions, Wanted, groups_of, held};
use crate::error::EngineError;
use crate::look::times_at;
use crate::moment::{At, Moment};
use crate::report::{Issue, counted};
use crate::restore::{OffsetMap, Renames};
use crate::vault::now_ms;
use crate::vault::state::PartitionState;

/// Buffers for chunks, bytes.
const BUFFER: usize = 8 << 20;

/// Where groups are to go on.
pub enum Aim {
    /// At the start of their topics.
    Earliest,
    /// At the end.
    Latest,
    /// At the first record that is not older.
    Time(Moment),
    /// Where a file says.
    Offsets(Vec<FileRow>),
    /// At the time of the record that each would have read next at the source.
    Timestamps(SharedStore, Option<At>),
    /// At the first record whose headers say that it was not before the position at the source.
    Headers(Source),
    /// Where the offset map of a restore into a cluster with this id leads.
    Map(Source, String, Vec<OffsetMap>),
}

/// Where positions at the source come from.
pub enum Source {
    /// A vault.
    Vault(SharedStore, Option<At>),
    /// A file.
    File(Vec<FileRow>),
}

/// How to reset.
pub struct ResetOptions {
    /// Which groups and topics, as they are called at the source where there is one.
    pub wanted: Wanted,
    /// Names at the cluster, `FROM=TO`.
    pub rename: Vec<String>,
    /// Where to.
    pub aim: Aim,
}

/// What a reset does. Nothing is changed.
pub async fn plan_reset(cluster: &Arc<Cluster>, options: ResetOptions) -> Result<Plan, EngineError> {
    let ResetOptions { wanted, rename, aim } = options;
    let mut notes = Vec::new();
    let (wishes, issues) = match aim {
        Aim::Earliest => own(cluster, &wanted, Goal::Start).await?,
        Aim::Latest => own(cluster, &wanted, Goal::End).await?,
        Aim::Time(moment) => own(cluster, &wanted, Goal::Time(moment.resolve(now_ms()))).await?,
        Aim::Offsets(rows) => {
            let positions = renamed(chosen(rows, &wanted)?, &rename)?;
            (wishes(positions, |_, offset| Goal::Offset(offset)), Vec::new())
        }
        Aim::Timestamps(store, at) => (by_timestamp(store, at, &wanted, &rename).await?, Vec::new()),
        Aim::Headers(source) => (by_headers(cluster, source, &wanted, &rename).await?, Vec::new()),
        Aim::Map(source, target, maps) => {
            let here = cluster.layout().cluster_id.clone().unwrap_or_default();
            if here != target {
                return Err(EngineError::Refused(format!(
                    "the report is of a restore into cluster {target}, this is {here}: offsets of one cluster mean nothing at another"
                )));
            }
            let mapped = by_map(source_positions(source, &wanted).await?, &maps);
            notes = mapped.notes();
            (mapped.wishes, Vec::new())
        }
    };
    if wishes.is_empty() && issues.is_empty() {
        let why = if notes.is_empty() {
            "none of the chosen groups has a position in the chosen topics".to_owned()
        } else {
            notes.join("; ")
        };
        return Err(EngineError::Refused(format!("{why}: there is nothing to reset")));
    }
    let Settled { offsets, moved } = settle(cluster, wishes).await?;
    let changes = offsets.into_iter().map(|(wish, offset)| {
        let position = Position { offset, metadata: wish.metadata };
        (wish.group, wish.tp, Some(position))
    });
    let mut plan = Plan::of(cluster, changes.collect()).await?;
    plan.errors.extend(issues);
    plan.notes.append(&mut notes);
    if moved > 0 {
        plan.notes.push(format!("{} outside of what the log has: its start or end instead", lie(moved)));
    }
    Ok(plan)
}

type Wishes = (Vec<Wish>, Vec<Issue>);

/// The same for all positions that groups have at the cluster.
async fn own(cluster: &Arc<Cluster>, wanted: &Wanted, goal: Goal) -> Result<Wishes, EngineError> {
    let listed = groups_of(cluster).await?;
    let there = listed.iter().map(|listed| listed.group.as_str());
    let groups = wanted.groups.choose(there, "group", "at the cluster")?;
    let held = held(cluster, &groups).await;
    let layout = cluster.layout();
    let topics = wanted.topics.choose(layout.topics.keys().map(|name| &**name), "topic", "at the cluster")?;
    let mut wishes = Vec::new();
    for (group, of_group) in held.positions {
        let chosen = of_group.into_keys().filter(|tp| topics.contains(&*tp.topic));
        wishes.extend(chosen.map(|tp| Wish { group: group.clone(), tp, goal, metadata: None }));
    }
    Ok((wishes, held.issues))
}

/// Positions by the topic's name at the cluster.
struct Renamed {
    positions: Positions,
    /// Names at the source by names at the cluster.
    sources: BTreeMap<Arc<str>, String>,
}

fn chosen(rows: Vec<FileRow>, wanted: &Wanted) -> Result<Positions, EngineError> {
    let groups = wanted.groups.choose(rows.iter().map(|row| row.group.as_str()), "group", "in the file")?;
    let topics = wanted.topics.choose(rows.iter().map(|row| row.topic.as_str()), "topic", "in the file")?;
    let mut names: BTreeMap<String, Arc<str>> = BTreeMap::new();
    let mut positions = Positions::new();
    for row in rows.into_iter().filter(|row| groups.contains(&row.group) && topics.contains(&row.topic)) {
        let topic = names.entry(row.topic).or_insert_with_key(|name| Arc::from(name.as_str()));
        let position = Position { offset: row.offset, metadata: None };
        positions.entry(row.group).or_default().insert(TopicPartition::new(topic, row.partition), position);
    }
    Ok(positions)
}

fn renamed(positions: Positions, rename: &[String]) -> Result<Renamed, EngineError> {
    let topics: BTreeSet<String> =
        positions.values().flat_map(|of| of.keys().map(|tp| tp.topic.to_string())).collect();
    let targets = Renames::parse(rename)?.targets(&topics)?;
    let targets: BTreeMap<String, Arc<str>> =
        targets.into_iter().map(|(from, to)| (from, Arc::from(to.as_str()))).collect();
    let rename = |tp: TopicPartition| match targets.get(&*tp.topic) {
        Some(target) => TopicPartition::new(target, tp.partition),
        None => tp,
    };
    let positions = positions
        .into_iter()
        .map(|(group, of)| (group, of.into_iter().map(|(tp, position)| (rename(tp), position)).collect()));
    let positions = positions.collect();
    Ok(Renamed { positions, sources: targets.into_iter().map(|(from, to)| (to, from)).collect() })
}

fn wishes(renamed: Renamed, goal: impl Fn(&TopicPartition, i64) -> Goal) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for (group, of_group) in renamed.positions {
        wishes.extend(of_group.into_iter().map(|(tp, position)| Wish {
            group: group.clone(),
            goal: goal(&tp, position.offset),
            tp,
            metadata: position.metadata,
        }));
    }
    wishes
}

/// Offsets that are asked about, by partition.
fn asked(positions: &Positions) -> BTreeMap<TopicPartition, BTreeSet<i64>> {
    let mut asked: BTreeMap<TopicPartition, BTreeSet<i64>> = BTreeMap::new();
    for (tp, position) in positions.values().flatten() {
        asked.entry(tp.clone()).or_default().insert(position.offset);
    }
    asked
}

/// Positions at the source.
async fn source_positions(source: Source, wanted: &Wanted) -> Result<Positions, EngineError> {
    match source {
        Source::File(rows) => chosen(rows, wanted),
        Source::Vault(store, at) => {
            let (vault, state) = fold(store, at, false).await?;
            Ok(of_state(&vault, &state, wanted)?.positions())
        }
    }
}

fn lie(positions: usize) -> String {
    format!("{} {}", counted(positions, "position"), if positions == 1 { "lies" } else { "lie" })
}

/// Positions by an offset map.
#[derive(Default)]
struct Mapped {
    wishes: Vec<Wish>,
    /// Positions before what was added to a topic.
    earlier: usize,
    /// Positions in partitions that the map does not know.
    unknown: usize,
}

impl Mapped {
    fn notes(&self) -> Vec<String> {
        let earlier = (self.earlier > 0).then(|| {
            format!(
                "{} before what this restore added to topics that held data: left alone, the report of the restore before knows where",
                lie(self.earlier)
            )
        });
        let unknown = (self.unknown > 0).then(|| {
            format!(
                "{} in partitions that the report's offset map does not know: left alone",
                lie(self.unknown)
            )
        });
        earlier.into_iter().chain(unknown).collect()
    }
}

/// Positions by the offset map of a restore, which also tells how topics are called. What it does not know is left alone.
fn by_map(positions: Positions, maps: &[OffsetMap]) -> Mapped {
    let known: BTreeMap<(&str, i32), &OffsetMap> =
        maps.iter().map(|map| ((map.topic.as_str(), map.partition), map)).collect();
    let mut mapped = Mapped::default();
    for (group, of_group) in positions {
        for (tp, position) in of_group {
            let Some(map) = known.get(&(&*tp.topic, tp.partition)) else {
                mapped.unknown += 1;
                continue;
            };
            if map.appended && map.runs.first().is_some_and(|first| position.offset < first.source) {
                mapped.earlier += 1;
                continue;
            }
            let goal = Goal::Offset(map.find(position.offset).0);
            let tp = TopicPartition::new(&Arc::from(map.target.as_str()), tp.partition);
            mapped.wishes.push(Wish { group: group.clone(), tp, goal, metadata: position.metadata });
        }
    }
    mapped
}

async fn by_headers(
    cluster: &Arc<Cluster>,
    source: Source,
    wanted: &Wanted,
    rename: &[String],
) -> Result<Vec<Wish>, EngineError> {
    let renamed = renamed(source_positions(source, wanted).await?, rename)?;
    let asked = asked(&renamed.positions);
    check_partitions(cluster, &asked.keys().cloned().collect()).await?;
    let found = find(cluster, asked, &renamed.sources).await?;
    Ok(wishes(renamed, |tp, offset| {
        let found = found.get(tp).and_then(|of| of.get(&offset)).copied().flatten();
        found.map_or(Goal::End, Goal::Offset)
    }))
}

/// Each position as the time of the record that the group would have read next at the source.
async fn by_timestamp(
    store: SharedStore,
    at: Option<At>,
    wanted: &Wanted,
    rename: &[String],
) -> Result<Vec<Wish>, EngineError> {
    let (vault, state) = fold(store, at, true).await?;
    let positions = of_state(&vault, &state, wanted)?.positions();
    let asked = asked(&positions);
    let newest = state.newest();
    let pool = BufferPool::new(BUFFER, 4 * BUFFER);
    let nothing = PartitionState::default();
    let mut times: BTreeMap<(String, i32), BTreeMap<i64, Option<i64>>> = BTreeMap::new();
    for (tp, offsets) in asked {
        let id = newest.get(&*tp.topic).map(|row| row.topic);
        let key = id.zip(u32::try_from(tp.partition).ok());
        let partition = key.and_then(|key| state.partitions.get(&key)).unwrap_or(&nothing);
        let offsets: Vec<i64> = offsets.into_iter().collect();
        let found = times_at(vault.store(), &pool, partition, &offsets).await;
        let found = found.map_err(|error| error.in_topic(&tp.topic))?;
        times.insert((tp.topic.to_string(), tp.partition), offsets.into_iter().zip(found).collect());
    }
    let renamed = renamed(positions, rename)?;
    let sources = renamed.sources.clone();
    Ok(wishes(renamed, |tp, offset| {
        let source = sources.get(&tp.topic).map_or(&*tp.topic, String::as_str);
        let of_partition = times.get(&(source.to_owned(), tp.partition));
        let time = of_partition.and_then(|of| of.get(&offset)).copied().flatten();
        time.map_or(Goal::End, Goal::Time)
    }))
}

//! Consumer groups on the way back: each position becomes that of the record which it would have read next.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodley_io::kafka::groups::NewOffset;
use bodley_io::kafka::offsets::End;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_protocol::{ErrorCode, TopicId};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::ahead::Source;
use super::identity::short_digest;
use super::plan::{Plan, Position, Status};
use super::prepare::SCANS;
use super::{GroupStrategy, RestoreOptions};
use crate::error::{EngineError, Severity};
use crate::look::times_at;
use crate::report::{Issue, Report, counted};
use crate::select::Pick;
use crate::vault::state::{GroupTopic, PartitionState, State};

/// Offsets in a hint.
const SHOWN: usize = 1000;

/// Translated positions: by target partition, source offset to target offset.
pub type Positions = HashMap<TopicPartition, BTreeMap<i64, i64>>;

/// The chosen groups that have positions in a topic of the vault.
pub fn of_topic<'a>(
    state: &'a State,
    options: &'a RestoreOptions,
    topic: TopicId,
) -> impl Iterator<Item = (&'a String, &'a GroupTopic)> {
    let chosen = state.groups.iter().filter(move |((group, id), pair)| {
        *id == topic && pair.header.present && options.pick_groups.covers(group)
    });
    chosen.map(|((group, _), pair)| (group, pair))
}

/// A digest of how positions are set, and of which groups.
pub fn how(options: &RestoreOptions) -> String {
    let Pick { include, exclude } = &options.pick_groups;
    let mut digest = short_digest(format!("{:?} {include:?} {exclude:?}", options.groups).as_bytes());
    digest.truncate(8);
    digest
}

/// Groups whose positions a plan sets.
pub fn names(state: &State, options: &RestoreOptions, plan: &Plan) -> BTreeSet<String> {
    if options.groups == GroupStrategy::None {
        return BTreeSet::new();
    }
    let all = plan.topics.iter().flat_map(|topic| of_topic(state, options, topic.source.topic));
    all.map(|(group, _)| group.clone()).collect()
}

/// A group that is named must be in the vault.
pub fn check_names(state: &State, options: &RestoreOptions) -> Result<(), EngineError> {
    let pick = &options.pick_groups;
    if options.groups == GroupStrategy::None && *pick != Pick::default() {
        return Err(EngineError::Refused("--group and --exclude-group don't go with --groups none".into()));
    }
    let present =
        state.groups.iter().filter(|(_, pair)| pair.header.present).map(|((group, _), _)| group.as_str());
    pick.choose(present, "consumer group", "in the vault").map(drop)
}

/// Notes the positions of groups in the plan's topics, to be translated while records pass by.
pub fn mark(state: &State, options: &RestoreOptions, plan: &mut Plan) {
    if options.groups == GroupStrategy::None {
        return;
    }
    for topic in plan.topics.iter_mut().filter(|topic| topic.status != Status::Done) {
        for (group, pair) in of_topic(state, options, topic.source.topic) {
            for row in pair.offsets.values() {
                let tp = TopicPartition::new(&topic.target, row.partition);
                // They are in the order of their numbers.
                let at = topic.partitions.binary_search_by_key(&row.partition, |p| p.tp.partition);
                if let Some(partition) = at.ok().and_then(|at| topic.partitions.get_mut(at)) {
                    if options.groups == GroupStrategy::Map {
                        partition.work.marks.push(row.offset);
                    }
                    let (group, metadata) = (group.clone(), row.metadata.clone());
                    topic.positions.push(Position { group, tp, offset: row.offset, time: None, metadata });
                }
            }
        }
        for partition in &mut topic.partitions {
            partition.work.marks.sort_unstable();
            partition.work.marks.dedup();
        }
    }
}

/// Reads when the record was written that each group would read next. `skip_damaged`: of damaged chunks nothing is read.
pub async fn look_up_times(
    source: &Source,
    state: &State,
    plan: &mut Plan,
    skip_damaged: bool,
) -> Result<(), EngineError> {
    let mut asked = Vec::new();
    for topic in &mut plan.topics {
        topic.positions.sort_by(|a, b| (&a.tp, a.offset).cmp(&(&b.tp, b.offset)));
        for some in topic.positions.chunk_by_mut(|a, b| a.tp == b.tp) {
            let Some(first) = some.first() else { continue };
            let key = (topic.source.topic, first.tp.partition as u32);
            let Some(partition) = state.partitions.get(&key) else { continue };
            asked.push((topic.source.name.as_str(), partition, some));
        }
    }
    let times = stream::iter(asked).map(async |(topic, partition, some)| {
        let offsets: Vec<i64> = some.iter().map(|position| position.offset).collect();
        let times = times_of(source, Cow::Borrowed(partition), &offsets, skip_damaged).await;
        let times = times.map_err(|error| error.in_topic(topic))?;
        some.iter_mut().zip(times).for_each(|(position, time)| position.time = time);
        Ok(())
    });
    times.buffered(SCANS).try_collect().await
}

async fn times_of(
    source: &Source,
    mut partition: Cow<'_, PartitionState>,
    offsets: &[i64],
    skip_damaged: bool,
) -> Result<Vec<Option<i64>>, EngineError> {
    loop {
        match times_at(&source.store, &source.pool, &partition, offsets).await {
            Err(EngineError::Damaged { offsets, .. }) if skip_damaged => {
                partition.to_mut().ranges.retain(|range| range.first != offsets.start);
            }
            times => return times,
        }
    }
}

/// What is to be committed.
pub struct Wanted {
    /// How.
    pub strategy: GroupStrategy,
    /// Positions at the source.
    pub positions: Vec<Position>,
    /// Topics that held data before: who reads them goes on as it stands.
    pub in_use: BTreeSet<Arc<str>>,
}

/// Where positions lie at the target.
struct Places<'a> {
    strategy: GroupStrategy,
    /// Of records that passed by.
    mapped: &'a Positions,
    /// Ends of logs, or starts.
    ends: HashMap<TopicPartition, i64>,
    /// Starts, where times are looked up: a record without a time is older than any.
    starts: HashMap<TopicPartition, i64>,
    /// By partition and time.
    by_time: BTreeMap<(TopicPartition, i64), Option<i64>>,
}

impl<'a> Places<'a> {
    async fn look_up(
        cluster: &Arc<Cluster>,
        wanted: &Wanted,
        mapped: &'a Positions,
    ) -> Result<Self, KafkaError> {
        let strategy = wanted.strategy;
        let (none, by_time) = (HashMap::new(), BTreeMap::new());
        let mut places = Self { strategy, mapped, ends: none.clone(), starts: none, by_time };
        if matches!(strategy, GroupStrategy::Map | GroupStrategy::None) {
            return Ok(places);
        }
        let parts: BTreeSet<TopicPartition> = wanted.positions.iter().map(|p| p.tp.clone()).collect();
        let parts: Vec<TopicPartition> = parts.into_iter().collect();
        let end = if strategy == GroupStrategy::Earliest { End::Earliest } else { End::HighWatermark };
        places.ends = ends(cluster, &parts, end).await?;
        if strategy == GroupStrategy::Timestamp {
            places.starts = ends(cluster, &parts, End::Earliest).await?;
            let times =
                wanted.positions.iter().filter_map(|p| Some((p.tp.clone(), p.time.filter(|t| *t >= 0)?)));
            let answers = cluster.offsets_for_times(&times.collect::<Vec<_>>()).await;
            if let Some((_, error)) = answers.failed.into_iter().next() {
                return Err(error);
            }
            places.by_time = answers.found;
        }
        Ok(places)
    }

    fn of(&self, position: &Position) -> Option<i64> {
        let end = || self.ends.get(&position.tp).copied();
        match self.strategy {
            GroupStrategy::Map => self.mapped.get(&position.tp)?.get(&position.offset).copied(),
            GroupStrategy::Earliest | GroupStrategy::Latest => end(),
            GroupStrategy::Timestamp => {
                let of_time = |time: i64| match time {
                    ..0 => self.starts.get(&position.tp).copied(),
                    time => self.by_time.get(&(position.tp.clone(), time)).copied().flatten(),
                };
                position.time.and_then(of_time).or_else(end)
            }
            GroupStrategy::None => None,
        }
    }
}

async fn ends(
    cluster: &Arc<Cluster>,
    parts: &[TopicPartition],
    end: End,
) -> Result<HashMap<TopicPartition, i64>, KafkaError> {
    let answers = cluster.list_offsets(parts, end).await?;
    match answers.failed.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(answers.found.into_iter().map(|(tp, found)| (tp, found.offset)).collect()),
    }
}

/// Commits the translated positions of all groups, few requests for each coordinator. A group with live members is left alone and named.
pub async fn commit(cluster: &Arc<Cluster>, wanted: Wanted, mapped: &Positions, report: &mut Report) {
    let places = match Places::look_up(cluster, &wanted, mapped).await {
        Ok(places) => places,
        Err(error) => {
            let message =
                format!("no group's offsets were restored: where they lie can't be looked up: {error}");
            let issue = Issue::new("group_refused", Severity::Failed, message);
            return report.errors.push(issue.hint("run the same command again: it goes on with the groups"));
        }
    };
    let mut by_group: BTreeMap<String, Vec<NewOffset>> = BTreeMap::new();
    for position in &wanted.positions {
        if let Some(offset) = places.of(position) {
            let new = NewOffset { tp: position.tp.clone(), offset, metadata: position.metadata.clone() };
            by_group.entry(position.group.clone()).or_default().push(new);
        }
    }
    leave_readers(cluster, &mut by_group, &wanted.in_use, report).await;
    by_group.retain(|_, offsets| !offsets.is_empty());
    for (group, result) in cluster.commit_groups(&by_group).await {
        match result {
            Ok(()) => report.groups += 1,
            Err(error) => {
                let offsets = by_group.get(&group).map(Vec::as_slice).unwrap_or_default();
                report.errors.push(refused(&group, offsets, &error));
            }
        }
    }
    if report.groups > 0 {
        report.notes.push("restored group offsets expire after the target's offsets.retention.minutes (7 days by default) unless the groups are used".into());
    }
}

/// Takes out what a group has a position for in a topic that is in use: it has not read yet what was there before.
async fn leave_readers(
    cluster: &Arc<Cluster>,
    by_group: &mut BTreeMap<String, Vec<NewOffset>>,
    in_use: &BTreeSet<Arc<str>>,
    report: &mut Report,
) {
    let concerned = by_group.iter().filter(|(_, new)| new.iter().any(|new| in_use.contains(&new.tp.topic)));
    let concerned: Vec<String> = concerned.map(|(group, _)| group.clone()).collect();
    if concerned.is_empty() {
        return;
    }
    for (group, there) in cluster.groups_offsets(&concerned).await {
        let Some(offsets) = by_group.get_mut(&group) else { continue };
        match there {
            Ok(there) => {
                let before = offsets.len();
                let stays =
                    |new: &NewOffset| in_use.contains(&new.tp.topic) && there.offsets.contains_key(&new.tp);
                offsets.retain(|new| !stays(new));
                if offsets.len() < before {
                    report.notes.push(format!(
                        "group {group} keeps what it has in topics that were in use ({})",
                        counted(before - offsets.len(), "position")
                    ));
                }
            }
            Err(error) => report.errors.push(refused(&group, &std::mem::take(offsets), &error)),
        }
    }
}

fn refused(group: &str, offsets: &[NewOffset], error: &KafkaError) -> Issue {
    let shown =
        offsets.iter().take(SHOWN).map(|new| format!("{}:{}={}", new.tp.topic, new.tp.partition, new.offset));
    let more = if offsets.len() > SHOWN { ", …" } else { "" };
    let offsets = format!("{}{more}", shown.collect::<Vec<_>>().join(", "));
    let code = error.code();
    let message = match code == Some(ErrorCode::UNKNOWN_MEMBER_ID) {
        true => format!("group {group} has live members at the target: its offsets were not restored"),
        false => format!("the offsets of group {group} were not restored: {error}"),
    };
    let for_good = [ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::GROUP_AUTHORIZATION_FAILED];
    if !code.is_some_and(|code| for_good.contains(&code)) {
        return Issue::new("group_refused", Severity::Failed, message)
            .hint("run the same command again: it goes on with the groups");
    }
    let first = match code {
        Some(ErrorCode::GROUP_AUTHORIZATION_FAILED) => "grant Read on it",
        _ => "stop its consumers",
    };
    Issue::new("group_refused", Severity::Missing, message)
        .hint(format!(
            "{first}, then run `bodley groups reset --vault … --by map --report FILE --group {group}` with this restore's --report FILE (the same command with --report makes it), or set its offsets with Kafka's tools to {offsets}"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record without a time is older than any: whoever stands there goes on at the log's start and skips nothing.
    #[test]
    fn places_by_time() {
        let tp = TopicPartition::new(&Arc::from("a"), 0);
        let mapped = Positions::new();
        let places = Places {
            strategy: GroupStrategy::Timestamp,
            mapped: &mapped,
            ends: [(tp.clone(), 90)].into(),
            starts: [(tp.clone(), 3)].into(),
            by_time: [((tp.clone(), 0), Some(20)), ((tp.clone(), 50), Some(40)), ((tp.clone(), 70), None)]
                .into(),
        };
        let of = |time| {
            places.of(&Position { group: "g".into(), tp: tp.clone(), offset: 7, time, metadata: None })
        };
        let found = [Some(-1), Some(0), Some(50), Some(70), None].map(of);
        assert_eq!(found, [3, 20, 40, 90, 90].map(Some));
    }
}

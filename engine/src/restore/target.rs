//! What the target has of a plan's topics: nothing, empty topics, what an earlier run of this restore left, or somebody else's data.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bodley_io::kafka::offsets::End;
use bodley_io::kafka::tail::Peeked;
use bodley_io::kafka::topics::Configs;
use bodley_io::kafka::{Cluster, Layout, TopicPartition};
use bodley_protocol::batch::{self, Header};
use futures_util::stream::{self, StreamExt};

use super::ahead::Source;
use super::fence::Producer;
use super::ledger::Entries;
use super::plan::{Plan, Status, TopicPlan};
use super::prepare::SCANS;
use super::scan;
use super::settings::Mark;
use super::stand::SEQUENCES;
use super::trail::{self, Span, Trail};
use crate::error::EngineError;

/// Markers that may follow each other.
const MARKERS: usize = 100;

/// Last batches are compared in such portions, which bounds what they take of memory.
const PARTITIONS_AT_A_TIME: usize = 50;

/// Where logs begin and end, by partition.
#[derive(Debug, Default)]
struct Ends(BTreeMap<TopicPartition, (i64, i64)>);

/// What is known before the target is looked at.
pub struct Look<'a> {
    /// The target.
    pub cluster: &'a Arc<Cluster>,
    /// Its layout.
    pub layout: &'a Layout,
    /// What an earlier run has left.
    pub entries: &'a Entries,
    /// The vault.
    pub source: &'a Source,
    /// Topics with data are added to.
    pub append: bool,
    /// The restore was given a name: without a state it is another one, whatever the target ends with.
    pub is_named: bool,
}

/// Looks at the topics that are there already: they must be empty and large enough, or this restore's own.
pub async fn check_target(
    look: &Look<'_>,
    plan: &mut Plan,
    conflicts: &mut Vec<String>,
) -> Result<(), EngineError> {
    let mut parts = Vec::new();
    let mut present = Vec::new();
    for topic in &mut plan.topics {
        let Some(found) = look.layout.topics.get(&topic.target) else { continue };
        present.push(Arc::clone(&topic.target));
        let (there, wanted) = (found.partitions.len(), topic.needs as usize);
        if there < wanted {
            topic.refused = true;
            conflicts.push(format!(
                "topic {} has {there} partitions at the target, {wanted} are needed: give it more, restore under another name with --rename, or only what fits with --partitions {}",
                topic.target,
                if there > 1 { format!("0-{}", there - 1) } else { "0".to_owned() }
            ));
        }
        parts.extend(
            found.partitions.iter().map(|partition| TopicPartition::new(&topic.target, partition.index)),
        );
    }
    if present.is_empty() {
        return Ok(());
    }
    let ends = Ends::of(look.cluster, &parts).await?;
    let configs = look.cluster.describe_configs(&present).await?;
    for topic in plan.topics.iter_mut().filter(|topic| look.layout.topics.contains_key(&topic.target)) {
        let own = configs.get(&topic.target).cloned().unwrap_or_default();
        let judged = judge(topic, &own, &ends, look);
        let stamps =
            own.get("message.timestamp.type").is_some_and(|c| c.value.as_deref() == Some("LogAppendTime"));
        if stamps && matches!(judged, Ok(Status::InUse)) {
            plan.notes.push(format!(
                "topic {} is in use and has append times: its broker gives restored records new times",
                topic.target
            ));
        }
        for partition in &mut topic.partitions {
            partition.base = ends.0.get(&partition.tp).map_or(0, |(_, end)| *end);
        }
        match look_closer(look, topic, judged, &mut plan.notes).await? {
            Ok(status) => topic.status = status,
            Err(what) => {
                topic.refused = true;
                conflicts.push(what);
            }
        }
    }
    Ok(())
}

/// A topic with data of which no state tells may be done all the same.
async fn look_closer(
    look: &Look<'_>,
    topic: &TopicPlan,
    judged: Result<Status, Conflict>,
    notes: &mut Vec<String>,
) -> Result<Result<Status, String>, EngineError> {
    match judged {
        // Its state may have expired since all was added.
        Ok(Status::InUse) if !look.is_named && topic.partitions.iter().all(|p| p.stand.is_none()) => {
            match ends_with(look, topic).await? {
                EndsWith::All => {
                    notes.push(format!("topic {} ends with these very records already", topic.target));
                }
                EndsWith::Nothing => return Ok(Ok(Status::InUse)),
                EndsWith::Some => {
                    return Ok(Err(format!(
                        "topic {} ends with the last records of what is to be added, and it can't be told whether all of them are there: to add all of them, name the restore with --restore-id",
                        topic.target
                    )));
                }
            }
        }
        Err(Conflict::HoldsData(what)) => {
            if !is_restored(look, topic).await? {
                return Ok(Err(what));
            }
            notes.push(format!("topic {} holds these very records already", topic.target));
        }
        Ok(status) => return Ok(Ok(status)),
        Err(Conflict::Other(what)) => return Ok(Err(what)),
    }
    Ok(Ok(Status::Done))
}

/// With what a topic ends.
enum EndsWith {
    /// All that a complete restore of it leaves, one run of it at least.
    All,
    /// The last records of that.
    Some,
    /// Anything else.
    Nothing,
}

/// With what a topic ends that may have held something before. A producer of ours counts from 0, so where one run has sent everything its last batch tells how
/// much that was.
async fn ends_with(look: &Look<'_>, topic: &TopicPlan) -> Result<EndsWith, EngineError> {
    let Some(Tails { records, headers }) = equal_tails(look, topic).await? else {
        return Ok(EndsWith::Nothing);
    };
    let is_all = |(tp, records): (&TopicPartition, &i64)| {
        let sent = headers.get(tp).and_then(trail::ends_at);
        *records == 0 || sent.is_some_and(|sent| i64::from(sent) == records.rem_euclid(SEQUENCES))
    };
    Ok(if records.iter().all(is_all) { EndsWith::All } else { EndsWith::Some })
}

/// Whether the topic holds what a complete restore of it leaves, and nothing else: compares the last batch of each partition, and the count.
async fn is_restored(look: &Look<'_>, topic: &TopicPlan) -> Result<bool, EngineError> {
    match equal_tails(look, topic).await? {
        Some(Tails { records, .. }) => is_counted(look, topic, &records).await,
        None => Ok(false),
    }
}

/// What partitions are to hold, and the headers of their last batches.
struct Tails {
    records: HashMap<TopicPartition, i64>,
    headers: HashMap<TopicPartition, Header>,
}

/// `None`: the last batch of a partition is not what a complete restore leaves there.
async fn equal_tails(look: &Look<'_>, topic: &TopicPlan) -> Result<Option<Tails>, EngineError> {
    // The very topic that was backed up is no restored one.
    if look.layout.topics.get(&topic.target).is_some_and(|found| found.id == topic.source.topic) {
        return Ok(None);
    }
    let (mut records, mut headers) = (HashMap::new(), HashMap::new());
    for some in topic.partitions.chunks(PARTITIONS_AT_A_TIME) {
        let mut expected = HashMap::new();
        let scans = stream::iter(some)
            .map(async |part| (part, scan::outcome(look.source, &part.tp, &part.work).await));
        let mut scans = std::pin::pin!(scans.buffered(SCANS));
        while let Some((partition, outcome)) = scans.next().await {
            let outcome = match outcome {
                // What a damaged chunk would leave is not known.
                Err(EngineError::Damaged { .. }) => return Ok(None),
                outcome => outcome?,
            };
            records.insert(partition.tp.clone(), outcome.records);
            if outcome.records > 0 {
                // Without anything to compare it cannot be said.
                let Some(last) = outcome.last else { return Ok(None) };
                expected.insert(partition.tp.clone(), last);
            }
        }
        let ends = some.iter().map(|partition| (partition.tp.clone(), partition.base));
        let tails = last_batches(look.cluster, ends.collect()).await?;
        for (tp, last) in expected {
            let Some(tail) = tails.get(&tp) else { return Ok(None) };
            let (Some(found), Ok(Some(header))) = (scan::bare(tail), batch::view(tail)) else {
                return Ok(None);
            };
            if !found.ends_with(&last) {
                return Ok(None);
            }
            headers.insert(tp, header);
        }
    }
    let some = records.values().any(|records| *records > 0);
    Ok(some.then_some(Tails { records, headers }))
}

/// Whether each log holds as many records as are expected, with nothing but markers between them.
async fn is_counted(
    look: &Look<'_>,
    topic: &TopicPlan,
    expected: &HashMap<TopicPartition, i64>,
) -> Result<bool, EngineError> {
    let records = |tp: &TopicPartition| expected.get(tp).copied().unwrap_or(0);
    // Without a marker the end is the count, also when retention has moved the start.
    let open = topic.partitions.iter().filter(|partition| records(&partition.tp) != partition.base);
    let spans = open.map(|partition| (partition.tp.clone(), Span { floor: 0, end: partition.base }));
    let trails = trail::follow(look.cluster, spans.collect(), |_| true).await?;
    Ok(trails.iter().all(|(tp, trail)| match trail {
        Trail::Whole(runs) => runs.iter().map(|run| run.records).sum::<i64>() == records(tp),
        Trail::Broken(..) => false,
    }))
}

/// The last batch of records below each end, markers aside.
async fn last_batches(
    cluster: &Cluster,
    ends: Vec<(TopicPartition, i64)>,
) -> Result<HashMap<TopicPartition, Vec<u8>>, EngineError> {
    let mut found = HashMap::new();
    let mut open: Vec<_> = ends.into_iter().filter(|(_, end)| *end > 0).collect();
    for _ in 0..MARKERS {
        let asked: Vec<_> = open.drain(..).map(|(tp, end)| (tp, end - 1)).collect();
        for (tp, peeked) in cluster.peek(&asked, usize::MAX).await? {
            let Ok(Peeked { bytes, .. }) = peeked else { continue };
            let Ok(Some(header)) = batch::view(&bytes) else { continue };
            match header.is_control() {
                true if header.base_offset > 0 => open.push((tp, header.base_offset)),
                true => {}
                false => {
                    found.insert(tp, bytes.get(..header.size).unwrap_or_default().to_vec());
                }
            }
        }
    }
    Ok(found)
}

/// An earlier run of this restore has added to a topic in use, and its state is gone: nobody can tell how much.
pub async fn check_in_use(cluster: &Cluster, plan: &Plan, producer: &Producer) -> Result<(), EngineError> {
    if producer.others.is_empty() {
        return Ok(());
    }
    let in_use = plan.topics.iter().filter(|topic| topic.status == Status::InUse);
    let unknown = in_use.flat_map(|topic| &topic.partitions).filter(|partition| partition.stand.is_none());
    let tails = last_batches(cluster, unknown.map(|p| (p.tp.clone(), p.base)).collect()).await?;
    let ours = |bytes: &Vec<u8>| {
        let header = batch::view_cut(bytes).ok().flatten();
        header.is_some_and(|header| producer.knows(header.producer_id))
    };
    match tails.iter().find(|(_, bytes)| ours(bytes)) {
        None => Ok(()),
        Some((tp, _)) => Err(EngineError::Refused(format!(
            "an earlier run of this restore has added to {tp}, and its state is gone: it can't be told what is missing. To add everything again, name another --restore-id"
        ))),
    }
}

enum Conflict {
    /// Data of which no state tells.
    HoldsData(String),
    /// Anything else.
    Other(String),
}

impl Ends {
    async fn of(cluster: &Arc<Cluster>, parts: &[TopicPartition]) -> Result<Self, EngineError> {
        let starts = cluster.list_offsets(parts, End::Earliest).await?;
        let ends = cluster.list_offsets(parts, End::HighWatermark).await?;
        if let Some((_, error)) = starts.failed.into_iter().chain(ends.failed).next() {
            return Err(error.into());
        }
        let both = ends.found.into_iter().map(|(tp, end)| {
            let start = starts.found.get(&tp).map_or(0, |start| start.offset);
            (tp, (start, end.offset))
        });
        Ok(Self(both.collect()))
    }

    /// A partition that holds data and has no state.
    fn unknown<'a>(&self, topic: &'a TopicPlan) -> Option<&'a TopicPartition> {
        let holds = |tp: &TopicPartition| self.0.get(tp).is_some_and(|(start, end)| end > start);
        topic.partitions.iter().find(|p| p.stand.is_none() && holds(&p.tp)).map(|p| &p.tp)
    }

    /// Offsets that a topic holds.
    fn held(&self, topic: &Arc<str>) -> i64 {
        let of_topic = self.0.range(TopicPartition::all_of(topic));
        of_topic.fold(0, |sum: i64, (_, (start, end))| sum.saturating_add(end.saturating_sub(*start).max(0)))
    }
}

/// How a topic that is there stands, and its settings with it.
fn judge(topic: &mut TopicPlan, own: &Configs, ends: &Ends, look: &Look<'_>) -> Result<Status, Conflict> {
    let name = Arc::clone(&topic.target);
    let ours: BTreeMap<_, _> = look.entries.range(TopicPartition::all_of(&name)).collect();
    if let Some(entry) = ours.values().next() {
        for partition in &mut topic.partitions {
            partition.stand = ours.get(&partition.tp).map(|entry| entry.stand());
        }
        let is_done = |tp| ours.get(tp).is_some_and(|entry| entry.meta.done.is_some());
        // A request that came late may have made settings temporary again.
        let settled = Mark::of(own) == Mark::None;
        topic.appended = entry.meta.in_use;
        if settled && topic.partitions.iter().all(|partition| is_done(&partition.tp)) {
            return Ok(Status::Done);
        }
        if let Some(tp) = ends.unknown(topic) {
            return Err(Conflict::Other(match entry.meta.in_use {
                true => format!(
                    "{tp}: the state of an earlier run of this restore is gone; to add everything again, name another --restore-id"
                ),
                false => format!("{tp} holds data that is not this restore's"),
            }));
        }
        if entry.meta.in_use {
            topic.settings.leave_alone(own);
            return Ok(Status::InUse);
        }
        if entry.meta.created {
            return Ok(Status::Created);
        }
        topic.settings.keep_targets_own(own, Some(&entry.meta.old));
        return Ok(Status::Found);
    }
    let held = ends.held(&name);
    match (held, Mark::of(own)) {
        (0, Mark::Created) => Ok(Status::Created),
        (0, Mark::None) => {
            topic.settings.keep_targets_own(own, None);
            Ok(Status::Found)
        }
        (1.., Mark::None) if look.append => {
            topic.settings.leave_alone(own);
            Ok(Status::InUse)
        }
        (_, Mark::None) => Err(Conflict::HoldsData(format!(
            "topic {name} holds data at the target ({held} offsets): delete it, restore under another name with --rename, or add to it with --append"
        ))),
        _ => Err(Conflict::Other(format!(
            "topic {name} belongs to another restore that was cut ({held} offsets), or its state is gone: run that one again with the same flags, --restore-id or --state, or delete the topic"
        ))),
    }
}

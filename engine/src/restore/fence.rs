//! Fence, then count: keeps late requests of an earlier run (or of a broken connection) out of the log, and finds out which record comes next.
//!
//! A request that a dead process sent may still be appended after its successor has looked at the log's end. A marker of a newer
//! producer epoch makes the leader refuse it, whatever the records' age. A leader forgets a producer a day after the time of its last batch,
//! which for old records is at once: so nobody writes behind a marker with the same producer id. Behind the marker the log's end is final, and
//! as nothing but our records and fences lies between it and where the run began, the difference is the count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::kafka::offsets::End;
use bodley_io::kafka::produce::ProducerIdentity;
use bodley_io::kafka::transactions::is_closed_way;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_protocol::ErrorCode;
use bodley_protocol::batch::Header;

use super::ledger::{Entries, group_name};
use super::stand::{Stand, Writer};
use super::trail::{self, Run, Span, Trail};
use crate::error::EngineError;

/// Without a fence the end of a log must not have moved for so long.
const STILL_FOR: Duration = Duration::from_secs(30);
/// How often ends are looked at.
const POLL: Duration = Duration::from_millis(20);
/// Runs of one restore that can have begun since the newest state.
const MAX_RUNS: u32 = 10_000;
const STILL_POLL: Duration = Duration::from_secs(1);

/// How late requests are kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By an empty transaction of the restore's transactional id.
    Transaction,
    /// By a marker that we write ourselves.
    Marker,
    /// Not at all: the same producer goes on with the same sequences, so that of two equal batches one is refused.
    Count,
}

/// The restore's producers.
#[derive(Debug)]
pub struct Producer {
    cluster: Arc<Cluster>,
    restore: String,
    /// Who writes from now on.
    pub writer: Writer,
    /// Of other runs, of which nothing is known but that they have begun: they are kept out at the next fence.
    pub others: Vec<Writer>,
    /// The one of an earlier run.
    pub earlier: Option<Writer>,
    /// How late requests are kept out.
    pub way: Way,
    /// Ids of producers that belong to the restore.
    known: BTreeSet<i64>,
    /// A fence was put by another producer id than that which it was to hold back.
    missed: bool,
}

impl Producer {
    /// For restore `id`, of which earlier runs have left `entries`.
    pub async fn begin(cluster: &Arc<Cluster>, id: &str, entries: &Entries) -> Result<Self, EngineError> {
        let last = entries.values().max_by_key(|entry| entry.meta.generation);
        let transactional = entries.values().all(|entry| entry.meta.transactional);
        let mut producer = Self {
            cluster: Arc::clone(cluster),
            restore: id.to_owned(),
            writer: last.map_or(Writer::NOBODY, |entry| entry.writer()),
            others: Vec::new(),
            earlier: last.map(|entry| entry.writer()),
            way: if transactional { Way::Transaction } else { Way::Marker },
            known: entries.values().map(|entry| entry.writer().identity.id).collect(),
            missed: false,
        };
        match last {
            Some(_) => producer.advance().await?,
            None => producer.first().await?,
        }
        Ok(producer)
    }

    /// The first producer of a restore.
    async fn first(&mut self) -> Result<(), EngineError> {
        match self.claim(0).await {
            Err(EngineError::Kafka(error)) if is_closed_way(&error) || has_no_coordinator(&error) => {
                self.plain(&error.to_string()).await
            }
            result => result,
        }
    }

    /// Takes the first producer from `generation` on that nobody has used. Who has used the ones before may be at work at this moment.
    async fn claim(&mut self, mut generation: u32) -> Result<(), EngineError> {
        let last = generation.saturating_add(MAX_RUNS);
        while generation < last {
            let identity = self.cluster.transactional_identity(&self.name(generation)).await?;
            self.known.insert(identity.id);
            let writer = Writer { identity, generation };
            if identity.epoch == 0 {
                self.writer = writer;
                return Ok(());
            }
            self.others.push(writer);
            generation += 1;
        }
        Err(KafkaError::NoRoute("the target gives no unused producer".into()).into())
    }

    /// A producer without a transactional id, for want of one.
    async fn plain(&mut self, why: &str) -> Result<(), EngineError> {
        tracing::info!("{why}: the restore goes without a transactional id");
        self.way = Way::Marker;
        self.take_nameless(0).await.map_err(|error| match is_closed_way(&error) {
            _ if error.code() == Some(ErrorCode::CLUSTER_AUTHORIZATION_FAILED) => EngineError::Denied(format!(
                "nothing was written: rights are missing: IdempotentWrite on the cluster ({error}; docs/permissions.md lists what is needed)"
            )),
            true => EngineError::Refused(format!(
                "nothing was written: the target has no idempotent producers, and without them a restore can't be exact ({error})"
            )),
            false => error.into(),
        })
    }

    /// Takes a new producer id that belongs to no transactional id.
    async fn take_nameless(&mut self, generation: u32) -> Result<(), KafkaError> {
        let identity = self.cluster.init_producer_id().await?;
        self.known.insert(identity.id);
        self.writer = Writer { identity, generation };
        Ok(())
    }

    /// Takes a new producer for what is written from now on.
    pub async fn advance(&mut self) -> Result<(), EngineError> {
        let generation = self.writer.generation + 1;
        match self.way {
            Way::Transaction => self.claim(generation).await,
            Way::Marker => Ok(self.take_nameless(generation).await?),
            // Only the same producer's sequences tell a repeat.
            Way::Count => Ok(()),
        }
    }

    /// Whether a producer id belongs to the restore.
    pub fn knows(&self, id: i64) -> bool {
        self.known.contains(&id)
    }

    /// Transactional id of a generation.
    fn name(&self, generation: u32) -> String {
        format!("{}.{generation}", group_name(&self.restore))
    }

    /// Whether the producer ids belong to transactional ids.
    pub fn is_transactional(&self) -> bool {
        self.way == Way::Transaction
    }

    /// Puts a fence behind whatever the writers of `parts` have sent, and finds where they stand now. From then on the newest producer writes.
    pub async fn settle(
        &mut self,
        parts: Vec<(TopicPartition, Stand)>,
    ) -> Result<Vec<(TopicPartition, Stand)>, EngineError> {
        if parts.is_empty() {
            return Ok(parts);
        }
        self.missed = false;
        let names: Vec<TopicPartition> = parts.iter().map(|(tp, _)| tp.clone()).collect();
        let mut by_writer: BTreeMap<(u32, i64), (Writer, Vec<TopicPartition>)> = BTreeMap::new();
        for (tp, Stand { writer, .. }) in &parts {
            let key = (writer.generation, writer.identity.id);
            by_writer.entry(key).or_insert((*writer, Vec::new())).1.push(tp.clone());
        }
        for writer in &self.others {
            by_writer.insert((writer.generation, writer.identity.id), (*writer, names.clone()));
        }
        for (writer, fenced) in by_writer.into_values() {
            self.fence(writer, &fenced).await?;
        }
        let ends = self.ends(&names).await?;
        let settled = self.count(parts, &ends).await?;
        self.others.clear();
        Ok(settled)
    }

    async fn fence(&mut self, writer: Writer, parts: &[TopicPartition]) -> Result<(), EngineError> {
        match self.way {
            Way::Transaction => {
                let name = self.name(writer.generation);
                let newer = self.cluster.transactional_identity(&name).await?;
                self.known.insert(newer.id);
                self.missed |= newer.id != writer.identity.id;
                self.cluster.empty_transaction(&name, newer, parts).await.map_err(overtaken)?;
            }
            Way::Marker => {
                let ProducerIdentity { id, epoch } = writer.identity;
                let newer = ProducerIdentity { id, epoch: epoch.saturating_add(1) };
                match self.cluster.write_markers(newer, parts).await {
                    Ok(()) => {}
                    Err(error) if is_closed_way(&error) => {
                        tracing::info!("{error}: the restore goes on by sequences");
                        self.way = Way::Count;
                    }
                    Err(error) => return Err(overtaken(error)),
                }
            }
            Way::Count => {}
        }
        Ok(())
    }

    /// Log ends that are replicated, and final behind a fence; else such that did not move for a while.
    async fn ends(&self, parts: &[TopicPartition]) -> Result<HashMap<TopicPartition, i64>, EngineError> {
        let fenced = self.way != Way::Count && !self.missed;
        let mut ends = self.replicated_ends(parts).await?;
        let (start, mut since) = (Instant::now(), Instant::now());
        while !fenced && since.elapsed() < STILL_FOR {
            tokio::time::sleep(STILL_POLL).await;
            let now = self.replicated_ends(parts).await?;
            if now == ends {
                continue;
            }
            if start.elapsed() > STILL_FOR + self.cluster.options().give_up_after {
                let moving = now.iter().find(|(tp, end)| ends.get(*tp) != Some(*end)).map(|(tp, _)| tp);
                let name = moving.map(ToString::to_string).unwrap_or_default();
                return Err(EngineError::Diverged(format!(
                    "{name}: somebody else goes on writing to the topic"
                )));
            }
            (ends, since) = (now, Instant::now());
        }
        Ok(ends)
    }

    /// Ends at which all that is written is replicated.
    async fn replicated_ends(
        &self,
        parts: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, i64>, EngineError> {
        let mut settled = HashMap::new();
        let mut open = parts.to_vec();
        let start = Instant::now();
        loop {
            let replicated = self.cluster.list_offsets(&open, End::HighWatermark).await?;
            let written = self.cluster.list_offsets(&open, End::LogEnd).await?;
            if let Some((_, error)) = replicated.failed.into_iter().chain(written.failed).next() {
                return Err(error.into());
            }
            open.retain(|tp| {
                let end = replicated
                    .found
                    .get(tp)
                    .filter(|end| written.found.get(tp).is_some_and(|written| written.offset == end.offset));
                settled.extend(end.map(|end| (tp.clone(), end.offset)));
                end.is_none()
            });
            let Some(waiting) = open.first() else { return Ok(settled) };
            let patience = self.cluster.options().give_up_after;
            if start.elapsed() > patience {
                let what = format!("{waiting}: what is written is not replicated");
                let last = Box::new(KafkaError::NoRoute(what));
                return Err(KafkaError::GaveUp { after: patience, last }.into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Follows each log back from its end, and counts.
    async fn count(
        &self,
        parts: Vec<(TopicPartition, Stand)>,
        ends: &HashMap<TopicPartition, i64>,
    ) -> Result<Vec<(TopicPartition, Stand)>, EngineError> {
        let span = |(tp, stand): &(TopicPartition, Stand)| {
            let end = ends.get(tp).copied().unwrap_or(-1);
            (tp.clone(), Span { floor: stand.piece.offset, end })
        };
        let spans = parts.iter().map(span).collect();
        let is_ours = |header: &Header| self.known.contains(&header.producer_id);
        let mut trails = trail::follow(&self.cluster, spans, is_ours).await?;
        let mut settled = Vec::with_capacity(parts.len());
        for (tp, stand) in parts {
            let end = ends.get(&tp).copied().unwrap_or(-1);
            let stand = match trails.remove(&tp) {
                Some(Trail::Whole(runs)) => self.stands(stand, &runs, end),
                Some(Trail::Broken(at, what)) => return Err(foreign(&tp, at, what)),
                None => None,
            };
            let what = "a run with other rights has put a fence there";
            settled.push((tp.clone(), stand.ok_or_else(|| foreign(&tp, end, what))?));
        }
        Ok(settled)
    }

    /// The new standing, with these runs of records up to the end.
    fn stands(&self, stand: Stand, runs: &[Run], end: i64) -> Option<Stand> {
        let mut stand = Stand { done: stand.piece.records, ..stand };
        for run in runs {
            if run.begin != stand.piece.offset {
                let (done, writer) = (stand.done, stand.writer);
                stand = stand.behind_fence(done, run.begin, writer);
            }
            stand.done += run.records;
        }
        match self.way {
            Way::Count => (stand.offset_of(stand.done) == end).then_some(stand),
            Way::Transaction | Way::Marker => {
                let done = stand.done;
                Some(stand.behind_fence(done, end, self.writer))
            }
        }
    }
}

/// It was waited for one as long as for anything: a cluster too small for its own settings never gets one.
fn has_no_coordinator(error: &KafkaError) -> bool {
    error.code() == Some(ErrorCode::COORDINATOR_NOT_AVAILABLE)
}

/// A newer epoch of a producer of ours: another run has taken over.
fn overtaken(error: KafkaError) -> EngineError {
    match error.code().is_some_and(ErrorCode::is_fenced) {
        true => EngineError::Fenced(error.to_string()),
        false => error.into(),
    }
}

fn foreign(tp: &TopicPartition, offset: i64, what: &str) -> EngineError {
    EngineError::Diverged(format!(
        "{tp}: the log at the target is not as this restore left it: at offset {offset}, {what}; nothing more is sent"
    ))
}

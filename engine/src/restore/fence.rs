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
use bodley_protocol::batch::{self, HEADER_LEN, Header};

use super::ledger::{Entries, group_name};
use super::stand::{Stand, Writer};
use crate::error::EngineError;

/// Without a fence the end of a log must not have moved for so long.
const STILL_FOR: Duration = Duration::from_secs(30);
/// How often ends are looked at.
const POLL: Duration = Duration::from_millis(20);
/// A cluster that has none yet makes its coordinators within seconds; one that can't make them never says so.
const COORDINATOR_WITHIN: Duration = Duration::from_secs(20);
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
    /// Of an earlier run, of which nothing is known but that it has begun.
    pub unknown: Option<Writer>,
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
        let nobody = Writer { identity: ProducerIdentity { id: -1, epoch: -1 }, generation: 0 };
        let mut producer = Self {
            cluster: Arc::clone(cluster),
            restore: id.to_owned(),
            writer: last.map_or(nobody, |entry| entry.writer()),
            unknown: None,
            way: if last.is_none_or(|entry| entry.meta.transactional) {
                Way::Transaction
            } else {
                Way::Marker
            },
            known: entries.values().map(|entry| entry.writer().identity.id).collect(),
            missed: false,
        };
        match last {
            Some(_) => producer.advance().await?,
            None => producer.first().await?,
        }
        Ok(producer)
    }

    /// The first producer of a restore: one that nobody has used.
    async fn first(&mut self) -> Result<(), EngineError> {
        loop {
            let name = self.name(self.writer.generation);
            let asked = self.cluster.transactional_identity(&name);
            let identity = match tokio::time::timeout(COORDINATOR_WITHIN, asked).await {
                Ok(Ok(identity)) => identity,
                Ok(Err(error)) if is_closed_way(&error) => self.plain(&error.to_string()).await?,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => self.plain("the target has no transaction coordinator").await?,
            };
            self.writer.identity = identity;
            self.known.insert(identity.id);
            if identity.epoch == 0 {
                return Ok(());
            }
            self.unknown = Some(self.writer);
            self.writer.generation += 1;
        }
    }

    /// A producer without a transactional id, for want of one.
    async fn plain(&mut self, why: &str) -> Result<ProducerIdentity, EngineError> {
        tracing::info!("{why}: the restore goes without a transactional id");
        self.way = Way::Marker;
        match self.cluster.init_producer_id().await {
            Err(error) if is_closed_way(&error) => Err(EngineError::Refused(format!(
                "nothing was written: the target has no idempotent producers, and without them a restore can't be exact ({error})"
            ))),
            result => Ok(result?),
        }
    }

    /// Takes a new producer for what is written from now on.
    pub async fn advance(&mut self) -> Result<(), EngineError> {
        let generation = self.writer.generation + 1;
        let identity = match self.way {
            Way::Transaction => self.cluster.transactional_identity(&self.name(generation)).await?,
            Way::Marker => self.cluster.init_producer_id().await?,
            // Only the same producer's sequences tell a repeat.
            Way::Count => return Ok(()),
        };
        self.known.insert(identity.id);
        self.writer = Writer { identity, generation };
        Ok(())
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
        let mut by_writer: BTreeMap<u32, (Writer, Vec<TopicPartition>)> = BTreeMap::new();
        for (tp, Stand { writer, .. }) in &parts {
            by_writer.entry(writer.generation).or_insert((*writer, Vec::new())).1.push(tp.clone());
        }
        for (writer, fenced) in by_writer.into_values() {
            self.fence(writer, &fenced).await?;
        }
        let names: Vec<TopicPartition> = parts.iter().map(|(tp, _)| tp.clone()).collect();
        let ends = self.ends(&names).await?;
        self.count(parts, &ends).await
    }

    async fn fence(&mut self, writer: Writer, parts: &[TopicPartition]) -> Result<(), EngineError> {
        match self.way {
            Way::Transaction => {
                let name = self.name(writer.generation);
                let newer = self.cluster.transactional_identity(&name).await?;
                self.known.insert(newer.id);
                self.missed |= newer.id != writer.identity.id;
                self.cluster.empty_transaction(&name, newer, parts).await?;
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
                    Err(error) => return Err(error.into()),
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
        let mut since = Instant::now();
        while !fenced && since.elapsed() < STILL_FOR {
            tokio::time::sleep(STILL_POLL).await;
            let now = self.replicated_ends(parts).await?;
            if now != ends {
                (ends, since) = (now, Instant::now());
            }
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

    /// Looks back from each end over our own fences to our last records, and counts.
    async fn count(
        &self,
        parts: Vec<(TopicPartition, Stand)>,
        ends: &HashMap<TopicPartition, i64>,
    ) -> Result<Vec<(TopicPartition, Stand)>, EngineError> {
        // Behind `at` there are only fences.
        let mut open: BTreeMap<TopicPartition, (Stand, i64)> = BTreeMap::new();
        for (tp, stand) in parts {
            let end = ends.get(&tp).copied().unwrap_or(-1);
            open.insert(tp, (stand, end));
        }
        let mut done = Vec::new();
        loop {
            let reached: Vec<TopicPartition> = open
                .iter()
                .filter(|(_, (stand, at))| *at <= stand.piece.offset)
                .map(|(tp, _)| tp.clone())
                .collect();
            for tp in reached {
                if let Some((stand, at)) = open.remove(&tp) {
                    done.push(self.stands(tp, stand, at, ends)?);
                }
            }
            if open.is_empty() {
                return Ok(done);
            }
            let asked: Vec<_> = open.iter().map(|(tp, (_, at))| (tp.clone(), at - 1)).collect();
            for (tp, peeked) in self.cluster.peek(&asked, HEADER_LEN).await? {
                let Some((stand, at)) = open.remove(&tp) else { continue };
                match peeked {
                    Ok(peeked) => match self.look(&tp, &stand, at, &peeked.bytes)? {
                        Seen::Fence(below) => {
                            open.insert(tp, (stand, below));
                        }
                        Seen::Records => done.push(self.stands(tp, stand, at, ends)?),
                    },
                    // Retention has removed even the last batch: there is nothing left to look at.
                    Err(error) if error.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) => {
                        done.push(self.stands(tp, stand, at, ends)?);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    /// What the batch that ends below `at` is.
    fn look(&self, tp: &TopicPartition, stand: &Stand, at: i64, bytes: &[u8]) -> Result<Seen, EngineError> {
        let header = match batch::view_cut(bytes) {
            Ok(Some(header)) => header,
            _ => return Err(foreign(tp, at - 1, "the last batch there has no readable header")),
        };
        if header.last_offset() != at - 1 || !self.known.contains(&header.producer_id) {
            return Err(foreign(tp, header.base_offset, "somebody else has written to the topic"));
        }
        if header.is_control() {
            return Ok(Seen::Fence(header.base_offset));
        }
        match ends_at(&header) == stand.records_at(at).map(|n| stand.sequence_of(n)) {
            true => Ok(Seen::Records),
            false => Err(foreign(
                tp,
                header.base_offset,
                "the records there are not those that this restore has sent",
            )),
        }
    }

    /// The new standing: records up to `at`, then fences up to the end.
    fn stands(
        &self,
        tp: TopicPartition,
        mut stand: Stand,
        at: i64,
        ends: &HashMap<TopicPartition, i64>,
    ) -> Result<(TopicPartition, Stand), EngineError> {
        let end = ends.get(&tp).copied().unwrap_or(-1);
        let Some(done) = stand.records_at(at) else {
            return Err(foreign(&tp, at, "the log was truncated, or the topic is another one"));
        };
        let stand = match self.way {
            Way::Count => {
                stand.done = done;
                stand
            }
            Way::Transaction | Way::Marker => stand.behind_fence(done, end, self.writer),
        };
        Ok((tp, stand))
    }
}

enum Seen {
    /// One of our fences, which begins at this offset.
    Fence(i64),
    /// Our last records.
    Records,
}

/// The sequence behind a batch.
pub fn ends_at(header: &Header) -> Option<i32> {
    let next = i64::from(header.base_sequence) + i64::from(header.record_count);
    (header.base_sequence >= 0).then_some(next.rem_euclid(1 << 31) as i32)
}

fn foreign(tp: &TopicPartition, offset: i64, what: &str) -> EngineError {
    EngineError::Diverged(format!(
        "{tp}: the log at the target is not as this restore left it: at offset {offset}, {what}; nothing more is sent. Delete the topic, and run the restore again"
    ))
}

//! ListOffsets and OffsetForLeaderEpoch for many partitions, each asked of its leader.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bodley_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use bodley_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use bodley_protocol::messages::{
    BrokerId, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, TopicName,
};
use bodley_protocol::{ErrorCode, RetryClass, StrBytes};
use tokio::task::JoinSet;

use super::cluster::{Cluster, To};
use super::error::KafkaError;
use super::layout::{Layout, TopicPartition};
use crate::backoff::Backoff;

/// How often an answer that does not agree with the one before is asked for again.
const CONFIRMATIONS: usize = 5;

/// Which end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The log start offset.
    Earliest,
    /// The last stable offset.
    LastStable,
    /// The high watermark.
    HighWatermark,
    /// The log end offset of whoever is asked, replicated or not. Followers answer as well, so believe it only beside a
    /// [`End::HighWatermark`] of the same leader.
    LogEnd,
}

impl End {
    fn timestamp(self) -> i64 {
        if self == Self::Earliest { -2 } else { -1 }
    }

    /// -2 is the debugging consumer, which sees what is not replicated yet.
    fn replica(self) -> i32 {
        if self == Self::LogEnd { -2 } else { -1 }
    }

    fn isolation(self) -> i8 {
        i8::from(self == Self::LastStable)
    }

    /// What rests on this answer alone: where a log begins, and how far it is read. A wrong one would be a backup that lacks records and does not
    /// know.
    fn is_to_be_confirmed(self) -> bool {
        matches!(self, Self::Earliest | Self::LastStable)
    }

    /// Whether the second of two answers agrees with the first. Ends grow.
    fn confirms(self, first: i64, second: i64) -> bool {
        if self == Self::LastStable { second >= first } else { second == first }
    }
}

/// An offset and the epoch of the leader that said so (-1: not told).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// As asked for.
    pub offset: i64,
    /// Of the record before (or at) it, as the broker tells.
    pub leader_epoch: i32,
}

/// What became of each partition.
#[derive(Debug, Default)]
pub struct Answers {
    /// Answered.
    pub found: HashMap<TopicPartition, Found>,
    /// Not answered: why, after all tries.
    pub failed: BTreeMap<TopicPartition, KafkaError>,
}

impl Answers {
    /// A leader that no other try helps with: what it leads has failed, others go on.
    fn refuse(
        &mut self,
        leader: i32,
        error: &KafkaError,
        layout: &Layout,
        open: &mut HashMap<TopicPartition, Question>,
    ) {
        let is_led =
            |tp: &TopicPartition| layout.partition(tp).and_then(|partition| partition.leader) == Some(leader);
        open.retain(|tp, _| {
            let is_led = is_led(tp);
            if is_led {
                self.failed.insert(tp.clone(), error.again());
            }
            !is_led
        });
    }

    /// Takes one part of a leader's answer. What is answered for good leaves `open`; the error of one that is to be asked again.
    fn take(
        &mut self,
        leader: i32,
        (tp, result): Part,
        open: &mut HashMap<TopicPartition, Question>,
    ) -> Option<KafkaError> {
        let question = *open.get(&tp)?; // else it was not asked for
        match result {
            // An epoch may have no end, a log has two.
            Ok(found) if found.offset < 0 && matches!(question, Question::End(_)) => {
                let what = format!("broker {leader} tells offset {} of {tp}", found.offset);
                return Some(KafkaError::NoRoute(what));
            }
            Ok(found) => {
                open.remove(&tp);
                self.found.insert(tp, found);
            }
            Err(code) => {
                let (api, subject) = ("ListOffsets", tp.to_string());
                let error = KafkaError::Refused { api, subject, code, message: None };
                if code.retry_class() != RetryClass::Never {
                    return Some(error);
                }
                open.remove(&tp);
                self.failed.insert(tp, error);
            }
        }
        None
    }
}

/// A question to the leader of a partition.
#[derive(Debug, Clone, Copy)]
enum Question {
    End(End),
    /// Where does this leader epoch end?
    EpochEnd(i32),
}

/// What an answer says of one partition.
pub(super) type Part = (TopicPartition, Result<Found, ErrorCode>);

impl Cluster {
    /// The offsets of one end of each partition. No checksum protects them on their way, so those that matter most are asked for twice where TLS
    /// does not protect them either.
    pub async fn list_offsets(
        self: &Arc<Self>,
        of: &[TopicPartition],
        end: End,
    ) -> Result<Answers, KafkaError> {
        self.list_offsets_within(of, end, self.options().give_up_after).await
    }

    /// The same; leaders that don't answer are waited for so long.
    pub async fn list_offsets_within(
        self: &Arc<Self>,
        of: &[TopicPartition],
        end: End,
        patience: Duration,
    ) -> Result<Answers, KafkaError> {
        let mut answers = self.ends_once(of, end, patience).await?;
        if !end.is_to_be_confirmed() || self.options().tls.is_some() {
            return Ok(answers);
        }
        let mut open: Vec<TopicPartition> = answers.found.keys().cloned().collect();
        for _ in 0..CONFIRMATIONS {
            if open.is_empty() {
                break;
            }
            let again = self.ends_once(&open, end, patience).await?;
            open.clear();
            for (tp, found) in again.found {
                let first = answers.found.insert(tp.clone(), found);
                if first.is_none_or(|first| !end.confirms(first.offset, found.offset)) {
                    tracing::info!("{tp}: offset {} after {first:?}: asked for again", found.offset);
                    open.push(tp);
                }
            }
            for (tp, error) in again.failed {
                answers.found.remove(&tp);
                answers.failed.insert(tp, error);
            }
        }
        Ok(answers)
    }

    async fn ends_once(
        self: &Arc<Self>,
        of: &[TopicPartition],
        end: End,
        patience: Duration,
    ) -> Result<Answers, KafkaError> {
        self.ask_leaders(of.iter().map(|tp| (tp.clone(), Question::End(end))).collect(), patience).await
    }

    /// For each partition and leader epoch: the end offset of the largest epoch at or below it (`leader_epoch` -1 with offset -1: the
    /// leader knows none).
    pub async fn epoch_ends(self: &Arc<Self>, of: &[(TopicPartition, i32)]) -> Result<Answers, KafkaError> {
        self.epoch_ends_within(of, self.options().give_up_after).await
    }

    /// The same; leaders that don't answer are waited for so long.
    pub async fn epoch_ends_within(
        self: &Arc<Self>,
        of: &[(TopicPartition, i32)],
        patience: Duration,
    ) -> Result<Answers, KafkaError> {
        let questions = of.iter().map(|(tp, epoch)| (tp.clone(), Question::EpochEnd(*epoch)));
        self.ask_leaders(questions.collect(), patience).await
    }

    /// Asks again whom routing or passing errors kept from answering.
    async fn ask_leaders(
        self: &Arc<Self>,
        questions: Vec<(TopicPartition, Question)>,
        patience: Duration,
    ) -> Result<Answers, KafkaError> {
        let mut waited = BTreeSet::new();
        let answers = self.ask_patiently(questions, patience, &mut waited).await;
        for tp in &waited {
            match answers.as_ref().is_ok_and(|answers| answers.found.contains_key(tp)) {
                true => self.health().goes_on(tp),
                false => self.health().gives_up(tp),
            }
        }
        answers
    }

    async fn ask_patiently(
        self: &Arc<Self>,
        questions: Vec<(TopicPartition, Question)>,
        patience: Duration,
        waited: &mut BTreeSet<TopicPartition>,
    ) -> Result<Answers, KafkaError> {
        let mut answers = Answers::default();
        let mut open: HashMap<TopicPartition, Question> = questions.into_iter().collect();
        let mut backoff = Backoff::with_pauses(self.options().retry_pauses, patience);
        loop {
            let layout = self.layout();
            let mut errors = self.ask_once(&layout, &mut open, &mut answers).await?;
            if open.is_empty() {
                return Ok(answers);
            }
            let why = some_of(&errors);
            let last = errors.remove(0);
            for tp in open.keys() {
                let leader = layout.partition(tp).and_then(|partition| partition.leader);
                // Whom somebody else waits for is theirs.
                if self.health().waits(tp, leader, &last) {
                    waited.insert(tp.clone());
                }
            }
            if self.pause_and_refresh(&mut backoff, last, &layout).await.is_err() {
                for (tp, _) in open {
                    let error = KafkaError::NoRoute(format!("{tp}: no leader answered ({why})"));
                    answers.failed.insert(tp, error);
                }
                return Ok(answers);
            }
        }
    }

    /// One round. What is answered for good leaves `open`; returns an error for each that is not.
    async fn ask_once(
        self: &Arc<Self>,
        layout: &Layout,
        open: &mut HashMap<TopicPartition, Question>,
        answers: &mut Answers,
    ) -> Result<Vec<KafkaError>, KafkaError> {
        let mut errors = Vec::new();
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, Question, i32)>> = BTreeMap::new();
        for (tp, question) in open.iter() {
            match layout.partition(tp).map(|partition| (partition.leader, partition.leader_epoch)) {
                Some((Some(leader), epoch)) => {
                    by_leader.entry(leader).or_default().push((tp.clone(), *question, epoch));
                }
                Some((None, _)) => errors.push(KafkaError::NoRoute(format!("{tp} has no leader"))),
                None => errors.push(KafkaError::NoRoute(format!("{tp} is not in the cluster's metadata"))),
            }
        }
        let mut tasks = JoinSet::new();
        for (leader, mut questions) in by_leader {
            questions.sort_by(|a, b| a.0.cmp(&b.0));
            let cluster = Arc::clone(self);
            tasks.spawn(async move { (leader, cluster.ask_leader(leader, questions).await) });
        }
        while let Some(joined) = tasks.join_next().await {
            let (leader, parts) = joined.map_err(|e| KafkaError::NoRoute(e.to_string()))?;
            let parts = match parts {
                Ok(parts) => parts,
                Err(error) if error.retry_class() == RetryClass::Never => {
                    answers.refuse(leader, &error, layout, open);
                    continue;
                }
                // Its partitions may have another leader by the next round.
                Err(error) => {
                    errors.push(KafkaError::NoRoute(format!("broker {leader}: {error}")));
                    continue;
                }
            };
            for part in parts {
                errors.extend(answers.take(leader, part, open));
            }
        }
        if errors.is_empty() && !open.is_empty() {
            errors.push(KafkaError::NoRoute("a leader left partitions out of its answer".into()));
        }
        Ok(errors)
    }

    async fn ask_leader(
        &self,
        leader: i32,
        questions: Vec<(TopicPartition, Question, i32)>,
    ) -> Result<Vec<Part>, KafkaError> {
        let (mut ends, mut epochs) = (Vec::new(), Vec::new());
        let mut asked = None;
        for (tp, question, leader_epoch) in questions {
            match question {
                Question::End(end) => {
                    asked = Some(end);
                    ends.push(Ask { tp, leader_epoch, timestamp: end.timestamp() });
                }
                Question::EpochEnd(epoch) => epochs.push((tp, leader_epoch, epoch)),
            }
        }
        let mut parts = Vec::new();
        if let Some(end) = asked {
            let request = list_offsets_request(end.replica(), end.isolation(), &ends);
            parts.extend(list_offsets_parts(self.call_once(To::Broker(leader), i16::MAX, &request).await?));
        }
        if !epochs.is_empty() {
            let request = epoch_request(&epochs);
            parts.extend(epoch_parts(self.call_once(To::Broker(leader), i16::MAX, &request).await?));
        }
        Ok(parts)
    }
}

/// A few different errors in a line.
fn some_of(errors: &[KafkaError]) -> String {
    let mut texts: Vec<String> = errors.iter().take(100).map(ToString::to_string).collect();
    texts.sort();
    texts.dedup();
    texts.truncate(3);
    texts.join("; ")
}

fn topic_name(name: &Arc<str>) -> TopicName {
    TopicName(StrBytes::from_string(name.to_string()))
}

/// A question about one partition.
pub(super) struct Ask {
    pub(super) tp: TopicPartition,
    pub(super) leader_epoch: i32,
    /// Milliseconds since 1970, or one of Kafka's numbers below 0.
    pub(super) timestamp: i64,
}

/// `of` is sorted by partition.
pub(super) fn list_offsets_request(replica: i32, isolation: i8, of: &[Ask]) -> ListOffsetsRequest {
    let topics = of.chunk_by(|a, b| a.tp.topic == b.tp.topic).filter_map(|of_topic| {
        let partitions = of_topic.iter().map(|ask| {
            ListOffsetsPartition::default()
                .with_partition_index(ask.tp.partition)
                .with_current_leader_epoch(ask.leader_epoch)
                .with_timestamp(ask.timestamp)
        });
        Some(
            ListOffsetsTopic::default()
                .with_name(topic_name(&of_topic.first()?.tp.topic))
                .with_partitions(partitions.collect()),
        )
    });
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(replica))
        .with_isolation_level(isolation)
        .with_topics(topics.collect())
}

pub(super) fn list_offsets_parts(response: ListOffsetsResponse) -> Vec<Part> {
    let mut parts = Vec::new();
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let found = Found { offset: partition.offset, leader_epoch: partition.leader_epoch };
            let result = ErrorCode(partition.error_code).check().map(|()| found);
            parts.push((TopicPartition::new(&name, partition.partition_index), result));
        }
    }
    parts
}

fn epoch_request(of: &[(TopicPartition, i32, i32)]) -> OffsetForLeaderEpochRequest {
    let topics = of.chunk_by(|a, b| a.0.topic == b.0.topic).filter_map(|group| {
        let (first, ..) = group.first()?;
        let partitions = group.iter().map(|(tp, leader_epoch, epoch)| {
            OffsetForLeaderPartition::default()
                .with_partition(tp.partition)
                .with_current_leader_epoch(*leader_epoch)
                .with_leader_epoch(*epoch)
        });
        Some(
            OffsetForLeaderTopic::default()
                .with_topic(topic_name(&first.topic))
                .with_partitions(partitions.collect()),
        )
    });
    OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics.collect())
}

fn epoch_parts(response: OffsetForLeaderEpochResponse) -> Vec<Part> {
    let mut parts = Vec::new();
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.topic.as_str());
        for partition in topic.partitions {
            let found = Found { offset: partition.end_offset, leader_epoch: partition.leader_epoch };
            let result = ErrorCode(partition.error_code).check().map(|()| found);
            parts.push((TopicPartition::new(&name, partition.partition), result));
        }
    }
    parts
}

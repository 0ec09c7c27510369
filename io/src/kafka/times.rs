//! ListOffsets by time, for many times of the same partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_protocol::RetryClass;
use bodley_protocol::messages::ListOffsetsRequest;

use super::cluster::Cluster;
use super::error::KafkaError;
use super::layout::{Layout, TopicPartition};
use super::offsets::{Ask, Found, Part, list_offsets_parts, list_offsets_request};

/// What became of each time.
#[derive(Debug, Default)]
pub struct TimeAnswers {
    /// The first offset whose record is not older, by partition and time, ms since 1970; `None`: there is no such record.
    pub found: BTreeMap<(TopicPartition, i64), Option<i64>>,
    /// Partitions that can't be asked: why, after all tries.
    pub failed: BTreeMap<TopicPartition, KafkaError>,
}

/// Times that have no answer yet.
type Open = BTreeMap<TopicPartition, BTreeSet<i64>>;

/// What one request asks for: a time of each of some partitions.
type Asked = Vec<(TopicPartition, i64)>;

impl Cluster {
    /// For each partition and time, ms since 1970, the first offset whose record is not older. A time below 0 stands for 0: less than that has other
    /// meanings to brokers.
    pub async fn offsets_for_times(self: &Arc<Self>, of: &[(TopicPartition, i64)]) -> TimeAnswers {
        let mut open = Open::new();
        for (tp, time) in of {
            open.entry(tp.clone()).or_default().insert((*time).max(0));
        }
        let mut answers = TimeAnswers::default();
        let mut backoff = self.backoff();
        while !open.is_empty() {
            let (layout, before) = (self.layout(), answers.found.len() + answers.failed.len());
            let passing = self.times_round(&layout, &mut open, &mut answers).await;
            if open.is_empty() {
                break;
            }
            if answers.found.len() + answers.failed.len() > before {
                backoff.progress();
            }
            if !backoff.wait().await {
                let silent = || KafkaError::NoRoute("a leader left partitions out of its answer".into());
                let (after, last) = (self.options().give_up_after, passing.unwrap_or_else(silent));
                answers.failed.extend(open.into_keys().map(|tp| {
                    let last = Box::new(last.again());
                    (tp, KafkaError::GaveUp { after, last })
                }));
                break;
            }
            let _ = self.refresh(&layout).await;
        }
        let negative = of.iter().filter(|(_, time)| *time < 0);
        for (tp, time) in negative {
            if let Some(found) = answers.found.get(&(tp.clone(), 0)).copied() {
                answers.found.insert((tp.clone(), *time), found);
            }
        }
        answers
    }

    /// Asks for all that is open. What is answered for good leaves `open`; an error of what is not.
    async fn times_round(
        self: &Arc<Self>,
        layout: &Layout,
        open: &mut Open,
        answers: &mut TimeAnswers,
    ) -> Option<KafkaError> {
        let (requests, asked, mut passing) = requests(layout, open);
        self.call_many(i16::MAX, requests, |number, response| {
            let Some(asked) = asked.get(number) else { return };
            match response {
                Ok(response) => {
                    for part in list_offsets_parts(response) {
                        passing = take(asked, part, open, answers).or(passing.take());
                    }
                }
                Err(error) if error.retry_class() == RetryClass::Never => {
                    for (tp, _) in asked {
                        open.remove(tp);
                        answers.failed.insert(tp.clone(), error.again());
                    }
                }
                Err(error) => passing = Some(error),
            }
        })
        .await;
        passing
    }
}

/// A broker takes a partition only once in a request: the first request to a leader asks for the first time of each partition, the
/// second for the second, and so on.
fn requests(
    layout: &Layout,
    open: &Open,
) -> (Vec<(i32, ListOffsetsRequest)>, Vec<Asked>, Option<KafkaError>) {
    let mut unled = None;
    let mut rounds: BTreeMap<(i32, usize), Vec<Ask>> = BTreeMap::new();
    for (tp, times) in open {
        let Some((leader, epoch)) = layout.partition(tp).and_then(|of| Some((of.leader?, of.leader_epoch)))
        else {
            unled = Some(KafkaError::NoRoute(format!("{tp} has no leader")));
            continue;
        };
        for (round, time) in times.iter().enumerate() {
            let ask = Ask { tp: tp.clone(), leader_epoch: epoch, timestamp: *time };
            rounds.entry((leader, round)).or_default().push(ask);
        }
    }
    let (mut requests, mut asked) = (Vec::new(), Vec::new());
    for ((leader, _), of) in rounds {
        requests.push((leader, list_offsets_request(-1, 0, &of)));
        asked.push(of.into_iter().map(|ask| (ask.tp, ask.timestamp)).collect());
    }
    (requests, asked, unled)
}

/// Takes one part of an answer; its error if it is to be asked again.
fn take(
    asked: &[(TopicPartition, i64)],
    (tp, result): Part,
    open: &mut Open,
    answers: &mut TimeAnswers,
) -> Option<KafkaError> {
    // They are sorted, as they come out of a sorted map.
    let at = asked.binary_search_by(|(asked, _)| asked.cmp(&tp)).ok()?;
    let (_, time) = asked.get(at)?;
    if !open.get(&tp)?.contains(time) {
        return None;
    }
    match result {
        // -1: no record is that young.
        Ok(Found { offset: ..-1, .. }) => {
            return Some(KafkaError::NoRoute(format!("a broker tells an impossible offset of {tp}")));
        }
        Ok(Found { offset, .. }) => {
            answers.found.insert((tp.clone(), *time), (offset >= 0).then_some(offset));
            let times = open.get_mut(&tp)?;
            times.remove(time);
            if times.is_empty() {
                open.remove(&tp);
            }
        }
        Err(code) => {
            let error =
                KafkaError::Refused { api: "ListOffsets", subject: tp.to_string(), code, message: None };
            if code.retry_class() != RetryClass::Never {
                return Some(error);
            }
            open.remove(&tp);
            answers.failed.insert(tp, error);
        }
    }
    None
}

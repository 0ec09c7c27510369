//! The cluster's layout (brokers, topics, leaders), and the one place where requests find their broker and are retried.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bodley_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponseTopic};
use bodley_protocol::messages::{MetadataRequest, MetadataResponse};
use bodley_protocol::{ErrorCode, NO_TOPIC_ID, RetryClass, TopicId};
use kafka_protocol::protocol::{Message, Request};

use super::address::Address;
use super::connection::ClientOptions;
use super::error::{KafkaError, quoted};
use super::health::Health;
use super::reach::Ways;
use crate::backoff::{Backoff, Gate};

/// Longest name of a topic, and of a cluster.
const MAX_NAME: usize = 249;
/// Longest name in DNS.
const MAX_HOST: usize = 255;
/// What a broker is given at first to tell the layout, before another one is asked.
const METADATA_WITHIN: Duration = Duration::from_secs(5);

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name.
    pub topic: Arc<str>,
    /// Index.
    pub partition: i32,
}

impl TopicPartition {
    /// From its parts.
    pub fn new(topic: &Arc<str>, partition: i32) -> Self {
        Self { topic: Arc::clone(topic), partition }
    }

    /// All that a topic can have, for looking them up in sorted maps.
    pub fn all_of(topic: &Arc<str>) -> RangeInclusive<Self> {
        Self::new(topic, 0)..=Self::new(topic, i32::MAX)
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// The cluster as Metadata described it at one moment.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// `None` before Kafka 0.10.1.
    pub cluster_id: Option<String>,
    /// Brokers by id.
    pub brokers: BTreeMap<i32, Address>,
    /// All topics that we may see.
    pub topics: BTreeMap<Arc<str>, Topic>,
}

/// A topic in a [`Layout`].
#[derive(Debug, Clone)]
pub struct Topic {
    /// Name.
    pub name: Arc<str>,
    /// Zeros before Kafka 2.8.
    pub id: TopicId,
    /// The broker calls it internal.
    pub internal: bool,
    /// Sorted by index.
    pub partitions: Vec<Partition>,
    /// Of the topic as a whole, e.g. TOPIC_AUTHORIZATION_FAILED.
    pub error: ErrorCode,
}

/// A partition in a [`Layout`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Index.
    pub index: i32,
    /// Broker id; `None` while there is no leader.
    pub leader: Option<i32>,
    /// -1 where the broker does not tell.
    pub leader_epoch: i32,
    /// Broker ids of its replicas.
    pub replicas: Vec<i32>,
}

impl Layout {
    /// The topic's id; zeros where it has none, or is not there.
    pub fn topic_id(&self, name: &str) -> TopicId {
        self.topics.get(name).map_or(NO_TOPIC_ID, |topic| topic.id)
    }

    /// The partition, if the topic has it.
    pub fn partition(&self, of: &TopicPartition) -> Option<&Partition> {
        let partitions = &self.topics.get(&of.topic)?.partitions;
        let at = partitions.binary_search_by_key(&of.partition, |partition| partition.index).ok()?;
        partitions.get(at)
    }

    fn from_response(response: MetadataResponse) -> Result<Self, KafkaError> {
        // A broker that has just started may not know yet.
        if response.brokers.is_empty() {
            return Err(KafkaError::NoRoute("the cluster's metadata names no broker".into()));
        }
        let cluster_id = response.cluster_id.map(|id| id.to_string());
        if let Some(id) =
            cluster_id.as_ref().filter(|id| id.len() > MAX_NAME || id.contains(char::is_control))
        {
            return Err(KafkaError::NoRoute(format!(
                "the cluster's metadata has an impossible id, {}",
                quoted(id)
            )));
        }
        let mut topics = BTreeMap::new();
        for described in response.topics {
            if let Some(name) = described.name.as_ref().filter(|name| !is_topic_name(name)) {
                let what = format!("the cluster's metadata names an impossible topic, {}", quoted(name));
                return Err(KafkaError::NoRoute(what));
            }
            topics.extend(topic(described).map(|topic| (Arc::clone(&topic.name), topic)));
        }
        let brokers = response.brokers.into_iter().map(broker).collect::<Result<_, _>>()?;
        Ok(Self { cluster_id, brokers, topics })
    }
}

/// Kafka's rule for topic names.
pub fn is_topic_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(legal) && name != "." && name != ".."
}

fn broker(broker: MetadataResponseBroker) -> Result<(i32, Address), KafkaError> {
    let port = u16::try_from(broker.port).ok().filter(|port| *port > 0);
    let host = Some(broker.host.as_str()).filter(|host| {
        !host.is_empty()
            && host.len() <= MAX_HOST
            && !host.contains(|c: char| c.is_control() || c.is_whitespace())
    });
    match (host, port) {
        (Some(host), Some(port)) => Ok((broker.node_id.0, Address { host: host.to_owned(), port })),
        _ => Err(KafkaError::NoRoute(format!(
            "broker {} advertises an address that cannot be: host {}, port {}",
            broker.node_id.0,
            quoted(&broker.host),
            broker.port
        ))),
    }
}

fn topic(topic: MetadataResponseTopic) -> Option<Topic> {
    let partitions = topic.partitions.into_iter().map(|partition| Partition {
        index: partition.partition_index,
        leader: (partition.leader_id.0 >= 0).then_some(partition.leader_id.0),
        leader_epoch: partition.leader_epoch,
        replicas: partition.replica_nodes.into_iter().map(|id| id.0).collect(),
    });
    let mut partitions: Vec<Partition> = partitions.collect();
    partitions.sort_by_key(|partition| partition.index);
    Some(Topic {
        name: Arc::from(topic.name?.as_str()),
        id: topic.topic_id.into_bytes(),
        internal: topic.is_internal,
        partitions,
        error: ErrorCode(topic.error_code),
    })
}

/// Where requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Whichever broker answers.
    Any,
    /// The broker of this id.
    Broker(i32),
}

/// A client of one cluster. Requests of its own share one connection per broker; [`Cluster::connect`] opens others.
#[derive(Debug)]
pub struct Cluster {
    pub(super) bootstrap: Vec<Address>,
    pub(super) options: Arc<ClientOptions>,
    layout: Mutex<Arc<Layout>>,
    refreshing: Gate<KafkaError>,
    pub(super) ways: Ways,
    health: Arc<Health>,
}

impl Cluster {
    /// Finds a bootstrap server that answers, and the layout. Does not wait for a cluster that is down.
    pub async fn open(bootstrap: Vec<Address>, options: ClientOptions) -> Result<Arc<Self>, KafkaError> {
        let health = Health::new(options.give_up_after);
        health.watch();
        let cluster = Self {
            bootstrap,
            layout: Mutex::default(),
            refreshing: Gate::new(options.retry_pauses),
            ways: Ways::new(options.retry_pauses),
            health,
            options: Arc::new(options),
        };
        let layout = cluster.fetch_layout().await?;
        *lock(&cluster.layout) = Arc::new(layout);
        Ok(Arc::new(cluster))
    }

    /// How we connect.
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The layout as last seen.
    pub fn layout(&self) -> Arc<Layout> {
        Arc::clone(&lock(&self.layout))
    }

    /// A layout newer than `seen`: asks the cluster unless another task has done so since. However many ask, and however often, the
    /// cluster hears little of it: the first one asks at once, those that follow at a growing distance.
    pub async fn refresh(&self, seen: &Arc<Layout>) -> Result<Arc<Layout>, KafkaError> {
        self.ask_layout(Some(seen)).await
    }

    /// The layout as it is told after this was called, also when others have just asked. One try.
    pub async fn fresh_layout(&self) -> Result<Arc<Layout>, KafkaError> {
        self.ask_layout(None).await
    }

    /// The same, with as many tries as there is time for.
    pub async fn fresh_layout_patiently(&self) -> Result<Arc<Layout>, KafkaError> {
        self.retrying(|| self.fresh_layout()).await
    }

    /// Whoever has seen a layout is content with a newer one.
    async fn ask_layout(&self, seen: Option<&Arc<Layout>>) -> Result<Arc<Layout>, KafkaError> {
        let mut pass = self.refreshing.enter(KafkaError::again).await?;
        let current = self.layout();
        if seen.is_some_and(|seen| !Arc::ptr_eq(&current, seen)) {
            return Ok(current);
        }
        pass.wait().await;
        let mut fetched = self.fetch_layout().await;
        if fetched.as_ref().is_err_and(|error| matches!(error, KafkaError::Closed { .. })) {
            // The connection was older than the trouble.
            fetched = self.fetch_layout().await;
        }
        match fetched {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                *lock(&self.layout) = Arc::clone(&fresh);
                pass.end(None);
                Ok(fresh)
            }
            Err(error) => {
                pass.end(Some(error.again()));
                Err(error)
            }
        }
    }

    /// How each broker fares, and who is waited for.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Sends a request, again after passing faults of the way there, until it is answered or `give_up_after` is over. The request must bear
    /// being handled twice. Error codes inside the answer are the caller's.
    pub async fn call<R: Request + Message + Sync>(
        &self,
        to: To,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        self.call_capped(to, i16::MAX, request).await
    }

    /// Sends a request in a version of at most `cap`, without a second try, for callers that choose another broker after a failure.
    pub async fn call_once<R: Request + Message>(
        &self,
        to: To,
        cap: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        self.try_call(to, cap, request).await
    }

    /// As [`Cluster::call`], in a version of at most `cap`.
    pub async fn call_capped<R: Request + Message + Sync>(
        &self,
        to: To,
        cap: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        let mut backoff = self.backoff();
        loop {
            let seen = self.layout();
            let error = match self.try_call(to, cap, request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.retry_class() == RetryClass::Never {
                return Err(error);
            }
            tracing::debug!("again: {error}");
            self.pause_and_refresh(&mut backoff, error, &seen).await?;
        }
    }

    /// Pauses as the options have them.
    pub fn backoff(&self) -> Backoff {
        Backoff::with_pauses(self.options.retry_pauses, self.options.give_up_after)
    }

    /// Waits before the next try after `error`; gives up when the time is over.
    pub async fn pause(&self, backoff: &mut Backoff, error: KafkaError) -> Result<(), KafkaError> {
        if backoff.wait().await {
            return Ok(());
        }
        Err(KafkaError::GaveUp { after: self.options.give_up_after, last: Box::new(error) })
    }

    /// The same, and meanwhile looks where everybody is: a leader may have moved. That the cluster can't be asked now is what the next try finds out.
    pub(super) async fn pause_and_refresh(
        &self,
        backoff: &mut Backoff,
        error: KafkaError,
        seen: &Arc<Layout>,
    ) -> Result<(), KafkaError> {
        let refreshed = self.refresh(seen);
        let paused = self.pause(backoff, error);
        tokio::pin!(refreshed, paused);
        tokio::select! {
            biased;
            over = &mut paused => {
                over?;
                let _ = refreshed.await;
                Ok(())
            }
            _ = &mut refreshed => paused.await,
        }
    }

    /// Repeats `operation` after passing errors, until it works or the time is up.
    pub(super) async fn retrying<T, F>(&self, operation: impl Fn() -> F) -> Result<T, KafkaError>
    where
        F: Future<Output = Result<T, KafkaError>>,
    {
        let mut backoff = self.backoff();
        loop {
            let seen = self.layout();
            match operation().await {
                Err(error) if error.retry_class() != RetryClass::Never => {
                    self.pause_and_refresh(&mut backoff, error, &seen).await?;
                }
                result => return result,
            }
        }
    }

    async fn fetch_layout(&self) -> Result<Layout, KafkaError> {
        // Version 12 can tell topics by id; all we need is in it.
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        // A broker that is silent is left for another one, with more patience each time: all of them may need long.
        let failures = self.refreshing.failures().min(8) as u32;
        let after = METADATA_WITHIN.saturating_mul(1 << failures).min(self.options.request_timeout);
        let asked = self.with_connection(To::Any, async |connection| {
            let version = connection.version::<MetadataRequest>(12)?;
            let broker = connection.broker().to_owned();
            match tokio::time::timeout(after, connection.call_version(version, &request)).await {
                Ok(answer) => answer,
                Err(_) => Err(KafkaError::Timeout { broker, what: "answer Metadata".into(), after }),
            }
        });
        Layout::from_response(asked.await?)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

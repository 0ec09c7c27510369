//! The cluster's layout (brokers, topics, leaders), and the one place where requests find their broker and are retried.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use bodley_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponseTopic};
use bodley_protocol::messages::{MetadataRequest, MetadataResponse};
use bodley_protocol::{ErrorCode, NO_TOPIC_ID, RetryClass, TopicId};
use kafka_protocol::protocol::{Message, Request};
use tokio::sync::Mutex as AsyncMutex;

use super::address::Address;
use super::connection::{ClientOptions, Connection};
use super::error::{KafkaError, quoted};
use crate::backoff::Backoff;

/// Longest name of a topic, and of a cluster.
const MAX_NAME: usize = 249;
/// Longest name in DNS.
const MAX_HOST: usize = 255;

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

type Slot = Arc<AsyncMutex<Option<Connection>>>;

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
    bootstrap: Vec<Address>,
    options: Arc<ClientOptions>,
    layout: Mutex<Arc<Layout>>,
    refreshing: AsyncMutex<()>,
    slots: Mutex<HashMap<Option<i32>, Slot>>,
}

impl Cluster {
    /// Finds a bootstrap server that answers, and the layout. Does not wait for a cluster that is down.
    pub async fn open(bootstrap: Vec<Address>, options: ClientOptions) -> Result<Arc<Self>, KafkaError> {
        let cluster = Self {
            bootstrap,
            options: Arc::new(options),
            layout: Mutex::default(),
            refreshing: AsyncMutex::default(),
            slots: Mutex::default(),
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

    /// A layout newer than `seen`: asks the cluster unless another task has done so since.
    pub async fn refresh(&self, seen: &Arc<Layout>) -> Result<Arc<Layout>, KafkaError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let current = self.layout();
        if !Arc::ptr_eq(&current, seen) {
            return Ok(current);
        }
        let fresh = Arc::new(self.fetch_layout().await?);
        *lock(&self.layout) = Arc::clone(&fresh);
        Ok(fresh)
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
            self.pause(&mut backoff, error).await?;
            // The broker may have moved; that it can't be asked now is what the next round finds out.
            let _ = self.refresh(&seen).await;
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
                    self.pause(&mut backoff, error).await?;
                    let _ = self.refresh(&seen).await;
                }
                result => return result,
            }
        }
    }

    /// A connection of the caller's own to a broker.
    pub async fn connect(&self, broker: i32) -> Result<Connection, KafkaError> {
        let layout = self.layout();
        let address = layout.brokers.get(&broker);
        let address =
            address.ok_or_else(|| KafkaError::NoRoute(format!("broker {broker} is not in the cluster")))?;
        Connection::open(address, &self.options).await
    }

    /// The version that requests of type `R` to a broker use, at most `cap`.
    pub async fn version<R: Request + Message>(&self, to: To, cap: i16) -> Result<i16, KafkaError> {
        self.with_connection(to, async |connection| connection.version::<R>(cap)).await
    }

    async fn try_call<R: Request + Message>(
        &self,
        to: To,
        cap: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        self.with_connection(to, async |connection| {
            let version = connection.version::<R>(cap)?;
            connection.call_version(version, request).await
        })
        .await
    }

    pub(super) async fn with_connection<T>(
        &self,
        to: To,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        let key = match to {
            To::Any => None,
            To::Broker(id) => Some(id),
        };
        let slot = Arc::clone(lock(&self.slots).entry(key).or_default());
        let mut slot = slot.lock().await;
        if slot.as_ref().is_none_or(Connection::is_dead) {
            *slot = None;
            *slot = Some(match to {
                To::Any => self.connect_any().await?,
                To::Broker(id) => self.connect(id).await?,
            });
        }
        let Some(connection) = slot.as_mut() else { return Err(KafkaError::NoRoute("no connection".into())) };
        work(connection).await
    }

    async fn connect_any(&self) -> Result<Connection, KafkaError> {
        let layout = self.layout();
        let mut errors: Vec<KafkaError> = Vec::new();
        let backoff = self.backoff();
        let known = layout.brokers.values();
        let bootstrap =
            self.bootstrap.iter().filter(|_| self.options.rebootstrap || layout.brokers.is_empty());
        for address in known.chain(bootstrap) {
            match Connection::open(address, &self.options).await {
                Ok(connection) => return Ok(connection),
                // Others will say the same, and an account may get locked.
                Err(error @ (KafkaError::Auth { passing: false, .. } | KafkaError::Token { .. })) => {
                    return Err(error);
                }
                Err(error) => errors.push(error),
            }
            if backoff.is_over() {
                break;
            }
        }
        // With a single address its own error says more than a list of one; and what no retry helps stays that.
        if self.bootstrap.len() == 1 && layout.brokers.is_empty()
            || errors.iter().all(|error| error.retry_class() == RetryClass::Never)
        {
            errors.truncate(1);
            return Err(errors.pop().unwrap_or_else(|| KafkaError::NoBootstrap("none is given".into())));
        }
        let mut errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.dedup();
        errors.truncate(5);
        Err(KafkaError::NoBootstrap(errors.join("; ")))
    }

    async fn fetch_layout(&self) -> Result<Layout, KafkaError> {
        // Version 12 can tell topics by id; all we need is in it.
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let response = self.try_call(To::Any, 12, &request).await?;
        Layout::from_response(response)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

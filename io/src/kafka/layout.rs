//! The cluster as its brokers describe it: brokers, topics, leaders; and whose description is believed (docs/adr/0014).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bodley_protocol::messages::MetadataResponse;
use bodley_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponseTopic};
use bodley_protocol::{ErrorCode, NO_TOPIC_ID, TopicId};

use super::address::Address;
use super::error::{KafkaError, quoted};

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
    /// The broker that takes requests for the controller: with ZooKeeper no other one does.
    pub controller: Option<i32>,
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

impl Topic {
    /// It has this id, which says something.
    fn is_surely(&self, id: TopicId) -> bool {
        self.id == id && id != NO_TOPIC_ID
    }

    /// The same partition with a leader of a later time.
    fn newer(&self, other: &Partition) -> Option<&Partition> {
        let at = self.partitions.binary_search_by_key(&other.index, |partition| partition.index).ok()?;
        self.partitions.get(at).filter(|own| other.leader_epoch >= 0 && own.leader_epoch > other.leader_epoch)
    }
}

/// Whether a topic of one id can be that of another: zeros are of brokers that know no ids, or not yet.
pub fn is_same_topic(id: TopicId, other: TopicId) -> bool {
    id == other || id == NO_TOPIC_ID || other == NO_TOPIC_ID
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

    /// Whether some topic of `known` is not named, or has a leader of an earlier time: whoever told this may lag.
    pub(super) fn may_be_older_than(&self, known: &Self) -> bool {
        known.topics.values().any(|known| match self.topics.get(&known.name) {
            Some(topic) if topic.id == known.id => {
                topic.partitions.iter().any(|partition| known.newer(partition).is_some())
            }
            Some(_) => false,
            None => true,
        })
    }

    /// What is told now, after `known`: of the same cluster, and without leaders of an earlier time.
    pub(super) fn following(mut self, known: &Self) -> Result<Self, KafkaError> {
        match (&known.cluster_id, &self.cluster_id) {
            (Some(before), Some(now)) if before != now => {
                return Err(KafkaError::OtherCluster { before: before.clone(), now: now.clone() });
            }
            _ => {}
        }
        for topic in self.topics.values_mut() {
            let same = known.topics.get(&topic.name).filter(|known| known.is_surely(topic.id));
            let Some(known) = same else { continue };
            for partition in &mut topic.partitions {
                if let Some(newer) = known.newer(partition) {
                    *partition = newer.clone();
                }
            }
        }
        // Who has just started may not say yet which cluster it is of.
        self.cluster_id = self.cluster_id.or_else(|| known.cluster_id.clone());
        Ok(self)
    }

    pub(super) fn from_response(response: MetadataResponse) -> Result<Self, KafkaError> {
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
        let brokers: BTreeMap<_, _> = response.brokers.into_iter().map(broker).collect::<Result<_, _>>()?;
        let controller = Some(response.controller_id.0).filter(|id| brokers.contains_key(id));
        Ok(Self { cluster_id, brokers, controller, topics })
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

#[cfg(test)]
mod tests {
    use bodley_protocol::RetryClass;

    use super::*;

    fn layout(cluster: &str, id: u8, leaders: &[(i32, i32)]) -> Layout {
        let partition = |(index, (leader, epoch)): (usize, &(i32, i32))| Partition {
            index: index as i32,
            leader: Some(*leader),
            leader_epoch: *epoch,
            replicas: Vec::new(),
        };
        let topic = Topic {
            name: Arc::from("t"),
            id: [id; 16],
            internal: false,
            partitions: leaders.iter().enumerate().map(partition).collect(),
            error: ErrorCode::NONE,
        };
        let topics = BTreeMap::from([(Arc::clone(&topic.name), topic)]);
        Layout { cluster_id: Some(cluster.to_owned()), topics, ..Layout::default() }
    }

    #[test]
    fn leaders_of_an_earlier_time_are_not_believed() {
        let known = layout("a", 1, &[(1, 5), (2, 5)]);
        let leaders = |layout: &Layout| -> Vec<_> {
            layout.topics["t"].partitions.iter().map(|p| (p.leader.unwrap(), p.leader_epoch)).collect()
        };
        let older = layout("a", 1, &[(3, 4), (3, 6), (3, 0)]);
        assert!(older.may_be_older_than(&known) && !known.may_be_older_than(&known));
        assert!(Layout::default().may_be_older_than(&known));
        assert_eq!(leaders(&older.following(&known).unwrap()), [(1, 5), (3, 6), (3, 0)]);
        // Of another topic epochs begin anew; where there are no ids it may be one.
        let other = layout("a", 2, &[(3, 0), (3, 0)]);
        assert!(!other.may_be_older_than(&known));
        assert_eq!(leaders(&other.following(&known).unwrap()), [(3, 0), (3, 0)]);
        let (without, other) = (layout("a", 0, &[(1, 5), (2, 5)]), layout("a", 0, &[(3, 0), (3, 0)]));
        assert!(other.may_be_older_than(&without));
        assert_eq!(leaders(&other.following(&without).unwrap()), [(3, 0), (3, 0)]);
        let untold = layout("a", 1, &[(3, -1), (3, -1)]);
        assert!(!untold.may_be_older_than(&known));
    }

    #[test]
    fn another_cluster_is_none_of_ours() {
        let known = layout("a", 1, &[(1, 5)]);
        let error = layout("b", 1, &[(1, 5)]).following(&known).unwrap_err();
        assert!(matches!(&error, KafkaError::OtherCluster { before, now } if before == "a" && now == "b"));
        assert_eq!(
            (error.retry_class(), error.again().retry_class()),
            (RetryClass::Never, RetryClass::Never)
        );
        // Who has just started may not say.
        let silent = Layout { cluster_id: None, ..layout("b", 1, &[(1, 5)]) };
        let silent = silent.following(&known).unwrap();
        assert!(layout("b", 1, &[(1, 5)]).following(&silent).is_err());
    }
}

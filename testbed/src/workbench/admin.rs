//! Topics, replicas, consumer groups, quotas.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Workbench;

/// A topic as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id in Kafka's text form.
    pub id: String,
    /// Whether it is one of Kafka's own.
    pub internal: bool,
    /// Its partitions in order.
    pub partitions: Vec<Partition>,
    /// All its configs, those set on it and those in force by default.
    pub configs: Vec<ConfigEntry>,
}

impl Topic {
    /// The value of a config.
    pub fn config(&self, name: &str) -> Option<&str> {
        self.configs.iter().find(|c| c.name == name).and_then(|c| c.value.as_deref())
    }

    /// The configs that are set on the topic itself, sorted by name.
    pub fn own_configs(&self) -> Vec<(String, String)> {
        let own = self.configs.iter().filter(|c| c.source == "DYNAMIC_TOPIC_CONFIG");
        let mut own: Vec<_> = own.map(|c| (c.name.clone(), c.value.clone().unwrap_or_default())).collect();
        own.sort();
        own
    }
}

/// A partition as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Partition {
    /// Its number.
    pub partition: i32,
    /// The leader's broker id, -1 for none.
    pub leader: i32,
    /// The log start offset.
    pub start: i64,
    /// The high watermark: the end for read_uncommitted.
    pub end: i64,
    /// The last stable offset: the end for read_committed.
    pub stable_end: i64,
    /// The brokers that have it, the preferred leader first.
    pub replicas: Vec<i32>,
    /// The brokers in sync.
    pub isr: Vec<i32>,
}

/// A config of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; none when the cluster does not tell.
    pub value: Option<String>,
    /// Where the value comes from, such as `DYNAMIC_TOPIC_CONFIG` or `DEFAULT_CONFIG`.
    pub source: String,
}

/// A live broker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Broker {
    /// Its id.
    pub id: i32,
    /// Where it can be reached.
    pub host: String,
    /// Where it can be reached.
    pub port: u16,
}

/// The position of a consumer group in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// The text that goes with it.
    pub metadata: String,
}

impl GroupOffset {
    /// A position without text.
    pub fn new(topic: &str, partition: i32, offset: i64) -> Self {
        Self { topic: topic.to_owned(), partition, offset, metadata: String::new() }
    }
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// Bytes that a client fetches.
    Fetch,
    /// Bytes that a client produces.
    Produce,
    /// Percent of a thread's time that a client's requests take.
    Requests,
}

impl Workbench {
    /// Creates a topic with the cluster's default replication factor, and waits for its leaders.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        self.create(name, partitions, None, configs)
    }

    /// Creates a topic with so many replicas of each partition, and waits for its leaders.
    pub fn create_replicated(
        &self,
        name: &str,
        partitions: i32,
        rf: i16,
        configs: &[(&str, &str)],
    ) -> Result<()> {
        self.create(name, partitions, Some(rf), configs)
    }

    fn create(&self, name: &str, partitions: i32, rf: Option<i16>, configs: &[(&str, &str)]) -> Result<()> {
        let args = json!({ "name": name, "partitions": partitions, "rf": rf, "configs": object(configs) });
        self.order("create_topic", &args)
    }

    /// Deletes a topic and waits until it is gone.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.order("delete_topic", &json!({ "name": name }))
    }

    /// The names of all topics, Kafka's own left out, sorted.
    pub fn topics(&self) -> Result<Vec<String>> {
        self.call("topics", &json!({ "internal": false }))
    }

    /// Describes a topic.
    pub fn describe(&self, name: &str) -> Result<Topic> {
        self.call("describe", &json!({ "name": name }))
    }

    /// Sets configs of a topic, takes others back to their defaults, and waits until the brokers say so.
    pub fn alter_config(&self, name: &str, set: &[(&str, &str)], delete: &[&str]) -> Result<()> {
        self.order("alter_config", &json!({ "name": name, "set": object(set), "delete": delete }))
    }

    /// Grows a topic to `total` partitions.
    pub fn add_partitions(&self, name: &str, total: i32) -> Result<()> {
        self.order("add_partitions", &json!({ "name": name, "total": total }))
    }

    /// Moves the log start of a partition to `before`.
    pub fn delete_records(&self, name: &str, partition: i32, before: i64) -> Result<()> {
        self.order("delete_records", &json!({ "name": name, "partition": partition, "before": before }))
    }

    /// The live brokers.
    pub fn brokers(&self) -> Result<Vec<Broker>> {
        self.call("brokers", &json!({}))
    }

    /// Gives a partition these replicas, the first as the preferred leader, and waits until they have its data.
    pub fn reassign(&self, topic: &str, partition: i32, replicas: &[i32]) -> Result<()> {
        self.order("reassign", &json!({ "topic": topic, "partition": partition, "replicas": replicas }))
    }

    /// Makes a broker the leader of a partition, and a replica of it when it was none.
    pub fn move_leader(&self, topic: &str, partition: i32, to: i32) -> Result<()> {
        self.order("move_leader", &json!({ "topic": topic, "partition": partition, "to": to }))
    }

    /// Commits positions of a group without members.
    pub fn commit_offsets(&self, group: &str, offsets: &[GroupOffset]) -> Result<()> {
        self.order("commit_offsets", &json!({ "group": group, "offsets": offsets }))
    }

    /// The committed positions of a group, by topic and partition.
    pub fn group_offsets(&self, group: &str) -> Result<Vec<GroupOffset>> {
        self.call("group_offsets", &json!({ "group": group }))
    }

    /// The names of all groups, sorted.
    pub fn groups(&self) -> Result<Vec<String>> {
        self.call("groups", &json!({}))
    }

    /// A consumer joins a group and stays, by a protocol (`classic`, `consumer`); it has its partitions when this returns. With `commit` it
    /// commits what it has read.
    pub fn join(&self, group: &str, topic: &str, protocol: &str, commit: bool) -> Result<()> {
        let args = json!({ "group": group, "topic": topic, "protocol": protocol, "commit": commit });
        self.order("join", &args)
    }

    /// That consumer leaves.
    pub fn leave(&self, group: &str) -> Result<()> {
        self.order("leave", &json!({ "group": group }))
    }

    /// Deletes a group.
    pub fn delete_group(&self, group: &str) -> Result<()> {
        self.order("delete_group", &json!({ "group": group }))
    }

    /// Limits every client id to so many bytes a second (or percent) on each broker; none lifts the limit.
    pub fn set_quota(&self, quota: Quota, bytes_per_second: Option<u64>) -> Result<()> {
        let name = match quota {
            Quota::Fetch => "consumer_byte_rate",
            Quota::Produce => "producer_byte_rate",
            Quota::Requests => "request_percentage",
        };
        self.order("set_quota", &json!({ "quota": name, "bytes_per_second": bytes_per_second }))
    }

    /// Denies everybody `operations` on resources of `kind` (`TRANSACTIONAL_ID`, `CLUSTER`, `GROUP`, …) whose names begin with `prefix`.
    /// The cluster needs `authorizer.class.name` and `allow.everyone.if.no.acl.found`.
    pub fn deny(&self, kind: &str, prefix: &str, operations: &[&str]) -> Result<()> {
        let pattern = if kind == "CLUSTER" { "LITERAL" } else { "PREFIXED" };
        let args = json!({ "type": kind, "name": prefix, "pattern": pattern, "operations": operations });
        self.order("deny", &args)
    }
}

fn object(pairs: &[(&str, &str)]) -> Map<String, Value> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect()
}

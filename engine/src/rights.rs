//! Which rights a run needs, and which of them are missing: found out before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_io::kafka::rights::{Operation, TopicRights};
use bodley_io::kafka::topics::NewTopic;
use bodley_io::kafka::{Cluster, KafkaError};
use bodley_protocol::ErrorCode;

use crate::error::EngineError;

/// Names shown of one missing right.
const SHOWN: usize = 10;

/// What a restore is going to touch.
#[derive(Debug, Default)]
pub struct Touched {
    /// Target topics that are there.
    pub present: Vec<Arc<str>>,
    /// Target topics that are not.
    pub absent: Vec<Arc<str>>,
    /// Settings of topics that are there stay as they are, unless they are empty.
    pub settings_stay: bool,
    /// Groups whose offsets are committed, that of the restore's state among them.
    pub groups: BTreeSet<String>,
}

/// Missing rights by operation and kind of thing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing(BTreeMap<(Operation, &'static str), BTreeSet<String>>);

impl Missing {
    fn add(&mut self, operation: Operation, kind: &'static str, name: &str) {
        self.0.entry((operation, kind)).or_default().insert(name.to_owned());
    }

    /// Nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Topics on which an operation is missing.
    pub fn topics(&self, operation: Operation) -> BTreeSet<String> {
        self.0.get(&(operation, "topic")).cloned().unwrap_or_default()
    }

    /// As an error of a run that has written nothing.
    pub fn check(&self) -> Result<(), EngineError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(EngineError::Denied(format!("nothing was written: {self}")))
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("rights are missing: ")?;
        for (at, ((operation, kind), names)) in self.0.iter().enumerate() {
            let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
            let more = names.len() - shown.len();
            let s = if names.len() == 1 { "" } else { "s" };
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{operation:?} on {kind}{s} {}{more}", shown.join(", "))?;
        }
        f.write_str(" (grant them with kafka-acls.sh --add; docs/permissions.md lists what is needed)")
    }
}

/// Rights on these topics that a backup lacks.
pub async fn for_backup(cluster: &Cluster, topics: &[Arc<str>]) -> Result<Missing, KafkaError> {
    topics_that_are_there(cluster, topics, &[Operation::Read, Operation::DescribeConfigs]).await
}

/// Rights that a restore lacks.
pub async fn for_restore(cluster: &Cluster, touched: &Touched) -> Result<Missing, KafkaError> {
    let mut needed = vec![Operation::Read, Operation::Write, Operation::DescribeConfigs];
    if !touched.settings_stay {
        needed.push(Operation::AlterConfigs);
    }
    let mut missing = topics_that_are_there(cluster, &touched.present, &needed).await?;
    for topic in hidden(cluster, &touched.absent).await? {
        missing.add(Operation::Describe, "topic", &topic);
    }
    for (operation, topic) in cluster.denied_for_absent(&touched.absent).await? {
        missing.add(operation, "topic", &topic);
    }
    for topic in not_to_be_created(cluster, &touched.absent).await? {
        missing.add(Operation::Create, "topic", &topic);
    }
    let groups: Vec<String> = touched.groups.iter().cloned().collect();
    for (group, rights) in cluster.group_rights(&groups).await? {
        for operation in [Operation::Read, Operation::Describe] {
            if !rights.allow(operation) {
                missing.add(operation, "group", &group);
            }
        }
    }
    Ok(missing)
}

/// Tries to create topics without effect. What else speaks against them is for later, when they are as they are to be.
async fn not_to_be_created(cluster: &Cluster, topics: &[Arc<str>]) -> Result<Vec<Arc<str>>, KafkaError> {
    let trial = |name: &Arc<str>| NewTopic {
        name: Arc::clone(name),
        partitions: 1,
        replication_factor: 1,
        configs: BTreeMap::new(),
    };
    let trials: Vec<NewTopic> = topics.iter().map(trial).collect();
    let results = cluster.create_topics(&trials, true).await?;
    let named = topics.iter().zip(results).filter(|(_, result)| result.as_ref().is_err_and(is_create_denied));
    Ok(named.map(|(topic, _)| Arc::clone(topic)).collect())
}

/// Whether creation fails for want of the right Create.
pub fn is_create_denied(error: &KafkaError) -> bool {
    let denied = [ErrorCode::TOPIC_AUTHORIZATION_FAILED, ErrorCode::CLUSTER_AUTHORIZATION_FAILED];
    error.code().is_some_and(|code| denied.contains(&code))
}

/// Those of the topics of which we may not even know whether they are there.
pub async fn hidden(cluster: &Cluster, topics: &[Arc<str>]) -> Result<Vec<Arc<str>>, KafkaError> {
    let rights = cluster.topic_rights(topics).await?;
    let hidden = rights.into_iter().filter(|(_, rights)| *rights == TopicRights::Hidden);
    Ok(hidden.map(|(name, _)| name).collect())
}

/// Rights that a restore lacks on topics that turned out to get temporary settings.
pub async fn for_settings(cluster: &Cluster, topics: &[Arc<str>]) -> Result<Missing, KafkaError> {
    topics_that_are_there(cluster, topics, &[Operation::AlterConfigs]).await
}

async fn topics_that_are_there(
    cluster: &Cluster,
    topics: &[Arc<str>],
    needed: &[Operation],
) -> Result<Missing, KafkaError> {
    let mut missing = Missing::default();
    for (topic, rights) in cluster.topic_rights(topics).await? {
        match rights {
            TopicRights::Of(rights) => {
                for operation in needed.iter().filter(|operation| !rights.allow(**operation)) {
                    missing.add(*operation, "topic", &topic);
                }
            }
            TopicRights::Hidden => missing.add(Operation::Describe, "topic", &topic),
            // Deleted meanwhile: who works on it will say so.
            TopicRights::Absent => {}
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let mut missing = Missing::default();
        assert!(missing.check().is_ok());
        missing.add(Operation::Write, "topic", "orders");
        missing.add(Operation::Read, "group", "billing");
        (0..12).for_each(|n| missing.add(Operation::Read, "topic", &format!("t{n:02}")));
        let said = missing.check().unwrap_err().to_string();
        assert!(said.starts_with(
            "nothing was written: rights are missing: Read on group billing; Read on topics t00,"
        ));
        assert!(said.contains("t09 and 2 more; Write on topic orders ("), "{said}");
        assert_eq!(missing.topics(Operation::Write).len(), 1);
        assert!(missing.topics(Operation::Alter).is_empty());
    }
}

//! What a backup may not read is said at its start, and never taken for something that is gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use bodley_io::kafka::rights::Operation;
use bodley_io::kafka::{Cluster, Layout, Topic};
use bodley_protocol::{ErrorCode, NO_TOPIC_ID};

use super::plan::Plan;
use crate::error::{EngineError, Severity};
use crate::report::Issue;
use crate::rights;
use crate::select::Selection;
use crate::vault::state::State;

const HINT: &str = "grant it with kafka-acls.sh --add; docs/permissions.md lists what is needed";

/// A topic that was named and is not to be seen may be there all the same.
pub async fn check_names(
    cluster: &Cluster,
    layout: &Layout,
    selection: &Selection,
) -> Result<(), EngineError> {
    let unseen: Vec<Arc<str>> =
        selection.names().filter(|name| !layout.topics.contains_key(*name)).map(Arc::from).collect();
    let hidden = rights::hidden(cluster, &unseen).await?;
    match hidden.is_empty() {
        true => Ok(()),
        false => Err(EngineError::Denied(format!(
            "nothing was written: rights are missing: Describe on topic {} ({HINT})",
            hidden.join(", ")
        ))),
    }
}

/// Topics that may not be read are emptied of their partitions; the names of those whose settings may not be read are in the plan.
pub async fn check(
    cluster: &Cluster,
    state: &State,
    selection: &Selection,
    chosen: &mut Vec<Topic>,
    plan: &mut Plan,
) -> Result<(), EngineError> {
    let names: Vec<Arc<str>> = chosen.iter().map(|topic| Arc::clone(&topic.name)).collect();
    let missing = rights::for_backup(cluster, &names).await?;
    let unreadable = missing.topics(Operation::Read);
    for topic in chosen.iter_mut().filter(|topic| unreadable.contains(&*topic.name)) {
        topic.partitions.clear();
        plan.unread.insert(topic.name.to_string());
        plan.issues.push(denied(&topic.name, "can't be read: the right Read on it is missing"));
    }
    let closed = missing.topics(Operation::DescribeConfigs);
    for name in closed.difference(&unreadable) {
        plan.issues
            .push(denied(name, "keeps its settings to itself: the right DescribeConfigs on it is missing"));
    }
    for name in out_of_sight(cluster, state, selection, chosen).await? {
        plan.issues.push(denied(&name, "is not to be seen any more: the right Describe on it is missing"));
        let (id, error) = (NO_TOPIC_ID, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
        chosen.push(Topic { name, id, internal: false, partitions: Vec::new(), error });
    }
    plan.closed = closed;
    Ok(())
}

/// A right is missing.
pub const DENIED: &str = "denied";

fn denied(topic: &str, what: &str) -> Issue {
    let mut issue = Issue::new(DENIED, Severity::Failed, format!("topic {topic} {what}")).hint(HINT);
    issue.topic = Some(topic.to_owned());
    issue
}

/// Topics of the vault that seem gone and are only out of sight.
async fn out_of_sight(
    cluster: &Cluster,
    state: &State,
    selection: &Selection,
    chosen: &[Topic],
) -> Result<Vec<Arc<str>>, EngineError> {
    let seen: BTreeSet<&str> = chosen.iter().map(|topic| &*topic.name).collect();
    let gone = state.topics.values().filter(|old| {
        old.present && !seen.contains(old.name.as_str()) && selection.covers(&old.name, old.internal)
    });
    let gone: Vec<Arc<str>> = gone.map(|old| Arc::from(old.name.as_str())).collect();
    Ok(rights::hidden(cluster, &gone).await?)
}

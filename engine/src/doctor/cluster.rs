//! What the cluster speaks and what it allows us.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::kafka::rights::{Operation, Rights, TopicRights};
use bodley_io::kafka::{Cluster, KafkaError};
use bodley_protocol::messages::MetadataRequest;
use bodley_protocol::versions::{BrokerVersions, FETCH, FETCH_TOPIC_ID, METADATA_TOPIC_ID, PRODUCE};
use bodley_protocol::{ErrorCode, NO_TOPIC_ID};

use super::Check;
use crate::restore::GROUP_PREFIX;
use crate::rights;
use crate::select::Selection;
use crate::vault::now_ms;

/// Clocks further apart make trouble: AWS refuses tokens at five minutes.
const MAX_SKEW_MS: i64 = 60_000;
/// A coordinator is waited for so long.
const COORDINATOR_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// What a backup asks for, by name and number.
const TO_BACK_UP: [(&str, i16); 8] = [
    ("Fetch", 1),
    ("ListOffsets", 2),
    ("Metadata", 3),
    ("OffsetFetch", 9),
    ("FindCoordinator", 10),
    ("ListGroups", 16),
    ("OffsetForLeaderEpoch", 23),
    ("DescribeConfigs", 32),
];
/// What a restore asks for beside these.
const TO_RESTORE: [(&str, i16); 5] = [
    ("Produce", 0),
    ("OffsetCommit", 8),
    ("CreateTopics", 19),
    ("InitProducerId", 22),
    ("IncrementalAlterConfigs", 44),
];
/// Names shown of a kind.
const SHOWN: usize = 5;
const PERMISSIONS: &str = "docs/permissions.md lists what is needed";

/// Versions, then rights.
pub async fn examine(cluster: &Arc<Cluster>, checks: &mut Vec<Check>) {
    if let Err(error) = versions(cluster, checks).await {
        checks.push(Check::wrong("versions", "cluster", error.to_string()));
    }
    if let Err(error) = clock(cluster, checks).await {
        checks.push(Check::note("clock", "this machine", error.to_string()));
    }
    if let Err(error) = to_back_up(cluster, checks).await {
        checks.push(Check::wrong("rights", "to back up", error.to_string()).hint(PERMISSIONS));
    }
    if let Err(error) = to_restore(cluster, checks).await {
        checks.push(Check::wrong("rights", "to restore", error.to_string()).hint(PERMISSIONS));
    }
}

/// Times of group snapshots, age limits and signed tokens go by this machine's clock.
async fn clock(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), KafkaError> {
    let before = now_ms();
    let Some((theirs, took)) = cluster.controller_clock().await? else {
        checks.push(Check::note(
            "clock",
            "this machine",
            "the brokers don't tell their time, so it is not compared",
        ));
        return Ok(());
    };
    let off = theirs - before - took.as_millis() as i64 / 2;
    let what =
        format!("{} ms {} the controller's clock", off.abs(), if off > 0 { "behind" } else { "ahead of" });
    checks.push(match off.abs() > MAX_SKEW_MS {
        true => Check::wrong("clock", "this machine", what)
            .hint("set the clocks by NTP: certificates, signed tokens and --hold-retention go by them"),
        false => Check::ok("clock", "this machine", what),
    });
    Ok(())
}

async fn versions(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), KafkaError> {
    let spoken = cluster.spoken().await?;
    for (what, apis) in [("to back up", &TO_BACK_UP[..]), ("to restore", &TO_RESTORE[..])] {
        let missing: Vec<&str> =
            apis.iter().filter(|(_, key)| !spoken.has(*key)).map(|(name, _)| *name).collect();
        checks.push(match missing.is_empty() {
            true => Check::ok("versions", what, "every request that is needed is spoken"),
            false => {
                Check::wrong("versions", what, format!("the broker does not speak {}", missing.join(", ")))
                    .hint("this kind of cluster, or its tier, lacks what is needed")
            }
        });
    }
    let (fetch, produce) = (spoken.common(1, FETCH), spoken.common(0, PRODUCE));
    if let (Ok(fetch), Ok(produce)) = (fetch, produce) {
        let what = format!("Fetch v{fetch}, Produce v{produce}");
        checks.push(match fetch >= FETCH_TOPIC_ID {
            true => Check::ok("versions", "topic ids", what),
            false if has_ids(cluster, &spoken) => Check::note("versions", "topic ids", what)
                .hint("topics have ids, but are read and written by name in these versions: one that is deleted and created again while a run reads it can't always be told from the old one"),
            false => Check::note("versions", "topic ids", what)
                .hint("topics have no ids in these versions: one that is deleted and created again can't always be told from the old one"),
        });
    }
    Ok(())
}

/// Topics have ids: since Kafka 2.8, unless it runs with an older protocol between its brokers.
fn has_ids(cluster: &Cluster, spoken: &BrokerVersions) -> bool {
    let told = spoken.of::<MetadataRequest>(i16::MAX).is_ok_and(|version| version >= METADATA_TOPIC_ID);
    told && cluster.layout().topics.values().next().is_none_or(|topic| topic.id != NO_TOPIC_ID)
}

async fn to_back_up(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), KafkaError> {
    let layout = cluster.layout();
    let all = Selection::default();
    let chosen = layout.topics.values().filter(|topic| all.covers(&topic.name, topic.internal));
    let names: Vec<Arc<str>> = chosen.map(|topic| Arc::clone(&topic.name)).collect();
    let missing = rights::for_backup(cluster, &names).await?;
    for operation in [Operation::Read, Operation::DescribeConfigs] {
        let closed = missing.topics(operation);
        let shown: Vec<&str> = closed.iter().take(SHOWN).map(String::as_str).collect();
        let what = format!(
            "{operation:?} is allowed on {} of {} topics that are to be seen",
            names.len() - closed.len(),
            names.len()
        );
        checks.push(match closed.is_empty() {
            true => Check::ok("rights", "to back up", what),
            false => {
                let more = if closed.len() > shown.len() { ", …" } else { "" };
                Check::wrong("rights", "to back up", format!("{what}; missing on {}{more}", shown.join(", ")))
                    .hint(PERMISSIONS)
            }
        });
    }
    let (groups, errors) = cluster.list_groups().await;
    if let Some(error) = errors.first() {
        checks.push(
            Check::wrong("rights", "to back up", format!("consumer groups: {error}")).hint(PERMISSIONS),
        );
    }
    let cluster = cluster.cluster_rights().await?;
    let what = format!("{} consumer groups and {} topics are to be seen", groups.len(), layout.topics.len());
    checks.push(match cluster.allow(Operation::Describe) {
        true => Check::ok("rights", "to back up", what),
        false => Check::note("rights", "to back up", what)
            .hint("without Describe on the cluster only groups are seen that this user may describe; topics always need Describe each: what is not seen is not backed up"),
    });
    Ok(())
}

async fn to_restore(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), KafkaError> {
    let on_cluster = cluster.cluster_rights().await?;
    if !on_cluster.are_told() {
        checks.push(Check::note(
            "rights",
            "to restore",
            "the broker does not tell what is allowed: a restore finds out when it begins",
        ));
    }
    checks.push(match (on_cluster.allow(Operation::Create), on_cluster.allow(Operation::Describe)) {
        (true, _) => Check::ok("rights", "to restore", "topics of any name may be created"),
        (false, true) => {
            Check::note("rights", "to restore", "only topics may be created whose names ACLs allow")
                .hint(PERMISSIONS)
        }
        (false, false) => {
            let what = "which topics may be created is not told to users who may not describe the cluster";
            Check::note("rights", "to restore", what).hint("a restore finds out before it writes")
        }
    });
    into_topics(cluster, checks).await?;
    for_state(cluster, checks).await
}

/// What may be done to the topics that are there.
async fn into_topics(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), KafkaError> {
    let layout = cluster.layout();
    let names: Vec<Arc<str>> = layout.topics.keys().filter(|name| !name.starts_with("__")).cloned().collect();
    let rights = cluster.topic_rights(&names).await?;
    let allow = |operation| {
        rights
            .values()
            .filter(|rights| matches!(rights, TopicRights::Of(rights) if rights.allow(operation)))
            .count()
    };
    let what = format!(
        "of {} topics that are there Write is allowed on {}, AlterConfigs on {}",
        names.len(),
        allow(Operation::Write),
        allow(Operation::AlterConfigs)
    );
    let full =
        [Operation::Write, Operation::AlterConfigs].iter().all(|operation| allow(*operation) == names.len());
    checks.push(match full {
        true => Check::ok("rights", "to restore", what),
        false => Check::note("rights", "to restore", what).hint("enough for a restore into these, or into new ones; a restore names what is missing before it writes"),
    });
    Ok(())
}

/// Whether a restore can keep its state at the target, and go on the strong way.
async fn for_state(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), KafkaError> {
    let group = format!("{GROUP_PREFIX}doctor");
    let found: Vec<Rights> =
        cluster.group_rights(std::slice::from_ref(&group)).await?.into_values().collect();
    let kept = found.iter().all(|rights| rights.allow(Operation::Read) && rights.allow(Operation::Describe));
    checks.push(match kept {
        true => Check::ok("rights", "to restore", format!("state can be kept in groups {GROUP_PREFIX}*")),
        false => {
            Check::note("rights", "to restore", format!("state can't be kept in groups {GROUP_PREFIX}*"))
                .hint("allow Read and Describe on groups with this prefix, or use --state FILE")
        }
    });
    let ids = format!("transactional ids {GROUP_PREFIX}*");
    const WEAKER: &str = "a restore that is cut goes on by weaker means, see docs/durability.md";
    checks.push(match may_fence(cluster, &group).await? {
        Some(true) => Check::ok("rights", "to restore", format!("{ids} are allowed")),
        Some(false) => Check::note("rights", "to restore", format!("{ids} are not allowed")).hint(WEAKER),
        None => Check::note("rights", "to restore", format!("no broker looks after {ids}")).hint(WEAKER),
    });
    Ok(())
}

/// A cluster that has never had transactional ids makes room for them when it is first asked, which takes a moment. `None`: it does not come to that.
async fn may_fence(cluster: &Cluster, id: &str) -> Result<Option<bool>, KafkaError> {
    let began = Instant::now();
    loop {
        match cluster.may_fence(id).await {
            Err(error) if error.code() == Some(ErrorCode::COORDINATOR_NOT_AVAILABLE) => {
                if began.elapsed() > COORDINATOR_WITHIN {
                    return Ok(None);
                }
                tokio::time::sleep(POLL).await;
            }
            result => return result.map(Some),
        }
    }
}

//! Topics at the target: creates them, and waits until all brokers have them and their settings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::kafka::topics::NewTopic;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_protocol::{ErrorCode, RetryClass};

use super::RestoreOptions;
use super::plan::{self, Plan, Status, TopicPlan};
use super::settings::{Mark, Overrides, Settings};
use super::tray::MERGED_LEN;
use crate::error::EngineError;
use crate::report::known_time;
use crate::rights::is_create_denied;
use crate::vault::now_ms;
use crate::vault::rows::Range;

/// Settings that don't show are set again so often.
const SET_AGAIN: Duration = Duration::from_secs(3);
/// Brokers that show the real settings so long after the restore are late.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// The first error, if there is one.
pub fn check(errors: Vec<KafkaError>) -> Result<(), KafkaError> {
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Creates missing topics and waits until all have leaders.
pub async fn create(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    options: &RestoreOptions,
) -> Result<(), EngineError> {
    let topics = plan::new_topics(plan, options);
    if let Some(error) = refused(cluster, &topics).await? {
        // A late request of an earlier run, or another run.
        if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) {
            let what =
                format!("a topic has appeared at the target meanwhile ({error}): run the same command again");
            return Err(KafkaError::NoRoute(what).into());
        }
        if is_create_denied(&error) {
            return Err(EngineError::Denied(format!(
                "nothing was written: rights are missing: Create on topics (or on the cluster): {error}; docs/permissions.md lists what is needed"
            )));
        }
        return Err(match error.retry_class() {
            RetryClass::Never => EngineError::Refused(format!("nothing was written: {error}")),
            _ => error.into(),
        });
    }
    for result in cluster.create_topics(&topics, false).await? {
        result?;
    }
    let (start, patience) = (Instant::now(), cluster.options().give_up_after);
    loop {
        let seen = cluster.layout();
        let refreshed = if topics.is_empty() { Ok(Arc::clone(&seen)) } else { cluster.refresh(&seen).await };
        let layout = match refreshed {
            Ok(layout) => layout,
            Err(error) if error.retry_class() == RetryClass::Never || start.elapsed() > patience => {
                return Err(error.into());
            }
            Err(_) => seen,
        };
        let missing = plan.topics.iter().find(|topic| {
            let has_leaders = |partition: u32| {
                let tp = TopicPartition::new(&topic.target, partition as i32);
                layout.partition(&tp).is_some_and(|partition| partition.leader.is_some())
            };
            !(0..topic.needs).all(has_leaders)
        });
        match missing {
            None => break,
            Some(topic) if start.elapsed() > patience => {
                let what = format!("topic {} was created but has partitions without leaders", topic.target);
                return Err(KafkaError::NoRoute(what).into());
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    check_names(cluster, plan, options).await
}

/// What speaks against making these topics. With ZooKeeper a topic that is being deleted leaves the metadata before its name is free: that is
/// waited for.
async fn refused(cluster: &Arc<Cluster>, topics: &[NewTopic]) -> Result<Option<KafkaError>, KafkaError> {
    let mut backoff = cluster.backoff();
    loop {
        let results = cluster.create_topics(topics, true).await?;
        let error = results.into_iter().find_map(Result::err);
        if error.as_ref().and_then(KafkaError::code) != Some(ErrorCode::TOPIC_ALREADY_EXISTS) {
            return Ok(error);
        }
        let layout = cluster.refresh(&cluster.layout()).await?;
        let is_there = topics.iter().any(|topic| layout.topics.contains_key(&topic.name));
        if is_there || !backoff.wait().await {
            return Ok(error);
        }
    }
}

/// Makes created and empty topics keep their records for `hold`: topic by topic, what the real settings are.
pub async fn hold(cluster: &Arc<Cluster>, plan: &mut Plan, hold: Duration) -> Result<(), EngineError> {
    let Some(any) = plan.topics.first().map(|topic| Arc::clone(&topic.target)) else { return Ok(()) };
    let inherited = cluster.inherited_configs(&any).await?;
    let open = |topic: &&mut TopicPlan| !matches!(topic.status, Status::Done | Status::InUse);
    for topic in plan.topics.iter_mut().filter(open) {
        let oldest =
            topic.partitions.iter().flat_map(|p| &p.work.chunks).filter_map(|chunk| oldest(chunk)).min();
        let age = oldest.map_or(0, |oldest| (now_ms() - oldest).max(0));
        let keep = age.saturating_add(hold.as_millis() as i64);
        if let Some(back) = topic.settings.hold_retention(keep, &inherited) {
            plan.notes.push(format!(
                "topic {} keeps its records for {} h from now; to have the real retention back: kafka-configs.sh --bootstrap-server HOST:PORT --entity-type topics --entity-name {} --alter {back}",
                topic.target,
                hold.as_secs() / 3600,
                topic.target,
            ));
        }
    }
    Ok(())
}

/// Lets runs of small batches be merged, up to what each topic takes. Where that can't be found out, batches stay as they are.
pub async fn allow_merging(cluster: &Arc<Cluster>, plan: &mut Plan) -> Result<(), EngineError> {
    let Some(any) = plan.open_topics().next().map(|topic| Arc::clone(&topic.target)) else { return Ok(()) };
    let inherited = match cluster.inherited_configs(&any).await {
        Err(error) if error.retry_class() == RetryClass::Never => {
            plan.notes
                .push(format!("small batches are not merged: how large one may be is not known ({error})"));
            return Ok(());
        }
        inherited => inherited?,
    };
    for topic in &mut plan.topics {
        let largest = topic.settings.largest_batch(&inherited);
        for partition in &mut topic.partitions {
            partition.work.merge_up_to = largest.map(|largest| largest.min(MERGED_LEN));
        }
    }
    Ok(())
}

/// How long a topic must keep its records, ms, so that none expires within `hold` from `now`.
pub fn keeps(topic: &TopicPlan, hold: Duration, now: i64) -> i64 {
    let chunks = topic.partitions.iter().flat_map(|p| &p.work.chunks);
    let age = chunks.filter_map(|chunk| oldest(chunk)).min().map_or(0, |oldest| (now - oldest).max(0));
    age.saturating_add(hold.as_millis() as i64)
}

/// The least time that a chunk's headers tell. Retention goes by the newest record of a segment, which is not older.
fn oldest(range: &Range) -> Option<i64> {
    let known = [range.min_ts, range.base_ts, range.max_ts];
    known.into_iter().filter_map(known_time).min()
}

/// Where the target had no topic to ask for the names of settings, it has one now.
async fn check_names(
    cluster: &Arc<Cluster>,
    plan: &mut Plan,
    options: &RestoreOptions,
) -> Result<(), EngineError> {
    let unchecked = plan.topics.iter().find(|topic| !topic.settings.is_checked());
    let Some(any) = unchecked.map(|topic| Arc::clone(&topic.target)) else { return Ok(()) };
    let described = cluster.describe_configs(&[any]).await?;
    let known: BTreeSet<String> = described.into_values().flat_map(|configs| configs.into_keys()).collect();
    Overrides::parse(&options.topic_config)?.check_names(Some(&known)).map_err(|error| {
        EngineError::State(format!(
            "{error} (topics were made, nothing was restored: delete them, and name it right)"
        ))
    })?;
    for topic in &mut plan.topics {
        topic.settings.restrict(Some(&known), &topic.target, &mut plan.notes);
    }
    Ok(())
}

/// Waits a moment for brokers to show the real settings again, so that who looks after the restore sees them. They have been accepted: who is late
/// will still take them over.
pub async fn settle_back(cluster: &Arc<Cluster>, plan: &Plan) {
    let Some(last) = last_marked(plan) else { return };
    let show = async {
        for broker in cluster.layout().brokers.keys() {
            while let Ok(configs) = cluster.describe_topic_at(*broker, &last.target).await
                && Mark::of(&configs) == Mark::Temporary
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    if tokio::time::timeout(SHOWN_WITHIN, show).await.is_err() {
        tracing::info!("not all brokers show the settings of topic {} yet", last.target);
    }
}

/// The topic whose settings are the last to change. A target that does not know the setting that we look for can't be asked.
fn last_marked(plan: &Plan) -> Option<&TopicPlan> {
    plan.topics.iter().rfind(|topic| topic.status != Status::Done && topic.settings.has_mark())
}

/// Waits until every broker shows the temporary settings: a leader that still has the real ones would refuse or change records. They are
/// set again where they don't show: a request of an earlier run that came late may have taken them back.
pub async fn settle(cluster: &Arc<Cluster>, plan: &Plan) -> Result<(), EngineError> {
    let Some(last) = last_marked(plan) else { return Ok(()) };
    let (start, patience) = (Instant::now(), cluster.options().give_up_after);
    let mut set = start;
    for broker in cluster.layout().brokers.keys() {
        loop {
            let seen = cluster.layout();
            let configs = match cluster.describe_topic_at(*broker, &last.target).await {
                Ok(configs) => configs,
                Err(error) if start.elapsed() > patience => return Err(error.into()),
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    // Who has left the cluster leads nothing.
                    let layout = cluster.refresh(&seen).await;
                    if layout.is_ok_and(|layout| !layout.brokers.contains_key(broker)) {
                        break;
                    }
                    continue;
                }
            };
            if Mark::of(&configs) == Mark::Temporary {
                break;
            }
            if set.elapsed() > SET_AGAIN {
                check(cluster.alter_configs(&plan.changes(Settings::begin), false).await)?;
                set = Instant::now();
            }
            if start.elapsed() > patience {
                let what =
                    format!("broker {broker} does not take over the settings of topic {}", last.target);
                return Err(KafkaError::NoRoute(what).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

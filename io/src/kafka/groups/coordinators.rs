//! Who keeps the offsets of many groups, and what is asked of all of them until each has its answer.

use std::collections::{BTreeMap, BTreeSet};

use bodley_protocol::messages::FindCoordinatorRequest;
use bodley_protocol::{RetryClass, StrBytes};

use super::GROUP_KEY;
use crate::kafka::cluster::{Cluster, To};
use crate::kafka::error::KafkaError;

/// First FindCoordinator version that takes several keys.
const MANY_KEYS: i16 = 4;
/// Keys of one request.
const KEYS_PER_REQUEST: usize = 500;

/// What came of each group.
pub type ByGroup<T> = BTreeMap<String, Result<T, KafkaError>>;

/// What came of some groups in one round.
pub(super) type Round<T> = Vec<(String, Result<T, KafkaError>)>;

/// Groups by the broker that keeps them.
pub(super) type ByCoordinator = BTreeMap<i32, Vec<String>>;

impl Cluster {
    /// Asks something of many groups, each at its coordinator. Those whom a passing error kept from an answer are asked again, until none of
    /// them gets on for too long; the error of one is no matter to the others.
    pub(super) async fn at_coordinators<T>(
        &self,
        groups: BTreeSet<String>,
        api: &'static str,
        ask: impl AsyncFn(ByCoordinator) -> Round<T>,
    ) -> ByGroup<T> {
        let (mut open, mut done) = (groups, ByGroup::new());
        let mut backoff = self.backoff();
        loop {
            let (layout, before) = (self.layout(), open.len());
            let mut passing: BTreeMap<String, KafkaError> = BTreeMap::new();
            let mut by_coordinator = ByCoordinator::new();
            let mut round = Round::new();
            for (group, found) in self.coordinators_once(&open).await {
                match found {
                    Ok(broker) => by_coordinator.entry(broker).or_default().push(group),
                    Err(error) => round.push((group, Err(error))),
                }
            }
            if !by_coordinator.is_empty() {
                round.extend(ask(by_coordinator).await);
            }
            for (group, result) in round {
                match result {
                    Err(error) if error.retry_class() != RetryClass::Never => {
                        passing.insert(group, error);
                    }
                    result if open.remove(&group) => {
                        done.insert(group, result);
                    }
                    _ => {} // was not asked for
                }
            }
            if open.is_empty() {
                return done;
            }
            if open.len() < before {
                backoff.progress();
            }
            if !backoff.wait().await {
                done.extend(open.into_iter().map(|group| {
                    let last = passing.remove(&group).unwrap_or_else(|| KafkaError::left_out(api, &group));
                    let (after, last) = (self.options().give_up_after, Box::new(last));
                    (group, Err(KafkaError::GaveUp { after, last }))
                }));
                return done;
            }
            let _ = self.refresh(&layout).await;
        }
    }

    /// The broker that keeps each group's offsets.
    pub(in crate::kafka) async fn coordinators(&self, groups: &[String]) -> ByGroup<i32> {
        let groups = groups.iter().cloned().collect();
        self.at_coordinators(groups, "FindCoordinator", async |by_coordinator| {
            let found = by_coordinator.into_iter();
            found
                .flat_map(|(broker, groups)| groups.into_iter().map(move |group| (group, Ok(broker))))
                .collect()
        })
        .await
    }

    /// The coordinator of each group, asked once.
    async fn coordinators_once(&self, groups: &BTreeSet<String>) -> Round<i32> {
        let groups: Vec<&String> = groups.iter().collect();
        let mut found = Round::new();
        for some in groups.chunks(KEYS_PER_REQUEST) {
            match self.coordinators_of_some(some).await {
                Ok(Some(of_some)) => found.extend(of_some),
                Ok(None) => {
                    for group in some {
                        found.push(((*group).clone(), self.coordinator_once(group, GROUP_KEY).await));
                    }
                }
                // The way to all of them.
                Err(error) => found.extend(some.iter().map(|group| ((*group).clone(), Err(error.again())))),
            }
        }
        found
    }

    /// `None` where only one can be asked for at a time.
    async fn coordinators_of_some(&self, groups: &[&String]) -> Result<Option<Round<i32>>, KafkaError> {
        let keys = groups.iter().map(|group| StrBytes::from_string((*group).clone())).collect();
        let request = FindCoordinatorRequest::default().with_key_type(GROUP_KEY).with_coordinator_keys(keys);
        let response = self
            .with_connection(To::Any, async |connection| {
                let version = connection.version::<FindCoordinatorRequest>(i16::MAX)?;
                if version < MANY_KEYS {
                    return Ok(None);
                }
                connection.call_version(version, &request).await.map(Some)
            })
            .await?;
        Ok(response.map(|response| {
            let found = response.coordinators.into_iter().map(|of| {
                let group = of.key.to_string();
                let checked = KafkaError::check("FindCoordinator", || group.clone(), of.error_code);
                (group, checked.map(|()| of.node_id.0))
            });
            found.collect()
        }))
    }
}

//! Groups with live members: their offsets are their own.

use std::collections::BTreeSet;
use std::sync::Arc;

use bodley_protocol::messages::{DescribeGroupsRequest, GroupId};
use bodley_protocol::{ErrorCode, StrBytes};

use super::Listed;
use super::coordinators::{ByCoordinator, ByGroup, Round};
use crate::kafka::cluster::Cluster;
use crate::kafka::error::KafkaError;

/// Groups of one DescribeGroups, whose answer tells all members.
const GROUPS_PER_REQUEST: usize = 50;
/// Last DescribeGroups version that answers for a group that does not exist without an error.
const WITHOUT_NOT_FOUND: i16 = 5;

/// States of a group that has no members.
fn is_live(state: &str) -> bool {
    !matches!(state, "Empty" | "Dead")
}

impl Listed {
    /// It has members; `None` where the broker does not tell.
    pub fn is_live(&self) -> Option<bool> {
        Some(self.state.as_str()).filter(|state| !state.is_empty()).map(is_live)
    }
}

impl Cluster {
    /// Which of some groups have live members, of whatever kind they are. One that can't be seen has none as far as we know: whoever commits for it
    /// finds out.
    pub async fn live_groups(
        self: &Arc<Self>,
        groups: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, KafkaError> {
        let (listed, errors) = self.list_groups().await;
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        let mut live = BTreeSet::new();
        let mut untold = BTreeSet::new();
        for listed in listed.iter().filter(|listed| groups.contains(&listed.group)) {
            match listed.is_live() {
                Some(true) => live.insert(listed.group.clone()),
                Some(false) => false,
                None => untold.insert(listed.group.clone()),
            };
        }
        if !untold.is_empty() {
            for (group, has_members) in self.described_as_live(untold).await {
                if has_members? {
                    live.insert(group);
                }
            }
        }
        Ok(live)
    }

    async fn described_as_live(self: &Arc<Self>, groups: BTreeSet<String>) -> ByGroup<bool> {
        self.at_coordinators(groups, "DescribeGroups", async |by_coordinator| {
            self.describe_round(by_coordinator).await
        })
        .await
    }

    async fn describe_round(self: &Arc<Self>, by_coordinator: ByCoordinator) -> Round<bool> {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for (broker, groups) in by_coordinator {
            for some in groups.chunks(GROUPS_PER_REQUEST) {
                let ids = some.iter().map(|group| GroupId(StrBytes::from_string(group.clone()))).collect();
                requests.push((broker, DescribeGroupsRequest::default().with_groups(ids)));
                asked.push(some.to_vec());
            }
        }
        let mut round = Round::new();
        self.call_many(WITHOUT_NOT_FOUND, requests, |number, response| {
            let Some(groups) = asked.get(number) else { return };
            match response {
                Ok(response) => round.extend(response.groups.into_iter().map(|described| {
                    let group = described.group_id.to_string();
                    let code = described.error_code;
                    let missing = ErrorCode(code) == ErrorCode::GROUP_ID_NOT_FOUND;
                    let checked = match missing {
                        true => Ok(()),
                        false => KafkaError::check("DescribeGroups", || group.clone(), code),
                    };
                    (group, checked.map(|()| !missing && is_live(&described.group_state)))
                })),
                Err(error) => {
                    round.extend(groups.iter().map(|group| (group.clone(), Err(error.again()))));
                }
            }
        })
        .await;
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let listed = |state: &str| Listed {
            group: "g".into(),
            protocol_type: "consumer".into(),
            kind: String::new(),
            state: state.into(),
        };
        for state in ["Stable", "PreparingRebalance", "Assigning", "Reconciling", "new"] {
            assert_eq!(listed(state).is_live(), Some(true), "{state}");
        }
        assert_eq!((listed("Empty").is_live(), listed("Dead").is_live()), (Some(false), Some(false)));
        assert_eq!(listed("").is_live(), None);
    }
}

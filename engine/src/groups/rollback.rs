//! Putting back what a reset has replaced.

use std::sync::Arc;

use bodley_io::kafka::Cluster;

use super::apply::Plan;
use super::settle::check_rights;
use super::{Saved, some_of};
use crate::error::{EngineError, Severity};
use crate::report::Issue;

/// What a rollback does. Another cluster's file is refused.
pub async fn plan_rollback(cluster: &Arc<Cluster>, saved: &Saved) -> Result<Plan, EngineError> {
    let layout = cluster.layout();
    let here = layout.cluster_id.clone().unwrap_or_default();
    if here != saved.cluster_id {
        return Err(EngineError::Refused(format!(
            "the file is of cluster {}, this is {here}: positions of one cluster mean nothing at another",
            saved.cluster_id
        )));
    }
    check_rights(cluster, &saved.positions().map(|(_, tp, _)| tp).collect()).await?;
    let (mut wanted, mut gone) = (Vec::new(), Vec::new());
    for (group, tp, position) in saved.positions() {
        match layout.partition(&tp) {
            Some(_) if saved.knows(&layout, &tp.topic) => wanted.push((group.to_owned(), tp, position)),
            _ => gone.push(tp),
        }
    }
    gone.sort();
    gone.dedup();
    let mut plan = Plan::of(cluster, wanted).await?;
    if !gone.is_empty() {
        let message =
            format!("{}: not there any more, or made anew; positions in it are not put back", some_of(gone));
        plan.errors.push(Issue::new("topic_deleted", Severity::Missing, message));
    }
    Ok(plan)
}

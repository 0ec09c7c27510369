//! How old a vault is: when the last commit was made, and up to when it has everything. Without any Kafka.

use std::time::Duration;

use bodley_io::store::SharedStore;
use futures_util::StreamExt;
use serde::Serialize;

use crate::error::{EngineError, Severity};
use crate::moment::span;
use crate::report::{Issue, Report};
use crate::vault::commit::Commit;
use crate::vault::log::Vault;
use crate::vault::now_ms;
use crate::vault::reading::AHEAD;

/// Commits that are looked at for one that says up to when the vault has everything.
const MOST_COMMITS: u64 = 200;
/// So far clocks may be apart.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// What is still good.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// The last commit is not older.
    pub max_age: Option<Duration>,
    /// Whatever was stable at the source so long ago is in the vault.
    pub max_lag: Option<Duration>,
}

/// A vault's age. Times are ms since 1970 by the clock of whoever wrote the commit, ages by our own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The newest commit.
    pub seq: u64,
    /// When it was made.
    pub committed: i64,
    /// How long ago, ms.
    pub age_ms: i64,
    /// Whatever was stable then, in the topics of the run that says so, is in the vault or recorded as lost; `None`: the last commits don't say.
    pub complete: Option<i64>,
    /// How long ago, ms.
    pub lag_ms: Option<i64>,
    /// Program and version that made the newest commit.
    pub tool: String,
    /// Id of the source cluster.
    pub cluster_id: String,
}

/// Looks at the newest commits. What is older than the limits allow is an error of the report, and exit 1.
pub async fn status(store: SharedStore, limits: Limits) -> Result<Report, EngineError> {
    let vault = Vault::open(store).await?;
    let now = now_ms();
    let head = vault.receipt().seq;
    let mut status = Status {
        seq: head,
        committed: vault.head_time(),
        age_ms: now.saturating_sub(vault.head_time()).max(0),
        complete: None,
        lag_ms: None,
        tool: String::new(),
        cluster_id: vault.identity().cluster_id.clone(),
    };
    let (newest, _) = vault.read_commit(head).await?;
    status.tool = newest.tool;
    status.complete = match newest.complete {
        None => last_complete(&vault, head).await?,
        complete => complete,
    };
    status.lag_ms = status.complete.map(|complete| now.saturating_sub(complete).max(0));
    let errors = complaints(&status, limits, now);
    let notes = if errors.is_empty() { ahead(&status, now).into_iter().collect() } else { Vec::new() };
    let receipt = vault.receipt_text();
    Ok(Report { receipt, errors, notes, status: Some(status), ..Report::default() })
}

/// What the newest commit before `head` says that says so: some are read at a time.
async fn last_complete(vault: &Vault, head: u64) -> Result<Option<i64>, EngineError> {
    let mut behind = head;
    let last = head.saturating_sub(MOST_COMMITS - 1).max(1);
    while behind > last {
        let first = behind.saturating_sub(AHEAD as u64).max(last);
        let read: Vec<_> = vault.read_commits(first..=behind - 1).collect().await;
        for read in read.into_iter().rev() {
            if let (Commit { complete: Some(complete), .. }, _) = read? {
                return Ok(Some(complete));
            }
        }
        behind = first;
    }
    Ok(None)
}

/// What is to be said of a commit of a time to come.
fn ahead(status: &Status, now: i64) -> Option<String> {
    let newest = status.complete.map_or(status.committed, |complete| complete.max(status.committed));
    let ahead = newest.saturating_sub(now);
    (ahead > CLOCKS_DIFFER.as_millis() as i64).then(|| {
        format!(
            "the last commit is dated {} from now: how old it is can't be said, and a backup that has ended would not be noticed",
            span(ahead)
        )
    })
}

fn complaints(status: &Status, limits: Limits, now: i64) -> Vec<Issue> {
    let mut errors = Vec::new();
    // A probe restarts what runs: that does not mend a clock. Who watches the lag is told.
    if let Some(what) = ahead(status, now).filter(|_| limits.max_lag.is_some()) {
        let hint = "compare this machine's clock with that of the machine that backs up; after a clock was put back, this ends when the time has come";
        errors.push(Issue::new("clock", Severity::Failed, what).hint(hint));
    }
    let over = |ms: i64, limit: Duration| u128::try_from(ms).is_ok_and(|ms| ms > limit.as_millis());
    if let Some(limit) = limits.max_age.filter(|limit| over(status.age_ms, *limit)) {
        let (age, limit) = (span(status.age_ms), span(limit.as_millis() as i64));
        let what = format!("the last commit was made {age} ago, more than {limit}");
        errors.push(
            Issue::new("stale", Severity::Failed, what)
                .hint("is the backup still running, and what does its log say?"),
        );
    }
    if let Some(limit) = limits.max_lag {
        let limit_text = span(limit.as_millis() as i64);
        match status.lag_ms {
            None => {
                let what = "up to when the vault has everything is not said by its last commits: no run has come to its end, or none with all partitions";
                errors.push(Issue::new("lagging", Severity::Failed, what));
            }
            Some(lag) if over(lag, limit) => {
                let what =
                    format!("the vault has everything up to {} ago, more than {limit_text}", span(lag));
                let hint = "a partition can't be read, or the backup is slower than what is written: its log and report say which";
                errors.push(Issue::new("lagging", Severity::Failed, what).hint(hint));
            }
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_inclusive_and_independent() {
        let status = |age_ms, lag_ms| Status {
            seq: 1,
            committed: 0,
            age_ms,
            complete: None,
            lag_ms,
            tool: String::new(),
            cluster_id: String::new(),
        };
        let limits =
            Limits { max_age: Some(Duration::from_secs(60)), max_lag: Some(Duration::from_secs(10)) };
        let codes = |status: &Status, limits| -> Vec<String> {
            complaints(status, limits, 1_000).into_iter().map(|issue| issue.code).collect()
        };
        assert!(codes(&status(60_000, Some(10_000)), limits).is_empty());
        assert_eq!(codes(&status(60_001, Some(10_000)), limits), ["stale"]);
        assert_eq!(codes(&status(0, Some(10_001)), limits), ["lagging"]);
        assert_eq!(codes(&status(61_000, None), limits), ["stale", "lagging"]);
        assert!(codes(&status(i64::MAX, None), Limits::default()).is_empty());
        let early = |committed, complete| Status { committed, complete, ..status(0, Some(0)) };
        assert!(codes(&early(61_000, Some(61_000)), limits).is_empty());
        assert_eq!(codes(&early(61_001, None), limits), ["clock"]);
        assert_eq!(codes(&early(0, Some(i64::MAX)), limits), ["clock"]);
        for limits in [Limits::default(), Limits { max_lag: None, ..limits }] {
            assert!(codes(&early(i64::MAX, None), limits).is_empty());
        }
    }
}

//! What the store's locks keep from being deleted.

use std::collections::BTreeSet;
use std::sync::Arc;

use bodley_io::store::Stat;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use tokio::sync::watch;

use crate::error::EngineError;
use crate::moment::Moment;
use crate::report::counted;
use crate::vault::commit::commit_path;
use crate::vault::log::Vault;
use crate::vault::now_ms;
use crate::vault::reading::AHEAD;

/// How objects are locked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LockCount {
    /// Objects that nobody may delete now.
    pub locked: u64,
    /// Those that have no lock, or one that has run out.
    pub unlocked: u64,
    /// Of these, those that have one that has run out.
    pub expired: u64,
    /// How they are locked, as the store calls it.
    pub modes: BTreeSet<String>,
    /// When the first of the locks runs out, ms.
    pub until: Option<i64>,
}

impl LockCount {
    /// Counts an object, at the time `now`, ms.
    pub fn count(&mut self, stat: &Stat, now: i64) {
        let Some(lock) = stat.lock.as_ref().filter(|lock| lock.until > now) else {
            self.unlocked += 1;
            self.expired += u64::from(stat.lock.is_some());
            return;
        };
        self.locked += 1;
        self.modes.insert(lock.mode.clone());
        self.until = Some(self.until.map_or(lock.until, |until| until.min(lock.until)));
    }

    /// One of the objects has a lock, be it one that has run out.
    pub fn has_any(&self) -> bool {
        self.locked + self.expired > 0
    }

    fn in_words(&self, noun: &str) -> String {
        let all = counted((self.locked + self.unlocked) as usize, noun);
        let expired = match self.expired {
            0 => String::new(),
            count => format!(", of {count} the lock has run out"),
        };
        let Some(until) = self.until else { return format!("none of {all} is locked{expired}") };
        let modes: Vec<&str> = self.modes.iter().map(String::as_str).collect();
        let are = if self.locked == 1 { "is" } else { "are" };
        format!(
            "{} of {all} {are} locked ({}), the first until {}; {} not{expired}",
            self.locked,
            modes.join(", "),
            Moment::At(until),
            self.unlocked
        )
    }
}

/// How a vault's objects are locked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Locks {
    /// Segments.
    pub data: LockCount,
    /// Commits.
    pub log: LockCount,
}

impl Locks {
    /// In words.
    pub fn in_words(&self) -> String {
        format!("locks: {}; {}", self.data.in_words("segment"), self.log.in_words("commit"))
    }
}

/// How the commits up to the head are locked; `None`: `stop` came first.
pub async fn of_log(
    vault: &Vault,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<LockCount>, EngineError> {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Ok(None),
        counted = count_log(vault) => counted.map(Some),
    }
}

async fn count_log(vault: &Vault) -> Result<LockCount, EngineError> {
    let (mut locks, now) = (LockCount::default(), now_ms());
    let store = Arc::clone(vault.store());
    let paths = (1..=vault.receipt().seq).map(commit_path);
    let stats = stream::iter(paths).map(async |path| store.stat(&path).await);
    let mut stats = std::pin::pin!(stats.buffered(AHEAD));
    while let Some(stat) = stats.next().await {
        stat?.iter().for_each(|stat| locks.count(stat, now));
    }
    Ok(locks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_io::store::Lock;

    #[test]
    fn a_lock_that_has_run_out_is_none() {
        let mut locks = LockCount::default();
        for until in [5, 10, 2_000_000_000_000, 2_100_000_000_000] {
            let lock = Some(Lock { mode: "COMPLIANCE".into(), until });
            locks.count(&Stat { lock, ..Stat::of_size(1) }, 10);
        }
        locks.count(&Stat::of_size(1), 10);
        assert_eq!(
            locks.in_words("segment"),
            "2 of 5 segments are locked (COMPLIANCE), the first until 2033-05-18T03:33:20Z; 3 not, of 2 the lock has run out"
        );
        assert_eq!(
            LockCount { unlocked: 2, ..LockCount::default() }.in_words("commit"),
            "none of 2 commits is locked"
        );
        assert_eq!(
            LockCount { unlocked: 2, expired: 1, ..LockCount::default() }.in_words("commit"),
            "none of 2 commits is locked, of 1 the lock has run out"
        );
    }
}

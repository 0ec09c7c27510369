//! What stands at the target: nothing, or the beginning of the same log. Anything else is refused before anything is written.

use std::sync::Arc;

use bodley_io::store::{Put, SharedStore};

use super::courier::{Side, Trouble};
use crate::error::EngineError;
use crate::report::{Copied, Report};
use crate::vault::commit::{MAX_COMMIT, commit_path};
use crate::vault::log::Vault;
use crate::vault::{Receipt, VaultError, identity, sha256_hex};

/// How the target stands to the source.
pub(super) enum Standing {
    /// Nothing is there.
    Empty,
    /// A vault.json, the same.
    Named,
    /// The same log up to this commit.
    Prefix(Receipt),
}

impl Standing {
    /// The newest commit there.
    pub fn receipt(&self) -> Option<&Receipt> {
        match self {
            Self::Prefix(receipt) => Some(receipt),
            Self::Empty | Self::Named => None,
        }
    }

    /// Its number; 0: none.
    pub fn seq(&self) -> u64 {
        self.receipt().map_or(0, |receipt| receipt.seq)
    }

    /// Nothing is there.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Makes a vault of an empty place, and has the store prove that it gives a name once only. What a killed run left visible, and not yet durable,
    /// is made durable by the same put.
    pub async fn make_ready(
        &self,
        from: &Vault,
        target: &SharedStore,
        report: &mut Report,
    ) -> Result<(), EngineError> {
        let Some(receipt) = self.receipt() else { return self.name(from, target, report).await };
        let path = commit_path(receipt.seq);
        let bytes = target.get(&path, MAX_COMMIT).await?;
        Ok(identity::prove(target, &path, bytes).await?)
    }

    async fn name(&self, from: &Vault, target: &SharedStore, report: &mut Report) -> Result<(), EngineError> {
        let bytes = identity::bytes(from.store()).await?;
        if sha256_hex(&bytes) != from.identity_sha256() {
            return Err(VaultError::damaged(identity::PATH, "it has changed".into()).into());
        }
        let mut made = false;
        if self.is_empty() {
            made = target.put_if_absent(identity::PATH, bytes.clone()).await? == Put::Created;
            if !made && identity::bytes(target).await? != bytes {
                return Err(refused(target, "another vault has been made there meanwhile"));
            }
        }
        if let Some(Copied { objects, bytes: count, .. }) = report.copied.as_mut().filter(|_| made) {
            (*objects, *count) = (*objects + 1, *count + bytes.len() as u64);
        }
        let proven = identity::prove(target, identity::PATH, bytes).await;
        if made && matches!(proven, Err(VaultError::Overwrites { .. })) {
            let _ = target.delete(identity::PATH).await;
        }
        Ok(proven?)
    }
}

fn refused(target: &SharedStore, what: &str) -> EngineError {
    EngineError::Refused(format!("the target {} is refused: {what}", target.url()))
}

/// Looks at the target. `Ok(Err(…))`: damage, because of which nothing can be said of it.
pub(super) async fn look(
    from: &Vault,
    target: &SharedStore,
) -> Result<Result<Standing, Trouble>, EngineError> {
    let Some(theirs) = open(target).await? else { return Ok(Ok(Standing::Empty)) };
    let (ours, other) = (from.identity(), theirs.identity());
    if ours.vault_id != other.vault_id {
        let what =
            format!("it holds another vault, of cluster {} and with id {}", other.cluster_id, other.vault_id);
        return Err(refused(target, &what));
    }
    if theirs.identity_sha256() != from.identity_sha256() {
        return Err(refused(target, "its vault.json has the source's vault id and differs all the same"));
    }
    compare(from, &theirs, target).await
}

/// The vault at the target; `None`: nothing is there.
async fn open(target: &SharedStore) -> Result<Option<Vault>, EngineError> {
    match Vault::open_damaged(Arc::clone(target)).await {
        Ok(theirs) => return Ok(Some(theirs)),
        Err(VaultError::Absent { .. }) => {}
        Err(
            error @ (VaultError::Foreign { .. } | VaultError::Damaged { .. } | VaultError::Unsupported(_)),
        ) => return Err(refused(target, &error.to_string())),
        Err(error) => return Err(error.into()),
    }
    for folder in ["log/", "index/", "data/", "checkpoint/", "keys/"] {
        if target.list(folder, "").await?.is_empty() {
            continue;
        }
        // Another copy may have begun between the two looks.
        if target.size(identity::PATH).await?.is_some() {
            return Ok(Some(Vault::open_damaged(Arc::clone(target)).await?));
        }
        let what = format!("it has objects under {folder} and no vault.json; name an empty place");
        return Err(refused(target, &what));
    }
    Ok(None)
}

/// Whether the target's log is the beginning of the source's: as each commit names the digest of the one before it, the newest tells of all.
async fn compare(
    from: &Vault,
    theirs: &Vault,
    target: &SharedStore,
) -> Result<Result<Standing, Trouble>, EngineError> {
    let (ours, other) = (from.receipt(), theirs.receipt());
    if other.seq == 0 {
        return Ok(Ok(Standing::Named));
    }
    if other.seq <= ours.seq && other.digest.is_empty() {
        let what = "it can't be read, so this log can't be compared with the source's".into();
        return Ok(Err(Trouble::new(Side::Target, commit_path(other.seq), what)));
    }
    let shared = ours.seq.min(other.seq);
    let source = match from.read_commit(shared).await {
        Ok((_, digest)) => digest,
        Err(VaultError::Damaged { object, what }) => {
            return Ok(match other.seq < ours.seq && follows(from, other).await? {
                true => Ok(Standing::Prefix(other.clone())),
                false => Err(Trouble::new(Side::Source, object, what)),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let found = match other.seq == shared {
        true => Some(other.digest.clone()),
        false => match theirs.read_commit(shared).await {
            Ok((_, digest)) => Some(digest),
            // It is ahead, whatever lies before.
            Err(VaultError::Damaged { .. }) => None,
            Err(error) => return Err(error.into()),
        },
    };
    if found.is_some_and(|found| found != source) {
        let first = first_difference(from, theirs, shared).await;
        let what = format!(
            "its log is no beginning of the source's: from commit {first} on they differ, so something else was written into one of them"
        );
        return Err(refused(target, &what));
    }
    if other.seq > ours.seq {
        let what = format!(
            "it is ahead of the source: its log goes on to commit {}, the source's ends at commit {}",
            other.seq, ours.seq
        );
        return Err(refused(target, &what));
    }
    Ok(Ok(Standing::Prefix(other.clone())))
}

/// Whether the source's next commit follows the target's newest one: where the source's own of that number is damaged, this tells as much.
async fn follows(from: &Vault, other: &Receipt) -> Result<bool, EngineError> {
    match from.read_commit(other.seq.saturating_add(1)).await {
        Ok((next, _)) => Ok(next.prev.as_ref() == Some(&other.digest)),
        Err(VaultError::Damaged { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Where two logs part that differ at commit `last`: once apart they stay apart.
async fn first_difference(from: &Vault, theirs: &Vault, last: u64) -> u64 {
    let (mut same, mut differs) = (0, last);
    while differs - same > 1 {
        let middle = same + (differs - same) / 2;
        match (from.read_commit(middle).await, theirs.read_commit(middle).await) {
            (Ok((_, ours)), Ok((_, other))) if ours == other => same = middle,
            (Ok(_), Ok(_)) => differs = middle,
            // Where one can't be read the answer is less exact, and right.
            _ => break,
        }
    }
    differs
}

//! What `verify` does about checkpoints, which it does not use: holds them against its own fold of the log.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use futures_util::stream::StreamExt;

use super::VaultError;
use super::checkpoint::Checkpoint;
use super::commit::{Commit, TableRef};
use super::log::Vault;
use super::pages::{Heads, History};
use super::reading::open_table;
use super::rows::Rows;
use super::state::State;

/// The checkpoints of a vault, and what the log says that must be in them.
#[derive(Debug, Default)]
pub struct Audit {
    checkpoints: Vec<Candidate>,
    /// Of all that history pages must hold by now.
    sum: u64,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Candidate {
    path: String,
    checkpoint: Checkpoint,
    /// What the log says: digest of the commit, of the state, and the sum of all rows.
    log: Option<(String, String, u64)>,
}

/// Rows of different commits come in pages in another order: their sum is the same.
fn sum(seq: u64, row: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seq, row).hash(&mut hasher);
    hasher.finish()
}

impl Audit {
    /// Reads the checkpoint objects of a vault.
    pub async fn begin(vault: &Vault) -> Self {
        let mut audit = Self::default();
        for path in vault.checkpoints.up_to(vault.receipt().seq) {
            match vault.read_checkpoint(&path).await {
                Ok((checkpoint, _)) => {
                    audit.checkpoints.push(Candidate { path, checkpoint, log: None });
                }
                Err(error) => audit.notes.push(format!("{path} is no use: {error}")),
            }
        }
        audit
    }

    /// Paths of the pages, which are no orphans.
    pub fn pages(&self) -> impl Iterator<Item = String> {
        self.checkpoints.iter().flat_map(|candidate| candidate.checkpoint.tables()).map(TableRef::path)
    }

    /// Counts a commit's segments in; its tables follow.
    pub fn add_commit(&mut self, commit: &Commit) {
        for segment in &commit.segments {
            self.sum = self.sum.wrapping_add(sum(commit.seq, segment));
        }
    }

    /// Counts the rows of a table of commit `seq` in.
    pub fn add_rows(&mut self, seq: u64, rows: &Rows) {
        if self.checkpoints.is_empty() {
            return;
        }
        let ranges = rows.ranges.iter().map(|row| sum(seq, row));
        let all = ranges.chain(rows.aborted.iter().map(|row| sum(seq, row)));
        self.sum = all.fold(self.sum, u64::wrapping_add);
    }

    /// The log has been added up to commit `seq`, and nothing of it is missing.
    pub fn reached(&mut self, seq: u64, digest: &str, state: &State) -> Result<(), VaultError> {
        let sum = self.sum;
        for candidate in self.checkpoints.iter_mut().filter(|candidate| candidate.checkpoint.seq == seq) {
            candidate.log = Some((digest.to_owned(), state.heads().digest()?, sum));
        }
        Ok(())
    }

    /// Reads the pages of all checkpoints and says what is wrong with them.
    pub async fn finish(mut self, vault: &Vault) -> Vec<String> {
        let mut seen = HashMap::new();
        for Candidate { path, checkpoint, log } in &self.checkpoints {
            // Where the log is damaged nothing can be said.
            let Some(log) = log else { continue };
            if let Err(error) = check(vault, checkpoint, log, &mut seen).await {
                self.notes.push(format!("{path} is no use: {error}"));
            }
        }
        self.notes
    }
}

/// By SHA-256, the sums of history pages that were read, so that each is read once.
type Seen = HashMap<String, u64>;

async fn check(
    vault: &Vault,
    checkpoint: &Checkpoint,
    (digest, state, expected): &(String, String, u64),
    seen: &mut Seen,
) -> Result<(), VaultError> {
    let wrong = |what: &str| VaultError::damaged("the checkpoint", what.to_owned());
    if checkpoint.digest != *digest {
        return Err(wrong("its commit is another"));
    }
    if checkpoint.state != *state {
        return Err(wrong("its state is not that of the log"));
    }
    let object = checkpoint.heads.path();
    let bytes = vault.read_object(&checkpoint.heads).await?;
    let (heads, _) = Heads::decode(&open_table(&object, &checkpoint.heads, &bytes)?)?;
    if heads.digest()? != *state {
        return Err(wrong("its heads page is not the state of the log"));
    }
    let known: HashSet<String> = seen.keys().cloned().collect();
    let new = checkpoint.pages.iter().filter(|page| !known.contains(&page.sha256));
    let new: Vec<TableRef> = new.cloned().collect();
    let mut read = std::pin::pin!(vault.read_objects(&new));
    for page in &new {
        let Some(bytes) = read.next().await else { break };
        let (object, bytes) = (page.path(), bytes?);
        let history = History::decode(&open_table(&object, page, &bytes)?)?;
        let segments = history.segments.iter().map(|(seq, row)| sum(*seq, row));
        let ranges = history.ranges.iter().map(|(seq, row)| sum(*seq, row));
        let aborted = history.aborted.iter().map(|(seq, row)| sum(*seq, row));
        let all = segments.chain(ranges).chain(aborted);
        seen.insert(page.sha256.clone(), all.fold(0, u64::wrapping_add));
    }
    let sums = checkpoint.pages.iter().filter_map(|page| seen.get(&page.sha256).copied());
    match sums.fold(0, u64::wrapping_add) == *expected {
        true => Ok(()),
        false => Err(wrong("its history pages hold other rows than the log")),
    }
}

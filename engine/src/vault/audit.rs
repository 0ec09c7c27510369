//! What `verify` does about checkpoints, which it does not use: holds them against its own fold of the log.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};

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
    /// Paths of the pages of all checkpoints, also of those that are no use.
    pages: HashSet<String>,
    /// The newest sound one of a commit that the log does not reach, and that commit.
    beyond: Option<(String, u64)>,
    sums: Sums,
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

/// Rows of different commits come in pages in another order: their sum is the same. The key is of this run, so that nobody can look for other rows of that sum.
#[derive(Debug, Default)]
struct Sums(RandomState);

impl Sums {
    fn of(&self, seq: u64, row: &impl Hash) -> u64 {
        self.0.hash_one((seq, row))
    }

    fn of_page(&self, page: &History) -> u64 {
        let segments = page.segments.iter().map(|(seq, row)| self.of(*seq, row));
        let ranges = page.ranges.iter().map(|(seq, row)| self.of(*seq, row));
        let aborted = page.aborted.iter().map(|(seq, row)| self.of(*seq, row));
        segments.chain(ranges).chain(aborted).fold(0, u64::wrapping_add)
    }
}

impl Audit {
    /// Reads the checkpoint objects of a vault. What is wrong with them is noted; errors are those of the store.
    pub async fn begin(vault: &Vault) -> Result<Self, VaultError> {
        let mut audit = Self::default();
        for path in vault.checkpoints.up_to(u64::MAX) {
            match Checkpoint::read(&vault.store, &path).await {
                Ok((checkpoint, _)) => audit.add_checkpoint(vault, path, checkpoint),
                Err(error) => audit.note(&path, error)?,
            }
        }
        Ok(audit)
    }

    fn add_checkpoint(&mut self, vault: &Vault, path: String, checkpoint: Checkpoint) {
        self.pages.extend(checkpoint.tables().map(TableRef::path));
        if let Err(error) = checkpoint.check_identity(&path, &vault.identity_sha256) {
            self.notes.push(no_use(&path, &error));
        } else if checkpoint.seq <= vault.receipt().seq {
            self.checkpoints.push(Candidate { path, checkpoint, log: None });
        } else if self.beyond.is_none() {
            self.beyond = Some((path, checkpoint.seq));
        }
    }

    /// The checkpoint, and its commit, that proves that the log's end was cut off: it was listed before the end of the log was looked for, so its commit was
    /// there.
    pub fn beyond_log(&self) -> Option<&(String, u64)> {
        self.beyond.as_ref()
    }

    /// Something wrong with a checkpoint is a note; anything else ends the run.
    fn note(&mut self, path: &str, error: VaultError) -> Result<(), VaultError> {
        match error {
            VaultError::Damaged { .. } | VaultError::Unsupported(_) => self.notes.push(no_use(path, &error)),
            error => return Err(error),
        }
        Ok(())
    }

    /// Paths of the pages of all checkpoints, which are no orphans.
    pub fn pages(&self) -> impl Iterator<Item = String> {
        self.pages.iter().cloned()
    }

    /// Counts a commit's segments in; its tables follow.
    pub fn add_commit(&mut self, commit: &Commit) {
        for segment in &commit.segments {
            self.sum = self.sum.wrapping_add(self.sums.of(commit.seq, segment));
        }
    }

    /// Counts the rows of a table of commit `seq` in.
    pub fn add_rows(&mut self, seq: u64, rows: &Rows) {
        if self.checkpoints.is_empty() {
            return;
        }
        let ranges = rows.ranges.iter().map(|row| self.sums.of(seq, row));
        let all = ranges.chain(rows.aborted.iter().map(|row| self.sums.of(seq, row)));
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

    /// Reads the pages of all checkpoints and says what is wrong with them; errors are those of the store.
    pub async fn finish(mut self, vault: &Vault) -> Result<Vec<String>, VaultError> {
        let mut seen = Seen { sums: std::mem::take(&mut self.sums), pages: HashMap::new() };
        for Candidate { path, checkpoint, log } in std::mem::take(&mut self.checkpoints) {
            // Where the log is damaged nothing can be said.
            let Some(log) = log else { continue };
            if let Err(error) = check(vault, &checkpoint, &log, &mut seen).await {
                self.note(&path, error)?;
            }
        }
        Ok(self.notes)
    }
}

fn no_use(path: &str, error: &VaultError) -> String {
    format!("{path} is no use: {error}")
}

/// What history pages came to, so that each is read once.
struct Seen {
    sums: Sums,
    /// By SHA-256.
    pages: HashMap<String, u64>,
}

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
    let new = checkpoint.pages.iter().filter(|page| !seen.pages.contains_key(&page.sha256));
    let new: Vec<TableRef> = new.cloned().collect();
    let mut read = std::pin::pin!(vault.read_objects(&new));
    for page in &new {
        let Some(bytes) = read.next().await else { break };
        let (object, bytes) = (page.path(), bytes?);
        let history = History::decode(&open_table(&object, page, &bytes)?)?;
        seen.pages.insert(page.sha256.clone(), seen.sums.of_page(&history));
    }
    let sums = checkpoint.pages.iter().filter_map(|page| seen.pages.get(&page.sha256).copied());
    match sums.fold(0, u64::wrapping_add) == *expected {
        true => Ok(()),
        false => Err(wrong("its history pages hold other rows than the log")),
    }
}

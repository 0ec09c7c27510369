//! Checkpoints: a cache of the fold up to a commit, so that opening a vault costs the same however old it is. See docs/format.md, "Checkpoints".
//!
//! The log stays the authority. A checkpoint with anything wrong is passed over with a warning, for an older one or for the whole log.

use std::collections::HashSet;

use bodley_io::store::{SharedStore, list_all};
use futures_util::stream::StreamExt;
use serde::{Deserialize, Serialize};

use super::VaultError;
use super::commit::{LAST_SEQ, TableRef, commit_path, is_ulid, seal, unseal};
use super::log::Vault;
use super::pages::{Heads, History};
use super::reading::{Features, Start, missing, open_table};
use super::state::State;
use super::table::Table;

/// Largest checkpoint object that is read, bytes.
pub(crate) const MAX_CHECKPOINT: u64 = 64 << 20;
/// A writer makes a checkpoint when so many commits have none.
const EVERY: u64 = 1000;
pub(crate) const FOLDER: &str = "checkpoint/";

/// Line 1 of a checkpoint object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The commit that it reaches.
    pub seq: u64,
    /// Digest of that commit.
    pub digest: String,
    /// Digest of the state, see [`Heads::digest`].
    pub state: String,
    /// What a fold without ranges comes to.
    pub heads: TableRef,
    /// The rest of what commits added, oldest first.
    pub pages: Vec<TableRef>,
    /// Features in force.
    pub read_features: Vec<String>,
    /// Features in force.
    pub write_features: Vec<String>,
    /// SHA-256 of vault.json, as commit 1 has it.
    pub vault_sha256: String,
    /// Program and version, advisory.
    #[serde(default)]
    pub tool: String,
}

impl Checkpoint {
    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, VaultError> {
        Ok(seal(self)?.0)
    }

    /// Reads the object at `path`. Also tells whether this version knows all that is in it.
    pub fn decode(path: &str, bytes: &[u8]) -> Result<(Self, bool), VaultError> {
        let (line, digest) = unseal(path, bytes)?;
        let checkpoint: Self =
            serde_json::from_slice(line).map_err(|e| VaultError::damaged(path, e.to_string()))?;
        if seq_of_path(path) != Some(checkpoint.seq) {
            return Err(VaultError::damaged(path, format!("it is of commit {}", checkpoint.seq)));
        }
        if !checkpoint.tables().all(|table| is_ulid(&table.id)) {
            return Err(VaultError::damaged(path, "a page has no ULID".into()));
        }
        let understood = seal(&checkpoint)?.1 == digest;
        Ok((checkpoint, understood))
    }

    /// Reads the object at `path` of `store`, see [`Checkpoint::decode`]. One that is gone or too large is damaged.
    pub(super) async fn read(store: &SharedStore, path: &str) -> Result<(Self, bool), VaultError> {
        let bytes = store.get(path, MAX_CHECKPOINT).await.map_err(|error| missing(path, error))?;
        Self::decode(path, &bytes)
    }

    /// Whether it is of the vault whose vault.json has this SHA-256.
    pub(super) fn check_identity(&self, path: &str, identity_sha256: &str) -> Result<(), VaultError> {
        match self.vault_sha256 == identity_sha256 {
            true => Ok(()),
            false => Err(VaultError::damaged(path, "it is of another vault.json".into())),
        }
    }

    /// All pages.
    pub fn tables(&self) -> impl Iterator<Item = &TableRef> {
        std::iter::once(&self.heads).chain(&self.pages)
    }
}

/// A new name for a checkpoint of commit `seq`.
pub fn new_path(seq: u64) -> String {
    format!("{FOLDER}{seq:020}-{}.json", ulid::Ulid::generate())
}

/// The commit of the checkpoint at `path`; `None` when it is no checkpoint's path.
pub fn seq_of_path(path: &str) -> Option<u64> {
    let (seq, id) = path.strip_prefix(FOLDER)?.strip_suffix(".json")?.split_once('-')?;
    let digits = seq.len() == 20 && seq.bytes().all(|byte| byte.is_ascii_digit());
    seq.parse().ok().filter(|seq| digits && (1..=LAST_SEQ).contains(seq) && is_ulid(id))
}

/// The checkpoints of an open vault.
#[derive(Debug)]
pub struct Checkpoints {
    /// Their paths, which sort by commit.
    paths: Vec<String>,
    /// Those that do not go with the log, whatever they say.
    distrusted: HashSet<String>,
    /// The newest one that was found sound, or one that could not be made: the next is due so many commits later.
    pub(super) newest: u64,
    pub(super) every: u64,
    warnings: Vec<String>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        let (paths, distrusted, warnings) = Default::default();
        Self { paths, distrusted, newest: 0, every: EVERY, warnings }
    }
}

impl Checkpoints {
    /// Looks which there are. A place that can't be listed has none.
    pub(super) async fn list(&mut self, store: &SharedStore) {
        match list_all(&**store, FOLDER).await {
            Ok(listed) => self.paths = listed.into_iter().map(|object| object.path).collect(),
            Err(error) => self.warn(format!("checkpoints can't be listed: {error}")),
        }
        self.paths.retain(|path| seq_of_path(path).is_some() && !self.distrusted.contains(path));
        self.paths.sort_unstable();
        self.paths.dedup();
    }

    /// The newest one's commit that is in the log; 0: none.
    pub(super) async fn newest_in_log(&mut self, store: &SharedStore) -> Result<u64, VaultError> {
        for path in self.up_to(u64::MAX) {
            let seq = seq_of_path(&path).unwrap_or(0);
            if store.size(&commit_path(seq)).await?.is_some() {
                return Ok(seq);
            }
            self.warn(format!(
                "{path} is passed over: commit {seq} is not in the log, whose end may be cut off"
            ));
        }
        Ok(0)
    }

    /// Paths of those up to commit `seq`, the newest first.
    pub(super) fn up_to(&self, seq: u64) -> Vec<String> {
        let known = |path: &&String| seq_of_path(path).is_some_and(|of| of <= seq);
        self.paths.iter().rev().filter(known).cloned().collect()
    }

    /// Never again goes on from the one at `path`: the next one is due at once.
    pub(super) fn distrust(&mut self, path: String) {
        self.paths.retain(|known| *known != path);
        self.distrusted.insert(path);
        self.newest = 0;
    }

    pub(super) fn add(&mut self, path: String) {
        self.paths.push(path);
        self.paths.sort_unstable();
    }

    pub(super) fn warn(&mut self, what: String) {
        if !self.warnings.contains(&what) {
            tracing::warn!("{what}");
            self.warnings.push(what);
        }
    }
}

/// Paths of the pages of all checkpoints of a store that can be read.
pub async fn page_paths(store: &SharedStore) -> HashSet<String> {
    let mut checkpoints = Checkpoints::default();
    checkpoints.list(store).await;
    let mut pages = HashSet::new();
    for path in &checkpoints.paths {
        let Ok((checkpoint, _)) = Checkpoint::read(store, path).await else { continue };
        pages.extend(checkpoint.tables().map(TableRef::path));
    }
    pages
}

/// Ids of history pages that could not be read or used: checkpoints take pages over from one another.
pub(super) type BadPages = HashSet<String>;

impl Vault {
    /// A checkpoint is made when so many commits have none, at least 1.
    pub fn checkpoint_every(&mut self, commits: u64) {
        self.checkpoints.every = commits.max(1);
    }

    /// What was wrong with checkpoints since the last call: nothing is lost with them but time.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.checkpoints.warnings)
    }

    /// The newest sound checkpoint that does not reach beyond the head, and its path; or the beginning.
    pub(super) async fn start(&mut self, blank: &State) -> (Option<String>, Start) {
        let mut bad = BadPages::default();
        for path in self.checkpoints.up_to(self.head.receipt.seq) {
            match self.load(&path, blank, &mut bad).await {
                Ok((_, start)) => {
                    self.checkpoints.newest = start.seq;
                    return (Some(path), start);
                }
                Err(error) => self.checkpoints.warn(format!("{path} is passed over: {error}")),
            }
        }
        self.checkpoints.newest = 0;
        (None, Start { state: blank.blank(), ..Start::default() })
    }

    /// The fold up to the commit of the checkpoint at `path`, with the checkpoint when this version knows all that is in it and its heads page.
    /// Without ranges its history pages are not read.
    pub(super) async fn load(
        &self,
        path: &str,
        blank: &State,
        bad: &mut BadPages,
    ) -> Result<(Option<Checkpoint>, Start), VaultError> {
        let (checkpoint, mut understood) = Checkpoint::read(&self.store, path).await?;
        checkpoint.check_identity(path, &self.identity_sha256)?;
        if let Some(page) = checkpoint.pages.iter().find(|page| bad.contains(&page.id)) {
            return Err(VaultError::damaged(path, format!("it names {} as well", page.path())));
        }
        let head = &self.head.receipt;
        let digest = match checkpoint.seq == head.seq && !head.digest.is_empty() {
            true => head.digest.clone(),
            false => self.read_commit(checkpoint.seq).await?.1,
        };
        if digest != checkpoint.digest {
            return Err(VaultError::damaged(path, "its commit is another".into()));
        }
        let (read, write) = (checkpoint.read_features.clone(), checkpoint.write_features.clone());
        let features = Features { read, write };
        // The log says that as well, and is the one to stop a reader.
        features.check_reading()?;
        let mut state = blank.blank();
        if state.keeps_ranges() {
            let add = |page: &Table<'_>| {
                History::decode(page)?.add_to(&mut state);
                Ok(())
            };
            self.each_page(&checkpoint, bad, add).await?;
        }
        let (table, object) = (&checkpoint.heads, checkpoint.heads.path());
        let bytes = self.read_object(table).await?;
        let (heads, known) = Heads::decode(&open_table(&object, table, &bytes)?)?;
        understood &= known;
        state.add_heads(heads);
        state.check()?;
        if state.heads().digest()? != checkpoint.state {
            return Err(VaultError::damaged(path, "its pages add up to another state".into()));
        }
        let start = Start { seq: checkpoint.seq, state, digest: Some(digest), features };
        Ok((understood.then_some(checkpoint), start))
    }

    /// Reads the history pages one after another; one that can't be used is noted in `bad`.
    pub(super) async fn each_page(
        &self,
        checkpoint: &Checkpoint,
        bad: &mut BadPages,
        mut use_page: impl FnMut(&Table<'_>) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let mut read = std::pin::pin!(self.read_objects(&checkpoint.pages));
        for page in &checkpoint.pages {
            let Some(bytes) = read.next().await else { break };
            let object = page.path();
            let used = bytes.and_then(|bytes| use_page(&open_table(&object, page, &bytes)?));
            if used.is_err() {
                bad.insert(page.id.clone());
                return used;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let path = new_path(1000);
        assert_eq!(path.len(), "checkpoint/".len() + 20 + 1 + 26 + ".json".len());
        assert_eq!(seq_of_path(&path), Some(1000));
        for bad in [
            "checkpoint/x".to_owned(),
            path.replace("checkpoint/0", "checkpoint/"),
            path.replace("checkpoint/0", "checkpoint/+"),
            new_path(0),
            new_path(u64::MAX),
            format!("{path}.tmp"),
        ] {
            assert_eq!(seq_of_path(&bad), None, "{bad}");
        }
    }
}

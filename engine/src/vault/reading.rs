//! Reading the log: commits and their tables, some ahead, in order; and their fold, from the newest checkpoint on.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bodley_io::store::StoreError;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};

use super::commit::{Commit, MAX_COMMIT, Op, TableRef, commit_path};
use super::log::Vault;
use super::pages::segment_key;
use super::rows::Rows;
use super::state::State;
use super::table::Table;
use super::{VaultError, identity, sha256_hex};

/// Largest table that is read, bytes.
pub(crate) const MAX_TABLE: u64 = 1 << 30;
/// Objects that are read at a time, of a store that answers after a while.
pub(crate) const AHEAD: usize = 32;
/// Bytes of tables that are read and kept at a time, unless those of one commit are more.
const AHEAD_BYTES: u64 = 32 << 20;

/// A commit as it was found, and its tables, not yet decoded.
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// The commit and its digest.
    pub commit: Result<(Commit, String), VaultError>,
    /// As the commit lists them; none where it can't be read.
    pub tables: Vec<Result<Bytes, VaultError>>,
}

/// Reads commits and their tables, some ahead, and gives them in order.
pub struct LogReader<'a> {
    vault: &'a Vault,
    /// The first commit that has not been read; `None` behind the largest number there is.
    next: Option<u64>,
    last: u64,
    /// Read, without their tables.
    commits: VecDeque<(u64, Read)>,
    ready: VecDeque<Entry>,
}

type Read = Result<(Commit, String), VaultError>;

fn tables_of(commit: &Read) -> &[TableRef] {
    commit.as_ref().map_or(&[], |(commit, _)| &commit.tables)
}

impl<'a> LogReader<'a> {
    /// Of the commits `seqs`.
    pub fn new(vault: &'a Vault, seqs: RangeInclusive<u64>) -> Self {
        let (next, last) = seqs.into_inner();
        Self { vault, next: Some(next), last, commits: VecDeque::new(), ready: VecDeque::new() }
    }

    /// The next commit; `None` behind the last one.
    pub async fn next(&mut self) -> Option<Entry> {
        if self.ready.is_empty() {
            self.fill().await;
        }
        self.ready.pop_front()
    }

    /// Goes on behind commit `seq`, which is not before the one that came last.
    pub fn skip_to(&mut self, seq: u64) {
        self.ready.retain(|entry| entry.seq > seq);
        self.commits.retain(|(of, _)| *of > seq);
        self.next = self.next.and_then(|next| Some(next.max(seq.checked_add(1)?)));
    }

    async fn fill(&mut self) {
        if self.commits.is_empty() {
            let commits = self.order_commits().await;
            self.commits.extend(commits);
        }
        let mut batch = Vec::new();
        let mut bytes = 0u64;
        while let Some((seq, commit)) = self.commits.pop_front() {
            bytes = tables_of(&commit).iter().fold(bytes, |sum, table| sum.saturating_add(table.bytes));
            if bytes > AHEAD_BYTES && !batch.is_empty() {
                self.commits.push_front((seq, commit));
                break;
            }
            batch.push((seq, commit));
        }
        let tables: Vec<TableRef> = batch.iter().flat_map(|(_, commit)| tables_of(commit)).cloned().collect();
        let read = self.vault.read_objects(&tables).collect::<VecDeque<_>>();
        // The commits behind them come at the same time.
        let (mut tables, commits) = match self.commits.is_empty() {
            true => tokio::join!(read, self.order_commits()),
            false => (read.await, Vec::new()),
        };
        self.commits.extend(commits);
        for (seq, commit) in batch {
            let own = tables_of(&commit).len().min(tables.len());
            let tables = tables.drain(..own).collect();
            self.ready.push_back(Entry { seq, commit, tables });
        }
    }

    /// Reads the next commits.
    fn order_commits(&mut self) -> impl Future<Output = Vec<(u64, Read)>> + use<'a> {
        let first = self.next.filter(|next| *next <= self.last);
        let seqs = first.map(|first| first..=self.last.min(first.saturating_add(AHEAD as u64 - 1)));
        if let Some(seqs) = &seqs {
            self.next = seqs.end().checked_add(1);
        }
        let vault = self.vault;
        async move {
            let Some(seqs) = seqs else { return Vec::new() };
            let read: Vec<_> = vault.read_commits(seqs.clone()).collect().await;
            seqs.zip(read).collect()
        }
    }
}

/// The feature for writing of a vault in a store that does not settle races: its writers come one after another.
pub const SINGLE_WRITER: &str = "single-writer";

/// The features that a vault is said to need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// For reading it.
    pub read: Vec<String>,
    /// For writing to it.
    pub write: Vec<String>,
}

impl Features {
    /// Notes what a commit says, and refuses what this version does not know.
    pub fn note(&mut self, commit: &Commit) -> Result<(), VaultError> {
        if let Some(features) = &commit.read_features {
            self.read.clone_from(features);
        }
        if let Some(features) = &commit.write_features {
            self.write.clone_from(features);
        }
        self.check_reading()
    }

    /// Refuses features that this version does not know.
    pub fn check_reading(&self) -> Result<(), VaultError> {
        match self.read.first() {
            Some(feature) => Err(VaultError::Unsupported(format!("feature `{feature}`"))),
            None => Ok(()),
        }
    }

    /// Refuses features for writing that this version does not know.
    pub fn check_writing(&self) -> Result<(), VaultError> {
        match self.write.iter().find(|feature| *feature != SINGLE_WRITER) {
            Some(feature) => Err(VaultError::Unsupported(format!("feature `{feature}` for writing"))),
            None => Ok(()),
        }
    }

    /// Writers must come one after another.
    pub fn single_writer(&self) -> bool {
        self.write.iter().any(|feature| feature == SINGLE_WRITER)
    }
}

/// What a fold goes on from.
#[derive(Default)]
pub(super) struct Start {
    /// The fold up to commit `seq`; 0: nothing.
    pub(super) seq: u64,
    pub(super) state: State,
    /// Digest of commit `seq`.
    pub(super) digest: Option<String>,
    pub(super) features: Features,
}

impl Vault {
    /// Reads commit `seq`; also returns its digest.
    pub async fn read_commit(&self, seq: u64) -> Result<(Commit, String), VaultError> {
        let path = commit_path(seq);
        let bytes = self.store.get(&path, MAX_COMMIT).await.map_err(|error| missing(&path, error))?;
        Commit::decode(&path, seq, &bytes)
    }

    /// Reads commits, some at a time, in order.
    pub fn read_commits(
        &self,
        seqs: RangeInclusive<u64>,
    ) -> impl Stream<Item = Result<(Commit, String), VaultError>> {
        stream::iter(seqs).map(|seq| self.read_commit(seq)).buffered(AHEAD)
    }

    /// Reads a table that a commit names.
    pub async fn read_table(&self, table: &TableRef) -> Result<Rows, VaultError> {
        decode_table(table, &self.read_object(table).await?)
    }

    pub(super) async fn read_object(&self, table: &TableRef) -> Result<Bytes, VaultError> {
        let path = table.path();
        let limit = table.bytes.min(MAX_TABLE);
        self.store.get(&path, limit).await.map_err(|error| missing(&path, error))
    }

    /// Reads the objects of tables, some at a time, in order.
    pub(super) fn read_objects<'a>(
        &'a self,
        tables: &'a [TableRef],
    ) -> impl Stream<Item = Result<Bytes, VaultError>> + 'a {
        let largest = tables.iter().map(|table| table.bytes).max().unwrap_or(0).max(1);
        let ahead = (AHEAD_BYTES / largest).clamp(1, AHEAD as u64) as usize;
        stream::iter(tables).map(|table| self.read_object(table)).buffered(ahead)
    }

    /// Adds up all commits to the head, from the newest sound checkpoint on. Stops at the first damage.
    pub async fn fold(&mut self, keep_ranges: bool) -> Result<State, VaultError> {
        self.fold_onto(State::new(keep_ranges)).await
    }

    /// The same onto a state that says what is kept.
    pub async fn fold_onto(&mut self, blank: State) -> Result<State, VaultError> {
        let (checkpoint, start) = self.start(&blank).await;
        let folded = match (self.fold_from(start, false).await, checkpoint) {
            // A checkpoint is never the reason why a vault is damaged: the whole log decides.
            (Err(VaultError::Damaged { .. }), Some(path)) => {
                let start = Start { state: blank.blank(), ..Start::default() };
                let folded = self.fold_from(start, false).await?;
                self.checkpoints
                    .warn(format!("{path} does not go with the commits behind it: the whole log was read"));
                self.checkpoints.distrust(path);
                folded
            }
            (folded, _) => folded?,
        };
        let Start { state, features, .. } = folded;
        self.features = features;
        self.foreign.clear();
        self.cursors = state.cursors();
        self.folded = true;
        Ok(state)
    }

    /// Goes on from `start` to the head. `strict`: refuses what the pages of a checkpoint could not say.
    pub(super) async fn fold_from(&self, start: Start, strict: bool) -> Result<Start, VaultError> {
        let Start { seq, mut state, digest: mut prev, mut features } = start;
        let head = self.head.receipt.seq;
        let mut reader = LogReader::new(self, seq + 1..=head);
        while let Some(Entry { seq, commit, tables }) = reader.next().await {
            let (commit, digest) = commit?;
            self.check_link(&commit, prev.as_ref())?;
            features.note(&commit)?;
            if strict {
                check_known(&commit, &digest)?;
            }
            state.add_commit(&commit);
            for (table, bytes) in commit.tables.iter().zip(tables) {
                let (path, bytes) = (table.path(), bytes?);
                let table = open_table(&path, table, &bytes)?;
                if strict && !table.has_only(&Rows::COLUMNS) {
                    return Err(unknown(&path));
                }
                state.add_rows(seq, Rows::decode(&table)?);
            }
            prev = Some(digest);
        }
        state.check()?;
        Ok(Start { seq: head, state, digest: prev, features })
    }

    /// Checks that a commit follows the one whose digest is `prev`.
    pub fn check_link(&self, commit: &Commit, prev: Option<&String>) -> Result<(), VaultError> {
        let path = commit_path(commit.seq);
        if commit.prev.as_ref() != prev {
            return Err(VaultError::damaged(&path, "it does not follow the commit before it".into()));
        }
        let first = commit.seq == 1;
        if first != (commit.op == Op::Init) {
            return Err(VaultError::damaged(&path, "it has the operation of another commit".into()));
        }
        // The commit is proven by its own digest.
        if first && commit.vault_sha256.as_ref() != Some(&self.identity_sha256) {
            return Err(VaultError::damaged(
                identity::PATH,
                "its SHA-256 is not what the first commit says".into(),
            ));
        }
        Ok(())
    }
}

/// Whether a commit can be said in pages.
fn check_known(commit: &Commit, digest: &str) -> Result<(), VaultError> {
    if commit.encode()?.1 != *digest {
        return Err(unknown(&commit_path(commit.seq)));
    }
    commit.segments.iter().try_for_each(|segment| segment_key(segment).map(drop))
}

/// Pages are made anew from what is understood: what is not would be lost to those who do.
fn unknown(object: &str) -> VaultError {
    VaultError::Unsupported(format!("{object} holds what this version does not know"))
}

/// The rows of a table, if its bytes are those that were committed.
pub fn decode_table(table: &TableRef, bytes: &[u8]) -> Result<Rows, VaultError> {
    let path = table.path();
    Rows::decode(&open_table(&path, table, bytes)?)
}

/// Opens a table, if its bytes are those that were meant.
pub(super) fn open_table<'a>(
    path: &'a str,
    table: &TableRef,
    bytes: &'a [u8],
) -> Result<Table<'a>, VaultError> {
    if bytes.len() as u64 != table.bytes || sha256_hex(bytes) != table.sha256 {
        return Err(VaultError::damaged(path, "its size or SHA-256 is not what its commit says".into()));
    }
    let read = Table::open(path, bytes)?;
    if read.rows() != table.rows {
        return Err(VaultError::damaged(path, "its number of rows is not what its commit says".into()));
    }
    Ok(read)
}

/// An object that a commit names and the store does not have is damage.
pub(super) fn missing(path: &str, error: StoreError) -> VaultError {
    match error {
        StoreError::NotFound { .. } => VaultError::damaged(path, "it is missing".into()),
        StoreError::TooLarge { size, .. } => VaultError::damaged(path, format!("it has {size} bytes")),
        error => error.into(),
    }
}

//! Makes checkpoints: what the commits since the last one added goes into new pages, pages that are there stay as they are.

use super::VaultError;
use super::checkpoint::{Checkpoint, new_path};
use super::commit::{Commit, TableRef};
use super::log::Vault;
use super::pages::History;
use super::reading::{Entry, LogReader, Start, open_table};
use super::rows::Rows;
use super::state::State;

/// Rows of a history page, which bound the memory that making one takes.
const PAGE_ROWS: usize = 100_000;

impl Vault {
    /// Makes a checkpoint of the head when one is due, and returns its path. It is a cache: a failure costs nothing but time, and must not fail a backup.
    /// The pages are durable before the checkpoint; who is cut leaves at most orphans.
    pub async fn checkpoint(&mut self) -> Result<Option<String>, VaultError> {
        let seq = self.head.receipt.seq;
        if !self.checkpoint_is_due() {
            return Ok(None);
        }
        // Another writer may have made one meanwhile.
        self.checkpoints.list(&self.store).await;
        let newest = self.checkpoints.newest_in_log(&self.store).await?;
        if newest > seq {
            self.checkpoints.newest = newest;
            return Ok(None);
        }
        let (base, start) = self.base().await;
        self.checkpoints.newest = start.seq;
        if !self.checkpoint_is_due() {
            return Ok(None);
        }
        // One that can't be made is not tried again at each commit.
        self.checkpoints.newest = seq;
        let Some(base) = base else {
            return Err(VaultError::Unsupported("a checkpoint holds what this version does not know".into()));
        };
        let checkpoint = self.build(base, start).await?;
        let path = new_path(seq);
        self.store.put_if_absent(&path, checkpoint.encode()?.into()).await?;
        self.checkpoints.add(path.clone());
        Ok(Some(path))
    }

    fn checkpoint_is_due(&self) -> bool {
        let since = self.head.receipt.seq.saturating_sub(self.checkpoints.newest);
        since >= self.checkpoints.every && self.features.check_writing().is_ok()
    }

    /// What the new checkpoint goes on from, and the pages that it takes over; none when a newer version has written them.
    async fn base(&mut self) -> (Option<Vec<TableRef>>, Start) {
        for path in self.checkpoints.up_to(self.head.receipt.seq) {
            match self.load(&path, false).await {
                Ok((checkpoint, start)) => return (checkpoint.map(|checkpoint| checkpoint.pages), start),
                Err(error) => self.checkpoints.warn(format!("{path} is passed over: {error}")),
            }
        }
        (Some(Vec::new()), Start { state: State::new(false), ..Start::default() })
    }

    async fn build(&self, pages: Vec<TableRef>, start: Start) -> Result<Checkpoint, VaultError> {
        let Start { seq, state, digest: mut prev, mut features } = start;
        let head = self.head.receipt.clone();
        let mut builder = Builder { vault: self, state, history: History::default(), pages };
        let mut reader = LogReader::new(self, seq + 1..=head.seq);
        while let Some(Entry { commit, tables, .. }) = reader.next().await {
            let (commit, digest) = commit?;
            self.check_link(&commit, prev.as_ref())?;
            features.note(&commit)?;
            if commit.encode()?.1 != digest {
                return Err(unknown(&format!("commit {}", commit.seq)));
            }
            builder.add_commit(&commit).await?;
            for (table, bytes) in commit.tables.iter().zip(tables) {
                builder.add_table(commit.seq, table, &bytes?).await?;
            }
            prev = Some(digest);
        }
        features.check_writing()?;
        if prev.as_ref() != Some(&head.digest) {
            return Err(VaultError::Internal(format!("commit {} has changed", head.seq)));
        }
        builder.flush().await?;
        builder.state.check()?;
        let heads = builder.state.heads();
        Ok(Checkpoint {
            seq: head.seq,
            digest: head.digest,
            state: heads.clone().digest()?,
            heads: self.put_table(heads.encode(head.seq)?).await?,
            pages: builder.pages,
            read_features: features.read,
            write_features: features.write,
            vault_sha256: self.identity_sha256.clone(),
            tool: concat!("bodley ", env!("CARGO_PKG_VERSION")).into(),
        })
    }
}

/// Pages are made anew from what is understood: what is not would be lost to those who do.
fn unknown(object: &str) -> VaultError {
    VaultError::Unsupported(format!("{object} holds what this version does not know"))
}

struct Builder<'a> {
    vault: &'a Vault,
    /// Without ranges.
    state: State,
    /// For the next page.
    history: History,
    pages: Vec<TableRef>,
}

impl Builder<'_> {
    async fn add_commit(&mut self, commit: &Commit) -> Result<(), VaultError> {
        for segment in &commit.segments {
            self.history.segments.push((commit.seq, segment.clone()));
            self.flush_if_full().await?;
        }
        Ok(())
    }

    async fn add_table(&mut self, seq: u64, table: &TableRef, bytes: &[u8]) -> Result<(), VaultError> {
        let path = table.path();
        let rows = {
            let read = open_table(&path, table, bytes)?;
            match read.has_only(&Rows::COLUMNS) {
                true => Rows::decode(&read)?,
                false => return Err(unknown(&path)),
            }
        };
        for range in &rows.ranges {
            self.history.ranges.push((seq, range.clone()));
            self.flush_if_full().await?;
        }
        for row in &rows.aborted {
            self.history.aborted.push((seq, *row));
            self.flush_if_full().await?;
        }
        self.state.add_rows(seq, rows);
        Ok(())
    }

    async fn flush_if_full(&mut self) -> Result<(), VaultError> {
        if self.history.len() >= PAGE_ROWS { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), VaultError> {
        if self.history.is_empty() {
            return Ok(());
        }
        let table = std::mem::take(&mut self.history).encode(self.vault.head.receipt.seq)?;
        let page = self.vault.put_table(table).await?;
        self.pages.push(page);
        Ok(())
    }
}

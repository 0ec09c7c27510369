//! Makes checkpoints: what the commits since the last one added goes into new pages, pages that are there stay as they are.

use super::VaultError;
use super::checkpoint::{BadPages, Checkpoint, new_path};
use super::commit::TableRef;
use super::log::Vault;
use super::pages::History;
use super::reading::{Entry, LogReader, Start, decode_table};
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

    /// Whether enough commits have come since the newest checkpoint that is known.
    pub fn checkpoint_is_due(&self) -> bool {
        let since = self.head.receipt.seq.saturating_sub(self.checkpoints.newest);
        since >= self.checkpoints.every && self.check_writing().is_ok()
    }

    /// One of the head is being made elsewhere.
    pub fn checkpoint_elsewhere(&mut self) {
        self.checkpoints.newest = self.head.receipt.seq;
    }

    /// What the new checkpoint goes on from, and the pages that it takes over, which are read: a rotten one must not be handed on. None when a newer
    /// version has written them.
    async fn base(&mut self) -> (Option<Vec<TableRef>>, Start) {
        let mut bad = BadPages::default();
        for path in self.checkpoints.up_to(self.head.receipt.seq) {
            match self.load_sound(&path, &mut bad).await {
                Ok((checkpoint, start)) => return (checkpoint.map(|checkpoint| checkpoint.pages), start),
                Err(error) => self.checkpoints.warn(format!("{path} is passed over: {error}")),
            }
        }
        (Some(Vec::new()), Start { state: State::new(false), ..Start::default() })
    }

    async fn load_sound(
        &self,
        path: &str,
        bad: &mut BadPages,
    ) -> Result<(Option<Checkpoint>, Start), VaultError> {
        let (checkpoint, start) = self.load(path, &State::new(false), bad).await?;
        if let Some(checkpoint) = &checkpoint {
            self.each_page(checkpoint, bad, |_| Ok(())).await?;
        }
        Ok((checkpoint, start))
    }

    async fn build(&self, mut pages: Vec<TableRef>, start: Start) -> Result<Checkpoint, VaultError> {
        let head = self.head.receipt.clone();
        let (since, digest) = (start.seq, start.digest.clone());
        // All is read and understood before the first page is put: what makes a checkpoint impossible must not leave orphans at each run.
        let Start { state, digest: found, features, .. } = self.fold_from(start, true).await?;
        features.check_writing()?;
        self.check_head(found.as_ref())?;
        pages.extend(self.put_pages(since, digest).await?);
        let heads = state.heads();
        Ok(Checkpoint {
            seq: head.seq,
            digest: head.digest,
            state: heads.clone().digest()?,
            heads: self.put_table(heads.encode(head.seq)?).await?,
            pages,
            read_features: features.read,
            write_features: features.write,
            vault_sha256: self.identity_sha256.clone(),
            tool: concat!("bodley ", env!("CARGO_PKG_VERSION")).into(),
        })
    }

    /// Makes pages of the commits behind `since`, whose digest is `prev`: of the very ones that were understood, which the chain of digests says.
    async fn put_pages(&self, since: u64, mut prev: Option<String>) -> Result<Vec<TableRef>, VaultError> {
        let mut writer = PageWriter { vault: self, history: History::default(), pages: Vec::new() };
        let mut reader = LogReader::new(self, since + 1..=self.head.receipt.seq);
        while let Some(Entry { seq, commit, tables }) = reader.next().await {
            let (commit, digest) = commit?;
            self.check_link(&commit, prev.as_ref())?;
            for segment in &commit.segments {
                writer.history.segments.push((seq, segment.clone()));
                writer.flush_if_full().await?;
            }
            for (table, bytes) in commit.tables.iter().zip(tables) {
                writer.add_rows(seq, decode_table(table, &bytes?)?).await?;
            }
            prev = Some(digest);
        }
        self.check_head(prev.as_ref())?;
        writer.flush().await?;
        Ok(writer.pages)
    }

    fn check_head(&self, digest: Option<&String>) -> Result<(), VaultError> {
        let head = &self.head.receipt;
        match digest == Some(&head.digest) {
            true => Ok(()),
            false => Err(VaultError::Internal(format!("commit {} has changed", head.seq))),
        }
    }
}

struct PageWriter<'a> {
    vault: &'a Vault,
    /// For the next page.
    history: History,
    pages: Vec<TableRef>,
}

impl PageWriter<'_> {
    async fn add_rows(&mut self, seq: u64, rows: Rows) -> Result<(), VaultError> {
        for range in rows.ranges {
            self.history.ranges.push((seq, range));
            self.flush_if_full().await?;
        }
        for row in rows.aborted {
            self.history.aborted.push((seq, row));
            self.flush_if_full().await?;
        }
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

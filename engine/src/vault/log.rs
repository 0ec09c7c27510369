//! The log of commits: open, create, append. The only place that moves a cursor. (Reading it: `reading.rs`.)
//!
//! A commit is created by put-if-absent at the next number. Who loses the race reads what was committed since and either follows it
//! (disjoint partitions) or stops (a shared one). While the fate of a PUT is unknown only the same bytes are sent again, and a
//! commit found under our writer id and nonce is ours.

use std::collections::HashMap;

use bodley_io::store::{Put, SharedStore, list_after};
use bytes::Bytes;

use super::checkpoint::Checkpoints;
use super::commit::{
    Commit, LAST_SEQ, MAX_COMMIT, Op, Receipt, SegmentRef, TableRef, commit_path, seq_of_path,
};
use super::identity::{self, Identity};
use super::reading::{Features, MAX_TABLE, SINGLE_WRITER};
use super::rows::Rows;
use super::state::PartKey;
use super::table::TableWriter;
use super::{VaultError, now_ms, random_hex, sha256_hex};

/// How often a commit is tried at the next number before we say that others are too fast.
const MAX_RACES: usize = 100;

/// What a commit adds.
#[derive(Debug, Default)]
pub struct Addition {
    /// Segments, durable already.
    pub segments: Vec<SegmentRef>,
    /// Rows.
    pub rows: Rows,
}

/// An open vault at its head.
#[derive(Debug)]
pub struct Vault {
    pub(super) store: SharedStore,
    identity: Identity,
    pub(super) identity_sha256: String,
    writer: String,
    pub(super) head: Head,
    /// Cursors as far as they are known: of all partitions after a fold, else of those that we moved.
    pub(super) cursors: HashMap<PartKey, i64>,
    pub(super) folded: bool,
    /// Partitions that others moved in commits that we followed, and who: our plans for them are void.
    pub(super) foreign: HashMap<PartKey, String>,
    pub(super) features: Features,
    /// No other writer is at work, as the user says.
    alone: bool,
    pub(super) checkpoints: Checkpoints,
}

#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) receipt: Receipt,
    pub(super) time: i64,
    pub(super) complete: Option<i64>,
}

impl Vault {
    /// Opens the vault in `store` at its newest commit (seq 0 when a first run died before that), without writing. [`VaultError::Absent`] when
    /// there is none.
    pub async fn open(store: SharedStore) -> Result<Self, VaultError> {
        let mut vault = Self::identify(store).await?;
        let mut seq = vault.find_head().await?;
        if seq == 0 && !vault.store.list("data/", "").await?.is_empty() {
            // A run that died before the first commit leaves no segments; one that just began has a commit by now.
            seq = vault.find_head().await?;
            if seq == 0 {
                let what = "it is missing, and segments are there".into();
                return Err(VaultError::damaged(&commit_path(1), what));
            }
        }
        if seq > 0 {
            vault.move_head(seq).await?;
        }
        Ok(vault)
    }

    /// As [`Vault::open`], also when the newest commit is damaged: its receipt then has no digest.
    pub async fn open_damaged(store: SharedStore) -> Result<Self, VaultError> {
        let mut vault = Self::identify(store).await?;
        let seq = vault.find_head().await?;
        match vault.move_head(seq.max(1)).await {
            Err(VaultError::Damaged { .. }) => vault.head.receipt.seq = seq,
            result => result?,
        }
        Ok(vault)
    }

    /// Reads who it is; the head is not known yet.
    async fn identify(store: SharedStore) -> Result<Self, VaultError> {
        let (identity, identity_sha256) = identity::find(&store).await?;
        let head = Head { receipt: Receipt { seq: 0, digest: String::new() }, time: 0, complete: None };
        let alone = !store.decides_races();
        Ok(Self {
            store,
            identity,
            identity_sha256,
            writer: random_hex()?,
            head,
            cursors: HashMap::new(),
            folded: false,
            foreign: HashMap::new(),
            features: Features::default(),
            alone,
            checkpoints: Checkpoints::default(),
        })
    }

    /// Makes a vault for a cluster. Another writer may do so at the same time: then it is opened.
    pub async fn create(store: SharedStore, cluster_id: &str) -> Result<Self, VaultError> {
        let made = identity::make(&store, cluster_id, None).await?;
        Self::open_to_write(store, made).await
    }

    /// Makes a vault from the remains of another.
    pub async fn create_rebuilt(
        store: SharedStore,
        cluster_id: &str,
        from: &str,
    ) -> Result<Self, VaultError> {
        let made = identity::make(&store, cluster_id, Some(from.to_owned())).await?;
        Self::open_to_write(store, made).await
    }

    /// As [`Vault::open`]; writes the first commit if a run died before it could. The store must prove that it keeps put-if-absent, before
    /// anything is built on it: [`VaultError::Overwrites`].
    pub async fn open_for_writing(store: SharedStore) -> Result<Self, VaultError> {
        Self::open_to_write(store, false).await
    }

    /// `made`: vault.json is ours, and goes again if the store is of no use.
    async fn open_to_write(store: SharedStore, made: bool) -> Result<Self, VaultError> {
        let mut vault = Self::open(store).await?;
        match vault.head.receipt.seq {
            0 => {
                let bytes = identity::bytes(&vault.store).await?;
                let proven = identity::prove(&vault.store, identity::PATH, bytes).await;
                if made && matches!(proven, Err(VaultError::Overwrites { .. })) {
                    // As far as we may: a backup need not have the right to delete.
                    let _ = vault.store.delete(identity::PATH).await;
                }
                proven?;
                vault.init().await?;
            }
            seq => {
                // A killed run may have left a commit that is visible and not yet durable: it is put once more before we build on it.
                let path = commit_path(seq);
                let bytes = vault.store.get(&path, MAX_COMMIT).await?;
                identity::prove(&vault.store, &path, bytes).await?;
            }
        }
        Ok(vault)
    }

    /// The user says that no other writer is at work as long as we are.
    pub fn write_alone(&mut self) {
        self.alone = true;
    }

    /// Whether its writers must come one after another, as the last fold found.
    pub fn single_writer(&self) -> bool {
        self.features.single_writer()
    }

    /// Whether we may write, by the features that the last fold found.
    pub fn check_writing(&self) -> Result<(), VaultError> {
        self.features.check_writing()?;
        match self.single_writer() && !self.alone {
            true => Err(VaultError::SingleWriter { url: self.store.url() }),
            false => Ok(()),
        }
    }

    /// SHA-256 of vault.json.
    pub(crate) fn identity_sha256(&self) -> &str {
        &self.identity_sha256
    }

    /// Who this vault is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where its objects are.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Our id as a writer.
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// The newest commit; seq 0 when there is none yet.
    pub fn receipt(&self) -> &Receipt {
        &self.head.receipt
    }

    /// The receipt as it is shown: `None` without a commit, or when the newest is damaged.
    pub fn receipt_text(&self) -> Option<String> {
        let receipt = &self.head.receipt;
        (!receipt.digest.is_empty()).then(|| receipt.to_string())
    }

    /// Time of the newest commit, ms.
    pub fn head_time(&self) -> i64 {
        self.head.time
    }

    /// Up to when the vault has everything as the newest commit says it, ms: [`Commit::complete`].
    pub fn head_complete(&self) -> Option<i64> {
        self.head.complete
    }

    /// The newest commit. What lies before the newest checkpoint is not looked at.
    async fn find_head(&mut self) -> Result<u64, VaultError> {
        self.checkpoints.list(&self.store).await;
        let mut seq = self.checkpoints.newest_in_log(&self.store).await?;
        let after = if seq > 0 { commit_path(seq) } else { String::new() };
        let listed = list_after(&*self.store, "log/", &after).await?;
        seq = listed.iter().filter_map(|object| seq_of_path(&object.path)).fold(seq, u64::max);
        // A listing may be short.
        while seq < LAST_SEQ && self.store.size(&commit_path(seq + 1)).await?.is_some() {
            seq += 1;
        }
        Ok(seq)
    }

    async fn move_head(&mut self, seq: u64) -> Result<(), VaultError> {
        let (commit, digest) = self.read_commit(seq).await?;
        self.head = Head { receipt: Receipt { seq, digest }, time: commit.time, complete: commit.complete };
        Ok(())
    }

    /// Goes back to an earlier commit, for reading the vault as it was then.
    pub async fn rewind(&mut self, seq: u64) -> Result<(), VaultError> {
        if seq > self.head.receipt.seq {
            let what = format!("it is missing: the newest commit is {}", self.head.receipt.seq);
            return Err(VaultError::damaged(&commit_path(seq), what));
        }
        self.move_head(seq).await
    }

    async fn init(&mut self) -> Result<(), VaultError> {
        let mut commit = self.blank(Op::Init)?;
        commit.vault_sha256 = Some(self.identity_sha256.clone());
        let write = if self.store.decides_races() { Vec::new() } else { vec![SINGLE_WRITER.to_owned()] };
        (commit.read_features, commit.write_features) = (Some(Vec::new()), Some(write));
        let (bytes, _) = commit.encode()?;
        self.store.put_if_absent(&commit_path(1), bytes.into()).await?;
        self.move_head(1).await
    }

    /// A commit on top of one that is gone would be believed to be durable.
    async fn check_head_is_there(&self) -> Result<(), VaultError> {
        let path = commit_path(self.head.receipt.seq);
        match self.store.stat(&path).await? {
            Some(_) => Ok(()),
            None => {
                let what = "it is gone, and was there when this run began or made it: has the vault been deleted, or its disk been taken away?";
                Err(VaultError::damaged(&path, what.into()))
            }
        }
    }

    fn blank(&self, op: Op) -> Result<Commit, VaultError> {
        let seq = self.head.receipt.seq;
        Ok(Commit {
            seq: seq + 1,
            prev: (seq > 0).then(|| self.head.receipt.digest.clone()),
            nonce: random_hex()?,
            writer: self.writer.clone(),
            base: seq,
            time: now_ms().max(self.head.time + 1),
            op,
            tables: Vec::new(),
            segments: Vec::new(),
            remove: Vec::new(),
            condemn: Vec::new(),
            gone: Vec::new(),
            read_features: None,
            write_features: None,
            vault_sha256: None,
            complete: None,
            tool: concat!("bodley ", env!("CARGO_PKG_VERSION")).into(),
        })
    }

    /// Commits `addition`, planned on our head. Returns the receipt of what now is the head.
    pub async fn append(&mut self, addition: Addition) -> Result<Receipt, VaultError> {
        self.append_complete(addition, None).await
    }

    /// The same, and says up to when the vault has everything: [`Commit::complete`].
    pub async fn append_complete(
        &mut self,
        mut addition: Addition,
        complete: Option<i64>,
    ) -> Result<Receipt, VaultError> {
        self.check_writing()?;
        let parts = moved(&addition.rows)?;
        self.check_foreign(&parts)?;
        self.check_from(&parts)?;
        self.check_head_is_there().await?;
        let mut commit = self.blank(Op::Append)?;
        commit.segments = std::mem::take(&mut addition.segments);
        commit.complete = complete;
        if !addition.rows.is_empty() {
            commit.tables = vec![self.put_table(addition.rows.encode()?).await?];
        }
        for _ in 0..MAX_RACES {
            let (bytes, digest) = commit.encode()?;
            let path = commit_path(commit.seq);
            let put = self.store.put_if_absent(&path, Bytes::from(bytes)).await?;
            if put == Put::Exists {
                let (theirs, found) = self.read_commit(commit.seq).await?;
                let ours = theirs.writer == commit.writer && theirs.nonce == commit.nonce;
                if !ours {
                    let (theirs, found) = self.follow_all(theirs, found).await?;
                    self.check_foreign(&parts)?;
                    // Disjoint: our from-cursors hold at their commit as well.
                    (commit.base, commit.seq) = (theirs.seq, theirs.seq + 1);
                    (commit.time, commit.prev) = (now_ms().max(theirs.time + 1), Some(found));
                    continue;
                }
            }
            let receipt = Receipt { seq: commit.seq, digest };
            self.head = Head { receipt, time: commit.time, complete };
            self.cursors.extend(parts.into_iter().map(|(key, moved)| (key, moved.next)));
            return Ok(self.head.receipt.clone());
        }
        Err(VaultError::LostRace {
            writer: "(many)".into(),
            count: 0,
            example: "every number was taken".into(),
        })
    }

    /// Makes a table durable.
    pub(super) async fn put_table(&self, table: TableWriter) -> Result<TableRef, VaultError> {
        let count = table.rows();
        let bytes = table.finish()?;
        if bytes.len() as u64 > MAX_TABLE {
            return Err(VaultError::Internal(format!(
                "{} bytes of rows are too many for one commit",
                bytes.len()
            )));
        }
        let id = ulid::Ulid::generate().to_string();
        let table = TableRef { id, bytes: bytes.len() as u64, rows: count, sha256: sha256_hex(&bytes) };
        let (path, bytes) = (table.path(), Bytes::from(bytes));
        // A request that reached the store twice finds its own object.
        match self.store.put_if_absent(&path, bytes.clone()).await? {
            Put::Exists if self.store.get(&path, table.bytes).await? != bytes => {
                Err(VaultError::Internal(format!("{path} exists already")))
            }
            _ => Ok(table),
        }
    }

    /// Takes note of this commit of another writer and of all that are behind it by now; the last of them. Who commits seldom is not for that reason to lose.
    async fn follow_all(&mut self, theirs: Commit, digest: String) -> Result<(Commit, String), VaultError> {
        let (mut last, mut digest) = (theirs, digest);
        self.follow(&last).await?;
        while self.store.stat(&commit_path(last.seq + 1)).await?.is_some() {
            (last, digest) = self.read_commit(last.seq + 1).await?;
            self.follow(&last).await?;
        }
        Ok((last, digest))
    }

    /// Takes note of what another writer committed since our plan.
    async fn follow(&mut self, theirs: &Commit) -> Result<(), VaultError> {
        self.features.note(theirs)?;
        self.check_writing()?;
        for table in &theirs.tables {
            for range in self.read_table(table).await?.ranges {
                self.foreign.insert((range.topic, range.partition), theirs.writer.clone());
            }
        }
        Ok(())
    }

    /// Rows must go on from where the log is: the last look before what can't be taken back.
    fn check_from(&self, ours: &HashMap<PartKey, Moved>) -> Result<(), VaultError> {
        for (key, Moved { from, .. }) in ours {
            let cursor = self.cursors.get(key).copied().or(self.folded.then_some(-1));
            if let Some(cursor) = cursor.filter(|cursor| cursor != from) {
                let what = format!("rows of partition {} go on from {from}, its cursor is {cursor}", key.1);
                return Err(VaultError::Internal(what));
            }
        }
        Ok(())
    }

    /// A partition that another writer moved stops us, also if that commit lies some of ours back.
    fn check_foreign(&self, ours: &HashMap<PartKey, Moved>) -> Result<(), VaultError> {
        let mut shared: Vec<_> = ours.keys().filter_map(|key| Some((key, self.foreign.get(key)?))).collect();
        shared.sort_unstable();
        match shared.first() {
            None => Ok(()),
            Some(((topic, partition), writer)) => Err(VaultError::LostRace {
                writer: (*writer).clone(),
                count: shared.len(),
                example: format!("topic id {}, partition {partition}", super::hex(topic)),
            }),
        }
    }
}

/// How rows move a partition.
struct Moved {
    from: i64,
    next: i64,
}

/// The partitions that rows move. Checks that each partition's rows leave no hole: what is committed cannot be changed later.
fn moved(rows: &Rows) -> Result<HashMap<PartKey, Moved>, VaultError> {
    let mut parts: HashMap<PartKey, Vec<&super::rows::Range>> = HashMap::new();
    for range in &rows.ranges {
        parts.entry((range.topic, range.partition)).or_default().push(range);
    }
    let mut all = HashMap::with_capacity(parts.len());
    for (key, mut ranges) in parts {
        ranges.sort_by_key(|range| (range.rewind, range.first, range.next));
        let holes = ranges.windows(2).any(|pair| match pair {
            [a, b] => a.next != b.first || a.from != b.from || a.rewind != b.rewind,
            _ => false,
        });
        let backwards = ranges.iter().any(|range| range.first < 0 || range.next < range.first);
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { continue };
        // A rewind begins below the cursor.
        let rewinds = first.rewind > 0 && first.first < first.from;
        let starts = first.from == -1 || first.from == first.first || rewinds;
        if holes || backwards || !starts {
            return Err(VaultError::Internal(format!("rows of partition {} don't join", key.1)));
        }
        all.insert(key, Moved { from: first.from, next: last.next });
    }
    Ok(all)
}

//! Carries objects from one store to the other. Nothing is created at the target that was not checked on the way, and nothing is whole in memory
//! but commits and tables.

use std::sync::Arc;

use bodley_io::store::{Put, SharedStore, StoreError};
use bodley_io::{BufferPool, Filled};
use bodley_protocol::checksum::{crc64, crc64_combine};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::sync::Semaphore;

use super::plan::Work;
use crate::error::{EngineError, Severity};
use crate::progress::Progress;
use crate::report::{Copied, Issue};
use crate::vault::ahead::{Origin, Reads, Wanted};
use crate::vault::commit::{Commit, MAX_COMMIT, SegmentRef, TableRef, commit_path};
use crate::vault::reading::MAX_TABLE;
use crate::vault::{VaultError, sha256_hex};

/// Segments under way at a time.
const SEGMENTS: usize = 4;
/// Parts of one segment that are read ahead of the one that is written.
const READ_AHEAD: usize = 3;
/// Part buffers that there are at least, where the target leaves the length of parts to us.
const PARTS: usize = 8;
/// Objects of one commit under way at a time.
const OBJECTS: usize = 16;
/// KiB of tables in memory at a time; one that is larger comes alone.
const TABLES_KIB: usize = 64 << 10;
/// A part buffer has so much room beside the part, in whole huge pages, for what a store needs to read it.
const ROOM: usize = 2 << 20;

/// Where something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

/// An object that is not what it must be.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    side: Side,
    /// Its path.
    pub object: String,
    what: String,
    /// Commit and ULID, if it is a segment.
    segment: Option<(u64, [u8; 16])>,
}

impl Trouble {
    pub fn new(side: Side, object: String, what: String) -> Self {
        Self { side, object, what, segment: None }
    }

    /// Commit and ULID, if it is a segment of the source.
    pub fn source_segment(&self) -> Option<(u64, [u8; 16])> {
        self.segment.filter(|_| self.side == Side::Source)
    }

    /// In words.
    pub fn words(&self) -> String {
        let place = match self.side {
            Side::Source => "of the source",
            Side::Target => "in the target",
        };
        format!("{} {place} is damaged: {}", self.object, self.what)
    }

    /// A stable word for it.
    pub fn code(&self) -> &'static str {
        match self.side {
            Side::Source => "vault_damaged",
            Side::Target => "target_damaged",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self.side {
            Side::Source => {
                "restore the object from a copy of the vault and run the copy again; where there is none, `bodley rebuild` makes a new vault of all that is left"
            }
            Side::Target => "delete the object at the target, and run the copy again",
        }
    }

    /// As errors have it.
    pub fn into_error(self) -> VaultError {
        VaultError::Damaged { object: self.object, what: self.what }
    }

    /// As reports have it.
    pub fn issue(&self) -> Issue {
        Issue::new(self.code(), Severity::Missing, self.words()).object(self.object.clone()).hint(self.hint())
    }
}

/// Counts what was moved and what was there.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub commits: u64,
    pub objects: u64,
    pub bytes: u64,
    skipped_objects: u64,
    skipped_bytes: u64,
}

impl Tally {
    /// Counts an object of `bytes` that is there. Returns whether it is not.
    pub fn skip_if(&mut self, there: bool, bytes: u64) -> bool {
        if there {
            self.skipped_objects += 1;
            self.skipped_bytes += bytes;
        }
        !there
    }

    /// Counts one, or returns what is wrong with it.
    pub fn count(&mut self, fate: Fate) -> Option<Trouble> {
        match fate {
            Fate::Copied(bytes) => {
                self.objects += 1;
                self.bytes += bytes;
            }
            Fate::Present(bytes) => {
                self.skip_if(true, bytes);
            }
            Fate::Bad(trouble) => return Some(trouble),
        }
        None
    }

    /// Adds the objects to a report.
    pub fn add_to(&self, copied: &mut Copied) {
        copied.objects += self.objects;
        copied.bytes += self.bytes;
        copied.skipped_objects += self.skipped_objects;
        copied.skipped_bytes += self.skipped_bytes;
    }
}

/// What became of an object of so many bytes.
pub(super) enum Fate {
    Copied(u64),
    Present(u64),
    Bad(Trouble),
}

/// A commit whose objects have been dealt with.
pub(super) struct Delivery {
    pub seq: u64,
    /// Its bytes, if it is missing itself.
    pub commit: Option<Bytes>,
    pub digest: String,
    pub tally: Tally,
    /// Not empty: not all that it names is at the target.
    pub troubles: Vec<Trouble>,
}

/// Between two stores.
pub(super) struct Courier {
    source: SharedStore,
    target: SharedStore,
    /// Segments of the source, in part buffers.
    origin: Origin,
    part_len: usize,
    segments: Semaphore,
    tables_kib: Semaphore,
    progress: Arc<Progress>,
}

impl Courier {
    /// With at most `budget` bytes of part buffers, and two of them at least.
    pub fn new(source: SharedStore, target: SharedStore, budget: usize, progress: Arc<Progress>) -> Self {
        let alignment = target.alignment().max(1);
        let part_len = target.part_len().min(budget / PARTS) / alignment * alignment;
        let part_len = part_len.max(alignment);
        let origin = Origin::new(&source, &BufferPool::new(part_len + ROOM, budget));
        Self {
            source,
            target,
            origin,
            part_len,
            segments: Semaphore::new(SEGMENTS),
            tables_kib: Semaphore::new(TABLES_KIB),
            progress,
        }
    }

    pub fn source(&self) -> &SharedStore {
        &self.source
    }

    pub fn target(&self) -> &SharedStore {
        &self.target
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Sees to it that all that a commit names is at the target.
    pub async fn bring(&self, work: Work) -> Result<Delivery, EngineError> {
        let Work { seq, digest, put, segments, tables } = work;
        let mut delivery =
            Delivery { seq, commit: None, digest, tally: Tally::default(), troubles: Vec::new() };
        let mut carried =
            std::pin::pin!(stream::iter(&tables).map(|table| self.table(table)).buffer_unordered(OBJECTS));
        while let Some(fate) = carried.next().await {
            delivery.troubles.extend(delivery.tally.count(fate?));
        }
        let mut carried = std::pin::pin!(
            stream::iter(&segments).map(|segment| self.segment(seq, segment)).buffer_unordered(OBJECTS)
        );
        while let Some(fate) = carried.next().await {
            delivery.troubles.extend(delivery.tally.count(fate?));
        }
        if put && delivery.troubles.is_empty() {
            match self.commit(seq, &delivery.digest).await? {
                Ok(bytes) => delivery.commit = Some(bytes),
                Err(trouble) => delivery.troubles.push(trouble),
            }
        }
        Ok(delivery)
    }

    /// Reads a commit, which has been read before.
    async fn commit(&self, seq: u64, digest: &str) -> Result<Result<Bytes, Trouble>, EngineError> {
        let path = commit_path(seq);
        let bytes = match self.source.get(&path, MAX_COMMIT).await {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(self.bad(&path, error)?)),
        };
        let same = Commit::decode(&path, seq, &bytes).is_ok_and(|(_, found)| found == digest);
        Ok(if same { Ok(bytes) } else { Err(Trouble::new(Side::Source, path, "it has changed".into())) })
    }

    /// Puts a commit; tells whether it was not there.
    pub async fn put_commit(&self, seq: u64, bytes: Bytes) -> Result<bool, EngineError> {
        let path = commit_path(seq);
        if self.target.put_if_absent(&path, bytes.clone()).await? == Put::Created {
            return Ok(true);
        }
        match self.target.get(&path, MAX_COMMIT).await? == bytes {
            true => Ok(false),
            false => Err(EngineError::Diverged(format!(
                "something else was committed into the target meanwhile: its {path} is not the source's"
            ))),
        }
    }

    /// A table that may be there already.
    pub async fn table(&self, table: &TableRef) -> Result<Fate, EngineError> {
        let kib = (table.bytes / 1024 + 1).min(TABLES_KIB as u64) as u32;
        let _room = self.tables_kib.acquire_many(kib).await;
        let path = table.path();
        let bytes = match self.source.get(&path, table.bytes.min(MAX_TABLE)).await {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Fate::Bad(self.bad(&path, error)?)),
        };
        if bytes.len() as u64 != table.bytes || sha256_hex(&bytes) != table.sha256 {
            let what = "its size or SHA-256 is not what its commit says".to_owned();
            return Ok(Fate::Bad(Trouble::new(Side::Source, path, what)));
        }
        self.put(path, bytes).await
    }

    /// Puts a small object that may be there already.
    pub async fn put(&self, path: String, bytes: Bytes) -> Result<Fate, EngineError> {
        let len = bytes.len() as u64;
        let fate = match self.target.put_if_absent(&path, bytes.clone()).await? {
            Put::Created => {
                self.progress.advance(len, len);
                return Ok(Fate::Copied(len));
            }
            Put::Exists => match self.target.get(&path, len).await {
                Ok(found) if found == bytes => Fate::Present(len),
                Ok(_) | Err(StoreError::TooLarge { .. }) => {
                    let what = "it is not what the source has under this name".to_owned();
                    Fate::Bad(Trouble::new(Side::Target, path, what))
                }
                Err(error) => return Err(error.into()),
            },
        };
        self.progress.advance(0, len);
        Ok(fate)
    }

    /// A page of a checkpoint that may be there already: it is proven by its reader, and costs nothing but time when it is broken.
    pub async fn page(&self, page: &TableRef) -> Result<Fate, EngineError> {
        let path = page.path();
        match self.target.size(&path).await? {
            Some(size) if size == page.bytes => {
                self.target.confirm(&path).await?;
                self.progress.advance(0, size);
                Ok(Fate::Present(size))
            }
            _ => self.table(page).await,
        }
    }

    /// A segment that may be there already.
    async fn segment(&self, seq: u64, segment: &SegmentRef) -> Result<Fate, EngineError> {
        let _slot = self.segments.acquire().await;
        let fate = match self.found(segment).await? {
            Some(fate) => {
                self.progress.advance(0, segment.bytes);
                fate
            }
            None => self.carry(segment).await?,
        };
        Ok(match fate {
            Fate::Bad(mut trouble) => {
                let id = ulid::Ulid::from_string(&segment.id).map(|id| id.to_bytes()).unwrap_or_default();
                trouble.segment = Some((seq, id));
                Fate::Bad(trouble)
            }
            fate => fate,
        })
    }

    /// What the target knows of a segment without reading it; `None`: nothing.
    async fn found(&self, segment: &SegmentRef) -> Result<Option<Fate>, EngineError> {
        let path = segment.path();
        let Some(stat) = self.target.stat(&path).await? else { return Ok(None) };
        let bad = |what: String| Ok(Some(Fate::Bad(Trouble::new(Side::Target, path.clone(), what))));
        if stat.size != segment.bytes {
            return bad(format!("it has {} bytes, its commit says {}", stat.size, segment.bytes));
        }
        if stat.crc64.is_some_and(|crc| format!("{crc:016x}") != segment.crc64) {
            return bad("its CRC-64, as the store has it, is not what its commit says".into());
        }
        self.target.confirm(&path).await?;
        Ok(Some(Fate::Present(segment.bytes)))
    }

    async fn carry(&self, segment: &SegmentRef) -> Result<Fate, EngineError> {
        let path = segment.path();
        let mut upload = self.target.create(&path).await?;
        let (mut parts, mut crc) = (self.parts(segment), 0);
        while let Some(part) = parts.next().await {
            let (of_part, part) = match part.done().await {
                Ok(part) => part,
                Err(error) => return Ok(Fate::Bad(self.bad(&path, error)?)),
            };
            let len = part.len() as u64;
            crc = crc64_combine(crc, of_part, len);
            upload.write(part.summed(of_part)).await?;
            self.progress.advance(len, len);
        }
        if format!("{crc:016x}") != segment.crc64 {
            let what = "it does not match the CRC-64 in its commit".to_owned();
            return Ok(Fate::Bad(Trouble::new(Side::Source, path, what)));
        }
        match upload.finish().await {
            Ok(()) => Ok(Fate::Copied(segment.bytes)),
            // Another copy was faster.
            Err(error @ StoreError::Exists { .. }) => self.found(segment).await?.ok_or_else(|| error.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a segment part by part, some ahead, each with its CRC-64.
    fn parts(&self, segment: &SegmentRef) -> Reads<(), (u64, Filled)> {
        let (path, bytes, most) = (segment.path(), segment.bytes, self.part_len);
        let wanted = (0..bytes).step_by(most).map(move |at| {
            let len = (bytes - at).min(most as u64) as usize;
            Wanted { path: path.clone(), at, len, room: 0, what: () }
        });
        let share = READ_AHEAD.saturating_mul(most);
        Reads::start(self.origin.clone(), wanted, move || share, |(), part| (crc64(&part), part))
    }

    /// An error of the source that means damage; others end the run.
    fn bad(&self, path: &str, error: StoreError) -> Result<Trouble, EngineError> {
        let what = match error {
            StoreError::NotFound { .. } => "it is missing".to_owned(),
            StoreError::TooLarge { size, .. } => format!("it has {size} bytes"),
            StoreError::Short { size, .. } => format!("it ends at {size} bytes"),
            error => return Err(error.into()),
        };
        Ok(Trouble::new(Side::Source, path.to_owned(), what))
    }
}

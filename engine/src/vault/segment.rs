//! Segments on their way into the store: chunks in part buffers, a footer at the end.
//!
//! On the way of a byte: the connection reads records straight into [`SegmentWriter::room`]; what the intake's walk found good is kept by
//! [`SegmentWriter::keep`], the rest is overwritten by the next records. A full buffer goes to the store's upload as it is, but for an
//! unaligned end (less than a block), which is carried to the next buffer.

use std::sync::Arc;

use bodley_io::store::{SharedStore, StoreError, Upload};
use bodley_io::{BufferPool, Filled, PartBuf};
use bodley_protocol::checksum::{crc64, crc64_combine};

use super::VaultError;
use super::commit::{SegmentRef, segment_path};
use super::rows::{Range, Rows, TopicRow, write_ranges, write_topics};
use super::table::{Table, TableWriter};
use super::walk::Checked;

const MAGIC: &[u8; 8] = b"BDLYSEG1";
/// What a read may need beside the bytes asked for: whole blocks at both ends.
pub(crate) const SLACK: usize = 8 << 10;

/// A segment being written.
pub struct SegmentWriter {
    id: ulid::Ulid,
    alignment: usize,
    pool: Arc<BufferPool>,
    upload: Box<dyn Upload>,
    buf: Option<PartBuf>,
    filled: usize,
    /// Bytes of the segment before the buffer.
    flushed: u64,
    crc: u64,
    /// Of the bytes in the buffer.
    part_crc: u64,
    rows: Vec<Range>,
    /// A buffer is between here and the store: whoever stops there must not finish the segment.
    turning: bool,
}

/// What goes into the footer beside the rows.
pub struct Footer<'a> {
    /// The topics of the segment's chunks.
    pub topics: &'a [TopicRow],
    /// The writer's id, 32 hex digits.
    pub writer: &'a str,
    /// The commit that the run began at.
    pub base: u64,
}

impl SegmentWriter {
    /// Begins a segment in `store`.
    pub async fn create(store: &SharedStore, pool: &Arc<BufferPool>) -> Result<Self, VaultError> {
        let id = ulid::Ulid::generate();
        let upload = store.create(&segment_path(&id.to_string())).await?;
        Ok(Self {
            id,
            alignment: store.alignment(),
            pool: Arc::clone(pool),
            upload,
            buf: None,
            filled: 0,
            flushed: 0,
            crc: 0,
            part_crc: 0,
            rows: Vec::new(),
            turning: false,
        })
    }

    /// Bytes kept so far.
    pub fn len(&self) -> u64 {
        self.flushed + self.filled as u64
    }

    /// Nothing kept yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The segment's ULID, as rows name it.
    pub fn id(&self) -> [u8; 16] {
        self.id.to_bytes()
    }

    /// What is kept, in order.
    pub fn rows(&self) -> &[Range] {
        &self.rows
    }

    /// Ids of the topics whose chunks are kept, sorted.
    pub fn topics(&self) -> Vec<bodley_protocol::TopicId> {
        let ids: std::collections::BTreeSet<_> = self.rows.iter().map(|row| row.topic).collect();
        ids.into_iter().collect()
    }

    /// Makes room for `len` bytes behind what is kept, in one piece.
    pub async fn make_room(&mut self, len: usize) -> Result<(), VaultError> {
        let fits = self.buf.as_ref().is_some_and(|buf| buf.len() - self.filled >= len);
        if fits { Ok(()) } else { self.turn(len).await }
    }

    /// The first `len` bytes of the room that was made.
    pub fn room(&mut self, len: usize) -> &mut [u8] {
        self.buf.as_mut().and_then(|buf| buf.get_mut(self.filled..self.filled + len)).unwrap_or_default()
    }

    /// Copies `bytes` into the room, where they are [`SegmentWriter::pending`].
    pub async fn put(&mut self, bytes: &[u8]) -> Result<(), VaultError> {
        self.make_room(bytes.len()).await?;
        match self.room(bytes.len()) {
            room if room.len() == bytes.len() => room.copy_from_slice(bytes),
            _ => return Err(VaultError::Internal("a part buffer is too short".into())),
        }
        Ok(())
    }

    /// What stands in the room, before it is kept.
    pub fn pending(&self, len: usize) -> &[u8] {
        self.buf.as_ref().and_then(|buf| buf.get(self.filled..self.filled + len)).unwrap_or_default()
    }

    /// Keeps the first `row.stored` bytes of the room as a chunk whose checksum is `row.crc64`. Sets the row's place.
    pub fn keep(&mut self, mut row: Range) {
        row.segment = self.id();
        row.position = self.len();
        self.count(row.crc64, row.stored as usize);
        self.rows.push(row);
    }

    /// The first `len` bytes of the room belong to the segment; their CRC-64 is `crc64`.
    fn count(&mut self, crc64: u64, len: usize) {
        self.crc = crc64_combine(self.crc, crc64, len as u64);
        self.part_crc = crc64_combine(self.part_crc, crc64, len as u64);
        self.filled += len;
    }

    /// Sends the full buffer on its way and takes another.
    async fn turn(&mut self, len: usize) -> Result<(), VaultError> {
        if std::mem::replace(&mut self.turning, true) {
            return Err(VaultError::Internal("a segment was cut while a buffer was handed over".into()));
        }
        let aligned = self.filled - self.filled % self.alignment;
        let mut tail = Vec::new();
        if let Some(buf) = self.buf.take() {
            tail.extend_from_slice(buf.get(aligned..self.filled).unwrap_or_default());
            let part = Filled::new(buf, 0, aligned);
            match tail.is_empty() {
                _ if aligned == 0 => drop(part),
                true => self.upload.write(part.summed(self.part_crc)).await?,
                false => self.upload.write(part).await?,
            }
        }
        // No buffer is held while waiting for one: see the pool.
        let mut next = self.pool.get(tail.len() + len).await.map_err(bodley_io::store::StoreError::from)?;
        if let Some(start) = next.get_mut(..tail.len()) {
            start.copy_from_slice(&tail);
        }
        self.flushed += aligned as u64;
        self.part_crc = if tail.is_empty() { 0 } else { crc64(&tail) };
        self.filled = tail.len();
        self.buf = Some(next);
        self.turning = false;
        Ok(())
    }

    /// Writes the footer and makes the segment durable.
    pub async fn finish(mut self, footer: Footer<'_>) -> Result<(SegmentRef, Vec<Range>), VaultError> {
        if self.turning {
            return Err(VaultError::Internal("a segment was cut while a buffer was handed over".into()));
        }
        let bytes = self.footer(footer)?;
        for piece in bytes.chunks(self.pool.part_len() / 2) {
            self.put(piece).await?;
            self.count(crc64(piece), piece.len());
        }
        let (bytes, filled) = (self.len(), self.filled);
        if let Some(buf) = self.buf.take() {
            self.upload.write(Filled::new(buf, 0, filled).summed(self.part_crc)).await?;
        }
        self.upload.finish().await?;
        let crc64 = format!("{:016x}", self.crc);
        Ok((SegmentRef { id: self.id.to_string(), bytes, crc64, class: 0 }, self.rows))
    }

    fn footer(&self, footer: Footer<'_>) -> Result<Vec<u8>, VaultError> {
        let mut table = TableWriter::default();
        write_ranges(&mut table.section("ranges", self.rows.len()), &self.rows)?;
        write_topics(&mut table.section("topics", footer.topics.len()), footer.topics)?;
        let mut section = table.section("segment", 1);
        let mut writer = [0u8; 16];
        for (byte, digits) in writer.iter_mut().zip(footer.writer.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
        }
        section.fixed("writer", std::iter::once(writer))?;
        section.fixed("base", std::iter::once(footer.base))?;
        let mut bytes = table.finish()?;
        let length = bytes.len() as u64;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        Ok(bytes)
    }
}

/// What is wrong with a chunk, before anything in it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkFlaw {
    /// Its segment is not there.
    Missing,
    /// Its segment ends before it does.
    Cut,
    /// Its CRC-64 is not what its row says.
    Checksum,
}

impl ChunkFlaw {
    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Missing => "the segment is missing",
            Self::Cut => "the segment is cut",
            Self::Checksum => "the CRC-64 of the chunk does not match",
        }
    }
}

/// How many bytes of a chunk, from the start, are whole batches whose CRC-32C is good, if its CRC-64 is what its row says: both are looked at in one pass.
pub(crate) fn check_chunk(chunk: &[u8], row: &Range) -> Result<usize, ChunkFlaw> {
    let mut checked = Checked::default();
    checked.advance(chunk);
    let good = checked.bytes();
    if checked.crc64_of(chunk) == row.crc64 { Ok(good) } else { Err(ChunkFlaw::Checksum) }
}

/// Reads the chunk of `row` from the segment at `path`, and checks it, see [`check_chunk`].
pub(crate) async fn read_chunk(
    store: &SharedStore,
    pool: &Arc<BufferPool>,
    path: &str,
    row: &Range,
) -> Result<Result<(Filled, usize), ChunkFlaw>, StoreError> {
    let len = row.stored as usize;
    let buf = pool.fit(len + SLACK).await?;
    let read = store.read(path, row.position, len, buf).await;
    flaw_of(read.map(|chunk| check_chunk(&chunk, row).map(|good| (chunk, good))))
}

/// What a failed read says of the chunk that was to be read. Other errors are the store's.
pub(crate) fn flaw_of<T>(
    read: Result<Result<T, ChunkFlaw>, StoreError>,
) -> Result<Result<T, ChunkFlaw>, StoreError> {
    match read {
        Err(StoreError::NotFound { .. }) => Ok(Err(ChunkFlaw::Missing)),
        Err(StoreError::Short { .. }) => Ok(Err(ChunkFlaw::Cut)),
        read => read,
    }
}

/// Bytes of the trailer behind the footer: its length and the magic.
pub const TRAILER_LEN: usize = 16;

/// Largest footer that is read, bytes.
pub const MAX_FOOTER: u64 = 1 << 30;

/// Reads the rows in the footer of the segment of `size` bytes at `path`: those of its chunks and of their topics.
pub async fn read_footer(
    store: &SharedStore,
    path: &str,
    size: u64,
    pool: &Arc<BufferPool>,
) -> Result<Rows, VaultError> {
    let damaged = |what: &str| VaultError::damaged(path, format!("its footer {what}"));
    let cut = |error| match error {
        StoreError::NotFound { .. } | StoreError::Short { .. } => damaged("is cut or missing"),
        error => error.into(),
    };
    let behind = size.checked_sub(TRAILER_LEN as u64).ok_or_else(|| damaged("is cut"))?;
    let buf = pool.get(TRAILER_LEN + SLACK).await.map_err(StoreError::from)?;
    let trailer = store.read(path, behind, TRAILER_LEN, buf).await.map_err(cut)?;
    let len = footer_len(&trailer).ok_or_else(|| damaged("is missing"))?;
    drop(trailer);
    let at = behind.checked_sub(len).ok_or_else(|| damaged("is longer than the segment"))?;
    if len > MAX_FOOTER {
        return Err(damaged("is longer than any footer"));
    }
    let buf = pool.get(len as usize + SLACK).await.map_err(StoreError::from)?;
    let bytes = store.read(path, at, len as usize, buf).await.map_err(cut)?;
    Rows::decode(&Table::open(path, &bytes)?)
}

/// The length of the footer table, from the last [`TRAILER_LEN`] bytes of a segment.
pub fn footer_len(trailer: &[u8]) -> Option<u64> {
    let (length, magic) = trailer.split_first_chunk::<8>()?;
    (magic == MAGIC).then(|| u64::from_le_bytes(*length))
}

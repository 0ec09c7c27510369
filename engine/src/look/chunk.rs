//! One chunk: read, checked, and gone through batch by batch.

use std::ops::Range as Span;
use std::sync::Arc;

use bodley_io::store::SharedStore;
use bodley_io::{BufferPool, Filled};
use bodley_protocol::batch::{self, Header};

use crate::error::EngineError;
use crate::vault::aborted::Aborted;
use crate::vault::rows::{AbortedRow, Range};
use crate::vault::segment::{ChunkFlaw, read_chunk};

/// A chunk in memory, whose CRC-64 is right.
pub(super) struct Chunk {
    bytes: Filled,
    /// The next batch.
    at: usize,
    /// Batches up to here have a good CRC-32C.
    checked: usize,
    offsets: Span<i64>,
    aborted: Aborted,
}

impl Chunk {
    /// Reads the chunk of `row`. `aborted`: all of its partition.
    pub async fn read(
        (store, pool): (&SharedStore, &Arc<BufferPool>),
        topic: &str,
        row: &Range,
        aborted: &[AbortedRow],
    ) -> Result<Self, EngineError> {
        let read = read_chunk(store, pool, &row.segment_path(), row).await?;
        Self::open(read, topic, row, aborted)
    }

    /// Of what was read, of which so many bytes from the start are checked.
    pub fn open(
        read: Result<(Filled, usize), ChunkFlaw>,
        topic: &str,
        row: &Range,
        aborted: &[AbortedRow],
    ) -> Result<Self, EngineError> {
        let flawed = |flaw: ChunkFlaw| damaged(topic, row, row.first..row.next, flaw.words().to_owned());
        let (bytes, checked) = read.map_err(flawed)?;
        // What another rewind epoch aborted was of another log.
        let aborted = aborted
            .iter()
            .filter(|of| of.rewind == row.rewind && of.first < row.next && of.marker > row.first);
        let (offsets, aborted) = (row.first..row.next, Aborted::from_rows(aborted));
        Ok(Self { bytes, at: 0, checked, offsets, aborted })
    }

    /// The offsets that count: the first batch may begin below.
    pub fn offsets(&self) -> Span<i64> {
        self.offsets.clone()
    }

    /// The next batch that a consumer may see records of; `None` behind the last one. An error says in words how it is damaged, and what follows can't be
    /// told apart.
    pub fn next(&mut self) -> Result<Option<(Header, &[u8])>, String> {
        while self.at < self.bytes.len() {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let viewed = if self.at < self.checked { batch::view(rest) } else { batch::view_checked(rest) };
            let header = viewed.map_err(|e| e.to_string())?.ok_or("a batch is cut")?;
            let place = self.at..self.at + header.size;
            self.at = place.end;
            let counts = header.last_offset() >= self.offsets.start && header.base_offset < self.offsets.end;
            if counts && header.record_count > 0 && !self.is_hidden(&header) {
                return Ok(Some((header, self.bytes.get(place).unwrap_or_default())));
            }
        }
        Ok(None)
    }

    fn is_hidden(&self, header: &Header) -> bool {
        header.is_control()
            || header.is_transactional()
                && self.aborted.covers(header.producer_id, header.base_offset, header.last_offset())
    }
}

/// Damage of a chunk, or of some offsets of it.
pub(super) fn damaged(topic: &str, row: &Range, offsets: Span<i64>, what: String) -> EngineError {
    let (object, topic) = (row.segment_path(), topic.to_owned());
    EngineError::Damaged { object, what, topic, partition: row.partition, offsets }
}

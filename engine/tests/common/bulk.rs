//! Vaults with much in them, as a backup lays it out: the partitions' chunks in turns.

use std::sync::Arc;

use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{Kind, Rows, TopicRow};
use bodley_engine::vault::segment::{Footer, SegmentWriter};
use bodley_io::BufferPool;
use bodley_io::store::SharedStore;
use bodley_protocol::batch::{self, HEADER_LEN};
use bodley_protocol::checksum::crc64;
use bodley_protocol::codecs::Codec;
use bodley_protocol::records::Builder;

use super::sample::{row, topic_row};

/// Bytes of a record's value.
const VALUE: usize = 1000;

/// How much, and how it is laid out.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    pub partitions: u32,
    /// Of each partition.
    pub chunks: usize,
    /// Batches of a chunk, and records of a batch.
    pub batches: usize,
    pub records: usize,
    /// Chunks of a segment, which is a commit.
    pub segment: usize,
}

impl Bulk {
    /// Records of a partition.
    pub fn depth(&self) -> i64 {
        (self.chunks * self.batches * self.records) as i64
    }

    /// Bytes of all chunks.
    pub fn bytes(&self) -> usize {
        self.partitions as usize * self.chunks * self.batches * batch_of(self.records).len()
    }

    /// Writes it into a new vault.
    pub async fn put(&self, store: &SharedStore) {
        let pool = BufferPool::new(8 << 20, 64 << 20);
        let mut vault = Vault::create(Arc::clone(store), "cluster").await.unwrap();
        let batch = batch_of(self.records);
        let count = (self.batches * self.records) as i64;
        let turns: Vec<(u32, i64)> = (0..self.chunks as i64)
            .flat_map(|chunk| (0..self.partitions).map(move |partition| (partition, chunk * count)))
            .collect();
        let topics = [TopicRow { partitions: self.partitions, ..topic_row() }];
        let mut begun = vec![-1; self.partitions as usize];
        for turns in turns.chunks(self.segment) {
            let mut writer = SegmentWriter::create(store, &pool).await.unwrap();
            let before = begun.clone();
            for (partition, first) in turns {
                let bytes = self.chunk(&batch, *first);
                writer.put(&bytes).await.unwrap();
                let mut row = row(*partition, *first..*first + count, before[*partition as usize]);
                (row.kind, row.stored, row.crc64) = (Kind::Data, bytes.len() as u32, crc64(&bytes));
                (row.records, row.kept, row.max_ts) = (count, count, first + count - 1);
                (row.min_ts, row.base_ts) = (*first, *first);
                writer.keep(row);
                begun[*partition as usize] = first + count;
            }
            let footer = Footer { topics: &topics, writer: &"ab".repeat(16), base: 1 };
            let (segment, ranges) = writer.finish(footer).await.unwrap();
            let rows = Rows { ranges, topics: topics.to_vec(), ..Rows::default() };
            vault.append(Addition { segments: vec![segment], rows }).await.unwrap();
        }
    }

    fn chunk(&self, batch: &[u8], first: i64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.batches * batch.len());
        for n in 0..self.batches {
            let mut header = batch::view(batch).unwrap().unwrap();
            header.base_offset = first + (n * self.records) as i64;
            (header.base_timestamp, header.max_timestamp) =
                (header.base_offset, header.base_offset + self.records as i64 - 1);
            bytes.extend(batch::encode(&header, &batch[HEADER_LEN..]));
        }
        bytes
    }
}

/// A batch whose records have the times 0, 1, 2, …
fn batch_of(records: usize) -> Vec<u8> {
    // No key, a value, no headers; lengths are zigzag varints.
    let (low, high) = ((2 * VALUE % 128 + 128) as u8, (2 * VALUE / 128) as u8);
    let mut builder = Builder::new(Codec::None);
    let mut random = fastrand::Rng::with_seed(1);
    for n in 0..records {
        let value = std::iter::repeat_with(|| random.u8(..)).take(VALUE);
        let body: Vec<u8> = [1, low, high].into_iter().chain(value).chain([0]).collect();
        builder.push(n as i64, 0, &body);
    }
    builder.finish().unwrap()
}

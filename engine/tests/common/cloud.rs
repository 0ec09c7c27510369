//! Stores with the habits of those across a network, in memory.

use async_trait::async_trait;
use bodley_io::store::memory::MemoryStore;
use bodley_io::store::{Object, Put, Stat, Store, StoreError, Upload};
use bodley_io::{Filled, PartBuf};
use bodley_protocol::checksum::crc64;
use bytes::Bytes;

/// What such a store does.
#[derive(Debug, Clone)]
pub struct Cloud {
    pub memory: MemoryStore,
    /// Put-if-absent is ignored.
    pub overwrites: bool,
    /// The user said `--single-writer`: a look comes before each put.
    pub looks_first: bool,
    /// Of part buffers.
    pub part_len: usize,
    /// CRC-64 are kept.
    pub sums: bool,
    /// Unfinished uploads of earlier runs; `None`: they can't be listed.
    pub uploads: Option<usize>,
}

impl Cloud {
    pub fn new(memory: &MemoryStore) -> Self {
        let memory = memory.clone();
        Self {
            memory,
            overwrites: false,
            looks_first: false,
            part_len: 16 << 10,
            sums: true,
            uploads: Some(0),
        }
    }

    /// One that ignores put-if-absent.
    pub fn overwriting(memory: &MemoryStore) -> Self {
        Self { overwrites: true, ..Self::new(memory) }
    }

    /// The same, for one writer.
    pub fn single_writer(memory: &MemoryStore) -> Self {
        Self { looks_first: true, ..Self::overwriting(memory) }
    }
}

#[async_trait]
impl Store for Cloud {
    fn url(&self) -> String {
        "cloud:".into()
    }

    fn alignment(&self) -> usize {
        1
    }

    fn part_len(&self) -> usize {
        self.part_len
    }

    fn decides_races(&self) -> bool {
        !self.looks_first
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        self.memory.create(path).await
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        if self.looks_first && self.memory.size(path).await?.is_some() {
            return Ok(Put::Exists);
        }
        if self.overwrites {
            self.memory.delete(path).await?;
        }
        self.memory.put_if_absent(path, body).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.memory.get(path, limit).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        self.memory.read(path, at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let stat = self.memory.stat(path).await?;
        let sum = |path| self.memory.objects().get(path).map(|bytes| crc64(bytes));
        Ok(stat.map(|stat| Stat { crc64: self.sums.then(|| sum(path)).flatten(), ..stat }))
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.memory.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.memory.delete(path).await
    }

    async fn tidy(&self) -> Result<usize, StoreError> {
        let denied =
            || StoreError::io("list uploads below", "data/", std::io::ErrorKind::PermissionDenied.into());
        self.uploads.ok_or_else(denied)
    }
}

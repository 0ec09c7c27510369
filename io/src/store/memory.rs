//! A store in memory, for tests of everything above the port.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{LIST_PAGE, Object, Put, Stat, Store, StoreError, Upload};
use crate::buffers::{Filled, PartBuf};

/// Objects in a map. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The objects, for tests that damage them.
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, path: &str) -> Result<Bytes, StoreError> {
        self.objects().get(path).cloned().ok_or_else(|| StoreError::NotFound { object: path.to_owned() })
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn url(&self) -> String {
        "memory:".into()
    }

    fn alignment(&self) -> usize {
        1
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(MemoryUpload { store: self.clone(), path: path.to_owned(), bytes: Vec::new() }))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        let mut objects = self.objects();
        if objects.contains_key(path) {
            return Ok(Put::Exists);
        }
        objects.insert(path.to_owned(), body);
        Ok(Put::Created)
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        let bytes = self.find(path)?;
        let size = bytes.len() as u64;
        if size > limit {
            return Err(StoreError::TooLarge { object: path.to_owned(), size, limit });
        }
        Ok(bytes)
    }

    async fn read(&self, path: &str, at: u64, len: usize, mut buf: PartBuf) -> Result<Filled, StoreError> {
        let bytes = self.find(path)?;
        let end = at.saturating_add(len as u64);
        let range = bytes.get(at as usize..end as usize);
        match (range, buf.get_mut(..len)) {
            (Some(range), Some(room)) => room.copy_from_slice(range),
            _ => {
                let size = bytes.len() as u64;
                return Err(StoreError::Short { object: path.to_owned(), size, wanted: end });
            }
        }
        Ok(Filled::new(buf, 0, len))
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        Ok(self.objects().get(path).map(|bytes| Stat::of_size(bytes.len() as u64)))
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let objects = self.objects();
        let from = if after > prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        let range = objects.range::<str, _>((from, Bound::Unbounded));
        let matching = range.take_while(|(path, _)| path.starts_with(prefix)).take(LIST_PAGE);
        Ok(matching.map(|(path, bytes)| Object { path: path.clone(), size: bytes.len() as u64 }).collect())
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.objects().remove(path);
        Ok(())
    }
}

struct MemoryUpload {
    store: MemoryStore,
    path: String,
    bytes: Vec<u8>,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, part: Filled) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(&part);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        match self.store.put_if_absent(&self.path, self.bytes.into()).await? {
            Put::Created => Ok(()),
            Put::Exists => Err(StoreError::Exists { object: self.path }),
        }
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn conformance() {
        crate::store::conformance(&super::MemoryStore::new()).await.unwrap();
    }
}

//! A store that is far away: each operation takes its time, and what is under way is counted. It may also know more of its objects than they hold.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bodley_io::store::{Object, Put, SharedStore, Stat, Store, StoreError, Upload};
use bodley_io::{Filled, PartBuf};
use bytes::Bytes;

/// How many operations of a kind there were.
#[derive(Debug, Default)]
pub struct Traffic {
    pub requests: AtomicUsize,
    pub bytes: AtomicUsize,
    now: AtomicUsize,
    now_bytes: AtomicUsize,
    /// At a time.
    pub most: AtomicUsize,
    pub most_bytes: AtomicUsize,
}

impl Traffic {
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub fn most_bytes(&self) -> usize {
        self.most_bytes.load(Ordering::SeqCst)
    }

    fn begin(&self, len: usize) -> UnderWay<'_> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(len, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        let bytes = self.now_bytes.fetch_add(len, Ordering::SeqCst) + len;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.most_bytes.fetch_max(bytes, Ordering::SeqCst);
        UnderWay(self, len)
    }
}

struct UnderWay<'a>(&'a Traffic, usize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
        self.0.now_bytes.fetch_sub(self.1, Ordering::SeqCst);
    }
}

/// Ranged reads, whole objects, looks at objects.
#[derive(Debug, Default)]
pub struct Counted {
    pub reads: Traffic,
    pub gets: Traffic,
    pub stats: Traffic,
}

#[derive(Debug)]
pub struct Distant {
    inner: SharedStore,
    delay: Duration,
    pub counted: Arc<Counted>,
    /// What it says of objects in place of what it would.
    pub told: Arc<Mutex<BTreeMap<String, Stat>>>,
}

impl Distant {
    pub fn new(inner: SharedStore, delay: Duration) -> Self {
        Self { inner, delay, counted: Arc::default(), told: Arc::default() }
    }

    async fn wait(&self) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }
}

#[async_trait]
impl Store for Distant {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    fn part_len(&self) -> usize {
        self.inner.part_len()
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        self.inner.create(path).await
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        self.wait().await;
        self.inner.put_if_absent(path, body).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        let _under_way = self.counted.gets.begin(0);
        self.wait().await;
        self.inner.get(path, limit).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        let _under_way = self.counted.reads.begin(len);
        self.wait().await;
        self.inner.read(path, at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let _under_way = self.counted.stats.begin(0);
        self.wait().await;
        let told = self.told.lock().unwrap().get(path).cloned();
        if told.is_some() { Ok(told) } else { self.inner.stat(path).await }
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.wait().await;
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.wait().await;
        self.inner.delete(path).await
    }
}

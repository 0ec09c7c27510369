//! Policies around a store: each does one thing and passes the rest on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{Object, Put, SharedStore, Stat, Store, StoreError, Upload};
use crate::backoff::Backoff;
use crate::buffers::{Filled, PartBuf};
use crate::latency::{Kind, Latencies, Stopwatch};
use crate::throttle::Throttle;

/// What a store is like does not change by what stands around it. One that is forgotten would fall back to the port's default.
macro_rules! as_inside {
    () => {
        fn url(&self) -> String {
            self.inner.url()
        }

        fn alignment(&self) -> usize {
            self.inner.alignment()
        }

        fn part_len(&self) -> usize {
            self.inner.part_len()
        }

        fn decides_races(&self) -> bool {
            self.inner.decides_races()
        }
    };
}

/// Repeats operations that failed for a passing reason. Uploads are not repeated: after a failed write or sync nobody knows
/// what is on the disk.
#[derive(Debug)]
pub struct Retry {
    inner: SharedStore,
    give_up_after: Duration,
}

impl Retry {
    /// Gives up on an operation after `give_up_after`.
    pub fn new(inner: SharedStore, give_up_after: Duration) -> Self {
        Self { inner, give_up_after }
    }

    async fn run<T, F>(&self, operation: impl Fn() -> F + Send) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut backoff = Backoff::new(self.give_up_after);
        loop {
            match operation().await {
                Err(error) if error.is_transient() && backoff.wait().await => {
                    tracing::debug!("again: {error}");
                }
                result => return result,
            }
        }
    }
}

#[async_trait]
impl Store for Retry {
    as_inside!();

    async fn tidy(&self) -> Result<usize, StoreError> {
        self.run(|| self.inner.tidy()).await
    }

    async fn confirm(&self, path: &str) -> Result<(), StoreError> {
        self.run(|| self.inner.confirm(path)).await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        self.run(|| self.inner.create(path)).await
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        // A first attempt may have had its effect: then the second finds its own object, which counts as created.
        let mut backoff = Backoff::new(self.give_up_after);
        let mut unclear = false;
        loop {
            match self.inner.put_if_absent(path, body.clone()).await {
                Err(error) if error.is_transient() && backoff.wait().await => unclear = true,
                Ok(Put::Exists) if unclear => {
                    let found = self.get(path, body.len() as u64).await;
                    return Ok(if found.is_ok_and(|found| found == body) {
                        Put::Created
                    } else {
                        Put::Exists
                    });
                }
                result => return result,
            }
        }
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.run(|| self.inner.get(path, limit)).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        // The buffer is gone with a failed read; ranged reads of a local file don't fail for passing reasons.
        self.inner.read(path, at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        self.run(|| self.inner.stat(path)).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.run(|| self.inner.list(prefix, after)).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.run(|| self.inner.delete(path)).await
    }
}

/// Bounds how many operations are under way at a time. Uploads do not count.
#[derive(Debug)]
pub struct Limit {
    inner: SharedStore,
    permits: Arc<Semaphore>,
}

impl Limit {
    /// At most `operations` at a time.
    pub fn new(inner: SharedStore, operations: usize) -> Self {
        Self { inner, permits: Arc::new(Semaphore::new(operations.max(1))) }
    }
}

#[async_trait]
impl Store for Limit {
    as_inside!();

    async fn tidy(&self) -> Result<usize, StoreError> {
        self.inner.tidy().await
    }

    async fn confirm(&self, path: &str) -> Result<(), StoreError> {
        let _permit = self.permits.acquire().await;
        self.inner.confirm(path).await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        // An upload lives as long as its segment: it must not keep a commit from being written, so it takes no permit.
        self.inner.create(path).await
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        let _permit = self.permits.acquire().await;
        self.inner.put_if_absent(path, body).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        let _permit = self.permits.acquire().await;
        self.inner.get(path, limit).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        let _permit = self.permits.acquire().await;
        self.inner.read(path, at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let _permit = self.permits.acquire().await;
        self.inner.stat(path).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let _permit = self.permits.acquire().await;
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let _permit = self.permits.acquire().await;
        self.inner.delete(path).await
    }
}

/// Bounds the bytes per second that are written, and those that are read.
#[derive(Debug)]
pub struct Throttled {
    inner: SharedStore,
    read: Option<Arc<Throttle>>,
    write: Option<Arc<Throttle>>,
}

impl Throttled {
    /// `None`: no bound.
    pub fn new(inner: SharedStore, read: Option<Arc<Throttle>>, write: Option<Arc<Throttle>>) -> Self {
        Self { inner, read, write }
    }
}

async fn take(throttle: Option<&Arc<Throttle>>, bytes: usize) {
    if let Some(throttle) = throttle {
        throttle.take(bytes as u64).await;
    }
}

#[async_trait]
impl Store for Throttled {
    as_inside!();

    async fn tidy(&self) -> Result<usize, StoreError> {
        self.inner.tidy().await
    }

    async fn confirm(&self, path: &str) -> Result<(), StoreError> {
        self.inner.confirm(path).await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.inner.create(path).await?;
        Ok(Box::new(ThrottledUpload { inner, write: self.write.clone() }))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        take(self.write.as_ref(), body.len()).await;
        self.inner.put_if_absent(path, body).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        let bytes = self.inner.get(path, limit).await?;
        take(self.read.as_ref(), bytes.len()).await;
        Ok(bytes)
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        take(self.read.as_ref(), len).await;
        self.inner.read(path, at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        self.inner.stat(path).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.inner.delete(path).await
    }
}

struct ThrottledUpload {
    inner: Box<dyn Upload>,
    write: Option<Arc<Throttle>>,
}

#[async_trait]
impl Upload for ThrottledUpload {
    async fn write(&mut self, part: Filled) -> Result<(), StoreError> {
        take(self.write.as_ref(), part.len()).await;
        self.inner.write(part).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.finish().await
    }
}

/// Measures parts on their way in, and ranged reads. Small objects and the sync at an object's end are left out: they are few, and other than these.
///
/// A part counts from its handing over until the store lets go of its buffer: a store that writes some at a time makes the next one wait, and
/// that counts.
#[derive(Debug)]
pub struct Measured {
    inner: SharedStore,
    latencies: Arc<Latencies>,
}

impl Measured {
    /// Records in `latencies`.
    pub fn new(inner: SharedStore, latencies: Arc<Latencies>) -> Self {
        Self { inner, latencies }
    }
}

#[async_trait]
impl Store for Measured {
    as_inside!();

    async fn tidy(&self) -> Result<usize, StoreError> {
        self.inner.tidy().await
    }

    async fn confirm(&self, path: &str) -> Result<(), StoreError> {
        self.inner.confirm(path).await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.inner.create(path).await?;
        Ok(Box::new(MeasuredUpload { inner, latencies: Arc::clone(&self.latencies) }))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        self.inner.put_if_absent(path, body).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.inner.get(path, limit).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        let _watch = Stopwatch::start(&self.latencies, Kind::Read);
        self.inner.read(path, at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        self.inner.stat(path).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.inner.delete(path).await
    }
}

struct MeasuredUpload {
    inner: Box<dyn Upload>,
    latencies: Arc<Latencies>,
}

#[async_trait]
impl Upload for MeasuredUpload {
    async fn write(&mut self, part: Filled) -> Result<(), StoreError> {
        let watch = Stopwatch::start(&self.latencies, Kind::Store);
        self.inner.write(part.measured(watch)).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.finish().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::store::memory::MemoryStore;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn each_passes_the_suite() {
        conformance(&Retry::new(Arc::new(MemoryStore::new()), Duration::from_secs(1))).await.unwrap();
        conformance(&Limit::new(Arc::new(MemoryStore::new()), 1)).await.unwrap();
        let throttle = Some(Arc::new(Throttle::new(1 << 34)));
        conformance(&Throttled::new(Arc::new(MemoryStore::new()), throttle.clone(), throttle)).await.unwrap();
        let latencies = Arc::new(Latencies::default());
        conformance(&Measured::new(Arc::new(MemoryStore::new()), Arc::clone(&latencies))).await.unwrap();
        let measured: Vec<_> = latencies.summaries().named().map(|(name, _)| name).collect();
        assert_eq!(measured, ["store", "read"]);
    }

    /// Fails every operation `failures` times for a passing reason, after its effect.
    #[derive(Debug)]
    struct Flaky(MemoryStore, AtomicU32);

    impl Flaky {
        fn fail<T>(&self, value: T) -> Result<T, StoreError> {
            let left = self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            let busy = || StoreError::io("put", "x", std::io::ErrorKind::TimedOut.into());
            if left.is_ok() { Err(busy()) } else { Ok(value) }
        }
    }

    #[async_trait]
    impl Store for Flaky {
        fn url(&self) -> String {
            self.0.url()
        }
        fn alignment(&self) -> usize {
            1
        }
        async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
            self.0.create(path).await
        }
        async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
            let put = self.0.put_if_absent(path, body).await?;
            self.fail(put)
        }
        async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
            self.fail(self.0.get(path, limit).await?)
        }
        async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
            self.0.read(path, at, len, buf).await
        }
        async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
            self.0.stat(path).await
        }
        async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
            self.0.list(prefix, after).await
        }
        async fn delete(&self, path: &str) -> Result<(), StoreError> {
            self.0.delete(path).await
        }
    }

    #[tokio::test]
    async fn a_put_whose_answer_was_lost_is_ours() {
        let store =
            Retry::new(Arc::new(Flaky(MemoryStore::new(), AtomicU32::new(3))), Duration::from_secs(5));
        assert_eq!(store.put_if_absent("a", Bytes::from_static(b"1")).await.unwrap(), Put::Created);
        assert_eq!(store.put_if_absent("a", Bytes::from_static(b"2")).await.unwrap(), Put::Exists);
        assert_eq!(store.get("a", 10).await.unwrap(), Bytes::from_static(b"1"));
        let hopeless =
            Retry::new(Arc::new(Flaky(MemoryStore::new(), AtomicU32::new(1000))), Duration::from_millis(80));
        assert!(hopeless.put_if_absent("a", Bytes::new()).await.unwrap_err().is_transient());
    }

    #[tokio::test]
    async fn a_throttle_slows_down() {
        let store = Throttled::new(Arc::new(MemoryStore::new()), None, Some(Arc::new(Throttle::new(10_000))));
        let start = std::time::Instant::now();
        store.put_if_absent("a", Bytes::from(vec![0; 2_000])).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(190));
    }
}

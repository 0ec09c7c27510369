//! A store behind which the process stands still: at its Nth operation, before or after the effect. It is dropped there, or goes on later.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bodley_io::store::{Object, Put, SharedStore, Stat, Store, StoreError, Upload};
use bodley_io::{Filled, PartBuf};
use bytes::Bytes;
use tokio::sync::Notify;

/// Where it stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The operation, from 1.
    pub at: usize,
    /// It has had its effect.
    pub after: bool,
}

#[derive(Debug)]
struct Clockwork {
    stop: Option<Stop>,
    operations: AtomicUsize,
    stopped: Notify,
    thawed: Notify,
    names: Mutex<Vec<&'static str>>,
}

/// See the head of the file.
#[derive(Debug, Clone)]
pub struct Frozen {
    inner: SharedStore,
    clockwork: Arc<Clockwork>,
}

impl Frozen {
    pub fn new(inner: SharedStore, stop: Option<Stop>) -> Self {
        let (operations, stopped, thawed, names) = Default::default();
        Self { inner, clockwork: Arc::new(Clockwork { stop, operations, stopped, thawed, names }) }
    }

    /// The operations so far, by name.
    pub fn operations(&self) -> Vec<&'static str> {
        self.clockwork.names.lock().unwrap().clone()
    }

    /// Runs `work` until its end, or until it stands still: `None`.
    pub async fn live<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.clockwork.stopped.notified() => None,
            done = work => Some(done),
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.clockwork.thawed.notify_one();
    }
}

impl Clockwork {
    async fn around<T>(&self, name: &'static str, effect: impl Future<Output = T>) -> T {
        self.names.lock().unwrap().push(name);
        let n = 1 + self.operations.fetch_add(1, Ordering::SeqCst);
        let Some(stop) = self.stop.filter(|stop| stop.at == n) else { return effect.await };
        let still = async {
            self.stopped.notify_one();
            self.thawed.notified().await;
        };
        if stop.after {
            let done = effect.await;
            still.await;
            return done;
        }
        still.await;
        effect.await
    }
}

#[async_trait]
impl Store for Frozen {
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

    async fn confirm(&self, path: &str) -> Result<(), StoreError> {
        self.clockwork.around("confirm", self.inner.confirm(path)).await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.clockwork.around("create", self.inner.create(path)).await?;
        Ok(Box::new(FrozenUpload { inner, clockwork: Arc::clone(&self.clockwork) }))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        self.clockwork.around("put", self.inner.put_if_absent(path, body)).await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.clockwork.around("get", self.inner.get(path, limit)).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        self.clockwork.around("read", self.inner.read(path, at, len, buf)).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        self.clockwork.around("size", self.inner.stat(path)).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.clockwork.around("list", self.inner.list(prefix, after)).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.clockwork.around("delete", self.inner.delete(path)).await
    }
}

struct FrozenUpload {
    inner: Box<dyn Upload>,
    clockwork: Arc<Clockwork>,
}

#[async_trait]
impl Upload for FrozenUpload {
    async fn write(&mut self, part: Filled) -> Result<(), StoreError> {
        self.clockwork.around("write", self.inner.write(part)).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.clockwork.around("finish", self.inner.finish()).await
    }
}

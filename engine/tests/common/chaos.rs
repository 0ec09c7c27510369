//! A store that does to a writer what real ones do, by seed: delays, answers that get lost, effects that come after the answer, requests
//! that are sent twice, listings that are short or say a name twice. All in the runtime's time, so a paused clock makes it fast and a seed repeats it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bodley_io::store::memory::MemoryStore;
use bodley_io::store::{Object, Put, Stat, Store, StoreError, Upload};
use bodley_io::{Filled, PartBuf};
use bytes::Bytes;

/// How often each fault was done, over all seeds: a test that never met one proves nothing about it.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Tally {
    pub fn add(&self, what: &'static str) {
        *self.0.lock().unwrap().entry(what).or_default() += 1;
    }

    pub fn get(&self, what: &str) -> u64 {
        self.0.lock().unwrap().get(what).copied().unwrap_or_default()
    }
}

/// All that [`Chaos`] does, as [`Tally`] names it.
pub const FAULTS: [&str; 12] = [
    "put: answer lost",
    "put: late",
    "put: no effect",
    "put: repeated later",
    "put: repeated at once",
    "finish: answer lost",
    "finish: late",
    "finish: no effect",
    "list: newest left out",
    "list: names twice",
    "list: from the start",
    "read: failed",
];

/// One writer's view of a memory store.
#[derive(Debug, Clone)]
pub struct Chaos {
    inner: MemoryStore,
    random: Arc<Mutex<fastrand::Rng>>,
    /// Faults in a thousand operations.
    rate: u32,
    /// Listings never go on from where they are asked to.
    stuck: bool,
    tally: Tally,
}

impl Chaos {
    pub fn new(inner: MemoryStore, seed: u64, rate: u32, tally: Tally) -> Self {
        Self {
            inner,
            random: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
            rate,
            stuck: false,
            tally,
        }
    }

    /// Its listings begin at the start each time.
    pub fn stuck(self) -> Self {
        Self { stuck: true, ..self }
    }

    fn below(&self, n: u32) -> u32 {
        self.random.lock().unwrap().u32(0..n)
    }

    fn fault(&self) -> bool {
        self.below(1000) < self.rate
    }

    async fn pause(&self, most: u32) {
        let ms = self.below(most);
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms.into())).await;
        }
    }

    /// Half of the errors may be tried again, half not.
    fn error(&self, operation: &'static str, path: &str) -> StoreError {
        let kind = if self.below(2) == 0 { ErrorKind::TimedOut } else { ErrorKind::ConnectionReset };
        StoreError::io(operation, path, kind.into())
    }

    fn later(&self, path: &str, body: Bytes) {
        let (chaos, path) = (self.clone(), path.to_owned());
        tokio::spawn(async move {
            chaos.pause(5000).await;
            let _ = chaos.inner.put_if_absent(&path, body).await;
        });
    }

    async fn before_read(&self, path: &str) -> Result<(), StoreError> {
        self.pause(20).await;
        if self.fault() {
            self.tally.add("read: failed");
            return Err(self.error("read", path));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Chaos {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.inner.create(path).await?;
        Ok(Box::new(ChaosUpload { inner, chaos: self.clone(), path: path.to_owned() }))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        self.pause(20).await;
        if !self.fault() {
            let answer = self.inner.put_if_absent(path, body).await;
            self.pause(20).await;
            return answer;
        }
        match self.below(5) {
            0 => {
                self.tally.add("put: answer lost");
                self.inner.put_if_absent(path, body).await?;
                self.pause(200).await;
                Err(self.error("put", path))
            }
            1 => {
                self.tally.add("put: late");
                self.later(path, body);
                self.pause(200).await;
                Err(self.error("put", path))
            }
            2 => {
                self.tally.add("put: no effect");
                Err(self.error("put", path))
            }
            3 => {
                self.tally.add("put: repeated later");
                self.later(path, body.clone());
                self.inner.put_if_absent(path, body).await
            }
            _ => {
                // What answers is the second one.
                self.tally.add("put: repeated at once");
                self.inner.put_if_absent(path, body.clone()).await?;
                self.pause(20).await;
                self.inner.put_if_absent(path, body).await
            }
        }
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.before_read(path).await?;
        self.inner.get(path, limit).await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        self.before_read(path).await?;
        self.inner.read(path, at, len, buf).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        self.before_read(path).await?;
        self.inner.stat(path).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        self.before_read(prefix).await?;
        // A listing is the least reliable answer, whatever the rate.
        let again = self.below(4) == 0 || self.stuck;
        if again {
            self.tally.add("list: from the start");
        }
        let mut page = self.inner.list(prefix, if again { "" } else { after }).await?;
        if !self.stuck && self.below(4) == 0 && !page.is_empty() {
            self.tally.add("list: newest left out");
            let left_out = 1 + self.below(page.len() as u32) as usize;
            page.truncate(page.len() - left_out);
        }
        if self.below(4) == 0 && !page.is_empty() {
            self.tally.add("list: names twice");
            let again = page[self.below(page.len() as u32) as usize..].to_vec();
            page.extend(again);
        }
        self.pause(20).await;
        Ok(page)
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.inner.delete(path).await
    }
}

struct ChaosUpload {
    inner: Box<dyn Upload>,
    chaos: Chaos,
    path: String,
}

#[async_trait]
impl Upload for ChaosUpload {
    async fn write(&mut self, part: Filled) -> Result<(), StoreError> {
        self.chaos.pause(10).await;
        self.inner.write(part).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.chaos.pause(20).await;
        if !self.chaos.fault() {
            return self.inner.finish().await;
        }
        let error = self.chaos.error("finish", &self.path);
        match self.chaos.below(3) {
            0 => {
                self.chaos.tally.add("finish: answer lost");
                self.inner.finish().await?;
            }
            1 => {
                self.chaos.tally.add("finish: late");
                tokio::spawn(async move {
                    self.chaos.pause(5000).await;
                    let _ = self.inner.finish().await;
                });
            }
            _ => self.chaos.tally.add("finish: no effect"),
        }
        Err(error)
    }
}

//! A large object in parts, several in flight. The part buffers are the request bodies.

use std::sync::Arc;

use async_trait::async_trait;
use bodley_io::Filled;
use bodley_io::store::{StoreError, Upload};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Payload;

/// Parts of one object in flight.
const IN_FLIGHT: usize = 6;

/// How a store takes an object in parts. Parts are numbered from 0.
#[async_trait]
pub(crate) trait PartStore: Send + Sync + 'static {
    /// What the store gives for a part, to be shown at the end.
    type Done: Send + 'static;

    /// A part that is not the last has at least so many bytes.
    fn least(&self) -> u64;

    /// All parts but the last have exactly so many bytes, if that matters.
    fn exactly(&self) -> Option<u64> {
        None
    }

    /// Parts of an object, at most.
    fn most(&self) -> usize;

    /// The object's path in the vault.
    fn object(&self) -> &str;

    /// An object that fits into one request.
    async fn whole(&self, payload: Payload) -> Result<(), StoreError>;

    /// A part. The first one begins the upload, if that takes a request of its own.
    async fn part(&self, index: usize, payload: Payload) -> Result<Self::Done, StoreError>;

    /// Joins the parts. `crc64` is the CRC-64/NVME of all `len` bytes.
    async fn join(&self, parts: Vec<Self::Done>, len: u64, crc64: u64) -> Result<(), StoreError>;

    /// Gives up, as well as that goes.
    async fn abandon(&self);
}

type Landed<T> = (usize, Result<T, StoreError>);

/// An [`Upload`] on a [`PartStore`].
pub(crate) struct PartsUpload<P: PartStore> {
    store: Arc<P>,
    /// Too small for a part, unless it is the last.
    held: Option<Payload>,
    sent: usize,
    len: u64,
    crc64: u64,
    slots: Arc<Semaphore>,
    flights: JoinSet<Landed<P::Done>>,
    landed: Vec<(usize, P::Done)>,
    /// Nothing is left to give up.
    settled: bool,
}

impl<P: PartStore> PartsUpload<P> {
    pub fn new(store: P) -> Self {
        Self {
            store: Arc::new(store),
            held: None,
            sent: 0,
            len: 0,
            crc64: 0,
            slots: Arc::new(Semaphore::new(IN_FLIGHT)),
            flights: JoinSet::new(),
            landed: Vec::new(),
            settled: false,
        }
    }

    /// Sends a part on its way. Waits while too many are, so that a slow store holds up who fills the buffers.
    async fn send(&mut self, payload: Payload) -> Result<(), StoreError> {
        if self.sent >= self.store.most() {
            return Err(self.cut(format!("it has more than {} parts", self.store.most())));
        }
        let payload = payload.with_sum();
        self.crc64 = super::payload::combine(self.crc64, payload.crc64(), payload.len());
        self.len += payload.len();
        let index = self.sent;
        self.sent += 1;
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        while let Some(landed) = self.flights.try_join_next() {
            self.land(landed)?;
        }
        let store = Arc::clone(&self.store);
        self.flights.spawn(async move {
            let done = store.part(index, payload).await;
            drop(slot);
            (index, done)
        });
        Ok(())
    }

    fn land(&mut self, landed: Result<Landed<P::Done>, tokio::task::JoinError>) -> Result<(), StoreError> {
        let (index, done) = landed.map_err(|_| self.cut("a part was cut off".to_owned()))?;
        self.landed.push((index, done?));
        Ok(())
    }

    fn cut(&self, what: String) -> StoreError {
        StoreError::Remote {
            operation: "write",
            object: self.store.object().to_owned(),
            what,
            passing: false,
        }
    }
}

#[async_trait]
impl<P: PartStore> Upload for PartsUpload<P> {
    async fn write(&mut self, part: Filled) -> Result<(), StoreError> {
        let crc64 = part.crc64();
        let payload = Payload::summed(part.into_bytes(), crc64);
        let payload = match self.held.take() {
            Some(held) => held.join(payload),
            None => payload,
        };
        let mut payload = payload;
        if let Some(exactly) = self.store.exactly() {
            while payload.len() > exactly {
                let (part, rest) = payload.cut(exactly);
                self.send(part).await?;
                payload = rest;
            }
        }
        if payload.len() < self.store.exactly().unwrap_or(self.store.least()) {
            // In memory of its own: a part buffer that waits may be the one that somebody waits for.
            self.held = Some(payload.detached());
            return Ok(());
        }
        self.send(payload).await
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        let held = self.held.take();
        if self.sent == 0 {
            self.settled = true;
            return self.store.whole(held.unwrap_or_default()).await;
        }
        if let Some(held) = held {
            self.send(held).await?;
        }
        while let Some(landed) = self.flights.join_next().await {
            self.land(landed)?;
        }
        if self.landed.len() != self.sent {
            return Err(self.cut("a part was cut off".to_owned()));
        }
        self.landed.sort_by_key(|(index, _)| *index);
        let parts = self.landed.drain(..).map(|(_, done)| done).collect();
        self.store.join(parts, self.len, self.crc64).await?;
        self.settled = true;
        Ok(())
    }
}

impl<P: PartStore> Drop for PartsUpload<P> {
    fn drop(&mut self) {
        if self.settled || self.sent == 0 {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (store, mut flights) = (Arc::clone(&self.store), std::mem::take(&mut self.flights));
        runtime.spawn(async move {
            // A part that lands after the end would stay behind.
            flights.shutdown().await;
            store.abandon().await;
        });
    }
}

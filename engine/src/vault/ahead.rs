//! Ranges of objects, read before they are asked for: a far store answers after a while, so that many reads are to be under way.
//!
//! Buffers are taken in the order in which ranges are asked for. So whoever takes what comes next, and lets go of it without needing another buffer, is never
//! kept waiting by what was read ahead of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bodley_io::store::{SharedStore, StoreError};
use bodley_io::{BufferPool, Filled, PartBuf};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::segment::SLACK;

/// Reads of one origin under way at a time, however small they are: each may take a thread, or a connection.
const AT_ONCE: usize = 256;

/// What is read from, and into.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    store: SharedStore,
    pool: Arc<BufferPool>,
    slots: Arc<Semaphore>,
}

impl Origin {
    /// Objects of `store`, into buffers of `pool`.
    pub fn new(store: &SharedStore, pool: &Arc<BufferPool>) -> Self {
        let (store, pool) = (Arc::clone(store), Arc::clone(pool));
        Self { store, pool, slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        let _slot = self.slots.acquire().await;
        self.store.read(path, at, len, buf).await
    }
}

/// A range that is to be read.
pub(crate) struct Wanted<T> {
    /// The object.
    pub path: String,
    /// Its first byte in the object.
    pub at: u64,
    /// Bytes.
    pub len: usize,
    /// Bytes that the buffer has to have behind them.
    pub room: usize,
    /// What it is for.
    pub what: T,
}

/// A task that ends with its owner.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A read that is under way, or done.
pub(crate) struct UnderWay<T, R> {
    /// What it is for.
    pub what: T,
    len: usize,
    read: Result<Task<Result<R, StoreError>>, StoreError>,
}

impl<T, R> UnderWay<T, R> {
    /// Waits until it is done.
    pub async fn done(self) -> Result<R, StoreError> {
        let joined = (&mut self.read?.0).await;
        joined.unwrap_or_else(|e| Err(StoreError::io("run a read of", "an object", std::io::Error::other(e))))
    }
}

/// Bytes that are under way or wait to be taken.
#[derive(Default)]
struct Window {
    ahead: AtomicUsize,
    left: Notify,
}

impl Window {
    /// Waits until `len` bytes more are within `share`, or alone.
    async fn enter(&self, len: usize, share: &impl Fn() -> usize) {
        loop {
            let ahead = self.ahead.load(Ordering::Acquire);
            if ahead == 0 || ahead.saturating_add(len) <= share() {
                self.ahead.fetch_add(len, Ordering::AcqRel);
                return;
            }
            self.left.notified().await;
        }
    }

    fn leave(&self, len: usize) {
        self.ahead.fetch_sub(len, Ordering::AcqRel);
        self.left.notify_one();
    }
}

/// Reads under way, in order. They end with it.
pub(crate) struct Reads<T, R> {
    queue: mpsc::UnboundedReceiver<UnderWay<T, R>>,
    window: Arc<Window>,
    _feeder: Task<()>,
}

impl<T: Clone + Send + 'static, R: Send + 'static> Reads<T, R> {
    /// Reads what is `wanted` and makes `each` of it what is handed over. As many are begun before they are taken as there are in `share` bytes, which is
    /// asked for each, but one at least.
    pub fn start(
        origin: Origin,
        wanted: impl Iterator<Item = Wanted<T>> + Send + 'static,
        share: impl Fn() -> usize + Send + Sync + 'static,
        each: impl Fn(T, Filled) -> R + Send + Sync + 'static,
    ) -> Self {
        let (orders, queue) = mpsc::unbounded_channel();
        let window = Arc::<Window>::default();
        let (entered, each) = (Arc::clone(&window), Arc::new(each));
        let feeder = tokio::spawn(async move {
            for Wanted { path, at, len, room, what } in wanted {
                entered.enter(len, &share).await;
                let buf = origin.pool.fit(len + SLACK + room).await;
                let is_over = buf.is_err();
                let read = buf.map_err(StoreError::from).map(|buf| {
                    let (origin, each, what) = (origin.clone(), Arc::clone(&each), what.clone());
                    Task(tokio::spawn(async move { Ok(each(what, origin.read(&path, at, len, buf).await?)) }))
                });
                if orders.send(UnderWay { what, len, read }).is_err() || is_over {
                    return;
                }
            }
        });
        Self { queue, window, _feeder: Task(feeder) }
    }

    /// What comes next; `None` behind the last one.
    pub async fn next(&mut self) -> Option<UnderWay<T, R>> {
        let next = self.queue.recv().await?;
        self.window.leave(next.len);
        Some(next)
    }
}

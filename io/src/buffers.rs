//! Part buffers: large, 2 MiB-aligned, on huge pages where the kernel gives them, touched once and never freed.
//!
//! The first touch of 4 KiB pages costs more CPU than reading, checking and writing the bytes together, so buffers go
//! back to the pool, not to the kernel. For the same reason a buffer that will be back in a moment is worth waiting for, once some are in use: a new
//! one costs as much as several writes of a fast store. The pool is also the budget: who finds no free buffer waits, and so a slow store
//! pushes back on Fetch.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use memmap2::{MmapMut, MmapOptions};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::latency::Stopwatch;

const HUGE_PAGE: usize = 2 << 20;
/// So many buffers are mapped as they are asked for.
const EAGER: usize = 8;
/// With more of them one that comes back is waited for so long: a local disk takes a part in less, a far store does not.
const WORTH_WAITING: Duration = Duration::from_millis(10);

/// The process has no memory left for a buffer within the budget.
#[derive(Debug, thiserror::Error)]
#[error("cannot map a buffer of {len} bytes: {source}")]
pub struct NoMemory {
    len: usize,
    source: std::io::Error,
}

/// Hands out [`PartBuf`]s of one size, at most a budget of them at a time.
#[derive(Debug)]
pub struct BufferPool {
    part_len: usize,
    parts: usize,
    permits: Arc<Semaphore>,
    free: Mutex<Vec<Region>>,
    /// Buffers that are in use or free.
    mapped: AtomicUsize,
    returned: Notify,
}

impl BufferPool {
    /// Buffers of `part_len` bytes (a multiple of 2 MiB is best), together at most `budget` bytes, at least two.
    pub fn new(part_len: usize, budget: usize) -> Arc<Self> {
        let parts = (budget / part_len.max(1)).max(2);
        Arc::new(Self {
            part_len,
            parts,
            permits: Arc::new(Semaphore::new(parts)),
            free: Mutex::default(),
            mapped: AtomicUsize::new(0),
            returned: Notify::new(),
        })
    }

    /// Bytes of one buffer.
    pub fn part_len(&self) -> usize {
        self.part_len
    }

    /// How many buffers can be out at a time.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// A buffer of at least `len` bytes; waits while the budget is used up. One longer than a part counts as several
    /// parts, is made for the purpose and freed after it. Who waits here must hold no buffer that is not being written.
    pub async fn get(self: &Arc<Self>, len: usize) -> Result<PartBuf, NoMemory> {
        let wanted = len.div_ceil(self.part_len).max(1);
        // Half of the parts may lie in other tasks' hands for long; a batch beyond the rest exceeds the budget by itself.
        let permits = wanted.min((self.parts / 2).max(1)) as u32;
        let permit = Arc::clone(&self.permits).acquire_many_owned(permits).await.ok();
        let region = if wanted == 1 { self.part().await? } else { Region::map(wanted * self.part_len)? };
        Ok(PartBuf { region: Some(region), pool: Arc::clone(self), _permit: permit })
    }

    /// A free part, or a new one.
    async fn part(&self) -> Result<Region, NoMemory> {
        let mut patient = self.mapped.load(Ordering::Relaxed) >= EAGER;
        loop {
            if let Some(region) = self.lock().pop() {
                return Ok(region);
            }
            if !patient {
                let region = Region::map(self.part_len)?;
                self.mapped.fetch_add(1, Ordering::Relaxed);
                return Ok(region);
            }
            patient = tokio::time::timeout(WORTH_WAITING, self.returned.notified()).await.is_ok();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Region>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Region {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl Region {
    fn map(len: usize) -> Result<Self, NoMemory> {
        let error = |source| NoMemory { len, source };
        // Pages that are never touched cost nothing: map one huge page more and start at an aligned address.
        let map = MmapOptions::new().len(len + HUGE_PAGE).map_anon().map_err(error)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        let start = if start <= HUGE_PAGE { start } else { 0 };
        advise_huge(&map);
        Ok(Self { map, start, len })
    }

    fn bytes(&self) -> &[u8] {
        self.map.get(self.start..self.start + self.len).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

#[cfg(target_os = "linux")]
fn advise_huge(map: &MmapMut) {
    use std::sync::Once;
    static SAID: Once = Once::new();
    let refused = map.advise(memmap2::Advice::HugePage).err().map(|e| e.to_string()).or_else(|| {
        let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
        mode.contains("[never]").then(|| "transparent_hugepage is set to never".to_owned())
    });
    if let Some(why) = refused {
        SAID.call_once(|| tracing::info!("no huge pages for buffers, which costs CPU: {why}"));
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_map: &MmapMut) {}

/// A buffer on loan from a [`BufferPool`]; goes back when dropped.
#[derive(Debug)]
pub struct PartBuf {
    region: Option<Region>,
    pool: Arc<BufferPool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Deref for PartBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.region.as_ref().map(Region::bytes).unwrap_or_default()
    }
}

impl DerefMut for PartBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.region.as_mut().map(Region::bytes_mut).unwrap_or_default()
    }
}

impl Drop for PartBuf {
    fn drop(&mut self) {
        if let Some(region) = self.region.take().filter(|region| region.len == self.pool.part_len) {
            self.pool.lock().push(region);
            self.pool.returned.notify_one();
        }
    }
}

/// A part buffer and which of its bytes count.
#[derive(Debug)]
pub struct Filled {
    buf: PartBuf,
    start: usize,
    len: usize,
    crc64: Option<u64>,
    watch: Option<Stopwatch>,
}

impl Filled {
    /// Bytes `start..start + len` of `buf`, cut at its end.
    pub fn new(buf: PartBuf, start: usize, len: usize) -> Self {
        let start = start.min(buf.len());
        let len = len.min(buf.len() - start);
        Self { buf, start, len, crc64: None, watch: None }
    }

    /// Its life is measured: it ends when its bytes are where they are to go.
    #[must_use]
    pub fn measured(mut self, watch: Stopwatch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The CRC-64/NVME of the bytes is known to its maker, from when they were read; a store that keeps checksums takes it from here.
    #[must_use]
    pub fn summed(mut self, crc64: u64) -> Self {
        self.crc64 = Some(crc64);
        self
    }

    /// The CRC-64/NVME of the bytes, if their maker knew it.
    pub fn crc64(&self) -> Option<u64> {
        self.crc64
    }

    /// The bytes as a body that many may hold; the buffer goes back when the last one lets go.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(Owner(self))
    }

    /// Bytes that count.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves the bytes from `from` on towards the buffer's end, by at most `most`, and says by how much. What lies between counts as well, and is
    /// of no use.
    pub fn spread(&mut self, from: usize, most: usize) -> usize {
        let end = self.start + self.len;
        let by = (self.buf.len() - end).min(most);
        let from = self.start + from.min(self.len);
        self.buf.copy_within(from..end, from + by);
        self.len += by;
        by
    }

    /// The same bytes, and those behind them up to a multiple of `alignment` set to zero: for direct I/O.
    pub fn padded(&mut self, alignment: usize) -> &[u8] {
        let end = self.start + self.len;
        let padded = end.next_multiple_of(alignment).min(self.buf.len());
        if let Some(padding) = self.buf.get_mut(end..padded) {
            padding.fill(0);
        }
        self.buf.get(self.start..padded).unwrap_or_default()
    }
}

impl Deref for Filled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buf.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

/// What [`Filled::into_bytes`] keeps alive.
struct Owner(Filled);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Filled {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.crc64 = None;
        self.buf.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn aligned_reused_and_bounded() {
        let pool = BufferPool::new(HUGE_PAGE, 2 * HUGE_PAGE);
        let mut first = pool.get(1).await.unwrap();
        assert_eq!((first.len(), first.as_ptr() as usize % HUGE_PAGE), (HUGE_PAGE, 0));
        first[0] = 9;
        let address = first.as_ptr() as usize;
        let _second = pool.get(HUGE_PAGE).await.unwrap();
        let third = tokio::time::timeout(Duration::from_millis(20), pool.get(1)).await;
        assert!(third.is_err(), "a third buffer exceeds the budget");
        drop(first);
        let again = pool.get(1).await.unwrap();
        assert_eq!((again.as_ptr() as usize, again[0]), (address, 9));
    }

    #[tokio::test]
    async fn a_buffer_that_comes_back_soon_is_waited_for() {
        let pool = BufferPool::new(HUGE_PAGE, 2 * EAGER * HUGE_PAGE);
        let mut out = Vec::new();
        for _ in 0..EAGER {
            out.push(pool.get(1).await.unwrap());
        }
        let soon = out.pop().unwrap();
        let address = soon.as_ptr() as usize;
        let (next, ()) = tokio::join!(pool.get(1), async move { drop(soon) });
        let next = next.unwrap();
        assert_eq!(next.as_ptr() as usize, address);
        out.push(next);
        // Nobody gives any back: a new one, and so on up to the budget.
        while out.len() < 2 * EAGER {
            out.push(pool.get(1).await.unwrap());
        }
        assert_eq!(pool.mapped.load(Ordering::Relaxed), 2 * EAGER);
    }

    #[tokio::test]
    async fn one_batch_may_be_larger_than_a_part() {
        let pool = BufferPool::new(HUGE_PAGE, 4 * HUGE_PAGE);
        let large = pool.get(9 * HUGE_PAGE + 1).await.unwrap();
        assert_eq!(large.len(), 10 * HUGE_PAGE);
        let _others = (pool.get(1).await.unwrap(), pool.get(1).await.unwrap());
    }

    #[tokio::test]
    async fn bytes_are_spread() {
        let pool = BufferPool::new(HUGE_PAGE, HUGE_PAGE);
        let mut buf = pool.get(1).await.unwrap();
        buf[5..10].copy_from_slice(b"abcde");
        let mut filled = Filled::new(buf, 5, 5);
        assert_eq!(filled.spread(2, 10), 10);
        assert_eq!((&filled[..2], &filled[12..]), (&b"ab"[..], &b"cde"[..]));
        assert_eq!(filled.spread(12, usize::MAX), HUGE_PAGE - 20);
        assert_eq!(filled.spread(12, usize::MAX), 0);
        assert_eq!(&filled[filled.len() - 3..], b"cde");
        assert_eq!(filled.spread(usize::MAX, 1), 0);
    }

    #[tokio::test]
    async fn padding_is_zero() {
        let pool = BufferPool::new(HUGE_PAGE, HUGE_PAGE);
        let mut buf = pool.get(1).await.unwrap();
        buf[..200].fill(7);
        let mut filled = Filled::new(buf, 0, 100);
        assert_eq!(filled.padded(128), [vec![7; 100], vec![0; 28]].concat());
        assert_eq!(filled.len(), 100);
    }
}

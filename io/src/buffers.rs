//! Part buffers: large, 2 MiB-aligned, on huge pages where the kernel gives them, touched once and never freed.
//!
//! The first touch of 4 KiB pages costs more CPU than reading, checking and writing the bytes together, so buffers go
//! back to the pool, not to the kernel. For the same reason a buffer that will be back in a moment is worth waiting for, once some are in use: a new
//! one costs as much as several writes of a fast store. The pool is also the budget: who finds no free buffer waits, and so a slow store
//! pushes back on Fetch.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use memmap2::{MmapMut, MmapOptions};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::latency::Stopwatch;

const HUGE_PAGE: usize = 2 << 20;
/// So many bytes of budget are counted as one.
const UNIT: usize = 64 << 10;
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

/// Hands out [`PartBuf`]s within a budget: whole parts, or what fits a read.
#[derive(Debug)]
pub struct BufferPool {
    part_len: usize,
    parts: usize,
    /// Bytes of a permit.
    unit: usize,
    permits: Arc<Semaphore>,
    shelf: Mutex<Shelf>,
    returned: Notify,
}

/// Buffers that nobody uses, and the bytes of all there are.
#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Region>,
    /// How many are in use, by length.
    out: HashMap<usize, usize>,
    /// Of buffers in use and free ones.
    mapped: usize,
}

impl BufferPool {
    /// Buffers of `part_len` bytes (a multiple of 2 MiB is best), together at most `budget` bytes, at least two.
    pub fn new(part_len: usize, budget: usize) -> Arc<Self> {
        let part_len = part_len.max(1);
        let parts = (budget / part_len).max(2);
        let unit = UNIT.min(part_len);
        let permits = parts.saturating_mul(part_len.div_ceil(unit)).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            part_len,
            parts,
            unit,
            permits: Arc::new(Semaphore::new(permits)),
            shelf: Mutex::default(),
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

    /// Bytes of all of them.
    pub fn budget(&self) -> usize {
        self.parts.saturating_mul(self.part_len)
    }

    /// A buffer of at least `len` bytes; waits while the budget is used up. One longer than a part counts as several
    /// parts, is made for the purpose and freed after it. Who waits here must hold no buffer that is not being written.
    pub async fn get(self: &Arc<Self>, len: usize) -> Result<PartBuf, NoMemory> {
        let len = len.max(1).checked_next_multiple_of(self.part_len).unwrap_or(usize::MAX);
        // Half of the parts may lie in other tasks' hands for long; a batch beyond the rest exceeds the budget by itself.
        let most = (self.parts / 2).max(1).saturating_mul(self.part_len);
        self.take(len, len.min(most)).await
    }

    /// As [`BufferPool::get`], but of few bytes more than are asked for, where these are less than a part: of small ones many can be out at a time.
    pub async fn fit(self: &Arc<Self>, len: usize) -> Result<PartBuf, NoMemory> {
        // Four lengths for each doubling, so that one which comes back soon fits another read.
        let step = (len.checked_next_power_of_two().unwrap_or(usize::MAX) / 8).max(self.unit);
        let fitting = len.max(1).checked_next_multiple_of(step).unwrap_or(usize::MAX);
        match fitting < self.part_len {
            true => self.take(fitting, fitting).await,
            false => self.get(len).await,
        }
    }

    async fn take(self: &Arc<Self>, len: usize, counted: usize) -> Result<PartBuf, NoMemory> {
        let permits = u32::try_from(counted.div_ceil(self.unit)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.permits).acquire_many_owned(permits).await.ok();
        Ok(PartBuf { region: Some(self.region(len).await?), pool: Arc::clone(self), _permit: permit })
    }

    /// A free buffer of this length, or a new one.
    async fn region(&self, len: usize) -> Result<Region, NoMemory> {
        let deadline = tokio::time::Instant::now() + WORTH_WAITING;
        let mut may_wait = len <= self.part_len && self.lock().mapped / self.part_len >= EAGER;
        loop {
            // From here on nothing that comes back is missed.
            let returned = self.returned.notified();
            let is_out = {
                let mut shelf = self.lock();
                if let Some(region) = shelf.pick(len) {
                    return Ok(region);
                }
                shelf.out.contains_key(&len)
            };
            if !may_wait || !is_out {
                return self.map(len);
            }
            may_wait = tokio::time::timeout_at(deadline, returned).await.is_ok();
        }
    }

    /// A new buffer. Free ones of other lengths make room for it.
    fn map(&self, len: usize) -> Result<Region, NoMemory> {
        let gone = {
            let mut shelf = self.lock();
            shelf.mapped = shelf.mapped.saturating_add(len);
            shelf.lend(len);
            shelf.shrink(self.budget())
        };
        drop(gone);
        Region::map(len).inspect_err(|_| self.lock().forget(len))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// A free one of this length, the warmest.
    fn pick(&mut self, len: usize) -> Option<Region> {
        let at = self.free.iter().rposition(|region| region.len == len)?;
        self.lend(len);
        Some(self.free.remove(at))
    }

    fn lend(&mut self, len: usize) {
        *self.out.entry(len).or_default() += 1;
    }

    fn take_back(&mut self, len: usize) {
        if let Some(out) = self.out.get_mut(&len) {
            *out = out.saturating_sub(1);
            if *out == 0 {
                self.out.remove(&len);
            }
        }
    }

    /// One in use is no more.
    fn forget(&mut self, len: usize) {
        self.take_back(len);
        self.mapped = self.mapped.saturating_sub(len);
    }

    /// Takes free ones out until all there are keep to the budget, or none is free: for the caller to let go of.
    fn shrink(&mut self, budget: usize) -> Vec<Region> {
        let mut gone = Vec::new();
        while self.mapped > budget && !self.free.is_empty() {
            let coldest = self.free.remove(0);
            self.mapped = self.mapped.saturating_sub(coldest.len);
            gone.push(coldest);
        }
        gone
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
        if len < HUGE_PAGE {
            // A huge page would be more than all of it.
            let map = MmapOptions::new().len(len).map_anon().map_err(error)?;
            return Ok(Self { map, start: 0, len });
        }
        // Pages that are never touched cost nothing: map one huge page more and start at an aligned address.
        let map = MmapOptions::new().len(len.saturating_add(HUGE_PAGE)).map_anon().map_err(error)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        let start = if start <= HUGE_PAGE { start } else { 0 };
        // What does not fill a huge page at the end gets none, or it would take more than is counted.
        advise_huge(&map, start, len - len % HUGE_PAGE);
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
fn advise_huge(map: &MmapMut, start: usize, len: usize) {
    use std::sync::Once;
    static SAID: Once = Once::new();
    let refused =
        map.advise_range(memmap2::Advice::HugePage, start, len).err().map(|e| e.to_string()).or_else(|| {
            let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
            mode.contains("[never]").then(|| "transparent_hugepage is set to never".to_owned())
        });
    if let Some(why) = refused {
        SAID.call_once(|| tracing::info!("no huge pages for buffers, which costs CPU: {why}"));
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_map: &MmapMut, _start: usize, _len: usize) {}

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
        let Some(region) = self.region.take() else { return };
        let mut shelf = self.pool.lock();
        if region.len > self.pool.part_len {
            shelf.forget(region.len);
            return;
        }
        shelf.take_back(region.len);
        shelf.free.push(region);
        drop(shelf);
        // All who wait: one that wants another length would keep it from the one that wants this.
        self.pool.returned.notify_waiters();
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
    use futures_util::FutureExt;
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
        assert_eq!(pool.lock().mapped, 2 * EAGER * HUGE_PAGE);
    }

    #[tokio::test]
    async fn only_what_can_come_back_is_waited_for() {
        let pool = BufferPool::new(HUGE_PAGE, 4 * EAGER * HUGE_PAGE);
        let mut out = Vec::new();
        for _ in 0..EAGER {
            out.push(pool.get(1).await.unwrap());
        }
        let odd = pool.fit(3 * UNIT).now_or_never().expect("nobody has one of this length").unwrap();
        // One that waits for another length does not take the news from the one that waits for this.
        let address = odd.as_ptr() as usize;
        let odd = std::cell::Cell::new(Some(odd));
        let give_back = async { drop(odd.take()) };
        let (whole, again, ()) = tokio::join!(pool.get(1), pool.fit(3 * UNIT), give_back);
        assert_eq!((again.unwrap().as_ptr() as usize, whole.unwrap().len()), (address, HUGE_PAGE));
    }

    #[tokio::test]
    async fn one_batch_may_be_larger_than_a_part() {
        let pool = BufferPool::new(HUGE_PAGE, 4 * HUGE_PAGE);
        let large = pool.get(9 * HUGE_PAGE + 1).await.unwrap();
        assert_eq!(large.len(), 10 * HUGE_PAGE);
        let _others = (pool.get(1).await.unwrap(), pool.get(1).await.unwrap());
    }

    /// Small reads do not use the budget of large ones up, and lengths that come to be wanted push others out.
    #[tokio::test]
    async fn buffers_that_fit() {
        let part = 4 * HUGE_PAGE;
        let pool = BufferPool::new(part, 2 * part);
        let small = pool.fit(10_000).await.unwrap();
        assert_eq!(small.len(), UNIT);
        let chunk = pool.fit(HUGE_PAGE + 1).await.unwrap();
        assert_eq!(chunk.len(), HUGE_PAGE + HUGE_PAGE / 4);
        assert_eq!(chunk.as_ptr() as usize % HUGE_PAGE, 0);
        let whole = pool.fit(part - 10).await.unwrap();
        assert_eq!(whole.len(), part);
        let address = chunk.as_ptr() as usize;
        drop(chunk);
        let again = pool.fit(HUGE_PAGE + 100_000).await.unwrap();
        assert_eq!(again.as_ptr() as usize, address);
        let too_much = tokio::time::timeout(Duration::from_millis(20), pool.get(1)).await;
        assert!(too_much.is_err(), "the rest is less than a part");
        drop((again, whole));
        let mut many = Vec::new();
        for _ in 1..2 * part / UNIT {
            many.push(pool.fit(UNIT).await.unwrap());
        }
        let one_more = tokio::time::timeout(Duration::from_millis(20), pool.fit(1)).await;
        assert!(one_more.is_err(), "the budget is used up by small ones");
        assert_eq!(pool.lock().mapped, 2 * part);
        drop((many, small));
        let parts = (pool.get(1).await.unwrap(), pool.get(1).await.unwrap());
        assert_eq!(pool.lock().mapped, 2 * part);
        drop(parts);
        let large = pool.get(3 * part).await.unwrap();
        assert_eq!((large.len(), pool.lock().mapped), (3 * part, 3 * part));
        drop(large);
        assert_eq!(pool.lock().mapped, 0);
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

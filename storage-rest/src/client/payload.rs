//! What a request carries: part buffers as they are, without a copy, and a watch over whether anything moves.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Handed to the connection at a time, in bytes: the watch sees progress in such steps.
const STEP: usize = 256 * 1024;

/// The bytes of a request's body. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Payload {
    pieces: Vec<Bytes>,
    /// Hex SHA-256 of them, where it is needed.
    sha256: Option<Arc<str>>,
    crc64: Option<u64>,
}

impl Payload {
    pub fn new(bytes: Bytes) -> Self {
        Self { pieces: vec![bytes], sha256: None, crc64: None }
    }

    /// With the CRC-64/NVME that its maker knows.
    pub fn summed(bytes: Bytes, crc64: Option<u64>) -> Self {
        Self { crc64, ..Self::new(bytes) }
    }

    /// This one, then `other`.
    pub fn join(mut self, other: Self) -> Self {
        let crc64 = match (self.crc64, other.crc64) {
            (Some(first), Some(second)) => Some(combine(first, second, other.len())),
            _ => None,
        };
        self.pieces.extend(other.pieces);
        Self { pieces: self.pieces, sha256: None, crc64 }
    }

    /// The first `at` bytes, and the rest.
    pub fn cut(self, at: u64) -> (Self, Self) {
        let (mut first, mut second, mut left) = (Self::default(), Self::default(), at);
        for mut piece in self.pieces {
            let start = piece.split_to(piece.len().min(left.try_into().unwrap_or(usize::MAX)));
            left -= start.len() as u64;
            first.pieces.extend((!start.is_empty()).then_some(start));
            second.pieces.extend((!piece.is_empty()).then_some(piece));
        }
        (first, second)
    }

    /// The same bytes in memory of its own, so that the part buffer goes back.
    pub fn detached(self) -> Self {
        let pieces = self.pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        Self { pieces, ..self }
    }

    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Sums up the CRC-64, unless its maker did.
    #[must_use]
    pub fn with_sum(mut self) -> Self {
        self.crc64 = Some(self.crc64());
        self
    }

    /// CRC-64/NVME of all bytes: the maker's where it is known.
    pub fn crc64(&self) -> u64 {
        self.crc64.unwrap_or_else(|| {
            let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
            self.pieces.iter().for_each(|piece| digest.update(piece));
            digest.finalize()
        })
    }

    /// CRC-32C of all bytes.
    pub fn crc32c(&self) -> u32 {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        self.pieces.iter().for_each(|piece| digest.update(piece));
        digest.finalize() as u32
    }

    /// Sums up the SHA-256, off the threads that serve connections when there is much of it.
    pub async fn hashed(mut self) -> Self {
        if self.sha256.is_some() {
            return self;
        }
        let hash = |payload: &Self| -> Arc<str> {
            let mut digest = Sha256::new();
            payload.pieces.iter().for_each(|piece| digest.update(piece));
            hex(&digest.finalize()).into()
        };
        if self.len() <= STEP as u64 {
            self.sha256 = Some(hash(&self));
            return self;
        }
        let copy = self.clone();
        let sum = tokio::task::spawn_blocking(move || hash(&copy)).await;
        // A hash that was cut off ends with the runtime.
        self.sha256 = sum.ok().or_else(|| Some(hash(&self)));
        self
    }

    /// What [`Payload::hashed`] found.
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// As a request's body; `beat` sees it move.
    pub fn body(&self, beat: &Beat) -> reqwest::Body {
        if self.len() == 0 {
            return reqwest::Body::from(Bytes::new());
        }
        let sending =
            Sending { pieces: self.pieces.iter().cloned().collect(), left: self.len(), beat: beat.clone() };
        reqwest::Body::wrap(sending)
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The CRC-64/NVME of bytes whose first part has `first` and whose second, of `len` bytes, has `second`.
pub(crate) fn combine(first: u64, second: u64, len: u64) -> u64 {
    crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc64Nvme, first, second, len)
}

struct Sending {
    pieces: VecDeque<Bytes>,
    left: u64,
    beat: Beat,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.beat.touch();
        loop {
            let Some(first) = self.pieces.front_mut() else { return Poll::Ready(None) };
            let step = first.split_to(first.len().min(STEP));
            if first.is_empty() {
                self.pieces.pop_front();
            }
            if !step.is_empty() {
                self.left -= step.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(step))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// When something last moved.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    begun: Instant,
    /// ms since then.
    last: Arc<AtomicU64>,
}

impl Beat {
    pub fn new() -> Self {
        Self { begun: Instant::now(), last: Arc::default() }
    }

    pub fn touch(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for `patience`.
    pub async fn stops(&self, patience: Duration) {
        loop {
            let due = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed)) + patience;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sums_of_joined_parts() {
        let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7) as u8).collect();
        let whole = Payload::new(Bytes::from(bytes.clone()));
        let (first, second) = bytes.split_at(300_001);
        let sum = |bytes: &[u8]| Payload::new(Bytes::copy_from_slice(bytes)).crc64();
        let part = |bytes: &[u8]| Payload::summed(Bytes::copy_from_slice(bytes), Some(sum(bytes)));
        let joined = part(first).join(part(second)).detached();
        assert_eq!((joined.len(), joined.crc64()), (whole.len(), whole.crc64()));
        assert_eq!(joined.crc32c(), whole.crc32c());
        let (start, rest) = part(first).join(part(second)).cut(299_999);
        assert_eq!((start.len(), start.crc64()), (299_999, sum(&bytes[..299_999])));
        assert_eq!(rest.crc64(), sum(&bytes[299_999..]));
        let (joined, whole) = (joined.hashed().await, whole.hashed().await);
        assert_eq!(joined.sha256(), whole.sha256());
        let empty = Payload::default().hashed().await;
        assert_eq!(empty.sha256(), Some("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
        assert_eq!(Payload::new(Bytes::from_static(b"123456789")).crc64(), 0xae8b_1486_0a79_9888);
    }

    #[tokio::test(start_paused = true)]
    async fn stillness_is_seen() {
        let beat = Beat::new();
        let other = beat.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                other.touch();
            }
        });
        let begun = Instant::now();
        beat.stops(Duration::from_secs(30)).await;
        assert_eq!(begun.elapsed().as_secs(), 130);
    }
}

//! What is known of batches while they are in the processor's cache: their checksums, and the times of their records.

use bodley_protocol::batch::{self, Header};
use bodley_protocol::checksum::Crc64;
use bodley_protocol::times::{Peeker, Span, span};

/// The second checksum follows the first at this distance at most, so that it finds the bytes in the cache.
const WARM: usize = 128 << 10;

/// A batch that unpacks to more is not unpacked for its times.
const MAX_UNPACKED: usize = 8 << 20;

/// Which batches' records are looked at for their times.
#[derive(Default)]
enum Times {
    /// None.
    #[default]
    Unread,
    /// Those that are not compressed.
    Plain,
    /// All; compressed ones are unpacked for it.
    All(Box<Peeker>),
}

/// Where one chunk ends and the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes before it, from the start.
    pub end: usize,
    /// Of the bytes since the cut before.
    pub crc64: u64,
}

/// The first batches of some bytes, as far as their CRC-32C is known to be good.
#[derive(Default)]
pub struct Checked {
    /// Bytes of these batches.
    len: usize,
    /// Of these bytes, from the last cut on.
    crc: Crc64,
    /// The next batch is bad.
    is_stopped: bool,
    /// Bytes between cuts, unless one batch is larger; `None`: there are no cuts.
    grain: Option<usize>,
    cuts: Vec<Cut>,
    /// The last batch was a message of format 0 or 1.
    is_old: bool,
    times: Times,
    /// The times of those batches that [`Checked::reads`] is about, in order. `None`: they could not be read.
    spans: Vec<Option<Span>>,
}

impl Checked {
    /// Also reads the times of records. `exact`: of compressed ones as well.
    pub fn with_times(exact: bool) -> Self {
        let times = if exact { Times::All(Box::default()) } else { Times::Plain };
        Self { times, ..Self::default() }
    }

    /// Also cuts what it checks between batches, so that at most `grain` bytes stand between cuts, unless one batch is larger, and messages of formats 0 and 1
    /// stand apart from batches.
    pub fn cutting(self, grain: usize) -> Self {
        Self { grain: Some(grain), ..self }
    }

    /// Begins with other bytes, in the same memory.
    pub fn restart(&mut self) {
        (self.len, self.crc, self.is_stopped) = (0, Crc64::new(), false);
        self.cuts.clear();
        self.spans.clear();
    }

    /// Goes on with batches that have arrived since; `bytes` are all from the start. Stops at the first that is not good or not there in full.
    pub fn advance(&mut self, bytes: &[u8]) {
        let mut len = self.len;
        while !self.is_stopped {
            let rest = bytes.get(len..).unwrap_or_default();
            match batch::view_checked(rest) {
                Ok(Some(header)) => {
                    self.cut_before(&header, bytes, len);
                    self.look(&header, rest);
                    len += header.size;
                }
                Ok(None) => break,
                // Not summed up again with each piece that arrives.
                Err(_) => self.is_stopped = true,
            }
            if len - self.len >= WARM {
                self.take(bytes, len);
            }
        }
        self.take(bytes, len);
    }

    /// Bytes of these batches.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// The cuts so far.
    pub fn cuts(&self) -> impl Iterator<Item = Cut> {
        self.cuts.iter().copied()
    }

    /// CRC-64 of these bytes, from the last cut on.
    pub fn crc64(&self) -> u64 {
        self.crc.finish()
    }

    /// CRC-64 of all of `bytes`, which are the same from the start, from the last cut on.
    pub fn crc64_of(mut self, bytes: &[u8]) -> u64 {
        self.take(bytes, bytes.len());
        self.crc.finish()
    }

    /// The header does not tell the times of such a batch, and its records are looked at.
    pub fn reads(&self, header: &Header) -> bool {
        let is_told = header.is_append_time() || header.is_old();
        let hidden = !header.is_control() && !is_told && header.record_count > 1;
        hidden
            && match self.times {
                Times::Unread => false,
                Times::Plain => header.codec() == 0,
                Times::All(_) => true,
            }
    }

    /// The times of the batches that it [`Checked::reads`], in order.
    pub fn spans(&self) -> impl Iterator<Item = Option<Span>> {
        self.spans.iter().copied()
    }

    /// Cuts at `len`, where the batch begins, if it does not belong to the bytes since the last cut.
    fn cut_before(&mut self, header: &Header, bytes: &[u8], len: usize) {
        let Some(grain) = self.grain else { return };
        let begun = len - self.cuts.last().map_or(0, |cut| cut.end);
        let is_other = std::mem::replace(&mut self.is_old, header.is_old()) != header.is_old();
        if begun > 0 && (is_other || begun.saturating_add(header.size) > grain) {
            self.take(bytes, len);
            self.cuts.push(Cut { end: len, crc64: self.crc.finish() });
            self.crc = Crc64::new();
        }
    }

    fn look(&mut self, header: &Header, batch: &[u8]) {
        if self.reads(header) {
            self.spans.push(match &mut self.times {
                Times::All(peeker) => peeker.span(header, batch, MAX_UNPACKED),
                _ => batch.get(batch::HEADER_LEN..header.size).and_then(|records| span(header, records)),
            });
        }
    }

    fn take(&mut self, bytes: &[u8], len: usize) {
        self.crc.update(bytes.get(self.len..len).unwrap_or_default());
        self.len = len;
    }
}

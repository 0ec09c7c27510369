//! Messages of the formats 0 and 1 (before Kafka 0.11), seen through the header of a record batch, and their records in its form.
//!
//! ```text
//!  0  offset i64 ┬ 8 size i32 ┬ 12 crc u32 ┬ 16 magic i8 ┬ 17 attributes i8 ┬ 18 timestamp i64, in format 1 only
//! behind: key length i32, key │ value length i32, value; -1 is null
//! ```
//! Big-endian. The CRC-32 (IEEE) covers everything from the magic on. Attributes: bits 0-2 codec, bit 3 append time (format 1). The value of a compressed
//! message, the *wrapper*, is a set of such messages, and its offset that of the last of them; their own are the real ones in format 0 and count from
//! anywhere in format 1. So how many records it has, and where they begin, is known only when it has been unpacked: piece by piece, in bounded memory.
//! Source: the protocol guide, "Message sets"; Kafka's AbstractLegacyRecordBatch.

use std::borrow::Cow;
use std::io::BufRead;

use crate::batch::{self, BatchError, CODEC_MASK, Header, LOG_OVERHEAD, MAGIC};
use crate::checksum::crc32;
use crate::codecs::Codec;
use crate::records::{MAX_PAYLOAD, RecordsError, put_record};
use crate::times::Span;
use crate::wire::{Length, Reader, WireError, Writer};

const APPEND_TIME: u8 = 1 << 3;
/// Of a record of format 0, and of one of format 1 whose producer gave none.
const NO_TIME: i64 = -1;

/// Bytes that "size" counts beside key and value.
const fn fixed_len(magic: i8) -> usize {
    let lengths_and_head = 4 + 2 + 4 + 4;
    if magic == 0 { lengths_and_head } else { lengths_and_head + 8 }
}

/// As [`batch::view`].
#[cold]
pub(crate) fn view(bytes: &[u8]) -> Result<Option<Header>, BatchError> {
    let Some(message) = cut_out(bytes)? else { return Ok(None) };
    header(message).map(Some)
}

/// As [`batch::view_checked`].
#[cold]
pub(crate) fn view_checked(bytes: &[u8]) -> Result<Option<Header>, BatchError> {
    let Some(message) = cut_out(bytes)? else { return Ok(None) };
    let stored = message.get(LOG_OVERHEAD..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    let (stored, computed) = (u32::from_be_bytes(stored), crc32(message.get(MAGIC..).unwrap_or_default()));
    if stored != computed {
        return Err(BatchError::OldCrc { offset: offset_of(message), stored, computed });
    }
    header(message).map(Some)
}

/// The records of a message that has been viewed, as they would stand unpacked in a batch with its header. They replace what is in `out`; a compressed set
/// may take `limit` bytes at most.
pub(crate) fn records_to(
    header: &Header,
    message: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), RecordsError> {
    out.clear();
    let message = message.get(..header.size).unwrap_or_default();
    let outer = Outer::parse(message).map_err(RecordsError::Old)?;
    let packed = outer.packed();
    let mut set = outer.set(message, &packed, limit).map_err(RecordsError::Old)?;
    set.body = Some(Vec::new());
    let mut first = None;
    while let Some(inner) = set.next().map_err(RecordsError::Old)? {
        let offset_delta = inner.offset.wrapping_sub(*first.get_or_insert(inner.offset));
        let time_delta = match header.is_append_time() {
            true => 0,
            false => inner.timestamp.wrapping_sub(header.base_timestamp),
        };
        put_record(out, 0, (time_delta, offset_delta), set.body.as_deref().unwrap_or_default());
    }
    Ok(())
}

/// The message at the head of `bytes`; `Ok(None)`: it is not there in full.
fn cut_out(bytes: &[u8]) -> Result<Option<&[u8]>, BatchError> {
    let Some(magic) = batch::magic(bytes) else { return Ok(None) };
    let offset = offset_of(bytes);
    let malformed = |what| BatchError::Old { magic, offset, what };
    let size = batch::declared_size(bytes).ok_or_else(|| malformed("size"))?;
    if size < LOG_OVERHEAD + fixed_len(magic) {
        return Err(malformed("size"));
    }
    Ok(bytes.get(..size))
}

fn offset_of(message: &[u8]) -> i64 {
    message.first_chunk().map_or(-1, |bytes| i64::from_be_bytes(*bytes))
}

/// What a message says in the terms of a batch: `base_timestamp` is the least time of a record, `max_timestamp` the greatest.
fn header(message: &[u8]) -> Result<Header, BatchError> {
    let (offset, magic) = (offset_of(message), batch::magic(message).unwrap_or_default());
    let malformed = |what| BatchError::Old { magic, offset, what };
    let outer = Outer::parse(message).map_err(malformed)?;
    let held = outer.held(message).map_err(malformed)?;
    let append_time = if outer.is_append_time() { i16::from(APPEND_TIME) } else { 0 };
    Ok(Header {
        magic,
        base_offset: held.first,
        size: message.len(),
        leader_epoch: -1,
        crc: outer.crc,
        attributes: i16::from(outer.attributes) & CODEC_MASK | append_time,
        last_offset_delta: i32::try_from(held.last - held.first).map_err(|_| malformed("offsets"))?,
        base_timestamp: held.times.least,
        max_timestamp: held.times.greatest,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: held.count,
    })
}

/// The records of a message.
struct Held {
    first: i64,
    last: i64,
    count: i32,
    times: Span,
}

/// A message that stands in a log, its value still packed.
struct Outer<'a> {
    offset: i64,
    crc: u32,
    magic: i8,
    attributes: u8,
    timestamp: i64,
    value: Option<&'a [u8]>,
}

impl<'a> Outer<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, &'static str> {
        Self::read(message).map_err(|_| "length of key or value")
    }

    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(message);
        let (offset, _size) = (reader.i64()?, reader.i32()?);
        let (crc, magic, attributes) = (reader.i32()? as u32, reader.i8()?, reader.i8()? as u8);
        let timestamp = if magic == 0 { NO_TIME } else { reader.i64()? };
        let mut field = || match reader.length(Length::Classic32)? {
            Some(length) => reader.take(length).map(Some),
            None => Ok(None),
        };
        let (_key, value) = (field()?, field()?);
        match reader.remaining() {
            0 => Ok(Self { offset, crc, magic, attributes, timestamp, value }),
            _ => Err(WireError::Malformed("size")),
        }
    }

    fn is_append_time(&self) -> bool {
        self.magic == 1 && self.attributes & APPEND_TIME != 0
    }

    /// `Err`: format 0 and 1 know no such codec.
    fn codec(&self) -> Result<Codec, &'static str> {
        let codec = Codec::from_number(self.attributes & CODEC_MASK as u8).map_err(|_| "codec")?;
        if codec == Codec::Zstd { Err("codec") } else { Ok(codec) }
    }

    /// The value as its codec reads it.
    fn packed(&self) -> Cow<'a, [u8]> {
        let value = self.value.unwrap_or_default();
        match (self.magic, self.codec()) {
            (0, Ok(Codec::Lz4)) => with_good_lz4_checksum(value),
            _ => Cow::Borrowed(value),
        }
    }

    /// The messages in it: it itself if it is not compressed. `packed` is its value.
    fn set<'b>(
        &self,
        message: &'b [u8],
        packed: &'b [u8],
        limit: usize,
    ) -> Result<Set<Box<dyn BufRead + 'b>>, &'static str> {
        let (source, codec) = match self.codec()? {
            Codec::None => (message, Codec::None),
            codec if self.value.is_some() => (packed, codec),
            _ => return Err("a compressed message without a value"),
        };
        let reader = codec.reader(source, MAX_PAYLOAD).map_err(|_| UNREADABLE)?;
        Ok(Set { reader, magic: self.magic, left: limit, is_nested: codec != Codec::None, body: None })
    }

    fn held(&self, message: &[u8]) -> Result<Held, &'static str> {
        if self.offset < 0 {
            return Err("offset");
        }
        let own = Span { least: self.timestamp, greatest: self.timestamp };
        if self.codec()? == Codec::None {
            return Ok(Held { first: self.offset, last: self.offset, count: 1, times: own });
        }
        let packed = self.packed();
        let mut set = self.set(message, &packed, MAX_PAYLOAD)?;
        let Some(first) = set.next()? else { return Err("a compressed message that holds none") };
        let (mut last, mut count) = (first.offset, 1i32);
        let mut times = Span { least: first.timestamp, greatest: first.timestamp };
        while let Some(inner) = set.next()? {
            if inner.offset <= last {
                return Err("offsets inside of a compressed message");
            }
            (last, count) = (inner.offset, count.saturating_add(1));
            times.least = times.least.min(inner.timestamp);
            times.greatest = times.greatest.max(inner.timestamp);
        }
        // No CRC covers the wrapper's own offset. In format 0 it must be that of the last record, which one does.
        let shift = self.offset.checked_sub(last).filter(|shift| self.magic == 1 || *shift == 0);
        let first = shift.and_then(|shift| first.offset.checked_add(shift)).filter(|first| *first >= 0);
        let first = first.ok_or("offsets inside of a compressed message")?;
        let times = if self.is_append_time() { own } else { times };
        Ok(Held { first, last: self.offset, count, times })
    }
}

const UNREADABLE: &str = "a compressed message that can't be unpacked";
const TOO_LARGE: &str = "a compressed message that unpacks to too much";

/// A message in a set; key and value are left aside, or in [`Set::body`].
struct Inner {
    offset: i64,
    timestamp: i64,
}

/// Goes through the messages of one format that stand one behind the other.
struct Set<R> {
    reader: R,
    magic: i8,
    /// So many bytes may come.
    left: usize,
    /// It is the value of a compressed message: none of these is compressed once more.
    is_nested: bool,
    /// Key, value and headers of the current message in the form of a batch, if they are wanted.
    body: Option<Vec<u8>>,
}

impl<R: BufRead> Set<R> {
    fn next(&mut self) -> Result<Option<Inner>, &'static str> {
        if self.reader.fill_buf().map_err(|_| UNREADABLE)?.is_empty() {
            return Ok(None);
        }
        let offset = i64::from_be_bytes(self.array()?);
        let size = usize::try_from(i32::from_be_bytes(self.array()?)).map_err(|_| "size inside")?;
        self.left = self.left.checked_sub(LOG_OVERHEAD.saturating_add(size)).ok_or(TOO_LARGE)?;
        let [_, _, _, _, magic, attributes] = self.array()?;
        if magic as i8 != self.magic {
            return Err("messages of another format inside");
        }
        if self.is_nested && i16::from(attributes) & CODEC_MASK != 0 {
            return Err("a compressed message inside of another");
        }
        let timestamp = if self.magic == 0 { NO_TIME } else { i64::from_be_bytes(self.array()?) };
        let both = size.checked_sub(fixed_len(self.magic)).ok_or("size inside")?;
        self.body.iter_mut().for_each(Vec::clear);
        let value = both - self.field(both)?;
        if self.field(value)? != value {
            return Err("size inside");
        }
        // No headers.
        self.body.iter_mut().for_each(|body| body.put_varlong(0));
        Ok(Some(Inner { offset, timestamp }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|_| UNREADABLE)?;
        Ok(bytes)
    }

    /// Passes a key or a value of at most `most` bytes, and says how many it has.
    fn field(&mut self, most: usize) -> Result<usize, &'static str> {
        let length = i32::from_be_bytes(self.array()?);
        let known = if length == -1 { Some(0) } else { usize::try_from(length).ok() };
        let length_in_bytes = known.filter(|length| *length <= most).ok_or("length inside")?;
        self.body.iter_mut().for_each(|body| body.put_varlong(i64::from(length)));
        let mut left = length_in_bytes;
        while left > 0 {
            let there = self.reader.fill_buf().map_err(|_| UNREADABLE)?;
            let piece =
                there.get(..left.min(there.len())).filter(|piece| !piece.is_empty()).ok_or(UNREADABLE)?;
            self.body.iter_mut().for_each(|body| body.extend_from_slice(piece));
            let len = piece.len();
            self.reader.consume(len);
            left -= len;
        }
        Ok(length_in_bytes)
    }
}

/// Format 0 has a header checksum of its own making in LZ4 frames, which sums up the frame's magic as well (KAFKA-3160): here it is as LZ4 wants it, and
/// what does not look like a frame stays as it is.
fn with_good_lz4_checksum(frame: &[u8]) -> Cow<'_, [u8]> {
    const FRAME_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
    let Some(flags) = frame.get(FRAME_MAGIC.len()).filter(|_| frame.starts_with(&FRAME_MAGIC)) else {
        return Cow::Borrowed(frame);
    };
    // Flags and block descriptor; a content size and a dictionary's id if the flags say so.
    let described = 2 + if flags & 1 << 3 != 0 { 8 } else { 0 } + if flags & 1 != 0 { 4 } else { 0 };
    let end = FRAME_MAGIC.len() + described;
    let Some(descriptor) = frame.get(FRAME_MAGIC.len()..end) else { return Cow::Borrowed(frame) };
    let checksum = (short_xxh32(descriptor) >> 8) as u8;
    let mut fixed = frame.to_vec();
    fixed.iter_mut().skip(end).take(1).for_each(|byte| *byte = checksum);
    Cow::Owned(fixed)
}

/// xxHash32, seed 0, of fewer than 16 bytes.
fn short_xxh32(bytes: &[u8]) -> u32 {
    const PRIMES: [u32; 5] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f, 0x1656_67b1];
    let [one, two, three, four, five] = PRIMES;
    let mut hash = five.wrapping_add(bytes.len() as u32);
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        hash = hash.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(three));
        hash = hash.rotate_left(17).wrapping_mul(four);
    }
    for byte in rest {
        hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(five));
        hash = hash.rotate_left(11).wrapping_mul(one);
    }
    hash = (hash ^ hash >> 15).wrapping_mul(two);
    hash = (hash ^ hash >> 13).wrapping_mul(three);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_lz4_frames() {
        // Independent blocks of 64 KiB, as Kafka writes them.
        assert_eq!(short_xxh32(&[0x60, 0x40]) >> 8 & 0xff, 0x82);
        assert_eq!(short_xxh32(b""), 0x02cc_5d05);
        assert_eq!(short_xxh32(b"a"), 0x550d_7456);
        let frame = Codec::Lz4.compress(b"hello").unwrap();
        assert_eq!(*with_good_lz4_checksum(&frame), *frame);
        for cut in 0..frame.len().min(8) {
            let _ = with_good_lz4_checksum(&frame[..cut]);
        }
    }
}

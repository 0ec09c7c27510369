//! The 61-byte header of a record batch, format v2 (magic 2): seen in place, walked, and patched in place.
//!
//! ```text
//!  0  base offset i64 ┬ 8  batch length i32 ┬ 12 leader epoch i32 ┬ 16 magic i8 ┬ 17 crc u32
//! 21  attributes i16  ┬ 23 last offset delta i32 ┬ 27 base timestamp i64 ┬ 35 max timestamp i64
//! 43  producer id i64 ┬ 51 producer epoch i16 ┬ 53 base sequence i32 ┬ 57 record count i32 ┬ 61 records
//! ```
//! Big-endian. The CRC-32C covers everything from the attributes on. Source: the protocol guide, "Record Batch".
//!
//! Messages of the formats 0 and 1 (`old.rs`) are seen through the same header, though what stands for them in its place is found out, not read.

use crate::checksum::{crc32c, crc32c_shift};
use crate::old;

const BASE_OFFSET: usize = 0;
const LENGTH: usize = BASE_OFFSET + 8;
const LEADER_EPOCH: usize = LENGTH + 4;
pub(crate) const MAGIC: usize = LEADER_EPOCH + 4;
const CRC: usize = MAGIC + 1;
const ATTRIBUTES: usize = CRC + 4;
const LAST_OFFSET_DELTA: usize = ATTRIBUTES + 2;
const BASE_TIMESTAMP: usize = LAST_OFFSET_DELTA + 4;
const MAX_TIMESTAMP: usize = BASE_TIMESTAMP + 8;
const PRODUCER_ID: usize = MAX_TIMESTAMP + 8;
const PRODUCER_EPOCH: usize = PRODUCER_ID + 8;
const BASE_SEQUENCE: usize = PRODUCER_EPOCH + 2;
const RECORD_COUNT: usize = BASE_SEQUENCE + 4;

/// Bytes of a batch header; the records follow it.
pub const HEADER_LEN: usize = RECORD_COUNT + 4;
/// Bytes before the range that "batch length" counts.
pub const LOG_OVERHEAD: usize = LENGTH + 4;

pub(crate) const CODEC_MASK: i16 = 0b111;
const APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Why the bytes at a position are no batch that can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A message of format 0 or 1 (before Kafka 0.11) whose fields, or what it holds, cannot be.
    #[error("malformed message of format {magic} at offset {offset}: {what}")]
    Old {
        /// 0 or 1.
        magic: i8,
        /// The offset in the message's header.
        offset: i64,
        /// Which field.
        what: &'static str,
    },
    /// The CRC-32 of a message of format 0 or 1 is not that of the bytes.
    #[error("CRC-32 of the message at offset {offset} is {computed:08x}, its header says {stored:08x}")]
    OldCrc {
        /// The offset in the message's header.
        offset: i64,
        /// From the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A magic byte that no Kafka writes.
    #[error("unknown magic {magic} at offset {offset}")]
    UnknownMagic {
        /// As read.
        magic: i8,
        /// As read.
        offset: i64,
    },
    /// A length, delta or count that cannot be.
    #[error("malformed batch header at offset {offset}: {what}")]
    Malformed {
        /// The base offset as read.
        offset: i64,
        /// Which field.
        what: &'static str,
    },
    /// The CRC-32C in the header is not that of the bytes.
    #[error("CRC-32C of the batch at offset {offset} is {computed:08x}, its header says {stored:08x}")]
    Crc {
        /// Base offset.
        offset: i64,
        /// From the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
}

/// The header fields of one batch. Offsets are absolute, times in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The format: 2, or 0 or 1 of a message that has no such header. Of these leader epoch, producer and sequence are -1, and the base timestamp is the
    /// least time of its records.
    pub magic: i8,
    /// Offset of the first record (as produced; compaction may have removed it).
    pub base_offset: i64,
    /// Bytes of the whole batch, header included.
    pub size: usize,
    /// Epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// CRC-32C of everything from the attributes on; of formats 0 and 1 the CRC-32 of everything from the magic on.
    pub crc: u32,
    /// Raw attributes.
    pub attributes: i16,
    /// Last offset relative to the first; never negative.
    pub last_offset_delta: i32,
    /// What record timestamp deltas count from; the delete horizon when bit 6 is set (deltas still count from it).
    pub base_timestamp: i64,
    /// Greatest record time; the time of every record when the append-time bit is set.
    pub max_timestamp: i64,
    /// -1: not idempotent.
    pub producer_id: i64,
    /// -1: not idempotent.
    pub producer_epoch: i16,
    /// Sequence of the first record; -1: not idempotent.
    pub base_sequence: i32,
    /// Records present; fewer than offsets after compaction, 0 in an emptied batch.
    pub record_count: i32,
}

impl Header {
    /// Offset of the last record as produced, inclusive.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// A message of format 0 or 1, which no broker of today takes: it can't be produced as it stands.
    pub fn is_old(&self) -> bool {
        self.magic < 2
    }

    /// Codec number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub fn codec(&self) -> u8 {
        (self.attributes & CODEC_MASK) as u8
    }

    /// LogAppendTime: every record's time is `max_timestamp`.
    pub fn is_append_time(&self) -> bool {
        self.attributes & APPEND_TIME != 0
    }

    /// Part of a transaction (control batches are, too).
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Holds a control record (a transaction marker and the like), which no consumer sees.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// `base_timestamp` is a delete horizon (KIP-534), not the first record's time.
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON != 0
    }

    /// Compaction removed records, so the batch can't be produced as it stands.
    pub fn has_holes(&self) -> bool {
        self.record_count != self.last_offset_delta.saturating_add(1)
    }
}

/// Bytes that the batch (or old message set entry) at the head of `bytes` says it takes; `None` when not even that is
/// there. Not checked against anything.
pub fn declared_size(bytes: &[u8]) -> Option<usize> {
    let length = i32::from_be_bytes(*bytes.get(LENGTH..)?.first_chunk()?);
    usize::try_from(length).ok()?.checked_add(LOG_OVERHEAD)
}

/// The format of what stands at the head of `bytes`, if so much of it is there.
pub fn magic(bytes: &[u8]) -> Option<i8> {
    bytes.get(MAGIC).map(|magic| *magic as i8)
}

/// Reads the header at the head of `bytes`, without looking at the CRC. `Ok(None)`: the batch is not there in full (the
/// cut tail of a Fetch). A compressed message of format 0 or 1 is unpacked for it.
pub fn view(bytes: &[u8]) -> Result<Option<Header>, BatchError> {
    view_head(bytes, bytes.len())
}

/// As [`view`], for a batch of which perhaps only the header is there. Formats 0 and 1 have no header that would tell: they must be there in full.
pub fn view_cut(bytes: &[u8]) -> Result<Option<Header>, BatchError> {
    view_head(bytes, usize::MAX)
}

/// `Ok(None)` also for a batch larger than `available`.
fn view_head(bytes: &[u8], available: usize) -> Result<Option<Header>, BatchError> {
    let Some(offset) = bytes.first_chunk().map(|b| i64::from_be_bytes(*b)) else { return Ok(None) };
    let Some(magic) = magic(bytes) else { return Ok(None) };
    match magic {
        2 => {}
        0 | 1 => return old::view(bytes),
        _ => return Err(BatchError::UnknownMagic { magic, offset }),
    }
    let malformed = |what| BatchError::Malformed { offset, what };
    let size = declared_size(bytes).ok_or_else(|| malformed("length"))?;
    if size < HEADER_LEN {
        return Err(malformed("length"));
    }
    if size > available {
        return Ok(None);
    }
    let Some(raw) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let header = decode(raw, size);
    if offset < 0
        || header.last_offset_delta < 0
        || offset.checked_add(header.last_offset_delta.into()).is_none()
    {
        return Err(malformed("offsets"));
    }
    // Every record takes one offset at least.
    if header.record_count < 0 || header.record_count > header.last_offset_delta.saturating_add(1) {
        return Err(malformed("record count"));
    }
    Ok(Some(header))
}

/// Reads the header at the head of `bytes` and checks the CRC of the whole batch.
pub fn view_checked(bytes: &[u8]) -> Result<Option<Header>, BatchError> {
    if matches!(magic(bytes), Some(0 | 1)) {
        return old::view_checked(bytes);
    }
    let Some(header) = view(bytes)? else { return Ok(None) };
    let computed = crc32c(bytes.get(ATTRIBUTES..header.size).unwrap_or_default());
    if computed != header.crc {
        return Err(BatchError::Crc { offset: header.base_offset, stored: header.crc, computed });
    }
    Ok(Some(header))
}

fn decode(raw: &[u8; HEADER_LEN], size: usize) -> Header {
    Header {
        magic: 2,
        base_offset: i64::from_be_bytes(field(raw, BASE_OFFSET)),
        size,
        leader_epoch: i32::from_be_bytes(field(raw, LEADER_EPOCH)),
        crc: u32::from_be_bytes(field(raw, CRC)),
        attributes: i16::from_be_bytes(field(raw, ATTRIBUTES)),
        last_offset_delta: i32::from_be_bytes(field(raw, LAST_OFFSET_DELTA)),
        base_timestamp: i64::from_be_bytes(field(raw, BASE_TIMESTAMP)),
        max_timestamp: i64::from_be_bytes(field(raw, MAX_TIMESTAMP)),
        producer_id: i64::from_be_bytes(field(raw, PRODUCER_ID)),
        producer_epoch: i16::from_be_bytes(field(raw, PRODUCER_EPOCH)),
        base_sequence: i32::from_be_bytes(field(raw, BASE_SEQUENCE)),
        record_count: i32::from_be_bytes(field(raw, RECORD_COUNT)),
    }
}

/// `N` bytes at a layout constant; the constants lie inside the header, so this is one load.
#[inline(always)]
fn field<const N: usize>(raw: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    raw.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// Who produces a batch: written into its header on the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// From InitProducerId.
    pub id: i64,
    /// From InitProducerId.
    pub epoch: i16,
    /// Sequence of the batch's first record.
    pub sequence: i32,
}

/// Makes a stored batch fit to be produced: base offset 0, leader epoch -1, `producer`, and neither append time nor
/// transaction nor delete horizon; then sets the CRC. The payload is neither read nor changed: `header.crc` must have been
/// checked. Returns `false`, and changes nothing, when `batch` is shorter than a header, or of an older format.
pub fn patch_for_produce(batch: &mut [u8], header: &Header, producer: Producer) -> bool {
    let payload_len = header.size.saturating_sub(HEADER_LEN) as u64;
    let Some(raw) = batch.first_chunk_mut::<HEADER_LEN>().filter(|_| !header.is_old()) else { return false };
    let before = crc32c(covered(raw));
    put(raw, BASE_OFFSET, 0i64.to_be_bytes());
    put(raw, LEADER_EPOCH, (-1i32).to_be_bytes());
    put(raw, ATTRIBUTES, (header.attributes & CODEC_MASK).to_be_bytes());
    put(raw, PRODUCER_ID, producer.id.to_be_bytes());
    put(raw, PRODUCER_EPOCH, producer.epoch.to_be_bytes());
    put(raw, BASE_SEQUENCE, producer.sequence.to_be_bytes());
    let change = crc32c_shift(before ^ crc32c(covered(raw)), payload_len);
    put(raw, CRC, (header.crc ^ change).to_be_bytes());
    true
}

/// The part of the header that the CRC covers.
fn covered(raw: &[u8; HEADER_LEN]) -> &[u8] {
    raw.get(ATTRIBUTES..).unwrap_or_default()
}

#[allow(clippy::indexing_slicing)] // the constants lie inside the header
fn put<const N: usize>(raw: &mut [u8; HEADER_LEN], at: usize, value: [u8; N]) {
    raw[at..at + N].copy_from_slice(&value);
}

/// What a header says, in format 2; `size` and `crc` are computed.
pub fn encode(header: &Header, records: &[u8]) -> Vec<u8> {
    [&encode_head(header, records)[..], records].concat()
}

/// The header of a batch with `records` as its payload; `size` and `crc` are computed.
pub fn encode_head(header: &Header, records: &[u8]) -> [u8; HEADER_LEN] {
    let mut raw = [0; HEADER_LEN];
    put(&mut raw, BASE_OFFSET, header.base_offset.to_be_bytes());
    put(&mut raw, LENGTH, ((HEADER_LEN - LOG_OVERHEAD + records.len()) as i32).to_be_bytes());
    put(&mut raw, LEADER_EPOCH, header.leader_epoch.to_be_bytes());
    put(&mut raw, MAGIC, [2]);
    put(&mut raw, ATTRIBUTES, header.attributes.to_be_bytes());
    put(&mut raw, LAST_OFFSET_DELTA, header.last_offset_delta.to_be_bytes());
    put(&mut raw, BASE_TIMESTAMP, header.base_timestamp.to_be_bytes());
    put(&mut raw, MAX_TIMESTAMP, header.max_timestamp.to_be_bytes());
    put(&mut raw, PRODUCER_ID, header.producer_id.to_be_bytes());
    put(&mut raw, PRODUCER_EPOCH, header.producer_epoch.to_be_bytes());
    put(&mut raw, BASE_SEQUENCE, header.base_sequence.to_be_bytes());
    put(&mut raw, RECORD_COUNT, header.record_count.to_be_bytes());
    let crc = crate::checksum::crc32c_combine(crc32c(covered(&raw)), crc32c(records), records.len() as u64);
    put(&mut raw, CRC, crc.to_be_bytes());
    raw
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_header() -> impl Strategy<Value = Header> {
        let offsets = (0..i64::MAX / 2, any::<i32>(), 0..i32::MAX, any::<i32>());
        let rest = (any::<i16>(), any::<i64>(), any::<i64>(), any::<i64>(), any::<i16>(), any::<i32>());
        (offsets, rest).prop_map(|((base_offset, leader_epoch, last_offset_delta, count), rest)| Header {
            magic: 2,
            base_offset,
            size: 0,
            leader_epoch,
            crc: 0,
            attributes: rest.0,
            last_offset_delta,
            base_timestamp: rest.1,
            max_timestamp: rest.2,
            producer_id: rest.3,
            producer_epoch: rest.4,
            base_sequence: rest.5,
            record_count: count.unsigned_abs().checked_rem(last_offset_delta as u32 + 1).unwrap_or(0) as i32,
        })
    }

    proptest! {
        #[test]
        fn round_trip(header in any_header(), records in proptest::collection::vec(any::<u8>(), 0..400)) {
            let bytes = encode(&header, &records);
            let seen = view_checked(&bytes).unwrap().unwrap();
            prop_assert_eq!(seen.size, bytes.len());
            prop_assert_eq!(Header { size: 0, crc: 0, ..seen }, header);
            for cut in [0, 11, 16, 60, bytes.len() - 1] {
                prop_assert_eq!(view(&bytes[..cut.min(bytes.len() - 1)]), Ok(None));
            }
        }

        #[test]
        fn patched_header_has_a_valid_crc(header in any_header(), id: i64, epoch: i16, sequence: i32,
                                          records in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = encode(&header, &records);
            let stored = view_checked(&bytes).unwrap().unwrap();
            let producer = Producer { id, epoch, sequence };
            prop_assert!(patch_for_produce(&mut bytes, &stored, producer));
            let patched = view_checked(&bytes).unwrap().unwrap();
            prop_assert_eq!((patched.base_offset, patched.leader_epoch), (0, -1));
            prop_assert_eq!((patched.producer_id, patched.producer_epoch, patched.base_sequence), (id, epoch, sequence));
            prop_assert_eq!(patched.attributes, header.attributes & CODEC_MASK);
            prop_assert_eq!((patched.base_timestamp, patched.max_timestamp), (header.base_timestamp, header.max_timestamp));
            prop_assert_eq!(&bytes[HEADER_LEN..], &records[..]);
        }

        #[test]
        fn a_flipped_bit_is_found(header in any_header(), at in 21usize..200, bit in 0u8..8,
                                  records in proptest::collection::vec(any::<u8>(), 140..150)) {
            let mut bytes = encode(&header, &records);
            bytes[at] ^= 1 << bit;
            prop_assert!(view_checked(&bytes).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(magic) = bytes.get_mut(MAGIC) { *magic = 2 }
            let _ = view_checked(&bytes);
        }
    }

    #[test]
    fn other_formats_are_named() {
        let mut bytes = vec![0; 40];
        bytes[7] = 9;
        bytes[16] = 7;
        assert_eq!(view(&bytes), Err(BatchError::UnknownMagic { magic: 7, offset: 9 }));
        bytes[16] = 1;
        assert_eq!(view_checked(&bytes), Err(BatchError::Old { magic: 1, offset: 9, what: "size" }));
        bytes[11] = 28;
        assert!(matches!(view_checked(&bytes), Err(BatchError::OldCrc { offset: 9, stored: 0, .. })));
    }
}

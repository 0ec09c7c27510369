//! The records inside a batch, and batches made of records. Only for batches that can't be copied, or are so small that merging them pays.
//!
//! ```text
//! length varint │ attributes i8 │ timestamp delta varlong │ offset delta varint │ body
//! body: key length varint, key │ value length varint, value │ header count varint, headers
//! ```
//! A body depends on neither offset nor time, so a record moves to another batch with its body verbatim.

use std::borrow::Cow;

use crate::batch::{self, Header};
use crate::codecs::{Codec, CodecError};
use crate::old;
use crate::wire::{Reader, WireError, Writer, varlong_len};

/// Largest unpacked payload that is accepted, bytes.
pub const MAX_PAYLOAD: usize = 1 << 30;

/// A batch whose records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The compressed payload.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A message of format 0 or 1: its fields, or what it holds.
    #[error("malformed message: {0}")]
    Old(&'static str),
    /// A record's fields.
    #[error("record {index}: {what}")]
    Record {
        /// Counted from 0 in the batch.
        index: i32,
        /// Which field.
        what: WireError,
    },
    /// More bytes than records.
    #[error("{0} bytes behind the last record")]
    LeftOver(usize),
}

/// One record, borrowed from an unpacked payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Absolute offset.
    pub offset: i64,
    /// ms; already the append time where the batch says so.
    pub timestamp: i64,
    /// No bit of them has a meaning yet.
    pub attributes: i8,
    /// Key, value and headers as they stand in the batch.
    pub body: &'a [u8],
}

/// Key, value and headers of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body<'a> {
    /// `None` is null.
    pub key: Option<&'a [u8]>,
    /// `None` is null: a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// In order, names may repeat.
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

impl<'a> Record<'a> {
    /// Splits the body.
    pub fn parse_body(&self) -> Result<Body<'a>, WireError> {
        let mut reader = Reader::new(self.body);
        let key = reader.varint_bytes()?;
        let value = reader.varint_bytes()?;
        let count = usize::try_from(reader.varint()?).map_err(|_| WireError::Malformed("header count"))?;
        // A header takes two bytes at least.
        if count > reader.remaining() {
            return Err(WireError::Short);
        }
        let mut headers = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let name = reader.varint_bytes()?.ok_or(WireError::Malformed("header name"))?;
            headers.push((name, reader.varint_bytes()?));
        }
        match reader.remaining() {
            0 => Ok(Body { key, value, headers }),
            _ => Err(WireError::Malformed("record length")),
        }
    }

    /// The record has a null key (a compacted topic refuses such).
    pub fn key_is_null(&self) -> bool {
        self.body.first() == Some(&1)
    }
}

/// The unpacked payload of a batch.
pub struct Payload {
    header: Header,
    bytes: Vec<u8>,
}

impl Payload {
    /// Unpacks the records of `batch`, whose header and CRC have been checked.
    pub fn unpack(header: &Header, batch: &[u8]) -> Result<Self, RecordsError> {
        if header.is_old() {
            let mut bytes = Vec::new();
            old::records_to(header, batch, MAX_PAYLOAD, &mut bytes)?;
            return Ok(Self { header: *header, bytes });
        }
        let packed = batch.get(batch::HEADER_LEN..header.size).unwrap_or_default();
        let bytes = Codec::from_number(header.codec())?.decompress(packed, MAX_PAYLOAD)?;
        Ok(Self { header: *header, bytes })
    }

    /// The records in order. Stops at the first error.
    pub fn records(&self) -> Records<'_> {
        Records::of(&self.header, &self.bytes)
    }
}

/// Iterates over the records of a [`Payload`].
pub struct Records<'a> {
    header: &'a Header,
    reader: Reader<'a>,
    index: i32,
    failed: bool,
}

impl<'a> Records<'a> {
    /// Those of a batch with this header, whose unpacked payload is `bytes`.
    pub fn of(header: &'a Header, bytes: &'a [u8]) -> Self {
        Self { header, reader: Reader::new(bytes), index: 0, failed: false }
    }

    fn read(&mut self) -> Result<Record<'a>, WireError> {
        let length =
            usize::try_from(self.reader.varint()?).map_err(|_| WireError::Malformed("record length"))?;
        let mut record = Reader::new(self.reader.take(length)?);
        let attributes = record.i8()?;
        let timestamp_delta = record.varlong()?;
        let offset_delta = record.varint()?;
        if offset_delta < 0 || offset_delta > self.header.last_offset_delta {
            return Err(WireError::Malformed("offset delta"));
        }
        let timestamp = match self.header.is_append_time() {
            true => self.header.max_timestamp,
            false => self.header.base_timestamp.wrapping_add(timestamp_delta),
        };
        Ok(Record {
            offset: self.header.base_offset + i64::from(offset_delta),
            timestamp,
            attributes,
            body: record.rest(),
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = if self.index < self.header.record_count {
            self.read().map_err(|what| RecordsError::Record { index: self.index, what })
        } else if self.reader.remaining() > 0 {
            Err(RecordsError::LeftOver(self.reader.remaining()))
        } else {
            return None;
        };
        self.index += 1;
        self.failed = result.is_err();
        Some(result)
    }
}

/// Puts one record behind others.
#[inline]
pub(crate) fn put_record(payload: &mut Vec<u8>, attributes: i8, (time, offset): (i64, i64), body: &[u8]) {
    let length = 1 + varlong_len(time) + varlong_len(offset) + body.len();
    payload.put_varlong(length as i64);
    payload.put_i8(attributes);
    payload.put_varlong(time);
    payload.put_varlong(offset);
    payload.extend_from_slice(body);
}

/// Gathers records into one new batch with create times and dense offsets.
pub struct Builder {
    codec: Codec,
    mark: Mark,
    payload: Vec<u8>,
}

/// How far a [`Builder`] has come.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    base_timestamp: Option<i64>,
    max_timestamp: i64,
    count: i32,
    len: usize,
}

impl Mark {
    const BEGIN: Self = Self { base_timestamp: None, max_timestamp: -1, count: 0, len: 0 };
}

impl Builder {
    /// An empty batch of `codec`.
    pub fn new(codec: Codec) -> Self {
        Self { codec, mark: Mark::BEGIN, payload: Vec::new() }
    }

    /// Begins another batch, in the memory of the last one.
    pub fn restart(&mut self, codec: Codec) {
        self.codec = codec;
        self.rewind(Mark::BEGIN);
    }

    /// Adds a record behind the last one: its time, attributes and body.
    pub fn push(&mut self, timestamp: i64, attributes: i8, body: &[u8]) {
        let mark = &mut self.mark;
        let base = *mark.base_timestamp.get_or_insert(timestamp);
        let deltas = (timestamp.wrapping_sub(base), i64::from(mark.count));
        put_record(&mut self.payload, attributes, deltas, body);
        mark.max_timestamp = mark.max_timestamp.max(timestamp);
        mark.count += 1;
        mark.len = self.payload.len();
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.mark.count
    }

    /// Of the batch.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes of the batch, header included, before it is packed.
    pub fn len(&self) -> usize {
        batch::HEADER_LEN + self.mark.len
    }

    /// No record yet.
    pub fn is_empty(&self) -> bool {
        self.mark.count == 0
    }

    /// Where it stands.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Takes back what was pushed since `mark`.
    pub fn rewind(&mut self, mark: Mark) {
        self.payload.truncate(mark.len);
        self.mark = mark;
    }

    /// The batch: base offset 0, leader epoch -1, no producer. Patch it before it is sent.
    pub fn seal(&self) -> Result<Sealed<'_>, CodecError> {
        let header = Header {
            magic: 2,
            base_offset: 0,
            size: 0,
            leader_epoch: -1,
            crc: 0,
            attributes: self.codec.number(),
            last_offset_delta: (self.mark.count - 1).max(0),
            base_timestamp: self.mark.base_timestamp.unwrap_or(-1),
            max_timestamp: self.mark.max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: self.mark.count,
        };
        let records = match self.codec {
            Codec::None => Cow::Borrowed(self.payload.as_slice()),
            codec => Cow::Owned(codec.compress(&self.payload)?),
        };
        Ok(Sealed { head: batch::encode_head(&header, &records), records })
    }

    /// The same in memory of its own.
    pub fn finish(&self) -> Result<Vec<u8>, CodecError> {
        let sealed = self.seal()?;
        Ok([&sealed.head[..], &sealed.records].concat())
    }
}

/// A batch that only has to be put somewhere.
#[derive(Debug)]
pub struct Sealed<'a> {
    head: [u8; batch::HEADER_LEN],
    records: Cow<'a, [u8]>,
}

impl Sealed<'_> {
    /// Bytes of the batch.
    pub fn size(&self) -> usize {
        self.head.len() + self.records.len()
    }

    /// Writes it to the begin of `place`. Returns `false`, and changes nothing, when that is too short.
    pub fn put(&self, place: &mut [u8]) -> bool {
        let Some(place) = place.get_mut(..self.size()) else { return false };
        let (head, records) = place.split_at_mut(self.head.len());
        head.copy_from_slice(&self.head);
        records.copy_from_slice(&self.records);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A body with the given key, value and headers.
    pub(crate) fn body(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let put = |out: &mut Vec<u8>, bytes: Option<&[u8]>| {
            out.put_varlong(bytes.map_or(-1, |b| b.len() as i64));
            out.extend_from_slice(bytes.unwrap_or_default());
        };
        put(&mut out, key);
        put(&mut out, value);
        out.put_varlong(headers.len() as i64);
        for (name, value) in headers {
            put(&mut out, Some(name));
            put(&mut out, *value);
        }
        out
    }

    proptest! {
        #[test]
        fn round_trip(records in proptest::collection::vec((any::<i64>(), any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>(), any::<i8>()), 1..20),
                      codec in 0u8..5) {
            let mut builder = Builder::new(Codec::from_number(codec).unwrap());
            for (timestamp, key, value, attributes) in &records {
                let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", None), (b"h", Some(b""))];
                builder.push(*timestamp, *attributes, &body(key.as_deref(), value.as_deref(), &headers));
            }
            let bytes = builder.finish().unwrap();
            let header = batch::view_checked(&bytes).unwrap().unwrap();
            prop_assert!(!header.has_holes());
            let payload = Payload::unpack(&header, &bytes).unwrap();
            for (i, (record, expected)) in payload.records().zip(&records).enumerate() {
                let record = record.unwrap();
                prop_assert_eq!((record.offset, record.timestamp, record.attributes), (i as i64, expected.0, expected.3));
                let body = record.parse_body().unwrap();
                prop_assert_eq!(body.key, expected.1.as_deref());
                prop_assert_eq!(body.value, expected.2.as_deref());
                prop_assert_eq!(record.key_is_null(), expected.1.is_none());
                prop_assert_eq!(body.headers, vec![(&b"h"[..], None), (&b"h"[..], Some(&b""[..]))]);
            }
            prop_assert_eq!(payload.records().count(), records.len());
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200), count in 0i32..50, codec in 0i16..5) {
            let mut header = batch::view(&Builder::new(Codec::None).finish().unwrap()).unwrap().unwrap();
            (header.record_count, header.last_offset_delta, header.attributes) = (count, 50, codec);
            let bytes = batch::encode(&header, &noise);
            let header = batch::view(&bytes).unwrap().unwrap();
            if let Ok(payload) = Payload::unpack(&header, &bytes) {
                for record in payload.records().flatten() {
                    let _ = record.parse_body();
                }
            }
        }
    }
}

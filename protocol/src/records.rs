//! The records inside a batch, and batches made of records. Only for the few batches that can't be copied.
//!
//! ```text
//! length varint │ attributes i8 │ timestamp delta varlong │ offset delta varint │ body
//! body: key length varint, key │ value length varint, value │ header count varint, headers
//! ```
//! A body depends on neither offset nor time, so a record moves to another batch with its body verbatim.

use crate::batch::{self, Header};
use crate::codecs::{Codec, CodecError};
use crate::wire::{Reader, WireError, Writer, varlong_len};

/// Largest unpacked payload that is accepted, bytes.
pub const MAX_PAYLOAD: usize = 1 << 30;

/// A batch whose records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The compressed payload.
    #[error(transparent)]
    Codec(#[from] CodecError),
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
        let packed = batch.get(batch::HEADER_LEN..header.size).unwrap_or_default();
        let bytes = Codec::from_number(header.codec())?.decompress(packed, MAX_PAYLOAD)?;
        Ok(Self { header: *header, bytes })
    }

    /// The records in order. Stops at the first error.
    pub fn records(&self) -> Records<'_> {
        Records { header: &self.header, reader: Reader::new(&self.bytes), index: 0, failed: false }
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
    fn read(&mut self) -> Result<Record<'a>, WireError> {
        let length =
            usize::try_from(self.reader.varint()?).map_err(|_| WireError::Malformed("record length"))?;
        let mut record = Reader::new(self.reader.take(length)?);
        record.i8()?; // attributes, unused
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

/// Gathers records into one new batch with create times and dense offsets.
pub struct Builder {
    codec: Codec,
    base_timestamp: Option<i64>,
    max_timestamp: i64,
    count: i32,
    payload: Vec<u8>,
}

impl Builder {
    /// An empty batch of `codec`.
    pub fn new(codec: Codec) -> Self {
        Self { codec, base_timestamp: None, max_timestamp: -1, count: 0, payload: Vec::new() }
    }

    /// Adds a record behind the last one.
    pub fn push(&mut self, timestamp: i64, body: &[u8]) {
        let base = *self.base_timestamp.get_or_insert(timestamp);
        let delta = timestamp.wrapping_sub(base);
        let length = 1 + varlong_len(delta) + varlong_len(i64::from(self.count)) + body.len();
        self.payload.put_varlong(length as i64);
        self.payload.put_i8(0);
        self.payload.put_varlong(delta);
        self.payload.put_varlong(i64::from(self.count));
        self.payload.extend_from_slice(body);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// The batch: base offset 0, leader epoch -1, no producer. Patch it before it is sent.
    pub fn finish(self) -> Result<Vec<u8>, CodecError> {
        let header = Header {
            base_offset: 0,
            size: 0,
            leader_epoch: -1,
            crc: 0,
            attributes: self.codec.number(),
            last_offset_delta: (self.count - 1).max(0),
            base_timestamp: self.base_timestamp.unwrap_or(-1),
            max_timestamp: self.max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: self.count,
        };
        Ok(batch::encode(&header, &self.codec.compress(&self.payload)?))
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
        fn round_trip(records in proptest::collection::vec((any::<i64>(), any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>()), 1..20),
                      codec in 0u8..5) {
            let mut builder = Builder::new(Codec::from_number(codec).unwrap());
            for (timestamp, key, value) in &records {
                let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", None), (b"h", Some(b""))];
                builder.push(*timestamp, &body(key.as_deref(), value.as_deref(), &headers));
            }
            let bytes = builder.finish().unwrap();
            let header = batch::view_checked(&bytes).unwrap().unwrap();
            prop_assert!(!header.has_holes());
            let payload = Payload::unpack(&header, &bytes).unwrap();
            for (i, (record, expected)) in payload.records().zip(&records).enumerate() {
                let record = record.unwrap();
                prop_assert_eq!((record.offset, record.timestamp), (i as i64, expected.0));
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

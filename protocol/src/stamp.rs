//! Headers that tell where a record comes from, and reading such headers of our own and of other tools.
//!
//! The names are those that others use as well; our values are decimal text. Others write a little-endian INT64 (of the partition: INT32).

use std::borrow::Cow;

use crate::records::{Body, Record, RecordsError};
use crate::wire::{Reader, WireError, Writer};

/// Topic at the source.
pub const TOPIC: &str = "x-source-topic";
/// Partition at the source.
pub const PARTITION: &str = "x-source-partition";
/// Offset at the source.
pub const OFFSET: &str = "x-original-offset";
/// Time at the source, ms.
pub const TIMESTAMP: &str = "x-original-timestamp";
/// Headers in a stamp.
const HEADERS: i32 = 4;

/// What is added to each record of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    topic: String,
    partition: u32,
}

impl Stamp {
    /// Of a partition at the source.
    pub fn new(topic: &str, partition: u32) -> Self {
        Self { topic: topic.to_owned(), partition }
    }

    /// The record's body with our headers behind its own.
    pub fn body(&self, record: &Record<'_>) -> Result<Vec<u8>, RecordsError> {
        let malformed = |what| RecordsError::Record { index: record.offset as i32, what };
        let (head, count, headers) = split(record.body).map_err(malformed)?;
        let count = count.checked_add(HEADERS).ok_or(malformed(WireError::Malformed("header count")))?;
        let mut body = Vec::with_capacity(record.body.len() + self.topic.len() + 150);
        body.extend_from_slice(head);
        body.put_varlong(i64::from(count));
        body.extend_from_slice(headers);
        let mut put = |name: &str, value: &str| {
            for text in [name, value] {
                body.put_varlong(text.len() as i64);
                body.extend_from_slice(text.as_bytes());
            }
        };
        put(TOPIC, &self.topic);
        put(PARTITION, &self.partition.to_string());
        put(OFFSET, &record.offset.to_string());
        put(TIMESTAMP, &record.timestamp.to_string());
        Ok(body)
    }
}

/// Key and value as they lie, number of headers, the headers as they lie.
fn split(body: &[u8]) -> Result<(&[u8], i32, &[u8]), WireError> {
    let mut reader = Reader::new(body);
    reader.varint_bytes()?;
    reader.varint_bytes()?;
    let head = body.get(..body.len() - reader.remaining()).unwrap_or_default();
    let count = reader.varint()?;
    if count < 0 {
        return Err(WireError::Malformed("header count"));
    }
    Ok((head, count, reader.rest()))
}

/// What the headers of a record say of where it comes from, whoever wrote them. Of headers of one name the last counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Topic.
    pub topic: Option<Cow<'a, str>>,
    /// Partition.
    pub partition: Option<i32>,
    /// Offset.
    pub offset: Option<i64>,
    /// ms.
    pub timestamp: Option<i64>,
}

impl<'a> Origin<'a> {
    /// From a record's headers.
    pub fn of(body: &Body<'a>) -> Self {
        let mut origin = Self::default();
        for (name, value) in &body.headers {
            let Some(value) = *value else { continue };
            match std::str::from_utf8(name) {
                Ok(TOPIC) => origin.topic = Some(String::from_utf8_lossy(value)),
                Ok(PARTITION) => origin.partition = number(value).and_then(|n| i32::try_from(n).ok()),
                Ok(OFFSET) => origin.offset = number(value).filter(|offset| *offset >= 0),
                Ok(TIMESTAMP) => origin.timestamp = number(value),
                _ => {}
            }
        }
        origin
    }
}

/// Decimal text, or a little-endian integer. Eight digits of text would be an offset beyond 3 * 10^18 as an integer: they are taken for text.
fn number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    let wide = || Some(i64::from_le_bytes(*value.first_chunk::<8>().filter(|_| value.len() == 8)?));
    let narrow =
        || Some(i64::from(i32::from_le_bytes(*value.first_chunk::<4>().filter(|_| value.len() == 4)?)));
    text.or_else(wide).or_else(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body: &[u8]) -> Record<'_> {
        Record { offset: 12_345_678, timestamp: -1, attributes: 0, body }
    }

    proptest! {
        #[test]
        fn a_stamp_comes_behind(key: Option<Vec<u8>>, value: Option<Vec<u8>>,
                                headers in proptest::collection::vec((any::<Vec<u8>>(), any::<Option<Vec<u8>>>()), 0..5)) {
            let mut body = Vec::new();
            let mut put = |bytes: Option<&[u8]>| {
                body.put_varlong(bytes.map_or(-1, |bytes| bytes.len() as i64));
                body.extend_from_slice(bytes.unwrap_or_default());
            };
            put(key.as_deref());
            put(value.as_deref());
            body.put_varlong(headers.len() as i64);
            for (name, value) in &headers {
                for bytes in [Some(name.as_slice()), value.as_deref()] {
                    body.put_varlong(bytes.map_or(-1, |bytes| bytes.len() as i64));
                    body.extend_from_slice(bytes.unwrap_or_default());
                }
            }
            // Stamped twice: the last one counts.
            let first = Stamp::new("elsewhere", 1).body(&Record { offset: 9, ..record(&body) }).unwrap();
            let stamped = Stamp::new("orders", 7).body(&record(&first)).unwrap();
            let parsed = record(&stamped);
            let parsed = parsed.parse_body().unwrap();
            prop_assert_eq!((parsed.key, parsed.value), (key.as_deref(), value.as_deref()));
            prop_assert_eq!(parsed.headers.len(), headers.len() + 8);
            for (found, (name, value)) in parsed.headers.iter().zip(&headers) {
                prop_assert_eq!(*found, (name.as_slice(), value.as_deref()));
            }
            let origin = Origin::of(&parsed);
            prop_assert_eq!((origin.topic.as_deref(), origin.partition), (Some("orders"), Some(7)));
            prop_assert_eq!((origin.offset, origin.timestamp), (Some(12_345_678), Some(-1)));
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let _ = Stamp::new("a", 0).body(&record(&noise));
            let _ = number(&noise);
        }
    }

    #[test]
    fn numbers_of_others() {
        assert_eq!(number(&42i64.to_le_bytes()), Some(42));
        assert_eq!(number(&3i32.to_le_bytes()), Some(3));
        assert_eq!(number(b"12345678"), Some(12_345_678));
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"x"), None);
    }
}

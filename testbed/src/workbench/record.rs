//! Records to write, and batches as they lie in a log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};

/// A record to write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The partition it goes to.
    pub partition: i32,
    /// The key; null by default.
    #[serde(serialize_with = "bytes")]
    pub key: Option<Vec<u8>>,
    /// The value; null by default.
    #[serde(serialize_with = "bytes")]
    pub value: Option<Vec<u8>>,
    /// Headers in order; a name may repeat or be empty, a value may be null.
    #[serde(serialize_with = "headers")]
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970; the time of the send when none.
    pub timestamp: Option<i64>,
}

impl Record {
    /// A record with null key and value.
    pub fn new(partition: i32) -> Self {
        Self { partition, ..Self::default() }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.value = Some(value.as_ref().to_vec());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.map(<[u8]>::to_vec)));
        self
    }

    /// Sets the timestamp in milliseconds since 1970.
    #[must_use]
    pub fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}

fn bytes<S: Serializer>(data: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    data.as_ref().map(|d| STANDARD.encode(d)).serialize(serializer)
}

fn headers<S: Serializer>(list: &[(String, Option<Vec<u8>>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer
        .collect_seq(list.iter().map(|(name, value)| (name, value.as_ref().map(|v| STANDARD.encode(v)))))
}

/// The header of a record batch in a partition's log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BatchInfo {
    /// The offset of its first record, when none has been compacted away.
    pub base_offset: i64,
    /// The offset of its last record, when none has been compacted away.
    pub last_offset: i64,
    /// How many records it has; -1 where the format does not say.
    pub records: i32,
    /// Its size with the header.
    pub bytes: u32,
    /// The format's version.
    pub magic: i8,
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub codec: String,
    /// `CreateTime` or `LogAppendTime`.
    pub timestamp_type: String,
    /// The latest timestamp in it.
    pub max_timestamp: i64,
    /// The producer's id, -1 for none.
    pub producer_id: i64,
    /// The producer's epoch, -1 for none.
    pub producer_epoch: i16,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
    /// Whether it is a transaction's marker.
    pub control: bool,
    /// Whether compaction has set a delete horizon in it.
    pub delete_horizon: bool,
}

impl BatchInfo {
    /// The number of offsets that it covers.
    pub fn span(&self) -> i64 {
        self.last_offset - self.base_offset + 1
    }

    /// Whether compaction took some of its records, but not the batch.
    pub fn has_holes(&self) -> bool {
        i64::from(self.records) < self.span()
    }
}

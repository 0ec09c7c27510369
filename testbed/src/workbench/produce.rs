//! Writing, plain and in transactions.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{GroupOffset, Record, Workbench};

/// How a producer compresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The name that Kafka's settings use.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How records are written.
#[derive(Debug, Clone)]
pub struct ProduceOptions {
    /// The compression.
    pub codec: Codec,
    /// Ends the batches after each so many records; 0: only at the end and at `batch_bytes`.
    pub flush_every: u32,
    /// The largest batch, unless one record is larger.
    pub batch_bytes: u32,
    /// How long a batch waits for more records, in milliseconds, when no flush ends it.
    pub linger_ms: u32,
    /// `all`, `1` or `0`.
    pub acks: &'static str,
    /// Whether the producer has an id and numbers its batches. Needs acks `all`.
    pub idempotent: bool,
}

impl Default for ProduceOptions {
    fn default() -> Self {
        let (codec, flush_every) = (Codec::None, 0);
        Self { codec, flush_every, batch_bytes: 1_000_000, linger_ms: 5_000, acks: "all", idempotent: true }
    }
}

impl ProduceOptions {
    /// With this compression.
    pub fn codec(codec: Codec) -> Self {
        Self { codec, ..Self::default() }
    }

    /// Batches of so many records each (per call, when all go to one partition).
    #[must_use]
    pub fn flush_every(mut self, records: u32) -> Self {
        self.flush_every = records;
        self
    }

    /// Without a producer id.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.idempotent = false;
        self
    }

    fn settings(&self) -> Value {
        json!({
            "compression.type": self.codec.name(),
            "batch.size": self.batch_bytes,
            "linger.ms": self.linger_ms,
            "acks": self.acks,
            "enable.idempotence": self.idempotent,
        })
    }
}

/// What a call wrote to one partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Acked {
    /// The partition.
    pub partition: i32,
    /// The offset of the first record.
    pub first: i64,
    /// The offset of the last record.
    pub last: i64,
    /// How many records.
    pub records: u64,
    /// The last record's timestamp as the broker keeps it.
    pub last_timestamp: i64,
}

/// Records made from a seed, for large amounts.
#[derive(Debug, Clone, Serialize)]
pub struct Generate {
    /// How many records.
    pub count: u64,
    /// Record i goes to partition i modulo this.
    pub partitions: i32,
    /// The size of a key; 0 gives null keys.
    pub key_bytes: u32,
    /// The size of a value.
    pub value_bytes: u32,
    /// Record i has the key of i modulo this; 0: each its own.
    pub distinct_keys: u64,
    /// The seed.
    pub seed: u64,
    /// Whether values compress to about half.
    pub compressible: bool,
    /// The timestamp of record 0; the time of the send when none.
    pub first_timestamp: Option<i64>,
    /// Milliseconds from one record to the next.
    pub timestamp_step: i64,
}

impl Default for Generate {
    fn default() -> Self {
        Self {
            count: 1000,
            partitions: 1,
            key_bytes: 16,
            value_bytes: 100,
            distinct_keys: 0,
            seed: 1,
            compressible: false,
            first_timestamp: None,
            timestamp_step: 1,
        }
    }
}

/// The longest that a broker lets a transaction stay open by default.
const TRANSACTION_TIMEOUT_MS: u32 = 900_000;

impl Workbench {
    /// Writes records with a fresh producer, in the given order, and returns what was acknowledged per partition.
    pub fn produce(&self, topic: &str, records: &[Record], options: &ProduceOptions) -> Result<Vec<Acked>> {
        let args = Produce { topic, records, flush_every: options.flush_every, settings: options.settings() };
        self.call("produce", &args)
    }

    /// Writes generated records with a fresh producer.
    pub fn generate(&self, topic: &str, generate: &Generate, options: &ProduceOptions) -> Result<()> {
        #[derive(Serialize)]
        struct Args<'a> {
            topic: &'a str,
            settings: Value,
            #[serde(flatten)]
            generate: &'a Generate,
        }
        self.order("generate", &Args { topic, settings: options.settings(), generate })
    }

    /// Begins a transaction. `producer` is its transactional id; the producer lives on for more of them, with the
    /// options of its first.
    pub fn begin(&self, producer: &str, options: &ProduceOptions) -> Result<()> {
        self.begin_with_timeout(producer, options, TRANSACTION_TIMEOUT_MS)
    }

    /// The same, with the time after which the broker aborts what is still open.
    pub fn begin_with_timeout(
        &self,
        producer: &str,
        options: &ProduceOptions,
        timeout_ms: u32,
    ) -> Result<()> {
        let args = json!({ "producer": producer, "settings": options.settings(), "timeout_ms": timeout_ms });
        self.order("txn_begin", &args)
    }

    /// Writes records in the open transaction of `producer`, and waits for their acknowledgement.
    pub fn send(&self, producer: &str, topic: &str, records: &[Record]) -> Result<Vec<Acked>> {
        self.call(
            "txn_send",
            &json!({ "producer": producer, "topic": topic, "records": records, "flush_every": 0 }),
        )
    }

    /// Adds group positions to the open transaction of `producer`.
    pub fn send_offsets(&self, producer: &str, group: &str, offsets: &[GroupOffset]) -> Result<()> {
        self.order("txn_offsets", &json!({ "producer": producer, "group": group, "offsets": offsets }))
    }

    /// Commits the open transaction of `producer`.
    pub fn commit(&self, producer: &str) -> Result<()> {
        self.order("txn_commit", &json!({ "producer": producer }))
    }

    /// Aborts the open transaction of `producer`.
    pub fn abort(&self, producer: &str) -> Result<()> {
        self.order("txn_abort", &json!({ "producer": producer }))
    }

    /// Forgets a producer as a crash would: an open transaction stays open until its timeout.
    pub fn drop_producer(&self, producer: &str) -> Result<()> {
        self.order("txn_drop", &json!({ "producer": producer }))
    }
}

#[derive(Serialize)]
struct Produce<'a> {
    topic: &'a str,
    records: &'a [Record],
    flush_every: u32,
    settings: Value,
}

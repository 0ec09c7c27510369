//! Topics with the oddities that legal logs have, and large loads.
//!
//! [`write_odd_topics`] makes one small topic for each [`Oddity`]; [`advance_odd_topics`] appends to all of them, so
//! that what reads increments can be tested. Contents are the same each time, but for the times of compacted topics
//! and of transactions.

mod bulk;
mod compacted;
mod many;
mod plain;
mod transactions;
mod trimmed;

use anyhow::Result;

use crate::workbench::Workbench;

pub use bulk::{BulkOptions, bulk};
pub use many::Many;

/// What is odd about a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Oddity {
    /// Batches of five records in no compression.
    CodecNone,
    /// In gzip.
    CodecGzip,
    /// In Snappy.
    CodecSnappy,
    /// In LZ4.
    CodecLz4,
    /// In Zstandard.
    CodecZstd,
    /// All five, in turn, in one partition.
    CodecsMixed,
    /// The topic has a compression of its own, so the broker compresses again what producers sent otherwise.
    BrokerCompressed,
    /// Keys and values that are null, and such that are empty.
    Nulls,
    /// Header names that repeat or are empty, values that are null or empty.
    Headers,
    /// Timestamps that go back and forth, within batches and between them.
    UnorderedTimes,
    /// Records of the years 1970 to 2019, and no retention by time.
    OldTimes,
    /// Records of the year 2100, and a topic setting that lets them in.
    FutureTimes,
    /// The broker sets the times (message.timestamp.type=LogAppendTime).
    AppendTime,
    /// The broker set the times at first, then the topic was switched to CreateTime.
    AppendTimeEnded,
    /// Transactions, committed and aborted, one after another, and plain records.
    Transactions,
    /// Two producers' transactions interleaved in one partition, one committed, one aborted.
    TransactionsInterleaved,
    /// A transaction left open, with committed ones and plain records after it. Rounds of
    /// [`advance_odd_topics`] end it (round 1 by a commit, 3 by an abort) and open another (2, 4).
    TransactionOpen,
    /// Compacted: holes in uncompressed batches, and whole batches missing.
    Compacted,
    /// Compacted: holes in compressed batches.
    CompactedZstd,
    /// Compacted: batches that lost all their records but are kept for their producer's sequence.
    CompactedEmptied,
    /// Compacted: tombstones, in batches that have a delete horizon.
    Tombstones,
    /// Compacted: transactions whose aborted records are gone, while the markers are there.
    CompactedTransactions,
    /// The log starts in the middle of a batch.
    Trimmed,
    /// Six partitions, most of them never written to.
    EmptyPartitions,
    /// All records deleted: start = end > 0. Later rounds have records again, above a start that moves.
    Emptied,
    /// Records of up to 5 MiB, uncompressed and compressed.
    Large,
    /// Batches numbered by idempotent producers, several of them.
    Idempotent,
    /// Batches without a producer id.
    NotIdempotent,
    /// Fifty partitions with three records each.
    ManyPartitions,
    /// A hundred batches of one record each.
    TinyBatches,
    /// A name of 200 characters of all the kinds that names may have.
    Name,
}

const LONG_NAME: &str = "Name.with_ALL-kinds.0123456789.__.--...\
    abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_abcdefghijklmnopqrstuvwxyz\
    ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-abcdefghijklmnopqrstuvwxyzABCDEFGHI";

impl Oddity {
    /// All of them.
    pub const ALL: [Self; 31] = [
        Self::CodecNone,
        Self::CodecGzip,
        Self::CodecSnappy,
        Self::CodecLz4,
        Self::CodecZstd,
        Self::CodecsMixed,
        Self::BrokerCompressed,
        Self::Nulls,
        Self::Headers,
        Self::UnorderedTimes,
        Self::OldTimes,
        Self::FutureTimes,
        Self::AppendTime,
        Self::AppendTimeEnded,
        Self::Transactions,
        Self::TransactionsInterleaved,
        Self::TransactionOpen,
        Self::Compacted,
        Self::CompactedZstd,
        Self::CompactedEmptied,
        Self::Tombstones,
        Self::CompactedTransactions,
        Self::Trimmed,
        Self::EmptyPartitions,
        Self::Emptied,
        Self::Large,
        Self::Idempotent,
        Self::NotIdempotent,
        Self::ManyPartitions,
        Self::TinyBatches,
        Self::Name,
    ];

    /// The topic's name, without a prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::CodecNone => "codec-none",
            Self::CodecGzip => "codec-gzip",
            Self::CodecSnappy => "codec-snappy",
            Self::CodecLz4 => "codec-lz4",
            Self::CodecZstd => "codec-zstd",
            Self::CodecsMixed => "codecs-mixed",
            Self::BrokerCompressed => "broker-compressed",
            Self::Nulls => "nulls",
            Self::Headers => "headers",
            Self::UnorderedTimes => "unordered-times",
            Self::OldTimes => "old-times",
            Self::FutureTimes => "future-times",
            Self::AppendTime => "append-time",
            Self::AppendTimeEnded => "append-time-ended",
            Self::Transactions => "transactions",
            Self::TransactionsInterleaved => "transactions-interleaved",
            Self::TransactionOpen => "transaction-open",
            Self::Compacted => "compacted",
            Self::CompactedZstd => "compacted-zstd",
            Self::CompactedEmptied => "compacted-emptied",
            Self::Tombstones => "tombstones",
            Self::CompactedTransactions => "compacted-transactions",
            Self::Trimmed => "trimmed",
            Self::EmptyPartitions => "empty-partitions",
            Self::Emptied => "emptied",
            Self::Large => "large",
            Self::Idempotent => "idempotent",
            Self::NotIdempotent => "not-idempotent",
            Self::ManyPartitions => "many-partitions",
            Self::TinyBatches => "tiny-batches",
            Self::Name => LONG_NAME,
        }
    }

    /// The number of partitions.
    pub fn partitions(self) -> i32 {
        match self {
            Self::ManyPartitions => 50,
            Self::EmptyPartitions => 6,
            Self::Transactions | Self::TransactionOpen | Self::Idempotent => 2,
            _ => 1,
        }
    }

    /// The oldest Kafka whose topics can be so, as major and minor version.
    pub fn needs(self) -> (u32, u32) {
        match self {
            // Its setting is from KIP-937.
            Self::FutureTimes => (3, 6),
            _ => (2, 4),
        }
    }

    /// Whether the topic is compacted.
    pub fn is_compacted(self) -> bool {
        self.compaction().is_some()
    }

    /// The configs that the topic is created with.
    fn configs(self) -> Vec<(&'static str, &'static str)> {
        if let Some(configs) = self.compaction() {
            return configs.to_vec();
        }
        match self {
            Self::BrokerCompressed => vec![("compression.type", "gzip")],
            Self::UnorderedTimes | Self::OldTimes => vec![("retention.ms", "-1")],
            // 200 years
            Self::FutureTimes => vec![("message.timestamp.after.max.ms", "6311520000000")],
            Self::AppendTime | Self::AppendTimeEnded => vec![("message.timestamp.type", "LogAppendTime")],
            Self::Large => vec![("max.message.bytes", "8388608")],
            _ => vec![("compression.type", "producer")],
        }
    }

    fn compaction(self) -> Option<&'static [(&'static str, &'static str)]> {
        match self {
            Self::Compacted | Self::CompactedZstd | Self::CompactedEmptied | Self::CompactedTransactions => {
                Some(&compacted::CONFIGS)
            }
            Self::Tombstones => Some(&compacted::TOMBSTONE_CONFIGS),
            _ => None,
        }
    }
}

/// A topic that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name with the prefix.
    pub name: String,
    /// What is odd about it.
    pub oddity: Oddity,
    /// Its number of partitions.
    pub partitions: i32,
}

/// Creates and fills one topic for each oddity, their names starting with `prefix`, and waits until the cleaner has
/// compacted those that are to be.
pub fn write_odd_topics(bench: &Workbench, prefix: &str) -> Result<Vec<TopicSpec>> {
    write_topics(bench, prefix, &Oddity::ALL)
}

/// The same for some of the oddities: see [`Oddity::needs`].
pub fn write_topics(bench: &Workbench, prefix: &str, of: &[Oddity]) -> Result<Vec<TopicSpec>> {
    let specs: Vec<TopicSpec> = of.iter().map(|&oddity| spec(oddity, prefix)).collect();
    for spec in &specs {
        bench.create_topic(&spec.name, spec.partitions, &spec.oddity.configs())?;
    }
    fill_all(bench, &specs, 0)?;
    Ok(specs)
}

/// Appends to each of the topics that [`write_odd_topics`] made, with the same workbench: its transactional producers
/// live on. `round` counts the calls from 1.
pub fn advance_odd_topics(bench: &Workbench, prefix: &str, round: u32) -> Result<()> {
    advance_topics(bench, prefix, &Oddity::ALL, round)
}

/// The same for those that [`write_topics`] made.
pub fn advance_topics(bench: &Workbench, prefix: &str, of: &[Oddity], round: u32) -> Result<()> {
    let specs: Vec<TopicSpec> = of.iter().map(|&oddity| spec(oddity, prefix)).collect();
    fill_all(bench, &specs, round)
}

fn spec(oddity: Oddity, prefix: &str) -> TopicSpec {
    TopicSpec { name: format!("{prefix}{}", oddity.name()), oddity, partitions: oddity.partitions() }
}

/// One topic and one round of writing to it.
#[derive(Clone, Copy)]
struct Filling<'a> {
    bench: &'a Workbench,
    topic: &'a str,
    round: u32,
}

/// Compaction takes a while, so these topics come first and are waited for last.
fn fill_all(bench: &Workbench, specs: &[TopicSpec], round: u32) -> Result<()> {
    let (compacted, others): (Vec<_>, Vec<_>) = specs.iter().partition(|s| s.oddity.is_compacted());
    for spec in compacted.iter().chain(&others) {
        fill(&Filling { bench, topic: &spec.name, round }, spec.oddity)?;
    }
    compacted.iter().try_for_each(|spec| compacted::wait(bench, &spec.name))
}

fn fill(to: &Filling<'_>, oddity: Oddity) -> Result<()> {
    use crate::workbench::Codec;
    match oddity {
        Oddity::CodecNone | Oddity::Name => plain::codec(to, Codec::None),
        Oddity::CodecGzip => plain::codec(to, Codec::Gzip),
        Oddity::CodecSnappy => plain::codec(to, Codec::Snappy),
        Oddity::CodecLz4 => plain::codec(to, Codec::Lz4),
        Oddity::CodecZstd => plain::codec(to, Codec::Zstd),
        Oddity::CodecsMixed => Codec::ALL.iter().try_for_each(|&c| plain::codec(to, c)),
        Oddity::BrokerCompressed => {
            plain::codec(to, Codec::None).and_then(|()| plain::codec(to, Codec::Zstd))
        }
        Oddity::Nulls => plain::nulls(to),
        Oddity::Headers => plain::headers(to),
        Oddity::UnorderedTimes => plain::unordered_times(to),
        Oddity::OldTimes => plain::old_times(to),
        Oddity::FutureTimes => plain::future_times(to),
        Oddity::AppendTime => plain::append_time(to),
        Oddity::AppendTimeEnded => plain::append_time_ended(to),
        Oddity::Transactions => transactions::sequence(to),
        Oddity::TransactionsInterleaved => transactions::interleaved(to),
        Oddity::TransactionOpen => transactions::open(to),
        Oddity::Compacted => compacted::holes(to, Codec::None),
        Oddity::CompactedZstd => compacted::holes(to, Codec::Zstd),
        Oddity::CompactedEmptied => compacted::emptied(to),
        Oddity::Tombstones => compacted::tombstones(to),
        Oddity::CompactedTransactions => compacted::transactions(to),
        Oddity::Trimmed => trimmed::into_batch(to),
        Oddity::EmptyPartitions => trimmed::few_partitions(to),
        Oddity::Emptied => trimmed::emptied(to),
        Oddity::Large => plain::large(to),
        Oddity::Idempotent => plain::idempotent(to),
        Oddity::NotIdempotent => plain::not_idempotent(to),
        Oddity::ManyPartitions => plain::many_partitions(to),
        Oddity::TinyBatches => plain::tiny_batches(to),
    }
}

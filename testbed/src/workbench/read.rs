//! Reading whole topics.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;
use serde_json::json;

use super::Workbench;
use crate::dump::Dump;

/// Values up to this size stand in a dump as they are, larger ones by length and digest.
const INLINE_LIMIT: u32 = 1024;

/// Which transactions a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Committed ones, up to the first that is open.
    Committed,
    /// All records, up to the high watermark.
    Uncommitted,
}

impl Isolation {
    /// The name that Kafka's settings use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// What was read of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PartitionSummary {
    /// The partition.
    pub partition: i32,
    /// The log start offset.
    pub start: i64,
    /// The offset at which the reader stopped.
    pub end: i64,
    /// How many records the reader saw.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// The content of one partition, as a digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PartitionDigest {
    /// What was read.
    #[serde(flatten)]
    pub summary: PartitionSummary,
    /// SHA-256 over timestamps, keys, values and headers in order, and offsets when asked for.
    pub sha256: String,
}

/// The content of a topic, as digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The topic.
    pub topic: String,
    /// Its partitions in order.
    pub partitions: Vec<PartitionDigest>,
}

impl Workbench {
    /// Reads a topic from its start to its end of now, into a file of JSON lines.
    pub fn dump_to(&self, topic: &str, isolation: Isolation, file: &Path) -> Result<Dump> {
        let args = json!({
            "topic": topic, "isolation": isolation.name(), "out": std::path::absolute(file)?,
            "inline_limit": INLINE_LIMIT,
        });
        Ok(Dump::new(topic, file, self.call("dump", &args)?))
    }

    /// Reads a topic from its start to its end of now, into a temporary file that goes with the last copy of the
    /// answer.
    pub fn dump(&self, topic: &str, isolation: Isolation) -> Result<Dump> {
        let file = tempfile::Builder::new().prefix("dump-").suffix(".jsonl").tempfile()?.into_temp_path();
        let dump = self.dump_to(topic, isolation, &file)?;
        Ok(dump.owning(file))
    }

    /// Reads a topic from its start to its end of now, for large ones: only digests and counts come back.
    pub fn digest(&self, topic: &str, isolation: Isolation, offsets: bool) -> Result<Digest> {
        let args = json!({ "topic": topic, "isolation": isolation.name(), "offsets": offsets });
        Ok(Digest { topic: topic.to_owned(), partitions: self.call("digest", &args)? })
    }
}

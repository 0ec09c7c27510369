//! What a run says when it is over: the same for people and, as JSON, for programs.

use bodley_io::kafka::Cluster;
use bodley_io::kafka::health::BrokerHealth;
use bodley_io::latency::Summaries;
use serde::Serialize;

use crate::error::{EngineError, Severity};
use crate::restore::{OffsetMap, PlanReport};
use crate::status::Status;
use crate::vault::VaultError;
use crate::vault::rows::Reason;
use crate::verify::Locks;

/// The result of a command.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// How much of it stands whatever becomes of the run.
    #[serde(skip)]
    pub standing: Standing,
    /// `seq:sha256` of the vault's newest commit.
    pub receipt: Option<String>,
    /// Topic by topic, sorted by name.
    pub topics: Vec<TopicReport>,
    /// Offsets that are lost. For a backup: found by this run.
    pub gaps: Vec<Gap>,
    /// What went wrong.
    pub errors: Vec<Issue>,
    /// What is worth knowing but leaves the exit code alone.
    pub notes: Vec<String>,
    /// Bytes of record batches moved.
    pub bytes: u64,
    /// Records moved, as consumers count them; `None` where that is unknown.
    pub records: Option<u64>,
    /// Consumer groups whose offsets are in the vault for the topics concerned.
    pub groups: u64,
    /// Objects added to the vault, or checked in it.
    pub objects: u64,
    /// Ended by a signal before everything was done.
    pub interrupted: bool,
    /// How long requests took; for the caller to fill in, who also opened the store.
    pub latency: Summaries,
    /// Of a restore: its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_id: Option<String>,
    /// Of a restore: what it does, made before it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanReport>,
    /// Of a restore: which offset at the source became which at the target, by partition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offset_map: Vec<OffsetMap>,
    /// Of a restore: what was merged, if anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged: Option<Merged>,
    /// Of a restore: records in message formats 0 and 1, which were written as batches of today and acknowledged, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_in_old_formats: Option<u64>,
    /// Of a copy: what was moved, and what was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied: Option<Copied>,
    /// Of a verify: how objects are locked in the store, if any segment is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locks: Option<Locks>,
    /// Of a status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Of a backup and a restore: how each broker fared; for the caller to fill in, who opened the cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<BrokerReport>,
    /// Of a backup: transactions that were open when it began.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transactions: Vec<Transaction>,
}

/// A broker as a run met it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokerReport {
    /// Its id.
    pub id: i32,
    /// Where it was.
    pub address: String,
    /// Requests that it answered.
    pub requests: u64,
    /// Bytes of record batches that it sent.
    pub bytes: u64,
    /// Connections and answers that failed.
    pub errors: u64,
    /// How long its quotas held us back, ms.
    pub throttled_ms: u64,
    /// How long it has been down at the end, ms; `None`: it is not, as far as is known.
    pub down_ms: Option<u64>,
    /// The last failure, also when it is over.
    pub last_error: Option<String>,
}

impl From<BrokerHealth> for BrokerReport {
    fn from(health: BrokerHealth) -> Self {
        let BrokerHealth { id, address, requests, bytes, errors, throttled_ms, down_for, last_error, .. } =
            health;
        let down_ms = down_for.map(|down| down.as_millis() as u64);
        Self { id, address, requests, bytes, errors, throttled_ms, down_ms, last_error }
    }
}

/// What a copy of a vault moved, and what it found at the target already. Objects are segments, tables, checkpoints and vault.json; commits count by
/// themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// `seq:sha256` of the source's newest commit when the copy began: the goal.
    pub source_receipt: Option<String>,
    /// Commits put into the target.
    pub commits: u64,
    /// Objects put into the target.
    pub objects: u64,
    /// Their bytes, without those of commits.
    pub bytes: u64,
    /// Commits that were there.
    pub skipped_commits: u64,
    /// Objects that were there.
    pub skipped_objects: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
}

/// A transaction that is open in a partition of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// Topic name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Whose.
    pub producer_id: i64,
    /// Whose.
    pub producer_epoch: i32,
    /// Its first offset in the partition.
    pub first_offset: i64,
    /// Since the greatest time in its producer's last batch, ms; `None`: unknown.
    pub age_ms: Option<i64>,
    /// Older than brokers let a transaction become.
    pub hanging: bool,
}

/// Small batches that were sent as parts of larger ones, and acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// As they are in the vault.
    pub batches: u64,
    /// As they are at the target.
    pub into: u64,
}

impl Merged {
    /// Counts more of them.
    pub fn add(&mut self, more: Self) {
        self.batches += more.batches;
        self.into += more.into;
    }
}

/// One topic in a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TopicReport {
    /// Name, in the vault.
    pub topic: String,
    /// Name at the target, if it was renamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// UUID as 32 hex digits.
    pub topic_id: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Records as consumers count them.
    pub records: Option<u64>,
    /// Bytes of record batches.
    pub bytes: u64,
    /// Least first-record time of a batch, ms.
    pub min_timestamp: Option<i64>,
    /// Greatest record time, ms.
    pub max_timestamp: Option<i64>,
    /// Gaps in it.
    pub gaps: u64,
    /// Still at the source when it was last looked for.
    pub present: bool,
    /// Counts topics of the same name from 0.
    pub incarnation: u32,
}

/// Offsets `[first, next)` that are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Topic name.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// First offset, inclusive.
    pub first: i64,
    /// Last offset, exclusive.
    pub next: i64,
    /// `retention`, `corrupt`, `truncated` or `lost`.
    pub reason: &'static str,
}

impl Gap {
    /// From a row's parts.
    pub fn new(topic: &str, partition: u32, offsets: std::ops::Range<i64>, reason: Reason) -> Self {
        Self {
            topic: topic.into(),
            partition,
            first: offsets.start,
            next: offsets.end,
            reason: reason.name(),
        }
    }
}

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// A stable word.
    pub code: String,
    /// In words.
    pub message: String,
    /// Topic it is about.
    pub topic: Option<String>,
    /// Partition it is about.
    pub partition: Option<u32>,
    /// Offset it is about.
    pub offset: Option<i64>,
    /// Object in the vault it is about.
    pub object: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// What it does to the exit code.
    #[serde(skip)]
    pub severity: Severity,
}

impl Issue {
    /// Without a place.
    pub fn new(code: &str, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            topic: None,
            partition: None,
            offset: None,
            object: None,
            hint: None,
            severity,
        }
    }

    /// About a partition, at an offset if one is known.
    pub fn at(mut self, topic: &str, partition: u32, offset: Option<i64>) -> Self {
        (self.topic, self.partition, self.offset) = (Some(topic.into()), Some(partition), offset);
        self
    }

    /// About a topic as a whole.
    pub fn topic(mut self, topic: &str) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Message and advice in one line.
    pub fn in_a_line(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// About an object of the vault.
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// With advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<&EngineError> for Issue {
    fn from(error: &EngineError) -> Self {
        let mut issue = Self::new(error.code(), error.severity(), error.to_string());
        let hint = "run `bodley verify` to see all that is hit";
        match error {
            EngineError::Vault(VaultError::Damaged { object, .. }) => {
                issue = issue.object(object.clone()).hint(hint);
            }
            EngineError::Vault(VaultError::Overwrites { .. }) => {
                issue = issue.hint(
                    "use another store, or add --single-writer when only ever one backup at a time runs",
                );
            }
            EngineError::Vault(VaultError::SingleWriter { .. }) => {
                issue = issue.hint("add --single-writer, and never run two backups into it at a time");
            }
            EngineError::Replaced { topic } => {
                issue = issue.topic(topic).hint("run again when topics are not made anew all the time");
            }
            EngineError::Damaged { object, topic, partition, offsets, .. } => {
                issue = issue.at(topic, *partition, Some(offsets.start)).object(object.clone()).hint(hint);
            }
            _ => {}
        }
        issue
    }
}

/// How much of a report stands whatever becomes of the run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// Something does.
    any: bool,
    /// The run has come to its end by an error.
    is_cut: bool,
    topics: usize,
    gaps: usize,
    errors: usize,
    notes: usize,
    objects: u64,
}

impl Report {
    /// All that it says is in the vault, or true in any case.
    pub(crate) fn stands(&mut self) {
        let Self { topics, gaps, errors, notes, objects, .. } = self;
        self.standing = Standing {
            any: true,
            is_cut: false,
            topics: topics.len(),
            gaps: gaps.len(),
            errors: errors.len(),
            notes: notes.len(),
            objects: *objects,
        };
    }

    /// An error has ended the run, which is told beside what stands.
    pub(crate) fn ends_early(&mut self) {
        self.standing.is_cut = true;
    }

    /// Whether not all that was asked for was tried.
    pub fn is_cut(&self) -> bool {
        self.interrupted || self.standing.is_cut
    }

    /// Whether anything stands.
    pub(crate) fn is_standing(&self) -> bool {
        self.standing.any
    }

    /// Takes back what was said since [`Report::stands`], as what it was about has been given up. (Bytes and records are counted when they are committed.)
    pub(crate) fn take_back(&mut self) {
        let Standing { topics, gaps, errors, notes, objects, .. } = self.standing;
        self.topics.truncate(topics);
        self.gaps.truncate(gaps);
        self.errors.truncate(errors);
        self.notes.truncate(notes);
        self.objects = objects;
    }

    /// Adds how the cluster's brokers fared.
    pub fn note_brokers(&mut self, cluster: &Cluster) {
        self.brokers = cluster.health().snapshot().into_iter().map(BrokerReport::from).collect();
    }

    /// 0, or what errors and gaps make of it. A signal is for the caller to add.
    pub fn exit_code(&self) -> u8 {
        let worst = self.errors.iter().map(|issue| issue.severity).max();
        worst.map_or(0, Severity::exit_code)
    }
}

/// Times as ms, but for those that say that there is none.
pub fn known_time(ms: i64) -> Option<i64> {
    (ms >= 0).then_some(ms)
}

/// `1 gap`, `2 gaps`.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

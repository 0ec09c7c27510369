//! What a vault holds, for `list` and `show`. Reads commits and tables, no data.

use std::collections::BTreeMap;

use bodley_io::store::SharedStore;
use futures_util::stream::StreamExt;
use serde::Serialize;

use crate::error::EngineError;
use crate::moment::At;
use crate::report::{Gap, TopicReport, known_time};
use crate::vault::log::Vault;
use crate::vault::rows::{Kind, Range, TopicRow};
use crate::vault::state::{PartitionState, State};
use crate::vault::{hex, now_ms};

/// A vault's contents.
#[derive(Debug, Serialize)]
pub struct Inventory {
    /// The vault whose remains this one was made from, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuilt_from: Option<String>,
    /// `seq:sha256` of the newest commit, if there is one.
    pub receipt: Option<String>,
    /// Its number.
    pub seq: u64,
    /// Its time, ms.
    pub committed: i64,
    /// The source cluster.
    pub cluster_id: String,
    /// The vault.
    pub vault_id: String,
    /// By name, the newest incarnation first.
    pub topics: Vec<ListedTopic>,
    /// All gaps.
    pub gaps: Vec<Gap>,
    /// Consumer groups with offsets.
    pub groups: u64,
    /// Bytes of record batches.
    pub bytes: u64,
    /// Always empty: what is wrong ends the command.
    pub errors: Vec<crate::report::Issue>,
}

/// A topic in an [`Inventory`].
#[derive(Debug, Serialize)]
pub struct ListedTopic {
    /// What there is of it.
    #[serde(flatten)]
    pub topic: TopicReport,
    /// There is a newer topic of the same name.
    pub superseded: bool,
}

impl std::ops::Deref for ListedTopic {
    type Target = TopicReport;

    fn deref(&self) -> &TopicReport {
        &self.topic
    }
}

/// One name's topics in detail.
#[derive(Debug, Serialize)]
pub struct TopicDetail {
    /// The vault whose remains this one was made from, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuilt_from: Option<String>,
    /// The newest first.
    pub incarnations: Vec<Incarnation>,
}

/// One topic in detail.
#[derive(Debug, Serialize)]
pub struct Incarnation {
    /// Summed up.
    #[serde(flatten)]
    pub topic: TopicReport,
    /// Settings made on it; null where the broker hid the value.
    pub configs: BTreeMap<String, Option<String>>,
    /// Partition by partition.
    pub partitions: Vec<PartitionDetail>,
    /// Its gaps.
    #[serde(rename = "gap_list")]
    pub gaps: Vec<Gap>,
}

/// A partition in detail.
#[derive(Debug, Serialize)]
pub struct PartitionDetail {
    /// Index.
    pub partition: u32,
    /// First offset that is covered.
    pub first: i64,
    /// The cursor: first offset that is not.
    pub next: i64,
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
}

/// The log.
#[derive(Debug, Serialize)]
pub struct Commits {
    /// The vault whose remains this one was made from, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuilt_from: Option<String>,
    /// From the first on.
    pub commits: Vec<ListedCommit>,
}

/// A commit in the log.
#[derive(Debug, Serialize)]
pub struct ListedCommit {
    /// Number.
    pub seq: u64,
    /// ms.
    pub time: i64,
    /// What it does.
    pub operation: &'static str,
    /// Segments that it adds.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that it adds.
    pub rows: u64,
    /// Who wrote it.
    pub writer: String,
    /// Its digest.
    pub digest: String,
}

/// Committed offsets of consumer groups.
#[derive(Debug, Serialize)]
pub struct Groups {
    /// The vault whose remains this one was made from, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuilt_from: Option<String>,
    /// By group, topic and partition.
    pub groups: Vec<ListedOffset>,
}

/// One committed offset.
#[derive(Debug, Serialize)]
pub struct ListedOffset {
    /// Group.
    pub group: String,
    /// Topic name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Next offset to read at the source.
    pub offset: i64,
    /// The client's own words.
    pub metadata: Option<String>,
    /// When it was read, ms.
    pub taken: i64,
    /// Read while a transactional commit was pending.
    pub unstable: bool,
}

/// Opens a vault for reading it as it was at a commit; `None`: at its newest.
pub async fn open_at(store: SharedStore, at: Option<At>) -> Result<Vault, EngineError> {
    let mut vault = Vault::open(store).await?;
    if let Some(at) = at {
        vault.go_back(at, now_ms()).await?;
    }
    Ok(vault)
}

/// Lists the topics of a vault, at a commit if one is given.
pub async fn list(store: SharedStore, at: Option<At>) -> Result<Inventory, EngineError> {
    let mut vault = open_at(store, at).await?;
    let state = vault.fold(true).await?;
    let newest = state.newest();
    let mut topics: Vec<ListedTopic> = state
        .topics
        .values()
        .map(|row| ListedTopic {
            topic: summarize(&state, row),
            superseded: newest.get(row.name.as_str()).is_some_and(|newest| newest.topic != row.topic),
        })
        .collect();
    topics.sort_by(|a, b| (&a.topic.topic, b.incarnation).cmp(&(&b.topic.topic, a.incarnation)));
    let gaps = state.topics.values().flat_map(|row| gaps(&state, row)).collect();
    let groups: std::collections::BTreeSet<_> =
        state.groups.iter().filter(|(_, pair)| pair.header.present).map(|((group, _), _)| group).collect();
    Ok(Inventory {
        rebuilt_from: vault.identity().rebuilt_from.clone(),
        receipt: vault.receipt_text(),
        seq: vault.receipt().seq,
        committed: vault.head_time(),
        cluster_id: vault.identity().cluster_id.clone(),
        vault_id: vault.identity().vault_id.clone(),
        bytes: topics.iter().map(|topic| topic.bytes).sum(),
        groups: groups.len() as u64,
        gaps,
        topics,
        errors: Vec::new(),
    })
}

/// Shows all topics of a name, at a commit if one is given.
pub async fn show_topic(store: SharedStore, name: &str, at: Option<At>) -> Result<TopicDetail, EngineError> {
    let mut vault = open_at(store, at).await?;
    let state = vault.fold(true).await?;
    let rebuilt_from = vault.identity().rebuilt_from.clone();
    let lives = state.lives(name);
    if lives.is_empty() {
        return Err(EngineError::Refused(format!("there is no topic `{name}` in the vault")));
    }
    let incarnations = lives.into_iter().map(|row| Incarnation {
        topic: summarize(&state, row),
        configs: state.configs.get(&row.topic).cloned().unwrap_or_default(),
        partitions: partitions(&state, row).map(|(partition, state)| detail(partition, state)).collect(),
        gaps: gaps(&state, row),
    });
    Ok(TopicDetail { rebuilt_from, incarnations: incarnations.collect() })
}

/// Shows the log.
pub async fn show_commits(store: SharedStore) -> Result<Commits, EngineError> {
    let vault = Vault::open(store).await?;
    let mut commits = Vec::new();
    let mut read = std::pin::pin!(vault.read_commits(1..=vault.receipt().seq));
    while let Some(commit) = read.next().await {
        let (commit, digest) = commit?;
        commits.push(ListedCommit {
            seq: commit.seq,
            time: commit.time,
            operation: commit.op.name(),
            segments: commit.segments.len(),
            bytes: commit.segments.iter().map(|segment| segment.bytes).sum(),
            rows: commit.tables.iter().map(|table| table.rows).sum(),
            writer: commit.writer,
            digest,
        });
    }
    Ok(Commits { rebuilt_from: vault.identity().rebuilt_from.clone(), commits })
}

/// Shows the newest snapshot of consumer groups, of those that are not younger than a commit if one is given.
pub async fn show_groups(store: SharedStore, at: Option<At>) -> Result<Groups, EngineError> {
    let mut vault = open_at(store, at).await?;
    let state = vault.fold(false).await?;
    let rebuilt_from = vault.identity().rebuilt_from.clone();
    let mut groups = Vec::new();
    for ((group, id), pair) in state.groups.iter().filter(|(_, pair)| pair.header.present) {
        let topic = state.topics.get(id).map_or_else(|| hex(id), |topic| topic.name.clone());
        groups.extend(pair.offsets.values().map(|row| ListedOffset {
            group: group.clone(),
            topic: topic.clone(),
            partition: row.partition,
            offset: row.offset,
            metadata: row.metadata.clone().filter(|metadata| !metadata.is_empty()),
            taken: pair.header.taken,
            unstable: pair.header.unstable,
        }));
    }
    Ok(Groups { rebuilt_from, groups })
}

fn partitions<'a>(state: &'a State, row: &'a TopicRow) -> impl Iterator<Item = (u32, &'a PartitionState)> {
    let range = (row.topic, 0)..=(row.topic, u32::MAX);
    state.partitions.range(range).map(|((_, partition), state)| (*partition, state))
}

/// Adds up a topic's rows.
pub fn summarize(state: &State, row: &TopicRow) -> TopicReport {
    let mut report = TopicReport {
        topic: row.name.clone(),
        topic_id: hex(&row.topic),
        partitions: row.partitions,
        records: Some(0),
        present: row.present,
        incarnation: row.incarnation,
        ..TopicReport::default()
    };
    for (_, partition) in partitions(state, row) {
        let part = detail(0, partition);
        report.records = report.records.zip(part.records).map(|(a, b)| a + b);
        report.bytes += part.bytes;
        report.min_timestamp = [report.min_timestamp, part.min_timestamp].into_iter().flatten().min();
        report.max_timestamp = report.max_timestamp.max(part.max_timestamp);
        report.gaps += part.gaps;
    }
    report
}

fn detail(partition: u32, state: &PartitionState) -> PartitionDetail {
    let ranges = &state.ranges;
    let data = || ranges.iter().filter(|range| range.kind == Kind::Data);
    let kept = |range: &Range| u64::try_from(range.kept).ok();
    PartitionDetail {
        partition,
        first: ranges.first().map_or(0, |range| range.first),
        next: state.cursor.map_or(0, |cursor| cursor.next),
        records: data().map(kept).sum(),
        bytes: data().map(|range| u64::from(range.stored)).sum(),
        min_timestamp: data().filter_map(Range::oldest).min(),
        max_timestamp: data().filter_map(|range| known_time(range.max_ts)).max(),
        gaps: ranges.iter().filter(|range| matches!(range.kind, Kind::Gap(_))).count() as u64,
    }
}

/// A topic's gaps.
pub fn gaps(state: &State, row: &TopicRow) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for (partition, part) in partitions(state, row) {
        for range in &part.ranges {
            if let Kind::Gap(reason) = range.kind {
                gaps.push(Gap::new(&row.name, partition, range.first..range.next, reason));
            }
        }
    }
    gaps
}

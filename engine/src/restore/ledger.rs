//! The restore's state: what each partition had when a run began, kept at the target as committed offsets of a group, or in a file.
//!
//! An entry is written behind the fence and before the first record of a run. With it a later run finds its place by two numbers: the log's
//! end less the entry's offset, plus the entry's count. Fields of the whole restore are repeated in every entry, so that a topic that
//! is deleted takes nothing else with it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bodley_io::kafka::groups::NewOffset;
use bodley_io::kafka::produce::ProducerIdentity;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_protocol::{ErrorCode, NO_TOPIC_ID};
use serde::{Deserialize, Serialize};

use super::identity::PREFIX;
use super::plan::Plan;
use super::stand::{Piece, Stand, Writer};
use crate::error::EngineError;

const VERSION: u32 = 1;
/// Coordinators take at most 4096 bytes (offset.metadata.max.bytes).
const MAX_META: usize = 4000;
/// A file larger than this is not ours.
const MAX_FILE: u64 = 1 << 30;

/// What an entry says beside its offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    v: u32,
    /// Restore id.
    restore: String,
    /// Id of the vault.
    pub vault: String,
    /// Commit of the vault that is restored.
    pub seq: u64,
    /// Digest of the plan.
    pub plan: String,
    /// What times ago count from, ms, where there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<i64>,
    /// Id of the topic at the target, 32 hex digits.
    topic: String,
    /// Records done when the run began.
    records: i64,
    /// (records, offset) of earlier runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pieces: Vec<(i64, i64)>,
    producer: i64,
    epoch: i16,
    pub(super) generation: u32,
    /// The producer id belongs to a transactional id.
    pub transactional: bool,
    /// The restore made the topic.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
    /// The topic had data before, and keeps its settings.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_use: bool,
    /// Own settings of a topic that was there, before temporary ones took their place; `None`: inherited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub old: BTreeMap<String, Option<String>>,
    /// Digest of the damaged chunks that are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// The positions of groups have been dealt with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub groups: bool,
    /// A digest of how, and of which groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_how: Option<String>,
    /// Exit code of the run that completed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u8>,
}

/// An entry as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Offset at the target.
    pub offset: i64,
    /// All else.
    pub meta: Meta,
}

impl Entry {
    /// Where the partition stood.
    pub fn stand(&self) -> Stand {
        let earlier =
            self.meta.pieces.iter().map(|(records, offset)| Piece { records: *records, offset: *offset });
        Stand {
            earlier: earlier.collect(),
            piece: Piece { records: self.meta.records, offset: self.offset },
            writer: self.writer(),
            done: self.meta.records,
        }
    }

    /// Who wrote.
    pub fn writer(&self) -> Writer {
        let identity = ProducerIdentity { id: self.meta.producer, epoch: self.meta.epoch };
        Writer { identity, generation: self.meta.generation }
    }

    /// Whether it is about the topic that has this id now. Zeros are of brokers that know no ids, or knew none then.
    pub fn is_of(&self, topic_id: &[u8; 16]) -> bool {
        let is_none = |id: &str| id.bytes().all(|digit| digit == b'0');
        self.meta.topic == crate::vault::hex(topic_id)
            || is_none(&self.meta.topic)
            || *topic_id == NO_TOPIC_ID
    }
}

/// Entries by target partition.
pub type Entries = BTreeMap<TopicPartition, Entry>;

/// Where the state is kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// A group of the target.
    Group(Arc<Cluster>),
    /// A file.
    File(PathBuf),
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    topic: String,
    partition: i32,
    offset: i64,
    state: Meta,
}

impl Place {
    /// What is there of restore `id`.
    pub async fn load(&self, id: &str) -> Result<Entries, EngineError> {
        let entries = match self {
            Self::Group(cluster) => load_group(cluster, id).await?,
            Self::File(path) => load_file(path)?,
        };
        if let Some((tp, entry)) = entries.iter().find(|(_, entry)| entry.meta.restore != id) {
            return Err(EngineError::Refused(format!(
                "the state of {tp} belongs to the restore `{}`, this one is `{id}`: run the same command as then, or name it with --restore-id",
                entry.meta.restore
            )));
        }
        Ok(entries)
    }

    /// Whether a file can be written where the state is to be kept.
    pub fn check(&self) -> Result<(), EngineError> {
        let Self::File(path) = self else { return Ok(()) };
        let trial = beside(path);
        let result = std::fs::write(&trial, "").and_then(|()| std::fs::remove_file(&trial));
        result.map_err(|error| {
            EngineError::Refused(format!("--state {}: it can't be written there: {error}", path.display()))
        })
    }

    async fn save(&self, id: &str, all: &Entries, changed: &[TopicPartition]) -> Result<(), EngineError> {
        match self {
            Self::Group(cluster) => {
                let new = |tp: &TopicPartition| {
                    let entry = all.get(tp)?;
                    let metadata = serde_json::to_string(&entry.meta).ok();
                    Some(NewOffset { tp: tp.clone(), offset: entry.offset, metadata })
                };
                let offsets: Vec<NewOffset> = changed.iter().filter_map(new).collect();
                cluster.commit_group_offsets(&group_name(id), &offsets).await.map_err(|error| {
                    match hint_at_file(error) {
                        EngineError::Denied(what) => EngineError::State(what),
                        error => error,
                    }
                })
            }
            Self::File(path) => save_file(path, all),
        }
    }
}

/// Name of the restore's group.
pub fn group_name(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// A target that keeps us from groups, or can't keep any, leaves the file.
fn hint_at_file(error: KafkaError) -> EngineError {
    match error.code() {
        Some(ErrorCode::GROUP_AUTHORIZATION_FAILED) => EngineError::Denied(format!(
            "the restore's state can't be kept at the target ({error}): allow READ on groups {PREFIX}*, or keep it in a file with --state FILE"
        )),
        Some(ErrorCode::COORDINATOR_NOT_AVAILABLE) => EngineError::State(format!(
            "the target has no group coordinator to keep the restore's state ({error}): a file with --state FILE does without"
        )),
        _ => error.into(),
    }
}

async fn load_group(cluster: &Cluster, id: &str) -> Result<Entries, EngineError> {
    let group = group_name(id);
    let found = cluster.group_offsets(&group).await.map_err(hint_at_file)?;
    let mut entries = Entries::new();
    for (tp, committed) in found.offsets {
        let text = committed.metadata.unwrap_or_default();
        let meta = parse(&text).map_err(|what| {
            EngineError::Refused(format!(
                "group {group} at the target has an offset for {tp} that is no restore's state ({what})"
            ))
        })?;
        entries.insert(tp, Entry { offset: committed.offset, meta });
    }
    Ok(entries)
}

fn parse(text: &str) -> Result<Meta, String> {
    let meta: Meta = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match meta.v {
        VERSION => Ok(meta),
        v => Err(format!("version {v}: another version of bodley wrote it")),
    }
}

fn load_file(path: &Path) -> Result<Entries, EngineError> {
    let bad = |what: String| EngineError::Refused(format!("--state {}: {what}", path.display()));
    let text = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Entries::new()),
        Err(error) => return Err(bad(error.to_string())),
        Ok(found) if found.len() > MAX_FILE => return Err(bad("it is no restore's state".into())),
        Ok(_) => std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?,
    };
    let mut entries = Entries::new();
    let mut topics: HashMap<String, Arc<str>> = HashMap::new();
    for line in text.lines() {
        let line: Line =
            serde_json::from_str(line).map_err(|e| bad(format!("it is no restore's state ({e})")))?;
        if line.state.v != VERSION {
            return Err(bad("another version of bodley wrote it".into()));
        }
        let topic = topics.entry(line.topic).or_insert_with_key(|name| Arc::from(name.as_str()));
        entries.insert(
            TopicPartition::new(topic, line.partition),
            Entry { offset: line.offset, meta: line.state },
        );
    }
    Ok(entries)
}

/// A name beside a file, of this process only.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

/// Replaces the file in one step, durably.
fn save_file(path: &Path, all: &Entries) -> Result<(), EngineError> {
    let failed = |e: std::io::Error| {
        EngineError::State(format!("the restore's state can't be written to {}: {e}", path.display()))
    };
    let mut text = Vec::new();
    for (tp, entry) in all {
        let line = Line {
            topic: tp.topic.to_string(),
            partition: tp.partition,
            offset: entry.offset,
            state: entry.meta.clone(),
        };
        serde_json::to_writer(&mut text, &line).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = beside(path);
    let write = || {
        std::fs::write(&temporary, &text)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

/// What is the same in all entries.
#[derive(Debug, Clone)]
pub struct Restore {
    /// Its id.
    pub id: String,
    /// Id of the vault.
    pub vault: String,
    /// Commit of the vault.
    pub seq: u64,
    /// Digest of the plan.
    pub plan: String,
    /// What times ago count from, ms, where there are such.
    pub now: Option<i64>,
    /// Digests of the damaged chunks that are left out.
    pub left_out: HashMap<TopicPartition, String>,
    /// The producer id belongs to a transactional id.
    pub transactional: bool,
}

/// What is the same in all entries of a topic.
#[derive(Debug, Clone, Default)]
pub struct TopicState {
    /// Id at the target.
    pub id: [u8; 16],
    /// The restore made it.
    pub created: bool,
    /// It had data before.
    pub in_use: bool,
    /// Own settings that temporary ones replace.
    pub old: BTreeMap<String, Option<String>>,
}

/// The state of a running restore.
#[derive(Debug)]
pub struct Ledger {
    place: Place,
    restore: Restore,
    topics: HashMap<Arc<str>, TopicState>,
    entries: Entries,
    /// An entry had to forget where an earlier run stood.
    pub coarse: bool,
}

impl Ledger {
    /// With what an earlier run left.
    pub fn new(
        place: Place,
        restore: Restore,
        topics: HashMap<Arc<str>, TopicState>,
        entries: Entries,
    ) -> Self {
        Self { place, restore, topics, entries, coarse: false }
    }

    /// Writes where partitions stand.
    pub async fn save(&mut self, stands: &[(TopicPartition, Stand)]) -> Result<(), EngineError> {
        for (tp, stand) in stands {
            let entry = self.entry(tp, stand.clone());
            self.entries.insert(tp.clone(), entry);
        }
        let changed: Vec<TopicPartition> = stands.iter().map(|(tp, _)| tp.clone()).collect();
        self.place.save(&self.restore.id, &self.entries, &changed).await
    }

    /// Chunks that are left out now, and were not when an earlier run restored them, would be missing from the count.
    pub fn check_left_out(&self, plan: &Plan, stands: &[(TopicPartition, Stand)]) -> Result<(), EngineError> {
        let partitions = plan.topics.iter().flat_map(|topic| &topic.partitions);
        let left_out: HashMap<_, _> =
            partitions.filter_map(|p| Some((&p.tp, p.work.left_out_behind?))).collect();
        for (tp, stand) in stands {
            let before = self.entries.get(tp).and_then(|entry| entry.meta.left_out.as_ref());
            let shifted = match left_out.get(tp) {
                _ if before == self.restore.left_out.get(tp) => false,
                Some(behind) => before.is_some() || stand.done > *behind,
                None => before.is_some(),
            };
            if shifted && stand.done > 0 {
                return Err(EngineError::Diverged(format!(
                    "{tp}: other chunks are damaged than when an earlier run began: delete the topic, and run the restore again"
                )));
            }
        }
        Ok(())
    }

    /// Writes everything again, before the target lets it expire.
    pub async fn renew(&self) -> Result<(), EngineError> {
        let all: Vec<TopicPartition> = self.entries.keys().cloned().collect();
        self.place.save(&self.restore.id, &self.entries, &all).await
    }

    /// Marks the restore as done, with its exit code; `groups`: their positions have been dealt with, and how. What an earlier run has completed with a worse
    /// code keeps it.
    pub async fn finish(&mut self, exit_code: u8, groups: Option<String>) -> Result<(), EngineError> {
        for entry in self.entries.values_mut() {
            if groups.is_some() {
                (entry.meta.groups, entry.meta.groups_how) = (true, groups.clone());
            }
            entry.meta.done = entry.meta.done.max(Some(exit_code));
        }
        self.renew().await
    }

    fn entry(&mut self, tp: &TopicPartition, mut stand: Stand) -> Entry {
        let topic = self.topics.get(&tp.topic).cloned().unwrap_or_default();
        loop {
            let meta = Meta {
                v: VERSION,
                restore: self.restore.id.clone(),
                vault: self.restore.vault.clone(),
                seq: self.restore.seq,
                plan: self.restore.plan.clone(),
                now: self.restore.now,
                topic: crate::vault::hex(&topic.id),
                records: stand.piece.records,
                pieces: stand.earlier.iter().map(|piece| (piece.records, piece.offset)).collect(),
                producer: stand.writer.identity.id,
                epoch: stand.writer.identity.epoch,
                generation: stand.writer.generation,
                transactional: self.restore.transactional,
                created: topic.created,
                in_use: topic.in_use,
                old: topic.old.clone(),
                left_out: self.restore.left_out.get(tp).cloned(),
                groups: false,
                groups_how: None,
                done: None,
            };
            let len = serde_json::to_string(&meta).map_or(0, |text| text.len());
            if len <= MAX_META || !stand.forget_a_piece() {
                return Entry { offset: stand.piece.offset, meta };
            }
            self.coarse = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(path: &Path) -> Ledger {
        let restore = Restore {
            id: "x".into(),
            vault: "v".into(),
            seq: 3,
            plan: "p".into(),
            now: None,
            left_out: HashMap::new(),
            transactional: true,
        };
        let topics = [(Arc::from("a"), TopicState { id: [1; 16], created: true, ..TopicState::default() })];
        Ledger::new(Place::File(path.into()), restore, topics.into(), Entries::new())
    }

    #[tokio::test]
    async fn a_file_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let place = Place::File(path.clone());
        assert!(place.load("x").await.unwrap().is_empty());
        let mut ledger = ledger(&path);
        let tp = TopicPartition::new(&Arc::from("a"), 2);
        let who = Writer { identity: ProducerIdentity { id: 9, epoch: 4 }, generation: 2 };
        let mut stand = Stand::fresh(0, who).behind_fence(10, 11, who);
        ledger.save(&[(tp.clone(), stand.clone())]).await.unwrap();
        let entries = place.load("x").await.unwrap();
        assert_eq!(entries[&tp].stand(), stand);
        assert!(entries[&tp].is_of(&[1; 16]) && !entries[&tp].is_of(&[2; 16]));
        assert!(place.load("y").await.is_err(), "another restore's");
        // However often it is cut, an entry fits.
        for n in 2..400 {
            stand = stand.behind_fence(n * 1_000_000, n * 1_000_001, who);
        }
        ledger.save(&[(tp.clone(), stand.clone())]).await.unwrap();
        let entries = place.load("x").await.unwrap();
        assert!(ledger.coarse && serde_json::to_string(&entries[&tp].meta).unwrap().len() <= 4096);
        assert_eq!(entries[&tp].stand().piece, stand.piece);
        ledger.finish(3, Some("how".into())).await.unwrap();
        ledger.finish(0, None).await.unwrap();
        assert_eq!(place.load("x").await.unwrap()[&tp].meta.done, Some(3));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(place.load("x").await.is_err());
    }
}

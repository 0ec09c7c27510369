//! The file of what a reset replaces: enough to put it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bodley_io::kafka::is_topic_name;
use bodley_io::kafka::{Layout, TopicPartition};
use bodley_protocol::NO_TOPIC_ID;
use serde::{Deserialize, Serialize};

use super::Position;
use super::apply::Planned;
use crate::error::EngineError;
use crate::vault::{hex, now_ms};

/// Changes when a field changes its meaning or goes away.
const FORMAT: &str = "bodley.groups.v1";
/// Largest file that is read, bytes. A position takes some 100.
const LIMIT: u64 = 256 << 20;
/// Longest metadata that a request can hold, bytes.
const MAX_METADATA: usize = i16::MAX as usize;
const MAX_GROUP: usize = 32 << 10;

/// Positions that a reset replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    format: String,
    /// The cluster that they are of.
    pub cluster_id: String,
    /// When they were read, ms since 1970.
    pub saved: i64,
    /// Ids of the topics, 32 hex digits, where they have such: a topic that was made anew is another one.
    #[serde(default)]
    topics: BTreeMap<String, String>,
    groups: Vec<SavedGroup>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedGroup {
    group: String,
    offsets: Vec<SavedOffset>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedOffset {
    topic: String,
    partition: i32,
    /// Null: the group had none.
    offset: Option<i64>,
    metadata: Option<String>,
}

impl Saved {
    /// What `changes`, sorted by group, replace at a cluster of this layout.
    pub fn of(layout: &Layout, changes: &[Planned]) -> Self {
        let id = |name: &Arc<str>| {
            let id = layout.topic_id(name);
            (id != NO_TOPIC_ID).then(|| (name.to_string(), hex(&id)))
        };
        let topics = changes.iter().filter_map(|change| id(&change.tp.topic)).collect();
        let groups = changes.chunk_by(|a, b| a.group == b.group).filter_map(|of_group| {
            let offsets = of_group.iter().map(|change| SavedOffset {
                topic: change.tp.topic.to_string(),
                partition: change.tp.partition,
                offset: change.now.as_ref().map(|now| now.offset),
                metadata: change.now.as_ref().and_then(|now| now.metadata.clone()),
            });
            Some(SavedGroup { group: of_group.first()?.group.clone(), offsets: offsets.collect() })
        });
        let (format, groups) = (FORMAT.to_owned(), groups.collect());
        let cluster_id = layout.cluster_id.clone().unwrap_or_default();
        Self { format, cluster_id, saved: now_ms(), topics, groups }
    }

    /// Whether a topic is the one that it was then, as far as that is known.
    pub fn knows(&self, layout: &Layout, topic: &str) -> bool {
        self.topics.get(topic).is_none_or(|id| *id == hex(&layout.topic_id(topic)))
    }

    /// Writes it to a new file, durably. A file that is there stays as it is.
    pub fn write(&self, path: &Path) -> Result<(), EngineError> {
        let failed =
            |what: String| EngineError::Refused(format!("{}: {what}; nothing was changed", path.display()));
        let text = serde_json::to_vec(self).map_err(|e| failed(e.to_string()))?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| {
            failed(format!(
                "cannot make the file that saves the old positions ({e}): name another with --save"
            ))
        })?;
        let written = file.write_all(&text).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
        written.map_err(|e| failed(format!("cannot write the old positions: {e}")))
    }

    /// Reads such a file.
    pub fn read(path: &Path) -> Result<Self, EngineError> {
        let bad = |what: String| EngineError::Refused(format!("{}: {what}", path.display()));
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
        read.map_err(|e| bad(format!("cannot be read: {e}")))?;
        if bytes.len() as u64 > LIMIT {
            return Err(bad(format!("is larger than {} MiB: this is some other file", LIMIT >> 20)));
        }
        let saved: Self = serde_json::from_slice(&bytes).map_err(|error| match error.is_eof() {
            true => bad("it ends early: the reset that wrote it was cut before it changed anything".into()),
            false => bad(format!("is no file of a reset: {error}")),
        })?;
        if saved.format != FORMAT {
            return Err(bad(format!("has format {:.40?}, this version reads {FORMAT}", saved.format)));
        }
        saved.check().map_err(bad)?;
        Ok(saved)
    }

    fn check(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for group in &self.groups {
            if group.group.is_empty() || group.group.len() > MAX_GROUP {
                return Err("a group's name is empty or too long".into());
            }
            for of in &group.offsets {
                let subject = || {
                    format!(
                        "group {:.100?}, topic {:.300?}, partition {}",
                        group.group, of.topic, of.partition
                    )
                };
                if !is_topic_name(&of.topic) || of.partition < 0 || of.offset.is_some_and(|offset| offset < 0)
                {
                    return Err(format!("{}: no topic, partition or offset is like that", subject()));
                }
                if of.metadata.as_ref().is_some_and(|metadata| metadata.len() > MAX_METADATA) {
                    return Err(format!("{}: its metadata is too long", subject()));
                }
                if !seen.insert((&group.group, &of.topic, of.partition)) {
                    return Err(format!("{} stands there twice", subject()));
                }
            }
        }
        Ok(())
    }

    /// Each position that was saved; `None`: there was none.
    pub fn positions(&self) -> impl Iterator<Item = (&str, TopicPartition, Option<Position>)> {
        self.groups.iter().flat_map(|group| {
            group.offsets.iter().map(|of| {
                let tp = TopicPartition::new(&Arc::from(of.topic.as_str()), of.partition);
                let position = of.offset.map(|offset| Position { offset, metadata: of.metadata.clone() });
                (group.group.as_str(), tp, position)
            })
        })
    }
}

/// A new file is there for good once its folder is synced.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.map_or_else(|| PathBuf::from("."), Path::to_path_buf))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(group: &str, partition: i32, now: Option<i64>) -> Planned {
        let position = |offset| Position { offset, metadata: None };
        Planned {
            group: group.into(),
            tp: TopicPartition::new(&Arc::from("t"), partition),
            now: now.map(position),
            new: Some(position(7)),
        }
    }

    #[test]
    fn what_was_saved_is_read_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved.json");
        let layout = Layout { cluster_id: Some("c".into()), ..Layout::default() };
        let saved =
            Saved::of(&layout, &[planned("a", 0, Some(5)), planned("a", 1, None), planned("b", 0, None)]);
        saved.write(&path).unwrap();
        assert_eq!(Saved::read(&path).unwrap(), saved);
        let found: Vec<_> =
            saved.positions().map(|(group, tp, of)| (group, tp.partition, of.map(|of| of.offset))).collect();
        assert_eq!(found, [("a", 0, Some(5)), ("a", 1, None), ("b", 0, None)]);
        assert!(saved.write(&path).unwrap_err().to_string().contains("File exists"));
        assert_eq!(Saved::read(&path).unwrap(), saved);
    }

    #[test]
    fn hostile_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Saved::read(&path).unwrap_err().to_string()
        };
        let with = |offsets: &str| {
            format!(
                r#"{{"format":"bodley.groups.v1","cluster_id":"c","saved":1,"groups":[{{"group":"g","offsets":[{offsets}]}}]}}"#
            )
        };
        let one = r#"{"topic":"t","partition":0,"offset":1,"metadata":null}"#;
        std::fs::write(&path, with(one)).unwrap();
        Saved::read(&path).unwrap();
        assert!(refused(&with(&format!("{one},{one}"))).contains("twice"));
        assert!(refused(&with(&one.replace("1,", "-1,"))).contains("like that"));
        assert!(refused(&with(&one.replace("\"t\"", "\"../t\""))).contains("like that"));
        assert!(refused(&with(one).replace("v1", "v9")).contains("format"));
        assert!(refused(with(one).get(..40).unwrap()).contains("ends early"));
        assert!(refused("").contains("ends early"));
        assert!(refused("[1]").contains("no file of a reset"));
        assert!(refused(&"[".repeat(100_000)).contains("no file of a reset"));
        assert!(Saved::read(Path::new("/no/such")).unwrap_err().to_string().contains("cannot be read"));
    }
}

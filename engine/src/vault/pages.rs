//! Pages of checkpoints: tables with the rows of many commits. See docs/format.md, "Checkpoints".
//!
//! The *heads* page has what a fold without ranges comes to. *History* pages have the rows that such a fold does without, each with the number of its commit,
//! so that they add up as they did in the log.

use super::VaultError;
use super::commit::SegmentRef;
use super::rows::{AbortedRow, ConfigRow, GroupRow, Range, Rows, TopicRow, write_aborted, write_ranges};
use super::state::{Cursor, State};
use super::table::{Section, Table, TableWriter};
use bodley_protocol::TopicId;

/// The section that tells a page from a commit's table.
const PAGE: &str = "page";
/// Columns that a page has beside those of a commit's table.
const COLUMNS: [(&str, &[&str]); 3] = [
    (PAGE, &["seq"]),
    ("cursors", &["topic", "partition", "rewind", "next", "last_epoch", "leader_epoch", "seq", "from"]),
    ("segments", &["id", "bytes", "crc64", "class", "seq"]),
];

/// How far a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorRow {
    /// Topic id.
    pub topic: TopicId,
    /// Partition.
    pub partition: u32,
    /// The newest commit that has rows of it.
    pub seq: u64,
    /// The cursor before that commit; -1: none.
    pub from: i64,
    /// The cursor.
    pub cursor: Cursor,
}

/// The rows of a heads page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heads {
    /// By topic and partition.
    pub cursors: Vec<CursorRow>,
    /// By topic.
    pub topics: Vec<TopicRow>,
    /// By topic and name.
    pub configs: Vec<ConfigRow>,
    /// By group, topic and partition.
    pub groups: Vec<GroupRow>,
    /// Aborted transactions whose markers have not been seen, by key.
    pub aborted: Vec<AbortedRow>,
}

/// The rows of a history page, each with the number of its commit, in the order of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// What is stored.
    pub ranges: Vec<(u64, Range)>,
    /// Aborted transactions; a later row of a key replaces an earlier one.
    pub aborted: Vec<(u64, AbortedRow)>,
    /// Segments that commits added.
    pub segments: Vec<(u64, SegmentRef)>,
}

/// Whether a table is a page of a checkpoint.
pub fn is_page(table: &Table<'_>) -> Result<bool, VaultError> {
    Ok(table.section(PAGE)?.is_some())
}

fn write_page(table: &mut TableWriter, seq: u64) -> Result<(), VaultError> {
    table.section(PAGE, 1).fixed("seq", std::iter::once(seq))
}

impl Heads {
    /// Writes the heads page of commit `seq`.
    pub fn encode(self, seq: u64) -> Result<TableWriter, VaultError> {
        let mut table = TableWriter::default();
        write_page(&mut table, seq)?;
        self.write(&mut table)?;
        Ok(table)
    }

    /// The digest of the state, as docs/format.md defines it.
    pub fn digest(self) -> Result<String, VaultError> {
        let mut table = TableWriter::digesting();
        self.write(&mut table)?;
        Ok(table.digest())
    }

    fn write(self, table: &mut TableWriter) -> Result<(), VaultError> {
        let Self { cursors, topics, configs, groups, aborted } = self;
        if !cursors.is_empty() {
            let mut section = table.section("cursors", cursors.len());
            section.fixed("topic", cursors.iter().map(|r| r.topic))?;
            section.fixed("partition", cursors.iter().map(|r| r.partition))?;
            section.fixed("rewind", cursors.iter().map(|r| r.cursor.rewind))?;
            section.fixed("next", cursors.iter().map(|r| r.cursor.next))?;
            section.fixed("last_epoch", cursors.iter().map(|r| r.cursor.last_epoch))?;
            section.fixed("leader_epoch", cursors.iter().map(|r| r.cursor.leader_epoch))?;
            section.fixed("seq", cursors.iter().map(|r| r.seq))?;
            section.fixed("from", cursors.iter().map(|r| r.from))?;
        }
        let mut rows = Rows { ranges: Vec::new(), topics, configs, groups, aborted };
        rows.sort();
        rows.write(table)
    }

    /// Reads a heads page, and tells whether this version knows all that is in it.
    pub fn decode(table: &Table<'_>) -> Result<(Self, bool), VaultError> {
        let mut heads = Self::default();
        if let Some(section) = table.section("cursors")? {
            heads.cursors = read_cursors(&section)?;
        }
        let Rows { ranges: _, topics, configs, groups, aborted } = Rows::decode(table)?;
        (heads.topics, heads.configs, heads.groups, heads.aborted) = (topics, configs, groups, aborted);
        let known: Vec<_> = COLUMNS.into_iter().chain(Rows::COLUMNS).collect();
        Ok((heads, table.has_only(&known)))
    }
}

fn read_cursors(section: &Section<'_>) -> Result<Vec<CursorRow>, VaultError> {
    let keys = section.key("topic")?.into_iter().zip(section.key("partition")?);
    let nexts = section.key("next")?.into_iter().zip(section.fixed("rewind", 0)?);
    let epochs = section.fixed("last_epoch", -1)?.into_iter().zip(section.fixed("leader_epoch", -1)?);
    let seqs = section.fixed("seq", 0)?.into_iter().zip(section.fixed("from", -1)?);
    let rows = keys.zip(nexts.zip(epochs)).zip(seqs);
    let rows =
        rows.map(|(((topic, partition), ((next, rewind), (last_epoch, leader_epoch))), (seq, from))| {
            let cursor = Cursor { next, last_epoch, leader_epoch, rewind };
            CursorRow { topic, partition, seq, from, cursor }
        });
    Ok(rows.collect())
}

impl History {
    /// Rows of all sections.
    pub fn len(&self) -> usize {
        self.ranges.len() + self.aborted.len() + self.segments.len()
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes a page for the checkpoint of commit `seq`. Sorts first.
    pub fn encode(mut self, seq: u64) -> Result<TableWriter, VaultError> {
        // Stable: rows that say the same twice stay in the order of the log.
        self.ranges.sort_by_key(|(_, r)| (r.topic, r.partition, r.rewind, r.first, r.next));
        self.aborted.sort_by_key(|(_, r)| (r.topic, r.partition, r.rewind, r.producer_id, r.first));
        let mut table = TableWriter::default();
        write_page(&mut table, seq)?;
        if !self.ranges.is_empty() {
            let (seqs, rows): (Vec<u64>, Vec<Range>) = self.ranges.into_iter().unzip();
            let mut section = table.section("ranges", rows.len());
            write_ranges(&mut section, &rows)?;
            section.fixed("seq", seqs.into_iter())?;
        }
        if !self.aborted.is_empty() {
            let (seqs, rows): (Vec<u64>, Vec<AbortedRow>) = self.aborted.into_iter().unzip();
            let mut section = table.section("aborted", rows.len());
            write_aborted(&mut section, &rows)?;
            section.fixed("seq", seqs.into_iter())?;
        }
        if !self.segments.is_empty() {
            write_segments(&mut table, &self.segments)?;
        }
        Ok(table)
    }

    /// Reads a history page.
    pub fn decode(table: &Table<'_>) -> Result<Self, VaultError> {
        let rows = Rows::decode(table)?;
        let seqs = |kind: &str| match table.section(kind)? {
            Some(section) => section.key::<u64>("seq"),
            None => Ok(Vec::new()),
        };
        let segments = table.section("segments")?.map(|section| read_segments(&section));
        Ok(Self {
            ranges: seqs("ranges")?.into_iter().zip(rows.ranges).collect(),
            aborted: seqs("aborted")?.into_iter().zip(rows.aborted).collect(),
            segments: segments.transpose()?.unwrap_or_default(),
        })
    }

    /// Adds its rows to a state that keeps ranges, partition by partition in the order of the log: in a commit, aborted transactions follow ranges.
    pub fn add_to(mut self, state: &mut State) {
        self.segments.into_iter().for_each(|(_, segment)| state.add_segment(segment));
        self.ranges.sort_by_key(|(seq, _)| *seq);
        self.aborted.sort_by_key(|(seq, _)| *seq);
        let mut aborted = self.aborted.into_iter().peekable();
        for (seq, range) in self.ranges {
            while let Some((_, row)) = aborted.next_if(|(of, _)| *of < seq) {
                state.add_aborted(row);
            }
            state.add_range(seq, range);
        }
        aborted.for_each(|(_, row)| state.add_aborted(row));
    }
}

/// Id and CRC-64 of a segment, if its commit writes them in the one way that a page can give back.
pub(super) fn segment_key(row: &SegmentRef) -> Result<([u8; 16], u64), VaultError> {
    let id = ulid::Ulid::from_string(&row.id).ok().filter(|id| id.to_string() == row.id);
    let crc = u64::from_str_radix(&row.crc64, 16).ok().filter(|crc| format!("{crc:016x}") == row.crc64);
    match (id, crc) {
        (Some(id), Some(crc)) => Ok((id.to_bytes(), crc)),
        _ => {
            let what = format!("a commit writes the name or CRC-64 of segment {} in another way", row.id);
            Err(VaultError::Unsupported(what))
        }
    }
}

fn write_segments(table: &mut TableWriter, rows: &[(u64, SegmentRef)]) -> Result<(), VaultError> {
    let (mut ids, mut crcs) = (Vec::new(), Vec::new());
    for (_, row) in rows {
        let (id, crc) = segment_key(row)?;
        ids.push(id);
        crcs.push(crc);
    }
    let mut section = table.section("segments", rows.len());
    section.fixed("id", ids.into_iter())?;
    section.fixed("bytes", rows.iter().map(|(_, r)| r.bytes))?;
    section.fixed("crc64", crcs.into_iter())?;
    section.fixed("class", rows.iter().map(|(_, r)| r.class))?;
    section.fixed("seq", rows.iter().map(|(seq, _)| *seq))
}

fn read_segments(section: &Section<'_>) -> Result<Vec<(u64, SegmentRef)>, VaultError> {
    let ids = section.key::<[u8; 16]>("id")?.into_iter().zip(section.key("bytes")?);
    let checks = section.key::<u64>("crc64")?.into_iter().zip(section.fixed("class", 0)?);
    let rows = ids.zip(checks).zip(section.key("seq")?).map(|(((id, bytes), (crc64, class)), seq)| {
        let id = ulid::Ulid::from_bytes(id).to_string();
        (seq, SegmentRef { id, bytes, crc64: format!("{crc64:016x}"), class })
    });
    Ok(rows.collect())
}

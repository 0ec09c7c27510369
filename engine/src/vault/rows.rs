//! The rows of a vault's tables: what is stored of each partition, topics, settings, groups, aborted transactions.
//! Names and meanings are those of docs/format.md.

use bodley_protocol::TopicId;

use super::VaultError;
use super::commit::segment_path;
use super::table::{Section, SectionWriter, Table, TableWriter};

/// No time is known.
pub const NO_TIME: i64 = -1;
/// The least time is not known, as headers don't tell it.
pub const TIME_UNKNOWN: i64 = i64::MIN;

/// What a range row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A chunk holds every batch of the range.
    Data,
    /// The broker has no batch there.
    Empty,
    /// Lost.
    Gap(Reason),
}

/// Why a range was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The broker had removed it before it was read.
    Retention,
    /// A batch whose CRC stays bad.
    Corrupt,
    /// The source's log was truncated.
    Truncated,
    /// It was in a vault that this one was rebuilt from, and is lost there.
    Lost,
}

impl Reason {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Corrupt => "corrupt",
            Self::Truncated => "truncated",
            Self::Lost => "lost",
        }
    }
}

impl Kind {
    fn codes(self) -> (u8, u8) {
        match self {
            Self::Data => (0, 0),
            Self::Empty => (1, 0),
            Self::Gap(Reason::Retention) => (2, 1),
            Self::Gap(Reason::Corrupt) => (2, 2),
            Self::Gap(Reason::Truncated) => (2, 3),
            Self::Gap(Reason::Lost) => (2, 4),
        }
    }

    fn from_codes(kind: u8, reason: u8) -> Result<Self, VaultError> {
        Ok(match (kind, reason) {
            (0, _) => Self::Data,
            (1, _) => Self::Empty,
            (2, 1) => Self::Gap(Reason::Retention),
            (2, 2) => Self::Gap(Reason::Corrupt),
            (2, 3) => Self::Gap(Reason::Truncated),
            (2, 4) => Self::Gap(Reason::Lost),
            _ => return Err(VaultError::Unsupported(format!("range rows of kind {kind}, reason {reason}"))),
        })
    }
}

/// One statement about offsets `[first, next)` of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    /// Topic id.
    pub topic: TopicId,
    /// Partition.
    pub partition: u32,
    /// What it says.
    pub kind: Kind,
    /// Counts rewrites of the source's log below the cursor.
    pub rewind: u32,
    /// First offset, inclusive.
    pub first: i64,
    /// Last offset, exclusive.
    pub next: i64,
    /// Leader epoch of the last batch; -1: none.
    pub last_epoch: i32,
    /// Leader epoch when it was read; -1: unknown.
    pub leader_epoch: i32,
    /// Last stable offset when it was read; -1: unknown.
    pub lso: i64,
    /// High watermark when it was read; -1: unknown.
    pub high_watermark: i64,
    /// The partition's cursor at the commit's base; -1: none.
    pub from: i64,
    /// Segment's ULID; zeros without a chunk.
    pub segment: [u8; 16],
    /// Byte offset of the chunk in its segment.
    pub position: u64,
    /// Bytes of the chunk.
    pub stored: u32,
    /// Records, control records included; -1: unknown.
    pub records: i64,
    /// Records neither control nor aborted; -1: unknown.
    pub kept: i64,
    /// No record is older, ms; [`TIME_UNKNOWN`], or [`NO_TIME`] without records.
    pub min_ts: i64,
    /// No record is newer, ms; [`NO_TIME`] without records.
    pub max_ts: i64,
    /// Least time of a batch's first record, ms; [`NO_TIME`] without records.
    pub base_ts: i64,
    /// CRC-64 of the chunk.
    pub crc64: u64,
}

impl Range {
    /// The least time that is known of its records, ms: the least of all, or else that of batches' first records.
    pub fn oldest(&self) -> Option<i64> {
        [self.min_ts, self.base_ts].into_iter().filter(|ms| *ms >= 0).min()
    }

    /// Offsets of (topic id, partition) without a record; how the log stood when it was read is not known.
    pub fn without_chunk(
        (topic, partition): (TopicId, u32),
        rewind: u32,
        kind: Kind,
        offsets: std::ops::Range<i64>,
        from: i64,
    ) -> Self {
        Self {
            topic,
            partition,
            kind,
            rewind,
            first: offsets.start,
            next: offsets.end,
            last_epoch: -1,
            leader_epoch: -1,
            lso: -1,
            high_watermark: -1,
            from,
            segment: [0; 16],
            position: 0,
            stored: 0,
            records: 0,
            kept: 0,
            min_ts: NO_TIME,
            max_ts: NO_TIME,
            base_ts: NO_TIME,
            crc64: 0,
        }
    }

    /// Path of the segment that its chunk is in.
    pub fn segment_path(&self) -> String {
        segment_path(&ulid::Ulid::from_bytes(self.segment).to_string())
    }
}

/// A topic at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRow {
    /// Topic id.
    pub topic: TopicId,
    /// Name.
    pub name: String,
    /// Still at the source when it was last looked for.
    pub present: bool,
    /// Number of partitions.
    pub partitions: u32,
    /// Replication factor of partition 0.
    pub replication: u16,
    /// The broker calls it internal.
    pub internal: bool,
    /// The id was made from name and incarnation, the broker has none.
    pub synthetic: bool,
    /// Counts topics of the same name from 0.
    pub incarnation: u32,
}

/// A setting made on a topic itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRow {
    /// Topic id.
    pub topic: TopicId,
    /// Empty: the topic has no settings of its own.
    pub name: String,
    /// `None` where the broker hides it.
    pub value: Option<String>,
}

/// A group's committed offset, or (partition -1) the header before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    /// Group name.
    pub group: String,
    /// Topic id.
    pub topic: TopicId,
    /// -1: header.
    pub partition: i32,
    /// Header: the group has offsets of this topic.
    pub present: bool,
    /// Header: as the broker calls its type.
    pub kind: String,
    /// Header.
    pub protocol_type: String,
    /// Header: read while a transactional commit was pending.
    pub unstable: bool,
    /// Header: ms.
    pub taken: i64,
    /// Next offset that the group would read.
    pub offset: i64,
    /// -1: unknown.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: Option<String>,
}

/// An aborted transaction in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AbortedRow {
    /// Topic id.
    pub topic: TopicId,
    /// Partition.
    pub partition: u32,
    /// Rewind epoch.
    pub rewind: u32,
    /// Producer.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first: i64,
    /// Offset of its abort marker; `i64::MAX`: not seen yet.
    pub marker: i64,
}

/// All rows that one commit adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Sorted by topic, partition, rewind, first, next.
    pub ranges: Vec<Range>,
    /// Sorted by topic.
    pub topics: Vec<TopicRow>,
    /// Sorted by topic, name.
    pub configs: Vec<ConfigRow>,
    /// Sorted by group, topic, partition.
    pub groups: Vec<GroupRow>,
    /// Sorted by all but marker.
    pub aborted: Vec<AbortedRow>,
}

impl Rows {
    /// The sections and columns that this version writes. Whoever makes rows anew from rows may meet no others, as they would be lost.
    #[rustfmt::skip]
    pub const COLUMNS: [(&str, &[&str]); 5] = [
        ("ranges", &[
            "topic", "partition", "kind", "reason", "rewind", "first", "next", "last_epoch", "leader_epoch", "lso", "hw", "from",
            "segment", "position", "stored", "plain", "codec", "records", "kept", "min_ts", "max_ts", "base_ts", "crc64",
        ]),
        ("topics", &["topic", "name", "state", "partitions", "replication", "internal", "synthetic", "incarnation"]),
        ("configs", &["topic", "name", "value"]),
        ("groups", &[
            "group", "topic", "partition", "state", "type", "protocol_type", "unstable", "taken", "offset", "leader_epoch", "metadata",
        ]),
        ("aborted", &["topic", "partition", "rewind", "producer_id", "first", "marker"]),
    ];

    /// Nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
            && self.topics.is_empty()
            && self.configs.is_empty()
            && self.groups.is_empty()
            && self.aborted.is_empty()
    }

    /// Writes the sections that have rows. Sorts first.
    pub fn encode(&mut self) -> Result<TableWriter, VaultError> {
        self.sort();
        let mut table = TableWriter::default();
        self.write(&mut table)?;
        Ok(table)
    }

    /// Puts the rows of each section in order.
    pub fn sort(&mut self) {
        self.ranges.sort_by_key(|r| (r.topic, r.partition, r.rewind, r.first, r.next));
        self.topics.sort_by_key(|r| r.topic);
        self.configs.sort_by(|a, b| (a.topic, &a.name).cmp(&(b.topic, &b.name)));
        self.groups.sort_by(|a, b| (&a.group, a.topic, a.partition).cmp(&(&b.group, b.topic, b.partition)));
        self.aborted.sort_by_key(|r| (r.topic, r.partition, r.rewind, r.producer_id, r.first));
    }

    /// Adds the sections that have rows, which are in order, to a table.
    pub fn write(&self, table: &mut TableWriter) -> Result<(), VaultError> {
        if !self.ranges.is_empty() {
            write_ranges(&mut table.section("ranges", self.ranges.len()), &self.ranges)?;
        }
        if !self.topics.is_empty() {
            write_topics(&mut table.section("topics", self.topics.len()), &self.topics)?;
        }
        if !self.configs.is_empty() {
            let (mut section, rows) = (table.section("configs", self.configs.len()), &self.configs);
            section.fixed("topic", rows.iter().map(|r| r.topic))?;
            section.var("name", rows.iter().map(|r| Some(r.name.as_bytes())))?;
            section.var("value", rows.iter().map(|r| r.value.as_deref().map(str::as_bytes)))?;
        }
        if !self.groups.is_empty() {
            write_groups(&mut table.section("groups", self.groups.len()), &self.groups)?;
        }
        if !self.aborted.is_empty() {
            write_aborted(&mut table.section("aborted", self.aborted.len()), &self.aborted)?;
        }
        Ok(())
    }

    /// Reads all sections of a table that are known.
    pub fn decode(table: &Table<'_>) -> Result<Self, VaultError> {
        let mut rows = Self::default();
        if let Some(section) = table.section("ranges")? {
            rows.ranges = read_ranges(&section)?;
        }
        if let Some(section) = table.section("topics")? {
            rows.topics = read_topics(&section)?;
        }
        if let Some(section) = table.section("configs")? {
            let columns = section.key("topic")?.into_iter().zip(section.key_text("name")?);
            let columns = columns.zip(section.text("value")?);
            let row = |((topic, name), value): ((_, Option<String>), _)| ConfigRow {
                topic,
                name: name.unwrap_or_default(),
                value,
            };
            rows.configs = columns.map(row).collect();
        }
        if let Some(section) = table.section("groups")? {
            rows.groups = read_groups(&section)?;
        }
        if let Some(section) = table.section("aborted")? {
            rows.aborted = read_aborted(&section)?;
        }
        Ok(rows)
    }
}

/// Writes the `ranges` section, which commits and segment footers share.
pub fn write_ranges(section: &mut SectionWriter<'_>, rows: &[Range]) -> Result<(), VaultError> {
    section.fixed("topic", rows.iter().map(|r| r.topic))?;
    section.fixed("partition", rows.iter().map(|r| r.partition))?;
    section.fixed("kind", rows.iter().map(|r| r.kind.codes().0))?;
    section.fixed("reason", rows.iter().map(|r| r.kind.codes().1))?;
    section.fixed("rewind", rows.iter().map(|r| r.rewind))?;
    section.fixed("first", rows.iter().map(|r| r.first))?;
    section.fixed("next", rows.iter().map(|r| r.next))?;
    section.fixed("last_epoch", rows.iter().map(|r| r.last_epoch))?;
    section.fixed("leader_epoch", rows.iter().map(|r| r.leader_epoch))?;
    section.fixed("lso", rows.iter().map(|r| r.lso))?;
    section.fixed("hw", rows.iter().map(|r| r.high_watermark))?;
    section.fixed("from", rows.iter().map(|r| r.from))?;
    section.fixed("segment", rows.iter().map(|r| r.segment))?;
    section.fixed("position", rows.iter().map(|r| r.position))?;
    section.fixed("stored", rows.iter().map(|r| r.stored))?;
    section.fixed("plain", rows.iter().map(|r| r.stored))?;
    section.fixed("codec", rows.iter().map(|_| 0u8))?;
    section.fixed("records", rows.iter().map(|r| r.records))?;
    section.fixed("kept", rows.iter().map(|r| r.kept))?;
    section.fixed("min_ts", rows.iter().map(|r| r.min_ts))?;
    section.fixed("max_ts", rows.iter().map(|r| r.max_ts))?;
    section.fixed("base_ts", rows.iter().map(|r| r.base_ts))?;
    section.fixed("crc64", rows.iter().map(|r| r.crc64))
}

/// Makes one struct of the next value of each column, row by row.
macro_rules! zip_rows {
    ($row:ident { $($field:ident : $column:expr),* $(,)? }) => {{
        $(let mut $field = $column.into_iter();)*
        std::iter::from_fn(|| Some($row { $($field: $field.next()?,)* })).collect()
    }};
}

fn read_ranges(section: &Section<'_>) -> Result<Vec<Range>, VaultError> {
    // The keys first: they bound what is allocated for the rest.
    let (topics, partitions) = (section.key("topic")?, section.key("partition")?);
    let (firsts, nexts) = (section.key("first")?, section.key("next")?);
    if section.fixed("codec", 0u8)?.iter().any(|codec| *codec != 0)
        || section.fixed("key_id", [0u8; 16])?.iter().any(|key| *key != [0; 16])
    {
        return Err(VaultError::Unsupported("compressed or encrypted chunks".into()));
    }
    let codes = section.fixed("kind", 0u8)?.into_iter().zip(section.fixed("reason", 0u8)?);
    let kinds = codes.map(|(kind, reason)| Kind::from_codes(kind, reason)).collect::<Result<Vec<_>, _>>()?;
    Ok(zip_rows!(Range {
        topic: topics,
        partition: partitions,
        kind: kinds,
        rewind: section.fixed("rewind", 0)?,
        first: firsts,
        next: nexts,
        last_epoch: section.fixed("last_epoch", -1)?,
        leader_epoch: section.fixed("leader_epoch", -1)?,
        lso: section.fixed("lso", -1)?,
        high_watermark: section.fixed("hw", -1)?,
        from: section.fixed("from", -1)?,
        segment: section.fixed("segment", [0; 16])?,
        position: section.fixed("position", 0)?,
        stored: section.fixed("stored", 0)?,
        records: section.fixed("records", -1)?,
        kept: section.fixed("kept", -1)?,
        min_ts: section.fixed("min_ts", TIME_UNKNOWN)?,
        max_ts: section.fixed("max_ts", NO_TIME)?,
        base_ts: section.fixed("base_ts", NO_TIME)?,
        crc64: section.fixed("crc64", 0)?,
    }))
}

/// Writes the `topics` section, which commits and segment footers share.
pub fn write_topics(section: &mut SectionWriter<'_>, rows: &[TopicRow]) -> Result<(), VaultError> {
    section.fixed("topic", rows.iter().map(|r| r.topic))?;
    section.var("name", rows.iter().map(|r| Some(r.name.as_bytes())))?;
    section.fixed("state", rows.iter().map(|r| u8::from(r.present)))?;
    section.fixed("partitions", rows.iter().map(|r| r.partitions))?;
    section.fixed("replication", rows.iter().map(|r| r.replication))?;
    section.fixed("internal", rows.iter().map(|r| u8::from(r.internal)))?;
    section.fixed("synthetic", rows.iter().map(|r| u8::from(r.synthetic)))?;
    section.fixed("incarnation", rows.iter().map(|r| r.incarnation))
}

fn flags(values: Vec<u8>) -> Vec<bool> {
    values.into_iter().map(|value| value != 0).collect()
}

fn texts(values: Vec<Option<String>>) -> Vec<String> {
    values.into_iter().map(Option::unwrap_or_default).collect()
}

fn read_topics(section: &Section<'_>) -> Result<Vec<TopicRow>, VaultError> {
    Ok(zip_rows!(TopicRow {
        topic: section.key("topic")?,
        name: texts(section.key_text("name")?),
        present: flags(section.fixed("state", 1)?),
        partitions: section.fixed("partitions", 0)?,
        replication: section.fixed("replication", 0)?,
        internal: flags(section.fixed("internal", 0)?),
        synthetic: flags(section.fixed("synthetic", 0)?),
        incarnation: section.fixed("incarnation", 0)?,
    }))
}

fn write_groups(section: &mut SectionWriter<'_>, rows: &[GroupRow]) -> Result<(), VaultError> {
    section.var("group", rows.iter().map(|r| Some(r.group.as_bytes())))?;
    section.fixed("topic", rows.iter().map(|r| r.topic))?;
    section.fixed("partition", rows.iter().map(|r| r.partition))?;
    section.fixed("state", rows.iter().map(|r| u8::from(r.present)))?;
    section.var("type", rows.iter().map(|r| Some(r.kind.as_bytes())))?;
    section.var("protocol_type", rows.iter().map(|r| Some(r.protocol_type.as_bytes())))?;
    section.fixed("unstable", rows.iter().map(|r| u8::from(r.unstable)))?;
    section.fixed("taken", rows.iter().map(|r| r.taken))?;
    section.fixed("offset", rows.iter().map(|r| r.offset))?;
    section.fixed("leader_epoch", rows.iter().map(|r| r.leader_epoch))?;
    section.var("metadata", rows.iter().map(|r| r.metadata.as_deref().map(str::as_bytes)))
}

fn read_groups(section: &Section<'_>) -> Result<Vec<GroupRow>, VaultError> {
    Ok(zip_rows!(GroupRow {
        group: texts(section.key_text("group")?),
        topic: section.key("topic")?,
        partition: section.fixed("partition", -1)?,
        present: flags(section.fixed("state", 1)?),
        kind: texts(section.text("type")?),
        protocol_type: texts(section.text("protocol_type")?),
        unstable: flags(section.fixed("unstable", 0)?),
        taken: section.fixed("taken", 0)?,
        offset: section.fixed("offset", -1)?,
        leader_epoch: section.fixed("leader_epoch", -1)?,
        metadata: section.text("metadata")?,
    }))
}

/// Writes the `aborted` section, which commits and pages of checkpoints share.
pub fn write_aborted(section: &mut SectionWriter<'_>, rows: &[AbortedRow]) -> Result<(), VaultError> {
    section.fixed("topic", rows.iter().map(|r| r.topic))?;
    section.fixed("partition", rows.iter().map(|r| r.partition))?;
    section.fixed("rewind", rows.iter().map(|r| r.rewind))?;
    section.fixed("producer_id", rows.iter().map(|r| r.producer_id))?;
    section.fixed("first", rows.iter().map(|r| r.first))?;
    section.fixed("marker", rows.iter().map(|r| if r.marker == i64::MAX { -1 } else { r.marker }))
}

fn read_aborted(section: &Section<'_>) -> Result<Vec<AbortedRow>, VaultError> {
    let (topics, firsts) = (section.key("topic")?, section.key("first")?);
    let mut markers = section.fixed("marker", -1i64)?;
    markers.iter_mut().filter(|marker| **marker < 0).for_each(|marker| *marker = i64::MAX);
    Ok(zip_rows!(AbortedRow {
        topic: topics,
        partition: section.key("partition")?,
        rewind: section.fixed("rewind", 0)?,
        producer_id: section.key("producer_id")?,
        first: firsts,
        marker: markers,
    }))
}

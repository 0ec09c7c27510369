//! Dumps of topics, as the independent reader wrote them, and their comparison.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Lines, Write};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tempfile::TempPath;

use crate::workbench::{Digest, PartitionSummary};

/// A topic's records in a file of JSON lines: partitions ascending, each in order.
#[derive(Debug, Clone)]
pub struct Dump {
    topic: String,
    file: PathBuf,
    partitions: Vec<PartitionSummary>,
    _owned: Option<Arc<TempPath>>,
}

impl Dump {
    pub(crate) fn new(topic: &str, file: &Path, partitions: Vec<PartitionSummary>) -> Self {
        Self { topic: topic.to_owned(), file: file.to_owned(), partitions, _owned: None }
    }

    pub(crate) fn owning(mut self, file: TempPath) -> Self {
        self._owned = Some(Arc::new(file));
        self
    }

    /// The topic that was read.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ranges and counts per partition.
    pub fn partitions(&self) -> &[PartitionSummary] {
        &self.partitions
    }

    /// The number of records in all partitions.
    pub fn len(&self) -> u64 {
        self.partitions.iter().map(|p| p.records).sum()
    }

    /// Whether the reader saw no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a reader has who took this dump and later only what lay beyond its end: this dump's records, then those
    /// of `later` from the offsets at which this one stopped.
    pub fn then(&self, later: &Self) -> Result<Self> {
        let file = tempfile::Builder::new().prefix("dump-").suffix(".jsonl").tempfile()?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let (mut old, mut new) = (self.lines()?.peekable(), later.lines()?.peekable());
        let mut partitions = Vec::new();
        for right in &later.partitions {
            let left = self.partitions.iter().find(|l| l.partition == right.partition);
            let mut merged =
                left.cloned().unwrap_or(PartitionSummary { records: 0, bytes: 0, ..right.clone() });
            let from = left.map_or(right.start, |l| l.end);
            while let Some(line) = next_of(&mut old, right.partition)? {
                writeln!(out, "{line}")?;
            }
            while let Some(line) = next_of(&mut new, right.partition)? {
                let record: DumpedRecord = serde_json::from_str(&line)?;
                if record.offset >= from {
                    merged.records += 1;
                    merged.bytes += record.data_bytes();
                    writeln!(out, "{line}")?;
                }
            }
            merged.end = merged.end.max(right.end);
            partitions.push(merged);
        }
        let file = out.into_inner().map_err(|e| e.into_error())?.into_temp_path();
        Ok(Self::new(&self.topic, &file, partitions).owning(file))
    }

    fn lines(&self) -> Result<Lines<BufReader<File>>> {
        let file = File::open(&self.file).with_context(|| format!("open {}", self.file.display()))?;
        Ok(BufReader::with_capacity(1 << 20, file).lines())
    }

    /// The records one by one.
    pub fn iter(&self) -> Result<Records> {
        Ok(Records(self.lines()?))
    }

    /// All records.
    pub fn records(&self) -> Result<Vec<DumpedRecord>> {
        self.iter()?.collect()
    }
}

/// The next line if it is of this partition.
fn next_of(lines: &mut Peekable<Lines<BufReader<File>>>, partition: i32) -> Result<Option<String>> {
    let prefix = format!("{{\"partition\":{partition},");
    let matches = |line: &io::Result<String>| line.as_ref().map_or(true, |l| l.starts_with(&prefix));
    Ok(lines.next_if(matches).transpose()?)
}

/// Reads a dump line by line.
#[derive(Debug)]
pub struct Records(Lines<BufReader<File>>);

impl Iterator for Records {
    type Item = Result<DumpedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.0.next()?;
        Some(line.map_err(Into::into).and_then(|l| serde_json::from_str(&l).context("odd line in a dump")))
    }
}

/// A record as the reader saw it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpedRecord {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its time in milliseconds since 1970.
    pub timestamp: i64,
    /// `CreateTime` or `LogAppendTime`.
    pub timestamp_type: String,
    /// The key.
    pub key: Option<Data>,
    /// The value.
    pub value: Option<Data>,
    /// The headers in order.
    pub headers: Vec<(String, Option<Data>)>,
}

impl DumpedRecord {
    /// The bytes of key and value.
    pub fn data_bytes(&self) -> u64 {
        [&self.key, &self.value].into_iter().flatten().map(Data::size).sum()
    }

    /// The key as text, for tests whose keys are short text.
    pub fn key_text(&self) -> Option<String> {
        self.key.as_ref().and_then(Data::bytes).map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    /// The value as text, for tests whose values are short text.
    pub fn value_text(&self) -> Option<String> {
        self.value.as_ref().and_then(Data::bytes).map(|b| String::from_utf8_lossy(&b).into_owned())
    }
}

/// A key or value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Data {
    /// A short one, in base64.
    Inline(String),
    /// A long one.
    Digest {
        /// Its size in bytes.
        length: u64,
        /// Its SHA-256 in hex.
        sha256: String,
    },
}

impl Data {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(_) => self.bytes().map_or(0, |b| b.len() as u64),
            Self::Digest { length, .. } => *length,
        }
    }

    /// The bytes of a short one.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Inline(text) => STANDARD.decode(text).ok(),
            Self::Digest { .. } => None,
        }
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest { length, sha256 } => write!(f, "{length} bytes, sha256 {sha256}"),
            Self::Inline(_) => write!(f, "\"{}\"", self.bytes().unwrap_or_default().escape_ascii()),
        }
    }
}

/// What counts as equal, beside keys, values, headers, timestamps and order, which always do.
#[derive(Debug, Clone, Copy, Default)]
pub struct CompareOptions {
    /// Offsets, too.
    pub offsets: bool,
    /// Whether times are CreateTime or LogAppendTime, too.
    pub timestamp_type: bool,
}

/// What was found equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Partitions compared.
    pub partitions: usize,
    /// Records compared.
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Compares two dumps record by record. The first difference is the error.
pub fn compare(left: &Dump, right: &Dump, options: CompareOptions) -> Result<Report> {
    same_partitions(left.topic(), left.partitions().len(), right.topic(), right.partitions().len())?;
    let (mut lefts, mut rights) = (left.iter()?, right.iter()?);
    let mut place = (0, 0_u64); // partition, and number of the record in it
    loop {
        let pair = (lefts.next().transpose()?, rights.next().transpose()?);
        let Some(partition) = [&pair.0, &pair.1].into_iter().flatten().map(|r| r.partition).min() else {
            break;
        };
        place = if partition == place.0 { place } else { (partition, 0) };
        if let Some(what) = difference(&pair, options) {
            bail!(
                "{}-{partition} and {}-{partition} differ at record {}: {what}\n  left:  {}\n  right: {}",
                left.topic(),
                right.topic(),
                place.1,
                shown(pair.0.as_ref()),
                shown(pair.1.as_ref())
            );
        }
        place.1 += 1;
    }
    Ok(report(left.partitions()))
}

/// Compares the digests of two topics. The first difference is the error.
pub fn compare_digests(left: &Digest, right: &Digest) -> Result<Report> {
    same_partitions(&left.topic, left.partitions.len(), &right.topic, right.partitions.len())?;
    for (l, r) in left.partitions.iter().zip(&right.partitions) {
        if (l.summary.records, l.summary.bytes, &l.sha256) != (r.summary.records, r.summary.bytes, &r.sha256)
        {
            bail!(
                "{}-{} and {}-{} differ\n  left:  {l:?}\n  right: {r:?}",
                left.topic,
                l.summary.partition,
                right.topic,
                r.summary.partition
            );
        }
    }
    let summaries: Vec<PartitionSummary> = left.partitions.iter().map(|p| p.summary.clone()).collect();
    Ok(report(&summaries))
}

fn same_partitions(left: &str, lefts: usize, right: &str, rights: usize) -> Result<()> {
    if lefts != rights {
        bail!("{left} has {lefts} partitions, {right} has {rights}");
    }
    Ok(())
}

fn report(partitions: &[PartitionSummary]) -> Report {
    Report {
        partitions: partitions.len(),
        records: partitions.iter().map(|p| p.records).sum(),
        bytes: partitions.iter().map(|p| p.bytes).sum(),
    }
}

fn difference(
    pair: &(Option<DumpedRecord>, Option<DumpedRecord>),
    options: CompareOptions,
) -> Option<&'static str> {
    let (l, r) = match pair {
        (Some(l), Some(r)) if l.partition == r.partition => (l, r),
        (Some(l), Some(r)) if l.partition > r.partition => return Some("left has no such record"),
        (None, Some(_)) => return Some("left has no such record"),
        _ => return Some("right has no such record"),
    };
    let checks = [
        ("timestamps", l.timestamp != r.timestamp),
        ("keys", l.key != r.key),
        ("values", l.value != r.value),
        ("headers", l.headers != r.headers),
        ("offsets", options.offsets && l.offset != r.offset),
        ("timestamp types", options.timestamp_type && l.timestamp_type != r.timestamp_type),
    ];
    checks.into_iter().find(|(_, differs)| *differs).map(|(what, _)| what)
}

fn shown(record: Option<&DumpedRecord>) -> String {
    let Some(r) = record else { return "(end)".to_owned() };
    let data = |d: &Option<Data>| d.as_ref().map_or_else(|| "null".to_owned(), ToString::to_string);
    let headers: Vec<String> =
        r.headers.iter().map(|(name, value)| format!("{name:?}: {}", data(value))).collect();
    format!(
        "partition {}, offset {}, {} {}, key {}, value {}, headers [{}]",
        r.partition,
        r.offset,
        r.timestamp_type,
        r.timestamp,
        data(&r.key),
        data(&r.value),
        headers.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dump of one-letter records: (partition, offset, value).
    fn dump(records: &[(i32, i64, &str)], ends: &[i64]) -> Dump {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for (partition, offset, value) in records {
            let value = STANDARD.encode(value);
            writeln!(
                file,
                r#"{{"partition":{partition},"offset":{offset},"timestamp":7,"timestampType":"CreateTime","key":null,"value":"{value}","headers":[["h",null]]}}"#
            )
            .unwrap();
        }
        let count = |p| records.iter().filter(|r| r.0 == p).count() as u64;
        let summary = |(p, &end): (i32, &i64)| PartitionSummary {
            partition: p,
            start: 0,
            end,
            records: count(p),
            bytes: count(p),
        };
        let partitions = (0..).zip(ends).map(summary).collect();
        let file = file.into_temp_path();
        Dump::new("t", &file, partitions).owning(file)
    }

    fn difference_of(left: &Dump, right: &Dump) -> String {
        compare(left, right, CompareOptions { offsets: true, timestamp_type: true }).unwrap_err().to_string()
    }

    #[test]
    fn equal_but_for_offsets() {
        let left = dump(&[(0, 0, "a"), (0, 5, "b"), (2, 1, "c")], &[6, 0, 2]);
        let right = dump(&[(0, 0, "a"), (0, 1, "b"), (2, 0, "c")], &[2, 0, 1]);
        let report = compare(&left, &right, CompareOptions::default()).unwrap();
        assert_eq!(report, Report { partitions: 3, records: 3, bytes: 3 });
        let text = difference_of(&left, &right);
        assert!(text.contains("t-0 and t-0 differ at record 1: offsets"), "{text}");
    }

    #[test]
    fn a_difference_says_where_and_what() {
        let left = dump(&[(0, 0, "a"), (1, 0, "b"), (1, 1, "c")], &[1, 2]);
        let text = difference_of(&left, &dump(&[(0, 0, "a"), (1, 0, "b"), (1, 1, "x")], &[1, 2]));
        assert!(text.contains("t-1 and t-1 differ at record 1: values"), "{text}");
        assert!(text.contains(r#"value "c", headers ["h": null]"#), "{text}");

        let text = difference_of(&left, &dump(&[(0, 0, "a"), (1, 0, "b")], &[1, 1]));
        assert!(text.contains("differ at record 1: right has no such record"), "{text}");
        let text = difference_of(&left, &dump(&[(1, 0, "b"), (1, 1, "c")], &[0, 2]));
        assert!(text.contains("t-0 and t-0 differ at record 0: right has no such record"), "{text}");
        let text = difference_of(&dump(&[(1, 0, "b"), (1, 1, "c")], &[0, 2]), &left);
        assert!(text.contains("t-0 and t-0 differ at record 0: left has no such record"), "{text}");
        assert!(difference_of(&left, &dump(&[], &[0])).contains("t has 2 partitions, t has 1"));
    }

    #[test]
    fn later_readings_add_what_is_beyond_the_end() {
        // Meanwhile the records at 0 and 2 were compacted away, and 4 became visible.
        let early = dump(&[(0, 0, "a"), (0, 2, "b"), (0, 3, "c")], &[4, 0]);
        let late = dump(&[(0, 3, "c"), (0, 4, "d"), (1, 0, "e")], &[5, 1]);
        let both = early.then(&late).unwrap();
        let expected = dump(&[(0, 0, "a"), (0, 2, "b"), (0, 3, "c"), (0, 4, "d"), (1, 0, "e")], &[5, 1]);
        compare(&both, &expected, CompareOptions { offsets: true, timestamp_type: true }).unwrap();
        assert_eq!(both.partitions(), expected.partitions());
    }
}

//! Tables: sections of columns, each column one zstd frame. See docs/format.md, "Tables".

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;

use bodley_protocol::checksum::crc64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::DCtx;

use super::{VaultError, hex};

const MAGIC: &[u8; 8] = b"BDLYTBL1";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 24;
const MAX_DIRECTORY: usize = 1 << 20;
const MAX_ROWS: usize = 1 << 28;
/// Rows that one byte of a table can stand for. Rows differ in their keys, so even the most regular ones (every partition of
/// thousands of topics, all empty) come to less than a third of this.
const ROWS_PER_BYTE: usize = 1 << 10;
const MAX_PLAIN: usize = i32::MAX as usize;
const NULL: u32 = u32::MAX;
const ZSTD_LEVEL: i32 = 3;

/// A value of a fixed width, little-endian.
pub trait Fixed: Copy + Default {
    /// Its name in the directory.
    const TYPE: &'static str;
    /// Bytes.
    const WIDTH: usize;
    /// Appends it.
    fn put(self, out: &mut Vec<u8>);
    /// Reads it from exactly `WIDTH` bytes.
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! fixed_integer {
    ($($type:ty),*) => {$(
        impl Fixed for $type {
            const TYPE: &'static str = stringify!($type);
            const WIDTH: usize = size_of::<$type>();
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(bytes: &[u8]) -> Self {
                bytes.first_chunk().map(|raw| Self::from_le_bytes(*raw)).unwrap_or_default()
            }
        }
    )*};
}
fixed_integer!(u8, u16, u32, u64, i32, i64);

impl Fixed for [u8; 16] {
    const TYPE: &'static str = "b16";
    const WIDTH: usize = 16;
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self);
    }
    fn take(bytes: &[u8]) -> Self {
        bytes.first_chunk().copied().unwrap_or_default()
    }
}

const VAR: &str = "var";

#[derive(Serialize, Deserialize)]
struct Directory {
    sections: Vec<SectionEntry>,
}

#[derive(Serialize, Deserialize)]
struct SectionEntry {
    kind: String,
    rows: usize,
    columns: Vec<ColumnEntry>,
}

#[derive(Serialize, Deserialize)]
struct ColumnEntry {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    at: usize,
    stored: usize,
    plain: usize,
}

/// Collects sections and writes a table.
#[derive(Default)]
pub struct TableWriter {
    sections: Vec<SectionEntry>,
    body: Vec<u8>,
    /// One for all columns: making it costs more than packing a short one.
    compressor: Option<Compressor<'static>>,
    /// Columns go into this instead of the body.
    digest: Option<Sha256>,
}

impl TableWriter {
    /// Packs nothing: only calculates [`TableWriter::digest`].
    pub fn digesting() -> Self {
        Self { digest: Some(Sha256::default()), ..Self::default() }
    }

    /// SHA-256 of the plain forms of all columns, in hex: the same for tables of the same rows, whatever packed them.
    pub fn digest(self) -> String {
        self.digest.map_or_else(String::new, |digest| hex(&digest.finalize()))
    }

    /// Begins a section. Each kind once.
    pub fn section(&mut self, kind: &str, rows: usize) -> SectionWriter<'_> {
        let at = self.sections.len();
        self.sections.push(SectionEntry { kind: kind.to_owned(), rows, columns: Vec::new() });
        SectionWriter { table: self, at }
    }

    fn pack(&mut self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        let compressor = match self.compressor.take() {
            Some(compressor) => compressor,
            None => Compressor::new(ZSTD_LEVEL)?,
        };
        self.compressor.insert(compressor).compress(plain)
    }

    /// Rows of all sections.
    pub fn rows(&self) -> u64 {
        self.sections.iter().map(|section| section.rows as u64).sum()
    }

    /// The table's bytes.
    pub fn finish(self) -> Result<Vec<u8>, VaultError> {
        let directory = serde_json::to_vec(&Directory { sections: self.sections })
            .map_err(|e| VaultError::Internal(format!("table directory: {e}")))?;
        let mut out = Vec::with_capacity(HEADER_LEN + directory.len() + self.body.len());
        out.extend_from_slice(MAGIC);
        VERSION.put(&mut out);
        0u16.put(&mut out);
        (directory.len() as u32).put(&mut out);
        let checksum = bodley_protocol::checksum::crc64_combine(
            crc64(&directory),
            crc64(&self.body),
            self.body.len() as u64,
        );
        checksum.put(&mut out);
        out.extend_from_slice(&directory);
        out.extend_from_slice(&self.body);
        Ok(out)
    }
}

/// Adds columns to a section.
pub struct SectionWriter<'a> {
    table: &'a mut TableWriter,
    at: usize,
}

impl SectionWriter<'_> {
    /// A column of fixed width: one value per row.
    pub fn fixed<T: Fixed>(&mut self, name: &str, values: impl Iterator<Item = T>) -> Result<(), VaultError> {
        let mut plain = Vec::new();
        values.for_each(|value| value.put(&mut plain));
        self.column(name, T::TYPE, &plain)
    }

    /// A column of byte strings, `None` is null: one value per row.
    pub fn var<'b>(
        &mut self,
        name: &str,
        values: impl Iterator<Item = Option<&'b [u8]>> + Clone,
    ) -> Result<(), VaultError> {
        let mut plain = Vec::new();
        values.clone().for_each(|value| value.map_or(NULL, |v| v.len() as u32).put(&mut plain));
        values.flatten().for_each(|value| plain.extend_from_slice(value));
        self.column(name, VAR, &plain)
    }

    fn column(&mut self, name: &str, kind: &str, plain: &[u8]) -> Result<(), VaultError> {
        if let Some(digest) = &mut self.table.digest {
            digest.update(plain);
            return Ok(());
        }
        let packed =
            self.table.pack(plain).map_err(|e| VaultError::Internal(format!("column {name}: {e}")))?;
        let entry = ColumnEntry {
            name: name.to_owned(),
            kind: kind.to_owned(),
            at: self.table.body.len(),
            stored: packed.len(),
            plain: plain.len(),
        };
        self.table.body.extend_from_slice(&packed);
        if let Some(section) = self.table.sections.get_mut(self.at) {
            section.columns.push(entry);
        }
        Ok(())
    }
}

/// A table, its directory read and checked, its columns still packed.
pub struct Table<'a> {
    object: &'a str,
    directory: Directory,
    body: &'a [u8],
    /// For all columns: making one takes longer than unpacking a small column.
    context: RefCell<Option<DCtx<'static>>>,
}

/// A section of a [`Table`].
pub struct Section<'a> {
    object: &'a str,
    /// Rows.
    pub rows: usize,
    columns: BTreeMap<&'a str, &'a ColumnEntry>,
    body: &'a [u8],
    context: &'a RefCell<Option<DCtx<'static>>>,
}

impl<'a> Table<'a> {
    /// Reads the directory of the table in `bytes`; `object` is for messages.
    pub fn open(object: &'a str, bytes: &'a [u8]) -> Result<Self, VaultError> {
        let damaged = |what: &str| VaultError::damaged(object, what.to_owned());
        let (header, rest) =
            bytes.split_at_checked(HEADER_LEN).ok_or_else(|| damaged("shorter than a table"))?;
        if !header.starts_with(MAGIC) {
            return Err(damaged("no table: the magic is missing"));
        }
        let part = |at: usize, len: usize| header.get(at..at + len).unwrap_or_default();
        let version = u16::take(part(8, 2));
        if version != VERSION {
            return Err(VaultError::Unsupported(format!("{object} is a table of version {version}")));
        }
        if u64::take(part(16, 8)) != crc64(rest) {
            return Err(damaged("its CRC-64 does not match"));
        }
        let directory_len = u32::take(part(12, 4)) as usize;
        if directory_len > MAX_DIRECTORY {
            return Err(damaged("its directory claims more than 1 MiB"));
        }
        let (directory, body) =
            rest.split_at_checked(directory_len).ok_or_else(|| damaged("cut directory"))?;
        let directory: Directory =
            serde_json::from_slice(directory).map_err(|e| damaged(&format!("directory: {e}")))?;
        Ok(Self { object, directory, body, context: RefCell::default() })
    }

    /// The section of a kind, if there is one.
    pub fn section(&self, kind: &str) -> Result<Option<Section<'_>>, VaultError> {
        let Some(entry) = self.directory.sections.iter().find(|section| section.kind == kind) else {
            return Ok(None);
        };
        if entry.rows > MAX_ROWS.min(self.body.len().saturating_mul(ROWS_PER_BYTE)) {
            return Err(VaultError::damaged(
                self.object,
                format!("section {kind} claims {} rows", entry.rows),
            ));
        }
        let columns = entry.columns.iter().map(|column| (column.name.as_str(), column)).collect();
        Ok(Some(Section {
            object: self.object,
            rows: entry.rows,
            columns,
            body: self.body,
            context: &self.context,
        }))
    }

    /// Whether all its sections with rows and their columns are among `known`.
    pub fn has_only(&self, known: &[(&str, &[&str])]) -> bool {
        self.directory.sections.iter().filter(|section| section.rows > 0).all(|section| {
            let columns = known.iter().find(|(kind, _)| *kind == section.kind).map(|(_, columns)| columns);
            columns.is_some_and(|known| section.columns.iter().all(|column| known.contains(&&*column.name)))
        })
    }

    /// Rows of all sections, as the directory says.
    pub fn rows(&self) -> u64 {
        self.directory.sections.iter().map(|section| section.rows as u64).sum()
    }
}

impl Section<'_> {
    /// The values of a column of fixed width; `default` in every row when there is no such column.
    pub fn fixed<T: Fixed>(&self, name: &str, default: T) -> Result<Vec<T>, VaultError> {
        let Some(column) = self.columns.get(name) else { return Ok(vec![default; self.rows]) };
        let expected = self.rows * T::WIDTH;
        if column.kind != T::TYPE || column.plain != expected {
            return Err(self.damaged(name, "has another type or length than its section"));
        }
        let plain = self.unpack(column)?;
        Ok(plain.chunks_exact(T::WIDTH).map(T::take).collect())
    }

    /// The values of a column of byte strings; empty in every row when there is no such column.
    pub fn var(&self, name: &str) -> Result<Vec<Option<Vec<u8>>>, VaultError> {
        let Some(column) = self.columns.get(name) else { return Ok(vec![Some(Vec::new()); self.rows]) };
        let lengths_len = self.rows * u32::WIDTH;
        if column.kind != VAR || column.plain < lengths_len {
            return Err(self.damaged(name, "has another type or length than its section"));
        }
        let plain = self.unpack(column)?;
        let (lengths, mut rest) = plain.split_at(lengths_len);
        let mut values = Vec::with_capacity(self.rows);
        for length in lengths.chunks_exact(u32::WIDTH).map(u32::take) {
            if length == NULL {
                values.push(None);
                continue;
            }
            let (value, behind) =
                rest.split_at_checked(length as usize).ok_or_else(|| self.damaged(name, "ends too early"))?;
            values.push(Some(value.to_vec()));
            rest = behind;
        }
        if rest.is_empty() { Ok(values) } else { Err(self.damaged(name, "has bytes left over")) }
    }

    /// As [`Section::var`], as text.
    pub fn text(&self, name: &str) -> Result<Vec<Option<String>>, VaultError> {
        let text = |value: Option<Vec<u8>>| value.map(String::from_utf8).transpose();
        let values = self.var(name)?.into_iter().map(text).collect::<Result<_, _>>();
        values.map_err(|_| self.damaged(name, "is no UTF-8"))
    }

    /// The values of a column of fixed width that every section with rows has: it proves that the rows are there, so it is read
    /// before any column that may be absent.
    pub fn key<T: Fixed>(&self, name: &str) -> Result<Vec<T>, VaultError> {
        self.present(name)?;
        self.fixed(name, T::default())
    }

    /// As [`Section::key`], of text.
    pub fn key_text(&self, name: &str) -> Result<Vec<Option<String>>, VaultError> {
        self.present(name)?;
        self.text(name)
    }

    fn present(&self, name: &str) -> Result<(), VaultError> {
        match self.rows == 0 || self.columns.contains_key(name) {
            true => Ok(()),
            false => Err(self.damaged(name, "is missing")),
        }
    }

    fn unpack(&self, column: &ColumnEntry) -> Result<Vec<u8>, VaultError> {
        let end = column.at.checked_add(column.stored);
        let packed = end.and_then(|end| self.body.get(column.at..end));
        let packed = packed.ok_or_else(|| self.damaged(&column.name, "reaches past the end of the table"))?;
        // zstd packs at best some 30,000 bytes into one; what claims more is not allocated.
        if column.plain > MAX_PLAIN || column.plain > packed.len().saturating_mul(1 << 16) {
            return Err(self.damaged(&column.name, "claims more than it can hold"));
        }
        let plain =
            self.decompress(packed, column.plain).map_err(|e| self.damaged(&column.name, &e.to_string()))?;
        match plain.len() == column.plain {
            true => Ok(plain),
            false => Err(self.damaged(&column.name, "unpacks to another length than it says")),
        }
    }

    /// Unpacks one frame, of which `len` bytes are wanted. What is allocated grows with what there is, not with what is claimed.
    fn decompress(&self, packed: &[u8], len: usize) -> std::io::Result<Vec<u8>> {
        let mut context = self.context.take().unwrap_or_else(DCtx::create);
        let mut plain = Vec::new();
        Decoder::with_context(packed, &mut context).take(len as u64 + 1).read_to_end(&mut plain)?;
        // One that was left in the middle of a frame is of no more use.
        if plain.len() == len {
            self.context.replace(Some(context));
        }
        Ok(plain)
    }

    fn damaged(&self, column: &str, what: &str) -> VaultError {
        VaultError::damaged(self.object, format!("column {column} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut table = TableWriter::default();
        let mut section = table.section("things", 3);
        section.fixed("id", [[1u8; 16], [2; 16], [3; 16]].into_iter()).unwrap();
        section.fixed("n", [-1i64, i64::MIN, 7].into_iter()).unwrap();
        section.var("name", [Some(&b"abc"[..]), None, Some(b"")].into_iter()).unwrap();
        table.section("empty", 0).fixed("n", std::iter::empty::<u32>()).unwrap();
        assert_eq!(table.rows(), 3);
        table.finish().unwrap()
    }

    #[test]
    fn round_trip_and_defaults() {
        let bytes = sample();
        let table = Table::open("index/x.tbl", &bytes).unwrap();
        let section = table.section("things").unwrap().unwrap();
        assert_eq!(section.fixed::<[u8; 16]>("id", [0; 16]).unwrap(), [[1; 16], [2; 16], [3; 16]]);
        assert_eq!(section.fixed("n", 0i64).unwrap(), [-1, i64::MIN, 7]);
        assert_eq!(section.fixed("later", 5u32).unwrap(), [5; 3]);
        assert_eq!(section.text("name").unwrap(), [Some("abc".into()), None, Some(String::new())]);
        assert!(section.fixed("n", 0u64).is_err(), "another type");
        assert!(table.section("empty").unwrap().unwrap().fixed("n", 0u32).unwrap().is_empty());
        assert!(table.section("other").unwrap().is_none());
    }

    #[test]
    fn a_table_that_claims_a_billion_rows() {
        let directory = br#"{"sections":[{"kind":"ranges","rows":1000000000,"columns":[]},{"kind":"topics","rows":99999,"columns":[{"name":"a","type":"u64","at":0,"stored":0,"plain":799992}]}]}"#;
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0, 0, 0]);
        (directory.len() as u32).put(&mut bytes);
        crc64(directory).put(&mut bytes);
        bytes.extend_from_slice(directory);
        let table = Table::open("x", &bytes).unwrap();
        assert!(table.section("ranges").is_err());
        assert!(table.section("topics").is_err(), "no byte is there for its rows");
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_found(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            // Bytes 10 and 11 say nothing in version 1.
            prop_assert!(Table::open("x", &bytes).is_err() || (10..12).contains(&at));
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = sample();
            bytes.truncate(16);
            crc64(&noise).put(&mut bytes);
            bytes.extend(noise);
            if let Ok(table) = Table::open("x", &bytes) {
                let _ = table.section("things");
            }
        }
    }
}

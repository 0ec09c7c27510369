//! Commits: the only thing that makes data part of a backup. See docs/format.md, "Commits".

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{VaultError, sha256_hex};

/// Commits per folder of the log.
const PER_FOLDER: u64 = 10_000;
/// The largest number of a commit: one more is a number, too.
pub(super) const LAST_SEQ: u64 = u64::MAX - 1;
/// Largest commit object that is read, bytes.
pub const MAX_COMMIT: u64 = 64 << 20;

/// What a commit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// The first commit of a vault.
    Init,
    /// Adds rows and moves cursors.
    Append,
    /// Changes the lists of features.
    Protocol,
}

impl Op {
    /// As in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Append => "append",
            Self::Protocol => "protocol",
        }
    }
}

/// A table that a commit adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRef {
    /// ULID.
    pub id: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Rows of all sections.
    pub rows: u64,
    /// SHA-256 of the object.
    pub sha256: String,
}

impl TableRef {
    /// Where it is.
    pub fn path(&self) -> String {
        format!("index/{}.tbl", self.id)
    }
}

/// A segment that a commit adds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SegmentRef {
    /// ULID.
    pub id: String,
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-64 of the object, 16 hex digits.
    pub crc64: String,
    /// Retention class.
    pub class: u32,
}

impl SegmentRef {
    /// Where it is.
    pub fn path(&self) -> String {
        segment_path(&self.id)
    }
}

/// Where the segment of a ULID is.
pub fn segment_path(id: &str) -> String {
    format!("data/{id}.seg")
}

/// Whether a segment may be at `path`.
pub fn is_segment_path(path: &str) -> bool {
    path.strip_prefix("data/").and_then(|file| file.strip_suffix(".seg")).is_some_and(is_ulid)
}

/// Whether a table may be at `path`.
pub fn is_table_path(path: &str) -> bool {
    path.strip_prefix("index/").and_then(|file| file.strip_suffix(".tbl")).is_some_and(is_ulid)
}

pub(super) fn is_ulid(id: &str) -> bool {
    ulid::Ulid::from_string(id).is_ok_and(|read| read.to_string() == id)
}

/// Line 1 of a commit object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// From 1; the only order there is.
    pub seq: u64,
    /// Digest of the commit before.
    pub prev: Option<String>,
    /// Random: tells our commit from another's after an unclear answer.
    pub nonce: String,
    /// Random per process.
    pub writer: String,
    /// The commit that this one was planned on.
    pub base: u64,
    /// ms, advisory.
    pub time: i64,
    /// What it does.
    pub op: Op,
    /// Tables added.
    #[serde(default)]
    pub tables: Vec<TableRef>,
    /// Segments added.
    #[serde(default)]
    pub segments: Vec<SegmentRef>,
    /// Reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub condemn: Vec<String>,
    /// Reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
    /// Who does not know one of these must not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_features: Option<Vec<String>>,
    /// Who does not know one of these must not write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_features: Option<Vec<String>>,
    /// SHA-256 of vault.json, in the first commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_sha256: Option<String>,
    /// Whatever was stable at this time (ms, by the writer's clock) in the topics that the writer's run is about is in the vault with this commit, or
    /// recorded as a gap. Advisory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<i64>,
    /// Program and version, advisory.
    #[serde(default)]
    pub tool: String,
}

impl Commit {
    /// The object's bytes and the commit's digest.
    pub fn encode(&self) -> Result<(Vec<u8>, String), VaultError> {
        seal(self)
    }

    /// Reads the object at `path`, which must hold commit `seq`; also returns its digest.
    pub fn decode(path: &str, seq: u64, bytes: &[u8]) -> Result<(Self, String), VaultError> {
        let damaged = |what: String| VaultError::damaged(path, what);
        let (line, digest) = unseal(path, bytes)?;
        // What the program does not understand must not be taken for damage: the operation is looked at by itself.
        let head: CommitHead = serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?;
        if !["init", "append", "protocol"].contains(&head.op.as_str()) {
            return Err(VaultError::Unsupported(format!("{path} is a commit of operation `{}`", head.op)));
        }
        let commit: Self = serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?;
        if commit.seq != seq {
            return Err(damaged(format!("it holds commit {}", commit.seq)));
        }
        if !(commit.remove.is_empty() && commit.condemn.is_empty() && commit.gone.is_empty()) {
            return Err(VaultError::Unsupported(format!("{path} removes objects")));
        }
        Ok((commit, digest))
    }
}

/// An object of two lines, JSON and its SHA-256; and the latter.
pub(super) fn seal(value: &impl Serialize) -> Result<(Vec<u8>, String), VaultError> {
    let mut bytes = serde_json::to_vec(value).map_err(|e| VaultError::Internal(e.to_string()))?;
    let digest = sha256_hex(&bytes);
    bytes.push(b'\n');
    bytes.extend_from_slice(digest.as_bytes());
    bytes.push(b'\n');
    Ok((bytes, digest))
}

/// Line 1 of the object at `path`, and its SHA-256, which line 2 must be.
pub(super) fn unseal<'a>(path: &str, bytes: &'a [u8]) -> Result<(&'a [u8], String), VaultError> {
    let damaged = |what: &str| VaultError::damaged(path, what.into());
    let text = bytes.strip_suffix(b"\n").ok_or_else(|| damaged("the last line is cut"))?;
    let at = text.iter().position(|byte| *byte == b'\n');
    let (line, rest) = at.and_then(|at| text.split_at_checked(at)).ok_or_else(|| damaged("one line only"))?;
    let digest = sha256_hex(line);
    match rest.get(1..) == Some(digest.as_bytes()) {
        true => Ok((line, digest)),
        false => Err(damaged("line 2 is not the SHA-256 of line 1")),
    }
}

#[derive(Deserialize)]
struct CommitHead {
    op: String,
}

/// Where commit `seq` is.
pub fn commit_path(seq: u64) -> String {
    format!("log/{:016}/{:04}.json", seq / PER_FOLDER, seq % PER_FOLDER)
}

/// The seq of the commit at `path`; `None` when it is no commit's path.
pub fn seq_of_path(path: &str) -> Option<u64> {
    let (folder, file) = path.strip_prefix("log/")?.split_once('/')?;
    let low: u64 = file.strip_suffix(".json")?.parse().ok()?;
    let seq = folder.parse::<u64>().ok()?.checked_mul(PER_FOLDER)?.checked_add(low)?;
    (seq <= LAST_SEQ && commit_path(seq) == path).then_some(seq)
}

/// Names a commit for good: `seq:sha256`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Number of the commit.
    pub seq: u64,
    /// Its digest.
    pub digest: String,
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.seq, self.digest)
    }
}

impl FromStr for Receipt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no receipt: write SEQ:SHA256 as a backup printed it");
        let (seq, digest) = text.split_once(':').ok_or_else(bad)?;
        let is_digest =
            digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match seq.parse() {
            Ok(seq) if is_digest => Ok(Self { seq, digest: digest.to_owned() }),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Commit {
        Commit {
            seq: 12_345,
            prev: Some("p".into()),
            nonce: "n".into(),
            writer: "w".into(),
            base: 12_000,
            time: 5,
            op: Op::Append,
            tables: vec![TableRef { id: "T".into(), bytes: 1, rows: 2, sha256: "s".into() }],
            segments: vec![SegmentRef { id: "S".into(), bytes: 3, crc64: "c".into(), class: 0 }],
            remove: vec![],
            condemn: vec![],
            gone: vec![],
            read_features: None,
            write_features: None,
            vault_sha256: None,
            complete: None,
            tool: "bodley".into(),
        }
    }

    #[test]
    fn round_trip_and_damage() {
        let (bytes, digest) = sample().encode().unwrap();
        assert_eq!(Commit::decode("x", 12_345, &bytes).unwrap(), (sample(), digest));
        assert!(Commit::decode("x", 12_346, &bytes).is_err());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(Commit::decode("x", 12_345, &flipped).is_err(), "byte {at}");
            assert!(Commit::decode("x", 12_345, &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_is_not_known() {
        let line = r#"{"seq":3,"op":"rewrite","later":1}"#;
        let object = format!("{line}\n{}\n", sha256_hex(line.as_bytes()));
        assert!(matches!(Commit::decode("x", 3, object.as_bytes()), Err(VaultError::Unsupported(_))));
        let line =
            r#"{"seq":3,"prev":null,"nonce":"","writer":"","base":1,"time":1,"op":"append","later":[1]}"#;
        let object = format!("{line}\n{}\n", sha256_hex(line.as_bytes()));
        assert!(Commit::decode("x", 3, object.as_bytes()).is_ok());
    }

    #[test]
    fn paths_and_receipts() {
        assert_eq!(commit_path(12_345), "log/0000000000000001/2345.json");
        assert_eq!(seq_of_path("log/0000000000000001/2345.json"), Some(12_345));
        assert_eq!(seq_of_path(&commit_path(LAST_SEQ)), Some(LAST_SEQ));
        for bad in [
            "log/1/2345.json",
            "log/0000000000000001/2345.json.tmp",
            "log/0000000000000001/99999.json",
            "log/1844674407370955/1615.json",
            "log/1844674407370955/1616.json",
            "x",
        ] {
            assert_eq!(seq_of_path(bad), None, "{bad}");
        }
        let receipt: Receipt = format!("7:{}", "0a".repeat(32)).parse().unwrap();
        assert_eq!(receipt.to_string().parse(), Ok(receipt));
        assert!("7:xyz".parse::<Receipt>().is_err());
    }
}

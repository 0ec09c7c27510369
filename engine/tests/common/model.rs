//! The log as docs/format.md describes it, read without the engine's own log and state: JSON lines, digests, and one chain of offsets per partition.

use std::collections::{BTreeMap, BTreeSet};

use bodley_engine::vault::rows::{Range, Rows};
use bodley_engine::vault::table::Table;
use bytes::Bytes;
use sha2::Digest;

pub type Objects = BTreeMap<String, Bytes>;

/// What a reader of the objects finds.
#[derive(Debug, Default)]
pub struct Model {
    /// Digest of each commit, from seq 1.
    pub digests: Vec<String>,
    /// Rows by seq and partition, in the order of the chain.
    pub rows: Vec<(u64, Range)>,
    /// First and next of each partition.
    pub chains: BTreeMap<u32, (i64, i64)>,
}

impl Model {
    /// Reads and checks everything; panics with `case` at what is wrong.
    pub fn read(objects: &Objects, case: &str) -> Self {
        let mut model = Self::default();
        let mut nonces = BTreeSet::new();
        for seq in 1u64.. {
            let path = format!("log/{:016}/{:04}.json", seq / 10_000, seq % 10_000);
            let Some(object) = objects.get(&path) else { break };
            let text = std::str::from_utf8(object).unwrap();
            let (line, digest) = text.trim_end().split_once('\n').unwrap();
            assert_eq!(hex(line.as_bytes()), digest, "{case}: {path}");
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(json["seq"], seq, "{case}: {path}");
            assert_eq!(json["prev"].as_str(), model.digests.last().map(String::as_str), "{case}: {path}");
            assert_eq!(json["op"], if seq == 1 { "init" } else { "append" }, "{case}: {path}");
            assert!(seq == 1 || json["base"].as_u64().unwrap() < seq, "{case}: {path}");
            assert!(nonces.insert(json["nonce"].as_str().unwrap().to_owned()), "{case}: {path}: nonce again");
            model.digests.push(digest.to_owned());
            model.commit(objects, seq, &json, case);
        }
        let commits = objects.keys().filter(|path| path.starts_with("log/")).count();
        assert_eq!(commits, model.digests.len(), "{case}: a commit behind a hole");
        model
    }

    fn commit(&mut self, objects: &Objects, seq: u64, json: &serde_json::Value, case: &str) {
        let mut segments = BTreeSet::new();
        for segment in json["segments"].as_array().unwrap() {
            let id = segment["id"].as_str().unwrap();
            let object = objects.get(&format!("data/{id}.seg"));
            let object =
                object.unwrap_or_else(|| panic!("{case}: commit {seq} names segment {id}, it is gone"));
            assert_eq!(Some(object.len() as u64), segment["bytes"].as_u64(), "{case}: segment {id}");
            segments.insert(ulid::Ulid::from_string(id).unwrap().to_bytes());
        }
        let before = self.chains.clone();
        for table in json["tables"].as_array().unwrap() {
            let id = table["id"].as_str().unwrap();
            let object = objects.get(&format!("index/{id}.tbl"));
            let object =
                object.unwrap_or_else(|| panic!("{case}: commit {seq} names table {id}, it is gone"));
            assert_eq!(table["sha256"].as_str(), Some(hex(object).as_str()), "{case}: table {id}");
            for range in Rows::decode(&Table::open(id, object).unwrap()).unwrap().ranges {
                let from = before.get(&range.partition).map_or(-1, |(_, next)| *next);
                assert_eq!(range.from, from, "{case}: commit {seq}: from-cursor of {range:?}");
                let chain = self.chains.entry(range.partition).or_insert((range.first, range.first));
                assert_eq!(range.first, chain.1, "{case}: commit {seq}: overlap or hole at {range:?}");
                assert!(range.next >= range.first, "{case}: commit {seq}: {range:?}");
                assert!(range.stored == 0 || segments.contains(&range.segment), "{case}: {range:?}");
                chain.1 = range.next;
                self.rows.push((seq, range));
            }
        }
    }

    /// Commits whose rows bear `tag` in their high watermark.
    pub fn tagged(&self, tag: i64) -> BTreeSet<u64> {
        self.rows.iter().filter(|(_, row)| row.high_watermark == tag).map(|(seq, _)| *seq).collect()
    }

    /// Records of all chunks.
    pub fn records(&self) -> u64 {
        self.rows.iter().map(|(_, row)| row.records as u64).sum()
    }
}

fn hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Are these the same records?

use bodley_testbed::dump::DumpedRecord;
use bodley_testbed::{CompareOptions, Dump, Isolation, Workbench, compare, compare_digests, vault_reader};

use super::vault::Vault;

/// Key, value, headers, timestamp and order are the same in both.
#[track_caller]
pub fn same(expected: &Dump, found: &Dump) {
    if let Err(difference) = compare(expected, found, CompareOptions::default()) {
        panic!("{difference:#}");
    }
}

/// The same for large topics, by digests.
#[track_caller]
pub fn same_digests(bench: &Workbench, expected: &str, found: &str) {
    let digest = |topic| bench.digest(topic, Isolation::Committed, false).unwrap();
    if let Err(difference) = compare_digests(&digest(expected), &digest(found)) {
        panic!("{difference:#}");
    }
}

/// Each partition of `found` begins like that of `expected` and may end early: nothing is doubled, skipped or turned round.
#[track_caller]
pub fn prefix(expected: &Dump, found: &Dump) {
    let (expected, found) = (by_partition(expected), by_partition(found));
    for (partition, records) in found.iter().enumerate() {
        let known = expected.get(partition).map(Vec::as_slice).unwrap_or_default();
        assert!(
            records.len() <= known.len(),
            "partition {partition}: {} records of {}",
            records.len(),
            known.len()
        );
        for (n, (record, known)) in records.iter().zip(known).enumerate() {
            let same = (record.timestamp, &record.key, &record.value, &record.headers)
                == (known.timestamp, &known.key, &known.value, &known.headers);
            assert!(same, "partition {partition}, record {n}: {record:?} is not {known:?}");
        }
    }
}

fn by_partition(dump: &Dump) -> Vec<Vec<DumpedRecord>> {
    let mut out = vec![Vec::new(); dump.partitions().len()];
    for record in dump.iter().unwrap().map(Result::unwrap) {
        if let Some(partition) = out.get_mut(record.partition as usize) {
            partition.push(record);
        }
    }
    out
}

/// What the reader that was written from docs/format.md alone says of a vault.
pub struct Python {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it said.
    pub err: String,
    lines: String,
}

impl Python {
    /// Reads a whole vault, and checks all of it first.
    pub fn read(vault: &Vault, args: &[&str]) -> Self {
        let mut command = vault_reader().unwrap();
        command.arg(vault.root()).arg("--check").args(args);
        let out = command.output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        Self { code: out.status.code(), err, lines: String::from_utf8(out.stdout).unwrap() }
    }

    /// The records of a topic.
    pub fn records(&self, topic: &str) -> Vec<DumpedRecord> {
        let start = format!("{{\"topic\":\"{topic}\",");
        let lines = self.lines.lines().filter(|line| line.starts_with(&start));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Insists that it saw a topic as a consumer does, offsets and kinds of timestamps included.
    #[track_caller]
    pub fn saw(&self, topic: &str, expected: &Dump) {
        assert_eq!(self.code, Some(0), "{}", self.err);
        let (found, expected) = (self.records(topic), expected.records().unwrap());
        if let Some((n, (f, e))) = found.iter().zip(&expected).enumerate().find(|(_, (f, e))| f != e) {
            panic!("{topic}: record {n}: the vault has {f:?}, the consumer saw {e:?}");
        }
        assert_eq!(
            found.len(),
            expected.len(),
            "{topic}: records in the vault, and those that the consumer saw"
        );
    }
}

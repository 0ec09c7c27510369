//! The demo: everything that Bodley is for, on a real cluster, judged by Apache's own client.

mod bodley;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bodley_testbed::workbench::{Codec, GroupOffset, Topic};
use bodley_testbed::workloads::{self, BulkOptions};
use bodley_testbed::{Cluster, ClusterOptions, CompareOptions, Dump, Isolation, Workbench, compare};

use bodley::Bodley;
use report::{Report, Row};

const BIG: &str = "orders";
const BIG_PARTITIONS: i32 = 6;
const GROUP: &str = "billing";

/// A topic as it was before the wipe, or is after the restore.
struct Seen {
    dump: Dump,
    topic: Topic,
}

type Topics = BTreeMap<String, Seen>;

struct Demo {
    bench: Arc<Workbench>,
    bodley: Bodley,
    report: Report,
    bytes: u64,
}

pub(crate) fn run(binary: Option<PathBuf>, mebibytes: u64) -> Result<ExitCode> {
    let mut report = Report::default();
    let binary = binary.map_or_else(|| report.timed("build bodley", bodley::build), Ok)?;
    let cluster = report.timed("start Kafka", || Cluster::start(ClusterOptions::new()))?;
    let bench = cluster.workbench()?;
    let vault = tempfile::Builder::new().prefix("vault-").tempdir_in(cluster.dir())?;
    let bodley = Bodley::new(binary, cluster.bootstrap(), vault.path().join("vault"));
    let mut demo = Demo { bench, bodley, report, bytes: mebibytes << 20 };
    let equal = demo.play()?;
    demo.report.print(demo.bodley.vault_bytes()?);
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Demo {
    /// Plays it all; true when everything came back.
    fn play(&mut self) -> Result<bool> {
        let bench = Arc::clone(&self.bench);
        self.report.timed("write topics of every kind", || write(&bench, self.bytes))?;
        self.bodley("back up", &["backup"])?;
        let first = self.read("read everything", Isolation::Committed)?;
        self.report.timed("write more to each topic", || append(&bench, self.bytes / 4))?;
        self.bodley("back up what is new", &["backup"])?;
        let second = self.read("read everything again", Isolation::Committed)?;
        let expected = merged(first, second)?;
        let positions = bench.group_offsets(GROUP)?;
        self.bodley("verify the vault", &["verify"])?;
        self.report.timed("WIPE: delete all topics", || {
            bench.topics()?.iter().try_for_each(|name| bench.delete_topic(name))
        })?;
        self.restore_and_kill()?;
        self.bodley("the same again: it goes on", &["restore"])?;
        let listing = self.bodley("list the vault", &["list"])?;
        let restored = self.read("read what was restored", Isolation::Committed)?;
        self.judge(&expected, &restored, &listing);
        self.judge_group(&positions, &expected, &restored)?;
        Ok(self.report.all_equal())
    }

    /// A restore that is killed when some records of the largest topic are there.
    fn restore_and_kill(&mut self) -> Result<()> {
        let args = ["restore", "--limit-write", "20M"];
        let what = "restore, and kill -9 half-way";
        self.report.command(what, &self.bodley.shown(&args));
        let (bench, bodley) = (&self.bench, &self.bodley);
        let begun = || {
            let there = bench.topics()?.iter().any(|name| name == BIG);
            Ok(there && bench.describe(BIG)?.partitions.iter().map(|p| p.end).sum::<i64>() > 1000)
        };
        self.report.timed(what, || bodley.kill(&args, begun))
    }

    fn bodley(&mut self, what: &str, args: &[&str]) -> Result<serde_json::Value> {
        let bodley = &self.bodley;
        self.report.command(what, &bodley.shown(args));
        self.report.timed(what, || bodley.run(args))
    }

    fn read(&mut self, what: &str, isolation: Isolation) -> Result<Topics> {
        let bench = Arc::clone(&self.bench);
        self.report.timed(what, || {
            let mut topics = Topics::new();
            for name in bench.topics()? {
                let seen = Seen { dump: bench.dump(&name, isolation)?, topic: bench.describe(&name)? };
                topics.insert(name, seen);
            }
            Ok(topics)
        })
    }

    /// One row of the report per topic.
    fn judge(&mut self, expected: &Topics, restored: &Topics, listing: &serde_json::Value) {
        for (name, was) in expected {
            let difference = match restored.get(name) {
                None => Some("the topic is missing".to_owned()),
                Some(is) => differs(was, is),
            };
            let (partitions, records) = (was.topic.partitions.len(), was.dump.len());
            let vault_bytes = bodley::topic_bytes(listing, name);
            self.report.row(Row { name: name.clone(), partitions, records, vault_bytes, difference });
        }
        for name in restored.keys().filter(|name| !expected.contains_key(*name)) {
            let difference = Some("this topic was not there before".to_owned());
            self.report.row(Row {
                name: name.clone(),
                partitions: 0,
                records: 0,
                vault_bytes: None,
                difference,
            });
        }
    }

    /// A position is right when it has as many records before it as it had: offsets are new.
    fn judge_group(&mut self, positions: &[GroupOffset], expected: &Topics, restored: &Topics) -> Result<()> {
        let now = self.bench.group_offsets(GROUP)?;
        let mut wrong = Vec::new();
        for was in positions {
            let is = now.iter().find(|o| (&o.topic, o.partition) == (&was.topic, was.partition));
            let before =
                (records_before(expected, was)?, is.map(|o| records_before(restored, o)).transpose()?);
            if before.1 != Some(before.0) {
                let found = before.1.map_or_else(|| "missing".to_owned(), |n| format!("after {n}"));
                wrong.push(format!(
                    "{}-{} was after {} records, is {found}",
                    was.topic, was.partition, before.0
                ));
            }
        }
        self.report.group(GROUP, positions.len(), wrong);
        Ok(())
    }
}

fn write(bench: &Workbench, bytes: u64) -> Result<()> {
    workloads::write_odd_topics(bench, "")?;
    bench.create_topic(BIG, BIG_PARTITIONS, &[("compression.type", "producer")])?;
    workloads::bulk(bench, BIG, bytes, big())?;
    commit_positions(bench)
}

fn append(bench: &Workbench, bytes: u64) -> Result<()> {
    workloads::advance_odd_topics(bench, "", 1)?;
    workloads::bulk(bench, BIG, bytes, BulkOptions { seed: 2, ..big() })?;
    commit_positions(bench)
}

fn big() -> BulkOptions {
    BulkOptions {
        partitions: BIG_PARTITIONS,
        codec: Codec::Zstd,
        compressible: true,
        ..BulkOptions::default()
    }
}

/// Puts the group somewhere into each partition of the largest topic.
fn commit_positions(bench: &Workbench) -> Result<()> {
    let partitions = bench.describe(BIG)?.partitions;
    let position = |p: &bodley_testbed::workbench::Partition| GroupOffset {
        metadata: format!("partition {}", p.partition),
        ..GroupOffset::new(
            BIG,
            p.partition,
            p.end * i64::from(p.partition + 1) / i64::from(BIG_PARTITIONS + 1),
        )
    };
    bench.commit_offsets(GROUP, &partitions.iter().map(position).collect::<Vec<_>>())
}

/// What both backups together have: a compacted topic may have lost since what the first one took.
fn merged(first: Topics, second: Topics) -> Result<Topics> {
    if first.len() != second.len() {
        bail!("{} topics became {} meanwhile", first.len(), second.len());
    }
    let mut out = Topics::new();
    for (name, late) in second {
        let early = first.get(&name).with_context(|| format!("topic {name} is new"))?;
        out.insert(name, Seen { dump: early.dump.then(&late.dump)?, topic: late.topic });
    }
    Ok(out)
}

fn differs(was: &Seen, is: &Seen) -> Option<String> {
    if let Err(difference) = compare(&was.dump, &is.dump, CompareOptions::default()) {
        return Some(format!("{difference:#}"));
    }
    let (was, is) = (was.topic.own_configs(), is.topic.own_configs());
    (was != is).then(|| format!("the topic's settings were {was:?}, are {is:?}"))
}

fn records_before(topics: &Topics, position: &GroupOffset) -> Result<usize> {
    let Some(seen) = topics.get(&position.topic) else { return Ok(0) };
    let mut before = 0;
    for record in seen.dump.iter()? {
        let record = record?;
        before += usize::from(record.partition == position.partition && record.offset < position.offset);
    }
    Ok(before)
}

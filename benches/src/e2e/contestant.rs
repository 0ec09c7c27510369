//! Who is measured, and how each is started.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::peer::{self, Peer};
use super::scenario::Scenario;
use super::site::Site;
use crate::reader::{PARTITION_BYTES, Tally};

/// A program that moves a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// The raw reader that throws the bytes away.
    Drain,
    /// A plain loop: Fetch, `write()`.
    CopyCached,
    /// A plain loop: Fetch, `write()` past the page cache.
    CopyDirect,
    /// `bodley backup`.
    Backup,
    /// Kafka's own ConsumerPerformance.
    ConsumerPerf,
    /// `kcat -C`.
    Kcat,
    /// `bodley verify`.
    Verify,
    /// `bodley restore`.
    Restore,
    /// Kafka's own ProducerPerformance.
    ProducerPerf,
    /// A backup by kafka-backup-core.
    OsoBackup,
    /// A restore by kafka-backup-core.
    OsoRestore,
}

/// What all runs of a scenario share.
pub struct Ground<'a> {
    /// The cluster.
    pub site: &'a Site,
    /// What the topic is like.
    pub scenario: Scenario,
    /// The filled topic.
    pub topic: String,
    /// What is in it.
    pub filled: Tally,
    /// For vaults, copies, and other files.
    pub folder: &'a Path,
    /// A bodley of release quality.
    pub bodley: &'a Path,
}

/// A run that is ready to start.
pub struct Prepared {
    /// The process.
    pub command: Command,
    /// A topic to remove afterwards.
    pub topic: Option<String>,
    /// A folder to remove afterwards.
    pub folder: Option<PathBuf>,
}

impl Prepared {
    fn of(command: Command) -> Self {
        Self { command, topic: None, folder: None }
    }

    fn makes_topic(self, topic: String) -> Self {
        Self { topic: Some(topic), ..self }
    }

    fn makes_folder(self, folder: PathBuf) -> Self {
        Self { folder: Some(folder), ..self }
    }
}

/// Numbers that only some can tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// Fetch or Produce requests.
    pub requests: Option<u64>,
    /// Objects in the vault.
    pub objects: Option<u64>,
}

/// What is read of a report of bodley's, see docs/json.md.
#[derive(Debug, Deserialize)]
struct Report {
    bytes: u64,
    records: Option<i64>,
    #[serde(default)]
    latency: Latency,
}

#[derive(Debug, Default, Deserialize)]
struct Latency {
    fetch: Option<Count>,
    produce: Option<Count>,
}

#[derive(Debug, Deserialize)]
struct Count {
    count: u64,
}

impl Contestant {
    /// The name of the flag.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Reads a vault that is there before.
    pub fn needs_vault(self) -> bool {
        matches!(self, Self::Verify | Self::Restore)
    }

    /// Takes part only if asked for.
    pub fn peer(self) -> Option<Peer> {
        matches!(self, Self::OsoBackup | Self::OsoRestore).then_some(Peer::Oso)
    }
}

impl Ground<'_> {
    /// The vault that `verify` and `restore` read.
    pub fn standing_vault(&self) -> PathBuf {
        self.folder.join("standing")
    }

    /// The same of the peer's.
    pub fn standing_peer(&self) -> PathBuf {
        self.folder.join("standing-oso")
    }

    /// The lines that ProducerPerformance takes its records from.
    pub fn lines(&self) -> PathBuf {
        self.folder.join("lines")
    }

    /// A backup of the topic to a new vault.
    pub fn backup(&self, vault: &Path) -> Command {
        let mut command = self.bodley_command("backup", vault);
        command.args(["--topic", &self.topic, "-b", self.site.bootstrap()]);
        command
    }

    /// The same by the peer.
    pub fn peer_backup(&self, folder: &Path) -> Result<Command> {
        peer::backup(self.site.bootstrap(), &self.topic, self.scenario.codec, folder)
    }

    /// Makes what a run of this round needs, none of which is measured.
    pub fn prepare(&self, contestant: Contestant, round: usize) -> Result<Prepared> {
        let folder = self.folder.join(format!("{}-{round}", contestant.name()));
        let target = format!("{}-{}-{round}", self.topic, contestant.name());
        let peer = || peer::restore(self.site.bootstrap(), (&self.topic, &target), &self.standing_peer());
        Ok(match contestant {
            Contestant::Drain => Prepared::of(self.plain_loop("drain")?),
            Contestant::CopyCached => self.copy("cached", folder)?,
            Contestant::CopyDirect => self.copy("direct", folder)?,
            Contestant::Backup => Prepared::of(self.backup(&folder)).makes_folder(folder),
            Contestant::ConsumerPerf => Prepared::of(self.consumer_perf()),
            Contestant::Kcat => Prepared::of(self.kcat()),
            Contestant::Verify => Prepared::of(self.bodley_command("verify", &self.standing_vault())),
            Contestant::Restore => Prepared::of(self.restore(&target)).makes_topic(target),
            Contestant::ProducerPerf => {
                self.site.create(&target, self.scenario.partitions)?;
                Prepared::of(self.producer_perf(&target)).makes_topic(target)
            }
            Contestant::OsoBackup => Prepared::of(self.peer_backup(&folder)?).makes_folder(folder),
            Contestant::OsoRestore => Prepared::of(peer()?).makes_topic(target),
        })
    }

    fn copy(&self, how: &str, folder: PathBuf) -> Result<Prepared> {
        std::fs::create_dir(&folder)?;
        let mut command = self.plain_loop("copy")?;
        command.args(["--how", how, "--folder"]).arg(&folder);
        Ok(Prepared::of(command).makes_folder(folder))
    }

    fn restore(&self, target: &str) -> Command {
        let mut command = self.bodley_command("restore", &self.standing_vault());
        command.args(["-b", self.site.bootstrap(), "--topic", &self.topic]);
        command.args(["--rename", &format!("{}={target}", self.topic)]);
        command
    }

    /// Whether the run did what it was to do, and what it tells of itself.
    pub fn judge(&self, contestant: Contestant, prepared: &Prepared, output: &str) -> Result<Told> {
        let mut told = Told::default();
        let expected = self.filled.records;
        match contestant {
            Contestant::Drain | Contestant::CopyCached | Contestant::CopyDirect => {
                let tally: Tally = serde_json::from_str(output)?;
                told.requests = Some(tally.requests);
            }
            Contestant::Backup | Contestant::Verify | Contestant::Restore => {
                let report: Report = serde_json::from_str(output).context("read bodley's report")?;
                ensure!(
                    report.records.is_none_or(|records| records == expected),
                    "{:?} records",
                    report.records
                );
                ensure!(report.bytes >= self.filled.bytes, "only {} bytes", report.bytes);
                let count = report.latency.fetch.or(report.latency.produce);
                told.requests = count.map(|count| count.count);
            }
            Contestant::ConsumerPerf => {
                let read = output.lines().last().and_then(|line| line.split(", ").nth(4));
                let read: i64 = read.context("no result of ConsumerPerformance")?.parse()?;
                ensure!(read >= expected, "{read} records were read, {expected} are there");
            }
            Contestant::ProducerPerf | Contestant::OsoRestore => {
                let topic = prepared.topic.as_deref().unwrap_or_default();
                let written = self.site.records(topic)?;
                ensure!(written == expected, "{written} records were written, not {expected}");
            }
            Contestant::Kcat | Contestant::OsoBackup => {}
        }
        if contestant == Contestant::Backup {
            told.objects = prepared.folder.as_deref().map(objects).transpose()?;
        }
        Ok(told)
    }

    fn plain_loop(&self, which: &str) -> Result<Command> {
        let mut command = ourselves()?;
        command.args([which, "--topic", &self.topic, "--address", self.site.bootstrap()]);
        command.args(["--records", &self.filled.records.to_string()]);
        Ok(command)
    }

    fn bodley_command(&self, verb: &str, vault: &Path) -> Command {
        let mut command = Command::new(self.bodley);
        command.env_remove("BODLEY_LOG").env_remove("BODLEY_CONFIG");
        command.args([verb, "--quiet", "--output", "json", "--vault"]).arg(vault);
        command
    }

    fn kcat(&self) -> Command {
        let mut command = Command::new("kcat");
        command.args(["-b", self.site.bootstrap(), "-C", "-e", "-q", "-o", "beginning", "-f", "", "-t"]);
        command.arg(&self.topic);
        command
    }

    fn consumer_perf(&self) -> Command {
        let mut java = self.java("org.apache.kafka.tools.ConsumerPerformance");
        java.args(["--bootstrap-server", self.site.bootstrap(), "--topic", &self.topic, "--hide-header"]);
        java.args(["--num-records", &self.filled.records.to_string()]);
        java.args(["--fetch-size", &PARTITION_BYTES.to_string()]);
        java
    }

    fn producer_perf(&self, topic: &str) -> Command {
        let mut java = self.java("org.apache.kafka.tools.ProducerPerformance");
        java.args(["--bootstrap-server", self.site.bootstrap(), "--topic", topic, "--throughput", "-1"]);
        java.args(["--num-records", &self.filled.records.to_string(), "--payload-file"]).arg(self.lines());
        let codec = format!("compression.type={}", self.scenario.codec.name());
        java.args(["--command-property", "acks=all", "batch.size=262144", "linger.ms=5", &codec]);
        java
    }

    fn java(&self, class: &str) -> Command {
        let mut java = self.site.kafka().java();
        java.arg(class);
        java
    }
}

/// This program.
pub fn ourselves() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

/// Why a contestant can't take part, if it can't.
pub fn obstacle(contestant: Contestant, folder: &Path) -> Option<String> {
    match contestant {
        Contestant::Kcat => {
            let version = Command::new("kcat").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            (!version.is_ok_and(|status| status.success())).then(|| "kcat is not installed".to_owned())
        }
        Contestant::CopyDirect => {
            let refused = crate::drain::direct_refusal(folder)?;
            Some(format!("O_DIRECT is refused where the vaults are: {refused:#}"))
        }
        _ => None,
    }
}

/// Files in the folders of a vault.
fn objects(vault: &Path) -> Result<u64> {
    let mut count = 0;
    let mut folders: Vec<PathBuf> =
        ["data", "index", "log", "checkpoint"].map(|name| vault.join(name)).into();
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => count += 1,
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_files_of_a_vault() {
        let vault = tempfile::tempdir().unwrap();
        for (folder, file) in [("data", "a.seg"), ("log/0", "1.json"), ("log/0", "2.json"), ("other", "x")] {
            std::fs::create_dir_all(vault.path().join(folder)).unwrap();
            std::fs::write(vault.path().join(folder).join(file), "").unwrap();
        }
        assert_eq!(objects(vault.path()).unwrap(), 3);
    }

    #[test]
    fn reports_with_and_without_counts() {
        let report: Report = serde_json::from_str(r#"{"bytes":1,"records":null}"#).unwrap();
        assert!(report.latency.fetch.is_none());
        let text =
            r#"{"bytes":1,"records":2,"latency":{"fetch":{"count":7,"p50_us":1},"store":{"count":3}}}"#;
        let report: Report = serde_json::from_str(text).unwrap();
        assert_eq!(report.latency.fetch.unwrap().count, 7);
    }
}

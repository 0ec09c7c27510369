//! Bodley as a user runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bodley_testbed::paths;
use serde_json::Value;

const POLL: Duration = Duration::from_millis(20);

pub(super) struct Bodley {
    binary: PathBuf,
    bootstrap: String,
    vault: PathBuf,
}

/// Builds the release binary of this workspace.
pub(super) fn build() -> Result<PathBuf> {
    let mut cargo = crate::commands::cargo();
    let status = cargo.args(["build", "--release", "--locked", "--package", "bodley-cli"]).status();
    if !status.context("start cargo")?.success() {
        bail!("bodley could not be built");
    }
    Ok(paths::target_dir().join("release/bodley"))
}

impl Bodley {
    pub(super) fn new(binary: PathBuf, bootstrap: String, vault: PathBuf) -> Self {
        Self { binary, bootstrap, vault }
    }

    fn arguments(&self, args: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        if args.first().is_some_and(|verb| ["backup", "restore"].contains(verb)) {
            all.extend(["-b".to_owned(), self.bootstrap.clone()]);
        }
        all.extend(["--vault".to_owned(), self.vault.display().to_string()]);
        all
    }

    /// The command as a user would type it.
    pub(super) fn shown(&self, args: &[&str]) -> String {
        format!("bodley {}", self.arguments(args).join(" "))
    }

    /// Runs it and returns the document that it prints; an exit code other than 0 is an error.
    pub(super) fn run(&self, args: &[&str]) -> Result<Value> {
        let shown = self.shown(args);
        let out = Command::new(&self.binary)
            .args(self.arguments(args))
            .args(["--output", "json"])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let text = String::from_utf8_lossy(&out.stdout);
        if !out.status.success() {
            bail!("{shown}\nended with {}:\n{}\n{text}", out.status, String::from_utf8_lossy(&out.stderr));
        }
        serde_json::from_str(&text).with_context(|| format!("{shown}\nprinted no JSON document:\n{text}"))
    }

    /// Starts it, and kills it (SIGKILL) as soon as `when` says so.
    pub(super) fn kill(&self, args: &[&str], when: impl Fn() -> Result<bool>) -> Result<()> {
        let shown = self.shown(args);
        let mut child = Command::new(&self.binary)
            .args(self.arguments(args))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let result = loop {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{shown}
ended with {status} before it could be killed"
                );
            }
            match when() {
                Ok(false) => thread::sleep(POLL),
                result => break result,
            }
        };
        child.kill()?;
        child.wait()?;
        result.map(|_| ())
    }

    /// The size of the vault's files.
    pub(super) fn vault_bytes(&self) -> Result<u64> {
        folder_bytes(&self.vault)
    }
}

fn folder_bytes(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        total += if meta.is_dir() { folder_bytes(&entry.path())? } else { meta.len() };
    }
    Ok(total)
}

/// The bytes of a topic in the document that `bodley list` prints.
pub(super) fn topic_bytes(listing: &Value, name: &str) -> Option<u64> {
    let topics = listing.get("topics")?.as_array()?;
    let named = |t: &&Value| t.get("topic").or_else(|| t.get("name")).and_then(Value::as_str) == Some(name);
    topics.iter().find(named)?.get("bytes")?.as_u64()
}

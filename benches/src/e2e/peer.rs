//! A peer that is measured on request: the crate kafka-backup-core, through the small program in `benches/peer-oso`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bodley_testbed::paths;
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::payload::Codec;

/// Who can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// kafka-backup-core, by OSO.
    Oso,
}

/// The program, where it stands once [`build`] has made it.
pub fn program() -> PathBuf {
    target().join("release/peer-oso")
}

fn target() -> PathBuf {
    paths::target_dir().join("peer-oso")
}

/// Builds the program; takes minutes the first time.
pub fn build() -> Result<()> {
    eprintln!("building peer-oso");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet", "--manifest-path"]);
    command.arg(paths::workspace_dir().join("benches/peer-oso/Cargo.toml"));
    let status = command.env("CARGO_TARGET_DIR", target()).status().context("start cargo")?;
    ensure!(status.success(), "peer-oso can't be built");
    Ok(())
}

/// A backup of a topic into a folder: its defaults, but for the compression, which is the topic's own, and an end.
pub fn backup(bootstrap: &str, topic: &str, codec: Codec, folder: &Path) -> Result<Command> {
    let options = json!({ "compression": codec.name(), "stop_at_current_offsets": true });
    let source = json!({ "bootstrap_servers": [bootstrap], "topics": { "include": [topic] } });
    command(folder, "backup", &json!({ "source": source, "backup": options }))
}

/// A restore of the topic in a folder under another name: its defaults, but for the name and the leave to create it.
pub fn restore(bootstrap: &str, names: (&str, &str), folder: &Path) -> Result<Command> {
    let (topic, new_name) = names;
    let target = json!({ "bootstrap_servers": [bootstrap], "topics": { "include": [topic] } });
    let options = json!({ "create_topics": true, "topic_mapping": { topic: new_name } });
    command(folder, "restore", &json!({ "target": target, "restore": options }))
}

fn command(folder: &Path, mode: &str, own: &Value) -> Result<Command> {
    fs::create_dir_all(folder)?;
    let mut config = json!({
        "mode": mode,
        "backup_id": "bench",
        "storage": { "backend": "filesystem", "path": folder.join("store") },
        "offset_storage": { "db_path": folder.join("offsets.db") },
    });
    if let (Value::Object(all), Value::Object(own)) = (&mut config, own) {
        all.extend(own.clone());
    }
    // YAML takes JSON as it is.
    let file = folder.join(format!("{mode}.yaml"));
    fs::write(&file, config.to_string())?;
    let mut command = Command::new(program());
    command.arg(file).current_dir(folder);
    Ok(command)
}

//! The reader of vaults that was written from docs/format.md alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::paths;

/// The reader, ready for its arguments, in a Python that has what it needs: the system's, or one of our own below the target folder.
pub fn vault_reader() -> Result<Command> {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let python = match found.take() {
        Some(python) => python,
        None => python()?,
    };
    let mut command = Command::new(&python);
    *found = Some(python);
    command.arg("-B").arg(paths::workspace_dir().join("testbed/python/vault_reader.py"));
    Ok(command)
}

fn python() -> Result<PathBuf> {
    let works = |python: &Path| {
        Command::new(python).args(["-c", "import cramjam"]).output().is_ok_and(|out| out.status.success())
    };
    let system = PathBuf::from("python3");
    if works(&system) {
        return Ok(system);
    }
    let own = paths::testbed_dir().join("python");
    let python = own.join("bin/python");
    if !works(&python) {
        run(Command::new(&system).args(["-m", "venv"]).arg(&own))?;
        let wanted = paths::workspace_dir().join("testbed/python/requirements.txt");
        run(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(wanted))?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.output().context("python3 is missing")?;
    if !out.status.success() {
        bail!("{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

//! Where the testbed keeps its things: `testbed/` in the build's target folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the workspace.
pub fn workspace_dir() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().unwrap_or(crate_dir).to_path_buf()
}

/// The target folder of the build: `CARGO_TARGET_DIR`, or `target/` in the workspace.
pub fn target_dir() -> PathBuf {
    let root = workspace_dir();
    // Joining an absolute path gives that path.
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// The folder for jars, classes and the data of running clusters.
pub fn testbed_dir() -> PathBuf {
    target_dir().join("testbed")
}

/// Makes `dir` complete or not at all: when it is missing, `fill` writes a temporary sibling that takes its
/// name at the end. A lock file keeps a second process waiting meanwhile.
pub(crate) fn once(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    let parent = dir.parent().context("the folder to fill has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let lock = File::create(dir.with_extension("lock"))?;
    lock.lock()?;
    if dir.exists() {
        return Ok(());
    }
    let staging = tempfile::Builder::new().prefix(".staging-").tempdir_in(parent)?;
    fill(staging.path())?;
    fs::rename(staging.keep(), dir).with_context(|| format!("put {} in place", dir.display()))
}

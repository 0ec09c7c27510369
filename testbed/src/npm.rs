//! Programs of npm, each in a folder of its own below the target folder.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::java::run_tool;
use crate::paths;

/// The folder `name` with these files, among them a package.json and its lock, and with the packages that the lock pins: made when it is not there.
pub(crate) fn program(name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let dir = paths::testbed_dir().join(name).join(format!("{:016x}", hasher.finish()));
    paths::once(&dir, |staging| {
        for (file, text) in files {
            fs::write(staging.join(file), text)?;
        }
        let args = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"];
        let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        args.push(staging.as_os_str());
        run_tool("npm", &args, "install Node 20 or newer with npm").with_context(|| format!("install {name}"))
    })?;
    Ok(dir)
}

//! Packages of PyPI, each set of them in a folder of its own below the target folder.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::java::run_tool;
use crate::paths;

/// The folder with these packages, installed when it is not there: for `PYTHONPATH`; programs are in its `bin/`. `wanted` pins each, `name==version`.
pub(crate) fn packages(name: &str, wanted: &[&str]) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    wanted.hash(&mut hasher);
    let dir = paths::testbed_dir().join("pypi").join(format!("{name}-{:016x}", hasher.finish()));
    paths::once(&dir, |staging| {
        // Not every Python has pip of its own, and no one's packages are to be touched.
        let own = staging.join("venv");
        let advice = "install Python 3 with venv (on Debian: python3-venv)";
        run_tool("python3", &[OsStr::new("-m"), OsStr::new("venv"), own.as_os_str()], advice)?;
        let python = own.join("bin/python").display().to_string();
        let args = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target"];
        let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        args.push(staging.as_os_str());
        args.extend(wanted.iter().map(OsStr::new));
        run_tool(&python, &args, advice).with_context(|| format!("install {}", wanted.join(", ")))?;
        fs::remove_dir_all(own).context("remove the pip that was used")
    })?;
    Ok(dir)
}

//! A second opinion about Kubernetes manifests: the schemas of its API.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths;
use crate::pypi;

const PACKAGES: [&str; 10] = [
    "attrs==26.1.0",
    "importlib_resources==7.1.0",
    "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1",
    "kubernetes-validate==1.37.0",
    "packaging==26.4",
    "PyYAML==6.0.4",
    "referencing==0.37.0",
    "rpds-py==2026.9.1",
    "typing_extensions==4.16.0",
];

/// Whose schemas.
const VERSION: &str = "1.32";

/// The documents of a file of manifests. What a schema does not allow, unknown fields among it, is the error.
pub fn check(file: &Path) -> Result<Vec<Value>> {
    let mut python = Command::new("python3");
    python.arg("-B").arg(paths::workspace_dir().join("testbed/python/manifests.py")).arg(VERSION).arg(file);
    python.env("PYTHONPATH", installed()?);
    let out = python.output().context("python3 is missing")?;
    if !out.status.success() {
        bail!("{}: {}", file.display(), String::from_utf8_lossy(&out.stderr));
    }
    serde_json::from_slice(&out.stdout).with_context(|| format!("what is said of {}", file.display()))
}

/// The folder with the packages.
pub(crate) fn installed() -> Result<PathBuf> {
    pypi::packages("kubernetes-validate", &PACKAGES)
}

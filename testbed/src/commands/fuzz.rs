//! The fuzz targets, for a while each. Only where cargo-fuzz is installed.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use bodley_testbed::paths;

/// How long each target runs.
const SECONDS: u32 = 60;
const CRATES: [&str; 2] = ["protocol", "engine"];

/// Runs all targets; whether all of them found nothing.
pub(crate) fn all() -> Result<bool> {
    if !is_installed() {
        eprintln!("testbed: no fuzzing: cargo-fuzz is not installed (cargo install cargo-fuzz)");
        return Ok(true);
    }
    let mut clean = true;
    for name in CRATES {
        for target in targets(name)? {
            eprintln!("testbed: fuzzing {name}/{target} for {SECONDS} s");
            clean &= run(name, &target)?;
        }
    }
    Ok(clean)
}

fn is_installed() -> bool {
    let version =
        super::cargo().args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn fuzz(name: &str) -> Command {
    let mut cargo = super::cargo();
    cargo.current_dir(paths::workspace_dir().join(name)).arg("fuzz");
    cargo
}

fn targets(name: &str) -> Result<Vec<String>> {
    let out = fuzz(name).arg("list").stderr(Stdio::inherit()).output().context("start cargo fuzz")?;
    anyhow::ensure!(out.status.success(), "cargo fuzz list failed in {name}");
    Ok(String::from_utf8(out.stdout)?.lines().map(str::to_owned).collect())
}

/// New inputs go to a folder of their own, so that the corpus in the tree stays small.
fn run(name: &str, target: &str) -> Result<bool> {
    let found = paths::testbed_dir().join("fuzz").join(target);
    std::fs::create_dir_all(&found)?;
    let mut run = fuzz(name);
    run.args(["run", "--sanitizer", "none", target]).arg(&found).arg(format!("fuzz/corpus/{target}"));
    run.args(["--", &format!("-max_total_time={SECONDS}"), "-verbosity=0"]);
    Ok(run.status().context("start cargo fuzz")?.success())
}

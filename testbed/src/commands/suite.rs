//! All tests of the workspace. Test programs run two at a time, as most of what they do is to wait for servers.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Programs that run at the same time; those of `--soak` have the machine to themselves.
const AT_ONCE: usize = 2;

/// What cargo says of something that it has built.
#[derive(Debug, Deserialize)]
struct Built {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// A test program.
struct Program {
    name: String,
    executable: PathBuf,
    folder: PathBuf,
}

/// Builds and runs them all; whether all passed.
pub(crate) fn run(soak: bool) -> Result<bool> {
    let programs = build()?;
    let (total, started) = (programs.len(), Instant::now());
    let queue = Mutex::new(VecDeque::from(programs));
    let failed = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        let work = || {
            while let Some(program) = next() {
                if !matches!(program.run(soak), Ok(true)) {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push(program.name);
                }
            }
        };
        let workers = if soak { 1 } else { AT_ONCE };
        (0..workers).for_each(|_| _ = scope.spawn(work));
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = started.elapsed().as_secs();
    println!(
        "{total} test programs in {seconds} s, failed: {}",
        if failed.is_empty() { "none".into() } else { failed.join(", ") }
    );
    let documented = super::cargo().args(["test", "--workspace", "--locked", "--doc", "--quiet"]).status();
    Ok(failed.is_empty() && documented.context("start cargo")?.success())
}

fn build() -> Result<Vec<Program>> {
    let mut cargo = super::cargo();
    cargo.args(["test", "--workspace", "--locked", "--no-run", "--message-format=json-render-diagnostics"]);
    let built = cargo.stderr(Stdio::inherit()).output().context("start cargo")?;
    anyhow::ensure!(built.status.success(), "the tests could not be built");
    let said = String::from_utf8(built.stdout)?;
    let built = said.lines().filter_map(|line| serde_json::from_str::<Built>(line).ok());
    let mut programs: Vec<Program> = built.filter(|built| built.profile.test).filter_map(program).collect();
    // Those of the program itself take longest.
    programs.sort_by_key(|program| (!program.name.starts_with("cli/"), Reverse(program.name.clone())));
    anyhow::ensure!(!programs.is_empty(), "cargo names no test programs");
    Ok(programs)
}

fn program(built: Built) -> Option<Program> {
    let folder = built.manifest_path.parent()?.to_owned();
    let package = folder.file_name()?.to_string_lossy().into_owned();
    let name = format!("{package}/{}", built.target.name);
    Some(Program { name, executable: built.executable?, folder })
}

impl Program {
    /// Runs it and then shows what it said; whether it passed.
    fn run(&self, soak: bool) -> Result<bool> {
        let started = Instant::now();
        let mut said = tempfile::tempfile()?;
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        if soak {
            command.env("BODLEY_SOAK", "1");
        }
        let status =
            command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?).status();
        let passed = status.with_context(|| format!("start {}", self.executable.display()))?.success();
        said.rewind()?;
        self.show(&mut said, started.elapsed().as_secs(), passed)?;
        Ok(passed)
    }

    fn show(&self, said: &mut File, seconds: u64, passed: bool) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "\n     Running {} ({seconds} s)", self.name)?;
        io::copy(said, &mut out)?;
        if !passed {
            writeln!(out, "error: test failed: {}", self.name)?;
        }
        Ok(out.flush()?)
    }
}

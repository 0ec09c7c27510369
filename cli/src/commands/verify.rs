//! `bodley verify`

use std::sync::Arc;
use std::time::Instant;

use bodley_engine::verify::{VerifyOptions, verify};
use bodley_engine::{Progress, Report};

use super::{Named, Outcome, finish, open_measured, usage};
use crate::args::{Common, Verify};
use crate::output::{bytes, plural};
use crate::progress::Display;
use crate::signals::Signals;
use crate::vault::Place;

pub async fn run(flags: Verify, common: &Common) -> Outcome {
    let expect = flags.expect.as_deref().map(str::parse).transpose().map_err(usage)?;
    let progress = Arc::new(Progress::default());
    let store = open_measured(
        Named::vault(&flags.vault.vault, common),
        flags.limit_read,
        None,
        progress.latencies(),
    )?;
    let signals = Signals::listen().map_err(|e| usage(format!("cannot listen for signals: {e}")))?;
    let start = Instant::now();
    let display = Display::start("verify", Arc::clone(&progress), common.quiet);
    let options = VerifyOptions { quick: flags.quick, expect };
    let result = verify(store, options, Arc::clone(&progress), signals.stop()).await;
    drop(display);
    let mut report = result?;
    report.latency = progress.latencies().summaries();
    if let Some(folder) = Place::parse(&flags.vault.vault).map_err(usage)?.folder() {
        report.notes.extend(unfinished(folder));
    }
    let code = if report.interrupted { signals.exit_code() } else { report.exit_code() };
    finish(common, "verify", code, &report, &summary(&report, flags.quick, start));
    Ok(code)
}

/// A note about the unfinished files of runs that were killed; the store does not show them.
fn unfinished(root: &str) -> Option<String> {
    let (mut count, mut bytes) = (0u64, 0u64);
    let mut folders = vec![std::path::PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(".tmp-") {
                (count, bytes) = (count + 1, bytes + meta.len());
            }
        }
    }
    let files = if count == 1 { "unfinished file" } else { "unfinished files" };
    let note =
        format!("{count} {files} (.tmp-*), {bytes} bytes: of a run under way, or of one that was killed");
    (count > 0).then_some(note)
}

fn summary(report: &Report, quick: bool, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    let verdict = match (report.interrupted, report.errors.len()) {
        (true, _) => "ended early",
        (false, 0) if quick => "whole, as far as can be seen without reading segments",
        (false, 0) => "whole",
        _ => "DAMAGED",
    };
    let records = report.records.map(|n| format!(", {}", plural(n as usize, "record"))).unwrap_or_default();
    format!(
        "{verdict}: {}{records}, {}, {}; {} read in {seconds:.1} s",
        plural(report.topics.len(), "topic"),
        plural(report.gaps.len(), "gap"),
        plural(report.objects as usize, "object"),
        bytes(report.bytes),
    )
}

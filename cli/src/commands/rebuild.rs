//! `bodley rebuild`

use std::sync::Arc;
use std::time::Instant;

use bodley_engine::rebuild::{RebuildOptions, rebuild};
use bodley_engine::{Progress, Report};

use super::{Outcome, Pair, finish, usage};
use crate::args::{Common, Rebuild};
use crate::output::{bytes, plural};
use crate::progress::Display;
use crate::signals::Signals;

pub async fn run(flags: Rebuild, common: &Common) -> Outcome {
    let progress = Arc::new(Progress::default());
    let Pair { source, target, note } = Pair::open(&flags.vaults, common, progress.latencies())?;
    let signals = Signals::listen().map_err(|e| usage(format!("cannot listen for signals: {e}")))?;
    let start = Instant::now();
    let display = Display::start("rebuild", Arc::clone(&progress), common.quiet);
    let options = RebuildOptions { cluster_id: flags.cluster_id };
    let result = rebuild(source, target, options, Arc::clone(&progress), signals.stop()).await;
    drop(display);
    let mut report = result?;
    report.latency = progress.latencies().summaries();
    report.notes.extend(note);
    let code = if report.interrupted { signals.exit_code() } else { report.exit_code() };
    finish(common, "rebuild", code, &report, &summary(&report, start));
    Ok(code)
}

fn summary(report: &Report, start: Instant) -> String {
    if report.interrupted {
        return "ended early: what was written is no vault to use; delete it and run it again".to_owned();
    }
    let verdict = match report.errors.len() {
        0 => "all that is left is in".to_owned(),
        n => format!("{} lost or doubtful", plural(n, "thing")),
    };
    let records = report.records.map(|n| format!(", {}", plural(n as usize, "record"))).unwrap_or_default();
    format!(
        "rebuilt {}{records}, {} of batches in {:.1} s; {verdict}",
        plural(report.topics.len(), "topic"),
        bytes(report.topics.iter().map(|topic| topic.bytes).sum()),
        start.elapsed().as_secs_f64(),
    )
}

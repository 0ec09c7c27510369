//! `bodley restore`

use std::sync::Arc;
use std::time::Instant;

use bodley_engine::restore::{GroupStrategy, RestoreOptions, restore};
use bodley_engine::{Merged, Progress, Report};

use super::{Outcome, finish, open_cluster, open_measured, selection, throttle, usage};
use crate::args::{Common, Groups, Restore};
use crate::output::{bytes, plural};
use crate::progress::Display;
use crate::signals::Signals;

pub async fn run(flags: Restore, common: &Common) -> Outcome {
    let progress = Arc::new(Progress::default());
    let store = open_measured(&flags.vault.vault, flags.limit_read, None, progress.latencies())?;
    let signals = Signals::listen().map_err(|e| usage(format!("cannot listen for signals: {e}")))?;
    let start = Instant::now();
    let options = RestoreOptions {
        selection: selection(flags.topics),
        rename: flags.rename,
        replication_factor: flags.replication_factor,
        topic_config: flags.topic_config,
        groups: match flags.groups {
            Groups::Map => GroupStrategy::Map,
            Groups::None => GroupStrategy::None,
        },
        restore_id: flags.restore_id,
        state: flags.state,
        append: flags.append,
        hold_retention: flags.hold_retention.map(|hold| hold.0),
        skip_damaged: flags.skip_damaged,
        merge: !flags.no_merge,
        limit_write: throttle(flags.limit_write),
        ..RestoreOptions::default()
    };
    let (cluster, notes) = open_cluster(&flags.cluster, common).await?;
    let display = Display::start("restore", Arc::clone(&progress), common.quiet);
    let result = restore(cluster, store, options, Arc::clone(&progress), signals.stop()).await;
    drop(display);
    let mut report = result?;
    report.latency = progress.latencies().summaries();
    report.notes.splice(..0, notes);
    let code = if report.interrupted { signals.exit_code() } else { report.exit_code() };
    finish(common, "restore", code, &report, &summary(&report, start));
    Ok(code)
}

fn summary(report: &Report, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    let failed = report.errors.iter().any(|issue| issue.code == "incomplete");
    let cut = if report.interrupted || failed { "INCOMPLETE: " } else { "" };
    let merged = report.merged.map(|Merged { batches, into }| {
        format!("\nmerged {batches} small batches into {}", plural(into as usize, "larger one"))
    });
    let merged = merged.unwrap_or_default();
    let id = report.restore_id.as_deref().map(|id| format!("\nrestore id {id}")).unwrap_or_default();
    format!(
        "{cut}restored {}, {}, {}: {} read in {seconds:.1} s{merged}{id}",
        plural(report.topics.len(), "topic"),
        plural(report.records.unwrap_or(0) as usize, "record"),
        plural(report.groups as usize, "group"),
        bytes(report.bytes),
    )
}

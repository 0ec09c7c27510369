//! `bodley backup`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_engine::backup::{BackupOptions, Follow, backup};
use bodley_engine::{Progress, Report};

use super::{Named, Outcome, finish, open_cluster, open_measured, selection, throttle, usage};
use crate::args::{Backup, Common, Interval};
use crate::output::{bytes, plural};
use crate::progress::{Display, FOLLOW};
use crate::signals::Signals;

/// With --follow, unless another is given.
const GROUPS_INTERVAL: Interval = Interval(Duration::from_secs(60));

pub async fn run(flags: Backup, common: &Common) -> Outcome {
    let progress = Arc::new(Progress::default());
    let single_writer = flags.writers.single_writer;
    let named = Named { single_writer, ..Named::vault(&flags.vault.vault, common) };
    let store = open_measured(named, None, flags.limit_write, progress.latencies())?;
    let signals = Signals::listen().map_err(|e| usage(format!("cannot listen for signals: {e}")))?;
    let start = Instant::now();
    let (cluster, notes) = signals.unless_asked(open_cluster(&flags.cluster, common)).await?;
    let usual = Interval(Duration::from_secs(if flags.follow { 10 } else { 60 }));
    let interval = flags.commit_interval.unwrap_or(usual);
    let follow = Follow { groups_interval: flags.groups_interval.unwrap_or(GROUPS_INTERVAL).0 };
    let options = BackupOptions {
        selection: selection(flags.topics),
        commit_interval: interval.0,
        follow: flags.follow.then_some(follow),
        limit_read: throttle(flags.limit_read),
        exact_times: flags.exact_times,
        single_writer: flags.writers.single_writer,
        ..BackupOptions::default()
    };
    let verb = if flags.follow { FOLLOW } else { "backup" };
    let display = Display::start(verb, Arc::clone(&progress), common.quiet);
    let result = backup(Arc::clone(&cluster), store, options, Arc::clone(&progress), signals.stop()).await;
    drop(display);
    let mut report = result?;
    report.note_brokers(&cluster);
    report.latency = progress.latencies().summaries();
    report.notes.splice(..0, notes);
    let code = if report.interrupted { signals.exit_code() } else { report.exit_code() };
    finish(common, "backup", code, &report, &summary(&report, start));
    Ok(code)
}

fn summary(report: &Report, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    let partitions: u32 = report.topics.iter().map(|topic| topic.partitions).sum();
    let what = match report.bytes {
        0 => "nothing new".to_owned(),
        new => {
            let records =
                report.records.map(|n| format!(", {}", plural(n as usize, "record"))).unwrap_or_default();
            format!("{} new{records}", bytes(new))
        }
    };
    let cut = if report.is_cut() { "ended early: " } else { "" };
    format!(
        "{cut}backed up {} ({}), {}: {what} in {seconds:.1} s",
        plural(report.topics.len(), "topic"),
        plural(partitions as usize, "partition"),
        plural(report.groups as usize, "group"),
    )
}

//! `bodley restore`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bodley_engine::error::Severity;
use bodley_engine::restore::{Choice, GroupStrategy, RestoreOptions, WindowFlags, plan};
use bodley_engine::{Issue, Merged, Pick, Progress, Report};

use super::{Named, Outcome, finish, open_cluster, open_measured, selection, throttle, usage};
use crate::args::{Common, Groups, OutputFormat, Restore};
use crate::output::{self, bytes, plural};
use crate::progress::Display;
use crate::signals::Signals;

pub async fn run(flags: Restore, common: &Common) -> Outcome {
    let progress = Arc::new(Progress::default());
    let store = open_measured(
        Named::vault(&flags.vault.vault, common),
        flags.limit_read,
        None,
        progress.latencies(),
    )?;
    let signals = Signals::listen().map_err(|e| usage(format!("cannot listen for signals: {e}")))?;
    let start = Instant::now();
    let (cluster, notes) = signals.unless_asked(open_cluster(&flags.cluster, common)).await?;
    let file = flags.report.clone();
    if file.is_some() && flags.dry_run {
        return Err(usage(
            "--report does not go with --dry-run, which has no result: --output json prints the plan"
                .to_owned(),
        ));
    }
    if let Some(file) = &file {
        check_report(file, &flags).map_err(|what| usage(format!("--report {}: {what}", file.display())))?;
    }
    let dry_run = flags.dry_run;
    let planned = plan(Arc::clone(&cluster), store, options(flags), signals.stop()).await?;
    if let Some(plan) = &planned.report().plan
        && common.output == OutputFormat::Text
    {
        // The result of a dry run is the plan; before a run it is a message.
        let text = output::plan::text(plan);
        if dry_run {
            output::print(&text)
        } else if !common.quiet {
            eprintln!("{text}")
        }
    }
    let display = Display::start("restore", Arc::clone(&progress), common.quiet || planned.is_over());
    let result = planned.carry_out(Arc::clone(&progress), signals.stop()).await;
    drop(display);
    let mut report = result?;
    report.note_brokers(&cluster);
    report.latency = progress.latencies().summaries();
    report.notes.splice(..0, notes);
    if let Some(file) = &file {
        save(&mut report, file, &signals);
    }
    let code = if report.interrupted { signals.exit_code() } else { report.exit_code() };
    let summary = if dry_run { dry_summary(&report) } else { summary(&report, start) };
    finish(common, "restore", code, &report, &summary);
    Ok(code)
}

/// Nothing but an earlier report may be replaced, and nothing put into the vault.
fn check_report(file: &Path, flags: &Restore) -> Result<(), String> {
    crate::files::check_writable(file)?;
    let folder = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new(".")).canonicalize().ok()
    };
    let vault = Path::new(flags.vault.vault.trim_start_matches("file://")).canonicalize().ok();
    if let Some(vault) = vault
        && folder(file).is_some_and(|folder| folder.starts_with(&vault))
    {
        return Err("is in the vault: name another place".to_owned());
    }
    let same = |state: &Path| state.file_name() == file.file_name() && folder(state) == folder(file);
    if flags.state.as_deref().is_some_and(same) {
        return Err("is the file of --state: name another".to_owned());
    }
    match std::fs::symlink_metadata(file) {
        Ok(found) if !found.is_file() => Err("is no regular file: name another".to_owned()),
        Ok(found) if found.len() > 0 && super::offset_map::read(file).is_err() => {
            Err("is there, and no report of a restore: name another".to_owned())
        }
        _ => Ok(()),
    }
}

fn options(flags: Restore) -> RestoreOptions {
    RestoreOptions {
        choice: Choice {
            selection: selection(flags.topics),
            at: flags.at,
            incarnation: flags.incarnation,
            partitions: flags.partitions,
            window: WindowFlags {
                from: flags.from,
                to: flags.to,
                windows: flags.window,
                from_offset: flags.from_offset,
                to_offset: flags.to_offset,
            },
            rename: flags.rename,
            stamp_headers: flags.stamp_headers,
        },
        replication_factor: flags.replication_factor,
        topic_config: flags.topic_config,
        groups: match flags.groups {
            Groups::Map => GroupStrategy::Map,
            Groups::Timestamp => GroupStrategy::Timestamp,
            Groups::Earliest => GroupStrategy::Earliest,
            Groups::Latest => GroupStrategy::Latest,
            Groups::None => GroupStrategy::None,
        },
        pick_groups: Pick { include: flags.group, exclude: flags.exclude_group },
        restore_id: flags.restore_id,
        state: flags.state,
        dry_run: flags.dry_run,
        map_again: flags.report.is_some(),
        append: flags.append,
        hold_retention: flags.hold_retention.map(|hold| hold.0),
        skip_damaged: flags.skip_damaged,
        merge: !flags.no_merge,
        limit_write: throttle(flags.limit_write),
        limit_read: flags.limit_read.map(|rate| rate.0),
        ..RestoreOptions::default()
    }
}

/// Writes the report to a file. A run whose report can't be written has done its work all the same, but says so.
fn save(report: &mut Report, file: &Path, signals: &Signals) {
    let is_cut = report.interrupted || report.errors.iter().any(|issue| issue.code == "incomplete");
    if is_cut && file.exists() {
        // It may hold the map of what an earlier run has completed.
        let note = format!(
            "{} stays as it is: this run was cut, and its report is not the last word",
            file.display()
        );
        return report.notes.push(note);
    }
    let code = if report.interrupted { signals.exit_code() } else { report.exit_code() };
    let text = output::json("restore", code, report);
    if let Err(error) = crate::files::replace(file, text.as_bytes()) {
        let message = format!("the report can't be written to {}: {error}", file.display());
        report.errors.push(
            Issue::new("report", Severity::Failed, message)
                .hint("run the same command again: it finds everything there, and writes the report"),
        );
    }
}

fn dry_summary(report: &Report) -> String {
    match report.errors.is_empty() {
        true => "dry run: nothing was written".to_owned(),
        false => "dry run: nothing was written, and this restore would not do as asked".to_owned(),
    }
}

fn summary(report: &Report, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    let failed = report.errors.iter().any(|issue| issue.code == "incomplete");
    let cut = if report.interrupted || failed { "INCOMPLETE: " } else { "" };
    let merged = report.merged.map(|Merged { batches, into }| {
        format!("\nmerged {batches} small batches into {}", plural(into as usize, "larger one"))
    });
    let merged = merged.unwrap_or_default();
    let remade = report.records_in_old_formats.map(|records| {
        format!("\nwrote {} of message formats 0 and 1 in format 2", plural(records as usize, "record"))
    });
    let remade = remade.unwrap_or_default();
    let id = report.restore_id.as_deref().map(|id| format!("\nrestore id {id}")).unwrap_or_default();
    format!(
        "{cut}restored {}, {}, {}: {} read in {seconds:.1} s{merged}{remade}{id}",
        plural(report.topics.len(), "topic"),
        plural(report.records.unwrap_or(0) as usize, "record"),
        plural(report.groups as usize, "group"),
        bytes(report.bytes),
    )
}

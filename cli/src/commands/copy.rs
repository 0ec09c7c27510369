//! `bodley copy`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bodley_engine::copy::{CopyOptions, copy};
use bodley_engine::{Progress, Report};
use bodley_io::store::SharedStore;

use super::{Named, Outcome, finish, open_measured, usage};
use crate::args::{Common, CopyVault, WritersArg};
use crate::output::{bytes, plural};
use crate::progress::Display;
use crate::signals::Signals;

pub async fn run(flags: CopyVault, common: &Common) -> Outcome {
    if is_same(&flags, common) {
        return Err(usage(format!("--vault and --to-vault are the same place: {}", flags.vault.vault)));
    }
    let progress = Arc::new(Progress::default());
    let from = Named::vault(&flags.vault.vault, common);
    let source = open_measured(from, flags.limit_read, None, progress.latencies())?;
    let to = Named::target(&flags.to, &flags.writers);
    let target = open_measured(to, None, flags.limit_write, progress.latencies())?;
    let note = not_needed(&flags.writers, &target);
    let signals = Signals::listen().map_err(|e| usage(format!("cannot listen for signals: {e}")))?;
    let start = Instant::now();
    let display = Display::start("copy", Arc::clone(&progress), common.quiet);
    let result = copy(source, target, CopyOptions::default(), Arc::clone(&progress), signals.stop()).await;
    drop(display);
    let mut report = result?;
    report.latency = progress.latencies().summaries();
    report.notes.extend(note);
    let code = if report.interrupted { signals.exit_code() } else { report.exit_code() };
    finish(common, "copy", code, &report, &summary(&report, start));
    Ok(code)
}

/// A URL does not tell of which endpoint a bucket is: the options may.
fn is_same(flags: &CopyVault, common: &Common) -> bool {
    let is_folder = |url: &str| url.starts_with("file://") || !url.contains("://");
    place(&flags.vault.vault) == place(&flags.to.to_vault)
        && (is_folder(&flags.vault.vault) || common.vault_options == flags.to.to_vault_options)
}

/// One folder may have several names.
fn place(url: &str) -> PathBuf {
    let path = url.strip_prefix("file://").unwrap_or(url);
    std::fs::canonicalize(path).unwrap_or_else(|_| path.trim_end_matches('/').into())
}

/// --single-writer says nothing to a store that settles races by itself.
pub fn not_needed(writers: &WritersArg, store: &SharedStore) -> Option<String> {
    let note = || format!("--single-writer is not needed for {}: it settles races by itself", store.url());
    (writers.single_writer && store.decides_races()).then(note)
}

fn summary(report: &Report, start: Instant) -> String {
    let copied = report.copied.clone().unwrap_or_default();
    let verdict = match (report.interrupted, report.errors.len()) {
        (true, _) => "ended early, run it again to go on: ",
        (false, 0) => "",
        _ => "NOT ALL COULD BE COPIED: ",
    };
    let reached = report.receipt.as_deref().and_then(|receipt| receipt.split(':').next());
    format!(
        "{verdict}copied {}, {}, {}; {}, {}, {} were there; the copy is at commit {} ({:.1} s)",
        plural(copied.commits as usize, "commit"),
        plural(copied.objects as usize, "object"),
        bytes(copied.bytes),
        plural(copied.skipped_commits as usize, "commit"),
        plural(copied.skipped_objects as usize, "object"),
        bytes(copied.skipped_bytes),
        reached.unwrap_or("0"),
        start.elapsed().as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn same(from: &str, to: &str, more: &[&str]) -> bool {
        let words = ["bodley", "copy", "--vault", from, "--to-vault", to];
        let args = Args::try_parse_from(words.iter().chain(more)).unwrap();
        let Command::Copy(flags) = args.command else { return false };
        is_same(&flags, &args.common)
    }

    #[test]
    fn the_same_bucket_elsewhere_is_another_place() {
        let (one, other) = ("endpoint=http://127.0.0.1:9000", "endpoint=http://127.0.0.1:9001");
        assert!(same("s3://b/p", "s3://b/p/", &[]));
        assert!(same("s3://b/p", "s3://b/p", &["--vault-option", one, "--to-vault-option", one]));
        assert!(!same("s3://b/p", "s3://b/p", &["--vault-option", one]));
        assert!(!same("s3://b/p", "s3://b/p", &["--vault-option", one, "--to-vault-option", other]));
        assert!(!same("s3://b/p", "s3://b/q", &[]));
        assert!(same("/a", "file:///a", &["--vault-option", "durability=full"]));
    }
}

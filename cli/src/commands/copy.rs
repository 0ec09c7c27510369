//! `bodley copy`

use std::sync::Arc;
use std::time::Instant;

use bodley_engine::copy::{CopyOptions, copy};
use bodley_engine::{Progress, Report};

use super::{Outcome, Pair, finish, usage};
use crate::args::{Common, CopyVault, VaultsArg};
use crate::output::{bytes, plural};
use crate::progress::Display;
use crate::signals::Signals;
use crate::vault::Place;

pub async fn run(flags: CopyVault, common: &Common) -> Outcome {
    if is_same(&flags.vaults, common) {
        return Err(usage(format!(
            "--vault and --to-vault are the same place: {}",
            flags.vaults.vault.vault
        )));
    }
    let progress = Arc::new(Progress::default());
    let Pair { source, target, note } = Pair::open(&flags.vaults, common, progress.latencies())?;
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

/// A folder may have several names; a URL does not tell of which endpoint a bucket is, the options may.
fn is_same(vaults: &VaultsArg, common: &Common) -> bool {
    let real = |path: &str| std::fs::canonicalize(path).unwrap_or_else(|_| path.trim_end_matches('/').into());
    match (Place::parse(&vaults.vault.vault), Place::parse(&vaults.to_vault)) {
        (Ok(Place::Folder(from)), Ok(Place::Folder(to))) => real(&from) == real(&to),
        (Ok(Place::Remote(from)), Ok(Place::Remote(to))) => {
            from == to && common.vault_options == vaults.to_vault_options
        }
        _ => false,
    }
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
        is_same(&flags.vaults, &args.common)
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

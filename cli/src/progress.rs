//! A bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_engine::Progress;
use bodley_engine::progress::Snapshot;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(5);
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// What a run is called that goes on.
pub const FOLLOW: &str = "follow";

/// Draws until it is dropped.
pub struct Display {
    task: Option<tokio::task::JoinHandle<()>>,
    bar: Option<ProgressBar>,
}

impl Display {
    /// Starts drawing `progress` of `verb`, unless `quiet`.
    pub fn start(verb: &'static str, progress: Arc<Progress>, quiet: bool) -> Self {
        if quiet {
            return Self { task: None, bar: None };
        }
        if !std::io::stderr().is_terminal() {
            return Self { task: Some(tokio::spawn(lines(verb, progress))), bar: None };
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3}%  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(verb);
        Self { task: Some(tokio::spawn(draw(verb, bar.clone(), progress))), bar: Some(bar) }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

async fn draw(verb: &str, bar: ProgressBar, progress: Arc<Progress>) {
    let start = Instant::now();
    loop {
        let now = progress.snapshot();
        bar.set_length(now.work_total.max(1));
        bar.set_position(now.work_done.min(now.work_total));
        bar.set_message(describe(verb, &now, start.elapsed()));
        tokio::time::sleep(DRAW_EVERY).await;
    }
}

async fn lines(verb: &str, progress: Arc<Progress>) {
    let start = Instant::now();
    loop {
        tokio::time::sleep(LINE_EVERY).await;
        eprintln!("{verb}: {}", describe(verb, &progress.snapshot(), start.elapsed()));
    }
}

/// Bytes, rate, partitions or commits, and when it will be over.
fn describe(verb: &str, now: &Snapshot, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = HumanBytes((now.bytes as f64 / seconds) as u64);
    if verb == FOLLOW {
        return format!("{}, {rate}/s, {}", HumanBytes(now.bytes), ages(now, now_ms()));
    }
    let share = now.work_done as f64 / now.work_total.max(1) as f64;
    let eta = match share > 0.01 && now.work_total > 0 {
        true => {
            let left = (seconds * (1.0 - share) / share).clamp(0.0, 1e7);
            format!(", {} left", HumanDuration(Duration::from_secs_f64(left)))
        }
        false => String::new(),
    };
    format!(
        "{}, {rate}/s, {}/{} {}{eta}",
        HumanBytes(now.bytes),
        now.partitions_done,
        now.partitions_total,
        if verb == "copy" { "commits" } else { "partitions" },
    )
}

/// How long ago the last commit was made, and up to when all is in the vault.
fn ages(now: &Snapshot, ms: i64) -> String {
    let ago = |since: i64| bodley_engine::moment::span(ms.saturating_sub(since).max(0));
    let committed = match now.committed {
        0 => "nothing committed yet".to_owned(),
        at => format!("committed {} ago", ago(at)),
    };
    match now.complete {
        0 => format!("{committed}, catching up"),
        at => format!("{committed}, complete to {} ago", ago(at)),
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_long() {
        let now = Snapshot {
            bytes: 10 << 20,
            work_done: 25,
            work_total: 100,
            partitions_done: 1,
            partitions_total: 4,
            ..Snapshot::default()
        };
        let line = describe("backup", &now, Duration::from_secs(10));
        assert_eq!(line, "10.00 MiB, 1.00 MiB/s, 1/4 partitions, 30 seconds left");
        let following = Snapshot { committed: 95_000, complete: 90_000, ..now };
        assert_eq!(ages(&following, 100_000), "committed 5 s ago, complete to 10 s ago");
        assert_eq!(ages(&now, 100_000), "nothing committed yet, catching up");
        let nothing = describe("copy", &Snapshot::default(), Duration::from_secs(1));
        assert_eq!(nothing, "0 B, 0 B/s, 0/0 commits");
    }
}

//! A bar on a terminal, a line every few seconds elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_engine::Progress;
use bodley_engine::progress::Snapshot;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(5);
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// What a rate is the mean of.
const WINDOW: Duration = Duration::from_secs(10);

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
    let mut pace = Pace::since(Instant::now());
    loop {
        let now = progress.snapshot();
        bar.set_length(now.work_total.max(1));
        bar.set_position(now.work_done.min(now.work_total));
        bar.set_message(describe(verb, &now, &mut pace, Instant::now()));
        tokio::time::sleep(DRAW_EVERY).await;
    }
}

async fn lines(verb: &str, progress: Arc<Progress>) {
    let mut pace = Pace::since(Instant::now());
    loop {
        tokio::time::sleep(LINE_EVERY).await;
        eprintln!("{verb}: {}", describe(verb, &progress.snapshot(), &mut pace, Instant::now()));
    }
}

/// How fast it has been of late.
struct Pace {
    start: Instant,
    /// When how many bytes were done: from the last look before the window up to now.
    seen: VecDeque<(Instant, u64)>,
}

impl Pace {
    fn since(start: Instant) -> Self {
        Self { start, seen: VecDeque::from([(start, 0)]) }
    }

    /// Bytes per second within the [`WINDOW`] that ends `now`.
    fn rate(&mut self, now: Instant, bytes: u64) -> u64 {
        self.seen.push_back((now, bytes));
        while self.seen.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.seen.pop_front();
        }
        let (since, before) = self.seen.front().copied().unwrap_or((self.start, 0));
        let seconds = now.duration_since(since).as_secs_f64().max(0.001);
        (bytes.saturating_sub(before) as f64 / seconds) as u64
    }
}

/// Bytes, rate, partitions or commits, and when it will be over.
fn describe(verb: &str, now: &Snapshot, pace: &mut Pace, at: Instant) -> String {
    let rate = HumanBytes(pace.rate(at, now.bytes));
    if verb == FOLLOW {
        return format!("{}, {rate}/s, {}", HumanBytes(now.bytes), ages(now, now_ms()));
    }
    let share = now.work_done as f64 / now.work_total.max(1) as f64;
    let eta = match share > 0.01 && now.work_total > 0 {
        true => {
            let seconds = at.duration_since(pace.start).as_secs_f64();
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
        let start = Instant::now();
        let line = describe("backup", &now, &mut Pace::since(start), start + Duration::from_secs(10));
        assert_eq!(line, "10.00 MiB, 1.00 MiB/s, 1/4 partitions, 30 seconds left");
        let following = Snapshot { committed: 95_000, complete: 90_000, ..now };
        assert_eq!(ages(&following, 100_000), "committed 5 s ago, complete to 10 s ago");
        assert_eq!(ages(&now, 100_000), "nothing committed yet, catching up");
        let nothing = describe("copy", &Snapshot::default(), &mut Pace::since(start), start);
        assert_eq!(nothing, "0 B, 0 B/s, 0/0 commits");
    }

    #[test]
    fn a_rate_is_the_one_of_now() {
        let start = Instant::now();
        let mut pace = Pace::since(start);
        let mut rate = |seconds, bytes| pace.rate(start + Duration::from_secs(seconds), bytes);
        assert_eq!(rate(5, 5_000), 1_000);
        assert_eq!(rate(10, 10_000), 1_000);
        assert_eq!((rate(15, 10_000), rate(20, 10_000)), (500, 0), "nothing came any more");
        assert_eq!((rate(3_595, 10_000), rate(3_600, 10_000)), (0, 0));
        assert_eq!(rate(3_605, 20_000), 1_000);
        assert_eq!(rate(3_605, 0), 0, "what is counted anew");
    }
}

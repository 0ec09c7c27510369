//! Reports, as text and as the one JSON document. Rows of text are tables with aligned columns.

pub mod plan;

use std::borrow::Cow;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use bodley_engine::{Issue, Report};
use bodley_io::latency::Summaries;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::args::OutputFormat;
use crate::ended::Ended;

/// Changes when a field changes its meaning or goes away.
pub const SCHEMA: &str = "bodley.report.v1";

#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'static str,
    command: &'a str,
    version: &'static str,
    exit_code: u8,
    #[serde(flatten)]
    body: &'a T,
}

/// The document of a command.
pub fn json<T: Serialize>(command: &str, exit_code: u8, body: &T) -> String {
    let document = Document { schema: SCHEMA, command, version: env!("CARGO_PKG_VERSION"), exit_code, body };
    let text = match command {
        // Its records are lines.
        "cat" => serde_json::to_string(&document),
        _ => serde_json::to_string_pretty(&document),
    };
    text.map(without_commands).unwrap_or_default()
}

/// Prints the document of a command.
pub fn print_json<T: Serialize>(command: &str, exit_code: u8, body: &T) {
    print(&json(command, exit_code, body));
}

/// JSON need not escape DEL and the second set of control characters, but terminals obey them. They stand in strings only.
pub fn without_commands(json: String) -> String {
    let is_command = |c: char| is_command(c) && c != '\n';
    if !json.contains(is_command) {
        return json;
    }
    let escape = |c: char| if is_command(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() };
    json.chars().map(escape).collect()
}

/// To stdout; a reader that went away is no error, anything else ends in exit 1.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let result = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    if let Err(error) = result
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && !WRITE_FAILED.swap(true, Ordering::Relaxed)
    {
        eprintln!("bodley: cannot write to standard output: {error}");
    }
}

static WRITE_FAILED: AtomicBool = AtomicBool::new(false);

/// `code`, or 1 when that is 0 and results could not be written.
pub fn exit_code(code: u8) -> u8 {
    if code == 0 && WRITE_FAILED.load(Ordering::Relaxed) { 1 } else { code }
}

/// Prints how a command failed: to stderr, and where JSON is wanted to stdout as well.
pub fn print_failure(format: OutputFormat, command: &str, ended: &Ended) {
    match format {
        OutputFormat::Text => print_issue(&ended.issue),
        OutputFormat::Json => {
            let interrupted = ended.signal.is_some();
            let report = Report { errors: vec![ended.issue.clone()], interrupted, ..Report::default() };
            print_json(command, ended.exit_code(), &report);
        }
    }
}

/// One line, or one for each of several reasons, and one more with advice.
pub fn print_issue(issue: &Issue) {
    let reasons: Vec<Cow<'_, str>> = issue.message.split(REASON).map(plain).collect();
    eprintln!("bodley: {}", reasons.join(REASON));
    if let Some(hint) = &issue.hint {
        eprintln!("        {}", plain(hint));
    }
}

/// What stands between several reasons in a message.
const REASON: &str = "\n  ";

/// Text from brokers and vaults as a terminal may see it: control characters, which could be commands to it, are escaped.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_command) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_command(c) { c.escape_unicode().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Control characters, and those that change the direction of text.
fn is_command(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What is worth knowing and no error.
pub fn print_note(note: &str) {
    eprintln!("bodley: note: {}", plain(note));
}

/// The end of a run for people: topics, gaps, errors, and a summary.
pub fn print_report(report: &Report, summary: &str) {
    report.notes.iter().for_each(|note| print_note(note));
    for gap in report.gaps.iter().take(MANY) {
        eprintln!(
            "bodley: gap: {}-{} offsets {}..{} ({})",
            plain(&gap.topic),
            gap.partition,
            gap.first,
            gap.next,
            gap.reason
        );
    }
    if report.gaps.len() > MANY {
        eprintln!("bodley: … and {} gaps more (all are in --output json)", report.gaps.len() - MANY);
    }
    print_issues(&report.errors);
    print(summary);
    if let Some(receipt) = &report.receipt {
        print(&format!("receipt {receipt}"));
    }
}

/// What went wrong, or as much of it as people read.
pub fn print_issues(issues: &[Issue]) {
    issues.iter().take(MANY).for_each(print_issue);
    if issues.len() > MANY {
        eprintln!("bodley: … and {} errors more (all are in --output json)", issues.len() - MANY);
    }
}

/// How long requests took, one line for each kind of them.
pub fn print_latency(latency: &Summaries) {
    let header = ["latency", "count", "p50", "p90", "p99", "p99.9", "max", "mean"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (name, found) in latency.named() {
        let times = [found.p50_us, found.p90_us, found.p99_us, found.p999_us, found.max_us];
        let mut row = vec![name.to_owned(), found.count.to_string()];
        row.extend(times.map(|time| micros(time as f64)));
        row.push(micros(found.mean_us));
        rows.push(row);
    }
    if rows.len() > 1 {
        eprintln!("{}", table(&rows));
    }
}

/// `850 µs`, `1.25 ms`, `12.50 s`.
fn micros(micros: f64) -> String {
    match micros {
        less if less < 1e3 => format!("{less:.0} µs"),
        less if less < 1e6 => format!("{:.2} ms", less / 1e3),
        more => format!("{:.2} s", more / 1e6),
    }
}

/// Says that a vault was made from the remains of another.
pub fn print_rebuilt(from: Option<&str>) {
    if let Some(from) = from {
        eprintln!("bodley: note: this vault was rebuilt from the remains of vault {from}");
    }
}

const MANY: usize = 20;

/// Rows with columns padded to their widest cell; numbers (from the second column on) to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<Cow<'_, str>>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `1.50 GiB`
pub fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// `2026-01-02T03:04:05Z`, `-` for none.
pub fn time(ms: Option<i64>) -> String {
    let timestamp = ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    timestamp.map_or("-".into(), |timestamp| format!("{:.0}", timestamp))
}

/// `1 topic`, `2 topics`.
pub fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let rows = [vec!["topic".into(), "n".into()], vec!["a".into(), "100".into()]];
        assert_eq!(table(&rows), "topic    n\na      100");
        let rows = [vec!["a\u{1b}[2J".into(), "b\nc".into()]];
        assert_eq!(table(&rows), "a\\u{1b}[2J  b\\u{a}c");
        assert_eq!(plain("gr\u{fc}n \u{9b}2J \u{202e}"), "gr\u{fc}n \\u{9b}2J \\u{202e}");
        assert_eq!(without_commands("{\n\"\u{9b}\u{7f}\u{e4}\"}".into()), "{\n\"\\u009b\\u007f\u{e4}\"}");
        assert_eq!(time(Some(1_767_323_045_123)), "2026-01-02T03:04:05Z");
        assert_eq!(time(None), "-");
        let times = [0.0, 850.4, 1250.0, 12_500_000.0].map(micros);
        assert_eq!(times, ["0 µs", "850 µs", "1.25 ms", "12.50 s"]);
        assert_eq!((plural(1, "topic"), plural(0, "topic")), ("1 topic".into(), "0 topics".into()));
    }
}

//! What came out: one table, and the same as JSON.

use serde::Serialize;

use super::contestant::Contestant;
use super::scenario::Scenario;
use crate::cost::spread;
use crate::payload::Form;

const MIB: f64 = 1048576.0;
const GIB: f64 = 1024.0 * MIB;

/// One run of one contestant.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Run {
    /// Who.
    pub contestant: Contestant,
    /// From 1; the round that warms up is not kept.
    pub round: usize,
    /// Wall clock.
    pub seconds: f64,
    /// User and system time of the process.
    pub cpu_seconds: f64,
    /// Of the broker, while the run lasted; none where the broker is not ours.
    pub broker_cpu_seconds: Option<f64>,
    /// Most memory that was resident.
    pub peak_rss_bytes: u64,
    /// Fetch or Produce requests, of those who tell.
    pub requests: Option<u64>,
    /// Objects in the vault, of a backup.
    pub objects: Option<u64>,
}

/// All runs of a scenario.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The topic.
    #[serde(flatten)]
    pub scenario: Scenario,
    /// Bytes of batches in it.
    pub bytes: u64,
    /// Records in it.
    pub records: i64,
    /// In the order in which they were done.
    pub runs: Vec<Run>,
    /// By contestant.
    pub medians: Vec<Medians>,
}

/// Median, least, most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

/// The runs of one contestant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Medians {
    /// Who.
    pub contestant: Contestant,
    mib_per_s: Spread,
    records_per_s: Spread,
    cpu_s_per_gib: Spread,
    broker_cpu_s_per_gib: Option<Spread>,
    peak_rss_mib: Spread,
    requests_per_gib: Option<Spread>,
    objects_per_gib: Option<Spread>,
}

/// A whole session.
#[derive(Debug, Serialize)]
pub struct Session {
    /// `bodley.bench.v1`.
    pub schema: &'static str,
    /// What was measured against.
    pub cluster: String,
    /// Processors of this machine, which the local broker shares.
    pub processors: usize,
    /// Runs of each contestant that count.
    pub runs: usize,
    /// `rotating` or `shuffled`.
    pub order: String,
    /// What shuffled.
    pub seed: u64,
    /// Who was asked for and did not take part, and why.
    pub left_out: Vec<String>,
    /// In the order in which they were done.
    pub scenarios: Vec<Outcome>,
}

impl Outcome {
    /// Sums runs up.
    pub fn new(scenario: Scenario, bytes: u64, records: i64, runs: Vec<Run>) -> Self {
        let mut contestants: Vec<Contestant> = runs.iter().map(|run| run.contestant).collect();
        contestants.sort();
        contestants.dedup();
        let medians = |&contestant: &Contestant| {
            let own: Vec<Run> = runs.iter().filter(|run| run.contestant == contestant).copied().collect();
            Medians::new(contestant, &own, bytes as f64, records as f64)
        };
        let medians = contestants.iter().map(medians).collect();
        Self { scenario, bytes, records, runs, medians }
    }
}

impl Medians {
    fn new(contestant: Contestant, runs: &[Run], bytes: f64, records: f64) -> Self {
        let gibibytes = bytes / GIB;
        Self {
            contestant,
            mib_per_s: of(runs.iter().map(|run| bytes / MIB / run.seconds)),
            records_per_s: of(runs.iter().map(|run| records / run.seconds)),
            cpu_s_per_gib: of(runs.iter().map(|run| run.cpu_seconds / gibibytes)),
            broker_cpu_s_per_gib: if_told(runs, |run| run.broker_cpu_seconds.map(|cpu| cpu / gibibytes)),
            peak_rss_mib: of(runs.iter().map(|run| run.peak_rss_bytes as f64 / MIB)),
            requests_per_gib: if_told(runs, |run| run.requests.map(|count| count as f64 / gibibytes)),
            objects_per_gib: if_told(runs, |run| run.objects.map(|count| count as f64 / gibibytes)),
        }
    }
}

fn of(values: impl IntoIterator<Item = f64>) -> Spread {
    let (median, least, most) = spread(values);
    Spread { median, least, most }
}

fn if_told(runs: &[Run], value: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
    let values: Option<Vec<f64>> = runs.iter().map(value).collect();
    values.map(of)
}

impl Session {
    /// The table, in Markdown, with what is needed to read it.
    pub fn text(&self) -> String {
        let mut cells: Vec<[String; 9]> = vec![HEADS.map(str::to_owned)];
        for outcome in &self.scenarios {
            for medians in &outcome.medians {
                cells.push(row(outcome, medians));
            }
        }
        let widths: [usize; 9] = std::array::from_fn(|column| {
            cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        });
        let mut lines: Vec<String> = cells.iter().map(|row| line(row, &widths)).collect();
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        lines.insert(1, format!("| {} |", rule.join(" | ")));
        lines.push(String::new());
        lines.push(format!(
            "{}; {} processors; medians of {} (least - most), order {}, seed {}",
            self.cluster, self.processors, self.runs, self.order, self.seed
        ));
        for outcome in &self.scenarios {
            let size = outcome.bytes as f64 / MIB;
            lines
                .push(format!("{}: {size:.1} MiB of batches, {} records", outcome.scenario, outcome.records));
        }
        lines.extend(self.left_out.iter().map(|who| format!("left out: {who}")));
        lines.join("\n")
    }
}

const HEADS: [&str; 9] = [
    "partitions × batches",
    "",
    "MiB/s",
    "records/s",
    "client CPU-s/GiB",
    "broker CPU-s/GiB",
    "peak RSS, MiB",
    "requests/GiB",
    "objects/GiB",
];

fn row(outcome: &Outcome, medians: &Medians) -> [String; 9] {
    // Elsewhere it says what MiB/s says.
    let records = (outcome.scenario.batches == Form::One).then_some(medians.records_per_s);
    let optional = |value: Option<Spread>, digits| value.map_or("-".to_owned(), |v| v.text(digits));
    let middle = |value: Option<Spread>| value.map_or("-".to_owned(), |v| format!("{:.0}", v.median));
    [
        outcome.scenario.to_string(),
        medians.contestant.name(),
        medians.mib_per_s.text(if medians.mib_per_s.median < 10.0 { 1 } else { 0 }),
        optional(records, 0),
        medians.cpu_s_per_gib.text(2),
        optional(medians.broker_cpu_s_per_gib, 2),
        format!("{:.0}", medians.peak_rss_mib.most),
        middle(medians.requests_per_gib),
        middle(medians.objects_per_gib),
    ]
}

impl Spread {
    fn text(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} - {:.digits$})", self.median, self.least, self.most)
    }
}

fn line(row: &[String; 9], widths: &[usize; 9]) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(n, (cell, &width))| match n {
        0 | 1 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    });
    format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Codec;

    fn run(contestant: Contestant, seconds: f64, requests: Option<u64>) -> Run {
        let (round, peak_rss_bytes) = (1, 64 << 20);
        let (cpu_seconds, broker_cpu_seconds, objects) = (0.25, None, None);
        Run { contestant, round, seconds, cpu_seconds, broker_cpu_seconds, peak_rss_bytes, requests, objects }
    }

    #[test]
    fn one_row_for_each_contestant() {
        let scenario = Scenario { partitions: 4, codec: Codec::None, batches: Form::Large, mebibytes: 512 };
        let runs = vec![
            run(Contestant::Backup, 2.0, None),
            run(Contestant::Drain, 1.0, Some(100)),
            run(Contestant::Drain, 0.5, Some(102)),
            run(Contestant::Drain, 0.25, Some(104)),
        ];
        let outcome = Outcome::new(scenario, 512 << 20, 1000, runs);
        let session = Session {
            schema: "x",
            cluster: "Kafka".into(),
            processors: 2,
            runs: 3,
            order: "rotating".into(),
            seed: 1,
            left_out: vec!["kcat is not installed".into()],
            scenarios: vec![outcome],
        };
        let text = session.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with('|')).count(), 4, "{text}");
        assert!(lines[2].contains("drain") && lines[2].contains("1024 (512 - 2048)"), "{text}");
        assert!(lines[2].contains("0.50 (0.50 - 0.50)") && lines[2].contains("204"), "{text}");
        assert!(lines[3].contains("backup") && lines[3].contains("256 (256 - 256)"), "{text}");
        assert!(text.ends_with("left out: kcat is not installed"), "{text}");
    }
}

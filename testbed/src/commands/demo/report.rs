//! What the demo prints.

use std::time::{Duration, Instant};

use anyhow::Result;

/// A topic's result.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) partitions: usize,
    pub(super) records: u64,
    pub(super) vault_bytes: Option<u64>,
    pub(super) difference: Option<String>,
}

#[derive(Default)]
pub(super) struct Report {
    commands: Vec<String>,
    times: Vec<(String, Duration)>,
    rows: Vec<Row>,
    group: Option<(String, usize, Vec<String>)>,
}

impl Report {
    /// Does a step and keeps its time.
    pub(super) fn timed<T>(&mut self, what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("… {what}");
        let started = Instant::now();
        let done = step();
        self.times.push((what.to_owned(), started.elapsed()));
        done
    }

    pub(super) fn command(&mut self, what: &str, shown: &str) {
        self.commands.push(format!("# {what}\n{shown}"));
    }

    pub(super) fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn group(&mut self, name: &str, positions: usize, wrong: Vec<String>) {
        self.group = Some((name.to_owned(), positions, wrong));
    }

    pub(super) fn all_equal(&self) -> bool {
        self.rows.iter().all(|r| r.difference.is_none())
            && self.group.iter().all(|(_, _, wrong)| wrong.is_empty())
    }

    pub(super) fn print(&self, vault_bytes: u64) {
        println!("\nCommands\n");
        self.commands.iter().for_each(|c| println!("{c}"));
        println!("\nTimes\n");
        for (what, time) in &self.times {
            println!("{:>8.2} s  {what}", time.as_secs_f64());
        }
        println!("\n{:<28} {:>10} {:>10} {:>14}  equal", "Topic", "partitions", "records", "bytes in vault");
        for row in &self.rows {
            let bytes = row.vault_bytes.map_or_else(|| "-".to_owned(), |b| b.to_string());
            let equal = if row.difference.is_none() { "yes" } else { "NO" };
            let name: String = row.name.chars().take(28).collect();
            println!("{name:<28} {:>10} {:>10} {bytes:>14}  {equal}", row.partitions, row.records);
        }
        if let Some((name, positions, wrong)) = &self.group {
            let right = positions - wrong.len();
            println!(
                "\nGroup {name}: {right} of {positions} positions point at the record that they did before."
            );
        }
        println!("The vault has {vault_bytes} bytes.");
        self.print_differences();
    }

    fn print_differences(&self) {
        for row in &self.rows {
            if let Some(difference) = &row.difference {
                println!("\n{}: {difference}", row.name);
            }
        }
        for wrong in self.group.iter().flat_map(|(_, _, wrong)| wrong) {
            println!("group: {wrong}");
        }
        if self.all_equal() {
            let records: u64 = self.rows.iter().map(|r| r.records).sum();
            println!(
                "\nAll {records} records of {} topics came back: keys, values, headers, timestamps, order.",
                self.rows.len()
            );
        } else {
            println!("\nNOT everything came back as it was, see above.");
        }
    }
}

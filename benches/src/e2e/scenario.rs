//! Which topics are measured.

use clap::Args;
use serde::Serialize;

use crate::payload::{Codec, Form};

/// A topic to measure with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Scenario {
    /// Its partitions.
    pub partitions: i32,
    /// Its compression.
    pub codec: Codec,
    /// The form of its batches.
    pub batches: Form,
    /// Bytes of batches asked for.
    #[serde(rename = "asked_mebibytes")]
    pub mebibytes: u64,
}

/// What to choose scenarios by. Lists multiply; none given is the default set.
#[derive(Debug, Args)]
pub struct Choice {
    /// Partitions of the topic
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: Vec<i32>,
    /// Compression
    #[arg(long, value_name = "CODEC", value_delimiter = ',')]
    codec: Vec<Codec>,
    /// Batches: of up to 256 KiB or 16 KiB of records of 1,000 bytes, or of one record of 100 bytes
    #[arg(long, value_name = "FORM", value_delimiter = ',')]
    batches: Vec<Form>,
    /// Size of the topic: bytes of batches, compressed as they are; each partition has one batch at least
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    mebibytes: u64,
    /// The same for batches of one record, unless `--mebibytes` is less
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    one_mebibytes: u64,
    /// Every number of partitions (1, 4, 100, 1000) with every compression and every form; takes hours
    #[arg(long, conflicts_with_all = ["partitions", "codec", "batches"])]
    full: bool,
}

/// What is measured when nothing is chosen.
const DEFAULT: [(i32, Codec, Form); 5] = [
    (4, Codec::None, Form::Large),
    (4, Codec::Zstd, Form::Large),
    (100, Codec::None, Form::Small),
    (1000, Codec::None, Form::Small),
    (4, Codec::None, Form::One),
];

impl Choice {
    /// The scenarios, each once.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let chosen = !(self.partitions.is_empty() && self.codec.is_empty() && self.batches.is_empty());
        let mut scenarios: Vec<Scenario> = match (self.full, chosen) {
            (true, _) => self.product(
                &[1, 4, 100, 1000],
                &[Codec::None, Codec::Lz4, Codec::Zstd],
                &[Form::Large, Form::Small, Form::One],
            ),
            (false, true) => self.product(
                or(&self.partitions, &[4]),
                or(&self.codec, &[Codec::None]),
                or(&self.batches, &[Form::Large]),
            ),
            (false, false) => DEFAULT.iter().map(|&(p, c, b)| self.scenario(p, c, b)).collect(),
        };
        let all = scenarios.clone();
        let mut at = 0..;
        scenarios
            .retain(|one| at.next().is_some_and(|at| !all.iter().take(at).any(|earlier| earlier == one)));
        scenarios
    }

    fn product(&self, partitions: &[i32], codecs: &[Codec], forms: &[Form]) -> Vec<Scenario> {
        let mut all = Vec::new();
        for &batches in forms {
            for &codec in codecs {
                all.extend(partitions.iter().map(|&partitions| self.scenario(partitions, codec, batches)));
            }
        }
        all
    }

    fn scenario(&self, partitions: i32, codec: Codec, batches: Form) -> Scenario {
        let mebibytes = match batches {
            Form::One => self.mebibytes.min(self.one_mebibytes),
            Form::Large | Form::Small => self.mebibytes,
        };
        Scenario { partitions, codec, batches, mebibytes }
    }
}

fn or<'a, T>(given: &'a [T], default: &'a [T]) -> &'a [T] {
    if given.is_empty() { default } else { given }
}

impl std::fmt::Display for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {} {}", self.partitions, self.codec.name(), self.batches.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        choice: Choice,
    }

    fn chosen(line: &str) -> Vec<String> {
        let choice = Line::parse_from(line.split(' ')).choice;
        choice.scenarios().iter().map(|s| format!("{s} {}", s.mebibytes)).collect()
    }

    #[test]
    fn lists_multiply() {
        assert_eq!(chosen("x").len(), DEFAULT.len());
        assert_eq!(chosen("x --full").len(), 36);
        assert_eq!(chosen("x --partitions 1,4 --partitions 4"), ["1 × none 256k 1024", "4 × none 256k 1024"]);
        let two = ["4 × zstd 256k 100", "4 × zstd one 64"];
        assert_eq!(chosen("x --codec zstd --batches 256k,one --mebibytes 100"), two);
        assert_eq!(chosen("x --batches one --mebibytes 9"), ["4 × none one 9"]);
    }
}

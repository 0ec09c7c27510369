//! Thousands of partitions on one broker.

use std::thread;

use anyhow::{Context, Result, bail};

use crate::cluster::ClusterOptions;
use crate::workbench::{Generate, ProduceOptions, Workbench};

/// Partitions of each topic but the last, which has the rest.
const PER_TOPIC: u32 = 1000;
/// What one node can have here: each partition takes two of the system's 65,530 memory maps (vm.max_map_count).
const MOST: u32 = 24_000;
/// Topics that are created or written at a time.
const AT_A_TIME: usize = 2;
/// Room for one record and what stands around it: the producer takes it at once for each partition.
const OVERHEAD: u32 = 512;

/// Topics with so many partitions that their number counts and not their size.
#[derive(Debug, Clone)]
pub struct Many {
    prefix: String,
    partitions: u32,
}

impl Many {
    /// So many partitions altogether, in topics whose names start so.
    pub fn new(prefix: &str, partitions: u32) -> Result<Self> {
        if partitions == 0 || partitions > MOST {
            bail!("{partitions} partitions: 1 to {MOST} are possible");
        }
        Ok(Self { prefix: prefix.to_owned(), partitions })
    }

    /// Settings for a node that has them: small files, little work in the background, memory.
    ///
    /// An active segment has both of its indexes preallocated and mapped, 10 MiB each by default.
    #[must_use]
    pub fn fit(options: ClusterOptions) -> ClusterOptions {
        options
            .set("log.index.size.max.bytes", "4096")
            .set("log.retention.check.interval.ms", "300000")
            .set("log.flush.start.offset.checkpoint.interval.ms", "300000")
            .set("log.cleaner.backoff.ms", "15000")
            .jvm("-Xmx2g")
    }

    /// The topics, each with the number of its partitions.
    pub fn topics(&self) -> Vec<(String, u32)> {
        let starts = (0..self.partitions).step_by(PER_TOPIC as usize);
        let topic = |(n, start)| (format!("{}{n}", self.prefix), PER_TOPIC.min(self.partitions - start));
        starts.enumerate().map(topic).collect()
    }

    /// Creates the topics and waits for their leaders.
    pub fn create(&self, bench: &Workbench) -> Result<()> {
        self.each(|topic, partitions| bench.create_topic(topic, partitions as i32, &[]))
    }

    /// Writes a record with so many bytes of value to every partition, each a batch of its own. Contents go by the seed.
    pub fn write(&self, bench: &Workbench, value_bytes: u32, seed: u64) -> Result<()> {
        let defaults = ProduceOptions::default();
        let produce = ProduceOptions { batch_bytes: value_bytes.saturating_add(OVERHEAD), ..defaults };
        self.each(|topic, partitions| {
            let load = Generate {
                count: partitions.into(),
                partitions: partitions as i32,
                value_bytes,
                seed,
                ..Generate::default()
            };
            bench.generate(topic, &load, &produce)
        })
    }

    /// Does this for each topic, some at a time.
    fn each(&self, work: impl Fn(&str, u32) -> Result<()> + Sync) -> Result<()> {
        for some in self.topics().chunks(AT_A_TIME) {
            let work = &work;
            let all = |(topic, partitions): &(String, u32)| {
                work(topic, *partitions).with_context(|| format!("topic {topic}"))
            };
            thread::scope(|scope| {
                let under_way: Vec<_> = some.iter().map(|topic| scope.spawn(|| all(topic))).collect();
                under_way.into_iter().try_for_each(|done| match done.join() {
                    Ok(result) => result,
                    Err(_) => bail!("a thread panicked"),
                })
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure ends the test")]

    use super::*;

    #[test]
    fn spreads_partitions_over_topics() {
        let topics = Many::new("t", 2300).unwrap().topics();
        assert_eq!(topics, [("t0".to_owned(), 1000), ("t1".to_owned(), 1000), ("t2".to_owned(), 300)]);
        assert!(Many::new("t", 0).is_err());
        assert!(Many::new("t", 1_000_000).is_err());
    }
}

//! Oddities of where a log starts and ends.

use anyhow::{Context, Result};

use super::Filling;
use crate::workbench::{ProduceOptions, Workbench};

/// The log starts at the fourth record of a batch of ten. Later rounds move the start to within the last batch of
/// the round before, so that they take away nothing that a reader could not have had.
pub(super) fn into_batch(to: &Filling<'_>) -> Result<()> {
    let records = to.records(0, 30);
    let acked = to.bench.produce(to.topic, &records, &ProduceOptions::default().flush_every(10))?;
    let first = acked.first().context("nothing was acknowledged")?.first;
    let start = if to.round == 0 { first + 13 } else { first - 6 };
    to.bench.delete_records(to.topic, 0, start)
}

pub(super) fn few_partitions(to: &Filling<'_>) -> Result<()> {
    let records = [to.records(1, 3), to.records(4, 2)].concat();
    to.write(&records, &ProduceOptions::default())
}

/// All records go; later rounds take away those of the round before and write new ones.
pub(super) fn emptied(to: &Filling<'_>) -> Result<()> {
    if to.round > 0 {
        to.bench.delete_records(to.topic, 0, end(to.bench, to.topic)?)?;
    }
    to.write(&to.records(0, 12), &ProduceOptions::default().flush_every(5))?;
    if to.round == 0 {
        to.bench.delete_records(to.topic, 0, end(to.bench, to.topic)?)?;
    }
    Ok(())
}

fn end(bench: &Workbench, topic: &str) -> Result<i64> {
    Ok(bench.describe(topic)?.partitions.first().context("the topic has no partition")?.end)
}

//! Oddities that a plain producer makes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Filling;
use crate::workbench::{Codec, Generate, ProduceOptions, Record};

/// 2024-01-01T00:00:00Z, from which the times of most records count.
const EPOCH_MS: i64 = 1_704_067_200_000;
const DAY_MS: i64 = 86_400_000;
const YEAR_MS: i64 = 365 * DAY_MS;
const CONFIG_LIMIT: Duration = Duration::from_secs(30);

impl Filling<'_> {
    pub(super) fn write(&self, records: &[Record], options: &ProduceOptions) -> Result<()> {
        self.bench.produce(self.topic, records, options).map(|_| ())
    }

    /// Records of random sizes with keys and values that tell where they belong.
    pub(super) fn records(&self, partition: i32, count: u64) -> Vec<Record> {
        let mut rng = fastrand::Rng::with_seed(u64::from(self.round) << 32 | count);
        let record = |n| {
            let length = rng.usize(0..200);
            let filler: String = std::iter::repeat_with(|| rng.alphanumeric()).take(length).collect();
            let value = format!("round {} record {n} {filler}", self.round);
            Record::new(partition).key(format!("key-{n}")).value(value)
        };
        (0..count).map(record).collect()
    }
}

pub(super) fn codec(to: &Filling<'_>, codec: Codec) -> Result<()> {
    to.write(&to.records(0, 20), &ProduceOptions::codec(codec).flush_every(5))
}

pub(super) fn nulls(to: &Filling<'_>) -> Result<()> {
    let round = to.round.to_string();
    let records = [
        Record::new(0),
        Record::new(0).key("").value(""),
        Record::new(0).key("key of a null"),
        Record::new(0).key("key of an empty value").value(""),
        Record::new(0).value("value without a key"),
        Record::new(0).key("").value("value of an empty key"),
        Record::new(0).key("round").value(&round),
    ];
    to.write(&records, &ProduceOptions::default())?;
    to.write(&records, &ProduceOptions::codec(Codec::Lz4).flush_every(3))
}

pub(super) fn headers(to: &Filling<'_>) -> Result<()> {
    let records = [
        Record::new(0).key("none").value("v"),
        Record::new(0).key("one").header("h", Some(b"1")),
        Record::new(0)
            .key("repeated")
            .header("h", Some(b"2"))
            .header("h", Some(b"1"))
            .header("h", Some(b"2")),
        Record::new(0).key("null").header("h", None).header("g", Some(b"")),
        Record::new(0).key("nameless").header("", Some(b"x")).header("", None).header("", Some(b"")),
        Record::new(0).key("bytes").header("naïve ✓", Some(&[0, 0xff, 0x80, b'\n'])),
        Record::new(0).key("order").header("b", Some(b"1")).header("a", Some(b"2")).header("b", Some(b"3")),
        Record::new(0).header("of nulls", Some(to.round.to_string().as_bytes())),
    ];
    to.write(&records, &ProduceOptions::default())?;
    to.write(&records, &ProduceOptions::codec(Codec::Gzip))
}

pub(super) fn unordered_times(to: &Filling<'_>) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(u64::from(to.round));
    let mut records = to.records(0, 40);
    for record in &mut records {
        record.timestamp = Some(EPOCH_MS + rng.i64(-10 * DAY_MS..10 * DAY_MS));
    }
    to.write(&records, &ProduceOptions::codec(Codec::Snappy).flush_every(8))
}

pub(super) fn old_times(to: &Filling<'_>) -> Result<()> {
    let records = to.records(0, 50).into_iter().zip(0..);
    let records: Vec<Record> = records.map(|(record, year)| record.at(year * YEAR_MS)).collect();
    to.write(&records, &ProduceOptions::default().flush_every(10))
}

pub(super) fn future_times(to: &Filling<'_>) -> Result<()> {
    let records = to.records(0, 10).into_iter().zip(0..);
    let records: Vec<Record> = records.map(|(record, day)| record.at(130 * YEAR_MS + day * DAY_MS)).collect();
    to.write(&records, &ProduceOptions::default())
}

pub(super) fn append_time(to: &Filling<'_>) -> Result<()> {
    let dated: Vec<Record> = to.records(0, 10).into_iter().map(|r| r.at(EPOCH_MS)).collect();
    to.write(&dated, &ProduceOptions::default().flush_every(5))?;
    to.write(&dated, &ProduceOptions::codec(Codec::Zstd))
}

/// The broker applies a changed config a moment after it reports it: the first records after the switch show when.
pub(super) fn append_time_ended(to: &Filling<'_>) -> Result<()> {
    let dated: Vec<Record> = to.records(0, 6).into_iter().zip(0..).map(|(r, n)| r.at(EPOCH_MS + n)).collect();
    if to.round == 0 {
        to.write(&dated, &ProduceOptions::default())?;
        to.bench.alter_config(to.topic, &[("retention.ms", "-1")], &["message.timestamp.type"])?;
    }
    let deadline = Instant::now() + CONFIG_LIMIT;
    let last = dated.last().and_then(|r| r.timestamp);
    while to.bench.produce(to.topic, &dated, &ProduceOptions::default())?.first().map(|a| a.last_timestamp)
        != last
    {
        if Instant::now() > deadline {
            bail!("{} still takes append times {CONFIG_LIMIT:?} after its config was changed", to.topic);
        }
    }
    Ok(())
}

pub(super) fn large(to: &Filling<'_>) -> Result<()> {
    let seed = u64::from(to.round);
    for (value_bytes, codec) in
        [(5 << 20, Codec::None), (5 << 20, Codec::Zstd), (3 << 20, Codec::Lz4), (100, Codec::None)]
    {
        let load = Generate {
            count: 2,
            value_bytes,
            seed,
            compressible: codec != Codec::None,
            ..Generate::default()
        };
        to.bench.generate(to.topic, &load, &ProduceOptions::codec(codec))?;
    }
    Ok(())
}

pub(super) fn idempotent(to: &Filling<'_>) -> Result<()> {
    for _producer in 0..3 {
        let records = [to.records(0, 12), to.records(1, 7)].concat();
        to.write(&records, &ProduceOptions::default().flush_every(4))?;
    }
    Ok(())
}

pub(super) fn not_idempotent(to: &Filling<'_>) -> Result<()> {
    to.write(&to.records(0, 12), &ProduceOptions::default().plain().flush_every(4))
}

pub(super) fn many_partitions(to: &Filling<'_>) -> Result<()> {
    let records: Vec<Record> = (0..50).flat_map(|p| to.records(p, 3)).collect();
    to.write(&records, &ProduceOptions::default())
}

pub(super) fn tiny_batches(to: &Filling<'_>) -> Result<()> {
    to.write(&to.records(0, 100), &ProduceOptions::default().flush_every(1))
}

//! Oddities that the log cleaner makes.
//!
//! The cleaner never touches the segment being written. These topics start a new segment whenever the time from its
//! first record exceeds a second, so times ten seconds apart put each batch into a segment of its own; a last batch
//! keeps the current segment busy.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use super::{Filling, transactions};
use crate::workbench::{Codec, Isolation, ProduceOptions, Record, Workbench};

pub(super) const CONFIGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "1000"),
    ("min.cleanable.dirty.ratio", "0.001"),
    ("delete.retention.ms", "1000"),
];
/// Tombstones stay for a day after the cleaner first met them.
pub(super) const TOMBSTONE_CONFIGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "1000"),
    ("min.cleanable.dirty.ratio", "0.001"),
    ("delete.retention.ms", "86400000"),
];

const STEP_MS: i64 = 10_000;
/// From the times of one round to those of the next.
const ROUND_MS: i64 = 10 * STEP_MS;
/// Within a day: the cleaner keeps an emptied batch only while the broker still knows its producer, which it
/// forgets a day after the batch's time.
const HALF_A_DAY_MS: i64 = 43_200_000;
/// The key that keeps the current segment busy.
const LAST: &str = "last";
/// Keys that start so are of aborted transactions, which the cleaner removes.
const ABORTED: &str = "aborted";
const CLEANER_LIMIT: Duration = Duration::from_secs(180);

/// Writes batches, each of them in a segment of its own.
struct Segments<'a> {
    to: &'a Filling<'a>,
    options: ProduceOptions,
    clock: i64,
}

impl<'a> Segments<'a> {
    fn new(to: &'a Filling<'a>, options: ProduceOptions) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        Self { to, options, clock: now - HALF_A_DAY_MS + i64::from(to.round) * ROUND_MS }
    }

    /// The records of the next batch: their times are within one second, ten seconds after the batch before.
    fn batch(&mut self, keys: &[String], value: Option<&str>) -> Vec<Record> {
        self.clock += STEP_MS;
        let record = |(n, key): (usize, &String)| {
            let record = Record::new(0).key(key).at(self.clock + n as i64);
            match value {
                Some(value) => record.value(format!("{value} of round {}", self.to.round)),
                None => record,
            }
        };
        keys.iter().enumerate().map(record).collect()
    }

    fn write(&mut self, keys: &[String], value: Option<&str>) -> Result<()> {
        let records = self.batch(keys, value);
        self.to.write(&records, &self.options)
    }

    fn finish(&mut self) -> Result<()> {
        self.write(&[LAST.to_owned()], Some("end"))
    }
}

fn keys(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("key-{n:02}")).collect()
}

/// Holes at the start, in the middle and at the end of batches, and a batch that goes altogether.
pub(super) fn holes(to: &Filling<'_>, codec: Codec) -> Result<()> {
    let mut segments = Segments::new(to, ProduceOptions::codec(codec).plain());
    segments.write(&keys(0..10), Some("first"))?;
    segments.write(&keys(10..20), Some("first"))?;
    segments.write(&keys(20..25), Some("overwritten"))?;
    segments.write(&keys([1, 4, 5]), Some("second"))?;
    segments.write(&keys([10, 13, 19]), Some("second"))?;
    segments.write(&keys(20..25), Some("second"))?;
    segments.finish()
}

/// The first batch of each producer is its last one, too, so the cleaner keeps it without records.
pub(super) fn emptied(to: &Filling<'_>) -> Result<()> {
    let mut segments = Segments::new(to, ProduceOptions::default());
    segments.write(&keys(0..3), Some("first"))?;
    segments.write(&keys(3..5), Some("first"))?;
    segments.write(&keys(0..5), Some("second"))?;
    segments.finish()
}

pub(super) fn tombstones(to: &Filling<'_>) -> Result<()> {
    let mut segments = Segments::new(to, ProduceOptions::codec(Codec::Gzip).plain());
    segments.write(&keys(0..8), Some("first"))?;
    segments.write(&keys([2, 3, 6]), None)?;
    segments.write(&keys([3]), Some("again"))?;
    segments.finish()
}

/// Markers carry the time of now, and only a later time starts a segment: so these records lie in the near future.
pub(super) fn transactions(to: &Filling<'_>) -> Result<()> {
    let producer = format!("{}-producer", to.topic);
    let mut segments = Segments::new(to, ProduceOptions::default());
    segments.clock += HALF_A_DAY_MS;
    for (commit, what) in [(true, "first"), (false, ABORTED), (true, "second")] {
        let aborted = [format!("{ABORTED}-1"), format!("{ABORTED}-2")];
        let records = segments.batch(&if commit { keys(0..4) } else { aborted.to_vec() }, Some(what));
        to.bench.begin(&producer, &ProduceOptions::default())?;
        to.bench.send(&producer, to.topic, &records)?;
        transactions::end(to, &producer, commit)?;
    }
    segments.finish()
}

/// Waits until the cleaner has left each key once, and of aborted transactions none.
pub(super) fn wait(bench: &Workbench, topic: &str) -> Result<()> {
    let deadline = Instant::now() + CLEANER_LIMIT;
    loop {
        let mut seen: HashMap<String, u32> = HashMap::new();
        for record in bench.dump(topic, Isolation::Uncommitted)?.iter()? {
            *seen.entry(record?.key_text().unwrap_or_default()).or_default() += 1;
        }
        let left = seen.iter().find(|(key, count)| *key != LAST && (**count > 1 || key.starts_with(ABORTED)));
        let Some((key, count)) = left else { return Ok(()) };
        if Instant::now() > deadline {
            bail!(
                "{topic} still has {count} records of {key} after {CLEANER_LIMIT:?}: does the log cleaner run?"
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

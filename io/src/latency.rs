//! How long requests take: a histogram for each kind of them (HDR: three significant digits from a microsecond to an hour).
//!
//! Recorded once per request or part, never per batch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Microseconds; what is shorter or longer counts as these.
const BOUNDS: (u64, u64) = (1, 3_600_000_000);
const DIGITS: u8 = 3;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Fetch of a backup: from its sending until the answer has been read whole, less what was waited for a place to put it.
    Fetch,
    /// A part of an object: from its handing over to the store until it is written and its buffer free.
    Store,
    /// A ranged read of an object.
    Read,
    /// A Produce: from its sending until its acknowledgement has been read.
    Produce,
}

/// The histograms of a run.
#[derive(Debug, Default)]
pub struct Latencies {
    fetch: Recorder,
    store: Recorder,
    read: Recorder,
    produce: Recorder,
}

/// Made at the first record: a kind that does not occur takes no memory.
#[derive(Debug, Default)]
struct Recorder(Mutex<Option<Histogram<u64>>>);

/// What was measured; kinds that did not occur are absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summaries {
    /// See [`Kind::Fetch`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Summary>,
    /// See [`Kind::Store`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Summary>,
    /// See [`Kind::Read`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Summary>,
    /// See [`Kind::Produce`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub produce: Option<Summary>,
}

/// One histogram in a few numbers, all but the count in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many were measured.
    pub count: u64,
    /// Half took at most so long.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1,000.
    pub p999_us: u64,
    /// All of them.
    pub max_us: u64,
    /// The arithmetic mean.
    pub mean_us: f64,
}

impl Latencies {
    /// Counts one that took so long.
    pub fn record(&self, kind: Kind, took: Duration) {
        let recorder = match kind {
            Kind::Fetch => &self.fetch,
            Kind::Store => &self.store,
            Kind::Read => &self.read,
            Kind::Produce => &self.produce,
        };
        recorder.record(took);
    }

    /// What was measured so far.
    pub fn summaries(&self) -> Summaries {
        Summaries {
            fetch: self.fetch.summary(),
            store: self.store.summary(),
            read: self.read.summary(),
            produce: self.produce.summary(),
        }
    }
}

impl Recorder {
    fn record(&self, took: Duration) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Histogram::new_with_bounds(BOUNDS.0, BOUNDS.1, DIGITS).ok();
        }
        if let Some(histogram) = slot.as_mut() {
            histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn summary(&self) -> Option<Summary> {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = slot.as_ref()?;
        // A histogram answers with the end of a step, which may lie beyond what was met.
        let below = |share| histogram.value_at_quantile(share).min(histogram.max());
        Some(Summary {
            count: histogram.len(),
            p50_us: below(0.5),
            p90_us: below(0.9),
            p99_us: below(0.99),
            p999_us: below(0.999),
            max_us: histogram.max(),
            mean_us: histogram.mean(),
        })
    }
}

impl Summaries {
    /// Those that occurred, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Summary)> {
        let all =
            [("fetch", self.fetch), ("store", self.store), ("read", self.read), ("produce", self.produce)];
        all.into_iter().filter_map(|(name, summary)| Some((name, summary?)))
    }
}

/// Records the time from its making to its end.
#[derive(Debug)]
pub struct Stopwatch {
    latencies: Arc<Latencies>,
    kind: Kind,
    since: Instant,
}

impl Stopwatch {
    /// Starts now.
    pub fn start(latencies: &Arc<Latencies>, kind: Kind) -> Self {
        Self { latencies: Arc::clone(latencies), kind, since: Instant::now() }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.latencies.record(self.kind, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_thousand() {
        let latencies = Latencies::default();
        assert_eq!(latencies.summaries(), Summaries::default());
        (1..=1000).for_each(|ms| latencies.record(Kind::Fetch, Duration::from_millis(ms)));
        let summaries = latencies.summaries();
        assert_eq!((summaries.store, summaries.read, summaries.produce), (None, None, None));
        let fetch = summaries.fetch.unwrap();
        let near = |found: f64, ms: f64| assert!((found / 1000.0 / ms - 1.0).abs() < 0.001, "{found} {ms}");
        assert_eq!(fetch.count, 1000);
        near(fetch.p50_us as f64, 500.0);
        near(fetch.p90_us as f64, 900.0);
        near(fetch.p99_us as f64, 990.0);
        near(fetch.p999_us as f64, 999.0);
        near(fetch.max_us as f64, 1000.0);
        near(fetch.mean_us, 500.5);
    }

    #[test]
    fn one_value_is_every_percentile_and_what_is_out_of_bounds_counts() {
        let latencies = Latencies::default();
        latencies.record(Kind::Read, Duration::from_micros(123_457));
        let read = latencies.summaries().read.unwrap();
        assert!([read.p50_us, read.p90_us, read.p99_us, read.p999_us].iter().all(|p| *p == read.max_us));
        latencies.record(Kind::Produce, Duration::ZERO);
        latencies.record(Kind::Produce, Duration::from_secs(86_400));
        let produce = latencies.summaries().produce.unwrap();
        assert_eq!(produce.count, 2);
        assert!(produce.max_us >= BOUNDS.1 && produce.p50_us <= 1, "{produce:?}");
    }

    #[test]
    fn a_stopwatch_records_at_its_end() {
        let latencies = Arc::new(Latencies::default());
        let watch = Stopwatch::start(&latencies, Kind::Store);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(latencies.summaries().store, None);
        drop(watch);
        let store = latencies.summaries().store.unwrap();
        assert!(store.count == 1 && store.max_us >= 2000, "{store:?}");
        let names: Vec<_> = latencies.summaries().named().map(|(name, _)| name).collect();
        assert_eq!(names, ["store"]);
    }
}

//! What is done about a batch that stays bad: it is fetched three times, then from other replicas, then a gap is recorded and the reading goes
//! on behind it.
//!
//! Where the bad batch ends is not taken from its own header alone, which may be what is damaged. A good batch that follows it in
//! the same answer bears it out. Without one the end is looked for: a Fetch at an offset inside of the bad batch brings it again, one
//! behind it brings the next, so doubling steps and then halves find the first offset behind it in some tens of requests.

use bodley_protocol::batch;

use super::task::Task;
use super::worker::Trouble;
use crate::vault::rows::{Kind, Range, Reason};
use crate::vault::walk::Bad;

/// How often a bad batch is fetched from its leader before others are asked.
const BAD_TRIES: u32 = 3;

/// The search for the end of a bad batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunt {
    /// An offset of the bad batch.
    inside: i64,
    step: i64,
    /// An offset that brings a good batch.
    behind: Option<i64>,
    /// Where the run ends.
    end: i64,
    /// Where the bad batch ends by its own header, exclusive.
    claimed: Option<i64>,
}

/// What a search has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// More offsets have to be asked for.
    Nothing,
    /// The first offset behind the bad batch.
    End(i64),
    /// No good batch up to the run's end.
    Never,
}

impl Hunt {
    /// For a bad batch at `next`.
    pub fn new(next: i64, end: i64, claimed: Option<i64>) -> Self {
        Self { inside: next, step: 1, behind: None, end, claimed }
    }

    /// The offset to fetch at.
    pub fn at(&self) -> i64 {
        match self.behind {
            Some(behind) => self.inside + (behind - self.inside) / 2,
            None => self.inside.saturating_add(self.step).min(self.end - 1),
        }
    }

    /// The first offset that a good batch at the head of `bytes`, fetched at [`Hunt::at`], answers for.
    pub fn look(&self, bytes: &[u8]) -> Option<i64> {
        let header = batch::view_checked(bytes).ok().flatten()?;
        let offsets = self.inside + 1..self.end;
        let good = offsets.contains(&header.base_offset) && header.last_offset() >= self.at();
        good.then_some(header.base_offset)
    }

    /// Takes the outcome of a Fetch at [`Hunt::at`]: the base offset of a good batch, or nothing of use.
    pub fn learn(&mut self, good: Option<i64>) -> Found {
        let at = self.at();
        match good {
            Some(base) => self.behind = Some(base.min(at)),
            None => (self.inside, self.step) = (at.max(self.inside), self.step.saturating_mul(2)),
        }
        match self.behind {
            Some(behind) if behind - self.inside <= 1 => Found::End(behind),
            None if self.inside >= self.end - 1 => self.claimed.map_or(Found::Never, Found::End),
            _ => Found::Nothing,
        }
    }
}

/// Decides about a batch at the task's `next` that is bad once more. `behind`: the offset behind it as the next batch bears it out, and as it
/// says itself. `None`: it is to be fetched again, or the task goes on.
pub fn bad_batch(
    task: &mut Task,
    bad: &Bad,
    behind: (Option<i64>, Option<i64>),
    ranges: &mut Vec<Range>,
) -> Option<Trouble> {
    task.bad_tries += 1;
    let (tp, next, tries) = (&task.tp, task.next, task.bad_tries);
    match bad {
        // A broker may look at its last stable offset, and then read beyond it as it has risen: the next answer has both.
        Bad::Order { .. } if tries == 1 => tracing::info!("{tp} at offset {next}: {bad} (try {tries})"),
        _ => tracing::warn!("{tp} at offset {next}: {bad} (try {tries})"),
    }
    if task.elsewhere.is_none() && task.bad_tries < BAD_TRIES {
        return None;
    }
    task.bad = Some(bad.to_string());
    if !task.replicas_asked {
        return Some(Trouble::OtherReplica);
    }
    let (next, end) = (task.next, task.known_end());
    let within = |offset: &i64| *offset > next && *offset <= end;
    match (behind.0.filter(within), behind.1.filter(within)) {
        (Some(behind), _) => lose(task, behind, ranges),
        (None, Some(claimed)) if task.next + 1 >= end => lose(task, claimed, ranges),
        (None, _) if task.next + 1 >= end => return Some(Trouble::BadBatch(bad.to_string())),
        (None, claimed) => task.hunt = Some(Hunt::new(task.next, end, claimed)),
    }
    None
}

/// Takes the outcome of a Fetch that looked for the end of a bad batch.
pub fn go_on(task: &mut Task, good: Option<i64>, ranges: &mut Vec<Range>) -> Option<Trouble> {
    match task.hunt.as_mut()?.learn(good) {
        Found::Nothing => None,
        Found::End(behind) => {
            lose(task, behind, ranges);
            None
        }
        Found::Never => {
            task.hunt = None;
            Some(Trouble::BadBatch(task.bad.take().unwrap_or_default()))
        }
    }
}

fn lose(task: &mut Task, behind: i64, ranges: &mut Vec<Range>) {
    ranges.push(task.row(Kind::Gap(Reason::Corrupt), behind));
    task.jump(behind);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of which `bad` is bad, and what lies behind begins at `next`.
    fn hunt(bad: std::ops::Range<i64>, next: i64, end: i64, claimed: Option<i64>) -> (Found, usize) {
        let mut hunt = Hunt::new(bad.start, end, claimed);
        for tries in 1..200 {
            let at = hunt.at();
            assert!(at > bad.start && at < end, "{at}");
            // Batches of ten.
            let base = if at < next { next } else { at - (at - next) % 10 };
            let found = hunt.learn((!bad.contains(&at)).then_some(base));
            if found != Found::Nothing {
                return (found, tries);
            }
        }
        panic!("no end");
    }

    #[test]
    fn the_end_is_found_exactly() {
        for last in [101, 102, 103, 117, 164, 4000, 1 << 40] {
            let (found, tries) = hunt(100..last, last, i64::MAX / 4, None);
            assert_eq!(found, Found::End(last));
            assert!(tries < 100, "{tries}");
            // A hole of compaction behind it is not lost.
            assert_eq!(hunt(100..last, last + 777, i64::MAX / 4, None).0, Found::End(last));
        }
    }

    #[test]
    fn without_a_good_batch_the_header_decides() {
        assert_eq!(hunt(100..200, 200, 200, Some(150)).0, Found::End(150));
        assert_eq!(hunt(100..200, 200, 200, None).0, Found::Never);
        assert_eq!(hunt(100..102, 102, 102, None).0, Found::Never);
    }
}

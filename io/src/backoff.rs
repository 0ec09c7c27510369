//! The one retry policy: jittered exponential pauses up to a deadline without progress; and the gate that all tasks go through that
//! want the same thing again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Pauses that grow, each shortened by up to a half at random so that clients don't move in step.
#[derive(Debug)]
pub struct Backoff {
    pauses: Pauses,
    next: Duration,
    give_up_after: Duration,
    since: Instant,
}

/// The first pause and the longest; in between each is twice the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    /// At least 1 ms.
    pub first: Duration,
    /// Not below the first.
    pub longest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(2) }
    }
}

impl Backoff {
    /// Gives up when there was no progress for `give_up_after`.
    pub fn new(give_up_after: Duration) -> Self {
        Self::with_pauses(Pauses::default(), give_up_after)
    }

    /// With other pauses than the usual ones.
    pub fn with_pauses(pauses: Pauses, give_up_after: Duration) -> Self {
        Self { pauses, next: pauses.first, give_up_after, since: Instant::now() }
    }

    /// Something worked: pauses start small again.
    pub fn progress(&mut self) {
        self.next = self.pauses.first;
        self.since = Instant::now();
    }

    /// Since the beginning or the last progress.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether the time without progress is up.
    pub fn is_over(&self) -> bool {
        self.since.elapsed() >= self.give_up_after
    }

    /// How long to wait before the next try; `None`: the time is up.
    pub fn pause(&mut self) -> Option<Duration> {
        if self.is_over() {
            return None;
        }
        let pause = jittered(self.next);
        self.next = (self.next * 2).min(self.pauses.longest);
        Some(pause)
    }

    /// Waits for the next try; `false`: the time is up.
    pub async fn wait(&mut self) -> bool {
        match self.pause() {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }
}

/// How long one of many things rests that has been stuck for so long, before it is tried again: a quarter of that, within bounds. What was stuck together
/// does not come back in step.
pub fn rest(stuck: Duration) -> Duration {
    let (least, most) = REST;
    jittered((stuck / 4).clamp(least, most))
}

/// Shortens a pause by up to a half.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// The shortest rest and the longest, before chance shortens them.
const REST: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// After so long without a try the next one does not wait.
const QUIET: Duration = Duration::from_secs(10);

/// A gate before something that many tasks want when it fails, such as news of the cluster or a connection to a broker: one of them tries at a time,
/// the pauses between tries grow while they come one after another, and a failure is that of all who waited for it.
#[derive(Debug)]
pub struct Gate<E> {
    pauses: Pauses,
    turn: Mutex<Turn<E>>,
    /// Failed tries, and 0 again after a success.
    failures: AtomicU64,
    /// Tries that ended.
    ended: AtomicU64,
}

/// The gate's state, and the right to try, of which there is one.
#[derive(Debug)]
pub struct Turn<E> {
    pause: Duration,
    last: Option<Instant>,
    /// Of the last try.
    failure: Option<E>,
}

/// The right to try next.
#[derive(Debug)]
pub struct Pass<'a, E> {
    gate: &'a Gate<E>,
    turn: MutexGuard<'a, Turn<E>>,
}

impl<E> Gate<E> {
    /// Nobody has tried yet.
    pub fn new(pauses: Pauses) -> Self {
        let turn = Turn { pause: Duration::ZERO, last: None, failure: None };
        Self { pauses, turn: Mutex::new(turn), failures: AtomicU64::new(0), ended: AtomicU64::new(0) }
    }

    /// Failures in a row up to now.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Waits until nobody else tries. `Err` of a copy of the failure of a try that ended while this waited.
    pub async fn enter(&self, copy: impl Fn(&E) -> E) -> Result<Pass<'_, E>, E> {
        let arrived = self.ended.load(Ordering::Relaxed);
        let turn = self.turn.lock().await;
        match &turn.failure {
            Some(failure) if self.ended.load(Ordering::Relaxed) > arrived => Err(copy(failure)),
            _ => Ok(Pass { gate: self, turn }),
        }
    }

    /// A try beside the gate, before which nobody had to wait, worked.
    pub fn worked(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// A try beside the gate failed: the next ones go through it, one by one.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

impl<E> Pass<'_, E> {
    /// Waits until it is time for the next try.
    pub async fn wait(&mut self) {
        let Pauses { first, longest } = self.gate.pauses;
        if self.turn.last.is_none_or(|last| last.elapsed() > QUIET) {
            self.turn.pause = Duration::ZERO;
        }
        if let Some(last) = self.turn.last {
            tokio::time::sleep_until(last + jittered(self.turn.pause)).await;
        }
        // Tries that work are of more use than such that fail, though they are wanted again and again.
        let longest = if self.gate.failures() > 0 { longest } else { longest / 2 };
        self.turn.pause = (self.turn.pause * 2).clamp(first, longest.max(first));
    }

    /// The try worked, or failed.
    pub fn end(mut self, failure: Option<E>) {
        match failure {
            Some(_) => self.gate.failed(),
            None => self.gate.worked(),
        }
        (self.turn.last, self.turn.failure) = (Some(Instant::now()), failure);
        self.gate.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A hundred tasks want what fails, over and over.
    #[tokio::test(start_paused = true)]
    async fn a_gate_lets_few_tries_through() {
        let gate = Arc::new(Gate::new(Pauses::default()));
        let tries = Arc::new(AtomicU64::new(0));
        let until = Instant::now() + Duration::from_secs(30);
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100 {
            let (gate, tries) = (Arc::clone(&gate), Arc::clone(&tries));
            tasks.spawn(async move {
                while Instant::now() < until {
                    if let Ok(mut pass) = gate.enter(|error: &u64| *error).await {
                        pass.wait().await;
                        tries.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        pass.end(Some(n));
                    }
                    tokio::time::sleep(Duration::from_millis(10 + n)).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        let tries = tries.load(Ordering::Relaxed);
        assert!((15..=40).contains(&tries), "{tries} tries in 30 s");
        assert_eq!(gate.failures(), tries);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_is_open_at_first_and_after_a_while() {
        let gate: Gate<()> = Gate::new(Pauses::default());
        let begun = Instant::now();
        for round in 0..2 {
            let mut pass = gate.enter(|()| ()).await.unwrap();
            pass.wait().await;
            pass.end(None);
            assert_eq!(begun.elapsed(), Duration::from_secs(11) * round);
            tokio::time::sleep(Duration::from_secs(11)).await;
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut backoff = Backoff::new(Duration::from_secs(60));
        let first = backoff.pause().unwrap();
        assert!(first >= Duration::from_millis(25) && first <= Duration::from_millis(50));
        let last = (0..10).map(|_| backoff.pause().unwrap()).last().unwrap();
        assert!(last >= Duration::from_secs(1) && last <= Duration::from_secs(2));
        backoff.progress();
        assert!(backoff.pause().unwrap() <= Duration::from_millis(50));
        assert_eq!(Backoff::new(Duration::ZERO).pause(), None);
    }
}

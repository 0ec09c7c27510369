//! The one retry policy: jittered exponential pauses up to a deadline without progress.

use std::time::Duration;

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
        let jittered = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.pauses.longest);
        Some(jittered)
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

#[cfg(test)]
mod tests {
    use super::*;

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

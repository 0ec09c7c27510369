//! A value that ends and is fetched anew: one fetch at a time, before the end, the old value serving meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bodley_io::TokenError;
use tokio::sync::watch;

/// What a fetch brings.
#[derive(Debug, Clone)]
pub(crate) struct Fresh<T> {
    pub value: T,
    /// From then on a new one is fetched.
    pub refresh_at: SystemTime,
    /// From then on it is of no use; `None`: not known, it serves until a new one is there.
    pub expires: Option<SystemTime>,
}

/// A value is renewed so long before its end,
const EARLY: Duration = Duration::from_secs(300);
/// or when this part of its life is left, whichever is later.
const EARLY_PART: u32 = 5;

impl<T> Fresh<T> {
    /// Renewed 5 minutes before its end, when a fifth of a shorter life is left; without an end looked up again every 5 minutes, for
    /// files change. `Err`: when it ended already.
    pub fn renewed_early(value: T, expires: Option<SystemTime>) -> Result<Self, SystemTime> {
        let now = SystemTime::now();
        let refresh_at = match expires {
            None => now + EARLY,
            Some(end) => {
                let left = end.duration_since(now).ok().filter(|left| !left.is_zero()).ok_or(end)?;
                end - EARLY.min(left / EARLY_PART)
            }
        };
        Ok(Self { value, refresh_at, expires })
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether more than half of the time for a renewal is gone: a new value is worth waiting for.
    fn is_late(&self, now: SystemTime) -> bool {
        let Some(expires) = self.expires else { return false };
        let left = expires.duration_since(now).unwrap_or_default();
        left < expires.duration_since(self.refresh_at).unwrap_or_default() / 2
    }
}

/// Where the value comes from.
#[async_trait]
pub(crate) trait Fetch: Send + Sync + 'static {
    type Item: Clone + Send + Sync + 'static;
    /// A new value, with what retries make sense.
    async fn fetch(&self) -> Result<Fresh<Self::Item>, TokenError>;
}

type Outcome<T> = Option<Result<T, TokenError>>;

struct State<T> {
    held: Option<Fresh<T>>,
    /// The fetch that is under way; all who need it wait for the same.
    flight: Option<watch::Receiver<Outcome<T>>>,
    /// After a failed fetch the next one begins no sooner, while the old value is valid.
    not_before: SystemTime,
    /// When a value was last refused.
    distrusted: Option<SystemTime>,
}

/// Refusals within this time are of the same value.
const ONE_REFUSAL: Duration = Duration::from_secs(5);

struct Inner<F: Fetch> {
    fetch: F,
    state: Mutex<State<F::Item>>,
}

/// The shared value. Clones share it.
pub(crate) struct Refreshed<F: Fetch>(Arc<Inner<F>>);

impl<F: Fetch> Refreshed<F> {
    pub fn new(fetch: F) -> Self {
        let state = State { held: None, flight: None, not_before: SystemTime::UNIX_EPOCH, distrusted: None };
        Self(Arc::new(Inner { fetch, state: Mutex::new(state) }))
    }

    pub fn source(&self) -> &F {
        &self.0.fetch
    }

    /// What is held, valid or not.
    pub fn held(&self) -> Option<F::Item> {
        self.0.lock().held.as_ref().map(|held| held.value.clone())
    }

    /// Somebody did not take the value: the next one who asks gets another. Many who were refused with the same value say so within moments.
    pub fn distrust(&self) {
        let (mut state, now) = (self.0.lock(), SystemTime::now());
        let young = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age < ONE_REFUSAL);
        if !state.distrusted.is_some_and(young) {
            (state.held, state.distrusted) = (None, Some(now));
        }
    }

    /// The value. Waits only if none is valid or the end is near; all who wait share one fetch and its outcome. The fetch goes on
    /// when a caller gives up.
    pub async fn get(&self) -> Result<F::Item, TokenError> {
        let (old, mut flight) = {
            let mut state = self.0.lock();
            let now = SystemTime::now();
            let old = state.held.clone().filter(|held| held.is_valid(now));
            match old {
                Some(old) if now < old.refresh_at || now < state.not_before => return Ok(old.value),
                Some(old) if !old.is_late(now) => {
                    self.join(&mut state);
                    return Ok(old.value);
                }
                old => (old, self.join(&mut state)),
            }
        };
        let outcome = match flight.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            // The task ended without a word: its runtime is going down.
            _ => Err(TokenError { what: "the fetch of the token was cut off".to_owned(), passing: true }),
        };
        match old {
            Some(old) if outcome.is_err() && old.is_valid(SystemTime::now()) => Ok(old.value),
            _ => outcome,
        }
    }

    /// The fetch under way, or a new one.
    fn join(&self, state: &mut State<F::Item>) -> watch::Receiver<Outcome<F::Item>> {
        if let Some(flight) = &state.flight
            && flight.has_changed().is_ok()
        {
            return flight.clone();
        }
        let (sender, receiver) = watch::channel(None);
        state.flight = Some(receiver.clone());
        let inner = self.0.clone();
        tokio::spawn(async move {
            let outcome = inner.fetch.fetch().await;
            let _ = sender.send(Some(inner.land(outcome)));
        });
        receiver
    }
}

impl<F: Fetch> Inner<F> {
    fn lock(&self) -> MutexGuard<'_, State<F::Item>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a fetch brought.
    fn land(&self, outcome: Result<Fresh<F::Item>, TokenError>) -> Result<F::Item, TokenError> {
        let mut state = self.lock();
        state.flight = None;
        match outcome {
            Ok(fresh) => {
                let value = fresh.value.clone();
                state.held = Some(fresh);
                Ok(value)
            }
            Err(error) => {
                let now = SystemTime::now();
                if let Some(held) = state.held.as_ref().filter(|held| held.is_valid(now)) {
                    tracing::warn!(%error, "a renewal failed; the old token serves while it is valid");
                    let left = held.expires.and_then(|expires| expires.duration_since(now).ok());
                    let pause = left.map_or(LONGEST_PAUSE, |left| (left / 4).min(LONGEST_PAUSE));
                    state.not_before = now + pause;
                }
                Err(error)
            }
        }
    }
}

/// Between two fetches of which the first failed while the old value is valid.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Brings its own count; fails from the `good`th fetch on.
    struct Counter {
        count: AtomicUsize,
        good: usize,
        refresh_after: Duration,
        life: Duration,
    }

    #[async_trait]
    impl Fetch for Counter {
        type Item = usize;
        async fn fetch(&self) -> Result<Fresh<usize>, TokenError> {
            let count = self.count.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
            if count >= self.good {
                return Err(TokenError { what: format!("failure {count}"), passing: true });
            }
            let now = SystemTime::now();
            Ok(Fresh { value: count, refresh_at: now + self.refresh_after, expires: Some(now + self.life) })
        }
    }

    fn counter(good: usize, refresh_after: u64, life: u64) -> Arc<Refreshed<Counter>> {
        Arc::new(Refreshed::new(Counter {
            count: AtomicUsize::new(0),
            good,
            refresh_after: Duration::from_millis(refresh_after),
            life: Duration::from_millis(life),
        }))
    }

    async fn crowd(shared: &Arc<Refreshed<Counter>>) -> Vec<Result<usize, TokenError>> {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let shared = shared.clone();
            tasks.spawn(async move { shared.get().await });
        }
        tasks.join_all().await
    }

    #[tokio::test]
    async fn a_crowd_shares_one_fetch_and_its_failure() {
        let good = counter(1, 10_000, 20_000);
        assert!(crowd(&good).await.into_iter().all(|value| value.unwrap() == 0));
        assert_eq!(good.source().count.load(Ordering::SeqCst), 1);
        let bad = counter(0, 0, 0);
        assert!(crowd(&bad).await.into_iter().all(|value| value.unwrap_err().what == "failure 0"));
        assert_eq!(bad.source().count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_old_value_serves_while_the_new_one_is_fetched() {
        let shared = counter(9, 20, 20_000);
        assert_eq!(shared.get().await.unwrap(), 0);
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert_eq!(shared.get().await.unwrap(), 0, "no caller waits while the old one is valid");
        let renewed = async || {
            while shared.held() != Some(1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), renewed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_failed_renewal_keeps_the_old_value_to_its_end_and_is_not_repeated_at_once() {
        let shared = counter(1, 0, 20_000);
        for _ in 0..5 {
            assert_eq!(shared.get().await.unwrap(), 0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let tries = shared.source().count.load(Ordering::SeqCst);
        assert!((2..5).contains(&tries), "{tries}");
        let shared = counter(1, 0, 300);
        assert_eq!(shared.get().await.unwrap(), 0);
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(shared.get().await.unwrap_err().what.starts_with("failure"));
    }

    #[tokio::test]
    async fn near_the_end_a_caller_waits_but_does_not_fail() {
        for (good, want) in [(9, 1), (1, 0)] {
            let shared = counter(good, 0, 8_000);
            assert_eq!(shared.get().await.unwrap(), 0);
            tokio::time::sleep(Duration::from_millis(5_000)).await;
            assert_eq!(shared.get().await.unwrap(), want);
        }
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_does_not_stop_the_fetch() {
        let shared = counter(9, 10_000, 20_000);
        assert!(tokio::time::timeout(Duration::from_millis(5), shared.get()).await.is_err());
        assert_eq!(shared.get().await.unwrap(), 0);
        assert_eq!(shared.source().count.load(Ordering::SeqCst), 1);
    }
}

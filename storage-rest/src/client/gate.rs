//! How many requests are under way at a time: fewer after the store asked for patience, more again while it is content.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One wave of refusals counts once.
const WAVE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Gate {
    permits: Arc<Semaphore>,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Permits that go when they come back.
    debt: usize,
    /// Requests that went well since the limit changed.
    streak: usize,
    slowed: Option<Instant>,
}

impl Gate {
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        let state = State { limit: most, debt: 0, streak: 0, slowed: None };
        Self { permits: Arc::new(Semaphore::new(most)), most, state: Mutex::new(state) }
    }

    /// Waits for its turn.
    pub async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            // The semaphore is never closed.
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            let mut state = self.lock();
            if state.debt == 0 {
                return Some(permit);
            }
            state.debt -= 1;
            permit.forget();
        }
    }

    /// The store asked to slow down: half as many.
    pub fn slow_down(&self) {
        let mut state = self.lock();
        if state.slowed.is_some_and(|at| at.elapsed() < WAVE) {
            return;
        }
        let less = state.limit / 2;
        state.limit -= less;
        state.debt += less;
        (state.slowed, state.streak) = (Some(Instant::now()), 0);
        if less > 0 {
            tracing::info!("the store asks to slow down: {} requests at a time", state.limit);
        }
    }

    /// A request went well: after as many as are allowed, one more is.
    pub fn went_well(&self) {
        let mut state = self.lock();
        if state.limit == self.most {
            return;
        }
        state.streak += 1;
        if state.streak >= state.limit {
            (state.limit, state.streak) = (state.limit + 1, 0);
            match state.debt {
                0 => self.permits.add_permits(1),
                _ => state.debt -= 1,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn halves_and_grows_again() {
        let gate = Gate::new(4);
        let mut inside = Vec::new();
        for _ in 0..4 {
            inside.push(gate.enter().await.unwrap());
        }
        gate.slow_down();
        gate.slow_down();
        inside.clear();
        let held = (gate.enter().await.unwrap(), gate.enter().await.unwrap());
        let third = tokio::time::timeout(Duration::from_millis(20), gate.enter()).await;
        assert!(third.is_err(), "half of four are two");
        for _ in 0..2 {
            gate.went_well();
        }
        let third = gate.enter().await.unwrap();
        for _ in 0..100 {
            gate.went_well();
        }
        let fourth = gate.enter().await.unwrap();
        let fifth = tokio::time::timeout(Duration::from_millis(20), gate.enter()).await;
        assert!(fifth.is_err(), "never more than at first");
        drop((held, third, fourth));
    }
}

//! A byte rate that several tasks share.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets `rate` bytes a second pass, counted over all who hold it. Taken before or after the bytes move; a debt is waited for.
#[derive(Debug)]
pub struct Throttle {
    rate: f64,
    /// When all that was taken so far will have been paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// Bytes per second, at least 1.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { rate: bytes_per_second.max(1) as f64, paid: Mutex::new(Instant::now()) }
    }

    /// Bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// Accounts for `bytes` and waits until earlier ones and these are paid for.
    pub async fn take(&self, bytes: u64) {
        tokio::time::sleep_until(self.charge(bytes).into()).await;
    }

    /// Accounts for `bytes`; the time to wait for is when earlier ones and these are paid for.
    pub fn charge(&self, bytes: u64) -> Instant {
        self.account(bytes, Instant::now())
    }

    fn account(&self, bytes: u64, now: Instant) -> Instant {
        let mut paid = self.paid.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *paid = (*paid).max(now) + Duration::from_secs_f64(bytes as f64 / self.rate);
        *paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debts_add_up_and_idle_time_is_not_saved() {
        let throttle = Throttle::new(1000);
        let start = Instant::now() + Duration::from_secs(100);
        assert_eq!(throttle.account(500, start), start + Duration::from_millis(500));
        assert_eq!(throttle.account(1000, start), start + Duration::from_millis(1500));
        let later = start + Duration::from_secs(10);
        assert_eq!(throttle.account(100, later), later + Duration::from_millis(100));
    }
}

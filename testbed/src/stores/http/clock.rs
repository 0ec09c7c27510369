//! The time that a server believes in.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};

/// A clock that may be wrong. Clones are the same one.
///
/// It stamps every answer's `Date`, and strict stores judge by it how old a signature or a token is: setting it is the same to a client as if its
/// own clock were wrong by as much the other way.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Sets it wrong by so many seconds; positive is ahead.
    pub fn set_wrong_by(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        now.saturating_add(SignedDuration::from_secs(self.0.load(Ordering::Relaxed))).unwrap_or(now)
    }

    /// As HTTP writes it in `Date` and `Last-Modified`.
    pub fn date(&self) -> String {
        http_date(self.now())
    }
}

/// A time as HTTP writes it.
pub fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

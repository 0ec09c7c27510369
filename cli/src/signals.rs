//! SIGTERM and SIGINT: the first asks the run to end in order, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::ended::Ended;

/// Supervisors signal a process and its group: what comes so soon is the same signal.
const ONE_SIGNAL: Duration = Duration::from_millis(300);
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

/// What signals have come.
pub struct Signals {
    stop: watch::Receiver<bool>,
    first: Arc<AtomicU8>,
}

impl Signals {
    /// Starts listening.
    pub fn listen() -> std::io::Result<Self> {
        let (asked, stop) = watch::channel(false);
        let first = Arc::new(AtomicU8::new(0));
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let seen = Arc::clone(&first);
        tokio::spawn(async move {
            let mut since = Instant::now();
            loop {
                let number = tokio::select! {
                    _ = int.recv() => SIGINT,
                    _ = term.recv() => SIGTERM,
                };
                if *asked.borrow() && since.elapsed() < ONE_SIGNAL {
                    continue;
                }
                if *asked.borrow() {
                    eprintln!("bodley: ended at once by a second signal");
                    std::process::exit(i32::from(128 + number));
                }
                since = Instant::now();
                seen.store(number, Ordering::Relaxed);
                eprintln!("bodley: ending in order (a second signal ends at once)");
                let _ = asked.send(true);
            }
        });
        Ok(Self { stop, first })
    }

    /// Turns true at the first signal.
    pub fn stop(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Does what need not be ended in order; a signal ends it.
    pub async fn unless_asked<T>(
        &self,
        work: impl Future<Output = Result<T, Box<Ended>>>,
    ) -> Result<T, Box<Ended>> {
        let mut stop = self.stop();
        tokio::select! {
            done = work => done,
            _ = stop.wait_for(|stop| *stop) => Err(Box::new(Ended::by_signal(self.exit_code()))),
        }
    }

    /// The exit code of a run that was cut by a signal.
    pub fn exit_code(&self) -> u8 {
        128 + self.first.load(Ordering::Relaxed)
    }
}

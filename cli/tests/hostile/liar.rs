//! Brokers with a script, a vault, and what must hold after a lie.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bodley_testbed::Brokers;
use bodley_testbed::broker::{Action, Call};

use crate::common::vault::Vault;
use crate::common::{Ran, start};

/// More memory than this no lie may cost.
pub const MEMORY: u64 = 256 << 20;
/// Cases that are under way at once: they wait most of the time.
const AT_ONCE: usize = 16;
/// The topic that honest brokers have, in three partitions.
pub const ORDERS: &str = "orders";
/// Records in each of them.
pub const RECORDS: usize = 60;

/// Where a case plays.
pub struct Stage {
    pub brokers: Brokers,
    pub vault: Vault,
}

impl Stage {
    /// Two brokers with `orders` and a group that reads it.
    pub fn new() -> Self {
        let stage = Self::empty();
        stage.brokers.topic(ORDERS, 3);
        for partition in 0..3 {
            stage.brokers.write(ORDERS, partition, RECORDS).unwrap();
        }
        stage.brokers.world(|world| {
            world.groups.entry("readers".into()).or_default().insert((ORDERS.into(), 0), 7);
        });
        stage
    }

    /// Two brokers with nothing.
    pub fn empty() -> Self {
        Self { brokers: Brokers::start(2).unwrap(), vault: Vault::new() }
    }

    /// All is backed up, and since then the leaders have changed and the logs have not.
    pub fn new_leaders(&self) {
        self.recovers();
        self.brokers.world(|world| {
            world.topics.values_mut().flat_map(|topic| &mut topic.partitions).for_each(|log| log.epoch += 1);
        });
    }

    /// A backup that gives up soon.
    pub fn backup(&self) -> Ran {
        self.run("backup", &["--give-up-after", "1s"])
    }

    /// A backup that gives up soon if that is what is wanted of it: others may need the machine.
    pub fn backup_to(&self, code: i32) -> Ran {
        let patience = if code == 1 { "1s" } else { "20s" };
        self.run("backup", &["--give-up-after", patience]).exits(code)
    }

    /// A command with these brokers and this vault.
    pub fn run(&self, verb: &str, args: &[&str]) -> Ran {
        let bootstrap = self.brokers.bootstrap();
        let fixed = [verb, "-b", &bootstrap, "--vault", self.vault.url(), "--output", "json"];
        let ran = start(&[&fixed, args].concat()).wait();
        assert!(ran.peak < MEMORY, "{} bytes of memory: {ran}", ran.peak);
        assert!(!shown(&ran).any(char::is_control), "control characters: {ran}");
        ran
    }

    /// Brokers are honest again: everything is found, and the vault is whole.
    #[track_caller]
    pub fn recovers(&self) {
        self.brokers.honest();
        self.run("backup", &[]).exits(0);
        assert_eq!(self.vault.verified()["records"], 3 * RECORDS, "{}", self.vault.listed());
    }
}

/// What a terminal would have got.
fn shown(ran: &Ran) -> impl Iterator<Item = char> {
    ran.out.chars().chain(ran.err.chars()).filter(|c| *c != '\n')
}

/// Runs each case in its turn, several at a time; all failures are told.
pub fn each<T: Sync>(cases: &[T], name: impl Fn(&T) -> String + Sync, play: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(case)));
                    if played.is_err() {
                        eprintln!("FAILED: {}", name(case));
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert_eq!(failed, 0, "of {} cases", cases.len());
}

/// The plain lie about one API: for ever.
pub fn always(
    api: bodley_testbed::broker::kafka_protocol::messages::ApiKey,
    lie: impl Fn(&Call<'_>) -> Action + Send + Sync + 'static,
) -> impl Fn(&Call<'_>) -> Action + Send + Sync + 'static {
    move |call| if call.api == api { lie(call) } else { Action::Honest }
}

/// Seeds of a test, ten times as many with BODLEY_SOAK.
pub fn seeds(n: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("BODLEY_SOAK").is_some() { n * 10 } else { n }
}

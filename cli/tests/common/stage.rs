//! Clusters that tests take turns with.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};
use std::thread;
use std::time::Duration;

use bodley_testbed::{Cluster, ClusterOptions, Proxy};

use super::site::Site;

/// A cluster for as long as a test works with it.
pub struct Stage {
    site: Site,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// The proxies of all nodes.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        (0..self.cluster.nodes().len()).map(|n| self.cluster.proxy(n).unwrap())
    }
}

impl Deref for Stage {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.proxies().for_each(Proxy::calm);
    }
}

/// A place for a cluster, which starts when it is first wanted.
pub struct Slot {
    cluster: OnceLock<Cluster>,
    turn: Mutex<()>,
}

impl Slot {
    /// Empty.
    pub const fn new() -> Self {
        Self { cluster: OnceLock::new(), turn: Mutex::new(()) }
    }

    /// Whichever of these is free first.
    fn any(slots: &'static [Self]) -> (&'static Self, MutexGuard<'static, ()>) {
        loop {
            for slot in slots {
                match slot.turn.try_lock() {
                    Ok(turn) => return (slot, turn),
                    Err(TryLockError::Poisoned(turn)) => return (slot, turn.into_inner()),
                    Err(TryLockError::WouldBlock) => {}
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A cluster, filled when it is new. One test at a time works with it.
    pub fn stage(slots: &'static [Self], options: ClusterOptions, fill: impl Fn(&Site)) -> Stage {
        let (slot, turn) = Self::any(slots);
        slot.with(turn, options, fill)
    }

    fn with(
        &'static self,
        turn: MutexGuard<'static, ()>,
        options: ClusterOptions,
        fill: impl Fn(&Site),
    ) -> Stage {
        let fresh = self.cluster.get().is_none();
        let cluster = self.cluster.get_or_init(|| Cluster::start(options.proxied()).unwrap());
        // A test that failed may have left a node dead.
        for node in cluster.nodes().iter().filter(|node| node.pid().is_none()) {
            node.start().unwrap();
        }
        cluster.wait_until_up().unwrap();
        let stage = Stage { site: Site::at(cluster), _turn: turn };
        if fresh {
            fill(&stage);
        }
        stage
    }
}

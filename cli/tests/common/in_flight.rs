//! Requests of a dead run that are still on their way.

use std::path::PathBuf;

use bodley_testbed::proxy::Direction;

use super::site::Site;
use super::vault::Vault;
use super::{Running, seconds, start};

/// A restore of one topic under another name was killed while its requests were held back on their way to the broker, behind its proxy.
pub struct InFlight {
    site: Site,
    /// Where it restored from.
    pub vault: Vault,
    /// The file with its state.
    pub state: PathBuf,
    topic: String,
    target: String,
}

impl InFlight {
    /// Begins it, slow enough to be met on its way, and kills it.
    pub fn new(site: &Site, topic: &str, target: &str) -> Self {
        let vault = site.vault_of(&[topic]);
        let state = vault.root().with_file_name("state");
        let held = Self { site: site.clone(), vault, state, topic: topic.into(), target: target.into() };
        let mut run = held.start(&site.cluster.bootstrap(), "one", &["--limit-write", "8M"]);
        site.until(&mut run, target, 500);
        site.cluster.proxy(0).unwrap().stall_one_way(Direction::ToServer, true);
        run.leave_alone(seconds(1.0));
        run.kill();
        held
    }

    /// The flags that make it this restore, or another one.
    pub fn flags(&self, id: &'static str) -> [&str; 4] {
        ["--state", self.state.to_str().unwrap(), "--restore-id", id]
    }

    /// The next run, which reaches the broker on another way.
    pub fn resume(&self, id: &'static str) -> Running {
        self.start(&self.site.cluster.direct_bootstrap(), id, &[])
    }

    fn start(&self, bootstrap: &str, id: &'static str, more: &[&str]) -> Running {
        let rename = format!("{}={}", self.topic, self.target);
        let fixed = ["restore", "-b", bootstrap, "--vault", self.vault.url(), "--output", "json"];
        let which = ["--topic", &self.topic, "--rename", &rename];
        start(&[&fixed[..], &which, &self.flags(id), more].concat())
    }

    /// The dead run's requests arrive.
    pub fn let_go(&self) {
        let proxy = self.site.cluster.proxy(0).unwrap();
        proxy.stall_one_way(Direction::ToServer, false);
        while proxy.connections() > 0 {
            std::thread::sleep(seconds(0.05));
        }
        std::thread::sleep(seconds(0.5));
    }
}

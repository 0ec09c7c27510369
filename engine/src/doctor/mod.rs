//! Looks at everything that a backup or a restore needs, step by step, and says for each what is wrong and how to mend it.

mod cluster;
mod network;
mod store;

use std::sync::Arc;

use bodley_io::kafka::{Address, ClientOptions, Cluster};
use bodley_io::store::SharedStore;
use serde::Serialize;

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, with something to know.
    Note,
    /// Does not work.
    Wrong,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `names`, `tcp`, `tls`, `sasl`, `kafka`, `versions`, `rights`, `clock` or `store`.
    pub area: &'static str,
    /// What was looked at: a broker's address, a topic, a URL.
    pub subject: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub what: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(area: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { area, subject: subject.into(), verdict: Verdict::Ok, what: what.into(), hint: None }
    }

    /// Works, with something to know.
    pub fn note(area: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, ..Self::ok(area, subject, what) }
    }

    /// Does not work.
    pub fn wrong(area: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, ..Self::ok(area, subject, what) }
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// All steps, in their order. Later ones need earlier ones: where a way ends, nothing behind it is looked at.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// Step by step.
    pub checks: Vec<Check>,
}

impl Findings {
    /// The worst that was found.
    pub fn worst(&self) -> Verdict {
        self.checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
    }
}

/// Looks at the way to the cluster, at the cluster, and at the store of a vault. Writes nothing but a probe of a few bytes into the store,
/// which it deletes. (A broker that has never had groups or transactional ids makes its own internal topics when it is asked for them.)
pub async fn examine(bootstrap: &[Address], options: ClientOptions, store: Option<SharedStore>) -> Findings {
    let options = Arc::new(options);
    let mut checks = Vec::new();
    let mut reached = Vec::new();
    for address in bootstrap {
        if network::knock(address, &options, &mut checks).await {
            reached.push(address.clone());
        } else if checks.last().is_some_and(|check| check.area == "sasl") {
            // Others would say the same, and an account may get locked.
            break;
        }
    }
    let mut cluster_id = None;
    if !reached.is_empty() {
        match Cluster::open(reached, (*options).clone()).await {
            Ok(cluster) => {
                cluster_id = cluster.layout().cluster_id.clone();
                network::brokers(&cluster, bootstrap, &options, &mut checks).await;
                cluster::examine(&cluster, &mut checks).await;
            }
            Err(error) => checks.push(Check::wrong("kafka", "cluster", error.to_string())),
        }
    }
    if let Some(store) = store {
        store::examine(&store, cluster_id.as_deref(), &mut checks).await;
    }
    Findings { checks }
}

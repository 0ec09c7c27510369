//! Real Kafka clusters, an independent client, odd logs and bad networks, for tests and demos.
//!
//! - [`Cluster`]: Apache Kafka of any version from 2.4 on, on loopback; nodes can be stopped, killed, paused and restarted.
//! - [`Door`], [`Login`]: what [secured](ClusterOptions::secured) clusters have: TLS good and bad, SASL, users, ACLs.
//! - [`Pki`]: certificates, keys and stores in every form that users have.
//! - [`Oidc`]: an OpenID provider whose tokens clusters take.
//! - [`Iam`], [`AwsEndpoints`]: stand-ins for Amazon MSK's authentication and for where AWS's credentials come from.
//! - [`Workbench`]: Apache's own client behind typed methods. It writes and reads without any code of Bodley.
//! - [`workloads`]: topics with every oddity that a legal log can have.
//! - [`dump`]: what the independent reader saw, and the comparison of two readings.
//! - [`vault_reader`]: reads vaults without any code of Bodley.
//! - [`Brokers`]: brokers in memory whose every answer a test can change.
//! - [`stores`]: object stores: strict ones in this process with scripted faults, and SeaweedFS, Azurite and fake-gcs-server.
//! - [`Proxy`]: a TCP proxy that cuts, stalls, delays, throttles, refuses, loses answers, flips bits, or is a long way.
//!
//! All calls block. Clusters need Java 17 and Maven, secured ones `openssl` 3 as well, and [`Oidc`] and Azurite need Node 20 with npm;
//! SeaweedFS, boto3 and fake-gcs-server need Python 3 with venv. Servers listen on 127.0.0.1 only, keep their data below `target/testbed/` and cannot outlive the process that started them.

pub mod aws;
pub mod broker;
pub mod cluster;
pub mod door;
pub mod dump;
pub mod iam;
pub mod jars;
mod java;
pub mod login;
pub mod manifests;
pub mod node;
mod npm;
pub mod oidc;
pub mod paths;
pub mod pki;
pub mod ports;
mod probe;
mod process;
pub mod properties;
pub mod proxy;
mod pypi;
pub mod reader;
pub mod security;
mod setup;
pub mod stores;
pub mod workbench;
pub mod workloads;
mod zookeeper;

pub use aws::AwsEndpoints;
pub use broker::Brokers;
pub use cluster::{Cluster, ClusterOptions, shared_cluster};
pub use door::Door;
pub use dump::{CompareOptions, Dump, compare, compare_digests};
pub use iam::Iam;
pub use login::Login;
pub use oidc::Oidc;
pub use pki::Pki;
pub use proxy::Proxy;
pub use reader::vault_reader;
pub use workbench::{Isolation, Workbench};

/// Fetches, compiles and makes all that tests of the workspace need, so that they start at once.
pub fn prepare() -> anyhow::Result<()> {
    for version in jars::TESTED_VERSIONS {
        setup::class_archive(&jars::Kafka::ensure(version)?)?;
    }
    let kafka = jars::Kafka::ensure(jars::DEFAULT_VERSION)?;
    setup::class_archive(&kafka)?;
    java::workbench_classes(&kafka)?;
    Pki::ensure()?;
    manifests::installed()?;
    oidc::installed()?;
    stores::azurite::installed()?;
    stores::fake_gcs::installed()?;
    jars::msk_iam_auth()?;
    stores::seaweed::installed()?;
    stores::boto3::installed()?;
    Ok(())
}

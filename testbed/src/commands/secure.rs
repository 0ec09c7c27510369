//! What `up --secure` has beside the cluster, and how people try it.

use std::fs;
use std::path::Path;

use anyhow::Result;
use bodley_testbed::iam::{AwsCredentials, REGION};
use bodley_testbed::oidc::{ALICE as CLIENT, Oidc};
use bodley_testbed::pki::Leaf;
use bodley_testbed::security::{ALICE, BOB};
use bodley_testbed::{Cluster, ClusterOptions, Door, Iam, Login, properties};

pub(crate) struct Servers {
    oidc: Oidc,
    iam: Iam,
    aws: AwsCredentials,
}

impl Servers {
    pub(crate) fn start() -> Result<Self> {
        let (oidc, iam, aws) = (Oidc::start()?, Iam::new(), AwsCredentials::random());
        iam.know(aws.clone());
        Ok(Self { oidc, iam, aws })
    }

    pub(crate) fn secure(&self, options: ClusterOptions) -> ClusterOptions {
        options.authorized().oidc(&self.oidc).iam(&self.iam)
    }

    /// Writes a `client.properties` for each way in, and says where they are.
    pub(crate) fn explain(&self, cluster: &Cluster) -> Result<()> {
        println!("Anonymous clients and the user admin may do everything; others what ACLs allow.");
        println!("Settings for --command-config (Kafka's tools and Bodley):\n");
        for (door, logins) in self.ways() {
            println!("  {:<14} {}", format!("{door:?}"), cluster.door(door)?);
            for (name, login) in logins {
                let file = cluster.dir().join(format!("{name}.properties"));
                write(&file, &cluster.client_properties(door, &login)?)?;
                println!("      {}", file.display());
            }
        }
        println!("\nClients with tokens in Java also need this flag of the JVM:");
        println!("    -Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}", self.oidc.token_endpoint());
        println!("Clients of the door Iam need this in their environment:");
        println!("    AWS_REGION={REGION}");
        println!("    AWS_ACCESS_KEY_ID={}", self.aws.access_key_id);
        println!("    AWS_SECRET_ACCESS_KEY={}\n", self.aws.secret_access_key);
        Ok(())
    }

    fn ways(&self) -> Vec<(Door, Vec<(String, Login)>)> {
        let certificate = |leaf, name: &str| (format!("mtls-{name}"), Login::Certificate(leaf));
        let one = |door, name: &str, login| (door, vec![(name.to_owned(), login)]);
        vec![
            one(Door::Ssl, "ssl", Login::Anonymous),
            (Door::Mtls, vec![certificate(Leaf::Alice, "alice"), certificate(Leaf::Bob, "bob")]),
            (Door::SaslPlaintext, self.sasl("sasl-plaintext")),
            (Door::SaslSsl, self.sasl("sasl-ssl")),
            one(Door::Iam, "iam", Login::Iam),
            one(Door::ExpiredCert, "bad-expired", Login::Anonymous),
            one(Door::WrongHost, "bad-wrong-host", Login::Anonymous),
            one(Door::UnknownCa, "bad-unknown-ca", Login::Anonymous),
        ]
    }

    fn sasl(&self, door: &str) -> Vec<(String, Login)> {
        let token = Login::Client { client: CLIENT, endpoint: self.oidc.token_endpoint() };
        vec![
            (format!("{door}-plain-alice"), Login::password("PLAIN", ALICE)),
            (format!("{door}-scram256-alice"), Login::password("SCRAM-SHA-256", ALICE)),
            (format!("{door}-scram512-bob"), Login::password("SCRAM-SHA-512", BOB)),
            (format!("{door}-token-alice"), token),
        ]
    }
}

fn write(file: &Path, settings: &[(String, String)]) -> Result<()> {
    Ok(fs::write(file, properties::text(settings))?)
}

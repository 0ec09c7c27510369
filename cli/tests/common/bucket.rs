//! Vaults in a strict S3 of this process.

use std::process::Command;

use bodley_testbed::iam::{AwsCredentials, REGION};
use bodley_testbed::stores::S3;
use bodley_testbed::stores::s3::BucketOptions;
use serde_json::Value;

use super::site::Site;
use super::{Ran, Running, command, spawn};

/// The bucket's name.
pub const BUCKET: &str = "vaults";

/// A store with one bucket, and who comes to it.
pub struct Bucket {
    /// The store.
    pub s3: S3,
    who: AwsCredentials,
}

impl Bucket {
    /// With all rights.
    pub fn new() -> Self {
        let s3 = S3::start().unwrap();
        s3.make_bucket(BUCKET, BucketOptions::default());
        let who = s3.admin().clone();
        Self { s3, who }
    }

    /// From now on commands come with this key.
    pub fn come_as(&mut self, who: AwsCredentials) {
        self.who = who;
    }

    /// The URL of a vault.
    pub fn url(prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// Bodley with the store's address and a key in its environment, as AWS's tools have them.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        clean(&mut command)
            .env("AWS_ENDPOINT_URL_S3", self.s3.endpoint())
            .env("AWS_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", &self.who.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &self.who.secret_access_key)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// Starts `bodley VERB --vault s3://… --output json …`.
    pub fn start(&self, verb: &str, prefix: &str, args: &[&str]) -> Running {
        let url = Self::url(prefix);
        let args = [&[verb, "--vault", &url, "--output", "json"], args].concat();
        spawn(self.command(&args), &args)
    }

    /// Runs it to its end.
    pub fn bodley(&self, verb: &str, prefix: &str, args: &[&str]) -> Ran {
        self.start(verb, prefix, args).wait()
    }

    /// A command that needs the cluster.
    pub fn with(&self, site: &Site, verb: &str, prefix: &str, args: &[&str]) -> Ran {
        self.start_with(site, verb, prefix, args).wait()
    }

    /// The same, started.
    pub fn start_with(&self, site: &Site, verb: &str, prefix: &str, args: &[&str]) -> Running {
        let bootstrap = site.cluster.bootstrap();
        self.start(verb, prefix, &[&["-b", &bootstrap], args].concat())
    }

    /// Verifies a vault; it must be whole.
    #[track_caller]
    pub fn verified(&self, prefix: &str) -> Value {
        self.bodley("verify", prefix, &[]).exits(0).json()
    }
}

/// Nothing of who runs the tests gets through.
pub fn clean(command: &mut Command) -> &mut Command {
    let vendors = ["AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if vendors.iter().any(|vendor| text.starts_with(vendor))
            || text.to_ascii_uppercase().ends_with("_PROXY")
        {
            command.env_remove(&name);
        }
    }
    command.env("HOME", "/nonexistent")
}

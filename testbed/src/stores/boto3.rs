//! A second opinion: what Amazon's own client for Python finds at an S3.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::iam::{AwsCredentials, REGION};
use crate::paths;
use crate::pypi;

const PACKAGES: [&str; 7] = [
    "boto3==1.44.8",
    "botocore==1.44.8",
    "jmespath==1.1.0",
    "python-dateutil==2.9.0.post0",
    "s3transfer==0.19.3",
    "six==1.17.0",
    "urllib3==2.8.0",
];

/// Lets boto3 use a bucket in every way that Bodley does. What it finds wrong is the error. `ca`: whom to trust at an https endpoint.
pub fn check(endpoint: &str, credentials: &AwsCredentials, bucket: &str, ca: Option<&Path>) -> Result<()> {
    let mut python = Command::new("python3");
    python
        .arg("-B")
        .arg(paths::workspace_dir().join("testbed/python/boto3_check.py"))
        .args([endpoint, bucket]);
    python
        .env("PYTHONPATH", installed()?)
        .env("AWS_REGION", REGION)
        .env("AWS_DEFAULT_REGION", REGION)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_SESSION_TOKEN");
    if let Some(token) = &credentials.session_token {
        python.env("AWS_SESSION_TOKEN", token);
    }
    if let Some(ca) = ca {
        python.env("AWS_CA_BUNDLE", ca);
    }
    let out = python.output().context("python3 is missing")?;
    if !out.status.success() {
        bail!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

/// The folder with the packages.
pub(crate) fn installed() -> Result<PathBuf> {
    pypi::packages("boto3", &PACKAGES)
}

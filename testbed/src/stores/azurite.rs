//! Azurite: Azure's own emulator of Blob Storage, run by Node 20 or newer and installed by npm once.
//!
//! It checks signatures, SAS tokens and their rights, checksums, conditions and the API's version. It knows no roles.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::npm;
use crate::paths;
use crate::pki::{Leaf, Pki};
use crate::ports;
use crate::process::{Supervised, Swept};

const FILES: [(&str, &str); 2] = [
    ("package.json", include_str!("../../node/azurite/package.json")),
    ("package-lock.json", include_str!("../../node/azurite/package-lock.json")),
];
const MAIN: &str = "node_modules/azurite/dist/src/blob/main.js";
/// A busy machine takes a minute to read its thousands of files.
const START_LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
/// The version whose tokens are made here.
const VERSION: &str = "2024-11-04";
const HOUR: i64 = 3600;

/// The emulator's account and its key, the same everywhere.
pub const ACCOUNT: &str = "devstoreaccount1";
/// The account's key, in Base64.
pub const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// How a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// By http, for keys and SAS tokens.
    Plain,
    /// By https with the certificate [`Leaf::Server`], also for bearer tokens, of which it checks all but the signature.
    Tls,
}

/// A running server. It ends when dropped, and its objects with it.
#[derive(Debug)]
pub struct Azurite {
    port: u16,
    front: Front,
    process: Supervised,
    _swept: Swept,
}

impl Azurite {
    /// Starts one without containers.
    pub fn start(front: Front) -> Result<Self> {
        let program = installed()?.join(MAIN).display().to_string();
        let runs = paths::testbed_dir().join("run");
        fs::create_dir_all(&runs)?;
        let dir = tempfile::Builder::new().prefix("azurite-").tempdir_in(&runs)?.keep();
        let swept = Swept::new(&dir)?;
        let port = ports::free_port()?;
        let (folder, log) = (dir.display().to_string(), dir.join("azurite.log"));
        let mut args = vec![program, "--blobHost".to_owned(), "127.0.0.1".to_owned()];
        args.extend(["--blobPort".to_owned(), port.to_string(), "--location".to_owned(), folder]);
        args.extend(["--disableTelemetry", "--silent", "--disableProductStyleUrl"].map(str::to_owned));
        if front == Front::Tls {
            let pki = Pki::ensure()?;
            let (cert, key) = (pki.cert(Leaf::Server), pki.key(Leaf::Server));
            let files = [("--cert", cert.display().to_string()), ("--key", key.display().to_string())];
            args.extend(files.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file]));
            args.extend(["--oauth", "basic"].map(str::to_owned));
        }
        let process = Supervised::spawn("node", &args, &log)?;
        let mut started = Self { port, front, process, _swept: swept };
        started.wait_until_up().with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(started)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while std::net::TcpStream::connect(ports::loopback(self.port)).is_err() {
            if let Some(status) = self.process.exited()? {
                bail!("Azurite ended at its start ({status}): Node 20 or newer is needed");
            }
            if Instant::now() > deadline {
                bail!("Azurite is not up after {START_LIMIT:?}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Where the account's containers are.
    pub fn endpoint(&self) -> String {
        let host = match self.front {
            Front::Plain => "http://127.0.0.1",
            Front::Tls => "https://localhost",
        };
        format!("{host}:{}/{ACCOUNT}", self.port)
    }

    /// Creates a container. Only for [`Front::Plain`].
    pub fn container(&self, name: &str) -> Result<()> {
        let end = time(HOUR)?;
        let to_sign = format!("{ACCOUNT}\nrwdlac\nb\nsco\n\n{end}\n\n\n{VERSION}\n\n");
        let sig = encoded(&sign(&to_sign)?);
        let endpoint = self.endpoint();
        let url = format!(
            "{endpoint}/{name}?restype=container&sv={VERSION}&ss=b&srt=sco&sp=rwdlac&se={}&sig={sig}",
            encoded(&end)
        );
        ureq::put(url).send_empty().with_context(|| format!("create the container {name}"))?;
        Ok(())
    }

    /// A SAS token for a container, with these permissions (such as `rcwl`, in Azure's order) until so many seconds from now.
    pub fn sas(container: &str, permissions: &str, seconds: i64) -> Result<String> {
        let end = time(seconds)?;
        let start = time(-2 * HOUR)?;
        let resource = format!("/blob/{ACCOUNT}/{container}");
        let to_sign = format!("{permissions}\n{start}\n{end}\n{resource}\n\n\n\n{VERSION}\nc\n\n\n\n\n\n\n");
        let sig = encoded(&sign(&to_sign)?);
        let (start, end) = (encoded(&start), encoded(&end));
        Ok(format!("sv={VERSION}&sr=c&sp={permissions}&st={start}&se={end}&sig={sig}"))
    }
}

fn time(from_now: i64) -> Result<String> {
    let at = jiff::Timestamp::try_from(SystemTime::now())? + jiff::SignedDuration::from_secs(from_now);
    Ok(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn sign(text: &str) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(KEY)?)?;
    mac.update(text.as_bytes());
    Ok(STANDARD.encode(mac.finalize().into_bytes()))
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The folder with the server and its packages.
pub(crate) fn installed() -> Result<PathBuf> {
    npm::program("azurite", &FILES)
}

//! A real OpenID provider, for OAUTHBEARER: the package `oidc-provider`, run by Node 20 or newer and installed by npm once.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::npm;
use crate::paths;
use crate::pki::{Leaf, Pki};
use crate::ports;
use crate::process::{Supervised, Swept};

const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("../node/oidc/package.json")),
    ("package-lock.json", include_str!("../node/oidc/package-lock.json")),
    ("server.mjs", include_str!("../node/oidc/server.mjs")),
];
const START_LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
const LIFETIME: Duration = Duration::from_secs(3600);

/// Whom the tokens are for: their claim `aud`.
pub const AUDIENCE: &str = "urn:testbed:kafka";
/// What a client may ask for.
pub const SCOPE: &str = "kafka";

/// A client that the provider knows. The token endpoint takes it by HTTP's basic authentication, with id and secret
/// URL-encoded before, as RFC 6749 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OidcClient {
    /// Its id, which becomes the claim `sub` and with it the user.
    pub id: &'static str,
    /// Its secret.
    pub secret: &'static str,
}

/// The user `alice`; her secret does not survive without encoding.
pub const ALICE: OidcClient = OidcClient { id: "alice", secret: "s%26cr et+&=/?:\"\\#~" };
/// The user `svc:bob/1`, an id that has to be encoded too.
pub const SERVICE: OidcClient = OidcClient { id: "svc:bob/1", secret: "another secret" };

/// Where a cluster finds what it judges tokens by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The claim `iss`.
    pub issuer: String,
    /// The provider's keys.
    pub jwks_url: String,
    /// The claim `aud`.
    pub audience: String,
}

#[derive(Debug, Deserialize)]
struct Control {
    tokens: u64,
    failures: u64,
}

/// A running provider. It ends when dropped.
#[derive(Debug)]
pub struct Oidc {
    http_port: u16,
    https_port: u16,
    process: Supervised,
    _swept: Swept,
}

impl Oidc {
    /// Starts one whose tokens last an hour.
    pub fn start() -> Result<Self> {
        let modules = installed()?;
        let runs = paths::testbed_dir().join("run");
        fs::create_dir_all(&runs)?;
        let dir = tempfile::Builder::new().prefix("oidc-").tempdir_in(&runs)?.keep();
        let swept = Swept::new(&dir)?;
        let (http_port, https_port) = (ports::free_port()?, ports::free_port()?);
        let pki = Pki::ensure()?;
        let settings = json!({
            "issuer": format!("http://localhost:{http_port}"),
            "http_port": http_port,
            "https_port": https_port,
            "cert": pki.cert(Leaf::Server),
            "key": pki.key(Leaf::Server),
            "clients": [ALICE, SERVICE],
            "scope": SCOPE,
            "audience": AUDIENCE,
            "lifetime": LIFETIME.as_secs(),
        });
        let (server, log) = (modules.join("server.mjs").display().to_string(), dir.join("oidc.log"));
        let process = Supervised::spawn("node", &[server, settings.to_string()], &log)?;
        let mut started = Self { http_port, https_port, process, _swept: swept };
        started.wait_until_up().with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(started)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while self.control(None).is_err() {
            if let Some(status) = self.process.exited()? {
                bail!("the OpenID provider ended at its start ({status}): Node 20 or newer is needed");
            }
            if Instant::now() > deadline {
                bail!("the OpenID provider is not up after {START_LIMIT:?}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// What a cluster needs to know of it.
    pub fn issuer(&self) -> Issuer {
        let issuer = format!("http://localhost:{}", self.http_port);
        Issuer { jwks_url: format!("{issuer}/jwks"), issuer, audience: AUDIENCE.to_owned() }
    }

    /// Where clients get tokens, over http.
    pub fn token_endpoint(&self) -> String {
        format!("http://localhost:{}/token", self.http_port)
    }

    /// The same over https, with the certificate [`Leaf::Server`].
    pub fn secure_token_endpoint(&self) -> String {
        format!("https://localhost:{}/token", self.https_port)
    }

    /// Sets how long tokens last that are given from now on, in whole seconds.
    pub fn set_lifetime(&self, lifetime: Duration) -> Result<()> {
        self.control(Some(json!({ "lifetime": lifetime.as_secs() }))).map(|_| ())
    }

    /// Sets whom tokens are for that are given from now on; clusters take those for [`AUDIENCE`].
    pub fn set_audience(&self, audience: &str) -> Result<()> {
        self.control(Some(json!({ "audience": audience }))).map(|_| ())
    }

    /// Makes the token endpoint answer with this status and nothing else, or, with none, as it should.
    pub fn fail(&self, status: Option<u16>) -> Result<()> {
        self.control(Some(json!({ "fail": status.unwrap_or(0) }))).map(|_| ())
    }

    /// Makes the token endpoint wait this long before it answers.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        self.control(Some(json!({ "delay": delay.as_millis() as u64 }))).map(|_| ())
    }

    /// How many tokens it has given.
    pub fn tokens(&self) -> Result<u64> {
        Ok(self.control(None)?.tokens)
    }

    /// How many requests it has failed as told by [`Oidc::fail`].
    pub fn failures(&self) -> Result<u64> {
        Ok(self.control(None)?.failures)
    }

    /// Gets a token.
    pub fn token(&self, client: OidcClient) -> Result<String> {
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let encoded = [client.id, client.secret].map(encode).join(":");
        let body = format!("grant_type=client_credentials&scope={SCOPE}");
        let mut answer = ureq::post(self.token_endpoint())
            .header("Authorization", format!("Basic {}", STANDARD.encode(encoded)))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .send(&body)?;
        let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        let token = answer.get("access_token").and_then(Value::as_str);
        Ok(token.context("the answer has no access token")?.to_owned())
    }

    fn control(&self, change: Option<Value>) -> Result<Control> {
        let url = format!("http://127.0.0.1:{}/testbed/control", self.http_port);
        let mut answer = match change {
            Some(change) => ureq::put(url).send(change.to_string())?,
            None => ureq::get(url).call()?,
        };
        Ok(serde_json::from_str(&answer.body_mut().read_to_string()?)?)
    }
}

/// The folder with the server and its packages.
pub(crate) fn installed() -> Result<PathBuf> {
    npm::program("oidc", &FILES)
}

//! Every way to be somebody for Google Cloud, against servers that behave well or badly: the one that is configured counts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bodley_io::TokenError;
use bodley_storage_rest::Environment;
use bodley_storage_rest::gcs::{GcsAccess, GcsCredential, GcsCredentials};
use common::{Asked, Fake, MARKER, Reply, reply, tls};
use serde_json::{Value, json};

/// A home folder and variables.
struct World {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
    access: GcsAccess,
}

impl World {
    /// In which the metadata server is this one.
    fn new(metadata: &str) -> Self {
        let host = metadata.trim_start_matches("http://").to_owned();
        let variables = vec![("GCE_METADATA_HOST".to_owned(), host)];
        Self { home: tempfile::tempdir().unwrap(), variables, access: GcsAccess::default() }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// GOOGLE_APPLICATION_CREDENTIALS is a file with this.
    fn adc(&mut self, json: &Value) -> String {
        let path = self.file("adc.json", &json.to_string());
        self.set("GOOGLE_APPLICATION_CREDENTIALS", &path);
        path
    }

    /// Nothing that can be shown may show a secret.
    async fn get(&self) -> Result<(String, Option<String>), TokenError> {
        let environment = Environment::new(self.variables.clone(), Some(self.home.path().to_owned()));
        let credentials = GcsCredentials::new(&self.access, &environment, &tls()).unwrap();
        let outcome = credentials.get().await;
        let error = outcome.as_ref().err().map(ToString::to_string);
        let shown = format!("{environment:?} {credentials:?} {outcome:?} {error:?}");
        assert!(!shown.contains(MARKER), "{shown}");
        let identity = credentials.identity().unwrap_or_default();
        Ok(match outcome? {
            GcsCredential::Bearer(token) => (identity, Some(token.expose().to_owned())),
            GcsCredential::None => (identity, None),
        })
    }
}

fn token(text: &str) -> Reply {
    reply(200, format!(r#"{{"access_token":"{MARKER}-{text}","expires_in":3599,"token_type":"Bearer"}}"#))
}

/// Google's endpoints, each giving another token.
fn google(_: usize, asked: &Asked) -> Reply {
    let line = asked.line.as_str();
    let grant = |name: &str| asked.body.contains(&format!("grant_type={name}"));
    match line {
        "GET /computeMetadata/v1/instance/service-accounts/default/token"
            if asked.header("metadata-flavor") == "Google" =>
        {
            token("machine")
        }
        "POST /token" if grant("urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer") => token("account"),
        "POST /token" if grant("refresh_token") && asked.body.contains("refresh_token=hunter2%2Frefresh") => {
            token("user")
        }
        "POST /sts" if grant("urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange") => {
            token("federated")
        }
        "GET /subject?a=b" if asked.header("x-proof") == "hunter2-proof" => {
            reply(200, json!({ "id_token": format!("{MARKER}.url.jwt") }).to_string())
        }
        "POST /v1/projects/-/serviceAccounts/backup@p.example:generateAccessToken" => reply(
            200,
            json!({ "accessToken": format!("{MARKER}-acting"), "expireTime": "2099-01-01T00:00:00Z" })
                .to_string(),
        ),
        _ => reply(404, format!("{line} {}", asked.body)),
    }
}

fn external(url: &str, source: Value) -> Value {
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{url}/sts"),
        "credential_source": source,
    })
}

#[tokio::test]
async fn the_first_that_is_configured_counts() {
    let fake = Fake::start(google).await;
    let mut world = World::new(&fake.url);
    let of = |name: &str, token: &str| (name.to_owned(), Some(format!("{MARKER}-{token}")));
    assert_eq!(world.get().await.unwrap(), of("metadata server", "machine"));
    let user = json!({
        "type": "authorized_user", "client_id": "c", "client_secret": MARKER,
        "refresh_token": format!("{MARKER}/refresh"), "token_uri": format!("{}/token", fake.url),
    });
    let path = world.file(".config/gcloud/application_default_credentials.json", &user.to_string());
    assert_eq!(world.get().await.unwrap(), of(&format!("user credentials of {path}"), "user"));
    let subject = world.file("subject", &format!("{MARKER}.file.jwt\n"));
    let path = world.adc(&external(&fake.url, json!({ "file": subject })));
    assert_eq!(world.get().await.unwrap(), of(&format!("external account of {path}"), "federated"));
    let asked = fake.asked().pop().unwrap().body;
    for part in [
        "subject_token=hunter2.file.jwt",
        "scope=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdevstorage.read_write",
    ] {
        assert!(asked.contains(part), "{asked}");
    }
    world.set("STORAGE_EMULATOR_HOST", "127.0.0.1:9");
    assert_eq!(world.get().await.unwrap(), ("no identity (STORAGE_EMULATOR_HOST is set)".to_owned(), None));
    let file = world.file("token", &format!("{MARKER}-given\n"));
    world.access.token_file = Some(file.clone().into());
    assert_eq!(world.get().await.unwrap(), of(&format!("token file {file}"), "given"));
}

#[tokio::test]
async fn external_accounts_may_act_as_service_accounts() {
    let fake = Fake::start(google).await;
    let mut world = World::new("127.0.0.1:9");
    let source = json!({
        "url": format!("{}/subject?a=b", fake.url),
        "headers": { "X-Proof": format!("{MARKER}-proof") },
        "format": { "type": "json", "subject_token_field_name": "id_token" },
    });
    let mut adc = external(&fake.url, source);
    let act = format!("{}/v1/projects/-/serviceAccounts/backup@p.example:generateAccessToken", fake.url);
    adc["service_account_impersonation_url"] = json!(act);
    let path = world.adc(&adc);
    let name = format!("backup@p.example by external account of {path}");
    assert_eq!(world.get().await.unwrap(), (name, Some("hunter2-acting".to_owned())));
    let asked = fake.asked();
    assert!(asked[1].body.contains("subject_token=hunter2.url.jwt"), "{}", asked[1].body);
    assert!(asked[1].body.contains("scope=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform"));
    assert_eq!(asked[2].header("authorization"), "Bearer hunter2-federated");
    assert_eq!(
        asked[2].body,
        r#"{"delegates":[],"scope":["https://www.googleapis.com/auth/devstorage.read_write"]}"#
    );

    // gcloud auth application-default login --impersonate-service-account
    let user = json!({ "type": "authorized_user", "client_id": "c", "client_secret": MARKER,
        "refresh_token": format!("{MARKER}/refresh"), "token_uri": format!("{}/token", fake.url) });
    let both = json!({ "type": "impersonated_service_account", "service_account_impersonation_url": act,
        "source_credentials": user });
    let path = world.adc(&both);
    let name = format!("backup@p.example by user credentials of {path}");
    assert_eq!(world.get().await.unwrap(), (name, Some("hunter2-acting".to_owned())));
}

/// Runs OpenSSL, which knows nothing of our code.
fn openssl(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("openssl").current_dir(dir).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_service_account_signs_for_itself() {
    let fake = Fake::start(google).await;
    let mut world = World::new("127.0.0.1:9");
    let dir = world.home.path().to_owned();
    let key = openssl(&dir, &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let mut adc = json!({
        "type": "service_account", "client_email": "backup@p.example", "private_key_id": "k1",
        "private_key": key, "token_uri": format!("{}/token", fake.url),
    });
    let path = world.adc(&adc);
    let name = format!("service account backup@p.example of {path}");
    assert_eq!(world.get().await.unwrap(), (name, Some("hunter2-account".to_owned())));
    let body = fake.asked()[0].body.clone();
    let (_, proof) = body.split_once("assertion=").unwrap();
    let parts: Vec<&str> = proof.split('.').collect();
    let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    assert_eq!(json(parts[0]), json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }));
    let claims = json(parts[1]);
    assert_eq!(
        (claims["iss"].as_str(), claims["aud"].as_str()),
        (Some("backup@p.example"), adc["token_uri"].as_str())
    );
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    world.file("key.pem", &key);
    world.file("signed", &format!("{}.{}", parts[0], parts[1]));
    std::fs::write(dir.join("signature"), URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
    openssl(&dir, &["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"]);
    openssl(&dir, &["dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "signed"]);

    let other = openssl(&dir, &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    for (key, why) in [(MARKER, "has a private_key that is not in PEM form"), (&other, "that is not RSA")] {
        adc["private_key"] = json!(key);
        world.adc(&adc);
        let error = world.get().await.unwrap_err();
        assert!(error.what.contains(why) && !error.passing, "{error}");
    }
}

#[tokio::test]
async fn what_cannot_work_is_named_and_nothing_takes_its_place() {
    let fake = Fake::start(google).await;
    let mut world = World::new(&fake.url);
    world.set("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/adc.json");
    let error = world.get().await.unwrap_err();
    assert!(
        error.what.contains("GOOGLE_APPLICATION_CREDENTIALS: /nowhere/adc.json cannot be read"),
        "{error}"
    );
    for (json, why) in [
        (json!(MARKER), "has no \"type\""),
        (
            json!({ "type": "gdch_service_account" }),
            "is of the type gdch_service_account, which is not supported",
        ),
        (json!({ "type": "service_account", "private_key": MARKER }), "has no \"client_email\""),
        (
            json!({ "type": "service_account", "client_email": "a", "private_key": MARKER,
                    "token_uri": "http://far.example/" }),
            "has a token_uri: http would show secrets",
        ),
        (
            external(&fake.url, json!({ "environment_id": "aws1" })),
            "takes its token from AWS or from a program",
        ),
        (
            external(&fake.url, json!({ "file": "/nowhere/token" })),
            "token file /nowhere/token cannot be read",
        ),
        (
            json!({ "type": "authorized_user", "client_id": "c", "client_secret": MARKER,
                    "refresh_token": format!("{MARKER}-old"), "token_uri": format!("{}/token", fake.url) }),
            "/token answered HTTP 404",
        ),
    ] {
        world.adc(&json);
        let error = world.get().await.unwrap_err();
        assert!(error.what.starts_with("Google Cloud: ") && error.what.contains(why), "{error}");
    }
    assert!(fake.asked().iter().all(|asked| !asked.line.contains("computeMetadata")));
    let body = format!(r#"{{"error":"invalid_grant","error_description":"Bad {MARKER}-old"}}"#);
    let refusing = Fake::start(move |_, _| reply(400, body.clone())).await;
    world.adc(&json!({ "type": "authorized_user", "client_id": "c", "client_secret": MARKER,
        "refresh_token": format!("{MARKER}-old"), "token_uri": format!("{}/token", refusing.url) }));
    let error = world.get().await.unwrap_err();
    assert!(error.what.ends_with("answered HTTP 400 Bad Request: invalid_grant: Bad …-old"), "{error}");

    let nobody = World::new("127.0.0.1:9");
    let error = nobody.get().await.unwrap_err();
    assert!(
        error.what.contains("metadata server: http://127.0.0.1:9/")
            && error.what.contains("cannot be reached")
    );
    assert!(
        error.what.contains("(asked because GOOGLE_APPLICATION_CREDENTIALS is not set and there is no "),
        "{error}"
    );
}

#[test]
fn the_endpoint_is_checked() {
    let environment =
        |host: &str| Environment::new([("STORAGE_EMULATOR_HOST".to_owned(), host.to_owned())], None);
    let at = |host: &str, endpoint: Option<&str>| {
        let access = GcsAccess { endpoint: endpoint.map(str::to_owned), ..GcsAccess::default() };
        GcsCredentials::new(&access, &environment(host), &tls())
            .map(|found| found.endpoint().to_string())
            .map_err(|error| error.to_string())
    };
    assert_eq!(at("", None).unwrap(), "https://storage.googleapis.com/");
    assert_eq!(at("localhost:4443", None).unwrap(), "http://localhost:4443/");
    assert_eq!(at("http://127.0.0.1:4443", None).unwrap(), "http://127.0.0.1:4443/");
    assert_eq!(at("x", Some("https://gcs.example/base/")).unwrap(), "https://gcs.example/base");
    let error = at("emulator.example:4443", None).unwrap_err();
    assert!(error.starts_with("STORAGE_EMULATOR_HOST: http would show secrets"), "{error}");
}

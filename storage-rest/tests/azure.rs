//! Azure vaults on Azurite, which checks signatures, rights, checksums and conditions, and with scripted faults before it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use bodley_io::store::{Put, Store, StoreError, conformance};
use bodley_storage_rest::Environment;
use bodley_storage_rest::azure::{AzureAuth, AzureOptions, AzureStore};
use bodley_testbed::pki::Pki;
use bodley_testbed::stores::azurite::{ACCOUNT, Azurite, Front, KEY};
use bodley_testbed::stores::http::{Action, Answer, Clock, Rule, Server, http_date};
use bodley_testbed::stores::relay::{Relay, azure_operation};
use bytes::Bytes;
use common::stores::{misfortune, patience, pattern, race, upload, whole};
use common::tls;

static AZURITE: LazyLock<Azurite> = LazyLock::new(|| Azurite::start(Front::Plain).unwrap());

/// A new container at Azurite, and a way to it.
struct World {
    container: String,
    endpoint: String,
    variables: Vec<(String, String)>,
}

impl World {
    fn new(container: &str) -> Self {
        AZURITE.container(container).unwrap();
        let variables = vec![("AZURE_STORAGE_KEY".to_owned(), KEY.to_owned())];
        Self { container: container.to_owned(), endpoint: AZURITE.endpoint(), variables }
    }

    /// With a server before Azurite that has a script.
    fn relayed(container: &str) -> (Self, Server) {
        let mut world = Self::new(container);
        let target = world.endpoint.trim_end_matches(&format!("/{ACCOUNT}")).to_owned();
        let server = Server::start(Arc::new(Relay::new(target, azure_operation)), &Clock::default()).unwrap();
        world.endpoint = format!("{}/{ACCOUNT}", server.url());
        (world, server)
    }

    fn sas(mut self, token: String) -> Self {
        self.variables = vec![("AZURE_STORAGE_SAS_TOKEN".to_owned(), token)];
        self
    }

    fn with(&self, change: impl FnOnce(&mut AzureOptions)) -> AzureStore {
        let mut options = AzureOptions::new(ACCOUNT, &self.container, "some/vault");
        (options.access.endpoint, options.patience) = (Some(self.endpoint.clone()), patience());
        change(&mut options);
        AzureStore::new(options, &Environment::new(self.variables.clone(), None), &tls()).unwrap()
    }

    fn store(&self) -> AzureStore {
        self.with(|_| ())
    }

    /// What a commit meets with. No secret is in it.
    async fn error(&self, change: impl FnOnce(&mut AzureOptions)) -> StoreError {
        let store = self.with(change);
        let error = store.put_if_absent("log/1", Bytes::from_static(b"x")).await.unwrap_err();
        let shown = format!("{error} {error:?} {store:?}");
        for (_, secret) in
            self.variables.iter().filter(|(name, _)| !name.ends_with("_ID") && !name.ends_with("_HOST"))
        {
            let sig = secret.split("sig=").last().unwrap_or(secret);
            assert!(!shown.contains(secret.as_str()) && !shown.contains(sig), "{shown}");
        }
        error
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_what_the_port_promises() {
    let world = World::new("conformance");
    conformance(&world.store()).await.unwrap();
    assert_eq!(world.store().url(), format!("az://{ACCOUNT}/conformance/some/vault"));
    let odd = world.with(|options| options.prefix = "an odd näme+&%20/x".to_owned());
    odd.put_if_absent("log/0001/1", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(odd.list("log/", "").await.unwrap()[0].path, "log/0001/1");
    assert_eq!(whole(&odd, "log/0001/1").await, b"1");
    let root = world.with(|options| options.prefix = String::new());
    assert!(
        root.list("some/vault/data/", "")
            .await
            .unwrap()
            .iter()
            .any(|object| object.path == "some/vault/data/x.seg")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sas_token_will_do() {
    let world = World::new("signed").sas(Azurite::sas("signed", "rcwdl", 600).unwrap());
    conformance(&world.store()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_twelve_wins() {
    let world = World::new("race");
    for round in 0..5 {
        race(Arc::new(world.store()), &format!("log/{round}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_go_in_blocks() {
    let (world, server) = World::relayed("blocks");
    let store = world.with(|options| {
        options.tags = vec![("team".to_owned(), "a b".to_owned())];
        options.access_tier = Some("Cool".to_owned());
        options.patience.idle = Duration::from_secs(60);
    });
    let bytes = pattern((9 << 20) + 12_345);
    upload(&store, "data/a.seg", &bytes, 2 << 20).await.unwrap();
    assert!(whole(&store, "data/a.seg").await == bytes);
    assert_eq!((server.log().count("Put Block"), server.log().count("Put Block List")), (5, 1));
    for block in server.log().of("Put Block") {
        assert!(block.header("x-ms-content-crc64").is_some());
    }
    let list = &server.log().of("Put Block List")[0];
    assert_eq!(list.header("x-ms-tags"), Some("team=a%20b"));
    assert_eq!((list.header("x-ms-access-tier"), list.header("if-none-match")), (Some("Cool"), Some("*")));
    let again = upload(&store, "data/a.seg", &bytes[1..], 2 << 20).await.unwrap_err();
    assert!(matches!(again, StoreError::Exists { .. }), "{again}");
    assert!(whole(&store, "data/a.seg").await == bytes);
    store.put_if_absent("log/1", Bytes::from_static(b"commit")).await.unwrap();
    assert_eq!(server.log().of("Put Blob")[0].header("x-ms-access-tier"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn accidents_do_no_harm() {
    let (world, server) = World::relayed("accidents");
    misfortune(server.faults(), fastrand::u64(..));
    conformance(&world.store()).await.unwrap();
    race(Arc::new(world.store()), "log/race").await;
    assert!(server.faults().all_fired() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_attempt_did_is_known_again() {
    let (world, server) = World::relayed("unclear");
    let store = world.store();
    for action in [Action::DoThenCut, Action::DoThenAnswer(Answer::new(500))] {
        let name = format!("log/{}", fastrand::u64(..));
        server.faults().add(Rule::on("Put Blob", action.clone()).nth(1));
        let body = Bytes::from_static(b"ours");
        assert_eq!(store.put_if_absent(&name, body.clone()).await.unwrap(), Put::Created);
        assert_eq!(
            store.put_if_absent(&name, body).await.unwrap(),
            Put::Exists,
            "there before, nothing unclear"
        );
        server.faults().add(Rule::on("Put Block List", action).nth(1));
        let name = format!("data/{}", fastrand::u64(..));
        upload(&store, &name, &pattern(5 << 20), 2 << 20).await.unwrap();
        assert!(whole(&store, &name).await == pattern(5 << 20));
        server.faults().clear();
    }
    // Another one's commit comes between the cut and the second attempt.
    let other =
        World { endpoint: AZURITE.endpoint(), container: "unclear".into(), ..World::new("unclear-2") };
    other.store().put_if_absent("log/theirs", Bytes::from_static(b"theirs")).await.unwrap();
    server.faults().add(Rule::on("Put Blob", Action::Cut).nth(1));
    let put = store.put_if_absent("log/theirs", Bytes::from_static(b"ours")).await.unwrap();
    assert_eq!(put, Put::Exists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_corrected_once() {
    let (world, server) = World::relayed("clock");
    let hour = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let skewed =
        Answer::new(403).header("x-ms-error-code", "AuthenticationFailed").header("date", http_date(hour));
    server.faults().add(Rule::on("Put Blob", Action::Answer(skewed)).nth(1));
    world.store().put_if_absent("log/1", Bytes::from_static(b"x")).await.unwrap();
    let date = server.log().of("Put Blob")[1].header("x-ms-date").unwrap().to_owned();
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(&date).unwrap();
    assert!(date.duration_since(hour).unsigned_abs() < Duration::from_secs(60), "{date}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_says_what_to_do() {
    let world = World::new("failures");
    let error = world.error(|options| options.container = "nowhere".to_owned()).await;
    let text = error.to_string();
    assert!(text.contains("ContainerNotFound") && text.contains("make container nowhere first"), "{text}");
    let store = world.with(|options| options.container = "nowhere".to_owned());
    for error in [
        store.list("log/", "").await.unwrap_err(),
        store.stat("log/1").await.unwrap_err(),
        store.get("log/1", 9).await.unwrap_err(),
        store.delete("log/1").await.unwrap_err(),
        upload(&store, "data/1", &pattern(3 << 20), 2 << 20).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("make container nowhere first"), "{error}");
    }

    let begun = SystemTime::now();
    let nobody =
        world.error(|options| options.access.endpoint = Some("http://127.0.0.1:9/a".to_owned())).await;
    assert!(nobody.to_string().contains("http://127.0.0.1:9/a cannot be reached"), "{nobody}");
    assert!(begun.elapsed().unwrap() < Duration::from_secs(12));

    let mut wrong = World::new("failures-2");
    wrong.variables[0].1 = "d3Jvbmcga2V5".to_owned();
    let error = wrong.error(|_| ()).await.to_string();
    assert!(
        error.contains("account key of AZURE_STORAGE_KEY is not valid for account devstoreaccount1"),
        "{error}"
    );

    let error = world.error(|options| options.api_version = "2099-01-01".to_owned()).await.to_string();
    assert!(error.contains("set api-version"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_enough_or_named() {
    let world = World::new("rights").sas(Azurite::sas("rights", "rcwl", 600).unwrap());
    let writer = world.store();
    upload(&writer, "data/1", &pattern(5 << 20), 2 << 20).await.unwrap();
    writer.put_if_absent("log/1", Bytes::from_static(b"1")).await.unwrap();
    let error = writer.delete("log/1").await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert!(
        error.to_string().contains("SAS token of AZURE_STORAGE_SAS_TOKEN needs the right to delete"),
        "{error}"
    );

    let world = world.sas(Azurite::sas("rights", "rl", 600).unwrap());
    let reader = world.store();
    assert!(whole(&reader, "data/1").await == pattern(5 << 20));
    assert_eq!(reader.list("log/", "").await.unwrap().len(), 1);
    let error = world.error(|_| ()).await;
    assert!(
        matches!(error, StoreError::Denied { .. }) && error.to_string().contains("the right to write"),
        "{error}"
    );
    let error = upload(&reader, "data/2", &pattern(5 << 20), 2 << 20).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");

    let forged = Azurite::sas("rights", "rl", 600).unwrap().replace("sp=rl", "sp=rcwl");
    let error = world.sas(forged).error(|_| ()).await.to_string();
    assert!(error.contains("SAS token of AZURE_STORAGE_SAS_TOKEN is not valid for account"), "{error}");
    // Seconds left when the options are read, none when Azure looks.
    let world = World::new("rights-2").sas(Azurite::sas("rights-2", "rcwl", 1).unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let error = world.error(|_| ()).await.to_string();
    assert!(error.contains("SAS token of AZURE_STORAGE_SAS_TOKEN ended at"), "{error}");
}

/// A token that Azurite takes: it looks at everything but the signature.
fn entra_token(seconds: i64) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let now = jiff::Timestamp::now().as_second();
    let claims = serde_json::json!({
        "aud": "https://storage.azure.com", "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
        "iat": now - 60, "nbf": now - 60, "exp": now + seconds, "ver": "1.0",
    });
    let part = |text: String| BASE64.encode(text);
    format!("{}.{}.c2ln", part(r#"{"alg":"RS256","typ":"JWT"}"#.to_owned()), part(claims.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_entra_go_over_tls_only() {
    use rustls::pki_types::pem::PemObject;
    let azurite = Azurite::start(Front::Tls).unwrap();
    let fake = common::Fake::start(move |n, _| {
        // The first one is refused by Azure, though its end has not come by our clock.
        let token = if n == 0 { entra_token(-30) } else { entra_token(3600) };
        common::reply(200, format!(r#"{{"access_token":"{token}","expires_in":3600}}"#))
    })
    .await;
    let mut world = World::new("not-this-one");
    world.endpoint = azurite.endpoint();
    world.variables = [
        ("AZURE_CLIENT_SECRET", common::MARKER),
        ("AZURE_CLIENT_ID", "11-22"),
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_AUTHORITY_HOST", &fake.url),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let error = world.error(|options| options.access.auth = AzureAuth::ClientSecret).await.to_string();
    assert!(error.contains("could not be trusted") && error.contains("ca-file"), "{error}");

    let mut roots = rustls::RootCertStore::empty();
    let ca = Pki::ensure().unwrap().ca();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let mut options = AzureOptions::new(ACCOUNT, "none-here", "");
    (options.access.endpoint, options.patience) = (Some(azurite.endpoint()), patience());
    let environment = Environment::new(world.variables.clone(), None);
    let store = AzureStore::new(options, &environment, &common::tls_of(roots)).unwrap();
    let error = store.list("log/", "").await.unwrap_err().to_string();
    assert!(error.contains("make container none-here first"), "the second token is taken: {error}");
    assert_eq!(fake.asked().len(), 2);
}

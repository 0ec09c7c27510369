//! TLS and SASL against a real broker: every mechanism, every form of key and store, and what a refusal says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bodley_io::Secret;
use bodley_io::kafka::security::{
    Identity, Material, Sasl, ScramHash, Tls, TlsOptions, TlsVersion, Trust, Verify,
};
use bodley_io::kafka::{Address, ClientOptions, Cluster as Client, KafkaError};
use bodley_testbed::pki::{KEY_PASSWORD, KeyForm, Leaf, PASSWORD, Pki, Store};
use bodley_testbed::security::{ALICE, BOB, ODD_NAME, User};
use bodley_testbed::{Cluster, ClusterOptions, Door};

fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(ClusterOptions::new().secured()).unwrap())
}

fn material(path: impl AsRef<Path>) -> Material {
    let path = path.as_ref();
    Material { source: path.display().to_string(), bytes: std::fs::read(path).unwrap().into() }
}

fn pki() -> &'static Pki {
    Pki::ensure().unwrap()
}

fn trusting() -> TlsOptions {
    TlsOptions { trust: Trust::Pem(material(pki().ca())), ..TlsOptions::default() }
}

fn with_tls(options: &TlsOptions) -> ClientOptions {
    ClientOptions { tls: Some(Tls::new(options).unwrap()), ..ClientOptions::default() }
}

/// Opens a client through a door; what it sees, or the error's words.
async fn look(door: Door, options: ClientOptions) -> Result<Arc<Client>, String> {
    let bootstrap = Address::parse_list(&cluster().door(door).unwrap()).unwrap();
    let began = Instant::now();
    let seen = Client::open(bootstrap, options).await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    seen.map_err(|e| {
        let shown = format!("{e} {e:?}");
        for secret in [ALICE.password, BOB.password, "wrong-secret"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        e.to_string()
    })
}

#[track_caller]
fn refused(seen: Result<Arc<Client>, String>, with: &str) {
    let error = seen.unwrap_err();
    assert!(error.contains(with), "{error}");
    assert!(error.contains("localhost:"), "{error}");
}

fn password(mechanism: &str, user: User) -> Sasl {
    let (username, password) = (user.name.to_owned(), Secret::new(user.password));
    let scram = |hash, username, password| Sasl::Scram { hash, username, password, delegation_token: false };
    match mechanism {
        "PLAIN" => Sasl::Plain { username, password },
        "SCRAM-SHA-256" => scram(ScramHash::Sha256, username, password),
        _ => scram(ScramHash::Sha512, username, password),
    }
}

#[tokio::test]
async fn certificates_of_brokers_are_judged() {
    look(Door::Ssl, with_tls(&trusting())).await.unwrap();
    refused(look(Door::ExpiredCert, with_tls(&trusting())).await, "its certificate expired");
    refused(look(Door::WrongHost, with_tls(&trusting())).await, "is for other.example, not for localhost");
    refused(look(Door::UnknownCa, with_tls(&trusting())).await, "authority that is not trusted here");
    let nameless = TlsOptions { verify: Verify::NotTheHostName, ..trusting() };
    look(Door::WrongHost, with_tls(&nameless)).await.unwrap();
    refused(look(Door::ExpiredCert, with_tls(&nameless)).await, "its certificate expired");
    refused(look(Door::UnknownCa, with_tls(&nameless)).await, "authority that is not trusted here");
    let blind = TlsOptions { verify: Verify::Nothing, ..TlsOptions::default() };
    for door in [Door::ExpiredCert, Door::WrongHost, Door::UnknownCa] {
        look(door, with_tls(&blind)).await.unwrap();
    }
    let other = TlsOptions { trust: Trust::Pem(material(pki().unknown_ca())), ..TlsOptions::default() };
    look(Door::UnknownCa, with_tls(&other)).await.unwrap();
    // A server's own certificate among the trusted ones is enough; its dates and name still count.
    for (leaf, door, complaint) in [
        (Leaf::UnknownCa, Door::UnknownCa, None),
        (Leaf::Expired, Door::ExpiredCert, Some("its certificate expired")),
        (Leaf::WrongHost, Door::WrongHost, Some("not for localhost")),
    ] {
        let pinned = TlsOptions { trust: Trust::Pem(material(pki().cert(leaf))), ..TlsOptions::default() };
        match complaint {
            None => _ = look(door, with_tls(&pinned)).await.unwrap(),
            Some(complaint) => refused(look(door, with_tls(&pinned)).await, complaint),
        }
    }
}

#[tokio::test]
async fn versions_and_ciphers_are_kept_to() {
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        look(Door::Ssl, with_tls(&TlsOptions { versions: vec![version], ..trusting() })).await.unwrap();
    }
    for cipher in ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"] {
        let ciphers = vec!["TLS_RSA_WITH_AES_256_CBC_SHA".to_owned(), cipher.to_owned()];
        let versions =
            if cipher.starts_with("TLS_") { vec![TlsVersion::V1_3] } else { vec![TlsVersion::V1_2] };
        look(Door::Ssl, with_tls(&TlsOptions { ciphers, versions, ..trusting() })).await.unwrap();
    }
    let unknown = TlsOptions { ciphers: vec!["TLS_RSA_WITH_RC4_128_MD5".into()], ..trusting() };
    assert!(Tls::new(&unknown).unwrap_err().to_string().contains("TLS_AES_256_GCM_SHA384"));
}

#[tokio::test]
async fn mismatched_listeners_are_told() {
    let open = ClientOptions::default;
    refused(look(Door::Ssl, open()).await, "then security.protocol is SSL or SASL_SSL");
    refused(look(Door::SaslPlaintext, open()).await, "listeners do that want SASL");
    refused(look(Door::SaslSsl, with_tls(&trusting())).await, "listeners do that want SASL");
    let over_tls = ClientOptions { sasl: Some(password("PLAIN", BOB)), ..with_tls(&trusting()) };
    refused(look(Door::SaslPlaintext, over_tls.clone()).await, "as plaintext listeners do");
    refused(look(Door::Ssl, over_tls).await, "this listener does not use SASL");
    let unknown = Sasl::AwsMskIam { tokens: Arc::new(Fixed) };
    let unknown = ClientOptions { sasl: Some(unknown), ..open() };
    refused(look(Door::SaslPlaintext, unknown).await, "offers only");
}

#[derive(Debug)]
struct Fixed;

#[async_trait::async_trait]
impl bodley_io::TokenProvider for Fixed {
    async fn token(&self, host: &str) -> Result<bodley_io::Token, bodley_io::TokenError> {
        assert_eq!(host, "localhost");
        Ok(bodley_io::Token { text: Secret::new("no.token.really"), expires: None })
    }
}

#[tokio::test]
async fn passwords_and_tokens_are_judged() {
    for (door, options) in
        [(Door::SaslPlaintext, ClientOptions::default()), (Door::SaslSsl, with_tls(&trusting()))]
    {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let with = |user| ClientOptions { sasl: Some(password(mechanism, user)), ..options.clone() };
            look(door, with(ALICE)).await.unwrap();
            if mechanism != "PLAIN" {
                look(door, with(ODD_NAME)).await.unwrap();
            }
            let seen = look(door, with(User { password: "wrong-secret", ..ALICE })).await;
            refused(seen.clone(), &format!("does not let us in by {mechanism}"));
            refused(seen, "check user name and password");
            refused(look(door, with(User { name: "nobody", ..ALICE })).await, "check user name and password");
        }
        let bearer = Sasl::OAuthBearer { tokens: Arc::new(Fixed), extensions: BTreeMap::new() };
        let bearer = ClientOptions { sasl: Some(bearer), ..options };
        refused(look(door, bearer).await, "does not let us in by OAUTHBEARER");
    }
}

fn alice(identity: Identity) -> ClientOptions {
    with_tls(&TlsOptions { identity: Some(identity), ..trusting() })
}

#[tokio::test]
async fn clients_show_certificates_in_every_form() {
    let secret = || Some(Secret::new(PASSWORD));
    let pem = |leaf, key, password| Identity::Pem { certificates: material(pki().cert(leaf)), key, password };
    refused(look(Door::Mtls, with_tls(&trusting())).await, "wants a client certificate");
    for leaf in [Leaf::Alice, Leaf::AliceRsa, Leaf::Bob] {
        look(Door::Mtls, alice(pem(leaf, material(pki().key(leaf)), None))).await.unwrap();
    }
    let expired = pem(Leaf::ExpiredClient, material(pki().key(Leaf::ExpiredClient)), None);
    let error = Tls::new(&TlsOptions { identity: Some(expired), ..trusting() }).unwrap_err().to_string();
    assert!(error.contains("expired-client.pem: the client's certificate expired on"), "{error}");
    for leaf in [Leaf::Stranger] {
        refused(
            look(Door::Mtls, alice(pem(leaf, material(pki().key(leaf)), None))).await,
            "client certificate",
        );
    }
    for form in KeyForm::ALL {
        let key = || material(pki().key_form(form));
        look(Door::Mtls, alice(pem(form.leaf(), key(), secret()))).await.unwrap();
        if form.is_encrypted() {
            let error = |password| {
                let identity = Some(pem(form.leaf(), key(), password));
                Tls::new(&TlsOptions { identity, ..trusting() }).unwrap_err().to_string()
            };
            assert!(error(Some(Secret::new("guess"))).contains("password is wrong"), "{form:?}");
            assert!(error(None).contains("ssl.key.password"), "{form:?}");
        }
    }
    for store in Store::ALL {
        let file = || material(pki().store(store));
        let key_password = (store == Store::KeyJks).then(|| Secret::new(KEY_PASSWORD));
        let wrong = || Some(Secret::new("guess"));
        match store {
            Store::TrustPkcs12 | Store::TrustJks | Store::TrustOpenssl => {
                let trust =
                    |password| TlsOptions { trust: Trust::Store(file(), password), ..TlsOptions::default() };
                look(Door::Ssl, with_tls(&trust(secret()))).await.unwrap();
                let error = Tls::new(&trust(wrong())).unwrap_err().to_string();
                assert!(error.contains("password"), "{store:?} {error}");
            }
            _ => {
                let identity = |password| Identity::Store {
                    store: file(),
                    password,
                    key_password: key_password.clone(),
                };
                look(Door::Mtls, alice(identity(secret()))).await.unwrap();
                let options = TlsOptions { identity: Some(identity(wrong())), ..trusting() };
                let error = Tls::new(&options).unwrap_err().to_string();
                assert!(error.contains("password"), "{store:?} {error}");
            }
        }
    }
    // Old truststores are often given without a password.
    let jks = Trust::Store(material(pki().store(Store::TrustJks)), None);
    look(Door::Ssl, with_tls(&TlsOptions { trust: jks, ..TlsOptions::default() })).await.unwrap();
}

/// Bytes that are cut or changed anywhere end in an error or in the same thing, never in a panic.
#[test]
fn broken_stores_and_keys_are_errors() {
    let mut tried = 0;
    for store in [Store::KeyJks, Store::TrustJks] {
        let whole = std::fs::read(pki().store(store)).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x81;
            for bytes in [whole[..at].to_vec(), changed] {
                let store = Material { source: "store".into(), bytes: bytes.into() };
                let identity = Identity::Store {
                    store: store.clone(),
                    password: None,
                    key_password: Some(Secret::new(KEY_PASSWORD)),
                };
                let _ = Tls::new(&TlsOptions { identity: Some(identity), ..trusting() });
                let _ = Tls::new(&TlsOptions { trust: Trust::Store(store, None), ..TlsOptions::default() });
                tried += 1;
            }
        }
    }
    for form in KeyForm::ALL {
        let whole = std::fs::read(pki().key_form(form)).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            for bytes in [whole[..at].to_vec(), changed] {
                let key = Material { source: "key".into(), bytes: bytes.into() };
                let certificates = material(pki().cert(form.leaf()));
                let identity = Identity::Pem { certificates, key, password: Some(Secret::new(PASSWORD)) };
                let _ = Tls::new(&TlsOptions { identity: Some(identity), ..trusting() });
                tried += 1;
            }
        }
    }
    assert!(tried > 5000, "{tried}");
}

#[test]
fn pem_in_one_line_is_read() {
    let text = std::fs::read_to_string(pki().ca()).unwrap();
    for line_end in [" ", "\\n", "\r\n"] {
        let bytes = text.replace('\n', line_end);
        let trust =
            Trust::Pem(Material { source: "ssl.truststore.certificates".into(), bytes: bytes.into() });
        Tls::new(&TlsOptions { trust, ..TlsOptions::default() }).unwrap();
    }
    let empty = Trust::Pem(Material { source: "ca.pem".into(), bytes: "".into() });
    let error = Tls::new(&TlsOptions { trust: empty, ..TlsOptions::default() }).unwrap_err().to_string();
    assert!(error.contains("ca.pem: holds no certificate"), "{error}");
}

#[tokio::test]
async fn what_no_retry_helps_is_not_tried_again() {
    let bootstrap = cluster().door(Door::UnknownCa).unwrap();
    let list = Address::parse_list(&format!("{bootstrap},{bootstrap}")).unwrap();
    let error = Client::open(list, with_tls(&trusting())).await.unwrap_err();
    assert!(matches!(error, KafkaError::Tls { .. }), "{error}");
}

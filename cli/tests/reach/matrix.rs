//! Everything that lets clients in, there and back.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bodley_testbed::aws::{CONTAINER_TOKEN, ROLE_ARN, Source, WEB_IDENTITY_TOKEN};
use bodley_testbed::iam::AwsCredentials;
use bodley_testbed::oidc;
use bodley_testbed::pki::{KEY_PASSWORD, KeyForm, Leaf, PASSWORD, Store};
use bodley_testbed::security::{ADMIN, ALICE, BOB, ODD_NAME, User};
use bodley_testbed::workbench::GroupOffset;
use bodley_testbed::{Door, Login};

use crate::common::judge::same;
use crate::common::vault::Vault;

use super::client::Client;
use super::places::{GROUP, POSITIONS, Place, RECORDS, TOPIC, home, positions, together};

/// Backs up, verifies, and restores under a name of its own, with the group.
#[track_caller]
fn there_and_back(name: &str, client: &Client) {
    let (site, vault, started) = (&home().site, Vault::new(), Instant::now());
    let report = client.run("backup", &vault, &["--topic", TOPIC]).exits(0).json();
    assert_eq!((&report["records"], &report["groups"]), (&RECORDS.into(), &1.into()), "{name}: {report:#}");
    vault.verified();
    client.left_nothing_in(&vault);
    let target = format!("{TOPIC}-{name}");
    let renamed = format!("{TOPIC}={target}");
    let report = client.run("restore", &vault, &["--topic", TOPIC, "--rename", &renamed]).exits(0).json();
    assert_eq!(report["records"], RECORDS, "{name}: {report:#}");
    same(&site.dump(TOPIC), &site.dump(&target));
    let all = site.bench.group_offsets(GROUP).unwrap();
    let found: Vec<GroupOffset> = all.into_iter().filter(|position| position.topic == target).collect();
    assert_eq!(found, positions(&target), "{name}: {POSITIONS:?}");
    eprintln!("{name}: there and back in {:.1?}", started.elapsed());
}

#[test]
fn without_a_name() {
    let (_others, place) = (together(), home());
    there_and_back("tls", &place.client(Door::Ssl, &Login::Anonymous));
    let plain = |key: &str, value: String| Client::of(vec![(key.to_owned(), value)]);
    there_and_back("plain", &plain("bootstrap.servers", place.site.cluster.bootstrap()));
    // In librdkafka's words.
    let ca = path(&place.site.cluster.pki().unwrap().ca());
    let client = plain("metadata.broker.list", place.site.cluster.door(Door::Ssl).unwrap());
    there_and_back("tls-rd", &client.set("security.protocol", "ssl").set("ssl.ca.location", &ca));
}

#[test]
fn by_passwords() {
    let (_others, place) = (together(), home());
    for (door, there) in [(Door::SaslSsl, "tls"), (Door::SaslPlaintext, "clear")] {
        for (mechanism, user) in [
            ("PLAIN", ALICE),
            ("SCRAM-SHA-256", ALICE),
            ("SCRAM-SHA-512", ALICE),
            ("SCRAM-SHA-256", ODD_NAME),
            ("SCRAM-SHA-512", BOB),
        ] {
            let client = place.client(door, &Login::password(mechanism, user));
            there_and_back(&format!("{mechanism}-{there}-{}", user.password.len()), &client);
        }
    }
    for (mechanism, user) in [("PLAIN", BOB), ("SCRAM-SHA-512", ADMIN)] {
        there_and_back(&format!("{mechanism}-rd"), &librdkafka(place, mechanism, user));
    }
    // The password stands in the environment.
    let client = librdkafka(place, "SCRAM-SHA-256", ALICE).without("sasl.password");
    there_and_back("SCRAM-SHA-256-env", &client.variable("BODLEY_SASL_PASSWORD", ALICE.password));
}

/// A user in librdkafka's words.
fn librdkafka(place: &Place, mechanism: &str, user: User) -> Client {
    let ca = path(&place.site.cluster.pki().unwrap().ca());
    let client =
        Client::of(vec![("bootstrap.servers".to_owned(), place.site.cluster.door(Door::SaslSsl).unwrap())]);
    let client = client.set("security.protocol", "sasl_ssl").set("ssl.ca.location", &ca);
    let client = client.set("sasl.mechanisms", mechanism).set("sasl.username", user.name);
    client.set("sasl.password", user.password).secret(user.password)
}

#[test]
fn by_certificates() {
    let (_others, place) = (together(), home());
    for leaf in [Leaf::Alice, Leaf::AliceRsa, Leaf::Bob] {
        there_and_back(&format!("{leaf:?}"), &place.client(Door::Mtls, &Login::Certificate(leaf)));
    }
    let pki = place.site.cluster.pki().unwrap();
    let stores = [
        (Store::KeyPkcs12, Store::TrustJks),
        (Store::KeyJks, Store::TrustPkcs12),
        (Store::KeyOpenssl, Store::TrustOpenssl),
        (Store::KeyLegacy, Store::TrustPkcs12),
    ];
    for (key, trust) in stores {
        let mut client = place.client(Door::Mtls, &Login::Anonymous).without("ssl.");
        for (side, store) in [("key", key), ("trust", trust)] {
            client = client
                .set(&format!("ssl.{side}store.type"), store.kind())
                .set(&format!("ssl.{side}store.location"), &path(&pki.store(store)))
                .set(&format!("ssl.{side}store.password"), PASSWORD);
        }
        if key == Store::KeyJks {
            client = client.set("ssl.key.password", KEY_PASSWORD).secret(KEY_PASSWORD);
        }
        there_and_back(&format!("{key:?}-{trust:?}"), &client.secret(PASSWORD));
    }
    for form in KeyForm::ALL {
        let client = place.client(Door::Mtls, &Login::Anonymous);
        let (key, cert) = (pki.key_form(form), pki.cert(form.leaf()));
        let client = if matches!(form, KeyForm::Sec1 | KeyForm::EncryptedAes256Rsa) {
            // In librdkafka's words.
            let client = client.without("ssl.").set("ssl.ca.location", &path(&pki.ca()));
            client.set("ssl.key.location", &path(&key)).set("ssl.certificate.location", &path(&cert))
        } else {
            let both = client.home().join("both.pem");
            let texts = [key, cert].map(|file| fs::read_to_string(file).unwrap());
            fs::write(&both, texts.concat()).unwrap();
            client.set("ssl.keystore.type", "PEM").set("ssl.keystore.location", &path(&both))
        };
        let client = match form.is_encrypted() {
            true => client.set("ssl.key.password", PASSWORD).secret(PASSWORD),
            false => client,
        };
        there_and_back(&format!("{form:?}"), &client);
    }
}

#[test]
fn by_tokens() {
    let (_others, place, _provider) = (together(), home(), super::refusals::provider());
    let client = |client, endpoint: String| Login::Client { client, endpoint };
    let (http, https) = (place.oidc.token_endpoint(), place.oidc.secure_token_endpoint());
    let before = place.oidc.tokens().unwrap();
    for (door, there) in [(Door::SaslSsl, "tls"), (Door::SaslPlaintext, "clear")] {
        let login = client(oidc::ALICE, http.clone());
        there_and_back(&format!("OAUTHBEARER-{there}"), &place.client(door, &login));
        let file = place.site.cluster.dir().join(format!("token-{there}"));
        fs::write(&file, place.oidc.token(oidc::SERVICE).unwrap()).unwrap();
        there_and_back(&format!("token-file-{there}"), &place.client(door, &Login::TokenFile(file)));
    }
    // One token for each run and each file, however many connections there are.
    assert_eq!(place.oidc.tokens().unwrap() - before, 2 * 2 + 2);
    // As Java has it, the endpoint's authority stands in the login's options.
    there_and_back("OAUTHBEARER-https", &place.client(Door::SaslSsl, &client(oidc::SERVICE, https.clone())));
    let ca = path(&place.site.cluster.pki().unwrap().ca());
    let client = librdkafka(place, "OAUTHBEARER", ALICE).without("sasl.username").without("sasl.password");
    let client = client.set("sasl.oauthbearer.method", "oidc").set("https.ca.location", &ca);
    let client = client.set("sasl.oauthbearer.token.endpoint.url", &https);
    let client = client.set("sasl.oauthbearer.client.id", oidc::ALICE.id).secret(oidc::ALICE.secret);
    let client = client.set("sasl.oauthbearer.client.secret", oidc::ALICE.secret);
    let client = client.set("sasl.oauthbearer.header.urlencode", "true");
    there_and_back("OAUTHBEARER-rd", &client.set("sasl.oauthbearer.scope", oidc::SCOPE));
}

#[test]
fn by_aws() {
    let (_others, place) = (together(), home());
    let (own, lent) = (AwsCredentials::random(), AwsCredentials::lent(Duration::from_secs(3600)));
    for (name, credentials) in [("own", &own), ("lent", &lent)] {
        place.iam.know(credentials.clone());
        there_and_back(&format!("AWS-{name}"), &Client::aws(place.site.cluster, credentials));
        let last = place.iam.admissions().pop().unwrap();
        assert_eq!((last.access_key_id, &*last.host), (credentials.access_key_id.clone(), "localhost"));
    }
    let client = || place.client(Door::Iam, &Login::Iam);
    let token = client();
    let file = token.home().join("identity");
    fs::write(&file, WEB_IDENTITY_TOKEN).unwrap();
    let token = token.variable("AWS_WEB_IDENTITY_TOKEN_FILE", &path(&file)).secret(WEB_IDENTITY_TOKEN);
    let token = token.variable("AWS_ROLE_ARN", ROLE_ARN).variable("AWS_ENDPOINT_URL_STS", &place.aws.sts());
    there_and_back("AWS-sts", &token);
    let container = client().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &place.aws.container());
    let container = container.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN);
    there_and_back("AWS-container", &container.secret(CONTAINER_TOKEN));
    let instance = client().variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", &place.aws.metadata());
    there_and_back("AWS-instance", &instance);
    // Credentials are borrowed once a run.
    for source in [Source::Sts, Source::Container, Source::Instance] {
        assert_eq!(place.aws.lent(source), 2, "{source:?}");
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

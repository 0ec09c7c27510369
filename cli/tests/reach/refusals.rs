//! Who is not let in is told so at once, with the broker, the mechanism and the cause, and nobody is told a secret.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bodley_testbed::iam::AwsCredentials;
use bodley_testbed::oidc::{self, OidcClient};
use bodley_testbed::pki::{Leaf, PASSWORD, Store};
use bodley_testbed::security::{ALICE, BOB, User};
use bodley_testbed::{Door, Login, Oidc};

use crate::common::vault::Vault;
use crate::common::{Ran, seconds};

use super::client::Client;
use super::places::{TOPIC, home, together};

/// The provider of tokens is needed as it is meant to be, or is made to fail.
pub fn provider() -> MutexGuard<'static, ()> {
    static PROVIDER: Mutex<()> = Mutex::new(());
    PROVIDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A backup fails soon with this code and says all this; so does everything else that goes there. Nothing is written.
#[track_caller]
fn refused(name: &str, client: &Client, code: i32, says: &[&str]) -> Ran {
    let vault = Vault::new();
    let mut ran = client.run("backup", &vault, &["-vv", "--topic", TOPIC]).exits(code).within(60);
    let told = ran.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    for word in says {
        assert!(told.contains(word), "{name}: `{word}` is not said: {ran}");
        ran = ran.says(word);
    }
    assert!(!vault.root().exists(), "{name}: a vault was made: {ran}");
    eprintln!("{name} (exit {code}, {:.1?}): {told}", ran.took);
    ran
}

fn at(door: Door) -> String {
    home().site.cluster.door(door).unwrap()
}

/// Says no with exit 1, and names the broker.
#[track_caller]
fn not_let_in(name: &str, door: Door, client: &Client, says: &[&str]) {
    refused(name, client, 1, &[&[&*at(door)], says].concat());
}

#[test]
fn wrong_passwords() {
    let (_others, place) = (together(), home());
    let wrong = User { password: "hunter2 \"\\ wörong", ..ALICE };
    let nobody = User { name: "nobody", ..wrong };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for door in [Door::SaslSsl, Door::SaslPlaintext] {
            for user in [wrong, nobody] {
                let client = place.client(door, &Login::password(mechanism, user));
                let name = format!("{mechanism} {} at {door:?}", user.name);
                not_let_in(&name, door, &client, &[mechanism, "check user name and password"]);
            }
        }
    }
}

#[test]
fn servers_that_are_not_to_be_trusted() {
    let (_others, place) = (together(), home());
    for (door, says) in [
        (Door::ExpiredCert, "its certificate expired"),
        (Door::WrongHost, "its certificate is for other.example, not for localhost"),
        (Door::UnknownCa, "an authority that is not trusted here"),
    ] {
        let client = place.client(door, &Login::Anonymous);
        not_let_in(&format!("{door:?}"), door, &client, &["TLS", says]);
    }
    // A password goes to nobody who is not who he should be.
    let client = place.client(Door::SaslSsl, &Login::password("PLAIN", ALICE)).without("ssl.");
    let door = Door::SaslSsl;
    not_let_in("no truststore", door, &client, &["TLS", "an authority that is not trusted here"]);
    let unknown = place.site.cluster.pki().unwrap().unknown_ca().display().to_string();
    let client =
        place.client(door, &Login::password("PLAIN", ALICE)).set("ssl.truststore.location", &unknown);
    not_let_in("another truststore", door, &client, &["TLS", "an authority that is not trusted here"]);
}

#[test]
fn clients_without_the_right_certificate() {
    let (_others, place) = (together(), home());
    // What we can see ourselves needs no broker.
    let client = place.client(Door::Mtls, &Login::Certificate(Leaf::ExpiredClient));
    refused("an expired one", &client, 2, &["expired-client", "the client's certificate expired on"]);
    for login in [Login::Anonymous, Login::Certificate(Leaf::Stranger)] {
        let client = place.client(Door::Mtls, &login);
        not_let_in(
            &format!("{login:?}"),
            Door::Mtls,
            &client,
            &["TLS", "client certificate", "ssl.keystore.location"],
        );
    }
}

#[test]
fn the_wrong_protocol() {
    let (_others, place) = (together(), home());
    let alice = Login::password("SCRAM-SHA-512", ALICE);
    let plain = place.site.cluster.bootstrap();
    // TLS or SASL where there is none.
    let client = place.client(Door::Ssl, &Login::Anonymous).set("bootstrap.servers", &plain);
    refused("TLS at a plain door", &client, 1, &[&plain, "TLS", "security.protocol"]);
    let client = place.client(Door::SaslSsl, &alice).set("bootstrap.servers", &at(Door::SaslPlaintext));
    not_let_in("TLS at a clear door", Door::SaslPlaintext, &client, &["TLS", "security.protocol"]);
    let client = place.client(Door::SaslPlaintext, &alice).set("bootstrap.servers", &plain);
    refused("SASL at a plain door", &client, 1, &[&plain, "SCRAM-SHA-512", "security.protocol"]);
    let client = place.client(Door::SaslSsl, &alice).set("bootstrap.servers", &at(Door::Ssl));
    not_let_in("SASL at a TLS door", Door::Ssl, &client, &["SCRAM-SHA-512", "security.protocol"]);
    // Too little.
    let client = || place.client(Door::Ssl, &Login::Anonymous);
    let at_tls = client().without("").set("bootstrap.servers", &at(Door::Ssl));
    not_let_in("plain at a TLS door", Door::Ssl, &at_tls, &["security.protocol"]);
    let clear = client().without("").set("bootstrap.servers", &at(Door::SaslPlaintext));
    not_let_in("no SASL at a clear door", Door::SaslPlaintext, &clear, &["SASL", "security.protocol"]);
    let tls = client().set("bootstrap.servers", &at(Door::SaslSsl));
    not_let_in("no SASL at a TLS door", Door::SaslSsl, &tls, &["SASL", "security.protocol"]);
    let iam = client().set("bootstrap.servers", &at(Door::Iam));
    not_let_in("no SASL at Amazon's door", Door::Iam, &iam, &["SASL", "security.protocol"]);
    // Another mechanism.
    let offered = "offers only PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER";
    let aws = Client::aws(place.site.cluster, &AwsCredentials::random());
    let client = aws.set("bootstrap.servers", &at(Door::SaslSsl));
    let offers: Vec<&str> = offered.split(", ").map(|word| word.trim_start_matches("offers only ")).collect();
    let says = [&["AWS_MSK_IAM", "offers only"], &offers[..]].concat();
    not_let_in("a mechanism that is not there", Door::SaslSsl, &client, &says);
    let client = place.client(Door::SaslSsl, &Login::password("PLAIN", ALICE));
    let client = client.set("bootstrap.servers", &at(Door::Iam));
    not_let_in("PLAIN at Amazon's door", Door::Iam, &client, &["PLAIN", "offers only AWS_MSK_IAM"]);
}

#[test]
fn no_token() {
    let (_others, place, _provider) = (together(), home(), provider());
    let door = Door::SaslSsl;
    let by = |client, endpoint: &str| Login::Client { client, endpoint: endpoint.to_owned() };
    let endpoint = place.oidc.token_endpoint();
    let wrong = OidcClient { secret: "hunter2+/& wrong", ..oidc::ALICE };
    let client = place.client(door, &by(wrong, &endpoint));
    not_let_in("wrong client secret", door, &client, &["OAUTHBEARER", &endpoint, "401", "invalid_client"]);
    let nobody = OidcClient { id: "nobody", ..wrong };
    let client = place.client(door, &by(nobody, &endpoint));
    not_let_in("unknown client", door, &client, &["OAUTHBEARER", &endpoint, "401", "nobody"]);

    let quick = ("sasl.login.retry.backoff.max.ms", "2000");
    place.oidc.fail(Some(503)).unwrap();
    let client = place.client(door, &by(oidc::ALICE, &endpoint)).set(quick.0, quick.1);
    not_let_in("provider that fails", door, &client, &["OAUTHBEARER", &endpoint, "503"]);
    assert!(place.oidc.failures().unwrap() > 1, "one attempt only");
    place.oidc.fail(None).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("http://localhost:{}/token", free.port());
    let client = place.client(door, &by(oidc::ALICE, &nowhere)).set(quick.0, quick.1);
    not_let_in("no provider", door, &client, &["OAUTHBEARER", &nowhere]);
    let secure = place.oidc.secure_token_endpoint();
    let client = place.client(door, &by(oidc::ALICE, &secure));
    let jaas = bodley_testbed::properties::jaas(
        "oauthbearer.OAuthBearerLoginModule",
        &[("clientId", oidc::ALICE.id), ("clientSecret", oidc::ALICE.secret)],
    );
    let client = client.set("sasl.jaas.config", &jaas).set(quick.0, quick.1);
    not_let_in("provider of an unknown authority", door, &client, &["OAUTHBEARER", &secure, "certificate"]);
}

#[test]
fn a_token_that_is_no_good() {
    let (_others, place, _provider) = (together(), home(), provider());
    let door = Door::SaslSsl;
    let file = place.site.cluster.dir().join("bad-token");
    let by_file = |token: &str| {
        fs::write(&file, token).unwrap();
        place.client(door, &Login::TokenFile(file.clone()))
    };
    place.oidc.set_audience("urn:testbed:others").unwrap();
    let others = place.oidc.token(oidc::ALICE);
    let endpoint = place.oidc.token_endpoint();
    let client = place.client(door, &Login::Client { client: oidc::ALICE, endpoint });
    not_let_in("audience", door, &client, &["OAUTHBEARER", "audience"]);
    place.oidc.set_audience(oidc::AUDIENCE).unwrap();
    not_let_in("audience, from a file", door, &by_file(&others.unwrap()), &["OAUTHBEARER", "audience"]);

    place.oidc.set_lifetime(Duration::from_secs(1)).unwrap();
    let expired = place.oidc.token(oidc::ALICE);
    place.oidc.set_lifetime(Duration::from_secs(3600)).unwrap();
    std::thread::sleep(seconds(1.5));
    let path = file.display().to_string();
    not_let_in("expired", door, &by_file(&expired.unwrap()), &["OAUTHBEARER", &path, "ended at"]);

    let foreign = Oidc::start().unwrap().token(oidc::ALICE).unwrap();
    not_let_in("of another provider", door, &by_file(&foreign), &["OAUTHBEARER", "issuer"]);
    not_let_in("no token at all", door, &by_file("hunter2 hunter2"), &["OAUTHBEARER", &path]);
    let client = place.client(door, &Login::TokenFile("/no/such-token".into()));
    not_let_in("no file", door, &client, &["OAUTHBEARER", "/no/such-token", "No such file"]);
}

#[test]
fn aws_credentials_that_are_no_good() {
    let (_others, place) = (together(), home());
    let cluster = place.site.cluster;
    let unknown = AwsCredentials::random();
    let says = ["AWS_MSK_IAM", "Access denied", "is not known", "kafka-cluster:Connect"];
    not_let_in("unknown key", Door::Iam, &Client::aws(cluster, &unknown), &says);
    let known = AwsCredentials::random();
    place.iam.know(known.clone());
    let wrong = AwsCredentials { secret_access_key: "hunter2/hunter2".to_owned(), ..known.clone() };
    let says = ["AWS_MSK_IAM", "Access denied", "signature"];
    not_let_in("wrong key", Door::Iam, &Client::aws(cluster, &wrong), &says);
    let ended = AwsCredentials::lent(Duration::from_secs(0));
    place.iam.know(ended.clone());
    let says = ["AWS_MSK_IAM", "Access denied", "expired"];
    not_let_in("expired key", Door::Iam, &Client::aws(cluster, &ended), &says);
    let client = Client::aws(cluster, &known).variable("AWS_REGION", "us-west-1");
    not_let_in("another region", Door::Iam, &client, &["AWS_MSK_IAM", "Access denied", "region"]);

    let none = || place.client(Door::Iam, &Login::Iam);
    let disabled = none().variable("AWS_EC2_METADATA_DISABLED", "true");
    not_let_in("no credentials", Door::Iam, &disabled, &["AWS_MSK_IAM", "AWS_ACCESS_KEY_ID"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("http://{free}");
    let client = none().variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", &nowhere);
    not_let_in("no metadata service", Door::Iam, &client, &["AWS_MSK_IAM"]);
    let client = none().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &place.aws.container());
    let client = client.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hunter2 hunter2").secret("hunter2");
    not_let_in("wrong container token", Door::Iam, &client, &["AWS_MSK_IAM", "401"]);
}

/// Configuration: nobody is asked, exit 2.
#[test]
fn files_that_are_no_good() {
    let (_others, place) = (together(), home());
    let pki = place.site.cluster.pki().unwrap();
    let text = |path: &Path| path.display().to_string();
    for store in [Store::KeyPkcs12, Store::KeyJks, Store::KeyOpenssl] {
        let file = text(&pki.store(store));
        let client = place.client(Door::Mtls, &Login::Anonymous);
        let client = client.set("ssl.keystore.type", store.kind()).set("ssl.keystore.location", &file);
        let client = client.set("ssl.keystore.password", "hunter2").secret("hunter2").secret(PASSWORD);
        refused(&format!("{store:?} with a wrong password"), &client, 2, &[&file, "password"]);
    }
    let client = place.client(Door::Ssl, &Login::Anonymous);
    let client = client.set("ssl.truststore.location", "/no/such.pem");
    refused("no truststore", &client, 2, &["/no/such.pem", "No such file"]);
    let client = place.client(Door::Mtls, &Login::Anonymous);
    let client = client.set("ssl.keystore.type", "JKS").set("ssl.keystore.location", "/no/such.jks");
    let client = client.set("ssl.keystore.password", "hunter2").secret("hunter2");
    refused("no keystore", &client, 2, &["/no/such.jks", "No such file"]);
    let client = place.client(Door::Mtls, &Login::Certificate(Leaf::Alice));
    let client = client.set("ssl.keystore.location", &text(&pki.ca()));
    refused("a keystore without a key", &client, 2, &["key"]);
    let client = place.client(Door::SaslSsl, &Login::password("PLAIN", BOB));
    let jaas = bodley_testbed::properties::jaas("plain.PlainLoginModule", &[("password", "hunter2")]);
    let client = client.set("sasl.jaas.config", &jaas).secret("hunter2");
    refused("no user name", &client, 2, &["sasl.username", "not set"]);
}

/// What runs shows no secret to those who look at processes.
#[test]
fn processes_show_no_secrets() {
    let (_others, place) = (together(), home());
    let client = place.client(Door::SaslSsl, &Login::password("SCRAM-SHA-512", ALICE));
    let vault = Vault::new();
    let mut run = client.start("backup", &vault, &["--topic", TOPIC, "-vv"]);
    let mut seen = 0;
    while run.is_running() {
        let shown = fs::read(format!("/proc/{}/cmdline", run.pid())).unwrap_or_default();
        client.keeps_secrets("the command line", &shown);
        seen += usize::from(!shown.is_empty());
    }
    assert!(seen > 0, "too fast for this test");
    client.end(run).exits(0);
    client.left_nothing_in(&vault);
}

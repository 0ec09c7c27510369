//! A secured cluster lets the right ones in, by the judgement of Apache's own client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::path::Path;
use std::sync::OnceLock;

use bodley_testbed::pki::{KEY_PASSWORD, KeyForm, Leaf, PASSWORD, Store};
use bodley_testbed::security::{ALICE, BOB, ODD_NAME, PLAIN_USERS, SCRAM_USERS, User};
use bodley_testbed::workbench::Right;
use bodley_testbed::{Cluster, ClusterOptions, Door, Login};

fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let options = ClusterOptions::new().authorized().proxied_door(Door::SaslSsl);
        let cluster = Cluster::start(options).unwrap();
        cluster.workbench().unwrap().create_topic("seen", 1, &[]).unwrap();
        cluster
    })
}

/// What Apache's client sees through a door, or the name of its exception and what it says.
fn look(door: Door, login: &Login) -> Result<Vec<String>, String> {
    let settings = cluster().client_properties(door, login).unwrap();
    cluster().workbench().unwrap().look(&settings).map_err(|e| e.to_string())
}

#[track_caller]
fn refused(seen: Result<Vec<String>, String>, with: &str) {
    let error = seen.unwrap_err();
    assert!(error.contains(with), "{error}");
}

#[test]
fn tls_is_judged_by_its_certificates() {
    assert!(look(Door::Ssl, &Login::Anonymous).unwrap().contains(&"seen".to_owned()));
    for (door, complaint) in [
        (Door::ExpiredCert, "NotAfter"),
        (Door::WrongHost, "localhost"),
        (Door::UnknownCa, "unable to find valid certification path"),
    ] {
        let seen = look(door, &Login::Anonymous);
        refused(seen.clone(), "SslAuthenticationException");
        refused(seen, complaint);
    }
}

#[test]
fn clients_are_judged_by_their_certificates() {
    for leaf in [Leaf::Alice, Leaf::AliceRsa, Leaf::Bob] {
        look(Door::Mtls, &Login::Certificate(leaf)).unwrap();
    }
    for login in
        [Login::Anonymous, Login::Certificate(Leaf::ExpiredClient), Login::Certificate(Leaf::Stranger)]
    {
        refused(look(Door::Mtls, &login), "SslAuthenticationException");
    }
}

/// Settings with another keystore and truststore than [`Cluster::client_properties`] has.
fn with_stores(key: (&str, &Path, &str), trust: (&str, &Path, &str)) -> Vec<(String, String)> {
    let mut settings = cluster().client_properties(Door::Mtls, &Login::Anonymous).unwrap();
    settings.retain(|(name, _)| !name.starts_with("ssl."));
    for (side, (kind, file, password)) in [("key", key), ("trust", trust)] {
        let all = [("type", kind), ("location", file.to_str().unwrap()), ("password", password)];
        let all = all.iter().filter(|(_, value)| !value.is_empty());
        settings.extend(all.map(|(name, value)| (format!("ssl.{side}store.{name}"), (*value).to_owned())));
    }
    settings
}

#[test]
fn java_takes_its_stores_and_keys() {
    let (pki, bench) = (cluster().pki().unwrap(), cluster().workbench().unwrap());
    for key in [Store::KeyPkcs12, Store::KeyJks, Store::KeyOpenssl, Store::KeyLegacy] {
        for trust in [Store::TrustPkcs12, Store::TrustJks] {
            let (key_file, trust_file) = (pki.store(key), pki.store(trust));
            let key_store = (key.kind(), &*key_file, PASSWORD);
            let mut settings = with_stores(key_store, (trust.kind(), &*trust_file, PASSWORD));
            if key == Store::KeyJks {
                settings.push(("ssl.key.password".to_owned(), KEY_PASSWORD.to_owned()));
            }
            let seen = bench.look(&settings);
            assert!(seen.is_ok(), "{key:?} and {trust:?}: {seen:?}");
        }
    }
    // The one form of an encrypted key that Kafka reads with every JDK.
    let form = KeyForm::EncryptedPbeSha1Des3;
    let file = cluster().dir().join("encrypted.pem");
    let pem = [pki.key_form(form), pki.cert(form.leaf())].map(|f| std::fs::read_to_string(f).unwrap());
    std::fs::write(&file, pem.concat()).unwrap();
    let mut settings = with_stores(("PEM", &file, ""), ("PEM", &pki.ca(), ""));
    settings.push(("ssl.key.password".to_owned(), PASSWORD.to_owned()));
    bench.look(&settings).unwrap();
}

#[test]
fn passwords_count_with_every_mechanism() {
    for door in [Door::SaslPlaintext, Door::SaslSsl] {
        for (mechanism, users) in
            [("PLAIN", &PLAIN_USERS[..]), ("SCRAM-SHA-256", &SCRAM_USERS), ("SCRAM-SHA-512", &SCRAM_USERS)]
        {
            for user in users {
                look(door, &Login::password(mechanism, *user)).unwrap();
            }
            let wrong = User { password: BOB.password, ..ALICE };
            refused(look(door, &Login::password(mechanism, wrong)), "SaslAuthenticationException");
        }
    }
}

#[test]
fn rights_come_and_go() {
    let bench = cluster().workbench().unwrap();
    bench.create_topic("rights-1", 1, &[]).unwrap();
    let mechanism = "SCRAM-SHA-256";
    let logins = [
        (Door::Mtls, Login::Certificate(Leaf::Alice), "User:alice"),
        (Door::SaslSsl, Login::password("PLAIN", BOB), "User:bob"),
        (Door::SaslPlaintext, Login::password(mechanism, ODD_NAME), "User:odd,na=me"),
    ];
    for (door, login, principal) in logins {
        let sees = || look(door, &login).unwrap().contains(&"rights-1".to_owned());
        assert!(!sees(), "{principal}");
        let right =
            Right { principal, kind: "TOPIC", name: "rights-", pattern: "PREFIXED", operation: "DESCRIBE" };
        bench.allow(right).unwrap();
        assert!(sees(), "{principal}");
        bench.revoke(right).unwrap();
        assert!(!sees(), "{principal}");
        assert!(bench.revoke(right).is_err());
    }
}

#[test]
fn doors_may_stand_behind_proxies() {
    let proxy = cluster().door_proxy(Door::SaslSsl, 0).unwrap();
    assert!(cluster().door(Door::SaslSsl).unwrap().ends_with(&format!(":{}", proxy.address().port())));
    assert!(cluster().door_proxy(Door::Ssl, 0).is_err());
    proxy.cut_after(1000);
    look(Door::SaslSsl, &Login::password("PLAIN", ALICE)).unwrap();
    assert_eq!(proxy.cuts(), 1);
}

//! A secured cluster lets the right ones in, by the judgement of Apache's own client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::sync::OnceLock;

use bodley_testbed::pki::Leaf;
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

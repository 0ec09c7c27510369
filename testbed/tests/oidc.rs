//! Tokens of a real provider, by the judgement of Apache's own client and broker.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::time::Duration;

use bodley_testbed::oidc::{ALICE, OidcClient, SERVICE};
use bodley_testbed::workbench::Right;
use bodley_testbed::{Cluster, ClusterOptions, Door, Login, Oidc};

#[test]
fn tokens_let_in_until_they_expire() {
    let oidc = Oidc::start().unwrap();
    let options = ClusterOptions::new().authorized().oidc(&oidc).reauth(Duration::from_secs(60));
    let cluster = Cluster::start(options).unwrap();
    let bench = cluster.workbench().unwrap();
    bench.create_topic("seen", 1, &[]).unwrap();
    let right = Right {
        principal: "User:svc:bob/1",
        kind: "TOPIC",
        name: "seen",
        pattern: "LITERAL",
        operation: "DESCRIBE",
    };
    bench.allow(right).unwrap();

    let look = |door, login: &Login| bench.look(&cluster.client_properties(door, login).unwrap());
    let client = |client, endpoint| Login::Client { client, endpoint };
    let none: [&str; 0] = [];
    assert_eq!(look(Door::SaslSsl, &client(ALICE, oidc.token_endpoint())).unwrap(), none);
    assert_eq!(look(Door::SaslPlaintext, &client(SERVICE, oidc.secure_token_endpoint())).unwrap(), ["seen"]);
    assert_eq!(oidc.tokens().unwrap(), 2);

    let wrong = OidcClient { secret: "wrong", ..ALICE };
    let error = look(Door::SaslSsl, &client(wrong, oidc.token_endpoint())).unwrap_err().to_string();
    assert!(error.contains("401"), "{error}");
    assert!(oidc.token(wrong).is_err());

    // Long enough for a client on a busy machine to present it in time.
    let lifetime = Duration::from_secs(15);
    oidc.set_lifetime(lifetime).unwrap();
    let file = cluster.dir().join("token");
    std::fs::write(&file, oidc.token(SERVICE).unwrap()).unwrap();
    assert_eq!(look(Door::SaslSsl, &Login::TokenFile(file.clone())).unwrap(), ["seen"]);
    std::thread::sleep(lifetime + Duration::from_secs(1));
    let error = look(Door::SaslSsl, &Login::TokenFile(file)).unwrap_err().to_string();
    assert!(error.contains("SaslAuthenticationException"), "{error}");

    oidc.fail(Some(503)).unwrap();
    assert!(oidc.token(ALICE).is_err());
    assert_eq!(oidc.failures().unwrap(), 1);
    oidc.fail(None).unwrap();
    oidc.token(ALICE).unwrap();
}

//! No key is dead: each one, in each of its spellings, changes the result. A note does not count.

use super::*;
use crate::client::keys::HONOURED;

const SSL: &str = "security.protocol=SSL\n";
const STORE: &str = "security.protocol=SSL\nssl.truststore.location={dir}/trust.jks\n";
const KEYSTORE: &str =
    "security.protocol=SSL\nssl.keystore.location={dir}/key.p12\nssl.keystore.password=first\n";
const PLAIN: &str = "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=p\n";
const JAAS: &str = "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\n";
const OIDC: &str = "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n\
     sasl.oauthbearer.token.endpoint.url=https://h/t\nsasl.jaas.config=x.OAuthBearerLoginModule required clientId=i clientSecret=s;\n";
const OAUTH: &str = "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n";
const NO_ID: &str = "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n\
     sasl.oauthbearer.token.endpoint.url=https://h/t\nsasl.jaas.config=x.OAuthBearerLoginModule required clientSecret=s;\n";
const NO_SECRET: &str = "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n\
     sasl.oauthbearer.token.endpoint.url=https://h/t\nsasl.jaas.config=x.OAuthBearerLoginModule required clientId=i;\n";
const PEM: &str = "-----BEGIN CERTIFICATE----- AAAA -----END CERTIFICATE-----";

/// Where a key has an effect, and a value that has one.
const CASES: &[(&str, &str, &str)] = &[
    ("", "bootstrap.servers", "b:9"),
    ("", "client.id", "x"),
    ("", "client.rack", "x"),
    ("", "security.protocol", "SSL"),
    ("", "request.timeout.ms", "7000"),
    ("", "socket.connection.setup.timeout.ms", "7000"),
    ("", "socket.connection.setup.timeout.max.ms", "7000"),
    ("", "reconnect.backoff.ms", "77"),
    ("", "reconnect.backoff.max.ms", "7777"),
    ("", "retry.backoff.ms", "77"),
    ("", "retry.backoff.max.ms", "7777"),
    ("", "metadata.recovery.strategy", "NONE"),
    ("", "send.buffer.bytes", "7777"),
    ("", "receive.buffer.bytes", "7777"),
    (SSL, "ssl.truststore.location", "{dir}/trust.jks"),
    (STORE, "ssl.truststore.password", "p"),
    (STORE, "ssl.truststore.type", "PEM"),
    (SSL, "ssl.truststore.certificates", PEM),
    (SSL, "ssl.ca.location", "{dir}/ca.pem"),
    (SSL, "enable.ssl.certificate.verification", "false"),
    (SSL, "ssl.endpoint.identification.algorithm", ""),
    ("security.protocol=SSL\nssl.keystore.password=p\n", "ssl.keystore.location", "{dir}/key.p12"),
    (KEYSTORE, "ssl.keystore.password", "second"),
    (KEYSTORE, "ssl.keystore.type", "PEM"),
    ("security.protocol=SSL\nssl.certificate.location={dir}/service.cert\n", "ssl.keystore.key", PEM),
    ("security.protocol=SSL\nssl.key.location={dir}/service.key\n", "ssl.keystore.certificate.chain", PEM),
    (
        "security.protocol=SSL\nssl.key.location={dir}/service.key\n",
        "ssl.certificate.location",
        "{dir}/ca.pem",
    ),
    (
        "security.protocol=SSL\nssl.certificate.location={dir}/ca.pem\n",
        "ssl.key.location",
        "{dir}/service.key",
    ),
    (KEYSTORE, "ssl.key.password", "p"),
    (SSL, "ssl.protocol", "TLSv1.2"),
    (SSL, "ssl.enabled.protocols", "TLSv1.3"),
    (SSL, "ssl.cipher.suites", "TLS_AES_128_GCM_SHA256"),
    (PLAIN, "sasl.mechanism", "SCRAM-SHA-512"),
    (JAAS, "sasl.jaas.config", "x.PlainLoginModule required username=u password=p;"),
    (PLAIN, "sasl.username", "v"),
    (PLAIN, "sasl.password", "q"),
    (
        OAUTH,
        "sasl.login.callback.handler.class",
        "software.amazon.msk.auth.iam.IAMOAuthBearerLoginCallbackHandler",
    ),
    (PLAIN, "sasl.client.callback.handler.class", "x.OtherHandler"),
    (OIDC, "sasl.oauthbearer.method", "default"),
    (OAUTH, "sasl.oauthbearer.token.endpoint.url", "file:///t"),
    (NO_ID, "sasl.oauthbearer.client.credentials.client.id", "i"),
    (NO_SECRET, "sasl.oauthbearer.client.credentials.client.secret", "s"),
    (OIDC, "sasl.oauthbearer.scope", "x"),
    (OIDC, "sasl.oauthbearer.extensions", "logicalCluster=x"),
    (OIDC, "sasl.oauthbearer.header.urlencode", "true"),
    (OIDC, "sasl.oauthbearer.jwt.retriever.class", "x.FileJwtRetriever"),
    (OIDC, "https.ca.location", "{dir}/cas"),
    (OIDC, "https.ca.pem", PEM),
    (OIDC, "sasl.login.connect.timeout.ms", "7000"),
    (OIDC, "sasl.login.read.timeout.ms", "7000"),
    (OIDC, "sasl.login.retry.backoff.ms", "777"),
    (OIDC, "sasl.login.retry.backoff.max.ms", "7777"),
    (OIDC, "sasl.login.refresh.window.factor", "0.7"),
    (OIDC, "sasl.login.refresh.buffer.seconds", "77"),
];

#[test]
fn every_key_has_an_effect() {
    let folder = folder();
    let result = |text: &str| match in_folder(&folder, text) {
        Ok(settings) => Ok(shown(&ClientSettings { notes: Vec::new(), ..settings })),
        Err(error) => Err(error.what),
    };
    for row in HONOURED {
        let (base, _, value) = CASES.iter().find(|(_, key, _)| *key == row[0]).expect(row[0]);
        for spelling in *row {
            // What the base says of the same key gives way.
            let others: String = base
                .lines()
                .filter(|line| !row.iter().any(|k| line.starts_with(&format!("{k}="))))
                .fold(String::new(), |text, line| text + line + "\n");
            let with = result(&format!("{others}{spelling}={value}\n"));
            assert_ne!(result(base), with, "{spelling} has no effect");
        }
    }
    assert_eq!(CASES.len(), HONOURED.len());
}

/// An unused key is said, and an empty one is as good as none.
#[test]
fn empty_is_unset() {
    let folder = folder();
    for (_, key, _) in CASES.iter().filter(|(_, key, _)| *key != "ssl.endpoint.identification.algorithm") {
        let settings = in_folder(&folder, &format!("{key}=\n")).unwrap();
        assert_eq!(shown(&ClientSettings { notes: Vec::new(), ..settings }), "", "{key}");
    }
    let notes = in_folder(&folder, "sasl.username=u\nsasl.password=p\nssl.key.password=x\n").unwrap().notes;
    assert_eq!(
        notes,
        [
            "not used with this security.protocol and sasl.mechanism: sasl.password, sasl.username, ssl.key.password"
        ]
    );
}

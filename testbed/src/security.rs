//! How a secured cluster is set up, and who its users are.

use std::time::Duration;

use crate::door::Door;
use crate::iam::Iam;
use crate::oidc::Issuer;
use crate::pki::Pki;
use crate::properties::jaas;

pub(crate) const PLAIN: &str = "plain.PlainLoginModule";
pub(crate) const SCRAM: &str = "scram.ScramLoginModule";
pub(crate) const BEARER: &str = "oauthbearer.OAuthBearerLoginModule";
/// The user is the common name, as far as it goes; names with a comma are not for this rule.
const USER_OF_CERTIFICATE: &str = r"RULE:^CN=([^,]+).*$/$1/,DEFAULT";

/// A name and a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The name, as in `User:name`.
    pub name: &'static str,
    /// The password.
    pub password: &'static str,
}

/// May do everything on a cluster that is [`authorized`](crate::ClusterOptions::authorized).
pub const ADMIN: User = User { name: "admin", password: "admin-secret" };
/// May do what she is allowed. Her password has about every character that something gives a meaning to.
pub const ALICE: User = User { name: "alice", password: r#"p@ss="wörd,'; \n$%&{}#"# };
/// May do what he is allowed.
pub const BOB: User = User { name: "bob", password: "bob-secret" };
/// Known to SCRAM only, which has to escape this name.
pub const ODD_NAME: User = User { name: "odd,na=me", password: "odd-secret" };

/// Who logs in with PLAIN.
pub const PLAIN_USERS: [User; 3] = [ADMIN, ALICE, BOB];
/// Who logs in with SCRAM-SHA-256 and SCRAM-SHA-512.
pub const SCRAM_USERS: [User; 4] = [ADMIN, ALICE, BOB, ODD_NAME];

/// What a secured cluster has beyond its doors.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Whether users may do only what ACLs allow. [`ADMIN`] and anonymous clients may do everything.
    pub authorized: bool,
    /// How long a SASL session lasts before the client has to log in again.
    pub reauth: Option<Duration>,
    /// The doors that have a [`Proxy`](crate::Proxy) in front.
    pub proxied: Vec<Door>,
    /// Whose tokens OAUTHBEARER takes; without, it takes those that nobody signed, as Kafka does unless told otherwise.
    pub issuer: Option<Issuer>,
    /// Who judges the clients of [`Door::Iam`].
    pub iam: Option<Iam>,
}

impl Security {
    pub(crate) fn doors(&self) -> impl Iterator<Item = Door> {
        Door::ALL.into_iter().chain(self.iam.is_some().then_some(Door::Iam))
    }

    /// Whether something stands before a door that clients are told of.
    pub(crate) fn is_fronted(&self, door: Door) -> bool {
        door == Door::Iam || self.proxied.contains(&door)
    }

    /// The servers' settings.
    pub(crate) fn settings(&self, pki: &Pki) -> Vec<(String, String)> {
        let mut map = "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
        let mut all = Vec::new();
        for door in self.doors() {
            map.push_str(&format!(",{}:{}", door.listener(), door.node_protocol()));
            let prefix = format!("listener.name.{}.", door.listener().to_lowercase());
            let own = [
                tls(door, pki),
                sasl(door),
                self.tokens(door),
                vec![("num.network.threads", "1".to_owned())],
            ]
            .concat();
            all.extend(own.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
        }
        all.push(("listener.security.protocol.map".to_owned(), map));
        if self.authorized {
            let class = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
            all.push(("authorizer.class.name".to_owned(), class.to_owned()));
            all.push(("super.users".to_owned(), format!("User:ANONYMOUS;User:{}", ADMIN.name)));
        }
        if let Some(reauth) = self.reauth {
            all.push(("connections.max.reauth.ms".to_owned(), reauth.as_millis().to_string()));
        }
        all
    }

    fn tokens(&self, door: Door) -> Vec<(&'static str, String)> {
        let Some(issuer) = self.issuer.as_ref().filter(|_| door.is_sasl()) else { return Vec::new() };
        let judge = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler";
        vec![
            ("oauthbearer.sasl.server.callback.handler.class", judge.to_owned()),
            ("sasl.oauthbearer.jwks.endpoint.url", issuer.jwks_url.clone()),
            ("sasl.oauthbearer.expected.issuer", issuer.issuer.clone()),
            ("sasl.oauthbearer.expected.audience", issuer.audience.clone()),
            ("sasl.oauthbearer.clock.skew.seconds", "0".to_owned()),
        ]
    }

    /// The flags of the servers' JVM.
    pub(crate) fn jvm(&self) -> Option<String> {
        let issuer = self.issuer.as_ref()?;
        Some(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}", issuer.jwks_url))
    }
}

fn tls(door: Door, pki: &Pki) -> Vec<(&'static str, String)> {
    let Some(leaf) = door.leaf().filter(|_| door.node_protocol() != "PLAINTEXT") else { return Vec::new() };
    let mut settings = vec![
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", pki.pem_keystore(leaf).display().to_string()),
    ];
    if door == Door::Mtls {
        settings.extend([
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", pki.ca().display().to_string()),
            ("ssl.client.auth", "required".to_owned()),
            ("ssl.principal.mapping.rules", USER_OF_CERTIFICATE.to_owned()),
        ]);
    }
    settings
}

fn sasl(door: Door) -> Vec<(&'static str, String)> {
    if !door.is_sasl() {
        return Vec::new();
    }
    let names = PLAIN_USERS.map(|user| format!("user_{}", user.name));
    let users: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(PLAIN_USERS.map(|u| u.password)).collect();
    vec![
        ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".to_owned()),
        ("plain.sasl.jaas.config", jaas(PLAIN, &users)),
        ("scram-sha-256.sasl.jaas.config", jaas(SCRAM, &[])),
        ("scram-sha-512.sasl.jaas.config", jaas(SCRAM, &[])),
        ("oauthbearer.sasl.jaas.config", jaas(BEARER, &[])),
    ]
}

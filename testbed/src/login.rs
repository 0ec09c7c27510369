//! How clients of a secured cluster log in, in the words of `client.properties`.

use std::path::PathBuf;

use crate::door::Door;
use crate::oidc::{self, OidcClient};
use crate::pki::{Leaf, Pki};
use crate::properties::jaas;
use crate::security::{BEARER, PLAIN, SCRAM, User};

/// How a client says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// Not at all.
    Anonymous,
    /// By a certificate.
    Certificate(Leaf),
    /// By a password, with this SASL mechanism: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    Password {
        /// The mechanism.
        mechanism: String,
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// By tokens of a provider.
    Client {
        /// Who asks for them.
        client: OidcClient,
        /// Where.
        endpoint: String,
    },
    /// By the token in a file.
    TokenFile(PathBuf),
    /// By AWS's credentials, which the client finds by itself.
    Iam,
}

impl Login {
    /// The login of a user with a password.
    pub fn password(mechanism: &str, user: User) -> Self {
        Self::Password {
            mechanism: mechanism.to_owned(),
            name: user.name.to_owned(),
            password: user.password.to_owned(),
        }
    }

    /// A client's settings to come in by a door: what `client.properties` has.
    pub(crate) fn properties(&self, door: Door, bootstrap: &str, pki: &Pki) -> Vec<(String, String)> {
        let mut all = vec![("bootstrap.servers", bootstrap.to_owned())];
        all.push(("security.protocol", door.protocol().to_owned()));
        if door.leaf().is_some() {
            all.push(("ssl.truststore.type", "PEM".to_owned()));
            all.push(("ssl.truststore.location", pki.ca().display().to_string()));
        }
        all.extend(self.credentials(pki));
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn credentials(&self, pki: &Pki) -> Vec<(&'static str, String)> {
        match self {
            Self::Anonymous => Vec::new(),
            Self::Certificate(leaf) => vec![
                ("ssl.keystore.type", "PEM".to_owned()),
                ("ssl.keystore.location", pki.pem_keystore(*leaf).display().to_string()),
            ],
            Self::Password { mechanism, name, password } => {
                let module = if mechanism == "PLAIN" { PLAIN } else { SCRAM };
                vec![
                    ("sasl.mechanism", mechanism.clone()),
                    ("sasl.jaas.config", jaas(module, &[("username", name), ("password", password)])),
                ]
            }
            Self::Client { client, endpoint } => {
                let ca = pki.ca().display().to_string();
                let mut options =
                    vec![("clientId", client.id), ("clientSecret", client.secret), ("scope", oidc::SCOPE)];
                if endpoint.starts_with("https:") {
                    options.extend([("ssl.truststore.type", "PEM"), ("ssl.truststore.location", &ca)]);
                }
                let mut all = tokens_of(endpoint, &options);
                all.push(("sasl.oauthbearer.header.urlencode", "true".to_owned()));
                all
            }
            Self::Iam => vec![
                ("sasl.mechanism", "AWS_MSK_IAM".to_owned()),
                ("sasl.jaas.config", "software.amazon.msk.auth.iam.IAMLoginModule required;".to_owned()),
                (
                    "sasl.client.callback.handler.class",
                    "software.amazon.msk.auth.iam.IAMClientCallbackHandler".to_owned(),
                ),
            ],
            Self::TokenFile(file) => tokens_of(&format!("file://{}", file.display()), &[]),
        }
    }
}

fn tokens_of(endpoint: &str, options: &[(&str, &str)]) -> Vec<(&'static str, String)> {
    let handler = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler";
    vec![
        ("sasl.mechanism", "OAUTHBEARER".to_owned()),
        ("sasl.login.callback.handler.class", handler.to_owned()),
        ("sasl.oauthbearer.token.endpoint.url", endpoint.to_owned()),
        ("sasl.jaas.config", jaas(BEARER, options)),
    ]
}

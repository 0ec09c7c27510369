//! Mechanisms and what they send; the connection carries it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bodley_protocol::sasl::{self, scram};
pub use scram::Hash as ScramHash;

use crate::secret::Secret;
use crate::token::{TokenError, TokenProvider};

/// A mechanism with what it needs. Source: KIP-43, KIP-84, KIP-255, RFC 4616, RFC 5802, RFC 7628.
#[derive(Debug, Clone)]
pub enum Sasl {
    /// User name and password as they are: for TLS, or for tests.
    Plain {
        /// Name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// The password is proven, not sent, and the server proves that it knows it, too.
    Scram {
        /// SCRAM-SHA-256 or SCRAM-SHA-512.
        hash: ScramHash,
        /// Name, or the id of a delegation token.
        username: String,
        /// Password, or the HMAC of a delegation token.
        password: Secret,
        /// They are a delegation token's (JAAS option `tokenauth`).
        delegation_token: bool,
    },
    /// A bearer token.
    OAuthBearer {
        /// Where tokens come from.
        tokens: Arc<dyn TokenProvider>,
        /// SASL extensions (KIP-342) by name, such as `logicalCluster`.
        extensions: BTreeMap<String, String>,
    },
    /// A document signed with AWS credentials.
    AwsMskIam {
        /// Where documents come from.
        tokens: Arc<dyn TokenProvider>,
    },
}

impl Sasl {
    /// The mechanism's name on the wire.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Plain { .. } => "PLAIN",
            Self::Scram { hash: ScramHash::Sha256, .. } => "SCRAM-SHA-256",
            Self::Scram { hash: ScramHash::Sha512, .. } => "SCRAM-SHA-512",
            Self::OAuthBearer { .. } => "OAUTHBEARER",
            Self::AwsMskIam { .. } => "AWS_MSK_IAM",
        }
    }
}

/// What is sent to a server, turn by turn.
pub(in crate::kafka) enum Exchange<'a> {
    /// One message is all.
    Single,
    /// OAUTHBEARER: a refusal comes as a challenge.
    Bearer,
    /// SCRAM, the server's first message is awaited.
    ScramFirst(scram::Client, &'a Secret),
    /// SCRAM, the server's proof is awaited.
    ScramFinal(scram::Proven),
}

/// What comes after a server's message.
pub(in crate::kafka) enum Next {
    /// Another message for the server.
    Send(Vec<u8>),
    /// All is said.
    Done,
    /// The server does not let us in, or is not to be trusted.
    Refused(String),
}

impl Sasl {
    /// The first message for the broker with this host name.
    pub(in crate::kafka) async fn begin(&self, host: &str) -> Result<(Vec<u8>, Exchange<'_>), TokenError> {
        Ok(match self {
            Self::Plain { username, password } => {
                (sasl::plain(username, password.expose()), Exchange::Single)
            }
            Self::Scram { hash, username, password, delegation_token } => {
                let client = scram::Client::new(*hash, username, &nonce()?, *delegation_token);
                (client.first(), Exchange::ScramFirst(client, password))
            }
            Self::OAuthBearer { tokens, extensions } => {
                let token = tokens.token(host).await?;
                let extensions = extensions.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                (sasl::oauth_bearer(token.text.expose(), extensions), Exchange::Bearer)
            }
            Self::AwsMskIam { tokens } => {
                (tokens.token(host).await?.text.expose().as_bytes().to_vec(), Exchange::Single)
            }
        })
    }
}

impl Exchange<'_> {
    /// Takes a server's message.
    pub(in crate::kafka) fn take(&mut self, message: &[u8]) -> Next {
        match std::mem::replace(self, Self::Single) {
            Self::Single => Next::Done,
            Self::Bearer if message.is_empty() => Next::Done,
            // The reason, as JSON; the server says no in so many words when it gets the end.
            Self::Bearer => Next::Send(sasl::OAUTH_BEARER_END.to_vec()),
            Self::ScramFirst(client, password) => match client.finish(message, password.expose()) {
                Ok((reply, proven)) => {
                    *self = Self::ScramFinal(proven);
                    Next::Send(reply)
                }
                Err(error) => Next::Refused(error.to_string()),
            },
            Self::ScramFinal(proven) => match proven.verify(message) {
                Ok(()) => Next::Done,
                Err(error) => Next::Refused(error.to_string()),
            },
        }
    }
}

/// Unguessable, different each time.
fn nonce() -> Result<String, TokenError> {
    let mut random = [0; 24];
    getrandom::fill(&mut random)
        .map_err(|e| TokenError { what: format!("the system has no random numbers: {e}"), passing: false })?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

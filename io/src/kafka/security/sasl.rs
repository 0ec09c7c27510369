//! SASL: SaslHandshake, SaslAuthenticate, and again before a session ends (KIP-368).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::secret::Secret;
use crate::token::TokenProvider;

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

/// Hash of SCRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramHash {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
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

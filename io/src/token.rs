//! The port through which connections get tokens from elsewhere: an identity provider, a file, a cloud's credentials.

use std::fmt::Debug;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::secret::Secret;

/// A token as it goes to a broker.
#[derive(Debug, Clone)]
pub struct Token {
    /// OAUTHBEARER: the bearer token, mostly a JWT. AWS_MSK_IAM: the whole signed JSON document.
    pub text: Secret,
    /// When it ends to be valid, where that is known.
    pub expires: Option<SystemTime>,
}

/// No token. Says what was asked whom and why that failed; never holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct TokenError {
    /// Whole sentence, with what to do.
    pub what: String,
    /// A later try may help: the provider is unreachable or overloaded.
    pub passing: bool,
}

/// Gives tokens. Called for every connection and every re-authentication: keeps a token for as long as it is good, and gets a new one
/// well before its end. Callers may come at the same time.
#[async_trait]
pub trait TokenProvider: Debug + Send + Sync {
    /// A token for the broker with this host name (without a port), valid for some time yet.
    async fn token(&self, host: &str) -> Result<Token, TokenError>;
}

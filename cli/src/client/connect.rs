//! From settings to what connections are opened with. Providers of tokens are plugged in here.

use std::fmt;
use std::sync::Arc;

use bodley_io::TokenProvider;
use bodley_io::kafka::ClientOptions;
use bodley_io::kafka::security::{Sasl, Tls, TlsError};

use super::ClientSettings;
use super::aws::AwsIdentity;
use super::oauth::{OAuth, TokenSource};
use super::sasl::SaslSettings;

/// What tokens are needed for.
#[derive(Debug)]
#[expect(dead_code, reason = "read by the provider of tokens, see token_provider")]
pub enum Tokens {
    /// OAUTHBEARER
    OAuth(OAuth),
    /// AWS_MSK_IAM
    MskIam(AwsIdentity),
}

/// Tokens are needed, but there is nobody who gives such ones.
#[derive(Debug)]
pub struct NeedsProvider(Box<Tokens>);

impl fmt::Display for NeedsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whence = match self.0.as_ref() {
            Tokens::OAuth(OAuth { source: TokenSource::ClientCredentials(_), .. }) => "an identity provider",
            Tokens::OAuth(OAuth { source: TokenSource::TokenFile(_), .. }) => "a file",
            Tokens::OAuth(OAuth { source: TokenSource::AwsIam(_), .. }) | Tokens::MskIam(_) => {
                "AWS credentials"
            }
        };
        let instead = "use PLAIN, SCRAM or a client certificate";
        write!(f, "sasl.mechanism: this version can't make tokens from {whence}: {instead}")
    }
}

/// Why there can be no connection. Never holds a secret.
#[derive(Debug)]
pub enum ConnectError {
    /// Certificates or keys are of no use.
    Tls(TlsError),
    /// There is nobody to ask for tokens.
    Tokens(NeedsProvider),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Tokens(error) => error.fmt(f),
        }
    }
}

/// What connections are opened with.
pub fn connect_options(settings: ClientSettings) -> Result<ClientOptions, ConnectError> {
    let tls = settings.tls.map(|options| Tls::new(&options)).transpose().map_err(ConnectError::Tls)?;
    let sasl = settings.sasl.map(mechanism).transpose().map_err(ConnectError::Tokens)?;
    Ok(ClientOptions { tls, sasl, ..settings.options })
}

fn mechanism(settings: SaslSettings) -> Result<Sasl, NeedsProvider> {
    Ok(match settings {
        SaslSettings::Plain { username, password } => Sasl::Plain { username, password },
        SaslSettings::Scram { hash, username, password, delegation_token } => {
            Sasl::Scram { hash, username, password, delegation_token }
        }
        SaslSettings::OAuth(oauth) => {
            let extensions = oauth.extensions.clone();
            Sasl::OAuthBearer { tokens: token_provider(Tokens::OAuth(oauth))?, extensions }
        }
        SaslSettings::MskIam(identity) => {
            Sasl::AwsMskIam { tokens: token_provider(Tokens::MskIam(identity))? }
        }
    })
}

/// Who gives the tokens that are needed.
fn token_provider(needed: Tokens) -> Result<Arc<dyn TokenProvider>, NeedsProvider> {
    Err(NeedsProvider(Box::new(needed)))
}

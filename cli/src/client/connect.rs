//! From settings to what connections are opened with. Providers of tokens are plugged in here.

use std::fmt;
use std::sync::Arc;

use bodley_io::TokenProvider;
use bodley_io::kafka::ClientOptions;
use bodley_io::kafka::security::{Sasl, Tls, TlsError, TlsOptions, Trust};
use bodley_storage_rest::{
    AwsOptions, FileTokens, MskForm, MskTokens, OAuthOptions, OAuthTokens, SettingError,
};

use super::ClientSettings;
use super::aws::AwsIdentity;
use super::oauth::{ClientCredentials, OAuth, TokenSource};
use super::sasl::SaslSettings;

/// Why there can be no connection. Never holds a secret.
#[derive(Debug)]
pub enum ConnectError {
    /// Certificates or keys are of no use.
    Tls(TlsError),
    /// Nobody can be asked for tokens.
    Tokens(SettingError),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Tokens(error) => error.fmt(f),
        }
    }
}

impl From<TlsError> for ConnectError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<SettingError> for ConnectError {
    fn from(error: SettingError) -> Self {
        Self::Tokens(error)
    }
}

/// What connections are opened with, and who knows the time at the identity provider.
#[derive(Debug)]
pub struct Ready {
    /// For the cluster.
    pub options: ClientOptions,
    /// With OAUTHBEARER by client credentials.
    pub provider: Option<Arc<OAuthTokens>>,
}

/// Reads certificates and keys, and makes who gives tokens.
pub fn connect_options(settings: ClientSettings) -> Result<Ready, ConnectError> {
    let tls = settings.tls.map(|options| Tls::new(&options)).transpose()?;
    let mut provider = None;
    let sasl = settings.sasl.map(|sasl| mechanism(sasl, &mut provider)).transpose()?;
    Ok(Ready { options: ClientOptions { tls, sasl, ..settings.options }, provider })
}

fn mechanism(settings: SaslSettings, provider: &mut Option<Arc<OAuthTokens>>) -> Result<Sasl, ConnectError> {
    Ok(match settings {
        SaslSettings::Plain { username, password } => Sasl::Plain { username, password },
        SaslSettings::Scram { hash, username, password, delegation_token } => {
            Sasl::Scram { hash, username, password, delegation_token }
        }
        SaslSettings::OAuth(OAuth { source, extensions }) => {
            Sasl::OAuthBearer { tokens: bearer(source, provider)?, extensions }
        }
        SaslSettings::MskIam(identity) => Sasl::AwsMskIam { tokens: aws(MskForm::Iam, identity)? },
    })
}

fn bearer(
    source: TokenSource,
    provider: &mut Option<Arc<OAuthTokens>>,
) -> Result<Arc<dyn TokenProvider>, ConnectError> {
    match source {
        TokenSource::TokenFile(path) => Ok(Arc::new(FileTokens::new(path))),
        TokenSource::AwsIam(identity) => aws(MskForm::Bearer, identity),
        TokenSource::ClientCredentials(credentials) => {
            let tokens = Arc::new(client_credentials(*credentials)?);
            *provider = Some(Arc::clone(&tokens));
            Ok(tokens)
        }
    }
}

fn client_credentials(from: ClientCredentials) -> Result<OAuthTokens, ConnectError> {
    let mut options = OAuthOptions::new(from.endpoint, from.client_id, from.client_secret);
    options.scope = from.scope;
    options.url_encode = from.urlencode_header;
    options.connect_timeout = from.connect_timeout.unwrap_or(options.connect_timeout);
    options.read_timeout = from.read_timeout.unwrap_or(options.read_timeout);
    (options.retry_backoff, options.retry_backoff_max) = from.retry_backoff;
    (options.refresh_factor, options.refresh_buffer) = (from.refresh.window_factor, from.refresh.buffer);
    let tls = Tls::new(&TlsOptions { trust: from.trust, ..TlsOptions::default() })?;
    Ok(OAuthTokens::new(options, tls.config())?)
}

/// AWS's own endpoints have certificates that the system trusts.
fn aws(form: MskForm, identity: AwsIdentity) -> Result<Arc<dyn TokenProvider>, ConnectError> {
    let AwsIdentity { profile, role_arn, role_session_name, external_id, sts_region } = identity;
    let options =
        AwsOptions { profile, role_arn, role_session_name, external_id, sts_region, ..AwsOptions::default() };
    let tls = Tls::new(&TlsOptions { trust: Trust::System, ..TlsOptions::default() })?;
    Ok(Arc::new(MskTokens::new(form, options, tls.config())?))
}

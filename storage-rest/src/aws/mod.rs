//! AWS credentials, and what they sign: tokens for Amazon MSK here, requests to S3 in `s3/`.

mod chain;
mod process;
pub(crate) mod profile;
pub(crate) mod region;
mod remote;
mod sign;
pub(crate) mod sigv4;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bodley_io::{Secret, Token, TokenError, TokenProvider};

use crate::refresh::{Fetch, Fresh, Refreshed};
use crate::web::Http;
use crate::{Environment, SettingError, jwt};
use chain::Sts;

/// Which identity and where. Everything may be left out; the environment then decides, as with AWS's own tools.
#[derive(Debug, Clone, Default)]
pub struct AwsOptions {
    /// Where credentials are to come from, and from nowhere else; `None`: the first place that has some, in AWS's order.
    pub provider: Option<AwsProvider>,
    /// This profile of `~/.aws/credentials` and `~/.aws/config`, and nothing else.
    pub profile: Option<String>,
    /// The role to take on with the identity found.
    pub role_arn: Option<String>,
    /// What the role's session is called in AWS's logs; `bodley` if not set.
    pub role_session_name: Option<String>,
    /// What the role's owner wants to hear, if anything.
    pub external_id: Option<String>,
    /// The region of the STS that gives roles; else AWS_REGION, AWS_DEFAULT_REGION, `region`, else the global STS.
    pub sts_region: Option<String>,
    /// The brokers' region; else from their names, else AWS_REGION or AWS_DEFAULT_REGION.
    pub region: Option<String>,
}

/// Where credentials come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwsProvider {
    /// AWS_ACCESS_KEY_ID and its companions.
    Environment,
    /// AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN: service accounts of EKS.
    WebIdentity,
    /// A profile of the shared files: the one named, else AWS_PROFILE, else `default`.
    Profile,
    /// AWS_CONTAINER_CREDENTIALS_*: ECS, EKS Pod Identity.
    Container,
    /// The metadata of an EC2 instance (IMDSv2).
    Instance,
}

impl AwsOptions {
    fn check(&self) -> Result<(), SettingError> {
        let regions = [("region", &self.region), ("sts_region", &self.sts_region)];
        for (setting, text) in
            regions.into_iter().filter_map(|(setting, text)| Some((setting, text.as_ref()?)))
        {
            if !region::is_region(text) {
                return Err(SettingError::new(setting, format!("{text:?} is not an AWS region")));
            }
        }
        if self.role_arn.is_none() && (self.role_session_name.is_some() || self.external_id.is_some()) {
            return Err(SettingError::new(
                "role_arn",
                "is missing, but the session name or external id for it is set",
            ));
        }
        Ok(())
    }
}

/// AWS credentials. `Debug` shows their source and end only.
#[derive(Clone)]
pub struct Credentials {
    /// The key's id, by which AWS knows whose signature it is.
    pub access_key_id: String,
    /// The key that signs.
    pub secret_access_key: Secret,
    /// What comes with credentials for a time.
    pub session_token: Option<Secret>,
    /// When they end; `None`: never, or that is not known.
    pub expires: Option<SystemTime>,
    /// Where they are from, for messages: `profile prod`, `web identity arn:…`.
    pub source: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("source", &self.source)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// AWS credentials that are always fresh: renewed 5 minutes before their end (when a fifth of a shorter life is left), one request at
/// a time, the old ones serving while they are valid. Credentials without an end are looked up again every 5 minutes, for files change.
pub struct AwsCredentials(Refreshed<Chain>);

impl AwsCredentials {
    /// Checks the options; nothing is read or sent yet.
    ///
    /// # Errors
    /// The setting that cannot work.
    pub fn new(
        options: AwsOptions,
        environment: Environment,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        options.check()?;
        let http = Http::new(remote::STS, &tls)?;
        Ok(Self(Refreshed::new(Chain { options, environment, http })))
    }

    /// Valid credentials.
    ///
    /// # Errors
    /// Names the identity that is configured and why it gave nothing; no other one is tried in its place.
    pub async fn get(&self) -> Result<Credentials, TokenError> {
        self.0.get().await
    }

    /// AWS did not take what was got last: the next one who asks gets another, if there is one.
    pub(crate) fn distrust(&self) {
        self.0.distrust();
    }

    /// Whose credentials were got last, for messages; `None` before the first.
    pub fn identity(&self) -> Option<String> {
        self.0.held().map(|credentials| credentials.source)
    }
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

struct Chain {
    options: AwsOptions,
    environment: Environment,
    http: Http,
}

#[async_trait]
impl Fetch for Chain {
    type Item = Credentials;

    async fn fetch(&self) -> Result<Fresh<Credentials>, TokenError> {
        let (options, environment) = (self.options.clone(), self.environment.clone());
        let chosen = tokio::task::spawn_blocking(move || {
            let source = chain::choose(&options, &environment)?;
            // Other stores' regions are no regions of AWS, and only STS has to know.
            let sts = if source.asks_sts() { Sts::find(&options, &environment)? } else { Sts::default() };
            Ok::<_, String>((source, sts))
        });
        let failed = |what: String, passing| TokenError { what: format!("AWS credentials: {what}"), passing };
        let chosen = chosen.await.map_err(|_| failed("looking for them was cut off".to_owned(), true))?;
        let (source, sts) = chosen.map_err(|what| failed(what, false))?;
        let found = remote::load(&source, &self.http, &sts)
            .await
            .map_err(|error| failed(error.what, error.passing))?;
        let expires = found.expires;
        Fresh::renewed_early(found, expires)
            .map_err(|end| failed(format!("{source} gave some that ended at {}", jwt::rfc3339(end)), true))
    }
}

/// How a broker wants to see the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MskForm {
    /// The SASL mechanism AWS_MSK_IAM: a signed JSON document.
    Iam,
    /// OAUTHBEARER: a presigned URL in Base64.
    Bearer,
}

/// Tokens for Amazon MSK, each signed when it is asked for and good for 15 minutes, or as long as the credentials.
#[derive(Debug)]
pub struct MskTokens {
    form: MskForm,
    region: Option<String>,
    environment: Environment,
    credentials: AwsCredentials,
}

impl MskTokens {
    /// With the environment of this process.
    ///
    /// # Errors
    /// The setting that cannot work.
    pub fn new(
        form: MskForm,
        options: AwsOptions,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        Self::with_environment(form, options, Environment::of_process(), tls)
    }

    /// With this environment.
    ///
    /// # Errors
    /// The setting that cannot work.
    pub fn with_environment(
        form: MskForm,
        options: AwsOptions,
        environment: Environment,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        let region = options.region.clone();
        let credentials = AwsCredentials::new(options, environment.clone(), tls)?;
        Ok(Self { form, region, environment, credentials })
    }

    /// Whose credentials signed last, for messages; `None` before the first token.
    pub fn identity(&self) -> Option<String> {
        self.credentials.identity()
    }
}

#[async_trait]
impl TokenProvider for MskTokens {
    async fn token(&self, host: &str) -> Result<Token, TokenError> {
        let failed = |what| TokenError { what, passing: false };
        let region = region::of_broker(self.region.as_deref(), host, &self.environment).map_err(failed)?;
        let credentials = self.credentials.get().await?;
        let now = SystemTime::now();
        let text = match self.form {
            MskForm::Iam => sign::document(&credentials, &region, host, now),
            MskForm::Bearer => sign::bearer(&credentials, &region, now),
        };
        let end = now + Duration::from_secs(sign::SECONDS_VALID);
        let expires = credentials.expires.map_or(end, |ends| ends.min(end));
        Ok(Token { text: text.map_err(failed)?, expires: Some(expires) })
    }
}

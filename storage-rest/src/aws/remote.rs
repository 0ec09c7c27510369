//! Credentials that somebody serves: STS, a container's agent, EC2. The protocols are reqsign's, the way there is ours: bounded, tried
//! again within limits, with errors that say what the server said and hold no secret.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bodley_io::{Secret, TokenError};
use bytes::Bytes;
use reqsign_aws_v4::{
    AssumeRoleCredentialProvider, AssumeRoleWithWebIdentityCredentialProvider, Credential,
    ECSCredentialProvider, IMDSv2CredentialProvider, RequestSigner, StaticCredentialProvider,
};
use reqsign_core::{Context, HttpSend, ProvideCredential, Signer};
use reqwest::Url;
use serde_json::Value;

use super::Credentials;
use super::chain::{ContainerToken, NOTHING_ELSE, Role, Source, Sts};
use super::process;
use crate::encode::quote;
use crate::web::{Answer, Http, Limits, is_passing, shown};
use crate::{jwt, token_file};

/// STS may be far away and busy.
pub(crate) const STS: Limits = Limits {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(15),
    pause: Duration::from_millis(200),
    total: Duration::from_secs(20),
};

/// An agent on this machine.
const AGENT: Limits = Limits { answer: Duration::from_secs(5), total: Duration::from_secs(5), ..STS };

/// Nobody there, where this is no EC2 instance.
const METADATA: Limits = Limits { answer: Duration::from_secs(1), total: Duration::from_millis(500), ..STS };

/// Gets the credentials.
pub(crate) async fn load(source: &Source, http: &Http, sts: &Sts) -> Result<Credentials, TokenError> {
    let failed = |what: String| TokenError { what: format!("{source} {what}"), passing: true };
    match source {
        Source::Keys(keys) => Ok(keys.clone()),
        Source::Process { command, .. } => process::run(command, source.to_string()).await.map_err(failed),
        Source::WebIdentity { role, token_file } => {
            let file = token_file.clone();
            let token = read(file)
                .await
                .map_err(|why| failed(format!("token file {} {why}", token_file.display())))?;
            let wire = Wire::new(http.clone(), sts.endpoint.clone(), vec![token.clone()]);
            ask(web_identity(role, &token, sts), wire, source).await
        }
        Source::Container { url, token } => {
            let mut provider = ECSCredentialProvider::new().with_endpoint(url);
            let token = match token {
                ContainerToken::None => None,
                ContainerToken::Text(token) => Some(token.clone()),
                ContainerToken::File(path) => {
                    let text = read(path.clone()).await;
                    Some(text.map_err(|why| failed(format!("token file {} {why}", path.display())))?)
                }
            };
            if let Some(token) = &token {
                provider = provider.with_auth_token(token.expose());
            }
            let wire = Wire::new(http.with_limits(AGENT), None, token.into_iter().collect());
            ask(provider, wire, source).await
        }
        Source::InstanceMetadata { endpoint } => {
            let provider = IMDSv2CredentialProvider::new().with_endpoint(endpoint);
            let asked = ask(provider, Wire::new(http.with_limits(METADATA), None, Vec::new()), source).await;
            asked.map_err(|error| TokenError { what: format!("{} {NOTHING_ELSE}", error.what), ..error })
        }
        Source::AssumeRole { role, base } => {
            let base = Box::pin(load(base, http, sts)).await?;
            let mut secrets = vec![base.secret_access_key.clone()];
            secrets.extend(base.session_token.clone());
            let wire = Wire::new(http.clone(), sts.endpoint.clone(), secrets);
            ask(assume_role(role, &base, sts), wire, source).await
        }
    }
}

async fn read(path: std::path::PathBuf) -> Result<Secret, String> {
    let text = tokio::task::spawn_blocking(move || token_file::read_bounded(&path, jwt::LONGEST)).await;
    let text = Secret::new(text.map_err(|_| "was not read to its end".to_owned())??);
    Ok(Secret::new(text.expose().trim()))
}

fn web_identity(role: &Role, token: &Secret, sts: &Sts) -> AssumeRoleWithWebIdentityCredentialProvider {
    let mut provider = AssumeRoleWithWebIdentityCredentialProvider::new()
        .with_role_arn(&role.arn)
        .with_role_session_name(role.session.clone())
        .with_subject_token(token.expose());
    if let Some(seconds) = role.duration {
        provider = provider.with_duration_seconds(seconds);
    }
    match &sts.region {
        Some(region) => provider.with_region(region.clone()).with_regional_sts_endpoint(),
        None => provider,
    }
}

fn assume_role(role: &Role, base: &Credentials, sts: &Sts) -> AssumeRoleCredentialProvider {
    let mut keys = StaticCredentialProvider::new(&base.access_key_id, base.secret_access_key.expose());
    if let Some(token) = &base.session_token {
        keys = keys.with_session_token(token.expose());
    }
    // The global endpoint signs as us-east-1.
    let signer = RequestSigner::new("sts", sts.region.as_deref().unwrap_or("us-east-1"));
    let mut provider =
        AssumeRoleCredentialProvider::new(role.arn.clone(), Signer::new(Context::new(), keys, signer))
            .with_role_session_name(role.session.clone());
    if let Some(id) = &role.external_id {
        provider = provider.with_external_id(id.clone());
    }
    if let Some(seconds) = role.duration {
        provider = provider.with_duration_seconds(seconds);
    }
    match &sts.region {
        Some(region) => provider.with_region(region.clone()).with_regional_sts_endpoint(),
        None => provider,
    }
}

async fn ask(
    provider: impl ProvideCredential<Credential = Credential>,
    wire: Wire,
    source: &Source,
) -> Result<Credentials, TokenError> {
    let trouble = wire.trouble.clone();
    let outcome = provider.provide_credential(&Context::new().with_http_send(wire)).await;
    let trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (outcome, trouble) {
        (Ok(Some(found)), _) => Ok(Credentials {
            access_key_id: found.access_key_id,
            secret_access_key: Secret::new(found.secret_access_key),
            session_token: found.session_token.map(Secret::new),
            expires: found.expires_in.map(|end| end.as_system_time()),
            source: source.to_string(),
        }),
        // reqsign's own text would repeat whole answers.
        (_, Some(trouble)) => Err(TokenError { what: format!("{source}: {}", trouble.what), ..trouble }),
        (Ok(None), None) => Err(TokenError { what: format!("{source} gave nothing"), passing: false }),
        (Err(error), None) => {
            let passing = error.is_retryable();
            Err(TokenError { what: format!("{source}: {}", quote(&error.to_string(), &[])), passing })
        }
    }
}

/// reqsign's way out.
#[derive(Debug)]
struct Wire {
    http: Http,
    /// In place of AWS's STS.
    sts: Option<Url>,
    /// Must not come back in a message.
    secrets: Vec<Secret>,
    /// What went wrong last.
    trouble: Arc<Mutex<Option<TokenError>>>,
}

impl Wire {
    fn new(http: Http, sts: Option<Url>, secrets: Vec<Secret>) -> Self {
        Self { http, sts, secrets, trouble: Arc::default() }
    }

    fn note(&self, what: String, passing: bool) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(TokenError { what, passing });
    }

    /// What the answer says about its failure, and whether that may pass.
    fn reason(&self, answer: &Answer) -> (String, bool) {
        let secrets: Vec<&str> = self.secrets.iter().map(Secret::expose).collect();
        let body = String::from_utf8_lossy(&answer.body);
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let part = |names: [&str; 2]| {
            let in_json = names.iter().find_map(|name| json.get(name).and_then(Value::as_str));
            in_json
                .or_else(|| names.first().and_then(|name| element(&body, name)))
                .map(|text| quote(text, &secrets))
        };
        let code = part(["Code", "code"]);
        let throttled = code.as_deref().is_some_and(|code| PASSING_CODES.contains(&code));
        let text = [code, part(["Message", "message"])].into_iter().flatten().collect::<Vec<_>>().join(": ");
        (text, throttled || is_passing(answer.status))
    }
}

/// STS's HTTP 400s that are gone at a later try.
const PASSING_CODES: [&str; 4] =
    ["Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError"];

/// The text of the first XML element with this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

impl HttpSend for Wire {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let broken = |what: String, passing| {
            self.note(what, passing);
            reqsign_core::Error::unexpected("no answer")
        };
        let mut request = reqwest::Request::try_from(request)
            .map_err(|_| broken("the request has a part that HTTP does not allow".to_owned(), false))?;
        if let Some(sts) = &self.sts {
            let mut url = sts.clone();
            url.set_query(request.url().query());
            *request.url_mut() = url;
        }
        let place = shown(request.url());
        let answer = self.http.send(request).await;
        let answer = answer.map_err(|error| broken(format!("{place} {error}"), error.is_passing()))?;
        if !answer.status.is_success() {
            let (reason, passing) = self.reason(&answer);
            let colon = if reason.is_empty() { "" } else { ": " };
            self.note(format!("{place} answered HTTP {}{colon}{reason}", answer.status), passing);
        }
        let mut response = http::Response::new(answer.body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

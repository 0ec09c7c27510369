//! Tokens that Google gives.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bodley_io::{Secret, TokenError};
use http::{HeaderName, HeaderValue, Method, header};
use reqwest::{Request, Url};
use serde_json::{Value, json};

use super::adc::{Adc, External, Subject};
use super::chain::Source;
use super::identity::GcsCredential;
use super::sign;
use crate::exchange::{Bearer, answer, bearer, post_form};
use crate::web::{Http, Limits};
use crate::{jwt, token_file};

/// What the tokens are good for; the rights within that are IAM's.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// Of an identity that is only there to act as another one.
const ACT_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Google's servers may be far away and busy.
pub(crate) const SERVER: Limits = Limits {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(15),
    pause: Duration::from_millis(200),
    total: Duration::from_secs(20),
};

/// On this machine, or nobody is there.
pub(crate) const MACHINE: Limits = Limits {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(5),
    pause: Duration::from_millis(200),
    total: Duration::from_secs(3),
};

/// A file that is rotated is read so often.
const FILE_LIFE: Duration = Duration::from_secs(60);

/// Gets it, and says when it ends. The error continues a sentence that names the source.
pub(crate) async fn load(
    source: &Source,
    http: &Http,
    machine: &Http,
) -> Result<(GcsCredential, Option<SystemTime>), TokenError> {
    let found = match source {
        Source::Emulator => return Ok((GcsCredential::None, None)),
        Source::TokenFile { token, .. } => {
            Bearer { token: token.clone(), expires: Some(SystemTime::now() + FILE_LIFE) }
        }
        Source::File { adc, .. } => of_file(adc, http, SCOPE).await?,
        Source::Metadata { endpoint, last_resort } => metadata(endpoint, machine)
            .await
            .map_err(|error| TokenError { what: format!("{} ({last_resort})", error.what), ..error })?,
    };
    Ok((GcsCredential::Bearer(found.token), found.expires))
}

async fn of_file(adc: &Adc, http: &Http, scope: &str) -> Result<Bearer, TokenError> {
    match adc {
        Adc::ServiceAccount { email, key_id, key, token_url } => {
            let to = (scope, token_url.as_str());
            let proof = sign::assertion(email, key_id.as_deref(), key, to).map_err(final_error)?;
            let fields = [
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("assertion", proof.expose()),
            ];
            bearer(http, post_form(token_url.clone(), &fields), &[&proof]).await
        }
        Adc::AuthorizedUser { client_id, client_secret, refresh_token, token_url } => {
            let fields = [
                ("grant_type", "refresh_token"),
                ("client_id", client_id),
                ("client_secret", client_secret.expose()),
                ("refresh_token", refresh_token.expose()),
            ];
            bearer(http, post_form(token_url.clone(), &fields), &[client_secret, refresh_token]).await
        }
        Adc::ExternalAccount(external) => exchange(external, http, scope).await,
        Adc::Impersonated { base, url, delegates } => {
            let base = Box::pin(of_file(base, http, ACT_SCOPE)).await?;
            let mut request = Request::new(Method::POST, url.clone());
            let wanted = json!({ "scope": [scope], "delegates": delegates });
            *request.body_mut() = Some(wanted.to_string().into());
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            insert(&mut request, "authorization", &format!("Bearer {}", base.token.expose()))?;
            bearer(http, request, &[&base.token]).await
        }
    }
}

/// RFC 8693, as Google's STS has it (<https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>).
async fn exchange(external: &External, http: &Http, scope: &str) -> Result<Bearer, TokenError> {
    let subject = subject(&external.subject, http).await?;
    let options = external.user_project.as_ref().map(|project| json!({ "userProject": project }).to_string());
    let mut fields = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", external.audience.as_str()),
        ("scope", scope),
        ("subject_token_type", external.subject_type.as_str()),
        ("subject_token", subject.expose()),
    ];
    if let Some(options) = &options {
        fields.push(("options", options));
    }
    bearer(http, post_form(external.token_url.clone(), &fields), &[&subject]).await
}

async fn subject(subject: &Subject, http: &Http) -> Result<Secret, TokenError> {
    let (text, field, place) = match subject {
        Subject::File { path, field } => (read(path).await?, field, path.display().to_string()),
        Subject::Url { url, headers, field } => {
            let mut request = Request::new(Method::GET, url.clone());
            for (name, value) in headers {
                insert(&mut request, name, value.expose())?;
            }
            let place = crate::web::shown(url);
            let secrets: Vec<&Secret> = headers.values().collect();
            let answer = answer(http, request, &secrets).await?;
            (Secret::new(String::from_utf8_lossy(&answer.body)), field, place)
        }
    };
    let token = match field {
        None => Some(Secret::new(text.expose().trim())),
        Some(field) => {
            let json: Value = serde_json::from_str(text.expose()).unwrap_or_default();
            json.get(field).and_then(Value::as_str).map(Secret::new)
        }
    };
    let token = token.filter(|token| !token.expose().is_empty());
    token.ok_or_else(|| TokenError { what: format!("{place} holds no token"), passing: true })
}

async fn read(path: &Path) -> Result<Secret, TokenError> {
    let owned: PathBuf = path.to_owned();
    let text = tokio::task::spawn_blocking(move || token_file::read_bounded(&owned, jwt::LONGEST)).await;
    // Whoever rotates the file may be in the middle of that.
    let failed =
        |why: &str| TokenError { what: format!("token file {} {why}", path.display()), passing: true };
    text.map_err(|_| failed("was not read to its end"))?.map(Secret::new).map_err(|why| failed(&why))
}

async fn metadata(endpoint: &Url, machine: &Http) -> Result<Bearer, TokenError> {
    let mut url = endpoint.clone();
    url.set_path("/computeMetadata/v1/instance/service-accounts/default/token");
    let mut request = Request::new(Method::GET, url);
    insert(&mut request, "metadata-flavor", "Google")?;
    bearer(machine, request, &[]).await
}

fn insert(request: &mut Request, name: &str, value: &str) -> Result<(), TokenError> {
    let unfit = || final_error(format!("the header {name:?} is not fit for HTTP"));
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?;
    let mut value = HeaderValue::from_str(value).map_err(|_| unfit())?;
    value.set_sensitive(true);
    request.headers_mut().insert(name, value);
    Ok(())
}

fn final_error(what: String) -> TokenError {
    TokenError { what, passing: false }
}

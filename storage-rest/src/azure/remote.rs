//! Tokens that Entra or a managed identity's service gives
//! (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>,
//! <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>).

use std::path::Path;
use std::time::{Duration, SystemTime};

use bodley_io::{Secret, TokenError};
use http::{HeaderName, HeaderValue, Method};
use reqwest::{Request, Url};

use super::chain::{Application, Source};
use super::identity::AzureCredential;
use crate::exchange::{Bearer, bearer, post_form};
use crate::web::{Http, Limits};
use crate::{jwt, token_file};

/// Whom the tokens are for.
const RESOURCE: &str = "https://storage.azure.com/";

/// Entra may be far away and busy.
const ENTRA: Limits = Limits {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(15),
    pause: Duration::from_millis(200),
    total: Duration::from_secs(20),
};

/// On this machine, or nobody is there; but the first token may take its time.
const MACHINE: Limits = Limits {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(10),
    pause: Duration::from_millis(200),
    total: Duration::from_secs(3),
};

/// For messages when the last resort fails.
const NOTHING_ELSE: &str = "asked because no AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, \
                            AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE is set";

/// How long the identity may take.
pub(crate) fn limits(source: &Source) -> Limits {
    match source {
        Source::AppService { .. } | Source::Metadata { .. } => MACHINE,
        _ => ENTRA,
    }
}

/// Gets it, and says when it ends. The error continues a sentence that names the source.
pub(crate) async fn load(
    source: &Source,
    http: &Http,
) -> Result<(AzureCredential, Option<SystemTime>), TokenError> {
    let found = match source {
        Source::Key { key, .. } => return Ok((AzureCredential::Key(key.clone()), None)),
        Source::Sas { query, ends, .. } => return Ok((AzureCredential::Sas(query.clone()), *ends)),
        Source::ClientSecret { app, secret } => {
            let fields = [("client_secret", secret.expose())];
            bearer(http, entra(app, &fields)?, &[secret]).await?
        }
        Source::WorkloadIdentity { app, token_file } => {
            let assertion = read(token_file).await?;
            let fields = [
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", assertion.expose()),
            ];
            bearer(http, entra(app, &fields)?, &[&assertion]).await?
        }
        Source::AppService { endpoint, header, client } => {
            let request = managed(endpoint.clone(), "2019-08-01", client.as_deref());
            let request = with(request, "x-identity-header", header.expose())?;
            bearer(http, request, &[header]).await?
        }
        Source::Metadata { endpoint, client, last_resort } => {
            let mut url = endpoint.clone();
            url.set_path("/metadata/identity/oauth2/token");
            let request = with(managed(url, "2018-02-01", client.as_deref()), "metadata", "true")?;
            bearer(http, request, &[]).await.map_err(|error| match last_resort {
                true => TokenError { what: format!("{} ({NOTHING_ELSE})", error.what), ..error },
                false => error,
            })?
        }
    };
    let Bearer { token, expires } = found;
    Ok((AzureCredential::Bearer(token), expires))
}

fn entra(app: &Application, proof: &[(&str, &str)]) -> Result<Request, TokenError> {
    let scope = format!("{RESOURCE}.default");
    let mut fields =
        vec![("grant_type", "client_credentials"), ("client_id", app.client.as_str()), ("scope", &scope)];
    fields.extend(proof);
    let mut url = app.authority.clone();
    let segments = url.path_segments_mut();
    let segments = segments.map(|mut path| {
        path.pop_if_empty().extend([app.tenant.as_str(), "oauth2", "v2.0", "token"]);
    });
    segments.map_err(|()| failed("AZURE_AUTHORITY_HOST has no path".to_owned(), false))?;
    Ok(post_form(url, &fields))
}

fn managed(mut url: Url, version: &str, client: Option<&str>) -> Request {
    url.query_pairs_mut().append_pair("api-version", version).append_pair("resource", RESOURCE);
    if let Some(client) = client {
        url.query_pairs_mut().append_pair("client_id", client);
    }
    Request::new(Method::GET, url)
}

fn with(mut request: Request, name: &'static str, value: &str) -> Result<Request, TokenError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| failed(format!("the value for the header {name} is not fit for HTTP"), false))?;
    value.set_sensitive(true);
    request.headers_mut().insert(HeaderName::from_static(name), value);
    Ok(request)
}

async fn read(path: &Path) -> Result<Secret, TokenError> {
    let (owned, shown) = (path.to_owned(), path.display());
    let text = tokio::task::spawn_blocking(move || token_file::read_bounded(&owned, jwt::LONGEST)).await;
    // Whoever rotates the file may be in the middle of that.
    let text = text.map_err(|_| failed(format!("reading {shown} was cut off"), true))?;
    let text = text.map_err(|why| failed(format!("the token file {shown} {why}"), true))?;
    Ok(Secret::new(text.trim()))
}

fn failed(what: String, passing: bool) -> TokenError {
    TokenError { what, passing }
}

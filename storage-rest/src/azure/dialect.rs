//! How Azure is asked, and what its refusals mean
//! (<https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>).

use std::time::SystemTime;

use async_trait::async_trait;
use bodley_io::store::StoreError;
use bodley_io::{Secret, TokenError};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::Url;

use super::identity::{AzureCredential, AzureCredentials};
use super::sign::authorization;
use crate::client::{Call, Dialect, Refusal, Signed, is_skewed, text};
use crate::encode::{percent, quote};
use crate::xml::{Item, walk};

/// A refusal for the date, which Azure calls no name of its own.
const SKEWED: &str = "DateSkewed";

/// A container and the way to it.
#[derive(Debug)]
pub(super) struct Azure {
    pub container: String,
    pub version: String,
    pub credentials: AzureCredentials,
}

impl Azure {
    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = self.credentials.endpoint().clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let key = call.key.split('/').map(percent).collect::<Vec<_>>().join("/");
        let slash = if key.is_empty() { "" } else { "/" };
        url.set_path(&format!("{base}/{}{slash}{key}", percent(&self.container)));
        let query: Vec<String> =
            call.query.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        url.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
        url
    }

    fn who(&self) -> String {
        self.credentials.identity()
    }
}

#[async_trait]
impl Dialect for Azure {
    async fn sign(&self, call: &Call<'_>, now: SystemTime) -> Result<Signed, TokenError> {
        let url = self.url(call);
        let mut headers = call.headers.clone();
        let date = http_date(now).ok_or_else(|| unfit("this machine's clock is out of range"))?;
        for (name, value) in [("x-ms-version", &self.version), ("x-ms-date", &date)] {
            let value = HeaderValue::from_str(value).map_err(|_| unfit("a header is not fit for HTTP"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let (header, secret_query) = match self.credentials.get().await? {
            AzureCredential::Sas(query) => (None, Some(query)),
            AzureCredential::Bearer(token) => (Some(Secret::new(format!("Bearer {}", token.expose()))), None),
            AzureCredential::Key(key) => {
                let who = (self.credentials.account(), &key);
                let text = authorization(who, &call.method, &url, &headers, call.payload.len());
                (Some(Secret::new(text)), None)
            }
        };
        if let Some(header) = header {
            let mut value =
                HeaderValue::from_str(header.expose()).map_err(|_| unfit("the token is not fit for HTTP"))?;
            value.set_sensitive(true);
            headers.insert(http::header::AUTHORIZATION, value);
        }
        Ok(Signed { url, headers, secret_query })
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
        refusal(status, headers, body)
    }

    fn mend(&self, _: &Refusal, _: &HeaderMap) -> bool {
        false
    }

    fn renew(&self) -> bool {
        self.credentials.distrust()
    }

    fn error(&self, call: &Call<'_>, refusal: &Refusal) -> StoreError {
        let object = call.object.to_owned();
        let (who, container, needs) = (self.who(), &self.container, &call.needs);
        match (refusal.status, refusal.code.as_str()) {
            (404, "" | "BlobNotFound" | "ResourceNotFound") if !call.key.is_empty() => {
                return StoreError::NotFound { object };
            }
            (403, "AuthorizationFailure") => {
                let what = format!(
                    "{refusal}; {who} needs {needs} on container {container}, or the account's firewall keeps this machine out"
                );
                return denied(call, what);
            }
            (403, code) if code.starts_with("Authorization") || code == "InsufficientAccountPermissions" => {
                return denied(call, format!("{refusal}; {who} needs {needs} on container {container}"));
            }
            (409, "BlobImmutableDueToPolicy") => {
                return denied(
                    call,
                    format!("{refusal}; its immutability policy or legal hold has not ended"),
                );
            }
            _ => {}
        }
        StoreError::Remote {
            operation: call.verb,
            object,
            what: format!("{refusal}{}", self.advice(refusal)),
            passing: crate::client::is_passing(refusal),
        }
    }

    fn place(&self) -> String {
        crate::web::shown(self.credentials.endpoint()).trim_end_matches('/').to_owned()
    }
}

impl Azure {
    fn advice(&self, refusal: &Refusal) -> String {
        let (container, who) = (&self.container, self.who());
        match (refusal.status, refusal.code.as_str()) {
            (_, "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled") | (404, _) => {
                format!("; make container {container} first, or mend the URL or the endpoint")
            }
            (_, SKEWED) => "; set this machine's clock".to_owned(),
            (403, "AuthenticationFailed") => format!(
                "; {who} is not valid for account {}: is it another one's, renewed or expired?",
                self.credentials.account()
            ),
            (_, "KeyBasedAuthenticationNotPermitted") => {
                "; the account takes no keys: use a workload or managed identity or a client secret"
                    .to_owned()
            }
            (401, _) => format!("; get new credentials ({who})"),
            (_, "InvalidHeaderValue") if is_about_version(refusal) => {
                "; the service does not know this version of the API: set api-version to one that it knows"
                    .to_owned()
            }
            (_, "BlobArchived" | "BlobBeingRehydrated") => {
                "; it is in the archive tier: bring it back (set its tier to Hot or Cool), and run again"
                    .to_owned()
            }
            (
                _,
                "FeatureNotEnabled"
                | "ImmutableStorageWithVersioningNotEnabled"
                | "VersionLevelWormNotEnabled",
            ) => "; the container needs support for version-level immutability".to_owned(),
            (412, _) => "; it changed while it was read".to_owned(),
            _ => String::new(),
        }
    }
}

fn denied(call: &Call<'_>, what: String) -> StoreError {
    let object = call.object.to_owned();
    StoreError::Denied { operation: call.verb, object, source: std::io::Error::other(what) }
}

fn unfit(what: &str) -> TokenError {
    TokenError { what: what.to_owned(), passing: false }
}

/// A time as HTTP has it.
pub(super) fn http_date(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

/// What a header says, or the `<Error>` in the body.
pub(super) fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let mut refusal = Refusal { status: status.as_u16(), ..Refusal::default() };
    let mut detail = String::new();
    let is_xml = walk(body, |path, item| {
        if let (["Error", name], Item::Text(text)) = (path, item) {
            match *name {
                "Code" => refusal.code = quote(text, &[]),
                // Behind the sentence stand a request's id and time.
                "Message" => refusal.message = quote(text.lines().next().unwrap_or_default(), &[]),
                "HeaderName" => refusal.hint = Some(quote(text, &[])),
                "AuthenticationErrorDetail" => text.clone_into(&mut detail),
                _ => {}
            }
        }
    });
    if !is_xml && !body.is_empty() {
        // What is not the store's may repeat our request, a signature included.
        refusal.message = "in words that are not Azure's".to_owned();
    }
    if let Some(code) = text(headers, "x-ms-error-code") {
        refusal.code = quote(code, &[]);
    }
    // Azurite's word for a signature that is wrong.
    if refusal.code == "AuthorizationFailure" && refusal.message.starts_with("Server failed to authenticate")
    {
        refusal.code = "AuthenticationFailed".to_owned();
    }
    if refusal.code == "AuthenticationFailed"
        && (is_skewed(headers) || detail.contains("Request date header"))
    {
        refusal.code = SKEWED.to_owned();
    }
    refusal
}

/// Azure names the header, Azurite only talks of it.
fn is_about_version(refusal: &Refusal) -> bool {
    refusal.hint.as_deref() == Some("x-ms-version") || refusal.message.contains("API version")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn refusals_are_read() {
        let mut headers = HeaderMap::new();
        let body = b"\xef\xbb\xbf<?xml version=\"1.0\"?><Error><Code>InvalidHeaderValue</Code><Message>The value is bad.\n\
                     RequestId:1\nTime:2</Message><HeaderName>x-ms-version</HeaderName></Error>";
        let found = refusal(StatusCode::BAD_REQUEST, &headers, body);
        assert_eq!(
            (found.code.as_str(), found.message.as_str()),
            ("InvalidHeaderValue", "The value is bad.")
        );
        assert_eq!(found.hint.as_deref(), Some("x-ms-version"));
        headers.insert("x-ms-error-code", HeaderValue::from_static("AuthenticationFailed"));
        let now = http_date(SystemTime::now()).unwrap();
        headers.insert("date", HeaderValue::from_str(&now).unwrap());
        assert_eq!(refusal(StatusCode::FORBIDDEN, &headers, b"").code, "AuthenticationFailed");
        let body = b"<Error><AuthenticationErrorDetail>Request date header too old: 'x'</AuthenticationErrorDetail></Error>";
        assert_eq!(refusal(StatusCode::FORBIDDEN, &headers, body).code, SKEWED);
        let late = http_date(SystemTime::now() - Duration::from_secs(3600)).unwrap();
        headers.insert("date", HeaderValue::from_str(&late).unwrap());
        assert_eq!(refusal(StatusCode::FORBIDDEN, &headers, b"").code, SKEWED);
    }
}

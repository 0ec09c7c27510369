//! How Google Cloud Storage is asked by its JSON API, and what its refusals mean
//! (<https://cloud.google.com/storage/docs/json_api/v1/status-codes>).

use std::time::SystemTime;

use async_trait::async_trait;
use bodley_io::TokenError;
use bodley_io::store::StoreError;
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::Url;
use serde_json::Value;

use super::identity::{GcsCredential, GcsCredentials};
use crate::client::{Call, Dialect, Refusal, Signed, text};
use crate::encode::{percent, quote};
use crate::web::{PlainHttp, checked_url};

/// Of a bucket that is not there. Google has `notFound` for this and for objects, so it is told by the sentence.
pub(super) const NO_BUCKET: &str = "NoSuchBucket";
/// Google has `invalid` for a checksum that does not match and for all else, so it is told by the sentence; the name is the table's.
const BAD_DIGEST: &str = "BadDigest";

/// A bucket and the way to it.
#[derive(Debug)]
pub(super) struct Gcs {
    pub bucket: String,
    pub user_project: Option<String>,
    pub credentials: GcsCredentials,
}

impl Gcs {
    fn url(&self, call: &Call<'_>) -> Result<Url, String> {
        if let Some(address) = &call.at {
            // What the store says where to go must be no way to get a token sent elsewhere in the clear.
            return checked_url(address.expose(), PlainHttp::Loopback)
                .map_err(|why| format!("the store gave an address for the upload that {why}"));
        }
        let mut url = self.credentials.endpoint().clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let is_upload = call.query.iter().any(|(name, _)| *name == "uploadType");
        let upload = if is_upload { "/upload" } else { "" };
        let slash = if call.key.is_empty() { "" } else { "/" };
        let (bucket, key) = (percent(&self.bucket), percent(&call.key));
        url.set_path(&format!("{base}{upload}/storage/v1/b/{bucket}/o{slash}{key}"));
        let mut query: Vec<String> =
            call.query.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        query.extend(self.user_project.iter().map(|project| format!("userProject={}", percent(project))));
        query.extend(
            text(&call.headers, "if-match").map(|generation| format!("ifGenerationMatch={generation}")),
        );
        url.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
        Ok(url)
    }

    fn who(&self) -> String {
        self.credentials.identity().unwrap_or_else(|| "no credentials".to_owned())
    }
}

#[async_trait]
impl Dialect for Gcs {
    async fn sign(&self, call: &Call<'_>, _: SystemTime) -> Result<Signed, TokenError> {
        let failed = |what: String| TokenError { what, passing: false };
        let url = self.url(call).map_err(failed)?;
        let mut headers = call.headers.clone();
        // The condition is in the URL.
        headers.remove("if-match");
        // Who knows an upload's address may use it: no other host needs the token.
        let is_own = url.origin() == self.credentials.endpoint().origin();
        if let (GcsCredential::Bearer(token), true) = (self.credentials.get().await?, is_own) {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| failed("the access token is not fit for HTTP".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(http::header::AUTHORIZATION, value);
        }
        Ok(Signed { url, headers, secret_query: None })
    }

    fn version(&self, headers: &HeaderMap) -> Option<String> {
        let generation = text(headers, "x-goog-generation")?;
        generation.bytes().all(|byte| byte.is_ascii_digit()).then(|| generation.to_owned())
    }

    fn refusal(&self, status: StatusCode, _: &HeaderMap, body: &[u8]) -> Refusal {
        refusal(status, body)
    }

    fn mend(&self, _: &Refusal, _: &HeaderMap) -> bool {
        false
    }

    fn renew(&self) -> bool {
        self.credentials.distrust();
        true
    }

    fn error(&self, call: &Call<'_>, refusal: &Refusal) -> StoreError {
        let object = call.object.to_owned();
        let (who, bucket, needs) = (self.who(), &self.bucket, &call.needs);
        let denied = |what: String| {
            let source = std::io::Error::other(what);
            StoreError::Denied { operation: call.verb, object: call.object.to_owned(), source }
        };
        let advice = match (refusal.status, refusal.code.as_str()) {
            (_, NO_BUCKET) => format!("; make bucket {bucket} first, or mend the URL or the endpoint"),
            (404, _) if call.key.is_empty() && call.at.is_none() => {
                format!("; make bucket {bucket} first, or mend the URL or the endpoint")
            }
            (404, _) => return StoreError::NotFound { object },
            (403, "retentionPolicyNotMet" | "objectUnderActiveHold") => {
                return denied(format!("{refusal}; its retention or hold has not ended"));
            }
            (403, "forbidden" | "insufficientPermissions" | "") => {
                return denied(format!("{refusal}; {who} needs {needs} on bucket {bucket}"));
            }
            (401, _) => format!("; get new credentials ({who})"),
            (400, "required") => {
                "; requests to this bucket are paid by who asks: set user-project".to_owned()
            }
            (403, "userProjectAccessDenied") => {
                format!("; {who} needs serviceusage.services.use on the project that pays (user-project)")
            }
            (403, _) => format!(" ({who})"),
            (412, _) => "; it changed while it was read".to_owned(),
            _ => String::new(),
        };
        StoreError::Remote {
            operation: call.verb,
            object,
            what: format!("{refusal}{advice}"),
            passing: crate::client::is_passing(refusal),
        }
    }

    fn place(&self) -> String {
        crate::web::shown(self.credentials.endpoint()).trim_end_matches('/').to_owned()
    }
}

/// The `error` in the body, or its text: what is asked for as media is refused in plain words.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |path: &str| json.pointer(path).and_then(Value::as_str).map(|text| quote(text, &[]));
    let plain = || match json.is_null() {
        true => quote(&String::from_utf8_lossy(body), &[]),
        false => String::new(),
    };
    let message = text("/error/message").unwrap_or_else(plain);
    let code = text("/error/errors/0/reason").unwrap_or_default();
    let code = match status.as_u16() {
        404 if message.contains("bucket does not exist") => NO_BUCKET.to_owned(),
        400 if message.contains("doesn't match calculated CRC32C") => BAD_DIGEST.to_owned(),
        _ => code,
    };
    Refusal { status: status.as_u16(), code, message, hint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read() {
        let read = |status: u16, body: &str| {
            let found = refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            (found.code, found.message)
        };
        let json = |reason: &str, message: &str| {
            format!(r#"{{"error":{{"code":1,"message":"{message}","errors":[{{"reason":"{reason}"}}]}}}}"#)
        };
        let owned = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        assert_eq!(read(403, &json("forbidden", "no")), owned("forbidden", "no"));
        let gone = "The specified bucket does not exist.";
        assert_eq!(read(404, &json("notFound", gone)), owned(NO_BUCKET, gone));
        assert_eq!(read(404, "No such object: a/b"), owned("", "No such object: a/b"));
        assert_eq!(read(503, ""), owned("", ""));
        assert_eq!(read(503, "[]"), owned("", ""));
    }
}

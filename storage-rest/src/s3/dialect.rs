//! How S3 is asked, and what its refusals mean (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bodley_io::TokenError;
use bodley_io::store::StoreError;
use http::{HeaderMap, Method, StatusCode};
use reqwest::Url;

use super::options::{Endpoint, Settled};
use super::sign::sign;
use crate::aws::{AwsCredentials, region};
use crate::client::{Call, Dialect, Refusal, Signed, text};
use crate::encode::{percent, quote};
use crate::xml::{Item, walk};

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A bucket and the way to it.
#[derive(Debug)]
pub(super) struct S3 {
    bucket: String,
    endpoint: Endpoint,
    path_style: bool,
    /// AWS corrects it.
    region: Mutex<String>,
    /// `None`: requests are not signed.
    credentials: Option<AwsCredentials>,
}

impl S3 {
    pub fn new(bucket: String, settled: Settled, credentials: Option<AwsCredentials>) -> Self {
        let Settled { endpoint, region, path_style } = settled;
        Self { bucket, endpoint, path_style, region: Mutex::new(region), credentials }
    }

    /// Whether a payload must be hashed: over https TLS protects it.
    pub fn hashes(&self) -> bool {
        self.credentials.is_some() && matches!(&self.endpoint, Endpoint::Other(url) if url.scheme() == "http")
    }

    fn region(&self) -> String {
        self.region.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Scheme, host and port, the bucket left out.
    fn base(&self) -> Result<Url, String> {
        let text = match &self.endpoint {
            Endpoint::Other(url) => return Ok(url.clone()),
            Endpoint::Aws { dual_stack, fips } => {
                let region = self.region();
                let fips = if *fips { "-fips" } else { "" };
                let dual = if *dual_stack { ".dualstack" } else { "" };
                let china = if region.starts_with("cn-") { ".cn" } else { "" };
                format!("https://s3{fips}{dual}.{region}.amazonaws.com{china}")
            }
        };
        Url::parse(&text).map_err(|error| format!("{text}: {error}"))
    }

    fn url(&self, call: &Call<'_>) -> Result<Url, String> {
        let mut url = self.base()?;
        let key = call.key.split('/').map(percent).collect::<Vec<_>>().join("/");
        if self.path_style {
            let slash = if key.is_empty() { "" } else { "/" };
            url.set_path(&format!("/{}{slash}{key}", percent(&self.bucket)));
        } else {
            let host = format!("{}.{}", self.bucket, url.host_str().unwrap_or_default());
            url.set_host(Some(&host)).map_err(|error| format!("{host}: {error}"))?;
            url.set_path(&format!("/{key}"));
        }
        let mut query: Vec<String> =
            call.query.iter().map(|(name, value)| format!("{}={}", percent(name), percent(value))).collect();
        query.sort_unstable();
        url.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
        Ok(url)
    }

    fn who(&self) -> String {
        let identity = self.credentials.as_ref().and_then(AwsCredentials::identity);
        identity
            .map_or_else(|| "no credentials".to_owned(), |identity| format!("the credentials of {identity}"))
    }
}

#[async_trait]
impl Dialect for S3 {
    async fn sign(&self, call: &Call<'_>, now: SystemTime) -> Result<Signed, TokenError> {
        let failed = |what| TokenError { what, passing: false };
        let url = self.url(call).map_err(failed)?;
        let mut headers = call.headers.clone();
        if let Some(credentials) = &self.credentials {
            let credentials = credentials.get().await?;
            let hash = match (call.payload.len(), url.scheme(), call.payload.sha256()) {
                (0, _, _) => EMPTY_SHA256,
                (_, "https", _) => UNSIGNED,
                (_, _, Some(hash)) => hash,
                (_, _, None) => return Err(failed("the payload was not hashed".to_owned())),
            };
            let request = (&call.method, &url);
            sign(request, &mut headers, hash, (&credentials, &self.region()), now).map_err(failed)?;
        }
        Ok(Signed { url, headers, secret_query: None })
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
        refusal(status, headers, body)
    }

    fn mend(&self, refusal: &Refusal, headers: &HeaderMap) -> bool {
        let elsewhere = matches!(refusal.status, 301 | 307 | 308 | 400 | 403);
        let theirs = text(headers, "x-amz-bucket-region").or(refusal.hint.as_deref());
        let Some(theirs) = theirs.filter(|theirs| elsewhere && region::is_region(theirs)) else {
            return false;
        };
        let mut ours = self.region.lock().unwrap_or_else(PoisonError::into_inner);
        if *ours == theirs {
            // Another request may have learnt it since this one was signed.
            return matches!(refusal.status, 301 | 307 | 308)
                || refusal.code == "AuthorizationHeaderMalformed";
        }
        tracing::info!(
            "bucket {} is in {theirs}, not in {ours}: set region={theirs} to save a request",
            self.bucket
        );
        theirs.clone_into(&mut ours);
        true
    }

    fn renew(&self) -> bool {
        self.credentials.as_ref().inspect(|credentials| credentials.distrust()).is_some()
    }

    fn error(&self, call: &Call<'_>, refusal: &Refusal) -> StoreError {
        let object = call.object.to_owned();
        match (refusal.status, refusal.code.as_str()) {
            (_, "NoSuchBucket") => {}
            (404, _) if call.key.is_empty() => {}
            (404, "NoSuchKey" | "NotFound") => return StoreError::NotFound { object },
            (404, "") if call.method == Method::HEAD => return StoreError::NotFound { object },
            (501, _) if call.headers.contains_key("if-none-match") => {
                return StoreError::NoPutIfAbsent(format!(
                    "cannot write {object}: {refusal}; the store does not know put-if-absent: two writers would overwrite each other's \
                     commits. Use another one, or --single-writer if only ever one run at a time writes"
                ));
            }
            (403, "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "") => {
                let what = format!("{refusal}; {} lack {} on bucket {}", self.who(), call.needs, self.bucket);
                return StoreError::Denied {
                    operation: call.verb,
                    object,
                    source: std::io::Error::other(what),
                };
            }
            _ => {}
        }
        let bucket = &self.bucket;
        let advice = match (refusal.status, refusal.code.as_str()) {
            (_, "NoSuchUpload") => "; its upload was given up by somebody: run again".to_owned(),
            (404, "") => {
                "; that is no answer of S3: mend the endpoint, or look at what stands between".to_owned()
            }
            (_, "NoSuchBucket") | (404, _) => {
                format!("; make bucket {bucket} first, or mend the URL or the endpoint")
            }
            (_, "InvalidAccessKeyId") => {
                format!("; the store does not know this access key ({})", self.who())
            }
            (_, "SignatureDoesNotMatch") => format!(
                "; the secret key is not that of the access key, or a proxy changes requests ({})",
                self.who()
            ),
            (_, "ExpiredToken" | "InvalidToken") | (401, _) => {
                format!("; get new credentials ({})", self.who())
            }
            (_, "RequestTimeTooSkewed") => "; set this machine's clock".to_owned(),
            (301 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed") => {
                format!("; bucket {bucket} is elsewhere: set region or endpoint")
            }
            (_, "InvalidObjectState") => {
                "; it is in an archive: restore it there first, and run again".to_owned()
            }
            (_, "EntityTooSmall" | "InvalidPart") => {
                "; if the store wants parts of equal length, set equal-parts=true".to_owned()
            }
            (412, _) => "; it changed while it was read".to_owned(),
            (400..=501, _) => asked_for(call),
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
        match self.base() {
            Ok(url) => crate::web::shown(&url).trim_end_matches('/').to_owned(),
            Err(_) => "the store".to_owned(),
        }
    }
}

/// What options made the request ask for, which the store may not have.
fn asked_for(call: &Call<'_>) -> String {
    let options =
        ["x-amz-storage-class", "x-amz-server-side-encryption", "x-amz-object-lock-mode", "x-amz-tagging"];
    let sent: Vec<&str> = options.into_iter().filter(|name| call.headers.contains_key(*name)).collect();
    match sent.is_empty() {
        true => String::new(),
        false => format!("; does the bucket take {}, as the vault options say?", sent.join(", ")),
    }
}

/// The `<Error>` of an answer, or what the status alone says.
pub(super) fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let mut refusal = Refusal { status: status.as_u16(), ..Refusal::default() };
    let mut field = |name: &str, text: &str| match name {
        "Code" => refusal.code = quote(text, &[]),
        "Message" => refusal.message = quote(text, &[]),
        "Region" => refusal.hint = Some(quote(text, &[])),
        _ => {}
    };
    let is_xml = walk(body, |path, item| {
        if let (["Error", name], Item::Text(text)) = (path, item) {
            field(name, text);
        }
    });
    if !is_xml && !body.is_empty() {
        // What is not the store's may repeat our request, secrets included.
        refusal.message = "in words that are not S3's".to_owned();
    }
    // HEAD has no body; some stores say it in a header.
    if refusal.code.is_empty()
        && let Some(code) = text(headers, "x-amz-error-code").or_else(|| text(headers, "x-minio-error-code"))
    {
        refusal.code = quote(code, &[]);
    }
    if refusal.code.is_empty() && refusal.status == 403 && crate::client::is_skewed(headers) {
        refusal.code = "RequestTimeTooSkewed".to_owned();
    }
    refusal
}

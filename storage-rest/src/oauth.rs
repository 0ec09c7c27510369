//! OAUTHBEARER tokens by the client credentials grant (RFC 6749 section 4.4), as Kafka's Java client gets them (KIP-768).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bodley_io::{Secret, Token, TokenError, TokenProvider};
use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::{Request, Url};
use serde_json::Value;

use crate::encode::{form, quote};
use crate::refresh::{Fetch, Fresh, Refreshed};
use crate::web::{self, Answer, Http, Limits, PlainHttp};
use crate::{SettingError, jwt};

/// What the provider needs to know. The names in brackets are Kafka's.
#[derive(Debug, Clone)]
pub struct OAuthOptions {
    /// The token endpoint; https, or http on this machine [sasl.oauthbearer.token.endpoint.url].
    pub endpoint: String,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// Scopes with spaces between them, if the server wants any.
    pub scope: Option<String>,
    /// URL-encode id and secret before Base64, as RFC 6749 2.3.1 says and many servers do not expect [sasl.oauthbearer.header.urlencode].
    pub url_encode: bool,
    /// Until the connection stands [sasl.login.connect.timeout.ms].
    pub connect_timeout: Duration,
    /// From then on until the whole answer is there [sasl.login.read.timeout.ms].
    pub read_timeout: Duration,
    /// Before the second attempt, doubled for each further one and jittered [sasl.login.retry.backoff.ms].
    pub retry_backoff: Duration,
    /// As in Kafka, the time for all attempts together: none begins later than this after the first [sasl.login.retry.backoff.max.ms].
    pub retry_backoff_max: Duration,
    /// The part of a token's life after which a new one is fetched, 0.5 to 1 [sasl.login.refresh.window.factor].
    pub refresh_factor: f64,
    /// A new one is fetched at the latest so long before the end; no matter for tokens that live shorter [sasl.login.refresh.buffer.seconds].
    pub refresh_buffer: Duration,
}

impl OAuthOptions {
    /// Kafka's defaults, with 10 s for connecting and for reading where Kafka has no limit.
    pub fn new(endpoint: impl Into<String>, client_id: impl Into<String>, client_secret: Secret) -> Self {
        Self {
            endpoint: endpoint.into(),
            client_id: client_id.into(),
            client_secret,
            scope: None,
            url_encode: false,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(10),
            refresh_factor: 0.8,
            refresh_buffer: Duration::from_secs(300),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            connect: self.connect_timeout,
            answer: self.connect_timeout.saturating_add(self.read_timeout),
            pause: self.retry_backoff,
            total: self.retry_backoff_max,
        }
    }

    fn checked_endpoint(&self) -> Result<Url, SettingError> {
        if !(0.5..=1.0).contains(&self.refresh_factor) {
            return Err(SettingError::new("refresh_factor", "must be between 0.5 and 1"));
        }
        if self.client_id.is_empty() || self.client_secret.expose().is_empty() {
            let which = if self.client_id.is_empty() { "client_id" } else { "client_secret" };
            return Err(SettingError::new(which, "must not be empty"));
        }
        if self.client_id.contains(':') && !self.url_encode {
            return Err(SettingError::new(
                "client_id",
                "has a colon, which needs URL encoding (header.urlencode)",
            ));
        }
        if self.connect_timeout.is_zero() || self.read_timeout.is_zero() {
            let which = if self.connect_timeout.is_zero() { "connect_timeout" } else { "read_timeout" };
            return Err(SettingError::new(which, "must not be zero"));
        }
        web::checked_url(&self.endpoint, PlainHttp::Loopback)
            .map_err(|why| SettingError::new("endpoint", why))
    }
}

/// How far this machine's clock is from the token endpoint's, to the second that HTTP's `Date` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    /// Positive: this machine's clock is ahead.
    pub seconds_ahead: i64,
}

/// Tokens from an OAuth server. One token is shared by all callers; see [`OAuthOptions`] for when the next is fetched.
pub struct OAuthTokens(Refreshed<Endpoint>);

impl OAuthTokens {
    /// Checks the options; sends nothing yet.
    ///
    /// # Errors
    /// The setting that cannot work.
    pub fn new(options: OAuthOptions, tls: Arc<rustls::ClientConfig>) -> Result<Self, SettingError> {
        let url = options.checked_endpoint()?;
        let http = Http::new(options.limits(), &tls)?;
        Ok(Self(Refreshed::new(Endpoint { url, http, options, skew: Mutex::new(None) })))
    }

    /// By the endpoint's last answer; `None` before the first, or if it had no `Date`.
    pub fn clock_skew(&self) -> Option<ClockSkew> {
        *self.0.source().skew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OAuthTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.0.source();
        f.debug_struct("OAuthTokens")
            .field("endpoint", &web::shown(&endpoint.url))
            .field("client_id", &endpoint.options.client_id)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenProvider for OAuthTokens {
    async fn token(&self, _host: &str) -> Result<Token, TokenError> {
        self.0.get().await
    }
}

struct Endpoint {
    url: Url,
    http: Http,
    options: OAuthOptions,
    skew: Mutex<Option<ClockSkew>>,
}

#[async_trait]
impl Fetch for Endpoint {
    type Item = Token;

    async fn fetch(&self) -> Result<Fresh<Token>, TokenError> {
        let request = self.request().map_err(|what| TokenError { what, passing: false })?;
        let answer = self.http.send(request).await.map_err(|error| TokenError {
            what: format!("the token endpoint {} {error}", web::shown(&self.url)),
            passing: error.is_passing(),
        })?;
        let now = SystemTime::now();
        let skew = clock_skew(&answer.headers, now);
        if skew.is_some() {
            *self.skew.lock().unwrap_or_else(PoisonError::into_inner) = skew;
        }
        if !answer.status.is_success() {
            return Err(self.refusal(&answer));
        }
        self.accept(&answer, now, skew).map_err(|why| TokenError {
            what: format!("the token endpoint {} {why}", web::shown(&self.url)),
            passing: false,
        })
    }
}

impl Endpoint {
    fn request(&self) -> Result<Request, String> {
        let OAuthOptions { client_id, client_secret, scope, url_encode, .. } = &self.options;
        let pair = if *url_encode {
            Secret::new(format!("{}:{}", form(client_id), form(client_secret.expose())))
        } else {
            Secret::new(format!("{client_id}:{}", client_secret.expose()))
        };
        let basic = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
        let mut authorization = HeaderValue::from_str(basic.expose()).map_err(|error| error.to_string())?;
        authorization.set_sensitive(true);
        let mut body = "grant_type=client_credentials".to_owned();
        if let Some(scope) = scope {
            body.push_str("&scope=");
            body.push_str(&form(scope));
        }
        let mut request = Request::new(Method::POST, self.url.clone());
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, authorization);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        *request.body_mut() = Some(body.into());
        Ok(request)
    }

    /// An answer that is no success, with the server's reason (RFC 6749 section 5.2).
    fn refusal(&self, answer: &Answer) -> TokenError {
        let url = web::shown(&self.url);
        let status = answer.status;
        let passing = web::is_passing(status);
        let what = if status.is_redirection() {
            let to = answer.headers.get(header::LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| self.url.join(to).ok()).and_then(|to| to.host_str().map(str::to_owned));
            let to = quote(&to.unwrap_or_else(|| "an unknown place".to_owned()), &self.secrets());
            format!(
                "the token endpoint {url} redirects to {to} (HTTP {status}); redirects are not followed, name the right endpoint"
            )
        } else if passing {
            format!("the token endpoint {url} is not able to answer (HTTP {status}{})", self.reason(answer))
        } else {
            let client = &self.options.client_id;
            format!(
                "the token endpoint {url} refused the client {client} (HTTP {status}{})",
                self.reason(answer)
            )
        };
        TokenError { what, passing }
    }

    /// `: error: description` from the JSON of an error, as far as there is any.
    fn reason(&self, answer: &Answer) -> String {
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let part = |name| json.get(name).and_then(Value::as_str).map(|text| quote(text, &self.secrets()));
        [part("error"), part("error_description")]
            .into_iter()
            .flatten()
            .fold(String::new(), |all, part| all + ": " + &part)
    }

    fn secrets(&self) -> [&str; 1] {
        [self.options.client_secret.expose()]
    }

    /// The token of a success. The error continues a sentence that names the endpoint.
    fn accept(
        &self,
        answer: &Answer,
        now: SystemTime,
        skew: Option<ClockSkew>,
    ) -> Result<Fresh<Token>, String> {
        // The parser's own text may quote the answer.
        let json: Value =
            serde_json::from_slice(&answer.body).map_err(|_| "sent something that is not JSON".to_owned())?;
        let Some(text) = json.get("access_token").and_then(Value::as_str).map(str::trim) else {
            return Err(format!("sent no access_token{}", self.reason(answer)));
        };
        if !jwt::is_bearer(text) {
            return Err("sent a token with characters that RFC 6750 does not allow, or of more than 64 KiB"
                .to_owned());
        }
        let life = life(&json, text, now, skew)?;
        let (refresh_at, expires) = match life {
            Some(life) => (now + self.renew_after(life), Some(now + life)),
            None => (now + UNKNOWN_LIFE, None),
        };
        let token = Token { text: Secret::new(text), expires };
        Ok(Fresh { value: token, refresh_at, expires })
    }

    /// When in its life a token is renewed.
    fn renew_after(&self, life: Duration) -> Duration {
        let by_factor = life.mul_f64(self.options.refresh_factor);
        match life.checked_sub(self.options.refresh_buffer) {
            Some(latest) if !latest.is_zero() => by_factor.min(latest),
            _ => by_factor,
        }
    }
}

/// A token that does not say when it ends is renewed after so long.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);

/// No token lives longer, whatever the server says: sums of times stay in range.
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long the token lives from now on: the shorter of `expires_in` (a number, or as some servers have it a text) and the JWT's `exp` by the
/// server's clock, which in whole seconds can come up to one earlier.
fn life(
    json: &Value,
    token: &str,
    now: SystemTime,
    skew: Option<ClockSkew>,
) -> Result<Option<Duration>, String> {
    let expires_in = json.get("expires_in").and_then(|value| match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    });
    let told = expires_in.map(|seconds| {
        Duration::try_from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64())).unwrap_or_default()
    });
    let claimed =
        jwt::expiry(token).map(|end| end.duration_since(server_time(now, skew)).unwrap_or_default());
    let Some(life) = told.into_iter().chain(claimed).min() else { return Ok(None) };
    if life.is_zero() {
        return Err("sent a token that has already ended".to_owned());
    }
    Ok(Some(life.min(LONGEST_LIFE)))
}

fn server_time(now: SystemTime, skew: Option<ClockSkew>) -> SystemTime {
    // A second is what rounding does to equal clocks.
    let ahead = skew.map_or(0, |skew| skew.seconds_ahead);
    let ahead = if ahead.abs() > 1 { ahead } else { 0 };
    let off = Duration::from_secs(ahead.unsigned_abs());
    let shifted = if ahead >= 0 { now.checked_sub(off) } else { now.checked_add(off) };
    shifted.unwrap_or(now)
}

fn clock_skew(headers: &HeaderMap, now: SystemTime) -> Option<ClockSkew> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let ours = jiff::Timestamp::try_from(now).ok()?;
    Some(ClockSkew { seconds_ahead: ours.as_second().saturating_sub(theirs.as_second()) })
}

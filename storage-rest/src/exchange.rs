//! Access tokens that a server gives over HTTP: OAuth token endpoints and the metadata services of clouds.

use std::time::{Duration, SystemTime};

use bodley_io::{Secret, TokenError};
use http::{HeaderValue, Method, header};
use reqwest::{Request, Url};
use serde_json::Value;

use crate::encode::{form, quote};
use crate::jwt;
use crate::web::{Answer, Http, is_passing, shown};

/// A token for the header `Authorization`.
#[derive(Debug, Clone)]
pub(crate) struct Bearer {
    pub token: Secret,
    /// `None`: not known.
    pub expires: Option<SystemTime>,
}

/// A form to be posted to a token endpoint.
pub(crate) fn post_form(url: Url, fields: &[(&str, &str)]) -> Request {
    let mut request = Request::new(Method::POST, url);
    let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", form(value))).collect();
    *request.body_mut() = Some(body.join("&").into());
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    request
}

/// Sends a request and takes the token from its answer. `secrets` are what the server might repeat in a message. The error continues a
/// sentence that names the identity.
pub(crate) async fn bearer(http: &Http, request: Request, secrets: &[&Secret]) -> Result<Bearer, TokenError> {
    let place = shown(request.url());
    let answer = answer(http, request, secrets).await?;
    token_of(&answer.body).ok_or_else(|| TokenError {
        what: format!("{place} answered without an access token"),
        passing: false,
    })
}

/// The answer of a request that went well.
pub(crate) async fn answer(http: &Http, request: Request, secrets: &[&Secret]) -> Result<Answer, TokenError> {
    let place = shown(request.url());
    let answer = http.send(request).await;
    let answer = answer
        .map_err(|error| TokenError { what: format!("{place} {error}"), passing: error.is_passing() })?;
    if answer.status.is_success() {
        return Ok(answer);
    }
    let reason = reason(&answer, secrets);
    let colon = if reason.is_empty() { "" } else { ": " };
    let what = format!("{place} answered HTTP {}{colon}{reason}", answer.status);
    Err(TokenError { what, passing: is_passing(answer.status) })
}

/// RFC 6749's error and error_description, or the `error` object of Google's APIs.
fn reason(answer: &Answer, secrets: &[&Secret]) -> String {
    let secrets: Vec<&str> = secrets.iter().map(|secret| secret.expose()).collect();
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let error = json.get("error");
    let of_object = |name| error.and_then(|error| error.get(name)).and_then(Value::as_str);
    let code = error.and_then(Value::as_str).or_else(|| of_object("status"));
    let text = json.get("error_description").and_then(Value::as_str).or_else(|| of_object("message"));
    let parts: Vec<&str> = [code, text].into_iter().flatten().collect();
    quote(&parts.join(": "), &secrets)
}

fn token_of(body: &[u8]) -> Option<Bearer> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let text = ["access_token", "accessToken"].iter().find_map(|name| json.get(name)?.as_str())?;
    if !jwt::is_bearer(text) {
        return None;
    }
    Some(Bearer { token: Secret::new(text), expires: end_of(&json).or_else(|| jwt::expiry(text)) })
}

/// RFC 6749 has `expires_in` seconds, which no wrong clock of ours spoils; Azure's metadata service writes numbers as text; Google's
/// impersonation has a time.
fn end_of(json: &Value) -> Option<SystemTime> {
    let number = |name| {
        let value: &Value = json.get(name)?;
        value.as_f64().or_else(|| value.as_str()?.parse().ok())
    };
    let after =
        |start: SystemTime, seconds: f64| start.checked_add(Duration::try_from_secs_f64(seconds).ok()?);
    let now = SystemTime::now();
    number("expires_in")
        .and_then(|seconds| after(now, seconds))
        .or_else(|| after(SystemTime::UNIX_EPOCH, number("expires_on")?))
        .or_else(|| json.get("expireTime")?.as_str()?.parse::<jiff::Timestamp>().ok().map(Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_in_each_form() {
        let end = |json: &str| token_of(json.as_bytes()).unwrap().expires;
        let from_now = |json| end(json).unwrap().duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((3590..=3600).contains(&from_now(r#"{"access_token":"a","expires_in":3600}"#)));
        assert!((3590..=3600).contains(&from_now(r#"{"access_token":"a","expires_in":"3600"}"#)));
        let on = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        assert_eq!(end(r#"{"access_token":"a","expires_on":"2000000000"}"#), Some(on));
        assert_eq!(end(r#"{"accessToken":"a","expireTime":"2033-05-18T03:33:20Z"}"#), Some(on));
        assert_eq!(end(r#"{"access_token":"a","expires_in":-5}"#), None);
        assert!(token_of(br#"{"access_token":"a b"}"#).is_none() && token_of(b"[]").is_none());
    }
}

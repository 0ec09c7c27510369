//! The little that we read of a token: its characters and, if it is a JWT, when it ends. Nothing is verified, that is the broker's work.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest token that is taken, in bytes.
pub(crate) const LONGEST: usize = 64 * 1024;

/// Whether the text is an RFC 6750 b64token: letters, digits and `-._~+/`, then `=`. Anything else could break out of the SASL message.
pub(crate) fn is_bearer(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty()
        && text.len() <= LONGEST
        && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

/// The `exp` claim of a JWT (RFC 7519, seconds, maybe with a fraction); `None` for anything that is not a JWT with one.
pub(crate) fn expiry(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.');
    let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let seconds = claims.get("exp")?.as_f64()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// A time as RFC 3339 in UTC, for messages.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(
        |_| "a time out of range".to_owned(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An unsigned JWT that ends then.
    pub(crate) fn jwt(expires: SystemTime) -> String {
        let seconds = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"bodley","exp":{seconds}}}"#));
        format!("{}.{claims}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#))
    }

    #[test]
    fn reads_the_end_of_a_jwt_only() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        assert_eq!(expiry(&jwt(end)), Some(end));
        let claims = |json: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(json));
        for no in ["", "opaque", "a.b", "a.b.c.d", "a.!.c", &claims("[]"), &claims(r#"{"exp":"soon"}"#)] {
            assert_eq!(expiry(no), None, "{no}");
        }
        assert_eq!(expiry(&claims(r#"{"exp":-1}"#)), None);
        assert_eq!(expiry(&claims(r#"{"exp":1e300}"#)), None);
        assert!(expiry(&claims(r#"{"exp":1.5}"#)).is_some());
    }

    #[test]
    fn bearer_tokens_have_few_characters() {
        assert!(is_bearer("abc-._~+/09=="));
        for no in ["", "=", "a b", "a\u{1}auth=", "é", "a=b", &"x".repeat(LONGEST + 1)] {
            assert!(!is_bearer(no), "{no:.20}");
        }
    }
}

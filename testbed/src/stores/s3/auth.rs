//! AWS Signature Version 4 in the header `Authorization`, computed anew by AWS's own crate.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::checks;
use super::keys::Allowed;
use super::refusal::Refusal;
use crate::iam::AwsCredentials;
use crate::stores::http::{Head, Request};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SKEW_MS: i64 = 900_000;
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The header, taken apart.
struct Authorization<'a> {
    key: &'a str,
    day: &'a str,
    region: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

/// What the caller is allowed, if the signature is right. `find` knows the keys, `now` is the time by our clock, `region` judges the region that was signed for.
pub(super) fn judge(
    request: &Request,
    find: impl FnOnce(&str) -> Option<(AwsCredentials, Allowed)>,
    now: Timestamp,
    region: impl FnOnce(&str) -> Result<(), Refusal>,
) -> Result<Allowed, Refusal> {
    let head = &request.head;
    let authorization = parse(head)?;
    let signed_at = date(head, authorization.day, now)?;
    let (credentials, allowed) = find(authorization.key).ok_or_else(|| {
        Refusal::new(
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
        )
        .element("AWSAccessKeyId", authorization.key)
    })?;
    session(head, &credentials, now)?;
    region(authorization.region)?;
    let unsigned = unsigned_headers(head, &authorization.signed);
    if !unsigned.is_empty() {
        return Err(Refusal::denied("There were headers present in the request which were not signed")
            .element("HeadersNotSigned", unsigned.join(", ")));
    }
    let hash = payload(request)?;
    let expected = signature(head, &authorization, &credentials, (signed_at, hash))
        .map_err(|e| Refusal::invalid(e.to_string()))?;
    if expected != authorization.signature {
        let message = "The request signature we calculated does not match the signature you provided.";
        return Err(Refusal::new(403, "SignatureDoesNotMatch", message)
            .element("AWSAccessKeyId", authorization.key)
            .element("SignatureProvided", authorization.signature));
    }
    Ok(allowed)
}

fn parse(head: &Head) -> Result<Authorization<'_>, Refusal> {
    let Some(header) = head.header("authorization") else {
        return Err(Refusal::denied("Access Denied: the request is anonymous"));
    };
    let malformed =
        || Refusal::new(400, "AuthorizationHeaderMalformed", "The authorization header is malformed");
    let fields = header.strip_prefix(ALGORITHM).ok_or_else(malformed)?.split(',').map(str::trim);
    let (mut credential, mut signed, mut signature) = (None, None, None);
    for field in fields {
        match field.split_once('=') {
            Some(("Credential", value)) => credential = Some(value),
            Some(("SignedHeaders", value)) => signed = Some(value.split(';').collect::<Vec<_>>()),
            Some(("Signature", value)) => signature = Some(value),
            _ => return Err(malformed()),
        }
    }
    let scope: Vec<&str> = credential.ok_or_else(malformed)?.split('/').collect();
    let [key, day, region, "s3", "aws4_request"] = scope[..] else { return Err(malformed()) };
    let signed = signed.filter(|names| names.is_sorted()).ok_or_else(malformed)?;
    Ok(Authorization { key, day, region, signed, signature: signature.ok_or_else(malformed)? })
}

fn date(head: &Head, day: &str, now: Timestamp) -> Result<SystemTime, Refusal> {
    let missing = || Refusal::denied("AWS authentication requires a valid Date or x-amz-date header");
    let text = head.header("x-amz-date").ok_or_else(missing)?;
    let parsed = DateTime::strptime("%Y%m%dT%H%M%SZ", text).and_then(|d| d.to_zoned(TimeZone::UTC));
    let signed_at = parsed.map_err(|_| missing())?.timestamp();
    if !text.starts_with(day) {
        return Err(Refusal::new(
            400,
            "AuthorizationHeaderMalformed",
            "the date in the scope is not that of x-amz-date",
        ));
    }
    if (signed_at.as_millisecond() - now.as_millisecond()).abs() > SKEW_MS {
        let message = "The difference between the request time and the current time is too large.";
        return Err(Refusal::new(403, "RequestTimeTooSkewed", message)
            .element("RequestTime", text)
            .element("ServerTime", now.to_string())
            .element("MaxAllowedSkewMilliseconds", SKEW_MS.to_string()));
    }
    Ok(signed_at.into())
}

fn session(head: &Head, credentials: &AwsCredentials, now: Timestamp) -> Result<(), Refusal> {
    if head.header("x-amz-security-token") != credentials.session_token.as_deref() {
        return Err(Refusal::new(
            400,
            "InvalidToken",
            "The provided token is malformed or otherwise invalid.",
        ));
    }
    if credentials.expires.is_some_and(|end| end <= SystemTime::from(now)) {
        return Err(Refusal::new(400, "ExpiredToken", "The provided token has expired."));
    }
    Ok(())
}

/// Headers that have to be signed but are not.
fn unsigned_headers(head: &Head, signed: &[&str]) -> Vec<String> {
    let must = |name: &str| name == "host" || name == "content-md5" || name.starts_with("x-amz-");
    let names = head.headers.keys().map(|name| name.as_str());
    names.filter(|name| must(name) && !signed.contains(name)).map(str::to_owned).collect()
}

/// What the client says that the body's hash is, checked.
fn payload(request: &Request) -> Result<&str, Refusal> {
    let Some(told) = request.head.header("x-amz-content-sha256") else {
        return Err(Refusal::invalid("Missing required header for this request: x-amz-content-sha256"));
    };
    if told == UNSIGNED {
        if request.head.tls {
            return Ok(told);
        }
        return Err(Refusal::invalid("UNSIGNED-PAYLOAD is taken over TLS only"));
    }
    if told.starts_with("STREAMING-") {
        return Err(Refusal::not_implemented("a body in signed chunks"));
    }
    let real = checks::sha256_hex(&request.body);
    if told != real {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        return Err(Refusal::new(400, "XAmzContentSHA256Mismatch", message)
            .element("ClientComputedContentSHA256", told)
            .element("S3ComputedContentSHA256", real));
    }
    Ok(told)
}

fn signature(
    head: &Head,
    authorization: &Authorization<'_>,
    credentials: &AwsCredentials,
    (signed_at, hash): (SystemTime, &str),
) -> anyhow::Result<String> {
    let token = credentials.session_token.clone();
    let (key, secret) = (&credentials.access_key_id, &credentials.secret_access_key);
    let identity = Credentials::new(key, secret, token, None, "testbed").into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.excluded_headers = None;
    let params = SigningParams::builder().identity(&identity).region(authorization.region).name("s3");
    let params = params.time(signed_at).settings(settings).build()?.into();
    let query = if head.raw_query.is_empty() { String::new() } else { format!("?{}", head.raw_query) };
    // S3 encodes the path anew before it signs: a client has to sign that form, whichever it sends.
    let uri = format!("http://{}{}{query}", head.host, encode_path(&head.path));
    let headers = authorization.signed.iter().flat_map(|&name| {
        head.headers.get_all(name).iter().filter_map(move |value| Some((name, value.to_str().ok()?)))
    });
    let body = SignableBody::Precomputed(hash.to_owned());
    let request = SignableRequest::new(head.method.as_str(), &uri, headers, body)?;
    Ok(sign(request, &params)?.into_parts().1)
}

fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

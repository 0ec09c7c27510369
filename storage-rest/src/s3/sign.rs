//! A signed S3 request, by headers (<https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>).

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Url;

use crate::aws::Credentials;
use crate::aws::sigv4::{ALGORITHM, Scope};

/// Adds date, payload hash, token and signature to `headers`. `url` is encoded as it is sent: its path once, its query sorted by name.
///
/// # Errors
/// A clock or credentials that no header can hold.
pub(super) fn sign(
    (method, url): (&Method, &Url),
    headers: &mut HeaderMap,
    payload_hash: &str,
    (credentials, region): (&Credentials, &str),
    at: SystemTime,
) -> Result<(), String> {
    let scope = Scope::new(at, region, "s3")?;
    let mut set = |name: &'static str, text: &str| {
        let value = HeaderValue::from_str(text)
            .map_err(|_| format!("{name} has characters that no header can hold"))?;
        headers.insert(HeaderName::from_static(name), value);
        Ok::<_, String>(())
    };
    set("host", &host(url))?;
    set("x-amz-date", &scope.date)?;
    set("x-amz-content-sha256", payload_hash)?;
    if let Some(token) = &credentials.session_token {
        set("x-amz-security-token", token.expose())?;
    }
    let (names, canonical) = canonical_headers(headers);
    let request = format!(
        "{method}\n{}\n{}\n{canonical}\n{names}\n{payload_hash}",
        url.path(),
        url.query().unwrap_or_default()
    );
    let (key, signature) = (scope.key(credentials), scope.sign(credentials, &request));
    let text = format!("{ALGORITHM} Credential={key}, SignedHeaders={names}, Signature={signature}");
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| "the access key id has characters that no header can hold".to_owned())?;
    value.set_sensitive(true);
    headers.insert(http::header::AUTHORIZATION, value);
    Ok(())
}

/// As the Host header will say it: the port only where it is not the usual one.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Names joined by `;`, and a line for each; runs of spaces in a value count as one.
fn canonical_headers(headers: &HeaderMap) -> (String, String) {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let line = |name: &&str| {
        let values = headers.get_all(*name).iter();
        let values: Vec<String> = values
            .map(|value| {
                let text = String::from_utf8_lossy(value.as_bytes());
                text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
            })
            .collect();
        format!("{name}:{}\n", values.join(","))
    };
    let lines = names.iter().map(line).collect();
    (names.join(";"), lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::percent;
    use aws_sigv4::http_request::{
        PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
        sign as theirs,
    };
    use bodley_io::Secret;
    use std::time::Duration;

    /// The Authorization header by AWS's own crate.
    fn by_the_sdk(
        method: &str,
        url: &str,
        headers: &HeaderMap,
        hash: &str,
        who: (&Credentials, &str, SystemTime),
    ) -> String {
        let (credentials, region, at) = who;
        let identity = aws_credential_types::Credentials::new(
            &credentials.access_key_id,
            credentials.secret_access_key.expose(),
            credentials.session_token.as_ref().map(|token| token.expose().to_owned()),
            None,
            "test",
        )
        .into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.excluded_headers = None;
        let params = aws_sigv4::sign::v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name("s3")
            .time(at)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let body = SignableBody::Precomputed(hash.to_owned());
        let request = SignableRequest::new(method, url, headers.into_iter(), body).unwrap();
        let (instructions, _) = theirs(request, &params).unwrap().into_parts();
        let (found, _) = instructions.into_parts();
        found.iter().find(|header| header.name() == "authorization").unwrap().value().to_owned()
    }

    #[test]
    fn agrees_with_the_sdk_on_many_requests() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..500 {
            let mut text = |from: &str, least: usize, most: usize| -> String {
                let chars: Vec<char> = from.chars().collect();
                (0..random.usize(least..most)).map(|_| chars[random.usize(..chars.len())]).collect()
            };
            let credentials = Credentials {
                access_key_id: text("ABCDEFGHIJ0123456789", 1, 128),
                secret_access_key: Secret::new(text("abcXYZ019+/=", 1, 64)),
                session_token: (round % 2 == 0).then(|| Secret::new(text("abcXYZ019+/=", 1, 900))),
                expires: None,
                source: "test".to_owned(),
            };
            let region = text("abcdefgh-0123456789", 3, 20);
            let odd = "abzAZ09-_.~ +%/é\u{1F600}&=?*'()!$,:;@\"<>[]{}|\\^`#";
            let path: Vec<String> =
                (0..3).map(|i| percent(&format!("{i}{}", text(odd, 0, 12)).replace('/', "s"))).collect();
            let query =
                format!("a={}&list-type=2&prefix={}", percent(&text(odd, 0, 20)), percent(&text(odd, 0, 20)));
            let url = format!("https://b.example:{}/{}?{query}", 1000 + round, path.join("/"));
            let url = Url::parse(&url).unwrap();
            assert_eq!(url.path(), format!("/{}", path.join("/")));
            let hash =
                if round % 3 == 0 { "UNSIGNED-PAYLOAD".to_owned() } else { text("0123456789abcdef", 64, 65) };
            let mut headers = HeaderMap::new();
            headers.insert(
                "x-amz-meta-x",
                HeaderValue::from_str(&format!("a{}b", " ".repeat(round % 4))).unwrap(),
            );
            headers.insert("if-none-match", HeaderValue::from_static("*"));
            headers.insert("range", HeaderValue::from_static("bytes=1-2"));
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(random.u64(0..4_000_000_000_000));
            sign((&Method::PUT, &url), &mut headers, &hash, (&credentials, &region), at).unwrap();
            let ours = headers.remove("authorization").unwrap();
            let want = by_the_sdk("PUT", url.as_str(), &headers, &hash, (&credentials, &region, at));
            assert_eq!(ours.to_str().unwrap(), want, "seed {seed}, round {round}, {url}");
        }
    }
}

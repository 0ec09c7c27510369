//! Requests signed with an account's key
//! (<https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>).

use http::{HeaderMap, HeaderName, Method};
use reqsign_core::hash::base64_hmac_sha256;
use reqwest::Url;

use super::chain::SharedKey;
use crate::client::text;

/// Headers that are signed by their place, in this order; the length and the date are not among them.
const BEFORE_LENGTH: [&str; 2] = ["content-encoding", "content-language"];
const AFTER_LENGTH: [&str; 2] = ["content-md5", "content-type"];
const AFTER_DATE: [&str; 5] =
    ["if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"];

/// The value of the header `Authorization`. `url` and `headers` are as they are sent, `x-ms-date` among them; `length` is the body's.
pub(super) fn authorization(
    (account, key): (&str, &SharedKey),
    method: &Method,
    url: &Url,
    headers: &HeaderMap,
    length: u64,
) -> String {
    let signature =
        base64_hmac_sha256(&key.bytes(), to_sign(account, method, url, headers, length).as_bytes());
    format!("SharedKey {account}:{signature}")
}

fn to_sign(account: &str, method: &Method, url: &Url, headers: &HeaderMap, length: u64) -> String {
    let mut lines = vec![method.as_str().to_owned()];
    let value = |name: &&str| text(headers, name).unwrap_or_default().to_owned();
    lines.extend(BEFORE_LENGTH.iter().map(value));
    // No length and a length of 0 are the same, since the version 2015-02-21.
    lines.push(if length == 0 { String::new() } else { length.to_string() });
    lines.extend(AFTER_LENGTH.iter().map(value));
    // The date is that of x-ms-date.
    lines.push(String::new());
    lines.extend(AFTER_DATE.iter().map(value));
    let mut own: Vec<&str> =
        headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-ms-")).collect();
    own.sort_unstable();
    lines.extend(own.iter().map(|name| format!("{name}:{}", value(name))));
    lines.push(format!("/{account}{}", url.path()));
    let mut query: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (name.to_lowercase(), value.into_owned())).collect();
    query.sort_unstable();
    lines.extend(query.into_iter().map(|(name, value)| format!("{name}:{value}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// The documentation's example of a container's listing, and a PUT with a body.
    #[test]
    fn the_text_is_that_of_the_documentation() {
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-version", HeaderValue::from_static("2015-02-21"));
        headers.insert("x-ms-date", HeaderValue::from_static("Fri, 26 Jun 2015 23:39:12 GMT"));
        let url = Url::parse(
            "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20",
        );
        let want = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
                    /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(to_sign("myaccount", &Method::GET, &url.unwrap(), &headers, 0), want);
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.insert("if-none-match", HeaderValue::from_static("*"));
        headers.insert("x-ms-blob-type", HeaderValue::from_static("BlockBlob"));
        let url = Url::parse("http://127.0.0.1:1/acc/box/a%20b/c?comp=block&blockid=YQ%3D%3D").unwrap();
        let want = "PUT\n\n\n11\n\ntext/plain\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\n\
                    x-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
                    /acc/acc/box/a%20b/c\nblockid:YQ==\ncomp:block";
        assert_eq!(to_sign("acc", &Method::PUT, &url, &headers, 11), want);
    }
}

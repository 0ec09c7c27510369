//! What goes over the wire: requests as handlers see them, and answers.

use std::net::SocketAddr;

use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;

/// A request without its body.
#[derive(Debug, Clone)]
pub struct Head {
    /// `GET`, `PUT`, …
    pub method: String,
    /// The path as it was sent, percent-encoded, from the first `/` on.
    pub raw_path: String,
    /// The path with its percent-encoding undone.
    pub path: String,
    /// What follows the `?` as it was sent; empty without one.
    pub raw_query: String,
    /// The query's pairs, decoded; a name without `=` has an empty value.
    pub query: Vec<(String, String)>,
    /// The headers; names are in lower case.
    pub headers: HeaderMap,
    /// The host that was asked for: that of an absolute URL (as clients of an HTTP proxy send it), or the header `Host`.
    pub host: String,
    /// It came over TLS.
    pub tls: bool,
    /// Where from.
    pub peer: SocketAddr,
}

impl Head {
    pub(super) fn new(parts: Parts, tls: bool, peer: SocketAddr) -> Self {
        let raw_path = parts.uri.path().to_owned();
        let raw_query = parts.uri.query().unwrap_or_default().to_owned();
        let in_header = || parts.headers.get("host").and_then(|host| host.to_str().ok());
        let host =
            parts.uri.authority().map(|a| a.as_str()).or_else(in_header).unwrap_or_default().to_owned();
        Self {
            method: parts.method.as_str().to_owned(),
            path: decode(&raw_path),
            raw_path,
            query: form_urlencoded::parse(raw_query.as_bytes()).into_owned().collect(),
            raw_query,
            headers: parts.headers,
            host,
            tls,
            peer,
        }
    }

    /// The value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The first value of a name in the query.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A request that is there as a whole.
#[derive(Debug, Clone)]
pub struct Request {
    /// Everything but the body.
    pub head: Head,
    /// The body.
    pub body: Bytes,
    /// What a rule asks of the handler, see [`Action::Twist`](super::Action::Twist).
    pub twist: Option<&'static str>,
}

impl Request {
    /// Whether a rule asks this of the handler.
    pub fn is_twisted(&self, twist: &str) -> bool {
        self.twist == Some(twist)
    }
}

/// What is answered. Without a header `content-length` it gets that of the body, without `date` that of the server's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, in pieces that are sent without a copy.
    pub body: Vec<Bytes>,
}

impl Answer {
    /// One with an empty body.
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Takes this for its body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = vec![body.into()];
        self
    }

    /// Takes these, one behind the other, for its body.
    pub fn pieces(mut self, body: Vec<Bytes>) -> Self {
        self.body = body;
        self
    }

    /// Length of the body in bytes.
    pub fn len(&self) -> u64 {
        self.body.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.concat()).into_owned()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }
}

/// Undoes percent-encoding. What is no encoding stays; what is no UTF-8 becomes U+FFFD.
pub fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(tail.first()), hex(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

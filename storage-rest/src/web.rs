//! One bounded HTTP exchange, tried again where that may help.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::backoff::{Backoff, Pauses};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use reqwest::{Request, Response, Url};

use crate::SettingError;

/// More of an answer is not read, in bytes.
pub(crate) const LARGEST_ANSWER: usize = 1024 * 1024;

/// Who we say we are.
pub(crate) const USER_AGENT: &str = concat!("bodley/", env!("CARGO_PKG_VERSION"));

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Until the connection stands, TLS included.
    pub connect: Duration,
    /// From the request, connection included, to the last byte of the answer.
    pub answer: Duration,
    /// Before the second attempt; doubles from then on.
    pub pause: Duration,
    /// No attempt begins later than this after the first.
    pub total: Duration,
}

/// A whole answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// No answer. The texts name no URL: the caller knows what it asked.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("gave no answer within {} ms", .0.as_millis())]
    Slow(Duration),
    #[error("could not be trusted: {0}")]
    Tls(String),
    #[error("broke off: {0}")]
    Broken(String),
    #[error("sent an answer of more than {0} bytes")]
    TooLarge(usize),
}

impl HttpError {
    /// A later try may help.
    pub fn is_passing(&self) -> bool {
        !matches!(self, Self::Tls(_) | Self::TooLarge(_))
    }
}

/// Statuses that may be gone at the next try: RFC 9110's time-outs and overload, and server errors but those that say "never".
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429)
        || (status.is_server_error() && !matches!(status.as_u16(), 501 | 505))
}

/// What all our clients have in common: HTTP/1.1, no redirects, the caller's TLS.
pub(crate) fn builder(connect: Duration, tls: &Arc<rustls::ClientConfig>) -> reqwest::ClientBuilder {
    let mut tls = rustls::ClientConfig::clone(tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(connect)
        .redirect(reqwest::redirect::Policy::none())
        .tls_backend_preconfigured(tls)
}

/// The client: no redirects, no proxies, no connections kept.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    limits: Limits,
}

impl Http {
    /// With the TLS settings of the caller. Fails only if the settings do not fit the HTTP library.
    pub fn new(limits: Limits, tls: &Arc<rustls::ClientConfig>) -> Result<Self, SettingError> {
        let client = builder(limits.connect, tls)
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| SettingError::new("tls", root(&error)))?;
        Ok(Self { client, limits })
    }

    /// The same client with other limits (the connect time is then within `answer`).
    pub fn with_limits(&self, limits: Limits) -> Self {
        Self { client: self.client.clone(), limits }
    }

    /// Sends until there is an answer that another try would not change, or the time is up. The last answer or error counts.
    pub async fn send(&self, request: Request) -> Result<Answer, HttpError> {
        let begun = Instant::now();
        let Limits { pause: first, total, .. } = self.limits;
        let mut backoff = Backoff::with_pauses(Pauses { first, longest: total }, total);
        loop {
            let outcome = match request.try_clone() {
                Some(copy) => self.once(copy).await,
                None => return self.once(request).await,
            };
            let again = match &outcome {
                Ok(answer) => is_passing(answer.status),
                Err(error) => error.is_passing(),
            };
            let in_time = |pause: &Duration| begun.elapsed().saturating_add(*pause) <= total;
            match backoff.pause().filter(in_time) {
                Some(pause) if again => tokio::time::sleep(pause).await,
                _ => return outcome,
            }
        }
    }

    async fn once(&self, request: Request) -> Result<Answer, HttpError> {
        let exchange = async {
            let answer =
                self.client.execute(request).await.map_err(|error| classify(&error, self.limits.connect))?;
            read(answer, self.limits).await
        };
        match tokio::time::timeout(self.limits.answer, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HttpError::Slow(self.limits.answer)),
        }
    }
}

async fn read(mut answer: Response, limits: Limits) -> Result<Answer, HttpError> {
    if answer.content_length().is_some_and(|length| length > LARGEST_ANSWER as u64) {
        return Err(HttpError::TooLarge(LARGEST_ANSWER));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| classify(&error, limits.connect))? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(HttpError::TooLarge(LARGEST_ANSWER));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: answer.status(), headers: answer.headers().clone(), body: body.freeze() })
}

pub(crate) fn classify(error: &reqwest::Error, connect: Duration) -> HttpError {
    // A record that is broken on its way is the network's fault.
    if let Some(tls) = tls_error(error).filter(|_| error.is_connect()) {
        match tls {
            rustls::Error::InvalidMessage(_) => {
                HttpError::Unreachable("it speaks no TLS; is it http?".to_owned())
            }
            _ => HttpError::Tls(root(error)),
        }
    } else if error.is_timeout() {
        HttpError::Slow(connect)
    } else if error.is_connect() {
        HttpError::Unreachable(root(error))
    } else {
        HttpError::Broken(root(error))
    }
}

/// What TLS had against the peer. I/O errors inside TLS are the network's.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An io::Error's source skips what it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// The innermost reason: the outer texts repeat the URL.
pub(crate) fn root(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    crate::encode::quote(&error.to_string(), &[])
}

/// Where plain http is allowed besides this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlainHttp {
    Loopback,
    /// Also the link-local addresses where clouds serve credentials.
    LinkLocal,
    /// The user wants it so.
    Anywhere,
}

/// A URL to send secrets to: https, or http where nobody can listen; without credentials of its own.
pub(crate) fn checked_url(text: &str, plain: PlainHttp) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL such as https://host:port ({error})"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or a password in it; put them in their own settings".to_owned());
    }
    let host = url.host_str().unwrap_or_default();
    match url.scheme() {
        _ if host.is_empty() => Err("names no host".to_owned()),
        "https" => Ok(url),
        "http" if is_near(host, plain) => Ok(url),
        "http" => Err(format!("http would show secrets to everybody on the way to {host}; use https")),
        other => Err(format!("{other} is no way to ask; use https")),
    }
}

fn is_near(host: &str, plain: PlainHttp) -> bool {
    if plain == PlainHttp::Anywhere {
        return true;
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    match address {
        Err(_) => host == "localhost",
        Ok(address) if address.is_loopback() => true,
        Ok(_) if plain == PlainHttp::Loopback => false,
        Ok(std::net::IpAddr::V4(address)) => address.is_link_local(),
        // fd00:ec2::/32, where EC2 and EKS serve metadata over IPv6.
        Ok(std::net::IpAddr::V6(address)) => address.segments().starts_with(&[0xfd00, 0x0ec2]),
    }
}

/// Whether this is http to this machine.
pub(crate) fn is_plain_and_near(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        url.scheme() == "http" && is_near(url.host_str().unwrap_or_default(), PlainHttp::Loopback)
    })
}

/// The URL for a message: without query and fragment, which may hold secrets.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine() {
        let ok = |text: &str, plain| checked_url(text, plain).is_ok();
        for near in ["http://localhost:1/x", "http://127.0.0.1/", "http://[::1]:9/", "https://idp.example/t"]
        {
            assert!(ok(near, PlainHttp::Loopback), "{near}");
        }
        for link in ["http://169.254.170.2/v2", "http://[fd00:ec2::23]/v1"] {
            assert!(ok(link, PlainHttp::LinkLocal) && !ok(link, PlainHttp::Loopback), "{link}");
        }
        for far in [
            "http://idp.example/",
            "http://10.0.0.1/",
            "http://localhost.evil.example/",
            "ftp://localhost/",
            "x",
        ] {
            assert!(!ok(far, PlainHttp::LinkLocal), "{far}");
        }
        let why = checked_url("https://me:hunter2@idp.example/", PlainHttp::Loopback).unwrap_err();
        assert!(!why.contains("hunter2"));
        assert_eq!(
            shown(&Url::parse("https://a.example/t?key=hunter2#hunter2").unwrap()),
            "https://a.example/t"
        );
    }
}

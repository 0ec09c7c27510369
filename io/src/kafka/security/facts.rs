//! What a TLS connection turned out to be.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ClientConnection;
use x509_parser::parse_x509_certificate;

/// Of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// Subject of the server's certificate.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// When it ends to be valid.
    pub expires: Option<SystemTime>,
}

/// Of a connection whose handshake is done.
pub(in crate::kafka) fn facts(connection: &ClientConnection) -> TlsFacts {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let parsed = certificate.and_then(|der| parse_x509_certificate(der).ok()).map(|(_, parsed)| parsed);
    let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let time = |seconds: i64| UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?));
    TlsFacts {
        version: connection
            .protocol_version()
            .and_then(|version| version.as_str())
            .unwrap_or("TLS")
            .replace('_', "."),
        cipher: suite.unwrap_or_default().replace("TLS13_", "TLS_"),
        subject: parsed.as_ref().map(|parsed| parsed.subject().to_string()).unwrap_or_default(),
        issuer: parsed.as_ref().map(|parsed| parsed.issuer().to_string()).unwrap_or_default(),
        expires: parsed.and_then(|parsed| time(parsed.validity().not_after.timestamp())),
    }
}

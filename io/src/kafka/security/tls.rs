//! TLS by rustls: whom we trust, who we are, what is checked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::material;
use super::verifier::Verifier;
use crate::secret::Secret;

/// Bytes of certificates or keys, and where they come from.
#[derive(Clone)]
pub struct Material {
    /// A file's path or a setting's name, for messages.
    pub source: String,
    /// PEM text or a binary store.
    pub bytes: Bytes,
}

impl std::fmt::Debug for Material {
    /// Keys may be in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Material({}, {} bytes)", self.source, self.bytes.len())
    }
}

/// Whose certificates are good.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// Whom the system trusts (SSL_CERT_FILE and SSL_CERT_DIR are heeded).
    #[default]
    System,
    /// Certificates in PEM.
    Pem(Material),
    /// A PKCS#12 or JKS store (told apart by their first bytes) and its password.
    Store(Material, Option<Secret>),
}

/// Who we are (mTLS).
#[derive(Debug, Clone)]
pub enum Identity {
    /// PEM: a certificate with its chain, and a key (PKCS#8, PKCS#1 or SEC1, may be encrypted).
    Pem {
        /// Leaf first.
        certificates: Material,
        /// May be the same material.
        key: Material,
        /// Of the key.
        password: Option<Secret>,
    },
    /// A PKCS#12 or JKS store with exactly one key.
    Store {
        /// The store.
        store: Material,
        /// Of the store.
        password: Option<Secret>,
        /// Of the key, where it differs.
        key_password: Option<Secret>,
    },
}

/// What of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Chain, dates and host name.
    #[default]
    Full,
    /// Chain and dates (`ssl.endpoint.identification.algorithm=`).
    NotTheHostName,
    /// Nothing (librdkafka's `enable.ssl.certificate.verification=false`).
    Nothing,
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// What TLS is made of.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Whose certificates are good.
    pub trust: Trust,
    /// Who we are.
    pub identity: Option<Identity>,
    /// What is checked.
    pub verify: Verify,
    /// Empty: both.
    pub versions: Vec<TlsVersion>,
    /// Cipher suites by their IANA names; empty: all that are safe.
    pub ciphers: Vec<String>,
}

/// Why TLS can't be set up. Names the file or setting; never holds a secret.
#[derive(Debug, thiserror::Error)]
#[error("{source_name}: {what}")]
pub struct TlsError {
    /// File or setting.
    pub source_name: String,
    /// What is wrong, and what to do.
    pub what: String,
}

/// TLS, ready to connect with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    checks_names: bool,
}

impl Tls {
    /// Reads certificates and keys.
    pub fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(&options.ciphers)?);
        let verifier = Verifier::new(&options.trust, options.verify, &provider)?;
        let mut versions: Vec<&SupportedProtocolVersion> =
            options.versions.iter().map(|v| v.rustls()).collect();
        if versions.is_empty() {
            versions = rustls::DEFAULT_VERSIONS.to_vec();
        }
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|e| {
                TlsError::new("ssl.cipher.suites", format!("does not fit the versions of TLS: {e}"))
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &options.identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = material::identity(identity)?;
                let what = |e| format!("the certificate and the key don't go together: {e}");
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| TlsError::new(identity.source(), what(e)))?
            }
        };
        Ok(Self { config: Arc::new(config), checks_names: options.verify == Verify::Full })
    }

    /// For other clients of the same settings, such as one for HTTP.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// What the certificate of a host must be for; `None`: no certificate can be for that.
    pub(in crate::kafka) fn server_name(&self, host: &str) -> Option<ServerName<'static>> {
        match ServerName::try_from(host.trim_end_matches('.').to_owned()) {
            Ok(name) => Some(name),
            // Nothing is compared with it, and nothing of it is sent.
            Err(_) if !self.checks_names => Some(ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST))),
            Err(_) => None,
        }
    }
}

impl TlsError {
    pub(super) fn new(source: &str, what: impl Into<String>) -> Self {
        Self { source_name: source.to_owned(), what: what.into() }
    }
}

impl Identity {
    /// File or setting of the certificate.
    pub(super) fn source(&self) -> &str {
        match self {
            Self::Pem { certificates, .. } => &certificates.source,
            Self::Store { store, .. } => &store.source,
        }
    }
}

impl TlsVersion {
    fn rustls(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::V1_2 => &rustls::version::TLS12,
            Self::V1_3 => &rustls::version::TLS13,
        }
    }
}

/// The cipher suites by their IANA names (as Java has them) and by OpenSSL's (as librdkafka has them).
static SUITES: [(CipherSuite, &str, &str); 9] = [
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    (
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ),
];

/// IANA's names of the cipher suites that are safe.
pub fn cipher_names() -> [&'static str; SUITES.len()] {
    SUITES.map(|(_, iana, _)| iana)
}

/// IANA's name of a cipher suite that is safe, from IANA's or OpenSSL's.
pub fn cipher_name(name: &str) -> Option<&'static str> {
    suite(name).map(|(_, iana, _)| *iana)
}

fn suite(name: &str) -> Option<&'static (CipherSuite, &'static str, &'static str)> {
    SUITES.iter().find(|(_, iana, openssl)| [*iana, *openssl].contains(&name))
}

/// Ring's, with the suites that are wanted, in the order of preference that is given. Those that are not safe today are passed over, as
/// lists for many clients have them.
fn provider(wanted: &[String]) -> Result<CryptoProvider, TlsError> {
    let mut provider = rustls::crypto::ring::default_provider();
    if wanted.is_empty() {
        return Ok(provider);
    }
    let suites: Vec<SupportedCipherSuite> = wanted
        .iter()
        .filter_map(|name| suite(name))
        .filter_map(|(suite, ..)| provider.cipher_suites.iter().find(|have| have.suite() == *suite).copied())
        .collect();
    if suites.is_empty() {
        let what = format!("names no cipher suite that bodley has: {}", cipher_names().join(", "));
        return Err(TlsError::new("ssl.cipher.suites", what));
    }
    provider.cipher_suites = suites;
    Ok(provider)
}

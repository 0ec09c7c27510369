//! TLS by rustls: whom we trust, who we are, what is checked.

use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::secret::Secret;

/// Bytes of certificates or keys, and where they come from.
#[derive(Debug, Clone)]
pub struct Material {
    /// A file's path or a setting's name, for messages.
    pub source: String,
    /// PEM text or a binary store.
    pub bytes: Bytes,
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
    pub(crate) config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads certificates and keys.
    pub fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        match &options.trust {
            Trust::System => {
                _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)
            }
            Trust::Pem(material) | Trust::Store(material, _) => {
                let certificates = CertificateDer::pem_slice_iter(&material.bytes).filter_map(Result::ok);
                roots.add_parsable_certificates(certificates);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config
            .map_err(|e| TlsError { source_name: "TLS".into(), what: e.to_string() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    /// For other clients of the same settings, such as one for HTTP.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

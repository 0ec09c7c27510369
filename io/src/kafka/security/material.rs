//! Certificates and keys from the forms in which people have them.

use p12_keystore::{KeyStore, Pkcs12Archive, Pkcs12ImportPolicy};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

use super::tls::{Identity, Material, TlsError, Trust};
use super::{jks, pem};
use crate::secret::Secret;

type Chain = Vec<CertificateDer<'static>>;

/// A JCEKS store's first bytes.
const JCEKS: [u8; 4] = [0xce, 0xce, 0xce, 0xce];

/// Where trusted certificates come from, and they themselves: at least one.
pub(super) fn trusted(trust: &Trust) -> Result<(String, Chain), TlsError> {
    let (source, all) = match trust {
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            ("the system's trusted certificates".to_owned(), found.certs)
        }
        Trust::Pem(material) => (material.source.clone(), pem::certificates(material)?),
        Trust::Store(material, password) => {
            let all = if jks::is_jks(&material.bytes) {
                jks::Store::read(material, password.as_ref())?.trusted()
            } else {
                pkcs12(material, password.as_ref())?
            };
            (material.source.clone(), all)
        }
    };
    if all.is_empty() {
        let what = match trust {
            Trust::System => {
                "there are none: install ca-certificates, set SSL_CERT_FILE, or give the authority (ssl.truststore.location, ssl.ca.location)"
            }
            _ => "holds no certificate of an authority",
        };
        return Err(TlsError::new(&source, what));
    }
    Ok((source, all))
}

/// A certificate with its chain, leaf first, and its key. One that is out of date is an error here: brokers refuse it in less clear words.
pub(super) fn identity(identity: &Identity) -> Result<(Chain, PrivateKeyDer<'static>), TlsError> {
    let (chain, key) = read_identity(identity)?;
    let own = chain.first().and_then(|own| parse_x509_certificate(own).ok());
    if let Some((_, own)) = own
        && own.validity().not_after < ASN1Time::now()
    {
        let what = format!(
            "the client's certificate expired on {}, by this machine's clock: get a new one",
            own.validity().not_after
        );
        return Err(TlsError::new(identity.source(), what));
    }
    Ok((chain, key))
}

fn read_identity(identity: &Identity) -> Result<(Chain, PrivateKeyDer<'static>), TlsError> {
    match identity {
        Identity::Pem { certificates, key, password } => {
            let chain = pem::certificates(certificates)?;
            if chain.is_empty() {
                return Err(TlsError::new(
                    &certificates.source,
                    "holds no certificate (-----BEGIN CERTIFICATE-----)",
                ));
            }
            Ok((chain, pem::key(key, password.as_ref())?))
        }
        Identity::Store { store, password, key_password } if jks::is_jks(&store.bytes) => {
            let key_password = key_password.as_ref().or(password.as_ref());
            jks::Store::read(store, password.as_ref())?.identity(key_password)
        }
        Identity::Store { store, password, .. } => pkcs12_identity(store, password.as_ref()),
    }
}

fn exposed(password: Option<&Secret>) -> &str {
    password.map_or("", Secret::expose)
}

/// Certificates that belong to no key.
fn pkcs12(material: &Material, password: Option<&Secret>) -> Result<Chain, TlsError> {
    let archive = check(material)?;
    let archive =
        Pkcs12Archive::from_pkcs12(archive, exposed(password)).map_err(|e| unreadable(material, &e))?;
    let certificates = archive.certs.iter().filter(|bag| bag.local_key_id.is_none());
    Ok(certificates.map(|bag| CertificateDer::from(bag.cert.as_der().to_vec())).collect())
}

fn pkcs12_identity(
    material: &Material,
    password: Option<&Secret>,
) -> Result<(Chain, PrivateKeyDer<'static>), TlsError> {
    let store = KeyStore::from_pkcs12(check(material)?, exposed(password), Pkcs12ImportPolicy::Strict);
    let store = store.map_err(|e| unreadable(material, &e))?;
    let (_, chain) = store
        .private_key_chain()
        .ok_or_else(|| TlsError::new(&material.source, "holds no key with a certificate"))?;
    let certificates = chain.certs().iter().map(|one| CertificateDer::from(one.as_der().to_vec())).collect();
    Ok((certificates, PrivatePkcs8KeyDer::from(chain.key().as_der().to_vec()).into()))
}

/// The bytes, unless they are plainly something else.
fn check(material: &Material) -> Result<&[u8], TlsError> {
    let bytes = material.bytes.as_ref();
    let what = if bytes.starts_with(&JCEKS) {
        "is a JCEKS store: convert it with `keytool -importkeystore -deststoretype pkcs12`"
    } else if bytes.starts_with(b"-----BEGIN") || bytes.windows(11).any(|part| part == b"-----BEGIN ") {
        "is PEM, not a PKCS#12 or JKS store: set ssl.truststore.type or ssl.keystore.type to PEM"
    } else if bytes.first() != Some(&0x30) {
        "is neither a PKCS#12 nor a JKS store"
    } else {
        return Ok(bytes);
    };
    Err(TlsError::new(&material.source, what))
}

fn unreadable(material: &Material, error: &p12_keystore::error::Error) -> TlsError {
    let what = match error {
        p12_keystore::error::Error::MacError(_) => "the password is wrong".to_owned(),
        other => format!("can't be read as PKCS#12: {other} (is the password right?)"),
    };
    TlsError::new(&material.source, what)
}

//! Keys and stores in the forms that `openssl` and `keytool` give them.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::KeyPair;

use super::{KEY_PASSWORD, Leaf, PASSWORD, Pki};
use crate::java::run_tool;

const NO_OPENSSL: &str = "install openssl 3 (on Debian: openssl)";
const NO_KEYTOOL: &str = "install a JDK (on Debian: openjdk-17-jdk-headless)";
const ALIAS: &str = "testbed";

/// A form of a private key in a PEM file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// `RSA PRIVATE KEY`: PKCS#1.
    Pkcs1,
    /// `EC PRIVATE KEY`: SEC1.
    Sec1,
    /// `ENCRYPTED PRIVATE KEY` of an elliptic key: PBES2, AES-256-CBC, HMAC with SHA-256.
    EncryptedAes256,
    /// The same with an RSA key.
    EncryptedAes256Rsa,
    /// `ENCRYPTED PRIVATE KEY`: PBES2, 3DES.
    EncryptedDes3,
    /// `ENCRYPTED PRIVATE KEY`: PKCS#12's own scheme with SHA-1 and 3DES, which older advice for Kafka says to use.
    EncryptedPbeSha1Des3,
    /// `RSA PRIVATE KEY` with `Proc-Type: 4,ENCRYPTED`: OpenSSL's traditional form.
    TraditionalEncryptedRsa,
    /// `EC PRIVATE KEY` with `Proc-Type: 4,ENCRYPTED`.
    TraditionalEncryptedEc,
}

impl KeyForm {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pkcs1,
        Self::Sec1,
        Self::EncryptedAes256,
        Self::EncryptedAes256Rsa,
        Self::EncryptedDes3,
        Self::EncryptedPbeSha1Des3,
        Self::TraditionalEncryptedRsa,
        Self::TraditionalEncryptedEc,
    ];

    /// Whose key it is.
    pub fn leaf(self) -> Leaf {
        match self {
            Self::Sec1 | Self::EncryptedAes256 | Self::TraditionalEncryptedEc => Leaf::Alice,
            _ => Leaf::AliceRsa,
        }
    }

    /// Whether [`PASSWORD`] is needed to open it.
    pub fn is_encrypted(self) -> bool {
        !matches!(self, Self::Pkcs1 | Self::Sec1)
    }

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Pkcs1 => "key-pkcs1.pem",
            Self::Sec1 => "key-sec1.pem",
            Self::EncryptedAes256 => "key-pbes2-aes256.pem",
            Self::EncryptedAes256Rsa => "key-pbes2-aes256-rsa.pem",
            Self::EncryptedDes3 => "key-pbes2-des3.pem",
            Self::EncryptedPbeSha1Des3 => "key-pbe-sha1-des3.pem",
            Self::TraditionalEncryptedRsa => "key-traditional-rsa.pem",
            Self::TraditionalEncryptedEc => "key-traditional-ec.pem",
        }
    }

    fn openssl(self) -> &'static [&'static str] {
        match self {
            Self::Pkcs1 => &["rsa", "-traditional"],
            Self::Sec1 => &["ec"],
            Self::EncryptedAes256 | Self::EncryptedAes256Rsa => &["pkcs8", "-topk8", "-v2", "aes-256-cbc"],
            Self::EncryptedDes3 => &["pkcs8", "-topk8", "-v2", "des3"],
            Self::EncryptedPbeSha1Des3 => &["pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES"],
            Self::TraditionalEncryptedRsa => &["rsa", "-traditional", "-aes256"],
            Self::TraditionalEncryptedEc => &["ec", "-aes256"],
        }
    }
}

/// A store of the JDK's kinds, opened by [`PASSWORD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// A truststore as `keytool` makes it: PKCS#12.
    TrustPkcs12,
    /// A truststore of `keytool -storetype JKS`.
    TrustJks,
    /// A truststore of `openssl pkcs12 -export -nokeys`. Java sees no authority in it: the mark that it wants is missing.
    TrustOpenssl,
    /// A keystore as `keytool` makes it: PKCS#12.
    KeyPkcs12,
    /// A keystore of `keytool -storetype JKS`; its key has [`KEY_PASSWORD`].
    KeyJks,
    /// A keystore of `openssl pkcs12 -export`.
    KeyOpenssl,
    /// A keystore of `openssl pkcs12 -export -legacy`: RC2-40 and 3DES.
    KeyLegacy,
}

impl Store {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::TrustPkcs12,
        Self::TrustJks,
        Self::TrustOpenssl,
        Self::KeyPkcs12,
        Self::KeyJks,
        Self::KeyOpenssl,
        Self::KeyLegacy,
    ];

    /// What Kafka calls its kind: the value of `ssl.keystore.type` or `ssl.truststore.type`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::TrustJks | Self::KeyJks => "JKS",
            _ => "PKCS12",
        }
    }

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::TrustPkcs12 => "truststore.p12",
            Self::TrustJks => "truststore.jks",
            Self::TrustOpenssl => "truststore-openssl.p12",
            Self::KeyPkcs12 => "keystore.p12",
            Self::KeyJks => "keystore.jks",
            Self::KeyOpenssl => "keystore-openssl.p12",
            Self::KeyLegacy => "keystore-legacy.p12",
        }
    }
}

pub(super) fn new_rsa_key(file: &Path) -> Result<KeyPair> {
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], &[("-out", file)])?;
    Ok(KeyPair::from_pem(&fs::read_to_string(file)?)?)
}

pub(super) fn make_all(pki: &Pki) -> Result<()> {
    let pass = format!("pass:{PASSWORD}");
    for form in KeyForm::ALL {
        let mut args = form.openssl().to_vec();
        if form.is_encrypted() {
            args.extend(["-passout", &pass]);
        }
        openssl(&args, &[("-in", &pki.key(form.leaf())), ("-out", &pki.key_form(form))])?;
    }
    let export = ["pkcs12", "-export", "-name", ALIAS, "-passout", &pass];
    let (cert, key) = (pki.cert(Leaf::Alice), pki.key(Leaf::Alice));
    let files = [("-in", &*cert), ("-inkey", &key), ("-certfile", &pki.ca())];
    for (store, more) in [(Store::KeyOpenssl, &[][..]), (Store::KeyLegacy, &["-legacy"])] {
        let out = pki.store(store);
        openssl(&[&export, more].concat(), &[&files[..], &[("-out", &*out)]].concat())?;
    }
    let trust = pki.store(Store::TrustOpenssl);
    openssl(&[&export[..], &["-nokeys"]].concat(), &[("-in", &pki.ca()), ("-out", &trust)])?;

    let imported = ["-importcert", "-noprompt", "-alias", "ca", "-storepass", PASSWORD];
    let ca = pki.ca();
    keytool(&imported, &[("-file", &ca), ("-keystore", &pki.store(Store::TrustPkcs12))])?;
    let jks = [&imported[..], &["-storetype", "JKS"]].concat();
    keytool(&jks, &[("-file", &ca), ("-keystore", &pki.store(Store::TrustJks))])?;

    let from = pki.store(Store::KeyOpenssl);
    let copied =
        ["-importkeystore", "-srcstoretype", "PKCS12", "-srcstorepass", PASSWORD, "-deststorepass", PASSWORD];
    keytool(&copied, &[("-srckeystore", &from), ("-destkeystore", &pki.store(Store::KeyPkcs12))])?;
    let own = ["-srcalias", ALIAS, "-deststoretype", "JKS", "-destkeypass", KEY_PASSWORD];
    let jks = [&copied[..], &own].concat();
    keytool(&jks, &[("-srckeystore", &from), ("-destkeystore", &pki.store(Store::KeyJks))])
}

fn openssl(args: &[&str], files: &[(&str, &Path)]) -> Result<()> {
    run_tool("openssl", &with_files(args, files), NO_OPENSSL)
        .with_context(|| format!("openssl {}", args.join(" ")))
}

fn keytool(args: &[&str], files: &[(&str, &Path)]) -> Result<()> {
    run_tool("keytool", &with_files(args, files), NO_KEYTOOL)
        .with_context(|| format!("keytool {}", args.join(" ")))
}

fn with_files<'a>(args: &[&'a str], files: &[(&'a str, &'a Path)]) -> Vec<&'a OsStr> {
    let files = files.iter().flat_map(|(flag, file)| [OsStr::new(*flag), file.as_os_str()]);
    args.iter().map(|&a| OsStr::new(a)).chain(files).collect()
}

//! Certificates for tests: an authority, servers good and bad, clients, and every form in which users keep keys.
//!
//! Everything is made once and kept below `target/testbed/pki/`, for ten thousand days: only [`Leaf::Expired`] and
//! [`Leaf::ExpiredClient`] are out of date. The certificates come from rcgen. The other forms of keys and the stores come
//! from `openssl` 3 (Debian's `ca-certificates`, which a JDK pulls in, depends on it) and the JDK's `keytool`: they have to be what users have.

mod forms;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};

use crate::paths;

pub use forms::{KeyForm, Store};

/// Opens every store and every encrypted key, but for the key in [`Store::KeyJks`].
pub const PASSWORD: &str = "store p@ss";
/// Opens the key in [`Store::KeyJks`]: only this kind of store can have a password of its own for the key.
pub const KEY_PASSWORD: &str = "key p@ss";

/// Whom a certificate names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// A server at `localhost` and 127.0.0.1. An intermediate authority signed it, which its chain has.
    Server,
    /// The same with an RSA key of 2048 bits, signed by the authority itself.
    ServerRsa,
    /// A server whose certificate is out of date.
    Expired,
    /// A server at `other.example`.
    WrongHost,
    /// A server at `localhost`, of an authority that nobody trusts.
    UnknownCa,
    /// The client `alice`.
    Alice,
    /// The client `alice` with an RSA key of 2048 bits.
    AliceRsa,
    /// The client `bob`.
    Bob,
    /// The client `alice`, out of date.
    ExpiredClient,
    /// A client `alice`, of an authority that nobody trusts.
    Stranger,
}

impl Leaf {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Server,
        Self::ServerRsa,
        Self::Expired,
        Self::WrongHost,
        Self::UnknownCa,
        Self::Alice,
        Self::AliceRsa,
        Self::Bob,
        Self::ExpiredClient,
        Self::Stranger,
    ];

    fn stem(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::ServerRsa => "server-rsa",
            Self::Expired => "expired",
            Self::WrongHost => "wrong-host",
            Self::UnknownCa => "unknown-ca-server",
            Self::Alice => "alice",
            Self::AliceRsa => "alice-rsa",
            Self::Bob => "bob",
            Self::ExpiredClient => "expired-client",
            Self::Stranger => "stranger",
        }
    }

    /// The common name, and the host names of a server.
    fn names(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Server | Self::ServerRsa | Self::Expired | Self::UnknownCa => {
                ("localhost", &["localhost", "127.0.0.1"])
            }
            Self::WrongHost => ("other.example", &["other.example"]),
            Self::Alice | Self::AliceRsa | Self::ExpiredClient | Self::Stranger => ("alice", &[]),
            Self::Bob => ("bob", &[]),
        }
    }

    fn is_rsa(self) -> bool {
        matches!(self, Self::ServerRsa | Self::AliceRsa)
    }

    fn is_expired(self) -> bool {
        matches!(self, Self::Expired | Self::ExpiredClient)
    }
}

/// The folder with all certificates, keys and stores.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes everything when it is not there.
    pub fn ensure() -> Result<&'static Self> {
        static MADE: OnceLock<Result<Pki, String>> = OnceLock::new();
        MADE.get_or_init(|| Self::make().map_err(|e| format!("{e:#}")))
            .as_ref()
            .map_err(|e| anyhow::Error::msg(e.clone()))
    }

    /// Kept under the state of the source, as the workbench's classes are.
    fn make() -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        (include_str!("pki.rs"), include_str!("pki/forms.rs")).hash(&mut hasher);
        let dir = paths::testbed_dir().join("pki").join(format!("{:016x}", hasher.finish()));
        paths::once(&dir, |staging| {
            let pki = Self { dir: staging.to_path_buf() };
            pki.issue_all().context("make certificates")?;
            forms::make_all(&pki)
        })?;
        Ok(Self { dir })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The authority that everybody is told to trust, PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The authority behind [`Leaf::UnknownCa`] and [`Leaf::Stranger`], PEM.
    pub fn unknown_ca(&self) -> PathBuf {
        self.dir.join("unknown-ca.pem")
    }

    /// The certificate, with the chain up to but without the authority, PEM.
    pub fn cert(&self, leaf: Leaf) -> PathBuf {
        self.dir.join(format!("{}.pem", leaf.stem()))
    }

    /// The private key, PKCS#8 PEM.
    pub fn key(&self, leaf: Leaf) -> PathBuf {
        self.dir.join(format!("{}-key.pem", leaf.stem()))
    }

    /// Key and chain in one file, what Kafka reads with `ssl.keystore.type=PEM`.
    pub fn pem_keystore(&self, leaf: Leaf) -> PathBuf {
        self.dir.join(format!("{}-keystore.pem", leaf.stem()))
    }

    /// A key in another form: of [`Leaf::Alice`] the elliptic ones, of [`Leaf::AliceRsa`] the others.
    pub fn key_form(&self, form: KeyForm) -> PathBuf {
        self.dir.join(form.file())
    }

    /// A truststore with the authority, or a keystore with key and certificate of [`Leaf::Alice`].
    pub fn store(&self, store: Store) -> PathBuf {
        self.dir.join(store.file())
    }

    fn issue_all(&self) -> Result<()> {
        let root = CertifiedIssuer::self_signed(authority("Testbed root"), new_key()?)?;
        let between = CertifiedIssuer::signed_by(authority("Testbed intermediate"), new_key()?, &root)?;
        let unknown = CertifiedIssuer::self_signed(authority("Nobody's root"), new_key()?)?;
        fs::write(self.ca(), root.pem())?;
        fs::write(self.unknown_ca(), unknown.pem())?;
        for leaf in Leaf::ALL {
            let key = if leaf.is_rsa() { forms::new_rsa_key(&self.key(leaf))? } else { new_key()? };
            let params = leaf_params(leaf)?;
            let chain = match leaf {
                Leaf::Server => params.signed_by(&key, &between)?.pem() + &between.pem(),
                Leaf::UnknownCa | Leaf::Stranger => params.signed_by(&key, &unknown)?.pem(),
                _ => params.signed_by(&key, &root)?.pem(),
            };
            fs::write(self.cert(leaf), &chain)?;
            fs::write(self.key(leaf), key.serialize_pem())?;
            fs::write(self.pem_keystore(leaf), key.serialize_pem() + &chain)?;
        }
        Ok(())
    }
}

fn new_key() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2049, 12, 31));
    params
}

fn leaf_params(leaf: Leaf) -> Result<CertificateParams> {
    let (name, hosts) = leaf.names();
    let mut params = CertificateParams::new(hosts.iter().map(|&h| h.to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // From the large to the small, as tools do it; Kafka reads the name the other way round, from the common name on.
    params.distinguished_name.push(DnType::OrganizationName, "Testbed, Ltd.");
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    let purpose = if hosts.is_empty() {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    };
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after =
        if leaf.is_expired() { date_time_ymd(2021, 1, 1) } else { date_time_ymd(2049, 12, 31) };
    Ok(params)
}

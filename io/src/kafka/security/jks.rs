//! Java's own key stores, which old guides have and JDK 8 makes.
//!
//! Layout, big-endian: magic FEEDFEED, version (1 or 2), number of entries; each a tag (1: key, 2: trusted certificate), an alias (u16 length,
//! UTF-8), a time (ms), and for a key its EncryptedPrivateKeyInfo (u32 length) and a chain (u32 count) of certificates, else one certificate: a
//! type (version 2) and the DER (u32 length). At the end SHA-1 over the password in UTF-16, "Mighty Aphrodite" and all before.
//! Source: sun.security.provider.JavaKeyStore and KeyProtector of OpenJDK. No crate that reads it bears a broken file.

use bodley_protocol::wire::{Reader, WireError};
use pkcs8::der::{Decode, Reader as _, SliceReader, asn1::OctetStringRef};
use pkcs8::spki::AlgorithmIdentifierRef;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use super::tls::{Material, TlsError};
use crate::secret::Secret;

const MAGIC: [u8; 4] = [0xfe, 0xed, 0xfe, 0xed];
const WHITENER: &[u8] = b"Mighty Aphrodite";
const KEY: i32 = 1;
const TRUSTED: i32 = 2;
/// Of the store, of a key's salt and of its check.
const DIGEST_LEN: usize = 20;

/// Whether these are a JKS store's bytes.
pub(super) fn is_jks(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// What is in a store.
pub(super) struct Store<'a> {
    source: &'a str,
    keys: Vec<Key<'a>>,
    trusted: Vec<CertificateDer<'static>>,
}

struct Key<'a> {
    protected: &'a [u8],
    chain: Vec<CertificateDer<'static>>,
}

impl<'a> Store<'a> {
    /// Reads it. Without a password it is not checked whether somebody has changed it, as Java has it.
    pub(super) fn read(material: &'a Material, password: Option<&Secret>) -> Result<Self, TlsError> {
        let source = material.source.as_str();
        if let Some(password) = password {
            check(&material.bytes, password).map_err(|what| TlsError::new(source, what))?;
        }
        entries(source, &material.bytes)
            .map_err(|e| TlsError::new(source, format!("is no whole JKS store: {e}")))
    }

    /// The certificates of authorities.
    pub(super) fn trusted(self) -> Vec<CertificateDer<'static>> {
        self.trusted
    }

    /// The chain and the key of the store's first key.
    pub(super) fn identity(
        self,
        password: Option<&Secret>,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let wrong = |what: &str| TlsError::new(self.source, what);
        let password = password.ok_or_else(|| wrong("needs a password (ssl.keystore.password)"))?;
        let key = self.keys.into_iter().next().ok_or_else(|| wrong("holds no key"))?;
        let plain = unprotect(key.protected, password)
            .ok_or_else(|| wrong("the key's password is wrong (ssl.key.password)"))?;
        Ok((key.chain, PrivatePkcs8KeyDer::from(plain.to_vec()).into()))
    }
}

fn entries<'a>(source: &'a str, bytes: &'a [u8]) -> Result<Store<'a>, WireError> {
    let mut reader = Reader::new(bytes);
    reader.take(MAGIC.len())?;
    let version = reader.i32()?;
    if !(1..=2).contains(&version) {
        return Err(WireError::Malformed("version"));
    }
    let count = reader.i32()?;
    let mut store = Store { source, keys: Vec::new(), trusted: Vec::new() };
    for _ in 0..count {
        let tag = reader.i32()?;
        text(&mut reader)?; // the alias
        reader.i64()?; // its time
        match tag {
            KEY => {
                let protected = blob(&mut reader)?;
                let chain = (0..reader.i32()?)
                    .map(|_| certificate(&mut reader, version))
                    .collect::<Result<_, _>>()?;
                store.keys.push(Key { protected, chain });
            }
            TRUSTED => store.trusted.push(certificate(&mut reader, version)?),
            _ => return Err(WireError::Malformed("entry")),
        }
    }
    Ok(store)
}

fn certificate(reader: &mut Reader<'_>, version: i32) -> Result<CertificateDer<'static>, WireError> {
    if version == 2 {
        text(reader)?; // its type, X.509
    }
    Ok(CertificateDer::from(blob(reader)?.to_vec()))
}

fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let length = reader.i16()? as u16;
    reader.take(usize::from(length))
}

fn blob<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let length = usize::try_from(reader.i32()?).map_err(|_| WireError::Malformed("length"))?;
    reader.take(length)
}

/// Java hashes a password as UTF-16.
fn utf16(password: &Secret) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(password.expose().encode_utf16().flat_map(u16::to_be_bytes).collect())
}

fn check(bytes: &[u8], password: &Secret) -> Result<(), &'static str> {
    let split = bytes.len().checked_sub(DIGEST_LEN).and_then(|at| bytes.split_at_checked(at));
    let (body, digest) = split.ok_or("is no whole JKS store")?;
    let own =
        Sha1::new().chain_update(&*utf16(password)).chain_update(WHITENER).chain_update(body).finalize();
    if own.as_slice() == digest { Ok(()) } else { Err("the password is wrong, or the store is damaged") }
}

/// Sun's own protection: the key under a chain of SHA-1 over password and salt.
fn unprotect(protected: &[u8], password: &Secret) -> Option<Zeroizing<Vec<u8>>> {
    let mut reader = SliceReader::new(protected).ok()?;
    let cipher = reader
        .sequence(|reader| {
            AlgorithmIdentifierRef::decode(reader)?;
            <&OctetStringRef>::decode(reader)
        })
        .ok()?
        .as_bytes();
    let (salt, rest) = cipher.split_at_checked(DIGEST_LEN)?;
    let (cipher, check) = rest.split_at_checked(rest.len().checked_sub(DIGEST_LEN)?)?;
    let password = utf16(password);
    let mut plain = Zeroizing::new(Vec::with_capacity(cipher.len()));
    let mut mask = salt.to_vec();
    for part in cipher.chunks(DIGEST_LEN) {
        mask = Sha1::new().chain_update(&*password).chain_update(&mask).finalize().to_vec();
        plain.extend(part.iter().zip(&mask).map(|(byte, mask)| byte ^ mask));
    }
    let own = Sha1::new().chain_update(&*password).chain_update(&*plain).finalize();
    (own.as_slice() == check).then_some(plain)
}

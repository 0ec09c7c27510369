//! PEM: certificates, and keys in PKCS#8, PKCS#1 and SEC1, encrypted or not.

use aes::{Aes128, Aes192, Aes256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use des::TdesEde3;
use md5::{Digest, Md5};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode, Reader, SliceReader};
use pkcs8::spki::{AlgorithmIdentifierRef, ObjectIdentifier};
use pkcs12::kdf::{Pkcs12KeyType, derive_key_utf8};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::tls::{Material, TlsError};
use crate::secret::Secret;

const PBE_SHA1_3DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.3");
/// More rounds of hashing than this make nobody safer.
const MAX_ROUNDS: u32 = 10_000_000;

/// All certificates, in their order.
pub(super) fn certificates(material: &Material) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    // A key beside them may have headers, which the reader does not bear.
    let text = normalised(material, |label| label.ends_with("CERTIFICATE"))?;
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError::new(&material.source, format!("can't be read as PEM: {e}")))
}

/// The first private key.
pub(super) fn key(
    material: &Material,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wrong = |what: &str| TlsError::new(&material.source, what);
    let text = Zeroizing::new(normalised(material, |label| label.ends_with("KEY"))?);
    let password =
        || password.ok_or_else(|| wrong("the key is encrypted: give its password (ssl.key.password)"));
    if let Some(body) = section(&text, "ENCRYPTED PRIVATE KEY") {
        let der = decode(body).ok_or_else(|| wrong("the encrypted key is no base64"))?;
        let plain = pkcs8(&der, password()?).map_err(wrong)?;
        return Ok(PrivatePkcs8KeyDer::from(plain).into());
    }
    for kind in ["RSA PRIVATE KEY", "EC PRIVATE KEY"] {
        let Some(body) = section(&text, kind).filter(|body| body.contains("DEK-Info:")) else { continue };
        let plain = traditional(body, password()?).map_err(|what| wrong(&what))?;
        return Ok(match kind {
            "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(plain).into(),
            _ => PrivateSec1KeyDer::from(plain).into(),
        });
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|e| wrong(&format!("holds no private key in PEM (-----BEGIN PRIVATE KEY-----): {e}")))
}

/// An EncryptedPrivateKeyInfo: PBES2 and PBES1 by the library, and what `openssl pkcs8 -v1 PBE-SHA1-3DES` makes.
fn pkcs8(der: &[u8], password: &Secret) -> Result<Vec<u8>, &'static str> {
    const WRONG: &str = "the key's password is wrong (ssl.key.password)";
    if let Ok(sealed) = EncryptedPrivateKeyInfoRef::try_from(der) {
        return sealed.decrypt(password.expose()).map(|plain| plain.as_bytes().to_vec()).map_err(|_| WRONG);
    }
    let unknown = "the key is encrypted in a way that is not known here: convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc`";
    let (salt, rounds, data) = pkcs12_pbe(der).ok_or(unknown)?;
    let derive = |kind, size| derive_key_utf8::<Sha1>(password.expose(), salt, kind, rounds, size);
    let key = Zeroizing::new(derive(Pkcs12KeyType::EncryptionKey, 24).map_err(|_| WRONG)?);
    let iv = derive(Pkcs12KeyType::Iv, 8).map_err(|_| WRONG)?;
    unseal::<cbc::Decryptor<TdesEde3>>(&key, &iv, data)
        .filter(|plain| plain.first() == Some(&0x30))
        .ok_or(WRONG)
}

/// pbeWithSHAAnd3-KeyTripleDES-CBC (RFC 7292, appendix C): salt, rounds, and the sealed bytes.
fn pkcs12_pbe(der: &[u8]) -> Option<(&[u8], i32, &[u8])> {
    let mut reader = SliceReader::new(der).ok()?;
    let (algorithm, data) = reader
        .sequence(|reader| {
            Ok::<_, pkcs8::der::Error>((
                AlgorithmIdentifierRef::decode(reader)?,
                <&OctetStringRef>::decode(reader)?,
            ))
        })
        .ok()?;
    let mut parameters = SliceReader::new(algorithm.parameters?.value()).ok()?;
    let salt = <&OctetStringRef>::decode(&mut parameters).ok()?;
    let rounds = u32::decode(&mut parameters).ok().filter(|rounds| (1..=MAX_ROUNDS).contains(rounds))?;
    (algorithm.oid == PBE_SHA1_3DES).then_some((salt.as_bytes(), rounds as i32, data.as_bytes()))
}

/// Only the wanted sections, with proper line ends: in .properties files PEM often comes in one line, with blanks or `\\n` in two characters for its line ends.
fn normalised(material: &Material, wanted: impl Fn(&str) -> bool) -> Result<String, TlsError> {
    let text = std::str::from_utf8(&material.bytes)
        .map_err(|_| TlsError::new(&material.source, "is not PEM: not a text"))?
        .replace("\\n", "\n");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((_, behind)) = rest.split_once("-----BEGIN ") {
        let Some((label, body)) = behind.split_once("-----") else { break };
        let Some((body, after)) = body.split_once("-----END ") else { break };
        rest = after.split_once("-----").map_or("", |(_, rest)| rest);
        if !wanted(label) {
            continue;
        }
        out.push_str(&block(label, body));
    }
    Ok(out)
}

/// A section with its line breaks put back where they got lost.
pub fn block(label: &str, body: &str) -> String {
    // Headers of old encrypted keys end at an empty line: such a block has its line breaks, or is past repair.
    let body = match body.contains(':') {
        true => body.trim().to_owned(),
        false => body.split_whitespace().collect::<Vec<_>>().join("\n"),
    };
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// What stands between the lines of a section.
fn section<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (_, body) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    body.split_once(&format!("-----END {label}-----")).map(|(body, _)| body)
}

fn decode(body: &str) -> Option<Zeroizing<Vec<u8>>> {
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    BASE64.decode(body.as_bytes()).ok().map(Zeroizing::new)
}

/// OpenSSL's old encryption (`openssl rsa -aes256 -traditional`): headers, and a key derived by MD5 from the password and the IV.
fn traditional(body: &str, password: &Secret) -> Result<Vec<u8>, String> {
    let info = body.lines().find_map(|line| line.trim().strip_prefix("DEK-Info:")).unwrap_or_default();
    let (cipher, iv) = info.trim().split_once(',').ok_or("the key's DEK-Info header makes no sense")?;
    let iv = hex(iv.trim()).ok_or("the key's DEK-Info header makes no sense")?;
    let data = body.lines().filter(|line| !line.contains(':')).collect::<String>();
    let data = decode(&data).ok_or("the encrypted key is no base64")?;
    let size = match cipher {
        "AES-128-CBC" => 16,
        "AES-192-CBC" | "DES-EDE3-CBC" => 24,
        "AES-256-CBC" => 32,
        other => {
            return Err(format!(
                "the key is encrypted with {}, which is not supported: convert it with `openssl pkcs8 -topk8`",
                other.chars().take(30).collect::<String>()
            ));
        }
    };
    let key = derive(password, iv.get(..8).ok_or("the key's IV is too short")?, size);
    let plain = match cipher {
        "AES-128-CBC" => unseal::<cbc::Decryptor<Aes128>>(&key, &iv, &data),
        "AES-192-CBC" => unseal::<cbc::Decryptor<Aes192>>(&key, &iv, &data),
        "AES-256-CBC" => unseal::<cbc::Decryptor<Aes256>>(&key, &iv, &data),
        _ => unseal::<cbc::Decryptor<TdesEde3>>(&key, &iv, &data),
    };
    // A DER sequence; a wrong password may leave a padding that looks right.
    plain
        .filter(|plain| plain.first() == Some(&0x30))
        .ok_or("the key's password is wrong (ssl.key.password)".into())
}

fn unseal<D: BlockModeDecrypt + KeyIvInit>(key: &[u8], iv: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    D::new_from_slices(key, iv).ok()?.decrypt_padded_vec::<Pkcs7>(data).ok()
}

/// EVP_BytesToKey with MD5 and one round.
fn derive(password: &Secret, salt: &[u8], size: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::new());
    let mut last = Vec::new();
    while key.len() < size {
        last = Md5::new()
            .chain_update(&last)
            .chain_update(password.expose())
            .chain_update(salt)
            .finalize()
            .to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(size);
    key
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? * 16 + digit(*pair.get(1)?)?) as u8)).collect()
}

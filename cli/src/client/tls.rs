//! TLS: whom we trust, who we are, what is checked. Files are read here.

use std::path::Path;

use bodley_io::kafka::security::{
    Identity, Material, TlsOptions, TlsVersion, Trust, Verify, cipher_name, cipher_names,
};

use super::pem;
use super::values::{Setting, SettingError, Values};
use crate::files;

/// Of a store of certificates or keys.
const LIMIT: u64 = 16 << 20;

/// What TLS to brokers is made of.
pub fn options(values: &Values, notes: &mut Vec<String>) -> Result<TlsOptions, SettingError> {
    Ok(TlsOptions {
        trust: trust(values)?,
        identity: identity(values)?,
        verify: verify(values, notes)?,
        versions: versions(values, notes)?,
        ciphers: ciphers(values, notes)?,
    })
}

/// Form of a store.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Binary,
    Pem,
}

/// Which binary store it is shows in its first bytes, so these two are the same to us.
const FORMS: [(&str, Form); 3] = [("JKS", Form::Binary), ("PKCS12", Form::Binary), ("PEM", Form::Pem)];

/// Whom we trust, by `ssl.truststore.*` or `ssl.ca.location`.
pub fn trust(values: &Values) -> Result<Trust, SettingError> {
    let location = values.path("ssl.truststore.location");
    let (inline, ca) = (values.get("ssl.truststore.certificates"), values.path("ssl.ca.location"));
    let several = [location.as_ref().map(|l| l.0), inline, ca.as_ref().map(|c| c.0)];
    one_of(&several.into_iter().flatten().collect::<Vec<_>>())?;
    if let Some((setting, path)) = ca {
        return ca_location(setting, &path);
    }
    if let Some(setting) = inline {
        if values.choice("ssl.truststore.type", &FORMS)? == Some(Form::Binary) {
            return Err(setting.error("certificates in a setting are PEM: set ssl.truststore.type=PEM"));
        }
        return Ok(Trust::Pem(pem::inline(setting)?));
    }
    let Some((setting, path)) = location else { return Ok(Trust::System) };
    let (form, password) =
        (values.choice("ssl.truststore.type", &FORMS)?, values.secret("ssl.truststore.password"));
    let material = read(setting, &path)?;
    let is_pem =
        form.map_or(password.is_none() && pem::looks_like(&material.bytes), |form| form == Form::Pem);
    match (is_pem, password) {
        (false, password) => Ok(Trust::Store(material, password)),
        (true, None) => Ok(Trust::Pem(material)),
        (true, Some(_)) => Err(setting.error("PEM has no password: leave ssl.truststore.password out")),
    }
}

/// Only one of these settings may be there.
fn one_of(settings: &[&Setting]) -> Result<(), SettingError> {
    match settings {
        [one, other, ..] => Err(one.error(format!("{} says the same in another way: leave one", other.key))),
        _ => Ok(()),
    }
}

/// librdkafka's `ssl.ca.location` and `https.ca.location`: a file of certificates, a folder of such files, or `probe`.
pub fn ca_location(setting: &Setting, path: &Path) -> Result<Trust, SettingError> {
    if path == Path::new("probe") {
        return Ok(Trust::System);
    }
    if !path.is_dir() {
        return Ok(Trust::Pem(read(setting, path)?));
    }
    let unreadable = |e: std::io::Error| setting.error(format!("{} can't be read: {e}", path.display()));
    let mut files = Vec::new();
    for entry in path.read_dir().map_err(unreadable)? {
        files.push(entry.map_err(unreadable)?.path());
    }
    files.sort();
    let mut bytes = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let material = read(setting, file)?;
        if pem::looks_like(&material.bytes) && bytes.len() as u64 <= LIMIT {
            bytes.extend_from_slice(&material.bytes);
            bytes.push(b'\n');
        }
    }
    if bytes.is_empty() {
        return Err(setting.error(format!("{} holds no certificates in PEM", path.display())));
    }
    Ok(Trust::Pem(Material { source: path.display().to_string(), bytes: bytes.into() }))
}

fn identity(values: &Values) -> Result<Option<Identity>, SettingError> {
    let store = values.path("ssl.keystore.location");
    let certificates = either(values, "ssl.certificate.location", "ssl.keystore.certificate.chain")?;
    let key = either(values, "ssl.key.location", "ssl.keystore.key")?;
    let pem = certificates.as_ref().or(key.as_ref());
    one_of(&store.iter().map(|s| s.0).chain(pem.map(|p| p.0)).collect::<Vec<_>>())?;
    match (store, certificates, key) {
        (Some((setting, path)), ..) => keystore(values, setting, &path).map(Some),
        (None, Some((_, certificates)), Some((setting, key))) => {
            if values.choice("ssl.keystore.type", &FORMS)? == Some(Form::Binary) {
                return Err(setting.error("this is PEM: set ssl.keystore.type=PEM, or leave it out"));
            }
            let password = values.secret("ssl.key.password");
            Ok(Some(Identity::Pem { certificates, key, password }))
        }
        (None, Some((setting, _)), None) => {
            Err(setting.error("its key is missing: set ssl.key.location or ssl.keystore.key"))
        }
        (None, None, Some((setting, _))) => {
            let both = "ssl.certificate.location or ssl.keystore.certificate.chain";
            Err(setting.error(format!("its certificate is missing: set {both}")))
        }
        (None, None, None) => Ok(None),
    }
}

/// A file with certificate and key: PEM, PKCS#12 or JKS.
fn keystore(values: &Values, setting: &Setting, path: &Path) -> Result<Identity, SettingError> {
    let (form, password) =
        (values.choice("ssl.keystore.type", &FORMS)?, values.secret("ssl.keystore.password"));
    let key_password = values.secret("ssl.key.password");
    let store = read(setting, path)?;
    let is_pem = form.map_or(password.is_none() && pem::looks_like(&store.bytes), |form| form == Form::Pem);
    match (is_pem, password) {
        (true, None) => Ok(Identity::Pem { certificates: store.clone(), key: store, password: key_password }),
        (true, Some(_)) => Err(setting.error("a PEM file's key has its password in ssl.key.password")),
        (false, None) => Err(setting.error("its password is missing: set ssl.keystore.password")),
        (false, password) => Ok(Identity::Store { store, password, key_password }),
    }
}

/// PEM from a file or from the setting itself.
fn either<'a>(
    values: &'a Values,
    location: &'static str,
    inline: &'static str,
) -> Result<Option<(&'a Setting, Material)>, SettingError> {
    match (values.path(location), values.get(inline)) {
        (None, None) => Ok(None),
        (Some((setting, path)), None) => Ok(Some((setting, read(setting, &path)?))),
        (None, Some(setting)) => Ok(Some((setting, pem::inline(setting)?))),
        (Some((one, _)), Some(other)) => {
            Err(one.error(format!("{} says the same in another way: leave one", other.key)))
        }
    }
}

fn read(setting: &Setting, path: &Path) -> Result<Material, SettingError> {
    let source = path.display().to_string();
    let bytes = files::bytes(path, LIMIT).map_err(|e| setting.error(format!("{source} {e}")))?;
    Ok(Material { source, bytes: bytes.into() })
}

fn verify(values: &Values, notes: &mut Vec<String>) -> Result<Verify, SettingError> {
    let algorithm = "ssl.endpoint.identification.algorithm";
    let by_name = match values.given(algorithm) {
        Some(setting) if setting.value.expose().is_empty() => false,
        _ => values.choice(algorithm, &[("https", true), ("none", false)])?.unwrap_or(true),
    };
    if values.boolean("enable.ssl.certificate.verification")? == Some(false) {
        notes.push(
            "enable.ssl.certificate.verification=false: whoever answers is taken for the broker".to_owned(),
        );
        return Ok(Verify::Nothing);
    }
    if !by_name {
        notes.push(format!(
            "{algorithm} is empty or none: any certificate of a trusted authority is taken for the broker's"
        ));
    }
    Ok(if by_name { Verify::Full } else { Verify::NotTheHostName })
}

const VERSIONS: [(&str, TlsVersion); 2] = [("TLSv1.2", TlsVersion::V1_2), ("TLSv1.3", TlsVersion::V1_3)];
/// Known, but not safe, or not there.
const OLD_VERSIONS: [&str; 6] = ["SSL", "SSLv2", "SSLv2Hello", "SSLv3", "TLSv1", "TLSv1.1"];

/// As Kafka documents it: `ssl.protocol=TLSv1.2` rules TLS 1.3 out whatever `ssl.enabled.protocols` says.
fn versions(values: &Values, notes: &mut Vec<String>) -> Result<Vec<TlsVersion>, SettingError> {
    let upto = values.choice("ssl.protocol", &[("TLS", 3), ("TLSv1.3", 3), ("TLSv1.2", 2)])?;
    let Some(setting) = values.get("ssl.enabled.protocols") else {
        return Ok(if upto == Some(2) { vec![TlsVersion::V1_2] } else { Vec::new() });
    };
    let (mut versions, mut left_out) = (Vec::new(), false);
    for word in setting.value.expose().split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match VERSIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
            Some((_, version)) if upto == Some(2) && *version == TlsVersion::V1_3 => {}
            Some((_, version)) if versions.contains(version) => {}
            Some((_, version)) => versions.push(*version),
            None if OLD_VERSIONS.iter().any(|old| old.eq_ignore_ascii_case(word)) => left_out = true,
            None => return Err(setting.error("write some of TLSv1.2, TLSv1.3")),
        }
    }
    if versions.is_empty() {
        return Err(setting.error("no version of TLS is left: write some of TLSv1.2, TLSv1.3"));
    }
    if left_out {
        notes.push(format!("{}: only TLSv1.2 and TLSv1.3 are used", setting.key));
    }
    Ok(versions)
}

fn ciphers(values: &Values, notes: &mut Vec<String>) -> Result<Vec<String>, SettingError> {
    let Some(setting) = values.get("ssl.cipher.suites") else { return Ok(Vec::new()) };
    let (mut ciphers, mut left_out) = (Vec::new(), false);
    let words = setting.value.expose().split([',', ':']).map(str::trim);
    for word in words.filter(|word| !word.is_empty()) {
        match cipher_name(word) {
            Some(iana) if !ciphers.iter().any(|c| c == iana) => ciphers.push(iana.to_owned()),
            Some(_) => {}
            None => left_out = true,
        }
    }
    if ciphers.is_empty() {
        let names = cipher_names().join(", ");
        return Err(setting.error(format!("no suite that is supported is left: write some of {names}")));
    }
    if left_out {
        notes.push(format!("{}: some suites are not supported and left out", setting.key));
    }
    Ok(ciphers)
}

#[cfg(test)]
mod tests;

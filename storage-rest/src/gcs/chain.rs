//! Which identity is meant: the first thing that is configured counts, in the order of Google's Application Default Credentials
//! (<https://cloud.google.com/docs/authentication/application-default-credentials>); if it fails, that is the error, and no other identity
//! takes its place.

use std::fmt;
use std::path::{Path, PathBuf};

use bodley_io::{Secret, TokenError};
use reqwest::Url;

use super::adc::{self, Adc};
use super::identity::GcsAccess;
use crate::Environment;
use crate::SettingError;
use crate::jwt;
use crate::token_file::read_bounded;
use crate::web::{PlainHttp, checked_url};

const SERVICE: &str = "https://storage.googleapis.com";
const EMULATOR: &str = "STORAGE_EMULATOR_HOST";
const CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// Largest file with credentials, in bytes.
const LARGEST_FILE: usize = 1024 * 1024;
/// Google's metadata service by address: its name may be anybody's outside of Google Cloud.
const METADATA: &str = "169.254.169.254";
const METADATA_NAME: &str = "metadata.google.internal";

/// How the right to ask is had.
#[derive(Debug)]
pub(crate) enum Source {
    /// An emulator is asked, which wants to know nothing.
    Emulator,
    /// Somebody else keeps a token fresh in a file.
    TokenFile { path: PathBuf, token: Secret },
    /// A file with credentials.
    File { path: PathBuf, adc: Box<Adc> },
    /// Google's machines serve tokens.
    Metadata { endpoint: Url, last_resort: String },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Emulator => write!(f, "no identity ({EMULATOR} is set)"),
            Self::TokenFile { path, .. } => write!(f, "token file {}", path.display()),
            Self::File { path, adc } => write!(f, "{adc} of {}", path.display()),
            Self::Metadata { .. } => f.write_str("metadata server"),
        }
    }
}

/// Where the service is.
pub(crate) fn endpoint(access: &GcsAccess, environment: &Environment) -> Result<Url, SettingError> {
    let (setting, text) = match (&access.endpoint, environment.var(EMULATOR)) {
        (Some(endpoint), _) => ("endpoint", endpoint.clone()),
        // Google's libraries take it with and without http://.
        (None, Some(host)) if host.contains("://") => (EMULATOR, host.to_owned()),
        (None, Some(host)) => (EMULATOR, format!("http://{host}")),
        (None, None) => ("endpoint", SERVICE.to_owned()),
    };
    let url = checked_url(text.trim_end_matches('/'), PlainHttp::Loopback);
    url.map_err(|why| SettingError::new(setting, why))
}

/// Decides. Reads files; blocks.
///
/// # Errors
/// What is configured and cannot work.
pub(crate) fn choose(access: &GcsAccess, environment: &Environment) -> Result<Source, TokenError> {
    let failed = |what| TokenError { what, passing: false };
    if let Some(path) = &access.token_file {
        return token_file(path);
    }
    if let Some(path) = &access.credentials_file {
        return file(path).map_err(failed);
    }
    if access.endpoint.is_none() && environment.var(EMULATOR).is_some() {
        return Ok(Source::Emulator);
    }
    if let Some(path) = environment.var(CREDENTIALS) {
        return file(Path::new(path)).map_err(|why| failed(format!("{CREDENTIALS}: {why}")));
    }
    let by_gcloud = match environment.var("CLOUDSDK_CONFIG") {
        Some(folder) => Some(Path::new(folder).join("application_default_credentials.json")),
        None => environment.in_home(".config/gcloud/application_default_credentials.json"),
    };
    if let Some(path) = by_gcloud.as_deref().filter(|path| path.exists()) {
        return file(path).map_err(failed);
    }
    metadata(environment, by_gcloud).map_err(failed)
}

fn token_file(path: &Path) -> Result<Source, TokenError> {
    // Whoever rotates it may be in the middle of that.
    let failed =
        |why: &str| TokenError { what: format!("the token file {} {why}", path.display()), passing: true };
    let text = read_bounded(path, jwt::LONGEST).map_err(|why| failed(&why))?;
    match text.trim() {
        text if jwt::is_bearer(text) => {
            Ok(Source::TokenFile { path: path.to_owned(), token: Secret::new(text) })
        }
        _ => Err(failed("holds no access token (letters, digits and -._~+/ only, on one line)")),
    }
}

fn file(path: &Path) -> Result<Source, String> {
    let shown = path.display();
    let text = Secret::new(read_bounded(path, LARGEST_FILE).map_err(|why| format!("{shown} {why}"))?);
    let adc = adc::parse(text.expose()).map_err(|why| format!("{shown} {why}"))?;
    Ok(Source::File { path: path.to_owned(), adc: Box::new(adc) })
}

fn metadata(environment: &Environment, by_gcloud: Option<PathBuf>) -> Result<Source, String> {
    let host = environment.first(&["GCE_METADATA_HOST", "GCE_METADATA_IP"]).unwrap_or(METADATA);
    let text = format!("http://{host}");
    let endpoint = if host == METADATA_NAME {
        Url::parse(&text).map_err(|error| error.to_string())
    } else {
        checked_url(&text, PlainHttp::LinkLocal)
    };
    let endpoint = endpoint.map_err(|why| format!("GCE_METADATA_HOST: {why}"))?;
    let absent = by_gcloud.map_or_else(String::new, |path| format!(" and there is no {}", path.display()));
    Ok(Source::Metadata { endpoint, last_resort: format!("asked because {CREDENTIALS} is not set{absent}") })
}

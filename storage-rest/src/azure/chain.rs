//! Which identity is meant. The first thing that is configured counts, in one order; if it fails, that is the error, and no other identity
//! takes its place. The order is that of Azure's storage tools for what is the account's own (connection string, key, SAS), and then that of
//! Azure Identity's default credential.

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bodley_io::Secret;
use reqwest::Url;

use super::connection::{self, ConnectionString};
use super::identity::{AzureAccess, AzureAuth};
use crate::Environment;
use crate::web::{PlainHttp, checked_url};

const AUTHORITY: &str = "https://login.microsoftonline.com";
const METADATA: &str = "http://169.254.169.254";
const KEY: &str = "AZURE_STORAGE_KEY";
const SAS: &str = "AZURE_STORAGE_SAS_TOKEN";
const CONNECTION_STRING: &str = "AZURE_STORAGE_CONNECTION_STRING";

/// An account, where it is served, and who we are to it.
#[derive(Debug)]
pub(crate) struct Place {
    pub account: String,
    /// Without a slash at its end; the containers are below it.
    pub endpoint: Url,
    pub source: Source,
}

/// How the right to ask is had.
#[derive(Debug)]
pub(crate) enum Source {
    /// The account's key, decoded.
    Key { key: SharedKey, from: &'static str },
    /// The account, or its owner, signed a query for us.
    Sas { query: Secret, ends: Option<SystemTime>, from: &'static str },
    /// Entra gives a token for an application's secret.
    ClientSecret { app: Application, secret: Secret },
    /// Entra gives a token for one in a file, which Kubernetes keeps fresh.
    WorkloadIdentity { app: Application, token_file: PathBuf },
    /// App Service, Container Apps and Functions serve tokens.
    AppService { endpoint: Url, header: Secret, client: Option<String> },
    /// Azure's machines serve tokens.
    Metadata { endpoint: Url, client: Option<String>, last_resort: bool },
}

/// Whom Entra knows.
#[derive(Debug)]
pub(crate) struct Application {
    pub tenant: String,
    pub client: String,
    pub authority: Url,
}

/// A key of an account. `Debug` does not show it.
#[derive(Clone)]
pub struct SharedKey(Secret);

impl SharedKey {
    /// Of the text in Base64 that the portal shows.
    fn new(text: &str, from: &str) -> Result<Self, String> {
        match STANDARD.decode(text) {
            Ok(key) if !key.is_empty() => Ok(Self(Secret::new(text))),
            _ => Err(format!("{from} is not an account key (Base64): copy it again from the portal")),
        }
    }

    /// The bytes that sign.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(self.0.expose()).unwrap_or_default()
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { from, .. } => write!(f, "account key of {from}"),
            Self::Sas { from, .. } => write!(f, "SAS token of {from}"),
            Self::ClientSecret { app, .. } => write!(f, "client secret of {}", app.client),
            Self::WorkloadIdentity { app, .. } => write!(f, "workload identity {}", app.client),
            Self::AppService { client: Some(client), .. } | Self::Metadata { client: Some(client), .. } => {
                write!(f, "managed identity {client}")
            }
            Self::AppService { .. } | Self::Metadata { .. } => f.write_str("managed identity"),
        }
    }
}

/// Decides. Reads no file and asks nobody.
///
/// # Errors
/// What is configured and cannot work, or that nothing is.
pub(crate) fn choose(access: &AzureAccess, environment: &Environment) -> Result<Place, String> {
    let mut string = match environment.var(CONNECTION_STRING) {
        Some(text) if access.auth.takes_connection_string() => ConnectionString::read(text)?,
        _ => ConnectionString::default(),
    };
    let account = account(access, environment, &string)?;
    let endpoint = endpoint(access, environment, &string, &account)?;
    let source = source(access.auth, environment, &mut string)?;
    // They are of no use for another account, and must not be shown to one.
    if let Source::Key { from: from @ (KEY | SAS), .. } | Source::Sas { from: from @ (KEY | SAS), .. } =
        &source
        && let Some(other) = environment.var("AZURE_STORAGE_ACCOUNT").filter(|other| *other != account)
    {
        return Err(format!(
            "{from} is for the account {other} (AZURE_STORAGE_ACCOUNT), but the vault's is {account}"
        ));
    }
    Ok(Place { account, endpoint, source })
}

/// The URL's, which all others must agree with: a key is of no use for another account.
fn account(access: &AzureAccess, env: &Environment, string: &ConnectionString) -> Result<String, String> {
    let of_variable = env.var("AZURE_STORAGE_ACCOUNT");
    let account = access.account.as_deref().or(string.account.as_deref()).or(of_variable);
    let account = account.ok_or("no storage account: name it in the URL (az://ACCOUNT/CONTAINER/…)")?;
    let fits = (3..=24).contains(&account.len())
        && account.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !fits {
        return Err(format!("{account:?} is not a storage account's name: 3 to 24 small letters and digits"));
    }
    match &string.account {
        Some(other) if other != account => {
            Err(format!("{CONNECTION_STRING} is for the account {other}, but the vault's is {account}"))
        }
        _ => Ok(account.to_owned()),
    }
}

fn endpoint(
    access: &AzureAccess,
    env: &Environment,
    string: &ConnectionString,
    account: &str,
) -> Result<Url, String> {
    let named = [
        ("the endpoint", access.endpoint.as_deref()),
        (CONNECTION_STRING, string.endpoint.as_deref()),
        ("AZURE_STORAGE_SERVICE_ENDPOINT", env.var("AZURE_STORAGE_SERVICE_ENDPOINT")),
    ];
    let usual = format!("https://{account}.blob.core.windows.net");
    let named = named.into_iter().find_map(|(name, text)| Some((name, text?)));
    let (name, text) = named.unwrap_or(("the account", &usual));
    let url = checked_url(text.trim_end_matches('/'), PlainHttp::Loopback)
        .map_err(|why| format!("{name}: {why}"))?;
    match url.query() {
        None => Ok(url),
        Some(_) => Err(format!("{name}: has a query in it; put a SAS token in {SAS}")),
    }
}

fn source(auth: AzureAuth, env: &Environment, string: &mut ConnectionString) -> Result<Source, String> {
    let missing = |what: &str| Err(format!("{what}, as credentials={auth} needs"));
    match auth {
        AzureAuth::Auto => first(env, string),
        AzureAuth::ConnectionString => match of_string(string)? {
            Some(source) => Ok(source),
            None => missing(&format!("{CONNECTION_STRING} does not hold a key or SAS token")),
        },
        AzureAuth::Key => key(env)?.map_or_else(|| missing(&format!("{KEY} is not set")), Ok),
        AzureAuth::Sas => sas(env)?.map_or_else(|| missing(&format!("{SAS} is not set")), Ok),
        AzureAuth::ClientSecret => {
            client_secret(env)?.map_or_else(|| missing("AZURE_CLIENT_SECRET is not set"), Ok)
        }
        AzureAuth::WorkloadIdentity => {
            workload(env)?.map_or_else(|| missing("AZURE_FEDERATED_TOKEN_FILE is not set"), Ok)
        }
        AzureAuth::ManagedIdentity => managed(env, false),
    }
}

fn first(env: &Environment, string: &mut ConnectionString) -> Result<Source, String> {
    let own = [of_string(string)?, key(env)?, sas(env)?, client_secret(env)?, workload(env)?];
    match own.into_iter().flatten().next() {
        Some(source) => Ok(source),
        None => managed(env, true),
    }
}

fn of_string(string: &mut ConnectionString) -> Result<Option<Source>, String> {
    if let Some(key) = &string.key {
        return Ok(Some(Source::Key {
            key: SharedKey::new(key.expose(), CONNECTION_STRING)?,
            from: CONNECTION_STRING,
        }));
    }
    string.sas.take().map(|query| signed_query(&query, CONNECTION_STRING)).transpose()
}

fn key(env: &Environment) -> Result<Option<Source>, String> {
    let source = |text| Ok(Source::Key { key: SharedKey::new(text, KEY)?, from: KEY });
    env.var(KEY).map(source).transpose()
}

fn sas(env: &Environment) -> Result<Option<Source>, String> {
    env.var(SAS).map(|text| signed_query(&Secret::new(text), SAS)).transpose()
}

fn signed_query(text: &Secret, from: &'static str) -> Result<Source, String> {
    let query = text.expose().trim_start_matches('?');
    match connection::sas_end(query) {
        Some(ends) => Ok(Source::Sas { query: Secret::new(query), ends, from }),
        None => Err(format!("{from} is not a SAS token (sv=…&sig=…): make a new one for the container")),
    }
}

fn application(env: &Environment, for_what: &str) -> Result<Application, String> {
    let needed = |name| env.var(name).ok_or_else(|| format!("{for_what} is set, but {name} is not"));
    let authority = env.var("AZURE_AUTHORITY_HOST").unwrap_or(AUTHORITY);
    let authority = checked_url(authority.trim_end_matches('/'), PlainHttp::Loopback)
        .map_err(|why| format!("AZURE_AUTHORITY_HOST: {why}"))?;
    let tenant = needed("AZURE_TENANT_ID")?;
    // It becomes a part of the path.
    if !tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return Err("AZURE_TENANT_ID is neither an id nor a domain".to_owned());
    }
    Ok(Application { tenant: tenant.to_owned(), client: needed("AZURE_CLIENT_ID")?.to_owned(), authority })
}

fn client_secret(env: &Environment) -> Result<Option<Source>, String> {
    const NAME: &str = "AZURE_CLIENT_SECRET";
    match env.var(NAME) {
        Some(secret) => {
            let (app, secret) = (application(env, NAME)?, Secret::new(secret));
            Ok(Some(Source::ClientSecret { app, secret }))
        }
        None if env.var("AZURE_CLIENT_CERTIFICATE_PATH").is_some() => Err(
            "AZURE_CLIENT_CERTIFICATE_PATH is set, but certificates are not supported: use AZURE_CLIENT_SECRET, \
             workload identity or managed identity"
                .to_owned(),
        ),
        None => Ok(None),
    }
}

fn workload(env: &Environment) -> Result<Option<Source>, String> {
    const NAME: &str = "AZURE_FEDERATED_TOKEN_FILE";
    let Some(file) = env.var(NAME) else { return Ok(None) };
    Ok(Some(Source::WorkloadIdentity { app: application(env, NAME)?, token_file: file.into() }))
}

fn managed(env: &Environment, last_resort: bool) -> Result<Source, String> {
    let client = env.var("AZURE_CLIENT_ID").map(str::to_owned);
    if let Some(endpoint) = env.var("IDENTITY_ENDPOINT") {
        let header =
            env.var("IDENTITY_HEADER").ok_or("IDENTITY_ENDPOINT is set, but IDENTITY_HEADER is not")?;
        let endpoint =
            checked_url(endpoint, PlainHttp::LinkLocal).map_err(|why| format!("IDENTITY_ENDPOINT: {why}"))?;
        return Ok(Source::AppService { endpoint, header: Secret::new(header), client });
    }
    let host = env.var("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or(METADATA);
    let endpoint = checked_url(host.trim_end_matches('/'), PlainHttp::LinkLocal)
        .map_err(|why| format!("AZURE_POD_IDENTITY_AUTHORITY_HOST: {why}"))?;
    Ok(Source::Metadata { endpoint, client, last_resort })
}

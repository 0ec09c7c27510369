//! Who we are to Azure.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bodley_io::{Secret, TokenError};
use reqwest::Url;

use super::chain::{self, Place, SharedKey};
use super::remote;
use crate::Environment;
use crate::refresh::{Fetch, Fresh, Refreshed};
use crate::web::Http;
use crate::{SettingError, jwt};

/// Which account, where, and by which identity. What is left out the environment decides, as with Azure's own tools.
#[derive(Debug, Clone, Default)]
pub struct AzureAccess {
    /// The storage account's name; else that of AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT.
    pub account: Option<String>,
    /// Where blobs are served, https, or http on this machine; else what the connection string or AZURE_STORAGE_SERVICE_ENDPOINT says, else
    /// `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// Which identity.
    pub auth: AzureAuth,
}

/// Which identity is used. All are configured by the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AzureAuth {
    /// The first that is configured, in the order below; managed identity if none is.
    #[default]
    Auto,
    /// AZURE_STORAGE_CONNECTION_STRING, with a key or a SAS token in it.
    ConnectionString,
    /// AZURE_STORAGE_KEY.
    Key,
    /// AZURE_STORAGE_SAS_TOKEN.
    Sas,
    /// AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.
    ClientSecret,
    /// AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE.
    WorkloadIdentity,
    /// What the machine or service that we run on is given; with AZURE_CLIENT_ID a user-assigned one.
    ManagedIdentity,
}

impl AzureAuth {
    const NAMES: [(Self, &'static str); 7] = [
        (Self::Auto, "auto"),
        (Self::ConnectionString, "connection-string"),
        (Self::Key, "key"),
        (Self::Sas, "sas"),
        (Self::ClientSecret, "client-secret"),
        (Self::WorkloadIdentity, "workload-identity"),
        (Self::ManagedIdentity, "managed-identity"),
    ];

    pub(super) fn takes_connection_string(self) -> bool {
        matches!(self, Self::Auto | Self::ConnectionString)
    }
}

impl fmt::Display for AzureAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(auth, _)| auth == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for AzureAuth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text).map(|(auth, _)| *auth);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(_, name)| *name).collect();
            format!("{text:?} is none of {}", names.join(", "))
        })
    }
}

/// What goes with a request. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub enum AzureCredential {
    /// The account's key, which signs each request.
    Key(SharedKey),
    /// A signed query, for the end of each URL.
    Sas(Secret),
    /// A token for the header `Authorization`.
    Bearer(Secret),
}

/// The right to ask one storage account, always fresh: tokens are renewed 5 minutes before their end, one request at a time, the old one
/// serving while it is valid.
pub struct AzureCredentials {
    account: String,
    endpoint: Url,
    fresh: Refreshed<Identity>,
}

impl AzureCredentials {
    /// Decides who we are and checks that it can work; nothing is sent yet.
    ///
    /// # Errors
    /// What is configured and cannot work. No other identity is tried in its place.
    pub fn new(
        access: &AzureAccess,
        environment: &Environment,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        let Place { account, endpoint, source } =
            chain::choose(access, environment).map_err(|what| SettingError::new("Azure", what))?;
        let http = Http::new(remote::limits(&source), tls)?;
        Ok(Self { account, endpoint, fresh: Refreshed::new(Identity { source, http }) })
    }

    /// What goes with a request that is sent now.
    ///
    /// # Errors
    /// Names the identity and why it gave nothing; no other one is tried in its place.
    pub async fn get(&self) -> Result<AzureCredential, TokenError> {
        self.fresh.get().await
    }

    /// Azure did not take what was got last: the next one who asks gets another. `false`: there is no other.
    pub(crate) fn distrust(&self) -> bool {
        let has_other =
            !matches!(self.fresh.source().source, chain::Source::Key { .. } | chain::Source::Sas { .. });
        if has_other {
            self.fresh.distrust();
        }
        has_other
    }

    /// Who we are, for messages: `workload identity 0000-…`.
    pub fn identity(&self) -> String {
        self.fresh.source().source.to_string()
    }

    /// The storage account's name.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Where its blobs are served.
    pub fn endpoint(&self) -> &Url {
        &self.endpoint
    }
}

impl fmt::Debug for AzureCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureCredentials")
            .field("account", &self.account)
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

struct Identity {
    source: chain::Source,
    http: Http,
}

#[async_trait]
impl Fetch for Identity {
    type Item = AzureCredential;

    async fn fetch(&self) -> Result<Fresh<AzureCredential>, TokenError> {
        let source = &self.source;
        let failed = |what: String, passing| TokenError { what: format!("Azure: {source}{what}"), passing };
        let (credential, ends) = remote::load(source, &self.http)
            .await
            .map_err(|error| failed(format!(": {}", error.what), error.passing))?;
        Fresh::renewed_early(credential, ends).map_err(|end| {
            let end = jwt::rfc3339(end);
            match source {
                chain::Source::Sas { .. } => failed(format!(" ended at {end}: make a new one"), false),
                _ => {
                    failed(format!(" gave a token that ended at {end}: is this machine's clock right?"), true)
                }
            }
        })
    }
}

//! Who we are to Google Cloud.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bodley_io::{Secret, TokenError};
use reqwest::Url;

use super::{chain, remote};
use crate::Environment;
use crate::refresh::{Fetch, Fresh, Refreshed};
use crate::web::Http;
use crate::{SettingError, jwt};

/// Where Google Cloud Storage is asked and by which identity. What is left out the environment decides, as with Google's own tools.
#[derive(Debug, Clone, Default)]
pub struct GcsAccess {
    /// Where the service is, https, or http on this machine; else STORAGE_EMULATOR_HOST, else `https://storage.googleapis.com`.
    pub endpoint: Option<String>,
    /// A file with credentials in JSON, in place of GOOGLE_APPLICATION_CREDENTIALS.
    pub credentials_file: Option<PathBuf>,
    /// A file with an access token that somebody else keeps fresh; it is read anew every minute.
    pub token_file: Option<PathBuf>,
}

/// What goes with a request. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub enum GcsCredential {
    /// A token for the header `Authorization`.
    Bearer(Secret),
    /// Nothing: an emulator asks for none.
    None,
}

/// The right to ask Google Cloud Storage, always fresh: tokens are renewed 5 minutes before their end, one request at a time, the old one
/// serving while it is valid.
pub struct GcsCredentials {
    endpoint: Url,
    fresh: Refreshed<Identity>,
}

impl GcsCredentials {
    /// Checks what is said here; the identity is looked for when it is needed.
    ///
    /// # Errors
    /// The setting that cannot work.
    pub fn new(
        access: &GcsAccess,
        environment: &Environment,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        let endpoint = chain::endpoint(access, environment)?;
        let identity = Identity {
            access: access.clone(),
            environment: environment.clone(),
            http: Http::new(remote::SERVER, tls)?,
            machine: Http::new(remote::MACHINE, tls)?,
        };
        Ok(Self { endpoint, fresh: Refreshed::new(identity) })
    }

    /// What goes with a request that is sent now.
    ///
    /// # Errors
    /// Names the identity that is configured and why it gave nothing; no other one is tried in its place.
    pub async fn get(&self) -> Result<GcsCredential, TokenError> {
        self.fresh.get().await.map(|found| found.credential)
    }

    /// Google did not take what was got last: the next one who asks gets another, if there is one.
    pub(crate) fn distrust(&self) {
        self.fresh.distrust();
    }

    /// Whose right was got last, for messages; `None` before the first.
    pub fn identity(&self) -> Option<String> {
        self.fresh.held().map(|found| found.source)
    }

    /// Where the service is, without a slash at its end.
    pub fn endpoint(&self) -> &Url {
        &self.endpoint
    }
}

impl fmt::Debug for GcsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsCredentials").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

/// Looks anew each time, for files change.
struct Identity {
    access: GcsAccess,
    environment: Environment,
    http: Http,
    /// For what is asked on this machine.
    machine: Http,
}

#[derive(Clone)]
struct Found {
    source: String,
    credential: GcsCredential,
}

#[async_trait]
impl Fetch for Identity {
    type Item = Found;

    async fn fetch(&self) -> Result<Fresh<Found>, TokenError> {
        let failed = |what: String, passing| TokenError { what: format!("Google Cloud: {what}"), passing };
        let (access, environment) = (self.access.clone(), self.environment.clone());
        let chosen = tokio::task::spawn_blocking(move || chain::choose(&access, &environment)).await;
        let chosen = chosen.map_err(|_| failed("looking for credentials was cut off".to_owned(), true))?;
        let source = chosen.map_err(|why| failed(why.what, why.passing))?;
        let (credential, ends) = remote::load(&source, &self.http, &self.machine)
            .await
            .map_err(|error| failed(format!("{source}: {}", error.what), error.passing))?;
        Fresh::renewed_early(Found { source: source.to_string(), credential }, ends).map_err(|end| {
            let end = jwt::rfc3339(end);
            failed(format!("{source} gave a token that ended at {end}: is this machine's clock right?"), true)
        })
    }
}

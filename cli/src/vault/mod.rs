//! Where a vault is, and how to get there: from a URL and its options to a store.

mod azure;
mod gcs;
mod options;
mod place;
mod s3;

use std::sync::Arc;

use bodley_io::kafka::security::{Material, Tls, TlsOptions, Trust};
use bodley_io::store::SharedStore;
use bodley_io::store::disk::{DirectIo, DiskStore};
use bodley_storage_rest::Environment;
use bodley_storage_rest::azure::AzureStore;
use bodley_storage_rest::gcs::GcsStore;
use bodley_storage_rest::s3::S3Store;

use crate::files;
pub use options::{Options, VaultOption};
pub use place::{Place, Remote};

/// Of a file of certificates, bytes.
const LARGEST_CA: u64 = 4 << 20;

/// A store, and whether it tries again by itself.
pub struct Opened {
    /// The store.
    pub store: SharedStore,
    /// Its requests are repeated, limited and timed where they are made.
    pub is_remote: bool,
}

/// The store at `url`.
///
/// # Errors
/// What is wrong with the URL or an option, for people. Nothing is sent yet.
pub fn open(
    url: &str,
    (options, flag): (&[VaultOption], &'static str),
    single_writer: bool,
) -> Result<Opened, String> {
    let mut options = Options::new(options, flag)?;
    let remote = match Place::parse(url)? {
        Place::Remote(remote) => remote,
        Place::Folder(path) => {
            options.none_left("a folder")?;
            return Ok(Opened { store: Arc::new(DiskStore::new(path, DirectIo::Auto)), is_remote: false });
        }
    };
    let (tls, environment) = (tls(&mut options, &remote)?.config(), Environment::of_process());
    let wrong = |error: bodley_storage_rest::SettingError| format!("{url}: {error}");
    let store: SharedStore = match remote {
        Remote::S3 { bucket, prefix } => {
            let settings = s3::settings(bucket, prefix, &mut options, single_writer)?;
            options.none_left("s3://")?;
            Arc::new(S3Store::new(settings, &environment, &tls).map_err(wrong)?)
        }
        Remote::Azure { account, container, prefix } => {
            let settings = azure::settings((account, container, prefix), &mut options)?;
            options.none_left("az://")?;
            Arc::new(AzureStore::new(settings, &environment, &tls).map_err(wrong)?)
        }
        Remote::Gcs { bucket, prefix } => {
            let settings = gcs::settings(bucket, prefix, &mut options)?;
            options.none_left("gs://")?;
            Arc::new(GcsStore::new(settings, &environment, &tls).map_err(wrong)?)
        }
    };
    Ok(Opened { store, is_remote: true })
}

/// Whom we trust: the system's certificates, or those of `ca-file` or, at S3, AWS_CA_BUNDLE.
fn tls(options: &mut Options, remote: &Remote) -> Result<Tls, String> {
    let bundle = || {
        let path = std::env::var("AWS_CA_BUNDLE").ok().filter(|path| !path.is_empty());
        path.filter(|_| matches!(remote, Remote::S3 { .. }))
    };
    let named = options.text("ca-file").map(|path| ("ca-file", path));
    let trust = match named.or_else(|| Some(("AWS_CA_BUNDLE", bundle()?))) {
        None => Trust::System,
        Some((name, path)) => {
            let bytes = files::bytes(std::path::Path::new(&path), LARGEST_CA)
                .map_err(|error| format!("{name}: {path} {error}"))?;
            Trust::Pem(Material { source: path, bytes: bytes.into() })
        }
    };
    Tls::new(&TlsOptions { trust, ..TlsOptions::default() }).map_err(|error| error.to_string())
}

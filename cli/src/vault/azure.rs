//! Options of `az://`.

use bodley_storage_rest::azure::{AzureOptions, Immutability};

use super::options::{LOCKED, Options};

/// Reads them.
pub fn settings(
    (account, container, prefix): (String, String, String),
    options: &mut Options,
) -> Result<AzureOptions, String> {
    let mut settings = AzureOptions::new(account, container, prefix);
    settings.access.endpoint = options.text("endpoint");
    if let Some(name) = options.text("credentials") {
        settings.access.auth =
            name.parse().map_err(|why: String| options.wrong(&format!("credentials: {why}")))?;
    }
    if let Some(version) = options.text("api-version") {
        settings.api_version = version;
    }
    settings.access_tier = options.text("access-tier");
    settings.encryption_scope = options.text("encryption-scope");
    let lock = options.lock(("immutability-mode", LOCKED), "immutability-days")?;
    settings.immutability = lock.map(|(locked, days)| Immutability { locked, days });
    settings.tags = options.pairs("tags")?;
    settings.part_len = options.bytes("part-size")?;
    settings.patience = options.patience()?;
    Ok(settings)
}

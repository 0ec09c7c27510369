//! Options of `gs://`.

use bodley_storage_rest::gcs::{GcsOptions, Retention};

use super::options::{LOCKED, Options};

/// Reads them.
pub fn settings(bucket: String, prefix: String, options: &mut Options) -> Result<GcsOptions, String> {
    let mut settings = GcsOptions::new(bucket, prefix);
    settings.access.endpoint = options.text("endpoint");
    settings.access.credentials_file = options.text("credentials-file").map(Into::into);
    settings.access.token_file = options.text("token-file").map(Into::into);
    settings.storage_class = options.text("storage-class");
    settings.kms_key = options.text("kms-key");
    settings.user_project = options.text("user-project");
    let lock = options.lock(("retention-mode", LOCKED), "retention-days")?;
    settings.retention = lock.map(|(locked, days)| Retention { locked, days });
    settings.tags = options.pairs("tags")?;
    settings.part_len = options.bytes("part-size")?;
    settings.patience = options.patience()?;
    Ok(settings)
}

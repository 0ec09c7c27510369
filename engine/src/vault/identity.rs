//! vault.json: who a vault is. Written once, before the first commit, which says its SHA-256.

use bodley_io::store::{Put, SharedStore, StoreError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::commit::{is_segment_path, seq_of_path};
use super::{VaultError, now_ms, random_hex, sha256_hex};

pub(crate) const PATH: &str = "vault.json";
const MAGIC: &str = "bodley-vault";
const FORMAT: u32 = 1;
const MAX_LEN: u64 = 64 << 10;
/// A put that was repeated on its way may say of its own first attempt that it was created; so often in a row it does not.
const PROOFS: usize = 8;

/// vault.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    magic: String,
    format: u32,
    /// 32 hex digits.
    pub vault_id: String,
    /// The source cluster.
    pub cluster_id: String,
    /// ms.
    pub created: i64,
    /// Digest algorithm of chunks, or `none`.
    pub evidence: String,
    /// The vault whose remains this one was made from, if it was; `unknown` when they did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilt_from: Option<String>,
}

/// Reads vault.json; also returns its SHA-256. Where there is a log beside it, whatever is wrong with it is damage.
pub(super) async fn find(store: &SharedStore) -> Result<(Identity, String), VaultError> {
    let error = match read(store).await {
        Err(error @ (VaultError::Absent { .. } | VaultError::Foreign { .. })) => error,
        result => return result,
    };
    let log = store.list("log/", "").await.unwrap_or_default();
    let log = log.iter().any(|object| seq_of_path(&object.path).is_some());
    let data = store.list("data/", "").await.unwrap_or_default();
    if !log && !data.iter().any(|object| is_segment_path(&object.path)) {
        return Err(error);
    }
    // Another writer may have made the vault between the two looks.
    let error = match read(store).await {
        Err(error @ (VaultError::Absent { .. } | VaultError::Foreign { .. })) => error,
        result => return result,
    };
    let what = match error {
        VaultError::Foreign { what, .. } => what,
        _ if log => "it is missing, and a log of commits is there".to_owned(),
        _ => "it is missing, and segments are there".to_owned(),
    };
    Err(VaultError::damaged(PATH, what))
}

/// The bytes of vault.json.
pub(crate) async fn bytes(store: &SharedStore) -> Result<Bytes, StoreError> {
    store.get(PATH, MAX_LEN).await
}

/// A store that settles races must say of a name that is taken that it is. `bytes` are those of the object at `path`: where put-if-absent is
/// ignored they replace themselves.
pub(crate) async fn prove(store: &SharedStore, path: &str, bytes: Bytes) -> Result<(), VaultError> {
    for _ in 0..PROOFS {
        if store.put_if_absent(path, bytes.clone()).await? == Put::Exists {
            return Ok(());
        }
    }
    match store.decides_races() {
        true => Err(VaultError::Overwrites { url: store.url() }),
        false => Ok(()),
    }
}

async fn read(store: &SharedStore) -> Result<(Identity, String), VaultError> {
    let url = store.url();
    let bytes = match store.get(PATH, MAX_LEN).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Err(VaultError::Absent { url }),
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(VaultError::Foreign { url, what: "it is a file, or lies below one".into() });
        }
        Err(StoreError::TooLarge { size, .. }) => {
            return Err(VaultError::Foreign { url, what: format!("vault.json has {size} bytes") });
        }
        Err(error) => return Err(error.into()),
    };
    let foreign = |what: String| VaultError::Foreign { url: url.clone(), what };
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| foreign(format!("vault.json is no JSON ({e})")))?;
    if value.get("magic").and_then(|magic| magic.as_str()) != Some(MAGIC) {
        return Err(foreign("vault.json has not bodley's magic".into()));
    }
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    if format != Some(FORMAT.into()) {
        let format = format.map_or("unknown".to_owned(), |format| format.to_string());
        return Err(VaultError::Unsupported(format!("vault.json says format {format}")));
    }
    let identity = serde_json::from_value(value).map_err(|e| VaultError::damaged(PATH, e.to_string()))?;
    Ok((identity, sha256_hex(&bytes)))
}

/// Writes vault.json, unless there is one: another writer may make the vault at the same time. Tells whether it is ours.
pub(super) async fn make(
    store: &SharedStore,
    cluster_id: &str,
    rebuilt_from: Option<String>,
) -> Result<bool, VaultError> {
    for folder in ["log/", "data/"] {
        if store.list(folder, "").await?.is_empty() {
            continue;
        }
        if store.size(PATH).await?.is_some() {
            return Ok(false);
        }
        let what = format!("it is missing, and objects under {folder} are there");
        return Err(VaultError::damaged(PATH, what));
    }
    let identity = Identity {
        magic: MAGIC.into(),
        format: FORMAT,
        vault_id: random_hex()?,
        cluster_id: cluster_id.into(),
        created: now_ms(),
        evidence: "none".into(),
        rebuilt_from,
    };
    let bytes = serde_json::to_vec_pretty(&identity).map_err(|e| VaultError::Internal(e.to_string()))?;
    Ok(store.put_if_absent(PATH, bytes.into()).await? == Put::Created)
}

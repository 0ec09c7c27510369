//! The place of a vault: can it be read and written, does it keep put-if-absent, what is in it.

use std::sync::Arc;
use std::time::Instant;

use bodley_io::store::{Put, SharedStore, StoreError};
use bytes::Bytes;
use ulid::Ulid;

use super::Check;
use crate::vault::VaultError;
use crate::vault::log::Vault;

/// A store that takes longer for a few bytes makes commits slow.
const SLOW_MS: u128 = 1000;

/// Looks at the vault, if there is one, and tries what commits need.
pub async fn examine(store: &SharedStore, cluster_id: Option<&str>, checks: &mut Vec<Check>) {
    let url = store.url();
    let mut single_writer = false;
    match Vault::open(Arc::clone(store)).await {
        Ok(mut vault) => {
            // What can't be folded is told by others.
            let _ = vault.fold(false).await;
            single_writer = vault.single_writer();
            checks.push(Check::ok("store", &url, format!("a vault, {} commits", vault.receipt().seq)));
            let theirs = &vault.identity().cluster_id;
            if cluster_id.is_some_and(|ours| ours != theirs) {
                let what = format!("it holds cluster {theirs}, not this one");
                checks.push(Check::note("store", &url, what).hint(
                    "a restore into another cluster is fine; a backup of this one needs a vault of its own",
                ));
            }
        }
        Err(VaultError::Absent { .. }) => {
            checks.push(Check::ok("store", &url, "no vault yet; a backup makes one"))
        }
        Err(error) => {
            // Where nobody can look nothing is written either: the place may be a slip.
            let hint = match error {
                VaultError::Store(_) => "check the place and the rights there",
                _ => "`bodley verify` tells more",
            };
            checks.push(Check::wrong("store", &url, error.to_string()).hint(hint));
            return;
        }
    }
    let path = format!("doctor-{}", Ulid::generate());
    let began = Instant::now();
    let outcome = probe(store, &path).await;
    let left = match store.delete(&path).await {
        Err(_) if outcome.is_ok() => Some(path),
        _ => None,
    };
    checks.push(match outcome {
        Ok(true) => {
            let ms = began.elapsed().as_millis();
            let what = format!("written and read in {ms} ms; a name is given once only (put-if-absent)");
            match ms > SLOW_MS {
                true => Check::note("store", &url, what).hint("the store is slow: commits will be, too"),
                false => Check::ok("store", &url, what),
            }
        }
        Ok(false) if single_writer => {
            let what = "a name can be given twice, as is known: the vault was made with --single-writer";
            Check::note("store", &url, what).hint("never run two backups into it at a time")
        }
        Ok(false) => {
            Check::wrong("store", &url, "a name can be given twice: two writers would damage a vault").hint(
                "this store does not keep put-if-absent: use another one, or `bodley backup --single-writer` when only ever \
                 one backup at a time runs",
            )
        }
        Err(error @ StoreError::Denied { .. }) => Check::note("store", &url, error.to_string())
            .hint("enough for a restore, not for a backup: it needs the right to write"),
        Err(error) => Check::wrong("store", &url, error.to_string())
            .hint("check the place, its permissions and its room"),
    });
    if let Some(path) = left {
        let what =
            format!("the probe {path} stays: there is no right to delete, which a backup does not need");
        checks.push(Check::note("store", &url, what).hint("delete it by other means"));
    }
}

/// Whether the second of two puts of one name is refused.
async fn probe(store: &SharedStore, path: &str) -> Result<bool, StoreError> {
    let body = Bytes::from_static(b"bodley doctor");
    let first = store.put_if_absent(path, body.clone()).await?;
    let second = store.put_if_absent(path, Bytes::from_static(b"another")).await?;
    let found = store.get(path, 100).await?;
    Ok((first, second) == (Put::Created, Put::Exists) && found == body)
}

//! Objects that no commit names: what a run that was cut leaves behind. They cost room, nothing else.

use std::collections::HashSet;

use bodley_io::store::{SharedStore, StoreError, list_all};
use tokio::sync::watch;

use crate::report::counted;
use crate::vault::commit::{is_segment_path, is_table_path};

/// Gives up uploads that earlier runs left in the store: they cost room that no listing shows. What goes wrong is a note, but for a right that is
/// missing: nothing else needs it.
pub(crate) async fn tidy(store: &SharedStore, mut stop: watch::Receiver<bool>, notes: &mut Vec<String>) {
    let tidied = tokio::select! {
        tidied = store.tidy() => tidied,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match tidied {
        Ok(0) => {}
        Ok(count) => notes.push(format!("gave up {} that earlier runs left", counted(count, "upload"))),
        Err(error @ StoreError::Denied { .. }) => {
            tracing::debug!("uploads that earlier runs left are not given up: {error}");
        }
        Err(error) => notes.push(format!("uploads that earlier runs left could not be given up: {error}")),
    }
}

/// Notes about the objects under `data/` and `index/` that are not in `named`. Where the log can't be read in `whole`, commits that are damaged
/// may name them.
pub async fn notes(
    store: &SharedStore,
    named: &HashSet<String>,
    whole: bool,
) -> Result<Vec<String>, StoreError> {
    let mut notes = Vec::new();
    let why = match whole {
        true => "not part of the backup (a run that was cut)",
        false => "named by no commit that can be read",
    };
    let mut foreign = Vec::new();
    for (folder, what) in [("data/", "segment"), ("index/", "table")] {
        let (mut count, mut bytes) = (0u64, 0u64);
        for object in list_all(&**store, folder).await? {
            if named.contains(&object.path) {
                continue;
            }
            if is_segment_path(&object.path) || is_table_path(&object.path) {
                (count, bytes) = (count + 1, bytes + object.size);
            } else {
                foreign.push(object.path);
            }
        }
        let (s, are) = if count == 1 { ("", "is") } else { ("s", "are") };
        if count > 0 {
            notes.push(format!("{count} {what}{s}, {bytes} bytes, {are} {why}"));
        }
    }
    if let Some(first) = foreign.first() {
        notes.push(format!("{} files are none of bodley's, e.g. {first}", foreign.len()));
    }
    Ok(notes)
}

//! Rebuild: a new vault from what is left of one whose log is lost or damaged. See docs/adr/0005-rebuild.md.
//!
//! ```text
//! remains.rs  what can be read: commits, tables, footers    chain.rs  which row says what about an offset, best first
//! copy.rs     chunks, checked, into new segments            transactions.rs  aborted transactions from the data itself
//! ```
//! Chunks are copied verbatim but packed anew, so that the new vault holds nothing that its own log does not name.

mod chain;
mod copy;
mod remains;
mod transactions;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bodley_io::store::SharedStore;
use tokio::sync::watch;

use crate::error::EngineError;
use crate::inventory;
use crate::progress::Progress;
use crate::report::Report;
use crate::vault::SegmentRef;
use crate::vault::log::{Addition, Vault};
use crate::vault::rows::{AbortedRow, Range, Rows};

use copy::Copier;
use remains::Remains;

/// What the remains may not tell.
#[derive(Debug, Clone, Default)]
pub struct RebuildOptions {
    /// The source cluster, if vault.json is lost.
    pub cluster_id: Option<String>,
}

/// Makes a vault in `target`, which must be empty, from what is left in `source`, which is only read.
pub async fn rebuild(
    source: SharedStore,
    target: SharedStore,
    options: RebuildOptions,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Report, EngineError> {
    must_be_empty(&target).await?;
    let mut report = Report::default();
    let mut remains = Remains::read(&source, &mut report).await?;
    let cluster_id = cluster_id(remains.cluster_id.take(), options.cluster_id)?;
    let from = remains.vault_id.take().unwrap_or_else(|| "unknown".to_owned());
    let mut vault = Vault::create_rebuilt(Arc::clone(&target), &cluster_id, &from).await?;
    remains.adopt(&vault.identity().vault_id);
    remains.name_the_nameless(&mut report);
    progress.plan(remains.parts.len() as u64, remains.bytes());

    let parts = std::mem::take(&mut remains.parts);
    let watched = (Arc::clone(&progress), stop.clone());
    let mut copier = Copier::new(source, target, vault.writer(), &remains.topics, watched);
    for (key, lives) in parts {
        let mut cursor = -1;
        for (rewind, part) in lives {
            cursor = copier.part((key, rewind), part, cursor, &mut report).await?;
        }
        progress.partition_done();
        if *stop.borrow() {
            report.interrupted = true;
            return Ok(report);
        }
    }
    let copied = copier.finish().await?;
    remains.tell_unnamed(&copied.used, &mut report);
    report.objects = copied.segments.len() as u64;
    commit(&mut vault, remains, copied).await?;
    describe(&mut vault, &mut report).await?;
    report.bytes = progress.snapshot().bytes;
    Ok(report)
}

/// Everything that goes into the new log.
#[derive(Default)]
struct Copied {
    segments: Vec<SegmentRef>,
    ranges: Vec<Range>,
    aborted: Vec<AbortedRow>,
    /// Segments of the old vault that chunks were taken from.
    used: HashSet<String>,
}

async fn must_be_empty(target: &SharedStore) -> Result<(), EngineError> {
    let refused = |what: &str| {
        Err(EngineError::Refused(format!(
            "{} holds {what} already: a vault is rebuilt into an empty place",
            target.url()
        )))
    };
    if target.size("vault.json").await?.is_some() {
        return refused("a vault.json");
    }
    for folder in ["log/", "index/", "data/", "checkpoint/"] {
        if !target.list(folder, "").await?.is_empty() {
            return refused(&format!("objects under {folder}"));
        }
    }
    Ok(())
}

fn cluster_id(known: Option<String>, given: Option<String>) -> Result<String, EngineError> {
    match (known, given) {
        (Some(known), Some(given)) if known != given => {
            Err(EngineError::Refused(format!("this is a vault of cluster {known}, not of {given}")))
        }
        (Some(id), _) | (None, Some(id)) if !id.is_empty() => Ok(id),
        _ => Err(EngineError::Refused(
            "vault.json is lost or damaged, and with it the id of the source cluster: name it with --cluster-id"
                .into(),
        )),
    }
}

/// One commit for each rewind epoch, as the rows of a commit are of one.
async fn commit(vault: &mut Vault, remains: Remains, copied: Copied) -> Result<(), EngineError> {
    let mut by_epoch: BTreeMap<u32, Rows> = BTreeMap::new();
    for range in copied.ranges {
        by_epoch.entry(range.rewind).or_default().ranges.push(range);
    }
    for row in copied.aborted {
        by_epoch.entry(row.rewind).or_default().aborted.push(row);
    }
    let first = by_epoch.entry(0).or_default();
    first.topics = remains.topics.into_values().collect();
    first.configs = remains.configs.into_values().flatten().collect();
    first.groups = remains.groups.into_values().flatten().collect();
    let mut segments = copied.segments;
    for (_, rows) in by_epoch {
        if !rows.is_empty() {
            vault.append(Addition { segments: std::mem::take(&mut segments), rows }).await?;
        }
    }
    Ok(())
}

/// What the new vault holds, read back from it.
async fn describe(vault: &mut Vault, report: &mut Report) -> Result<(), EngineError> {
    let state = vault.fold(true).await?;
    report.receipt = vault.receipt_text();
    for topic in state.topics.values() {
        report.topics.push(inventory::summarize(&state, topic));
        report.gaps.extend(inventory::gaps(&state, topic));
    }
    report.topics.sort_by(|a, b| (&a.topic, a.incarnation).cmp(&(&b.topic, b.incarnation)));
    report.records = report.topics.iter().map(|topic| topic.records).sum();
    let groups: std::collections::BTreeSet<_> =
        state.groups.iter().filter(|(_, pair)| pair.header.present).map(|((group, _), _)| group).collect();
    report.groups = groups.len() as u64;
    Ok(())
}

//! Who a restore is: the same vault, target and flags make the same id, so that the same command goes on where an earlier run was cut.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::plan::Plan;
use super::{Choice, RestoreOptions};
use crate::error::EngineError;
use crate::vault::{hex, sha256_hex};

/// Changes when the same plan would send other records, or in another order: counting them then no longer finds the place. Which of them
/// share a batch does not matter.
const PLAN_VERSION: u32 = 1;
/// Groups and transactional ids of restores begin so.
pub const PREFIX: &str = "bodley-restore-";
const SHORT: usize = 20;
const MAX_ID: usize = 100;

/// The flags that choose what is restored and how it looks. Those that came later stand in it where they are used, so that ids stay what they were.
#[derive(Serialize)]
struct Flags<'a> {
    vault: &'a str,
    cluster: &'a str,
    topics: Vec<&'a String>,
    exclude: Vec<&'a String>,
    internal: bool,
    rename: Vec<&'a String>,
    topic_config: Vec<&'a String>,
    replication_factor: Option<i16>,
    hold_retention_s: Option<u64>,
    append: bool,
    #[serde(flatten)]
    part: Option<Part<'a>>,
}

/// Flags that choose a part.
#[derive(Serialize, PartialEq, Default)]
struct Part<'a> {
    at: Option<String>,
    incarnation: Vec<&'a String>,
    partitions: Option<&'a String>,
    from: Option<String>,
    to: Option<String>,
    windows: Vec<&'a String>,
    from_offset: Vec<&'a String>,
    to_offset: Vec<&'a String>,
    stamp_headers: bool,
}

impl<'a> Part<'a> {
    fn of(choice: &'a Choice) -> Self {
        let window = &choice.window;
        Self {
            at: choice.at.map(|at| at.to_string()),
            incarnation: sorted(&choice.incarnation),
            partitions: choice.partitions.as_ref(),
            from: window.from.map(|from| from.to_string()),
            to: window.to.map(|to| to.to_string()),
            windows: sorted(&window.windows),
            from_offset: sorted(&window.from_offset),
            to_offset: sorted(&window.to_offset),
            stamp_headers: choice.stamp_headers,
        }
    }
}

fn sorted(flags: &[String]) -> Vec<&String> {
    let mut flags: Vec<&String> = flags.iter().collect();
    flags.sort_unstable();
    flags.dedup();
    flags
}

/// The restore's id: `--restore-id`, or made of what it does.
pub fn restore_id(vault: &str, cluster: &str, options: &RestoreOptions) -> Result<String, EngineError> {
    if let Some(id) = &options.restore_id {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        return match !id.is_empty() && id.len() <= MAX_ID && id.chars().all(legal) {
            true => Ok(id.clone()),
            false => Err(EngineError::Refused(format!(
                "--restore-id `{id}`: at most {MAX_ID} letters, digits, dots, underscores and dashes"
            ))),
        };
    }
    let choice = &options.choice;
    let part = Part::of(choice);
    let flags = Flags {
        vault,
        cluster,
        topics: sorted(&choice.selection.topics),
        exclude: sorted(&choice.selection.exclude),
        internal: choice.selection.include_internal,
        rename: sorted(&choice.rename),
        topic_config: sorted(&options.topic_config),
        replication_factor: options.replication_factor,
        hold_retention_s: options.hold_retention.map(|hold| hold.as_secs()),
        append: options.append,
        part: (part != Part::default()).then_some(part),
    };
    let text = serde_json::to_vec(&flags).map_err(|e| EngineError::Refused(e.to_string()))?;
    Ok(short_digest(&text))
}

/// Enough of a SHA-256 to tell things apart, in hex digits.
pub fn short_digest(bytes: &[u8]) -> String {
    let mut digest = sha256_hex(bytes);
    digest.truncate(SHORT);
    digest
}

/// A digest of all that a plan sends, and where.
pub fn plan_digest(seq: u64, plan: &Plan) -> String {
    let mut digest = Sha256::new();
    digest.update(PLAN_VERSION.to_be_bytes());
    digest.update(seq.to_be_bytes());
    for topic in &plan.topics {
        digest.update(topic.source.topic);
        digest.update((topic.target.len() as u64).to_be_bytes());
        digest.update(topic.target.as_bytes());
        for partition in &topic.partitions {
            digest.update(partition.tp.partition.to_be_bytes());
            let work = &partition.work;
            digest.update((work.chunks.len() as u64).to_be_bytes());
            for chunk in &work.chunks {
                digest.update(chunk.segment);
                digest.update(chunk.position.to_be_bytes());
                digest.update(chunk.kept.to_be_bytes());
            }
            if let Some(window) = &work.window {
                for bound in [window.from, window.to, window.from_offset, window.to_offset] {
                    digest.update([u8::from(bound.is_some())]);
                    digest.update(bound.unwrap_or(0).to_be_bytes());
                }
            }
            digest.update(if work.stamp.is_some() { "stamped" } else { "" });
        }
    }
    let mut hex = hex(&digest.finalize());
    hex.truncate(32);
    hex
}

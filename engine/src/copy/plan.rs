//! What the target lacks: the source's log, checked link by link, held against what the target lists.

use std::collections::{HashMap, HashSet};

use bodley_io::store::{SharedStore, StoreError, list_all};
use futures_util::stream::StreamExt;

use super::courier::{Side, Tally, Trouble};
use super::target::Standing;
use crate::error::EngineError;
use crate::vault::VaultError;
use crate::vault::checkpoint;
use crate::vault::commit::{
    Commit, SegmentRef, TableRef, commit_path, is_segment_path, is_table_path, seq_of_path,
};
use crate::vault::log::Vault;
use crate::vault::reading::Features;

/// A commit of which something is missing.
pub(super) struct Work {
    pub seq: u64,
    /// Its digest.
    pub digest: String,
    /// The commit itself is, too.
    pub put: bool,
    /// Segments that may be missing.
    pub segments: Vec<SegmentRef>,
    /// Tables that may be missing.
    pub tables: Vec<TableRef>,
}

impl Work {
    /// Bytes of its objects.
    pub fn bytes(&self) -> u64 {
        let segments = self.segments.iter().map(|segment| segment.bytes);
        segments.chain(self.tables.iter().map(|table| table.bytes)).fold(0, u64::saturating_add)
    }
}

/// What is to be done, in the order of the log.
#[derive(Default)]
pub(super) struct Plan {
    pub work: Vec<Work>,
    /// Commits of the source that can't be read. Nothing behind one is in `work`, but for those that the target had already.
    pub troubles: Vec<Trouble>,
    /// Digests of the commits that checkpoints of the source reach.
    pub digests: HashMap<u64, String>,
    /// What the target has for sure.
    pub skipped: Tally,
    /// The vault says that its writers come one after another.
    pub single_writer: bool,
    empty_target: bool,
}

impl Plan {
    /// Goes through the source's log up to the head at which it was opened.
    pub async fn make(from: &Vault, target: &SharedStore, standing: &Standing) -> Result<Self, EngineError> {
        let present = if standing.is_empty() { Present::default() } else { Present::list(target).await? };
        let wanted = checkpointed(from.store()).await;
        let mut plan = Self { empty_target: standing.is_empty(), ..Self::default() };
        let mut features = Features::default();
        let mut commits = std::pin::pin!(from.read_commits(1..=from.receipt().seq));
        let (mut seq, mut prev) = (0, None);
        while let Some(read) = commits.next().await {
            seq += 1;
            let there = seq <= standing.seq();
            let (commit, digest) = match check(from, seq, read, prev.as_ref()) {
                Ok(read) => read,
                Err(VaultError::Damaged { object, what }) => {
                    plan.troubles.push(Trouble::new(Side::Source, object, what));
                    if !there {
                        break;
                    }
                    // The target has it; its newest commit is the same as the source's.
                    prev = standing.receipt().filter(|r| r.seq == seq).map(|r| r.digest.clone());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            features.note(&commit)?;
            features.check_writing()?;
            if wanted.contains(&seq) {
                plan.digests.insert(seq, digest.clone());
            }
            plan.add(commit, &digest, present.of(there));
            prev = Some(digest);
        }
        plan.single_writer = features.single_writer();
        Ok(plan)
    }

    fn add(&mut self, commit: Commit, digest: &str, present: Option<&Present>) {
        let Commit { seq, mut segments, mut tables, .. } = commit;
        let put = !present.is_some_and(|present| present.commits.contains(&seq));
        if let Some(present) = present {
            segments.retain(|segment| {
                let found = present.segments.get(&number(&segment.id)) == Some(&segment.bytes);
                self.skipped.skip_if(found, segment.bytes)
            });
            tables.retain(|table| {
                let found = present.tables.get(&number(&table.id)) == Some(&table.bytes);
                self.skipped.skip_if(found, table.bytes)
            });
            self.skipped.commits += u64::from(!put);
        }
        if put || !segments.is_empty() || !tables.is_empty() {
            self.work.push(Work { seq, digest: digest.to_owned(), put, segments, tables });
        }
    }

    /// There is nothing to begin with.
    pub fn is_hopeless(&self) -> bool {
        self.empty_target && self.work.is_empty()
    }

    /// Bytes of all objects that may be missing.
    pub fn bytes(&self) -> u64 {
        self.work.iter().map(Work::bytes).fold(0, u64::saturating_add)
    }
}

/// A commit that follows the one whose digest is `prev`, where that is known, and names nothing that cannot be.
fn check(
    from: &Vault,
    seq: u64,
    read: Result<(Commit, String), VaultError>,
    prev: Option<&String>,
) -> Result<(Commit, String), VaultError> {
    let (commit, digest) = read?;
    if seq == 1 || prev.is_some() {
        from.check_link(&commit, prev)?;
    }
    // Ids become paths at the target.
    let sound = commit.segments.iter().all(|segment| is_segment_path(&segment.path()))
        && commit.tables.iter().all(|table| is_table_path(&table.path()));
    match sound {
        true => Ok((commit, digest)),
        false => Err(VaultError::damaged(&commit_path(seq), "it names an object without a ULID".into())),
    }
}

/// The commits that checkpoints of the source reach, as far as they can be listed.
async fn checkpointed(source: &SharedStore) -> HashSet<u64> {
    let listed = list_all(&**source, checkpoint::FOLDER).await.unwrap_or_default();
    listed.iter().filter_map(|object| checkpoint::seq_of_path(&object.path)).collect()
}

/// What the target lists: sizes by ULID.
#[derive(Default)]
struct Present {
    commits: HashSet<u64>,
    segments: HashMap<u128, u64>,
    tables: HashMap<u128, u64>,
}

impl Present {
    async fn list(target: &SharedStore) -> Result<Self, StoreError> {
        let mut present = Self::default();
        let commits = list_all(&**target, "log/").await?;
        present.commits = commits.iter().filter_map(|object| seq_of_path(&object.path)).collect();
        let name = |path: &str| path.split_once('/')?.1.split_once('.').map(|(name, _)| number(name));
        for object in list_all(&**target, "data/").await? {
            present.segments.extend(name(&object.path).map(|name| (name, object.size)));
        }
        for object in list_all(&**target, "index/").await? {
            present.tables.extend(name(&object.path).map(|name| (name, object.size)));
        }
        Ok(present)
    }

    /// Only of commits that are `there` it is known that what is listed is what was meant.
    fn of(&self, there: bool) -> Option<&Self> {
        there.then_some(self)
    }
}

fn number(id: &str) -> u128 {
    ulid::Ulid::from_string(id).map(u128::from).unwrap_or_default()
}

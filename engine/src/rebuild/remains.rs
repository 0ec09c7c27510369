//! What is left of a vault: commits, tables and footers that can be read, and what they say together.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::store::{SharedStore, StoreError, list_all};
use bodley_protocol::TopicId;

use crate::error::{EngineError, Severity};
use crate::report::{Issue, Report};
use crate::vault::checkpoint::page_paths;
use crate::vault::commit::{Commit, MAX_COMMIT, TableRef, is_segment_path, is_table_path, seq_of_path};
use crate::vault::log::Vault;
use crate::vault::pages::is_page;
use crate::vault::reading::MAX_TABLE;
use crate::vault::rows::{ConfigRow, GroupRow, Kind, Range, Rows, TopicRow};
use crate::vault::segment::read_footer;
use crate::vault::state::PartKey;
use crate::vault::table::Table;
use crate::vault::{VaultError, hex, sha256_hex, synthetic_id};

use super::chain::{Candidate, Part, Rank, Trouble};

const FOOTER_PART: usize = 2 << 20;

/// Everything that is left.
#[derive(Default)]
pub(super) struct Remains {
    pub vault_id: Option<String>,
    pub cluster_id: Option<String>,
    pub topics: BTreeMap<TopicId, TopicRow>,
    pub configs: BTreeMap<TopicId, Vec<ConfigRow>>,
    /// By group and topic, the header first.
    pub groups: BTreeMap<(String, TopicId), Vec<GroupRow>>,
    /// By rewind epoch.
    pub parts: BTreeMap<PartKey, BTreeMap<u32, Part>>,
    /// Segments with chunks that no table tells of.
    unnamed: Vec<(String, Rank)>,
    /// No commit is missing or damaged.
    whole: bool,
}

/// What the commits that can be read name.
#[derive(Default)]
struct Log {
    /// With the numbers of their commits.
    tables: HashMap<String, (u64, TableRef)>,
    segments: HashSet<String>,
    /// No commit is missing or damaged; a tail may be cut off all the same.
    whole: bool,
}

/// A table that could be read.
struct Found {
    path: String,
    seq: Option<u64>,
    rows: Rows,
}

/// The segments that are there.
#[derive(Default)]
struct Segments {
    sizes: HashMap<String, u64>,
    /// Where the footers say that a segment is.
    places: HashMap<[u8; 16], String>,
}

impl Remains {
    /// Reads all but the chunks. What can't be read and costs data is an error in `report`, anything else a note.
    pub async fn read(source: &SharedStore, report: &mut Report) -> Result<Self, EngineError> {
        let mut remains = Self::default();
        let log = remains.read_log(source, report).await?;
        let tables = read_tables(source, &log, report).await?;
        let listed = list_all(&**source, "data/").await?;
        let listed = listed.into_iter().filter(|object| is_segment_path(&object.path));
        let mut segments = Segments {
            sizes: listed.map(|object| (object.path, object.size)).collect(),
            places: HashMap::new(),
        };
        if tables.is_empty() && segments.sizes.is_empty() {
            let url = source.url();
            return Err(EngineError::Refused(format!(
                "{url} has neither segments nor index tables that can be read: there is nothing to rebuild from"
            )));
        }
        let footers = read_footers(source, &mut segments, &tables, report).await?;
        remains.add_tables(tables, &segments, &log);
        remains.add_footers(footers, &log);
        remains.whole = log.whole;
        remains.aborted_belong_to_rows();
        Ok(remains)
    }

    async fn read_log(&mut self, source: &SharedStore, report: &mut Report) -> Result<Log, EngineError> {
        let vault = match Vault::open_damaged(Arc::clone(source)).await {
            Ok(vault) => Some(vault),
            Err(VaultError::Damaged { .. } | VaultError::Absent { .. } | VaultError::Foreign { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let mut log = Log { whole: vault.is_some(), ..Log::default() };
        let mut trusted = vault.as_ref();
        let mut seqs: Vec<u64> =
            list_all(&**source, "log/").await?.iter().filter_map(|o| seq_of_path(&o.path)).collect();
        seqs.sort_unstable();
        let mut prev = None;
        for (expected, seq) in (1..).zip(seqs.iter().copied()) {
            log.whole &= seq == expected;
            let path = crate::vault::commit::commit_path(seq);
            let read = match source.get(&path, MAX_COMMIT).await {
                Ok(bytes) => Commit::decode(&path, seq, &bytes),
                Err(error) => Err(gone(&path, error)?),
            };
            let (commit, digest) = match read {
                Ok(read) => read,
                Err(error @ VaultError::Damaged { .. }) => {
                    (log.whole, prev) = (false, None);
                    report.notes.push(error.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(feature) = commit.read_features.as_ref().and_then(|features| features.first()) {
                return Err(VaultError::Unsupported(format!("feature `{feature}`")).into());
            }
            if let Some(vault) = &vault
                && let Err(error) = vault.check_link(&commit, prev.as_ref())
            {
                log.whole = false;
                if seq == 1 {
                    report.notes.push(error.to_string());
                    trusted = None;
                }
            }
            prev = Some(digest);
            log.tables.extend(commit.tables.into_iter().map(|table| (table.path(), (seq, table))));
            log.segments.extend(commit.segments.iter().map(|segment| segment.path()));
        }
        log.whole &= !seqs.is_empty();
        if let Some(vault) = trusted {
            self.vault_id = Some(vault.identity().vault_id.clone());
            self.cluster_id = Some(vault.identity().cluster_id.clone());
        }
        Ok(log)
    }

    fn add_tables(&mut self, tables: Vec<Found>, segments: &Segments, log: &Log) {
        for Found { seq, rows, .. } in in_order(tables) {
            self.topics.extend(rows.topics.into_iter().map(|row| (row.topic, row)));
            for of_topic in rows.configs.chunk_by(|a, b| a.topic == b.topic) {
                self.configs.extend(of_topic.first().map(|row| (row.topic, of_topic.to_vec())));
            }
            self.add_groups(&rows.groups);
            for row in rows.aborted {
                let lives = self.parts.entry((row.topic, row.partition)).or_default();
                lives.entry(row.rewind).or_default().aborted.insert((row.producer_id, row.first), row.marker);
            }
            let rank = if seq.is_some() { Rank::Log } else { Rank::Table };
            for row in rows.ranges {
                self.add_row(row, rank, segments, log);
            }
        }
    }

    /// A newer snapshot of a pair replaces all rows of an older one.
    fn add_groups(&mut self, rows: &[GroupRow]) {
        for pair in rows.chunk_by(|a, b| (&a.group, a.topic) == (&b.group, b.topic)) {
            let Some(header) = pair.first().filter(|row| row.partition < 0) else { continue };
            let known = self.groups.entry((header.group.clone(), header.topic)).or_default();
            if known.first().is_none_or(|known| known.taken <= header.taken) {
                *known = pair.to_vec();
            }
        }
    }

    fn add_row(&mut self, row: Range, rank: Rank, segments: &Segments, log: &Log) {
        if row.first < 0 || row.next < row.first {
            return;
        }
        let lives = self.parts.entry((row.topic, row.partition)).or_default();
        let part = lives.entry(row.rewind).or_default();
        part.reach(&row);
        if row.kind != Kind::Data {
            part.candidates.push(Candidate { row, object: String::new(), rank, footer_only: false });
            return;
        }
        let own = row.segment_path();
        let object = segments.places.get(&row.segment).cloned().unwrap_or(own);
        let size = segments.sizes.get(&object).copied();
        if size.is_some_and(|size| row.position.saturating_add(row.stored.into()) <= size) {
            let rank = if log.segments.contains(&object) { Rank::Log } else { rank };
            part.candidates.push(Candidate { row, object, rank, footer_only: false });
        } else {
            let what = if size.is_some() { "it is cut" } else { "it is missing" };
            let Range { first, next, .. } = row;
            part.troubles.push(Trouble { first, next, object, what: what.into() });
        }
    }

    fn add_footers(&mut self, footers: Vec<(String, Rows)>, log: &Log) {
        // What tables say of chunks is said already.
        let known: HashSet<_> = self
            .parts
            .values()
            .flat_map(BTreeMap::values)
            .flat_map(|part| &part.candidates)
            .filter(|c| c.is_data())
            .map(|c| chunk_key(&c.row))
            .collect();
        for (path, rows) in footers {
            let new: Vec<Range> =
                rows.ranges.into_iter().filter(|row| !known.contains(&chunk_key(row))).collect();
            for row in rows.topics {
                self.topics.entry(row.topic).or_insert(row);
            }
            if new.is_empty() {
                continue;
            }
            let rank = if log.segments.contains(&path) { Rank::Log } else { Rank::Footer };
            self.unnamed.push((path.clone(), rank));
            for row in new.into_iter().filter(|row| row.first >= 0 && row.next > row.first) {
                let lives = self.parts.entry((row.topic, row.partition)).or_default();
                let part = lives.entry(row.rewind).or_default();
                part.reach(&row);
                part.candidates.push(Candidate { row, object: path.clone(), rank, footer_only: true });
            }
        }
    }

    /// Says of which segments the footers had to do, but for those that were not needed: `used`.
    pub fn tell_unnamed(&self, used: &HashSet<String>, report: &mut Report) {
        for (path, rank) in &self.unnamed {
            let message = format!("{path} is in no index table that can be read");
            match (used.contains(path), *rank, self.whole) {
                (false, ..) => report.notes.push(format!("{message}, nor is it needed")),
                (true, Rank::Footer, true) => report.notes.push(format!(
                    "{message}, nor in a commit (a run that was cut): its records are in all the same"
                )),
                _ => report.errors.push(
                    Issue::new(
                        "doubt",
                        Severity::Missing,
                        format!("{message}: its rows are those of its footer"),
                    )
                    .object(path)
                    .hint("settings, consumer groups and gaps of its commit may be lost"),
                ),
            }
        }
    }

    /// Transactions of partitions without any row are of no use.
    fn aborted_belong_to_rows(&mut self) {
        for lives in self.parts.values_mut() {
            lives.retain(|_, part| part.extent.is_some());
        }
        self.parts.retain(|_, lives| !lives.is_empty());
    }

    /// Topics whose broker has no ids get those that the vault of this id makes, so that a backup goes on with them.
    pub fn adopt(&mut self, vault_id: &str) {
        let synthetic = self.topics.values().filter(|row| row.synthetic);
        let ids: HashMap<TopicId, TopicId> =
            synthetic.map(|row| (row.topic, synthetic_id(vault_id, &row.name, row.incarnation))).collect();
        let new = |id: TopicId| ids.get(&id).copied().unwrap_or(id);
        let topics = std::mem::take(&mut self.topics).into_values();
        self.topics = topics.map(|row| (new(row.topic), TopicRow { topic: new(row.topic), ..row })).collect();
        let configs = std::mem::take(&mut self.configs).into_iter();
        self.configs = configs
            .map(|(id, mut rows)| {
                rows.iter_mut().for_each(|row| row.topic = new(id));
                (new(id), rows)
            })
            .collect();
        let groups = std::mem::take(&mut self.groups).into_iter();
        self.groups = groups
            .map(|((group, id), mut rows)| {
                rows.iter_mut().for_each(|row| row.topic = new(id));
                ((group, new(id)), rows)
            })
            .collect();
        let parts = std::mem::take(&mut self.parts).into_iter();
        self.parts = parts
            .map(|((id, partition), mut lives)| {
                let rows = lives.values_mut().flat_map(|part| &mut part.candidates);
                rows.for_each(|candidate| candidate.row.topic = new(id));
                ((new(id), partition), lives)
            })
            .collect();
    }

    /// Topics whose name or settings are lost.
    pub fn name_the_nameless(&mut self, report: &mut Report) {
        let ids: BTreeSet<TopicId> = self.parts.keys().map(|key| key.0).collect();
        for id in ids {
            let last = self.parts.range((id, 0)..=(id, u32::MAX)).next_back();
            let partitions = last.map_or(0, |((_, partition), _)| partition + 1);
            let row = self.topics.entry(id).or_insert_with(|| {
                let name = format!("lost-{}", hex(&id));
                let message = format!("the name of topic id {} is lost: it is called {name}", hex(&id));
                report.errors.push(Issue::new("lost", Severity::Missing, message));
                let (present, internal, synthetic) = (false, false, false);
                TopicRow {
                    topic: id,
                    name,
                    present,
                    partitions,
                    replication: 1,
                    internal,
                    synthetic,
                    incarnation: 0,
                }
            });
            row.partitions = row.partitions.max(partitions);
        }
        for row in self.topics.values().filter(|row| !self.configs.contains_key(&row.topic)) {
            let message = format!("the settings of topic {} are lost", row.name);
            report.errors.push(Issue::new("lost", Severity::Missing, message).topic(&row.name));
        }
    }

    /// Bytes of all chunks.
    pub fn bytes(&self) -> u64 {
        let parts = self.parts.values().flat_map(BTreeMap::values);
        parts.flat_map(|part| &part.candidates).map(|c| u64::from(c.row.stored)).sum()
    }
}

/// The same for the rows that a table and a footer have of one chunk.
fn chunk_key(row: &Range) -> ([u8; 16], u64, u32, u64, i64, i64) {
    (row.segment, row.position, row.stored, row.crc64, row.first, row.next)
}

/// Commits' numbers are the order; tables that no commit tells of stand where their ULIDs, which hold a time, put them.
fn in_order(mut tables: Vec<Found>) -> Vec<Found> {
    tables.sort_by(|a, b| a.path.cmp(&b.path));
    let numbered: Vec<bool> = tables.iter().map(|table| table.seq.is_some()).collect();
    let (mut with, without): (Vec<_>, Vec<_>) = tables.into_iter().partition(|table| table.seq.is_some());
    with.sort_by_key(|table| table.seq);
    let (mut with, mut without) = (with.into_iter(), without.into_iter());
    let next = |numbered| if numbered { with.next() } else { without.next() };
    numbered.into_iter().filter_map(next).collect()
}

/// What a store says of an object that can't be there as it should.
fn gone(path: &str, error: StoreError) -> Result<VaultError, EngineError> {
    match error {
        StoreError::NotFound { .. } => Ok(VaultError::damaged(path, "it is missing".into())),
        StoreError::TooLarge { size, .. } => Ok(VaultError::damaged(path, format!("it has {size} bytes"))),
        error => Err(error.into()),
    }
}

async fn read_tables(
    source: &SharedStore,
    log: &Log,
    report: &mut Report,
) -> Result<Vec<Found>, EngineError> {
    let listed = list_all(&**source, "index/").await?;
    let mut paths: BTreeSet<String> =
        listed.into_iter().map(|object| object.path).filter(|path| is_table_path(path)).collect();
    // They say nothing that tables don't, so it does not matter whether they are whole.
    let pages = page_paths(source).await;
    paths.retain(|path| !pages.contains(path));
    paths.extend(log.tables.keys().cloned());
    let mut tables = Vec::new();
    for path in paths {
        let named = log.tables.get(&path);
        match read_table(source, &path, named.map(|(_, table)| table)).await {
            Ok(Some(rows)) => tables.push(Found { path, seq: named.map(|(seq, _)| *seq), rows }),
            Ok(None) => {}
            Err(EngineError::Vault(error @ VaultError::Damaged { .. })) => {
                let lost = named.is_some() || !log.whole;
                match lost {
                    false => report.notes.push(error.to_string()),
                    true => report.errors.push(
                        Issue::new("vault_damaged", Severity::Missing, error.to_string())
                            .object(path)
                            .hint("settings, consumer groups and gaps of its commit may be lost"),
                    ),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(tables)
}

/// `None`: a page of a checkpoint that was never finished, or can't be read.
async fn read_table(
    source: &SharedStore,
    path: &str,
    named: Option<&TableRef>,
) -> Result<Option<Rows>, EngineError> {
    let bytes = match source.get(path, MAX_TABLE).await {
        Ok(bytes) => bytes,
        Err(error) => return Err(gone(path, error)?.into()),
    };
    if named.is_some_and(|table| sha256_hex(&bytes) != table.sha256) {
        return Err(VaultError::damaged(path, "its SHA-256 is not what its commit says".into()).into());
    }
    let table = Table::open(path, &bytes)?;
    Ok(if is_page(&table)? { None } else { Some(Rows::decode(&table)?) })
}

/// Reads all footers. One that is damaged matters only where no table has the segment's rows.
async fn read_footers(
    source: &SharedStore,
    segments: &mut Segments,
    tables: &[Found],
    report: &mut Report,
) -> Result<Vec<(String, Rows)>, EngineError> {
    let pool = BufferPool::new(FOOTER_PART, 2 * FOOTER_PART);
    let named: HashSet<String> =
        tables.iter().flat_map(|table| &table.rows.ranges).map(Range::segment_path).collect();
    let mut paths: Vec<(String, u64)> = segments.sizes.clone().into_iter().collect();
    paths.sort_unstable();
    let mut footers = Vec::new();
    for (path, size) in paths {
        match read_footer(source, &path, size, &pool).await {
            Ok(rows) => {
                if let Some(row) = rows.ranges.first() {
                    segments.places.insert(row.segment, path.clone());
                }
                footers.push((path, rows));
            }
            Err(error @ VaultError::Damaged { .. }) if named.contains(&path) => {
                report.notes.push(format!("{error}; tables tell what is in it"));
            }
            Err(error @ VaultError::Damaged { .. }) => report.errors.push(
                Issue::new("lost", Severity::Missing, format!("{error}; no table tells what was in it"))
                    .object(path),
            ),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(footers)
}

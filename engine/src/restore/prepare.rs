//! Before the first write: which restore this is, what an earlier run has left of it, what is to be done.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::kafka::topics::Change;
use bodley_io::kafka::{Cluster, KafkaError, TopicPartition};
use bodley_io::store::SharedStore;
use bodley_protocol::RetryClass;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::ahead::Source;
use super::fence::Producer;
use super::ledger::{self, Entries, Place};
use super::map::OffsetMap;
use super::plan::{self, Plan, Status};
use super::settings::Settings;
use super::target::Look;
use super::{GroupStrategy, RestoreOptions, groups, identity, preview, scan, target};
use crate::error::{EngineError, Severity};
use crate::moment::{At, Moment};
use crate::report::{Issue, Report, counted};
use crate::rights;
use crate::vault::log::Vault;
use crate::vault::now_ms;
use crate::vault::state::State;

/// Partitions that are read through at a time.
pub(super) const SCANS: usize = 16;

/// What is known before the first write.
pub struct Prepared {
    /// What is to be done.
    pub plan: Plan,
    /// So far.
    pub report: Report,
    /// `None`: an earlier run has done everything, or something speaks against it.
    pub work: Option<Ready>,
}

/// A restore that has something to do.
pub struct Ready {
    restore: ledger::Restore,
    place: Place,
    entries: Entries,
    /// Where chunks come from.
    pub source: Source,
}

/// A restore that has a producer.
pub struct Begun {
    /// Which.
    pub restore: ledger::Restore,
    /// Where its state is.
    pub place: Place,
    /// What an earlier run has left of it.
    pub entries: Entries,
    /// Who writes.
    pub producer: Producer,
    /// Where chunks come from.
    pub source: Source,
}

/// Looks at the vault, the target and the restore's state. Writes nothing. What speaks against the restore is an error, or, of a dry run, in the report.
pub async fn prepare(
    cluster: &Arc<Cluster>,
    store: &SharedStore,
    options: &RestoreOptions,
) -> Result<Prepared, EngineError> {
    let mut vault = Vault::open(Arc::clone(store)).await?;
    let layout = cluster.layout();
    let target = layout.cluster_id.clone().unwrap_or_default();
    let id = identity::restore_id(&vault.identity().vault_id, &target, options)?;
    let place = match &options.state {
        Some(path) => Place::File(path.clone()),
        None => Place::Group(Arc::clone(cluster)),
    };
    let mut blocked = Blocked { are_collected: options.dry_run, errors: Vec::new() };
    // Who may not read the state lacks other rights as well, perhaps: all are named.
    let (mut entries, unread) = match place.load(&id).await {
        Err(error @ EngineError::Denied(_)) => (Entries::new(), Some(error)),
        entries => (blocked.note(entries)?.unwrap_or_default(), None),
    };
    // What was said of a topic that has been deleted since is void.
    entries.retain(|tp, entry| layout.topics.get(&tp.topic).is_some_and(|topic| entry.is_of(&topic.id)));
    let mut report = Report { restore_id: Some(id.clone()), ..Report::default() };
    if !options.dry_run {
        place.check()?;
    }
    // Times ago count from when the restore was begun.
    let now = entries.values().find_map(|entry| entry.meta.now).unwrap_or_else(now_ms);
    let is_relative = options.choice.is_relative()?;
    if is_relative {
        let begun = if entries.is_empty() {
            ""
        } else {
            ", when this restore was begun; another --restore-id begins anew"
        };
        report.notes.push(format!("times ago count from {}{begun}", Moment::At(now)));
    }
    pin(&mut vault, &id, (&entries, options.choice.at, now), &mut report).await?;
    let seq = vault.receipt().seq;
    let state = vault.fold(true).await?;
    report.notes.extend(vault.take_warnings());
    let pool = BufferPool::new(store.part_len(), options.budget);
    let source = Source::new(Arc::clone(store), pool);
    let (append, is_named) = (options.append, options.restore_id.is_some());
    let look = Look { cluster, layout: &layout, entries: &entries, source: &source, append, is_named };
    let mut plan = allowed_plan(&look, &state, (options, now, &id), (&mut blocked, unread)).await?;
    let digest = identity::plan_digest(seq, &plan);
    if entries.values().any(|entry| entry.meta.plan != digest) {
        return Err(EngineError::Refused(format!(
            "nothing was written: restore `{id}` was begun with another plan (other flags, or another version of bodley): run it as then, or delete its topics"
        )));
    }
    report.receipt = Some(vault.receipt().to_string());
    let seen = Seen { state: &state, entries: &entries, source: &source, options };
    let left_out = seen.check(&mut plan, &mut report, blocked.errors.is_empty()).await?;
    let mut preview = preview::of((&mut plan, &state), options, &vault, &target, now);
    plan.notes.extend(preview.look_at_groups(cluster).await);
    report.plan = Some(preview);
    report.notes.append(&mut plan.notes);
    if options.map_again && !options.dry_run {
        report.offset_map = map_again(&source, &plan, &entries, &mut report.notes).await?;
    }
    if !plan.topics.is_empty() && plan.open_topics().next().is_none() {
        report.notes.push("nothing to do: an earlier run has completed this restore".into());
        report.topics = plan.topics.iter().map(|topic| topic.summary.clone()).collect();
        return Ok(Prepared { plan, report, work: None });
    }
    if options.dry_run {
        blocked.validate(cluster, &plan, options).await?;
        blocked.put_into(&mut report);
        return Ok(Prepared { plan, report, work: None });
    }
    let vault = vault.identity().vault_id.clone();
    let now = is_relative.then_some(now);
    let restore = ledger::Restore { id, vault, seq, plan: digest, now, left_out, transactional: true };
    Ok(Prepared { plan, report, work: Some(Ready { restore, place, entries, source }) })
}

/// The offset map of what earlier runs have completed.
async fn map_again(
    source: &Source,
    plan: &Plan,
    entries: &Entries,
    notes: &mut Vec<String>,
) -> Result<Vec<OffsetMap>, EngineError> {
    let (mut maps, mut without) = (Vec::new(), 0);
    let done = plan.topics.iter().filter(|topic| topic.status == Status::Done);
    let partitions = done.flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)));
    let scans = stream::iter(partitions).map(async |(topic, partition)| {
        // Without its state nobody knows where its records begin, and what was left out of it is not known here.
        let has_left_out = entries.get(&partition.tp).is_some_and(|entry| entry.meta.left_out.is_some());
        let Some(stand) = partition.stand.as_ref().filter(|_| !has_left_out) else { return Ok(None) };
        let found = scan::map(source, &partition.tp, &partition.work, stand).await?;
        Ok::<_, EngineError>(Some(topic.offset_map(partition.tp.partition, found)))
    });
    let mut scans = std::pin::pin!(scans.buffered(SCANS));
    while let Some(map) = scans.next().await {
        match map? {
            Some(map) => maps.push(map),
            None => without += 1,
        }
    }
    if without > 0 {
        notes.push(format!(
            "the report has no offset map of {}: damaged chunks were left out of it, or the restore's state is gone; the report of the run that restored it has the map",
            counted(without, "partition")
        ));
    }
    Ok(maps)
}

/// What has been found out.
struct Seen<'a> {
    state: &'a State,
    entries: &'a Entries,
    source: &'a Source,
    options: &'a RestoreOptions,
}

impl Seen<'_> {
    /// What the vault lacks, and what earlier runs have come to. Digests of what is left out.
    async fn check(
        &self,
        plan: &mut Plan,
        report: &mut Report,
        is_allowed: bool,
    ) -> Result<HashMap<TopicPartition, String>, EngineError> {
        let Self { state, entries, source, options } = *self;
        report.gaps = std::mem::take(&mut plan.gaps);
        report.errors = std::mem::take(&mut plan.issues);
        earlier_results(plan, state, options, entries, report);
        let mut left_out = HashMap::new();
        if is_allowed && plan.open_topics().next().is_some() {
            match options.skip_damaged {
                true => left_out = leave_damage_out(source, plan, report).await?,
                false => check_whole(source, state, plan, entries).await?,
            }
        }
        if options.groups == GroupStrategy::Timestamp && is_allowed {
            groups::look_up_times(source, state, plan, options.skip_damaged).await?;
        }
        Ok(left_out)
    }
}

impl Ready {
    /// Takes a producer. A cluster that can't give one yet is waited for.
    pub async fn begin(
        self,
        cluster: &Arc<Cluster>,
        plan: &Plan,
        report: &mut Report,
    ) -> Result<Begun, EngineError> {
        let Self { mut restore, place, entries, source } = self;
        let producer = Producer::begin(cluster, &restore.id, &entries).await?;
        target::check_in_use(cluster, plan, &producer).await?;
        restore.transactional = producer.is_transactional();
        if !restore.transactional {
            report.notes.push(
                "the target gives us no transactional id: a restore that is cut goes on by weaker means, see docs/durability.md".into(),
            );
        }
        Ok(Begun { restore, place, entries, producer, source })
    }
}

/// What speaks against a restore: of a dry run all of it is gathered, else the first of it is the end.
struct Blocked {
    are_collected: bool,
    errors: Vec<EngineError>,
}

impl Blocked {
    fn note<T>(&mut self, result: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
        match result {
            Err(error @ (EngineError::Refused(_) | EngineError::Denied(_))) if self.are_collected => {
                self.errors.push(error);
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Asks the target what it thinks of topics and settings.
    async fn validate(
        &mut self,
        cluster: &Arc<Cluster>,
        plan: &Plan,
        options: &RestoreOptions,
    ) -> Result<(), EngineError> {
        let created = cluster.create_topics(&plan::new_topics(plan, options), true).await?;
        let refused = created.into_iter().filter_map(Result::err);
        let there = |changes: Vec<(Arc<str>, Vec<Change>)>| {
            let missing = |name: &Arc<str>| {
                plan.topics.iter().any(|t| t.target == *name && t.status == Status::Missing)
            };
            changes.into_iter().filter(|(name, _)| !missing(name)).collect::<Vec<_>>()
        };
        let mut errors: Vec<KafkaError> = refused.collect();
        for changes in [plan.changes(Settings::begin), plan.changes(Settings::end)] {
            errors.extend(cluster.alter_configs(&there(changes), true).await);
        }
        let mut said = BTreeSet::new();
        for error in errors {
            if error.retry_class() != RetryClass::Never {
                return Err(error.into());
            }
            if said.insert(error.to_string()) {
                self.errors.push(EngineError::Refused(format!("the target refuses: {error}")));
            }
        }
        Ok(())
    }

    /// As the real run would end: with what speaks against it, and nothing else.
    fn put_into(self, report: &mut Report) {
        if self.errors.is_empty() {
            return;
        }
        let mut issues: Vec<Issue> = self.errors.iter().map(Issue::from).collect();
        // Without the rights a real run does not come to anything else.
        let is_denied = issues.iter().any(|issue| issue.code == "denied");
        let (errors, others) = issues.drain(..).partition(|issue| !is_denied || issue.code == "denied");
        let others: Vec<Issue> = others;
        let before = std::mem::replace(&mut report.errors, errors);
        report.notes.extend(others.iter().chain(&before).map(Issue::in_a_line));
    }
}

/// The plan, if the target allows all of it.
async fn allowed_plan(
    look: &Look<'_>,
    state: &State,
    (options, now, id): (&RestoreOptions, i64, &str),
    (blocked, unread): (&mut Blocked, Option<EngineError>),
) -> Result<Plan, EngineError> {
    let mut plan = plan::draft(state, options, now)?;
    let mut touched = plan::touched(&plan, look.layout, state, options);
    touched.groups.extend(options.state.is_none().then(|| ledger::group_name(id)));
    let allowed = match (rights::for_restore(look.cluster, &touched).await?.check(), unread) {
        (Err(EngineError::Denied(all)), Some(unread)) => Err(EngineError::Denied(format!("{all}; {unread}"))),
        (Ok(()), Some(unread)) => Err(unread),
        (allowed, _) => allowed,
    };
    blocked.note(allowed)?;
    let completed = plan::complete(&mut plan, look, state, options).await;
    match completed {
        // Without a right the rest can't be looked at.
        Err(EngineError::Kafka(error)) if !blocked.errors.is_empty() => tracing::info!("{error}"),
        completed => drop(blocked.note(completed)?),
    }
    if options.append {
        let missing = rights::for_settings(look.cluster, &plan::empty_topics(&plan)).await?;
        blocked.note(missing.check())?;
    }
    Ok(plan)
}

/// Goes back to the commit with which an earlier run began, or to the one that is asked for.
async fn pin(
    vault: &mut Vault,
    id: &str,
    (entries, at, now): (&Entries, Option<At>, i64),
    report: &mut Report,
) -> Result<(), EngineError> {
    let Some(earlier) = entries.values().next() else {
        return match at {
            Some(at) => vault.go_back(at, now).await,
            None => Ok(()),
        };
    };
    let (seq, head) = (earlier.meta.seq, vault.receipt().seq);
    let own = vault.identity().vault_id.clone();
    if earlier.meta.vault != own || head < seq {
        return Err(EngineError::Refused(format!(
            "nothing was written: restore `{id}` was begun from commit {seq} of vault {}, and this is vault {own} at commit {head}",
            earlier.meta.vault
        )));
    }
    if let Some(At::Seq(asked)) = at
        && asked != seq
    {
        return Err(EngineError::Refused(format!(
            "nothing was written: restore `{id}` was begun from commit {seq}, not from {asked}: another --restore-id restores that"
        )));
    }
    if head > seq {
        report.notes.push(format!(
            "this restore was begun with commit {seq}, and keeps to it; the vault is at {head} now: another --restore-id restores that"
        ));
    }
    Ok(vault.rewind(seq).await?)
}

/// Everything must be there, and the earlier runs must have had everything as well.
async fn check_whole(
    source: &Source,
    state: &State,
    plan: &Plan,
    entries: &Entries,
) -> Result<(), EngineError> {
    if entries.values().any(|entry| entry.meta.left_out.is_some() && entry.meta.done.is_none()) {
        return Err(EngineError::Refused(
            "nothing was written: an earlier run of this restore left damaged chunks out: go on with --skip-damaged, too".into(),
        ));
    }
    plan::check_segments(&source.store, state, plan).await
}

/// Reads all that is to be restored and leaves out what is damaged; a digest of that.
async fn leave_damage_out(
    source: &Source,
    plan: &mut Plan,
    report: &mut Report,
) -> Result<HashMap<TopicPartition, String>, EngineError> {
    let partitions = plan.open_topics().flat_map(|topic| &topic.partitions);
    let scans =
        stream::iter(partitions).map(|partition| scan::damaged(source, &partition.tp, &partition.work));
    let scanned: Vec<_> = scans.buffered(SCANS).try_collect().await?;
    let mut scanned = scanned.into_iter();
    let mut left_out = HashMap::new();
    for topic in plan.topics.iter_mut().filter(|topic| topic.status != Status::Done) {
        for partition in &mut topic.partitions {
            let found = scanned.next().unwrap_or_default();
            let places: Vec<usize> = found.iter().map(|(place, _)| *place).collect();
            if !places.is_empty() {
                let digest = identity::short_digest(format!("{places:?}").as_bytes());
                left_out.insert(partition.tp.clone(), digest);
            }
            partition.work.leave_out(&places);
            report.errors.extend(found.iter().map(|(_, error)| {
                let mut issue = Issue::from(error);
                issue.message = format!("left out: {}", issue.message);
                issue
            }));
        }
    }
    Ok(left_out)
}

/// What runs before have completed counts in this one's result.
fn earlier_results(
    plan: &mut Plan,
    state: &State,
    options: &RestoreOptions,
    entries: &Entries,
    report: &mut Report,
) {
    let how = groups::how(options);
    let mut worst = 0;
    let mut without_groups = Vec::new();
    for topic in plan.topics.iter_mut().filter(|topic| topic.status == Status::Done) {
        let of_topic = || entries.range(TopicPartition::all_of(&topic.target)).map(|(_, entry)| &entry.meta);
        let code = of_topic().filter_map(|meta| meta.done).max().unwrap_or(0);
        if code > 0 {
            topic.summary.records = None;
        }
        worst = worst.max(code);
        let read = groups::of_topic(state, options, topic.source.topic).next().is_some();
        // Whoever did not say how did it as it is done by default.
        let otherwise = |meta: &ledger::Meta| meta.groups_how.as_ref().is_some_and(|before| *before != how);
        if read && of_topic().any(|meta| !meta.groups || otherwise(meta)) {
            without_groups.push(topic.target.to_string());
        }
    }
    if worst > report.exit_code() {
        let missing = worst == Severity::Missing.exit_code();
        let severity = if missing { Severity::Missing } else { Severity::Failed };
        let message = format!("an earlier run of this restore ended with exit {worst}: see its report");
        report.errors.push(Issue::new("earlier_result", severity, message));
    }
    if options.groups != GroupStrategy::None && !without_groups.is_empty() {
        let message = format!(
            "an earlier run has restored the records without the positions of groups, or of others, or set them another way: {}",
            without_groups.join(", ")
        );
        let hint = "run the same command with --report FILE, then `bodley groups reset --vault … --by map --report FILE --execute`; or delete these topics, and run the restore again";
        report.errors.push(Issue::new("groups_left_out", Severity::Missing, message).hint(hint));
    }
}

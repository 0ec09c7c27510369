//! Before the first write: which restore this is, what an earlier run has left of it, what is to be done.

use std::collections::HashMap;
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::kafka::{Cluster, TopicPartition};
use bodley_io::store::SharedStore;

use super::fence::Producer;
use super::ledger::{self, Entries, Place};
use super::outgo::Source;
use super::plan::{self, Plan, Status};
use super::target::Look;
use super::{GroupStrategy, RestoreOptions, identity, scan, target};
use crate::error::{EngineError, Severity};
use crate::report::{Issue, Report};
use crate::rights;
use crate::vault::log::Vault;
use crate::vault::segment::PART_LEN;
use crate::vault::state::State;

/// All that comes before the first write.
pub struct Prepared {
    /// What is to be done.
    pub plan: Plan,
    /// So far.
    pub report: Report,
    /// `None`: an earlier run has done everything.
    pub work: Option<Begun>,
}

/// A restore that has something to do.
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

/// Looks at the vault, the target and the restore's state. Writes nothing but what it takes to have a producer.
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
    let mut entries = place.load(&id).await?;
    // What was said of a topic that has been deleted since is void.
    entries.retain(|tp, entry| layout.topics.get(&tp.topic).is_some_and(|topic| entry.is_of(&topic.id)));
    let mut report = Report { restore_id: Some(id.clone()), ..Report::default() };
    place.check()?;
    pin(&mut vault, &id, &entries, &mut report).await?;
    let seq = vault.receipt().seq;
    let state = vault.fold(true).await?;
    report.notes.extend(vault.take_warnings());
    let source = Source { store: Arc::clone(store), pool: BufferPool::new(PART_LEN, options.budget) };
    let look = Look { cluster, layout: &layout, entries: &entries, source: &source, append: options.append };
    let mut plan = allowed_plan(&look, &state, options, &id).await?;
    let digest = identity::plan_digest(seq, &plan);
    if entries.values().any(|entry| entry.meta.plan != digest) {
        return Err(EngineError::Refused(format!(
            "nothing was written: restore `{id}` was begun with another plan (other flags, or another version of bodley): run it as then, or delete its topics"
        )));
    }
    report.receipt = Some(vault.receipt().to_string());
    report.gaps = std::mem::take(&mut plan.gaps);
    report.errors = std::mem::take(&mut plan.issues);
    earlier_results(&mut plan, &state, options.groups, &entries, &mut report);
    if !plan.topics.is_empty() && plan.open_topics().next().is_none() {
        report.notes.append(&mut plan.notes);
        report.notes.push("nothing to do: an earlier run has completed this restore".into());
        report.topics = plan.topics.iter().map(|topic| topic.summary.clone()).collect();
        return Ok(Prepared { plan, report, work: None });
    }
    let left_out = if options.skip_damaged {
        leave_damage_out(&source, &mut plan, &mut report).await?
    } else {
        check_whole(&source, &state, &plan, &entries).await?;
        HashMap::new()
    };
    // Before anything is made: a cluster that can't give one yet is waited for.
    let producer = Producer::begin(cluster, &id, &entries).await?;
    target::check_in_use(cluster, &plan, &producer).await?;
    let transactional = producer.is_transactional();
    if !transactional {
        report.notes.push(
            "the target gives us no transactional id: a restore that is cut goes on by weaker means, see docs/durability.md".into(),
        );
    }
    let vault = vault.identity().vault_id.clone();
    let restore = ledger::Restore { id, vault, seq, plan: digest, left_out, transactional };
    Ok(Prepared { plan, report, work: Some(Begun { restore, place, entries, producer, source }) })
}

/// The plan, if the target allows all of it.
async fn allowed_plan(
    look: &Look<'_>,
    state: &State,
    options: &RestoreOptions,
    id: &str,
) -> Result<Plan, EngineError> {
    let draft = plan::draft(state, options)?;
    let mut touched = plan::touched(&draft, look.layout, state, options);
    touched.groups.extend(options.state.is_none().then(|| ledger::group_name(id)));
    rights::for_restore(look.cluster, &touched).await?.check()?;
    let plan = plan::complete(draft, look, state, options).await?;
    if options.append {
        rights::for_settings(look.cluster, &plan::empty_topics(&plan)).await?.check()?;
    }
    Ok(plan)
}

/// Goes back to the commit with which an earlier run began.
async fn pin(vault: &mut Vault, id: &str, entries: &Entries, report: &mut Report) -> Result<(), EngineError> {
    let Some(earlier) = entries.values().next() else { return Ok(()) };
    let (seq, head) = (earlier.meta.seq, vault.receipt().seq);
    let own = vault.identity().vault_id.clone();
    if earlier.meta.vault != own || head < seq {
        return Err(EngineError::Refused(format!(
            "nothing was written: restore `{id}` was begun from commit {seq} of vault {}, and this is vault {own} at commit {head}",
            earlier.meta.vault
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
    let mut left_out = HashMap::new();
    for topic in plan.topics.iter_mut().filter(|topic| topic.status != Status::Done) {
        for partition in &mut topic.partitions {
            let found = scan::damaged(source, &partition.tp, &partition.work).await?;
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
    groups: GroupStrategy,
    entries: &Entries,
    report: &mut Report,
) {
    let mut worst = 0;
    let mut without_groups = Vec::new();
    for topic in plan.topics.iter_mut().filter(|topic| topic.status == Status::Done) {
        let of_topic = || entries.range(TopicPartition::all_of(&topic.target)).map(|(_, entry)| &entry.meta);
        let code = of_topic().filter_map(|meta| meta.done).max().unwrap_or(0);
        if code > 0 {
            topic.summary.records = None;
        }
        worst = worst.max(code);
        let read =
            state.groups.iter().any(|((_, id), pair)| *id == topic.source.topic && pair.header.present);
        if read && of_topic().any(|meta| !meta.groups) {
            without_groups.push(topic.target.to_string());
        }
    }
    if worst > report.exit_code() {
        let missing = worst == Severity::Missing.exit_code();
        let severity = if missing { Severity::Missing } else { Severity::Failed };
        let message = format!("an earlier run of this restore ended with exit {worst}: see its report");
        report.errors.push(Issue::new("earlier_result", severity, message));
    }
    if groups == GroupStrategy::Map && !without_groups.is_empty() {
        let message = format!(
            "an earlier run has restored the records without the positions of groups: {}",
            without_groups.join(", ")
        );
        let hint = "`bodley show --groups` lists them; or delete these topics, and run the restore again";
        report.errors.push(Issue::new("groups_left_out", Severity::Missing, message).hint(hint));
    }
}

//! Commits of a run. All workers are told to close their segments, and what they hand over becomes part of the backup.
//!
//! Nobody is waited for for long: what a worker hands over later goes into a later commit. That is sound because a worker that gives a partition
//! back hands over all it read of it before, so rows of a partition come in the order of its log whoever reads it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_protocol::RetryClass;

use super::count;
use super::run::Run;
use super::task::Task;
use super::troubles::BAD_BATCH;
use super::worker::{Event, Order, Rolled, WorkerKey};
use crate::error::{EngineError, Severity};
use crate::report::{Gap, Issue, Report};
use crate::vault::log::{Addition, Vault};
use crate::vault::now_ms;
use crate::vault::rows::{GroupRow, Kind, Rows};

/// Data is committed when so much is not yet.
const COMMIT_BYTES: u64 = 8 << 30;
/// How long a commit waits for workers; who is late comes with the next one.
const PATIENCE: Duration = Duration::from_secs(3);
/// When nothing is new, a commit says so, but not more often than this; in a run that goes on, whose age is watched more closely, more often.
const STILL_THERE: Duration = Duration::from_secs(300);
const STILL_FOLLOWING: Duration = Duration::from_secs(60);
/// So long after the last news a run that goes on says with every commit interval how far it is complete: whoever has just stopped writing may look.
const STILL_FRESH: Duration = Duration::from_secs(600);

/// What is known of a worker.
#[derive(Debug, Default)]
struct Told {
    /// Orders to add tasks.
    sent: u64,
    /// `None`: it has no tasks.
    complete: Option<i64>,
}

/// What has been rolled and committed.
#[derive(Debug)]
pub struct Rolls {
    number: u64,
    /// By worker: what it has been sent, and how far its tasks are complete.
    told: HashMap<WorkerKey, Told>,
    /// How long a commit waits for workers.
    pub patience: Duration,
    /// When the last commit was made or tried.
    pub committed_at: Instant,
    committed_bytes: u64,
    /// When the last commit was made that had anything new.
    new_at: Instant,
    /// When the newest commit was made, ms of its writer's clock.
    head_time: i64,
    /// When we saw or made it.
    head_at: Instant,
    /// What our newest commit says of how far it is complete.
    head_complete: Option<i64>,
    /// How long ago that was then, ms.
    head_lag: Option<i64>,
}

impl Rolls {
    /// At a vault's head, when so many bytes have been read.
    pub fn new(vault: &Vault, committed_bytes: u64) -> Self {
        Self {
            number: 0,
            told: HashMap::new(),
            patience: PATIENCE,
            committed_at: Instant::now(),
            committed_bytes,
            new_at: Instant::now(),
            head_time: vault.head_time(),
            head_at: Instant::now(),
            head_complete: vault.head_complete(),
            head_lag: vault.head_complete().map(|complete| vault.head_time() - complete),
        }
    }

    /// Tasks are sent to a worker; the number of the order.
    pub fn send(&mut self, worker: WorkerKey, tasks: &[Task]) -> u64 {
        let told = self.told.entry(worker).or_default();
        told.sent += 1;
        told.complete = told.complete.into_iter().chain(tasks.iter().map(|task| task.complete)).min();
        told.sent
    }

    /// How far a worker's tasks are complete, as it says; it may not know of its newest tasks yet.
    fn answered(&mut self, rolled: &Rolled) {
        let told = self.told.entry(rolled.worker).or_default();
        told.complete = match rolled.added >= told.sent {
            true => rolled.complete,
            false => told.complete.into_iter().chain(rolled.complete).min(),
        };
    }
}

impl Run {
    pub(super) fn commit_is_due(&self) -> bool {
        let uncommitted = self.means.progress.snapshot().bytes - self.rolls.committed_bytes;
        let late = self.rolls.committed_at.elapsed() >= self.options.commit_interval;
        uncommitted >= COMMIT_BYTES || (late && (uncommitted > 0 || self.following.is_some()))
    }

    /// What is durable goes into the next commit, segments together with their rows.
    pub(super) fn take(&mut self, rolled: Rolled, report: &mut Report) {
        for range in &rolled.ranges {
            if let Kind::Gap(reason) = range.kind {
                let topics = self.shared.topics();
                let topic = topics.get(&range.topic).map_or("", |topic| topic.name.as_str());
                let gap = Gap::new(topic, range.partition, range.first..range.next, reason);
                report.gaps.push(self.told(gap));
            }
        }
        if let Some(following) = &mut self.following {
            following.are_well(&rolled.well);
        }
        self.rolls.answered(&rolled);
        report.objects += rolled.segments.len() as u64;
        let Addition { segments, rows } = &mut self.pending;
        segments.extend(rolled.segments);
        rows.ranges.extend(rolled.ranges);
        rows.aborted.extend(rolled.aborted);
    }

    /// Who goes on for long says at once what is lost.
    pub(super) fn told(&self, gap: Gap) -> Gap {
        if self.following.is_some() {
            let Gap { topic, partition, first, next, reason } = &gap;
            tracing::warn!("gap: {topic}-{partition} offsets {first}..{next} ({reason}) are lost");
        }
        gap
    }

    /// Rolls all workers' segments and commits what they hand over. `groups`: all is read, and these go along.
    pub(super) async fn commit(
        &mut self,
        groups: Option<Vec<GroupRow>>,
        report: &mut Report,
    ) -> Result<(), EngineError> {
        let is_last = groups.is_some();
        self.rolls.committed_bytes = self.means.progress.snapshot().bytes;
        // Tasks that come back meanwhile are looked after when the commit stands.
        let later = self.roll_all(report).await?;
        match self.check_identities_for(is_last).await {
            // What is durable waits for the next commit.
            Err(EngineError::Kafka(error)) if !is_last && error.retry_class() != RetryClass::Never => {
                let note = format!("whether topics are still the same could not be looked at: {error}");
                tracing::info!("{note}");
                if report.interrupted {
                    report
                        .notes
                        .push(format!("{note}; what was read since the last commit is left to the next run"));
                }
                self.rolls.committed_at = Instant::now();
                self.look_later();
                if self.is_worth_a_sign(None) {
                    self.put(Addition::default(), None, report).await?;
                }
                return later.into_iter().try_for_each(|event| self.handle(event, report));
            }
            checked => checked?,
        }
        let complete = self.complete(is_last, &later, report);
        let Addition { segments, mut rows } = std::mem::take(&mut self.pending);
        rows.groups = groups.unwrap_or_default();
        if let Some(following) = &mut self.following {
            rows.groups.append(&mut following.reached(&self.state, &rows));
        }
        let is_new = !rows.is_empty() || !segments.is_empty();
        if is_new || self.is_worth_a_sign(complete) {
            merge_aborted(&mut rows);
            for range in &mut rows.ranges {
                // Tasks know the cursor that they began at; commits since have moved it.
                let cursor = self.state.partitions.get(&(range.topic, range.partition));
                range.from = cursor.and_then(|part| part.cursor).map_or(-1, |cursor| cursor.next);
            }
            rows.sort();
            self.put(Addition { segments, rows }, complete, report).await?;
            if is_new {
                self.rolls.new_at = Instant::now();
            }
        }
        if let Some(complete) = complete {
            self.means.progress.complete_to(complete);
        }
        report.stands();
        self.rolls.committed_at = Instant::now();
        for event in later {
            self.handle(event, report)?;
        }
        Ok(())
    }

    /// Makes a commit.
    async fn put(
        &mut self,
        addition: Addition,
        complete: Option<i64>,
        report: &mut Report,
    ) -> Result<(), EngineError> {
        report.objects += 1 + u64::from(!addition.rows.is_empty());
        let known = addition.rows.clone();
        let receipt = self.vault.append_complete(addition, complete).await?;
        count(report, &known);
        Arc::make_mut(&mut self.state).add_rows(receipt.seq, known);
        (self.rolls.head_time, self.rolls.head_complete) = (self.vault.head_time(), complete);
        (self.rolls.head_at, self.rolls.head_lag) = (Instant::now(), complete.map(|at| now_ms() - at));
        self.means.progress.committed(now_ms());
        report.receipt = Some(receipt.to_string());
        tracing::info!("commit {}", receipt.seq);
        Ok(())
    }

    /// There is no commit after the last one that could make up for it.
    async fn check_identities_for(&self, is_last: bool) -> Result<(), EngineError> {
        let mut backoff = self.cluster.backoff();
        let mut stop = self.means.stop.clone();
        loop {
            match self.check_identities().await {
                Err(EngineError::Kafka(error)) if is_last && error.retry_class() != RetryClass::Never => {
                    let waited = tokio::select! {
                        waited = backoff.wait() => waited,
                        _ = stop.wait_for(|stop| *stop) => false,
                    };
                    if !waited {
                        return Err(error.into());
                    }
                }
                checked => return checked,
            }
        }
    }

    /// Nothing is new: whether that is to be committed all the same, for those who watch the vault's age. In a run that goes on also when it has caught up.
    fn is_worth_a_sign(&self, complete: Option<i64>) -> bool {
        let follows = self.following.is_some();
        let Some(complete) = complete else {
            // That it is alive is to be seen all the same.
            return follows && self.is_silent_for(STILL_FOLLOWING);
        };
        let often = match follows {
            true if self.rolls.new_at.elapsed() < STILL_FRESH => self.options.commit_interval,
            true => STILL_FOLLOWING,
            false => STILL_THERE,
        };
        let some = (self.options.commit_interval * 2).as_millis() as i64;
        let was_behind = self.rolls.head_lag.is_none_or(|lag| lag > some);
        let has_caught_up = follows && was_behind && now_ms() - complete <= some;
        // What the next look at the vault's lag goes by is what commits say.
        let is_old = self.rolls.head_complete.is_none_or(|then| complete - then >= often.as_millis() as i64);
        self.is_silent_for(often) || is_old || has_caught_up
    }

    /// The newest commit is so old. Of one of a time to come, by a clock that was wrong then or is now, only our own clock's pace counts.
    fn is_silent_for(&self, time: Duration) -> bool {
        match now_ms().saturating_sub(self.rolls.head_time) {
            silent @ 0.. => silent >= time.as_millis() as i64,
            _ => self.rolls.head_at.elapsed() >= time,
        }
    }

    async fn roll_all(&mut self, report: &mut Report) -> Result<Vec<Event>, EngineError> {
        self.rolls.number += 1;
        let number = self.rolls.number;
        let mut waiting: Vec<WorkerKey> = Vec::new();
        for (key, worker) in &self.workers {
            if worker.send(Order::Roll(number)).is_ok() {
                waiting.push(*key);
            }
        }
        let mut later = Vec::new();
        let patience = tokio::time::sleep(self.rolls.patience.min(Duration::from_secs(86_400)));
        tokio::pin!(patience);
        while !waiting.is_empty() {
            let event = tokio::select! {
                event = self.inbox.recv() => event,
                () = &mut patience => {
                    tracing::info!("{} connections hand over later what they have", waiting.len());
                    break;
                }
            };
            let Some(event) = event else { break };
            if let Event::Rolled(rolled) = &event {
                waiting.retain(|key| (*key, number) != (rolled.worker, rolled.number));
            }
            self.set_aside(event, &mut later, report)?;
        }
        while let Ok(event) = self.inbox.try_recv() {
            self.set_aside(event, &mut later, report)?;
        }
        Ok(later)
    }

    /// Takes what goes into the commit; all else is for later.
    fn set_aside(
        &mut self,
        event: Event,
        later: &mut Vec<Event>,
        report: &mut Report,
    ) -> Result<(), EngineError> {
        match event {
            Event::Rolled(rolled) => self.take(rolled, report),
            Event::Reads(watches) => self.watches.lower(watches),
            Event::Fatal(error) => return Err(error),
            other => later.push(other),
        }
        Ok(())
    }

    /// Up to when this commit has all that was stable; `None`: that can't be said.
    fn complete(&self, is_last: bool, later: &[Event], report: &Report) -> Option<i64> {
        let Some(following) = &self.following else {
            // What is lost for good is recorded as a gap; where a batch can't be passed, the rest is still to come.
            let is_short = |issue: &Issue| issue.severity == Severity::Failed || issue.code == BAD_BATCH;
            return (is_last && !report.errors.iter().any(is_short)).then_some(self.asked_at);
        };
        let workers = self.rolls.told.values().filter_map(|told| told.complete);
        let parked = self.parked.iter().map(|(_, task)| task.complete);
        let looked_at = self.again.values().chain(self.surveyed.iter().flat_map(|again| again.values()));
        let back = later.iter().filter_map(|event| match event {
            Event::Back(task, _) => Some(task.complete),
            _ => None,
        });
        let all = workers.chain(parked).chain(looked_at.map(|again| again.complete)).chain(back);
        let least = all.fold(following.complete(self.asked_at), i64::min);
        (least > 0).then_some(least)
    }

    /// Makes a checkpoint beside the run when one is due: what is backed up is in already, so whatever goes wrong here is said and no more.
    pub(super) fn checkpoint_beside(&mut self) {
        if self.following.is_none() || !self.vault.checkpoint_is_due() {
            return;
        }
        self.vault.checkpoint_elsewhere();
        let (store, alone) = (Arc::clone(self.vault.store()), self.options.single_writer);
        tokio::spawn(async move {
            let made = async {
                let mut vault = Vault::open(store).await?;
                if alone {
                    vault.write_alone();
                }
                vault.checkpoint().await
            };
            match made.await {
                Ok(path) => tracing::info!("checkpoint {}", path.unwrap_or_default()),
                Err(error) => {
                    tracing::warn!("no checkpoint could be made, so this vault opens more slowly: {error}")
                }
            }
        });
    }
}

/// A task that moved between workers may have noted the same transaction twice: what saw the marker wins.
fn merge_aborted(rows: &mut Rows) {
    rows.aborted
        .sort_by_key(|row| (row.topic, row.partition, row.rewind, row.producer_id, row.first, row.marker));
    rows.aborted.dedup_by_key(|row| (row.topic, row.partition, row.rewind, row.producer_id, row.first));
}

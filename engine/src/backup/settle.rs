//! What a worker makes of an answer: who went on, who is at its end, who can't be read here, and who has waited for too long.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::kafka::KafkaError;
use bodley_protocol::{ErrorCode, RetryClass};

use super::hunt;
use super::intake::Outcome;
use super::task::Task;
use super::worker::{Event, Trouble, Worker};
use crate::error::EngineError;
use crate::vault::rows::{Kind, Range};
use crate::vault::state::PartKey;

/// How often the broker must say that it has no batch up to the end, as after compaction.
const EMPTY_TRIES: u32 = 3;
/// And for how long: an answer without data can also mean that a remote store was slow. In a run that goes on there is no hurry.
const EMPTY_FOR: Duration = Duration::from_secs(5);
const EMPTY_FOR_OPEN: Duration = Duration::from_secs(60);
/// How far a follower that counts as in sync may be behind its leader (replica.lag.time.max.ms).
const FOLLOWERS_LAG_MS: i64 = 30_000;
/// A replica in our rack that lags behind its leader is waited for so long.
const NEAR_PATIENCE: Duration = Duration::from_secs(5);
/// After so long the leader is asked again which replica is the nearest: nobody else knows how far it is in sync.
const NEAR_FOR: Duration = Duration::from_secs(60);

impl Worker {
    /// Acts on what the answer said of each partition. `conclusive`: an empty partition really has nothing there.
    pub(super) async fn settle(
        &mut self,
        outcomes: Vec<(PartKey, Outcome)>,
        conclusive: bool,
    ) -> Result<(), EngineError> {
        let mut back = Vec::new();
        let patience = EMPTY_FOR.min(self.shared.cluster.options().give_up_after / 2);
        for (key, outcome) in outcomes {
            if outcome.is_progress() {
                self.queue.retain(|other| *other != key);
                self.queue.push_back(key);
            }
            let Some(task) = self.intake.tasks.get_mut(&key) else { continue };
            if outcome.is_well() && std::mem::take(&mut task.waits) {
                self.shared.cluster.health().goes_on(&task.tp);
            }
            match judge(task, outcome, (conclusive, patience), &mut self.rolled.ranges) {
                Some(trouble) => back.push((key, trouble)),
                None if task.is_done() => self.finish(key),
                // In a session its broker would not say again that there is nothing.
                None if task.is_open() && task.empty_tries > 0 => self.book.forget(),
                None => {}
            }
        }
        self.give_back(back).await
    }

    /// The first batch of an answer is always a whole one. When nobody went on, who is not at its end now is stuck, unless it turns out
    /// to be empty; that a quota leaves nobody any room is no better. While others go on, who waits for a turn is not stuck.
    pub(super) fn note_the_stuck(&mut self, asked: &[PartKey], outcomes: &[(PartKey, Outcome)]) {
        let progress = outcomes.iter().any(|(_, outcome)| outcome.is_progress());
        if progress {
            let asked: HashSet<&PartKey> = asked.iter().collect();
            let waiting = self.intake.tasks.iter_mut().filter(|(key, _)| !asked.contains(key));
            waiting.for_each(|(_, task)| task.stuck = None);
        }
        let refused = |key: &PartKey| outcomes.iter().any(|(k, o)| k == key && matches!(o, Outcome::Code(_)));
        for key in asked {
            let refused = progress && refused(key);
            let Some(task) = self.intake.tasks.get_mut(key) else { continue };
            match progress {
                true if !refused => task.stuck = None,
                true => {}
                false => _ = task.stuck.get_or_insert_with(Instant::now),
            }
        }
    }

    /// In a run that goes on: who has been read up to what was stable when the broker was asked, `asked_at`. `silent_is_well`: the answer names
    /// all that have anything to say.
    pub(super) fn note_the_complete(
        &mut self,
        asked: &[PartKey],
        outcomes: &[(PartKey, Outcome)],
        (asked_at, silent_is_well): (i64, bool),
    ) {
        let told: HashMap<PartKey, bool> =
            outcomes.iter().map(|(key, outcome)| (*key, outcome.is_well())).collect();
        let mut is_owed = false;
        for key in asked {
            let Some(task) = self.intake.tasks.get_mut(key) else { continue };
            let is_told = told.get(key).copied();
            if is_told == Some(true) {
                task.stuck = None;
                self.rolled.well.extend(task.waits.then_some(*key));
            }
            if is_told.unwrap_or(silent_is_well) && task.told >= 0 && task.lag() == 0 {
                // What a follower has may be as old as the lag that kept it in sync when its leader named it. One that was only asked for a batch may not be
                // in sync at all.
                let since = task.near.map(|(_, since)| since.elapsed().as_millis() as i64 + FOLLOWERS_LAG_MS);
                if task.elsewhere.is_none() {
                    // A clock that was put back does not make it complete up to what was called later.
                    task.complete = (asked_at - since.unwrap_or(0)).max(task.complete.min(asked_at));
                }
            }
            // Its broker has said all that there is to say in this session, and that was too little.
            is_owed |=
                is_told.is_none() && silent_is_well && (task.lag() > 0 || task.hunt.is_some() || task.probes);
        }
        if is_owed {
            self.book.forget();
        }
    }

    /// Who was asked goes behind those that were not, when not all could be.
    pub(super) fn make_way(&mut self, asked: Vec<PartKey>) {
        let asked: HashSet<PartKey> = asked.into_iter().collect();
        let (had, not): (VecDeque<PartKey>, VecDeque<PartKey>) =
            self.queue.iter().copied().partition(|key| asked.contains(key));
        self.queue = not;
        self.queue.extend(had);
    }

    /// Partitions for which the broker has long had neither data nor an error go back to the run, which gives up on them; those that have another leader by
    /// what is known now, and, from time to time, those that are read from a replica nearby, go to their leader.
    pub(super) async fn give_up_on_the_stuck(&mut self) -> Result<(), EngineError> {
        let patience = self.shared.cluster.options().give_up_after;
        let stuck = |task: &Task| {
            let patience = if task.near.is_some() { NEAR_PATIENCE.min(patience) } else { patience };
            task.stuck.is_some_and(|since| since.elapsed() > patience)
        };
        let mut back = Vec::new();
        let layout = self.shared.cluster.layout();
        // Who does not know yet that he leads it no more would answer for ever that there is nothing new.
        let is_new = self.seen.as_ptr() != Arc::as_ptr(&layout);
        let led_since = |task: &Task| {
            let same = layout.topics.get(&task.tp.topic).is_some_and(|topic| topic.id == task.fetch_id);
            let now = layout.partition(&task.tp).filter(|now| same && now.leader.is_some());
            now.is_some_and(|now| task.leader_epoch >= 0 && now.leader_epoch > task.leader_epoch)
        };
        for task in self.intake.tasks.values() {
            if is_new && task.elsewhere.is_none() && led_since(task) {
                back.push((task.key, Trouble::Leader));
            } else if !task.is_open() && stuck(task) {
                let what = format!("broker {} has no data below the end that it told before", self.broker());
                back.push((task.key, Trouble::Route(KafkaError::NoRoute(what))));
            } else if task.is_open() && task.near.is_some_and(|(_, since)| since.elapsed() > NEAR_FOR) {
                back.push((task.key, Trouble::Leader));
            }
        }
        self.seen = Arc::downgrade(&layout);
        self.give_back(back).await
    }

    fn finish(&mut self, key: PartKey) {
        if let Some(mut task) = self.drop_task(key) {
            self.rolled.aborted.extend(task.aborted.take_rows(key, task.rewind));
        }
        let _ = self.events.send(Event::Done);
    }

    /// Hands tasks back, and before them all that was read of them: what the next worker reads must not be committed without it.
    pub(super) async fn give_back(&mut self, troubled: Vec<(PartKey, Trouble)>) -> Result<(), EngineError> {
        if troubled.is_empty() {
            return Ok(());
        }
        let mut back = Vec::new();
        for (key, trouble) in troubled {
            if let Some(mut task) = self.drop_task(key) {
                // Somebody else is to find out for himself.
                task.is_not_empty();
                self.rolled.aborted.extend(task.aborted.take_rows(key, task.rewind));
                back.push((task, trouble));
            }
        }
        let keys = back.iter().map(|(task, _)| task.key).collect();
        self.roll_if_any_of(&keys).await?;
        for (task, trouble) in back {
            self.rolled.well.retain(|key| *key != task.key);
            let _ = self.events.send(Event::Back(Box::new(task), trouble));
        }
        Ok(())
    }

    fn drop_task(&mut self, key: PartKey) -> Option<Task> {
        self.queue.retain(|other| *other != key);
        self.intake.tasks.remove(&key)
    }

    pub(super) async fn give_all_back(&mut self, error: &KafkaError) -> Result<(), EngineError> {
        let broker = self.broker();
        tracing::info!("broker {broker}: {error}");
        let again = || KafkaError::NoRoute(format!("broker {broker}: {error}"));
        let trouble = || match error.retry_class() {
            RetryClass::Never => Trouble::Hopeless(again()),
            _ => Trouble::Route(again()),
        };
        let all = self.queue.iter().map(|key| (*key, trouble())).collect();
        self.give_back(all).await
    }
}

/// Whether a partition can go on being read here. `conclusive`: an empty partition really has nothing there, if that is said for so long.
fn judge(
    task: &mut Task,
    outcome: Outcome,
    (conclusive, patience): (bool, Duration),
    ranges: &mut Vec<Range>,
) -> Option<Trouble> {
    match outcome {
        Outcome::Progress if task.elsewhere.is_some() && !task.is_done() => Some(Trouble::Leader),
        Outcome::Progress => None,
        // What a follower does not have, the leader may have.
        Outcome::Cut | Outcome::Empty(_) | Outcome::Probed { .. } | Outcome::Ended
            if task.elsewhere.is_some() =>
        {
            Some(Trouble::OtherReplica)
        }
        Outcome::Cut => None,
        Outcome::Empty(lso) => {
            // The least that was told in these tries: one that is too large would skip what is there.
            task.empty_end = if task.empty_tries == 0 { lso } else { lso.min(task.empty_end) };
            let end = task.end_of_nothing();
            task.empty_tries += u32::from(conclusive && lso >= end && end > task.next);
            let since = *task.empty_since.get_or_insert_with(Instant::now);
            let patience = if task.is_open() { EMPTY_FOR_OPEN } else { patience };
            if task.empty_tries == 0 {
                task.empty_since = None;
            } else if task.empty_tries >= EMPTY_TRIES && since.elapsed() >= patience {
                // A log's end is where its broker has it, even if the rest is in a remote store.
                task.probes = true;
            }
            None
        }
        Outcome::Probed { found: true, .. } => {
            tracing::warn!(
                "{}: its broker sends nothing from offset {} on, but what is behind it",
                task.tp,
                task.next
            );
            task.is_not_empty();
            None
        }
        Outcome::Probed { lso, .. } if !conclusive || lso < task.end_of_nothing() => None,
        Outcome::Probed { .. } => {
            skip_to(task, task.end_of_nothing(), ranges);
            None
        }
        Outcome::Nearer(replica) => Some(Trouble::Nearer(replica)),
        Outcome::Hunted(good) => hunt::go_on(task, good, ranges),
        Outcome::Ended if task.is_open() => None,
        Outcome::Ended => {
            skip_to(task, task.end, ranges);
            None
        }
        Outcome::Code(ErrorCode::OFFSET_OUT_OF_RANGE) => Some(Trouble::OutOfRange),
        Outcome::Code(code) => {
            let (api, subject) = ("Fetch", task.tp.to_string());
            let error = KafkaError::Refused { api, subject, code, message: None };
            Some(match code.retry_class() {
                RetryClass::Never if code != ErrorCode(-1) => Trouble::Hopeless(error),
                _ => Trouble::Route(error),
            })
        }
        Outcome::Diverged => Some(Trouble::Diverged),
        Outcome::Bad(bad, behind) => hunt::bad_batch(task, &bad, behind, ranges),
    }
}

/// The broker has no batch from `next` to `end`.
fn skip_to(task: &mut Task, end: i64, ranges: &mut Vec<Range>) {
    ranges.push(task.row(Kind::Empty, end));
    (task.next, task.last_epoch) = (end, -1);
    task.is_not_empty();
}

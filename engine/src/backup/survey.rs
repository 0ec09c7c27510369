//! Looks at partitions again while a run is under way: at those whose log moved away under the cursor, and, in a run that goes on, from time to time at
//! the whole cluster for what is new, has grown, or is gone. Beside the run, which does not wait for brokers that don't answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bodley_io::kafka::offsets::{End, Found};
use bodley_io::kafka::{Cluster, Layout, Topic, TopicPartition};
use bodley_io::store::SharedStore;
use bodley_protocol::ErrorCode;

use super::access;
use super::ends::{Parts, Sight};
use super::plan::{Basis, Plan, Topics};
use super::transactions::{self, Suspect};
use crate::error::EngineError;
use crate::report::Issue;
use crate::select::Selection;
use crate::vault::now_ms;
use crate::vault::rows::TopicRow;
use crate::vault::state::{PartKey, State};

/// How long a survey of a run that goes on waits for leaders: the next one comes soon.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be looked at, and what is known.
#[derive(Debug)]
pub struct Survey {
    /// The source.
    pub cluster: Arc<Cluster>,
    /// The vault's.
    pub store: SharedStore,
    /// The vault as it is; nothing that is looked at is on its way into it.
    pub state: Arc<State>,
    /// Its id.
    pub vault_id: String,
    /// The run's topics.
    pub topics: Arc<Topics>,
    /// Partitions to look at again, and whether their logs are in doubt.
    pub again: BTreeMap<PartKey, bool>,
    /// Of a run that goes on.
    pub census: Option<Census>,
}

/// A look at the whole cluster.
#[derive(Debug)]
pub struct Census {
    /// Which topics the run is about.
    pub selection: Selection,
    /// Partitions that are being read.
    pub open: BTreeSet<PartKey>,
    /// Settings and rights are looked at, too.
    pub thorough: bool,
    /// Topics that were not to be seen the last time either.
    pub missed: BTreeSet<String>,
    /// Topics that may not be read, as the last thorough one found.
    pub unread: BTreeSet<String>,
    /// Topics whose settings may not be read, likewise.
    pub closed: BTreeSet<String>,
}

/// What a survey found.
#[derive(Debug)]
pub struct Surveyed {
    /// Topics as they are, tasks, and rows.
    pub plan: Plan,
    /// If it was a census.
    pub census: Option<Counted>,
    /// Topics that are not to be seen, and are taken for gone the next time.
    pub missed: BTreeSet<String>,
}

/// What is told of a census.
#[derive(Debug)]
pub struct Counted {
    /// When it began, ms of our clock.
    pub begun: i64,
    /// Rights were looked at.
    pub checked: bool,
    /// Transactions that hang, if they were looked for.
    pub hanging: Option<Vec<Issue>>,
}

impl Survey {
    /// Looks.
    pub async fn run(self) -> Result<Surveyed, EngineError> {
        match &self.census {
            None => self.partitions().await,
            Some(census) => self.count(census).await,
        }
    }

    fn sight(&self, patience: Duration) -> Sight<'_> {
        let goes_on = self.census.is_some();
        Sight { cluster: &self.cluster, store: &self.store, state: &self.state, goes_on, patience }
    }

    async fn partitions(&self) -> Result<Surveyed, EngineError> {
        let mut plan = Plan { topics: (*self.topics).clone(), ..Plan::default() };
        let mut parts = Parts::new();
        for ((topic, index), doubted) in &self.again {
            if let Some(row) = self.topics.get(topic) {
                let tp = TopicPartition::new(&Arc::from(row.name.as_str()), *index as i32);
                parts.insert(tp, ((*topic, *index), *doubted));
            }
        }
        plan.ends(&self.sight(self.cluster.options().give_up_after), parts).await?;
        Ok(Surveyed { plan, census: None, missed: BTreeSet::new() })
    }

    async fn count(&self, census: &Census) -> Result<Surveyed, EngineError> {
        let begun = now_ms();
        let seen = self.cluster.layout();
        // Who is cut off from the others would tell for ever what it knew last.
        let layout = match census.thorough {
            true => self.cluster.refresh_elsewhere(&seen).await?,
            false => self.cluster.refresh(&seen).await?,
        };
        let missed = self.missing(census, &layout);
        let mut chosen = self.chosen(census, &layout, &missed);
        let mut plan = Plan::default();
        let is_known = |topic: &Topic| self.topics.values().any(|row| row.name == *topic.name);
        let is_same = chosen.iter().all(is_known) && chosen.len() == self.topics.len();
        let checked = census.thorough || !is_same;
        if checked {
            access::check(&self.cluster, &self.state, &census.selection, &mut chosen, &mut plan).await?;
        } else {
            (plan.unread, plan.closed) = (census.unread.clone(), census.closed.clone());
            let unread = chosen.iter_mut().filter(|topic| census.unread.contains(&*topic.name));
            unread.for_each(|topic| topic.partitions.clear());
        }
        let mut closed = plan.closed.clone();
        closed.extend(missed.iter().chain(&plan.unread).cloned());
        let mut reborn = BTreeMap::new();
        loop {
            let mut plan = plan.rights();
            let basis = Basis { state: &self.state, vault_id: &self.vault_id, reborn: &reborn };
            plan.catalog(&basis, &census.selection, &chosen);
            if census.thorough || !plan.rows.topics.is_empty() {
                plan.settings(&self.cluster, &self.state, &closed).await?;
            }
            let mut parts = plan.parts();
            parts.retain(|tp, (key, _)| !census.open.contains(key) && !missed.contains(&*tp.topic));
            for (key, doubted) in parts.values_mut() {
                *doubted = self.again.get(key).copied().unwrap_or_default();
            }
            plan.ends(&self.sight(PATIENCE), parts).await?;
            if plan.reborn.keys().all(|name| reborn.contains_key(name)) {
                let hanging = match census.thorough {
                    true => Some(self.hanging(&plan).await?),
                    false => None,
                };
                let census = Some(Counted { begun, checked, hanging });
                return Ok(Surveyed { plan, census, missed });
            }
            reborn.append(&mut plan.reborn);
        }
    }

    /// Transactions that nobody will end.
    async fn hanging(&self, plan: &Plan) -> Result<Vec<Issue>, EngineError> {
        let all: Vec<TopicPartition> = plan.parts().into_keys().collect();
        let highs = self.cluster.list_offsets_within(&all, End::HighWatermark, PATIENCE).await?;
        let found: Vec<TopicPartition> = highs.found.keys().cloned().collect();
        let stable = self.cluster.list_offsets_within(&found, End::LastStable, PATIENCE).await?;
        let behind = |(tp, stable): (&TopicPartition, &Found)| {
            let behind = highs.found.get(tp)?.offset - stable.offset;
            (behind > 0).then(|| Suspect { tp: tp.clone(), behind })
        };
        let suspects: Vec<Suspect> = stable.found.iter().filter_map(behind).collect();
        Ok(transactions::look(&self.cluster, &suspects).await.issues)
    }

    /// The run's topics, but for those that are known to be gone: somebody may still be at work on them.
    fn current(&self) -> impl Iterator<Item = &TopicRow> {
        let is_current =
            |row: &&TopicRow| self.state.topics.get(&row.topic).is_none_or(|known| known.present);
        self.topics.values().filter(is_current)
    }

    /// The run's topics that the cluster does not name. A broker that has just started may not know of them yet.
    fn missing(&self, census: &Census, layout: &Layout) -> BTreeSet<String> {
        let names = self.current().map(|row| &row.name);
        let gone = names.filter(|name| {
            let topic = layout.topics.get(name.as_str());
            topic.is_none_or(|topic| topic.error == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        });
        gone.filter(|name| !census.missed.contains(*name)).cloned().collect()
    }

    /// The topics of the run as they are, and those as they were of which that is not sure.
    fn chosen(&self, census: &Census, layout: &Layout, missed: &BTreeSet<String>) -> Vec<Topic> {
        let is_there = |topic: &&Topic| topic.error != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        let there = layout.topics.values().filter(is_there);
        let covered = there.filter(|topic| census.selection.covers(&topic.name, topic.internal));
        let mut chosen: Vec<Topic> = covered.map(|topic| self.not_older(topic)).collect();
        let known = self.current().filter(|row| missed.contains(&row.name));
        chosen.extend(known.map(|row| self.as_it_was(row)));
        chosen
    }

    /// A broker that lags may tell of an earlier life of a topic, or of fewer partitions.
    fn not_older(&self, topic: &Topic) -> Topic {
        let lives = self.state.lives(&topic.name);
        let current = lives.first().and_then(|newest| self.topics.get(&newest.topic));
        match current {
            Some(current) if !current.synthetic && current.topic != topic.id => {
                let is_old = lives.iter().any(|life| life.topic == topic.id);
                if is_old { self.as_it_was(current) } else { topic.clone() }
            }
            Some(current) if (topic.partitions.len() as u32) < current.partitions => self.as_it_was(current),
            _ => topic.clone(),
        }
    }

    fn as_it_was(&self, row: &TopicRow) -> Topic {
        let partition = |index| bodley_io::kafka::Partition {
            index: index as i32,
            leader: None,
            leader_epoch: -1,
            replicas: vec![-1; usize::from(row.replication)],
        };
        Topic {
            name: Arc::from(row.name.as_str()),
            id: if row.synthetic { bodley_protocol::NO_TOPIC_ID } else { row.topic },
            internal: row.internal,
            partitions: (0..row.partitions).map(partition).collect(),
            error: ErrorCode::NONE,
        }
    }
}

//! What a connection's next Fetch says: everything, or, in a fetch session, what is new since the last one (KIP-227).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bodley_io::kafka::TopicPartition;
use bodley_io::kafka::fetch::Answer;
use bodley_protocol::fetch::{Asked, Partition, Session};
use bodley_protocol::{NO_TOPIC_ID, TopicId};

use super::task::Task;
use super::worker::PARTITION_BYTES;
use crate::vault::state::PartKey;

/// Partitions asked of one request outside of a session.
const PARTITIONS_PER_FETCH: usize = 400;
/// Partitions of a session. More are read in turns, each time in a session of their own.
const PARTITIONS_PER_SESSION: usize = 5_000;

/// What is asked of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    key: PartKey,
    tp: TopicPartition,
    topic_id: TopicId,
    offset: i64,
    leader_epoch: i32,
    last_fetched_epoch: i32,
}

impl Question {
    fn of(task: &Task) -> Self {
        let (offset, last_fetched_epoch) = task.wanted();
        Self {
            key: task.key,
            tp: task.tp.clone(),
            topic_id: task.fetch_id,
            offset,
            leader_epoch: task.leader_epoch,
            last_fetched_epoch,
        }
    }

    fn partition(&self) -> Partition<'_> {
        Partition {
            topic: &self.tp.topic,
            topic_id: self.topic_id,
            partition: self.tp.partition,
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            last_fetched_epoch: self.last_fetched_epoch,
            max_bytes: PARTITION_BYTES,
        }
    }
}

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Whom the answer may be about.
    pub keys: Vec<PartKey>,
    said: Vec<Question>,
    forgotten: Vec<Question>,
    session: Session,
    by_id: bool,
}

impl Request {
    /// The same for the wire: partitions, and those to forget.
    pub fn partitions(&self) -> (Vec<Partition<'_>>, Vec<Partition<'_>>) {
        (partitions(&self.said), partitions(&self.forgotten))
    }

    /// What [`Request::partitions`] gave, as a whole.
    pub fn asked<'a>(&self, said: &'a [Partition<'a>], forgotten: &'a [Partition<'a>]) -> Asked<'a> {
        Asked { partitions: said, forgotten, session: self.session, by_id: self.by_id }
    }

    /// Whether partitions that the answer leaves out stand as before: the broker remembers them.
    pub fn is_of_session(&self) -> bool {
        self.session != Session::NONE
    }
}

fn partitions(questions: &[Question]) -> Vec<Partition<'_>> {
    questions.iter().map(Question::partition).collect()
}

/// What the broker of a connection remembers.
#[derive(Debug)]
pub struct Book {
    session: Session,
    said: HashMap<PartKey, Question>,
    /// Topics go by their ids: all of a session, or none.
    by_id: bool,
}

impl Book {
    /// `keeps`: a session is wanted.
    pub fn new(keeps: bool) -> Self {
        let session = if keeps { Session::NEW } else { Session::NONE };
        Self { session, said: HashMap::new(), by_id: true }
    }

    /// The next request says everything.
    pub fn forget(&mut self) {
        if self.session != Session::NONE {
            // With its id, so that the broker gives up the place of the session that ends.
            *self = Self { session: Session { id: self.session.id, epoch: 0 }, ..Self::new(true) };
        }
    }

    /// The next request, for tasks in the order of `queue`.
    pub fn next(&mut self, queue: &VecDeque<PartKey>, tasks: &BTreeMap<PartKey, Task>) -> Request {
        let most = match self.session {
            Session::NONE => PARTITIONS_PER_FETCH,
            _ => PARTITIONS_PER_SESSION,
        };
        if queue.len() > most {
            self.forget();
        }
        let keys: Vec<PartKey> = queue.iter().take(most).copied().collect();
        let by_id = keys.iter().all(|key| tasks.get(key).is_none_or(|task| task.fetch_id != NO_TOPIC_ID));
        if by_id != self.by_id {
            self.forget();
            self.by_id = by_id;
        }
        let mut said: Vec<Question> =
            keys.iter().filter_map(|key| tasks.get(key)).map(Question::of).collect();
        let mut forgotten = Vec::new();
        if self.session.epoch > 0 {
            said.retain(|question| self.said.get(&question.key) != Some(question));
            let gone = |key: &&PartKey| !tasks.contains_key(*key);
            let gone: Vec<PartKey> = self.said.keys().filter(gone).copied().collect();
            forgotten.extend(gone.iter().filter_map(|key| self.said.remove(key)));
            together(&mut forgotten);
            // By name, one life of a topic can't be forgotten and another be asked for at once.
            let names: HashSet<&TopicPartition> = said.iter().map(|question| &question.tp).collect();
            if forgotten.iter().any(|gone| names.contains(&gone.tp)) {
                self.forget();
                self.by_id = by_id;
                forgotten.clear();
                said = keys.iter().filter_map(|key| tasks.get(key)).map(Question::of).collect();
            }
        }
        together(&mut said);
        Request { keys, said, forgotten, session: self.session, by_id }
    }

    /// A request has been answered without an error.
    pub fn answered(&mut self, request: Request, answer: &Answer) {
        if request.session == Session::NONE {
            return;
        }
        if answer.session == 0 && answer.throttle_ms > 0 {
            // Who is held back by a quota gets no session, this time.
            self.forget();
            return;
        }
        if answer.session == 0 {
            // It has no place for a session, or is too old to know any.
            *self = Self::new(false);
            return;
        }
        self.session = self.session.next(answer.session);
        self.said.extend(request.said.into_iter().map(|question| (question.key, question)));
    }
}

/// Partitions of a topic stand together; among topics the order stays, so that nobody starves.
fn together(questions: &mut [Question]) {
    let mut rank: HashMap<std::sync::Arc<str>, usize> = HashMap::new();
    for question in questions.iter() {
        let next = rank.len();
        rank.entry(std::sync::Arc::clone(&question.tp.topic)).or_insert(next);
    }
    questions.sort_by_key(|question| rank.get(&question.tp.topic).copied());
}

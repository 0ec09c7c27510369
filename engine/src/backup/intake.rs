//! Takes what a Fetch brings: gives the connection a place in the open segment for each partition's records, walks them, keeps what is
//! good, and notes what became of each partition.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::kafka::KafkaError;
use bodley_io::kafka::fetch::FetchSink;
use bodley_io::store::SharedStore;
use bodley_protocol::fetch::PartitionHead;
use bodley_protocol::{ErrorCode, NO_TOPIC_ID, TopicId};

use super::task::Task;
use crate::error::EngineError;
use crate::progress::Progress;
use crate::vault::hex;
use crate::vault::rows::Kind;
use crate::vault::segment::SegmentWriter;
use crate::vault::state::PartKey;
use crate::vault::walk::{Bad, Behind, Checked, walk_on};

/// What one answer brings of a partition is cut into chunks of at most so many bytes, unless one batch is larger: small, so that a restore
/// of a part reads little more; large, so that one read of them costs next to nothing.
const CHUNK_BYTES: usize = 2 << 20;

/// What a response said of a partition.
#[derive(Debug)]
pub enum Outcome {
    /// Bytes were kept.
    Progress,
    /// No batch, no error; the last stable offset that came with it.
    Empty(i64),
    /// The next batch lies at or beyond the run's end: the broker has nothing below.
    Ended,
    /// Bytes came, but not one whole batch.
    Cut,
    /// The broker's error.
    Code(ErrorCode),
    /// The leader's log parts from ours.
    Diverged,
    /// The batch at the task's `next` is bad; the offset behind it, if it can be told.
    Bad(Bad, Behind),
    /// While the end of a bad batch was looked for: the base offset of a good one.
    Hunted(Option<i64>),
    /// Where there may be nothing up to the end: whether its last offset brings anything.
    Probed {
        /// It does.
        found: bool,
        /// The last stable offset that came with it.
        lso: i64,
    },
    /// The leader would rather have us read from this replica.
    Nearer(i32),
}

impl Outcome {
    /// The partition is farther than before.
    pub fn is_progress(&self) -> bool {
        matches!(self, Self::Progress | Self::Ended)
    }

    /// The broker serves the partition, whether or not there is anything new.
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Progress | Self::Ended | Self::Empty(_))
    }
}

/// A worker's tasks, its open segment, and what the current response brought.
pub struct Intake {
    /// Tasks by vault id and partition.
    pub tasks: BTreeMap<PartKey, Task>,
    /// The open segment.
    pub segment: Option<SegmentWriter>,
    /// Of the current response.
    pub outcomes: Vec<(PartKey, Outcome)>,
    /// Record bytes in the current response.
    pub received: usize,
    /// Record bytes of the partition that is being read.
    expected: usize,
    /// What of them has been checked.
    checked: Checked,
    /// Asked for and not answered yet.
    asked: BTreeSet<PartKey>,
    names: HashMap<Arc<str>, TopicId>,
    ids: HashMap<TopicId, TopicId>,
    store: SharedStore,
    pool: Arc<BufferPool>,
    /// Counters.
    pub progress: Arc<Progress>,
}

impl Intake {
    /// Without tasks. `exact_times`: compressed batches are unpacked for their records' times.
    pub fn new(
        store: SharedStore,
        pool: Arc<BufferPool>,
        progress: Arc<Progress>,
        exact_times: bool,
    ) -> Self {
        Self {
            tasks: BTreeMap::new(),
            segment: None,
            outcomes: Vec::new(),
            received: 0,
            expected: 0,
            checked: Checked::with_times(exact_times).cutting(CHUNK_BYTES),
            asked: BTreeSet::new(),
            names: HashMap::new(),
            ids: HashMap::new(),
            store,
            pool,
            progress,
        }
    }

    /// Takes a task on.
    pub fn add(&mut self, task: Task) {
        // Older Fetch versions name topics that have an id all the same.
        self.names.insert(Arc::clone(&task.tp.topic), task.key.0);
        if task.fetch_id != NO_TOPIC_ID {
            self.ids.insert(task.fetch_id, task.key.0);
        }
        self.tasks.insert(task.key, task);
    }

    /// The next response must be about these, each at most once.
    pub fn expect(&mut self, asked: &[PartKey]) {
        self.asked = asked.iter().copied().collect();
    }

    /// Which task a part of a response is for. A broker that answers what was not asked is not believed in anything.
    fn asked_for(&self, head: &PartitionHead) -> Result<PartKey, EngineError> {
        let key = self.key(head).filter(|key| self.asked.contains(key));
        key.ok_or_else(|| {
            let topic = match head.topic.as_str() {
                "" => hex(&head.topic_id),
                name => format!("{name:?}"),
            };
            let partition = head.partition;
            let what =
                format!("it answers Fetch for {topic}-{partition}, which was not asked for or is answered");
            KafkaError::NoRoute(what).into()
        })
    }

    fn key(&self, head: &PartitionHead) -> Option<PartKey> {
        let topic = match head.topic.as_str() {
            "" => self.ids.get(&head.topic_id)?,
            name => self.names.get(name)?,
        };
        Some((*topic, u32::try_from(head.partition).ok()?))
    }

    fn take_records(&mut self, key: PartKey, head: &PartitionHead) -> Outcome {
        let (Some(task), Some(segment)) = (self.tasks.get_mut(&key), self.segment.as_mut()) else {
            return Outcome::Empty(-1);
        };
        if task.probes {
            return Outcome::Probed { found: true, lso: head.last_stable_offset };
        }
        if let Some(hunt) = &task.hunt {
            return Outcome::Hunted(hunt.look(segment.pending(head.records_len)));
        }
        task.aborted.learn(&head.aborted, task.next);
        // Nothing beyond the last stable offset is sent.
        let end =
            if task.is_open() && head.last_stable_offset >= 0 { head.last_stable_offset } else { task.end };
        let (bytes, offsets) = (segment.pending(head.records_len), task.next..end);
        let walk = walk_on(bytes, &mut self.checked, offsets, &mut task.aborted);
        for part in &walk.parts {
            let mut row = part.describe(task.row(Kind::Data, part.next));
            (row.lso, row.high_watermark) = (head.last_stable_offset, head.high_watermark);
            segment.keep(row);
            self.progress.advance(part.len as u64, (part.next - task.next).max(0) as u64);
            task.advance(part.next, part.last_epoch);
        }
        match walk.bad {
            Some((bad, behind)) => Outcome::Bad(bad, behind),
            None => match walk.beyond_end {
                // Nothing beyond the last stable offset is sent: the base offset, which no CRC covers, cannot be right. If an offset that
                // rose since is meant, the next answer tells.
                Some(last) if (0..=last).contains(&head.last_stable_offset) => {
                    let expected = task.next;
                    Outcome::Bad(Bad::Order { base: last, last, expected }, (None, None))
                }
                Some(_) if task.next < task.end => Outcome::Ended,
                _ if walk.all.len > 0 => Outcome::Progress,
                _ => Outcome::Cut,
            },
        }
    }
}

impl FetchSink for Intake {
    type Error = EngineError;

    async fn make_room(&mut self, head: &PartitionHead) -> Result<(), EngineError> {
        self.asked_for(head)?;
        if self.segment.is_none() {
            self.segment = Some(SegmentWriter::create(&self.store, &self.pool).await?);
        }
        self.expected = head.records_len;
        self.checked.restart();
        match self.segment.as_mut() {
            Some(segment) => Ok(segment.make_room(head.records_len).await?),
            None => Err(EngineError::Refused("no open segment".into())),
        }
    }

    fn room(&mut self) -> &mut [u8] {
        self.segment.as_mut().map(|segment| segment.room(self.expected)).unwrap_or_default()
    }

    fn arrived(&mut self, len: usize) {
        if let Some(segment) = &self.segment {
            self.checked.advance(segment.pending(len));
        }
    }

    fn partition(&mut self, head: &PartitionHead, diverging: Option<(i32, i64)>) -> Result<(), EngineError> {
        self.received += head.records_len;
        let key = self.asked_for(head)?;
        self.asked.remove(&key);
        if let Some(task) = self.tasks.get_mut(&key).filter(|_| head.error == 0) {
            task.is_told(head.last_stable_offset);
        }
        let outcome = match (head.error_code(), diverging) {
            (code, _) if code != ErrorCode::NONE => Outcome::Code(code),
            (_, Some((epoch, end))) if epoch >= 0 || end >= 0 => Outcome::Diverged,
            _ if head.records_len == 0 && head.preferred_replica >= 0 => {
                Outcome::Nearer(head.preferred_replica)
            }
            _ if head.records_len == 0 => match self.tasks.get(&key) {
                Some(task) if task.hunt.is_some() => Outcome::Hunted(None),
                Some(task) if task.probes => Outcome::Probed { found: false, lso: head.last_stable_offset },
                _ => Outcome::Empty(head.last_stable_offset),
            },
            _ => self.take_records(key, head),
        };
        self.outcomes.push((key, outcome));
        Ok(())
    }
}

//! Takes what a Fetch brings: gives the connection a place in the open segment for each partition's records, walks them, keeps what is
//! good, and notes what became of each partition.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::kafka::fetch::FetchSink;
use bodley_io::store::SharedStore;
use bodley_protocol::fetch::PartitionHead;
use bodley_protocol::{ErrorCode, TopicId};

use super::task::Task;
use crate::error::EngineError;
use crate::progress::Progress;
use crate::vault::rows::Kind;
use crate::vault::segment::SegmentWriter;
use crate::vault::state::PartKey;
use crate::vault::walk::{Bad, walk};

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
    /// The leader's log parts from ours at this offset.
    Diverged(i64),
    /// The batch at the task's `next` is bad; the offset behind it, if it can be told.
    Bad(Bad, Option<i64>),
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
    names: HashMap<Arc<str>, TopicId>,
    ids: HashMap<TopicId, TopicId>,
    store: SharedStore,
    pool: Arc<BufferPool>,
    progress: Arc<Progress>,
}

impl Intake {
    /// Without tasks.
    pub fn new(store: SharedStore, pool: Arc<BufferPool>, progress: Arc<Progress>) -> Self {
        Self {
            tasks: BTreeMap::new(),
            segment: None,
            outcomes: Vec::new(),
            received: 0,
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
        if task.fetch_id != [0; 16] {
            self.ids.insert(task.fetch_id, task.key.0);
        }
        self.tasks.insert(task.key, task);
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
        task.aborted.learn(&head.aborted, task.next);
        let walk = walk(segment.pending(head.records_len), task.next, task.end, &mut task.aborted);
        if walk.len > 0 {
            let mut row = task.row(Kind::Data, walk.next);
            row.last_epoch = walk.last_epoch;
            (row.lso, row.high_watermark) = (head.last_stable_offset, head.high_watermark);
            row.stored = walk.len as u32;
            (row.records, row.kept) = (walk.records, walk.kept);
            (row.min_ts, row.max_ts, row.base_ts) = (walk.min_ts, walk.max_ts, walk.base_ts);
            row.crc64 = walk.crc64;
            segment.keep(row);
            self.progress.advance(walk.len as u64, (walk.next - task.next).max(0) as u64);
            (task.next, task.last_epoch) = (walk.next, walk.last_epoch);
            (task.stuck, task.bad_tries) = (None, 0);
        }
        match walk.bad {
            Some((bad, behind)) => Outcome::Bad(bad, behind),
            None if walk.beyond_end && task.next < task.end => Outcome::Ended,
            None if walk.len > 0 => Outcome::Progress,
            None => Outcome::Cut,
        }
    }
}

impl FetchSink for Intake {
    type Error = EngineError;

    async fn room(&mut self, head: &PartitionHead) -> Result<&mut [u8], EngineError> {
        if self.segment.is_none() {
            self.segment = Some(SegmentWriter::create(&self.store, &self.pool).await?);
        }
        match self.segment.as_mut() {
            Some(segment) => Ok(segment.room(head.records_len).await?),
            None => Err(EngineError::Refused("no open segment".into())),
        }
    }

    fn partition(&mut self, head: &PartitionHead, diverging: Option<(i32, i64)>) -> Result<(), EngineError> {
        self.received += head.records_len;
        let Some(key) = self.key(head).filter(|key| self.tasks.contains_key(key)) else {
            // Never asked for: without a task there is nothing to do for it.
            tracing::warn!(
                "a broker answered for {}-{}, which was not asked for",
                head.topic,
                head.partition
            );
            return Ok(());
        };
        let outcome = match (head.error_code(), diverging) {
            (code, _) if code != ErrorCode::NONE => Outcome::Code(code),
            (_, Some((epoch, end))) if epoch >= 0 || end >= 0 => Outcome::Diverged(end),
            _ if head.records_len == 0 => Outcome::Empty(head.last_stable_offset),
            _ => self.take_records(key, head),
        };
        self.outcomes.push((key, outcome));
        Ok(())
    }
}

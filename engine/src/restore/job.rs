//! A partition on its way back: what is prepared, what is in flight, what is acknowledged.
//!
//! One batch is in flight until the first is acknowledged, then up to five (a leader remembers five); one again after every error, and when nothing
//! was acknowledged for some minutes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bodley_io::kafka::{KafkaError, TopicPartition};
use bodley_protocol::TopicId;
use tokio::sync::mpsc;

use super::outgo::{Handed, Passed};
use super::stand::Stand;
use super::tray::Outgoing;
use super::work::Work;
use crate::error::EngineError;
use crate::progress::Progress;
use crate::report::Merged;
use crate::vault::VaultError;

/// Batches of one partition, and requests of one connection, in flight.
pub const IN_FLIGHT: usize = 5;
/// A leader that has heard nothing of a partition for so long may have forgotten its producer.
const IDLE: Duration = Duration::from_secs(300);

/// Where prepared batches come from.
pub type Inbox = mpsc::Receiver<Result<Handed, EngineError>>;

/// A partition that is being restored.
#[derive(Debug)]
pub struct Job {
    /// At the target.
    pub tp: TopicPartition,
    /// What to restore.
    pub work: Arc<Work>,
    /// Where it stands; `done` counts what is acknowledged.
    pub stand: Stand,
    /// The target's topic id; zeros where it has none.
    pub topic_id: TopicId,
    /// Bytes of chunks that were not done when it came to be.
    pub bytes: u64,
    /// Prepared batches; `None` before it is begun.
    pub inbox: Option<Inbox>,
    /// To be sent, in order.
    pub ready: VecDeque<Outgoing>,
    /// Sent, not acknowledged, in order.
    pub unacked: VecDeque<Outgoing>,
    /// Requests with a batch of it that are not answered.
    pub outstanding: usize,
    /// When the last batch was acknowledged since the partition came here.
    pub acked: Option<Instant>,
    /// Nothing more will be prepared.
    pub exhausted: bool,
    /// Why nothing more is sent of it from here.
    pub failed: Option<KafkaError>,
    /// A batch may be stored or not.
    pub unclear: bool,
    /// Records that this run has sent.
    pub sent: i64,
    /// What was merged in them.
    pub merged: Merged,
    /// Those that were in message format 0 or 1.
    pub old_records: i64,
    /// Group positions and offset map, when all is prepared.
    pub passed: Option<Passed>,
    /// Since when there has been no progress.
    pub stuck: Option<Instant>,
}

impl Job {
    /// Not begun yet.
    pub fn new(tp: TopicPartition, work: Arc<Work>, stand: Stand, topic_id: TopicId) -> Self {
        Self {
            tp,
            bytes: work.bytes_behind(stand.done),
            work,
            stand,
            topic_id,
            inbox: None,
            ready: VecDeque::new(),
            unacked: VecDeque::new(),
            outstanding: 0,
            acked: None,
            exhausted: false,
            failed: None,
            unclear: false,
            sent: 0,
            merged: Merged::default(),
            old_records: 0,
            passed: None,
            stuck: None,
        }
    }

    /// All is acknowledged.
    pub fn is_done(&self) -> bool {
        self.exhausted && self.ready.is_empty() && self.unacked.is_empty()
    }

    /// The oldest batch in flight is stored.
    pub fn stored(&mut self, batch: &Outgoing) {
        self.stand.done += i64::from(batch.records);
        self.sent += i64::from(batch.records);
        self.old_records += i64::from(batch.old_records);
        if batch.batches > 1 {
            self.merged.add(Merged { batches: u64::from(batch.batches), into: 1 });
        }
        (self.acked, self.stuck) = (Some(Instant::now()), None);
    }

    /// Offset behind the last acknowledged record.
    pub fn acknowledged(&self) -> i64 {
        self.stand.offset_of(self.stand.done)
    }

    /// Nothing was stored of what is not acknowledged: it is sent again as it is.
    pub fn send_again(&mut self) {
        while let Some(last) = self.unacked.pop_back() {
            self.ready.push_front(last);
        }
        (self.acked, self.failed, self.outstanding) = (None, None, 0);
    }

    /// Gives back what is prepared, so that others may use the buffers: it is prepared again when the partition goes on.
    pub fn let_go(&mut self) {
        (self.ready, self.unacked) = (VecDeque::new(), VecDeque::new());
        (self.inbox, self.passed, self.exhausted) = (None, None, false);
        (self.acked, self.outstanding) = (None, 0);
        self.bytes = self.work.bytes_behind(self.stand.done);
    }

    /// Goes on from `stand`, which was asked of the leader. What was prepared is let go of.
    pub fn restart(self, stand: Stand) -> Self {
        let progress = stand.done - self.stand.done;
        let stuck = self.stuck.filter(|_| progress <= 0);
        Self {
            sent: self.sent + progress.max(0),
            merged: self.merged,
            old_records: self.old_records,
            stuck,
            ..Self::new(self.tp, self.work, stand, self.topic_id)
        }
    }

    /// The next batch may be sent.
    pub fn may_send(&self) -> bool {
        let window = if self.acked.is_some_and(|at| at.elapsed() < IDLE) { IN_FLIGHT } else { 1 };
        self.failed.is_none() && !self.ready.is_empty() && self.unacked.len() < window
    }
}

/// Takes what was prepared of a partition.
pub fn take(job: &mut Job, handed: Handed, progress: &Progress) {
    match handed {
        Handed::Chunk(batches, bytes) => {
            progress.advance(bytes, bytes);
            job.ready.extend(batches);
        }
        Handed::End(passed) => (job.passed, job.exhausted) = (Some(passed), true),
    }
}

/// Waits until a partition has something prepared.
pub async fn next_ready(jobs: &mut [Job], progress: &Progress) -> Result<(), EngineError> {
    std::future::poll_fn(|context| {
        for job in jobs.iter_mut().filter(|job| job.ready.is_empty() && !job.exhausted) {
            let Some(inbox) = job.inbox.as_mut() else { continue };
            match inbox.poll_recv(context) {
                Poll::Ready(Some(Ok(handed))) => {
                    take(job, handed, progress);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => {
                    let what = format!("the preparation of {} ended early", job.tp);
                    return Poll::Ready(Err(VaultError::Internal(what).into()));
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

//! A Fetch whose record bytes go from the socket straight to where they stay.
//!
//! The few bytes of headers between record sets are read into a small staging buffer; what of a record set came along with
//! them is copied, the rest is read in place. The way goes on in the sink: the engine's intake.

use std::time::{Duration, Instant};

use bodley_protocol::ErrorCode;
use bodley_protocol::fetch::{self, Asked, Limits, Partition, PartitionHead, ResponseParser, Step};
use bodley_protocol::versions::FETCH;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::Request;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::connection::Connection;
use super::error::KafkaError;

/// Large enough for many small partitions per read, small enough that copying from it costs nothing.
const STAGING: usize = 32 << 10;
/// A section of the headers that does not fit into this is not Kafka's.
const MAX_STAGING: usize = 256 << 10;
/// Largest Fetch answer: brokers stop at what was asked for (16 MiB), but for one batch, and that came in a request of 100 MiB at most
/// (socket.request.max.bytes, as it is by default).
const MAX_ANSWER: usize = 128 << 20;

/// Record bytes are read in pieces of this size, so that what is done with them finds them in the cache.
const WARM: usize = 1 << 20;

/// Less than this in the time for a request is silence, however evenly it drips.
const ENOUGH: usize = 64 << 10;

/// Takes what a Fetch brings.
pub trait FetchSink: Send {
    /// What stops the fetch from this side.
    type Error: From<KafkaError> + Send;

    /// Makes a place for `head.records_len` bytes (at least 1) ready. May wait; the broker waits with us.
    fn make_room(&mut self, head: &PartitionHead) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The place that was made last: exactly as many bytes as were asked for.
    fn room(&mut self) -> &mut [u8];

    /// The first `len` bytes of the place have arrived, and are still in the processor's cache.
    fn arrived(&mut self, len: usize) {
        let _ = len;
    }

    /// A partition's part of the answer is complete, its records stand in the place asked for. `diverging`: epoch and end offset
    /// where the leader's log parts from ours.
    fn partition(&mut self, head: &PartitionHead, diverging: Option<(i32, i64)>) -> Result<(), Self::Error>;
}

/// What an answer says beside its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// How long the broker held it back for a quota, ms. Such an answer may be empty though there is data.
    pub throttle_ms: i32,
    /// Error of the whole request.
    pub error: ErrorCode,
    /// Id of the fetch session that it belongs to; 0: none.
    pub session: i32,
    /// Bytes of the frame.
    pub bytes: usize,
    /// From the sending of the request until all of this had been read, less the waits for [`FetchSink::make_room`].
    pub took: Duration,
}

/// A Fetch whose answer has begun to come.
#[derive(Debug)]
pub struct Coming {
    version: i16,
    length: usize,
    sent: Instant,
}

impl Connection {
    /// Whether Fetch addresses topics by id here.
    pub fn fetches_by_id(&self) -> Result<bool, KafkaError> {
        Ok(self.fetch_version(true)? >= bodley_protocol::versions::FETCH_TOPIC_ID)
    }

    /// Whether Fetch tells our rack: then a leader may answer with nothing but a replica that is nearer (KIP-392), which the caller asks.
    pub fn tell_rack(&mut self, tell: bool) {
        self.tells_rack = tell;
    }

    fn rack(&self) -> &str {
        if self.tells_rack { &self.options().rack } else { "" }
    }

    fn fetch_version(&self, ids: bool) -> Result<i16, KafkaError> {
        let mut ours = FETCH;
        if !ids {
            ours.max = bodley_protocol::versions::FETCH_TOPIC_ID - 1;
        }
        let version = self.versions().common(FetchRequest::KEY, ours);
        version.map_err(|source| KafkaError::Version { broker: self.broker.clone(), source })
    }

    /// Sends a Fetch for `partitions` and hands the answer to `sink`. The connection is dead after an error.
    pub async fn fetch<S: FetchSink>(
        &mut self,
        limits: Limits,
        partitions: &[Partition<'_>],
        sink: &mut S,
    ) -> Result<Answer, S::Error> {
        let coming = self.ask(limits, &Asked::all(partitions)).await?;
        self.take(coming, sink).await
    }

    /// Sends a Fetch and waits until its answer begins to come. Then comes [`Connection::take`], and nothing else.
    pub async fn ask(&mut self, limits: Limits, asked: &Asked<'_>) -> Result<Coming, KafkaError> {
        let version = self.fetch_version(asked.by_id)?;
        let mut stop = self.stop.take();
        let whole = self.options().request_timeout * 2;
        let renewed = patient(&mut stop, whole, self.renew_if_due()).await;
        self.stop = stop;
        match renewed {
            Waited::Done(renewed) => renewed?,
            Waited::Stopped => return Err(KafkaError::Stopped),
            Waited::Silence => return Err(self.stalled()),
        }
        let (id, head) = self.next_head(version);
        let request = fetch::encode(head.as_head(), limits, self.rack(), asked);
        let sent = Instant::now();
        let patience = self.options().request_timeout + Duration::from_millis(limits.max_wait_ms as u64);
        let mut stop = self.stop.take();
        // A broker that is frozen takes no more than its buffers hold.
        let length = async {
            self.send(id, &[&request]).await?;
            self.begin()?;
            self.read_length().await
        };
        let length = patient(&mut stop, patience, length).await;
        self.stop = stop;
        let length = match length {
            Waited::Done(length) => length?,
            Waited::Stopped => return Err(KafkaError::Stopped),
            Waited::Silence => {
                let what = "answer Fetch".to_owned();
                return Err(KafkaError::Timeout { broker: self.broker.clone(), what, after: patience });
            }
        };
        if length > MAX_ANSWER {
            return Err(self.malformed(format!("a frame of {length} bytes")));
        }
        Ok(Coming { version, length, sent })
    }

    /// Hands the answer to `sink`. The connection is dead after an error.
    pub async fn take<S: FetchSink>(&mut self, coming: Coming, sink: &mut S) -> Result<Answer, S::Error> {
        let (answer, waited) = self.read_answer(coming.version, coming.length, sink).await?;
        self.dead = false;
        Ok(Answer { took: coming.sent.elapsed().saturating_sub(waited), ..answer })
    }

    /// The answer, and how long the sink's places were waited for.
    async fn read_answer<S: FetchSink>(
        &mut self,
        version: i16,
        length: usize,
        sink: &mut S,
    ) -> Result<(Answer, Duration), S::Error> {
        let mut parser = ResponseParser::new(version, length);
        let mut unread = length;
        let mut pace = Pace::new(self.options().request_timeout);
        let mut staged = std::mem::take(&mut self.staged);
        staged.clear();
        let mut used = 0;
        let mut waited = Duration::ZERO;
        let mut checked_id = false;
        let mut current: Option<PartitionHead> = None;
        loop {
            let fresh = staged.get(used..).unwrap_or_default();
            let (consumed, step) = parser.step(fresh).map_err(|e| KafkaError::fetch(&self.broker, e))?;
            used += consumed;
            if consumed > 0 && !checked_id {
                self.expect(parser.correlation_id())?;
                checked_id = true;
            }
            match step {
                Step::More => {
                    staged.drain(..used);
                    used = 0;
                    self.stage(&mut staged, &mut unread, &mut pace).await?;
                }
                Step::Records(head) if head.records_len == 0 => current = Some(head),
                Step::Records(head) => {
                    let since = Instant::now();
                    sink.make_room(&head).await?;
                    waited += since.elapsed();
                    let ready = staged.get(used..).unwrap_or_default();
                    let copied = take_ready(sink.room(), ready, &head)
                        .ok_or_else(|| self.malformed(NO_ROOM.into()))?;
                    used += copied;
                    unread = unread.saturating_sub(head.records_len - copied);
                    self.read_records(copied..head.records_len, sink, &mut pace).await?;
                    current = Some(head);
                }
                Step::PartitionEnd(diverging) => {
                    if let Some(head) = current.take() {
                        sink.partition(&head, diverging)?;
                    }
                }
                Step::End { throttle_ms, error, session } => {
                    self.staged = staged;
                    let answer = Answer { throttle_ms, error, session, bytes: length, took: Duration::ZERO };
                    return Ok((answer, waited));
                }
            }
        }
    }

    /// Reads some more of the answer's headers.
    async fn stage(
        &mut self,
        staged: &mut Vec<u8>,
        unread: &mut usize,
        pace: &mut Pace,
    ) -> Result<(), KafkaError> {
        if staged.len() >= MAX_STAGING {
            return Err(self.malformed("a field longer than any of Kafka's".into()));
        }
        let mut limited = (&mut self.stream).take((*unread).min(STAGING) as u64);
        staged.reserve(STAGING);
        let read = pace.patient(&mut self.stop, limited.read_buf(staged));
        let n = match read.await {
            Waited::Done(n) => n.map_err(|e| KafkaError::io(&self.broker, e))?,
            Waited::Stopped => return Err(KafkaError::Stopped),
            Waited::Silence => return Err(self.stalled()),
        };
        if n == 0 {
            return Err(KafkaError::Closed { broker: self.broker.clone(), source: None });
        }
        *unread -= n;
        pace.brought(n);
        Ok(())
    }

    /// Reads the rest of the sink's place, from its byte `done.start` on.
    async fn read_records<S: FetchSink>(
        &mut self,
        done: std::ops::Range<usize>,
        sink: &mut S,
        pace: &mut Pace,
    ) -> Result<(), KafkaError> {
        let (mut done, len) = (done.start, done.end);
        sink.arrived(done);
        while done < len {
            let Some(rest) = sink.room().get_mut(done..len) else {
                return Err(self.malformed(NO_ROOM.into()));
            };
            let most = rest.len().min(WARM);
            // The timeout is for silence, not for the whole: a large answer over a slow line takes its time.
            let read = self.stream.read(rest.get_mut(..most).unwrap_or_default());
            let n = match pace.patient(&mut self.stop, read).await {
                Waited::Done(n) => n.map_err(|e| KafkaError::io(&self.broker, e))?,
                Waited::Stopped => return Err(KafkaError::Stopped),
                Waited::Silence => return Err(self.stalled()),
            };
            if n == 0 {
                return Err(KafkaError::Closed { broker: self.broker.clone(), source: None });
            }
            done += n;
            pace.brought(n);
            sink.arrived(done);
        }
        Ok(())
    }

    fn stalled(&self) -> KafkaError {
        let after = self.options().request_timeout;
        KafkaError::Timeout { broker: self.broker.clone(), what: "go on with its answer".into(), after }
    }
}

enum Waited<T> {
    Done(T),
    Silence,
    Stopped,
}

const NO_ROOM: &str = "an answer for which there is no room";

/// Copies what came along with the headers to its place; the number of bytes.
fn take_ready(room: &mut [u8], ready: &[u8], head: &PartitionHead) -> Option<usize> {
    let copied = ready.len().min(head.records_len);
    room.get_mut(..copied)?.copy_from_slice(ready.get(..copied)?);
    Some(copied)
}

/// How long the broker may still be waited for, until it has brought enough again.
struct Pace {
    whole: Duration,
    left: Duration,
    bytes: usize,
}

impl Pace {
    fn new(whole: Duration) -> Self {
        Self { whole, left: whole, bytes: 0 }
    }

    async fn patient<T>(
        &mut self,
        stop: &mut Option<watch::Receiver<bool>>,
        work: impl Future<Output = T>,
    ) -> Waited<T> {
        let since = Instant::now();
        let waited = patient(stop, self.left, work).await;
        self.left = self.left.saturating_sub(since.elapsed());
        waited
    }

    fn brought(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= ENOUGH {
            *self = Self::new(self.whole);
        }
    }
}

/// Waits for the broker, but no longer than `after`, and not when the run is to end.
async fn patient<T>(
    stop: &mut Option<watch::Receiver<bool>>,
    after: Duration,
    work: impl Future<Output = T>,
) -> Waited<T> {
    let stopped = async {
        if let Some(stop) = stop
            && stop.wait_for(|stop| *stop).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        done = work => Waited::Done(done),
        () = stopped => Waited::Stopped,
        () = tokio::time::sleep(after) => Waited::Silence,
    }
}

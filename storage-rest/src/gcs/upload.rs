//! A segment as a resumable upload (<https://cloud.google.com/storage/docs/performing-resumable-uploads>).
//!
//! Google takes the parts of an object one after the other, in multiples of 256 KiB, and says how far it has come; it may keep less than was
//! sent. So one part is in flight while the next one fills, what was not kept is sent again from its buffer, and less than 256 KiB waits in memory of its own
//! for the end, when the CRC-32C of the whole goes with it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bodley_io::Filled;
use bodley_io::Secret;
use bodley_io::backoff::{Backoff, Pauses};
use bodley_io::store::{Put, StoreError, Upload};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{GcsStore, QUANTUM, crc32c_text};
use crate::client::{Call, Payload, Reply, new_mark, text};

/// A session that is lost before anything was kept is begun anew so often.
const SESSIONS: usize = 3;
/// So often in a row the store may keep nothing of what it is sent.
const FRUITLESS: usize = 8;

/// What an upload is about; shared with the part that is on its way.
struct Target {
    store: GcsStore,
    path: String,
    /// In the object's metadata: by it we know our own again.
    mark: String,
}

pub(super) struct GcsUpload {
    target: Arc<Target>,
    session: Option<Secret>,
    /// Bytes that are kept or on their way.
    sent: u64,
    /// Of them.
    crc32c: u32,
    /// Less than [`QUANTUM`].
    rest: Bytes,
    flight: Option<JoinHandle<Result<Secret, StoreError>>>,
}

/// How far the store has come, by its answer.
enum Kept {
    /// So many bytes from the object's beginning.
    UpTo(u64),
    /// All of it: the object is there.
    All(Value),
    /// The session is unknown.
    Lost,
    /// The name is taken.
    Taken,
}

impl GcsUpload {
    pub fn new(store: GcsStore, path: &str) -> Self {
        let target = Arc::new(Target { store, path: path.to_owned(), mark: new_mark() });
        Self { target, session: None, sent: 0, crc32c: 0, rest: Bytes::new(), flight: None }
    }

    /// Waits for the part that is on its way.
    async fn land(&mut self) -> Result<(), StoreError> {
        let Some(flight) = self.flight.take() else { return Ok(()) };
        let landed = flight.await.map_err(|_| self.target.remote("a part was cut off", true))?;
        self.session = Some(landed?);
        Ok(())
    }

    fn sum(&mut self, payload: &Payload) {
        let algorithm = crc_fast::CrcAlgorithm::Crc32Iscsi;
        let (old, new) = (u64::from(self.crc32c), u64::from(payload.crc32c()));
        self.crc32c = crc_fast::checksum_combine(algorithm, old, new, payload.len()) as u32;
    }
}

#[async_trait]
impl Upload for GcsUpload {
    async fn write(&mut self, part: Filled) -> Result<(), StoreError> {
        self.land().await?;
        let bytes = part.into_bytes();
        let bytes = if self.rest.is_empty() { bytes } else { joined(&self.rest, &bytes) };
        let whole = bytes.len() / QUANTUM * QUANTUM;
        // In memory of its own, so that the part buffer goes back.
        self.rest = Bytes::copy_from_slice(bytes.get(whole..).unwrap_or_default());
        if whole == 0 {
            return Ok(());
        }
        let part = bytes.slice(..whole);
        self.sum(&Payload::new(part.clone()));
        let (target, session, at) = (Arc::clone(&self.target), self.session.clone(), self.sent);
        self.sent += whole as u64;
        self.flight = Some(tokio::spawn(async move { target.carry(session, at, part).await }));
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.land().await?;
        let rest = Payload::new(std::mem::take(&mut self.rest));
        let Some(session) = self.session.take() else {
            if self.sent > 0 {
                return Err(self.target.remote("its first part was not written", true));
            }
            return match self.target.store.0.put(&self.target.path, rest).await? {
                Put::Created => Ok(()),
                Put::Exists => Err(self.target.exists()),
            };
        };
        self.sum(&rest);
        let outcome = self.target.end(&session, (self.sent, rest), self.crc32c).await;
        if outcome.is_err() {
            self.session = Some(session);
        }
        outcome
    }
}

impl Drop for GcsUpload {
    /// A session that nobody ends stays for a week; what it holds is not to be seen, but it is polite to say.
    fn drop(&mut self) {
        let (flight, session) = (self.flight.take(), self.session.take());
        if flight.is_none() && session.is_none() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let target = Arc::clone(&self.target);
        runtime.spawn(async move {
            let landed = match flight {
                Some(flight) => flight.await.ok().and_then(Result::ok),
                None => None,
            };
            if let Some(session) = landed.or(session) {
                target.cancel(&session).await;
            }
        });
    }
}

impl Target {
    /// Brings a part of whole quanta to where it belongs. `None`: the session is to be begun. Gives the session back.
    async fn carry(&self, session: Option<Secret>, at: u64, part: Bytes) -> Result<Secret, StoreError> {
        let mut session = match session {
            Some(session) => session,
            None => self.begin().await?,
        };
        let (mut sessions, mut tries) = (1, Tries::new());
        let (mut from, end) = (at, at + part.len() as u64);
        while from < end {
            let left = part.slice((from - at) as usize..);
            let call = self
                .call(&session)
                .header("content-range", format!("bytes {from}-{}/*", end - 1))
                .payload(Payload::new(left));
            match self.ask(&session, &call).await? {
                Kept::UpTo(kept) if kept > from => (from, tries) = (kept.min(end), Tries::new()),
                Kept::UpTo(kept) if kept >= at => {
                    from = kept;
                    tries.again(self).await?;
                }
                Kept::Lost | Kept::UpTo(_) if at == 0 && sessions < SESSIONS => {
                    (session, from, sessions) = (self.begin().await?, 0, sessions + 1);
                }
                Kept::Lost | Kept::UpTo(_) => {
                    return Err(self.remote("the store has lost the upload; run again", true));
                }
                Kept::Taken => return Err(self.exists()),
                Kept::All(_) => return Err(self.remote("the store ended the upload before its end", false)),
            }
        }
        Ok(session)
    }

    /// Sends what is left, and ends the upload.
    async fn end(
        &self,
        session: &Secret,
        (sent, rest): (u64, Payload),
        crc32c: u32,
    ) -> Result<(), StoreError> {
        let total = sent + rest.len();
        let mut tries = Tries::new();
        let range = match rest.len() {
            0 => format!("bytes */{total}"),
            _ => format!("bytes {sent}-{}/{total}", total - 1),
        };
        let call = self
            .call(session)
            .header("content-range", range)
            .header("x-goog-hash", format!("crc32c={}", crc32c_text(crc32c)))
            .payload(rest);
        loop {
            match self.ask(session, &call).await? {
                Kept::All(object) => return self.check(&object, total, crc32c),
                // Less than all of the end was kept: what is sent again from its beginning is passed over as far as it is there.
                Kept::UpTo(kept) if kept >= sent => tries.again(self).await?,
                Kept::Taken => return Err(self.exists()),
                Kept::Lost | Kept::UpTo(_) => {
                    return Err(self.remote("the store has lost the upload; run again", true));
                }
            }
        }
    }

    fn check(&self, object: &Value, total: u64, crc32c: u32) -> Result<(), StoreError> {
        let theirs = object.get("crc32c").and_then(Value::as_str);
        if super::size_of(object) == Some(total) && theirs.is_none_or(|theirs| theirs == crc32c_text(crc32c))
        {
            return Ok(());
        }
        Err(self.remote("the store's object has another length or checksum than what was sent", false))
    }

    async fn begin(&self) -> Result<Secret, StoreError> {
        let bucket = &self.store.0;
        let metadata = Value::from(bucket.metadata(&self.path, &self.mark)).to_string();
        let call = bucket
            .making(&self.path, "resumable")
            .header("content-type", "application/json; charset=UTF-8")
            .header("x-upload-content-type", "application/octet-stream")
            .accepts(&[412])
            .payload(Payload::new(metadata.into()));
        let reply = bucket.client.send(&call).await?;
        if reply.status == StatusCode::PRECONDITION_FAILED {
            return Err(self.exists());
        }
        let address = reply.header("location").map(Secret::new);
        address.ok_or_else(|| self.remote("the store gave no address for the upload", false))
    }

    fn call(&self, session: &Secret) -> Call<'_> {
        Call::new("write", &self.path, Method::PUT, String::new())
            .at(session)
            .accepts(&[308, 404, 410, 412])
            .needs("storage.objects.create")
    }

    /// Sends a part and says how far the store has come.
    async fn ask(&self, session: &Secret, call: &Call<'_>) -> Result<Kept, StoreError> {
        let reply = self.store.0.client.send(call).await?;
        match self.kept(&reply).await? {
            // An answer that does not say how far is asked for anew: the part may have been kept all the same.
            Kept::UpTo(0) => {
                let question = self.call(session).header("content-range", "bytes */*");
                let reply = self.store.0.client.send(&question).await?;
                self.kept(&reply).await
            }
            kept => Ok(kept),
        }
    }

    async fn kept(&self, reply: &Reply) -> Result<Kept, StoreError> {
        match reply.status.as_u16() {
            308 => Ok(Kept::UpTo(text(&reply.headers, "range").and_then(end_of).unwrap_or(0))),
            status @ (404 | 410 | 412) => {
                // An earlier attempt may have brought it to its end.
                match self.store.0.marked(&self.path, &self.mark).await? {
                    Some(object) => Ok(Kept::All(object)),
                    None => Ok(if status == 412 { Kept::Taken } else { Kept::Lost }),
                }
            }
            _ => Ok(Kept::All(serde_json::from_slice(&reply.body).unwrap_or_default())),
        }
    }

    async fn cancel(&self, session: &Secret) {
        let call = Call::new("give up the upload of", &self.path, Method::DELETE, String::new()).at(session);
        // 499 is how Google says that it is done.
        if let Err(error) = self.store.0.client.send(&call.accepts(&[404, 410, 499])).await {
            tracing::debug!("an upload of {} stays behind for a week: {error}", self.path);
        }
    }

    fn exists(&self) -> StoreError {
        StoreError::Exists { object: self.path.clone() }
    }

    fn remote(&self, what: &str, passing: bool) -> StoreError {
        let (object, what) = (self.path.clone(), what.to_owned());
        StoreError::Remote { operation: "write", object, what, passing }
    }
}

/// How often in a row nothing came of it.
struct Tries {
    count: usize,
    backoff: Backoff,
}

impl Tries {
    fn new() -> Self {
        let pauses = Pauses { first: Duration::from_millis(50), longest: Duration::from_secs(5) };
        Self { count: 0, backoff: Backoff::with_pauses(pauses, Duration::from_secs(60)) }
    }

    async fn again(&mut self, target: &Target) -> Result<(), StoreError> {
        self.count += 1;
        if self.count > FRUITLESS || !self.backoff.wait().await {
            return Err(target.remote("the store keeps nothing of what it is sent", true));
        }
        Ok(())
    }
}

fn joined(first: &[u8], second: &[u8]) -> Bytes {
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(first);
    both.extend_from_slice(second);
    both.freeze()
}

/// The length of `bytes=0-99`.
fn end_of(range: &str) -> Option<u64> {
    let last: u64 = range.strip_prefix("bytes=")?.strip_prefix("0-")?.parse().ok()?;
    last.checked_add(1)
}

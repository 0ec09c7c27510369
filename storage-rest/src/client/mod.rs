//! What all object stores have in common: a request is signed anew for each attempt, tried again by one table, watched for
//! stillness rather than timed, and refused with a sentence that says what to do.
//!
//! On the way of a byte: `payload.rs` hands part buffers to the connection, `read.rs` fills them again, `parts.rs` keeps several
//! parts of an object in flight. What a store calls things is in its own module, behind [`Dialect`].

mod call;
mod gate;
mod listing;
mod parts;
mod payload;
mod read;
mod retry;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bodley_io::backoff::{Backoff, Pauses};
use bodley_io::store::StoreError;
use bodley_io::{Secret, TokenError};
use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use reqwest::{Response, Url};

use crate::SettingError;
use crate::web::{HttpError, builder, classify};
pub(crate) use call::{Call, Refusal, Reply, text};
use gate::Gate;
pub(crate) use listing::Page;
pub(crate) use parts::{PartStore, PartsUpload};
pub(crate) use payload::{Beat, Payload};
use retry::Class;

/// Of an answer that is kept in memory, in bytes: a page of a listing.
const LARGEST_ANSWER: usize = 4 << 20;
/// Of a refusal; what is behind is not read.
const LARGEST_REFUSAL: usize = 64 << 10;

/// How often bytes are sent again that arrived with another checksum.
const DIGEST_TRIES: u32 = 3;

/// How long things may take, and how many at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// So long nothing may move on a connection, in either direction.
    pub idle: Duration,
    /// An operation that does not get on is given up after so long; before the store has ever answered, much sooner.
    pub give_up_after: Duration,
    /// Requests under way at a time.
    pub concurrency: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            give_up_after: Duration::from_secs(120),
            concurrency: 16,
        }
    }
}

impl Patience {
    pub(crate) fn check(&self) -> Result<(), SettingError> {
        match self.idle < Duration::from_secs(1) {
            true => Err(SettingError::new("timeout", "must be at least 1s")),
            false => Ok(()),
        }
    }
}

/// A store that never answered is probably the wrong one: it is given up after this.
const FIRST_CONTACT: Duration = Duration::from_secs(4);
/// The same of one that has answered with nothing but errors of its own.
const FIRST_REFUSALS: Duration = Duration::from_secs(20);
/// An operation that has come to nothing for so long is told of, and again after each such time.
const SILENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(15);

/// So often an operation is tried, however long each attempt takes.
const SURE_TRIES: u32 = 3;

/// Headers that one attempt adds.
pub(crate) struct Signed {
    pub url: Url,
    pub headers: HeaderMap,
    /// A query that must be in no message: the signature of a URL.
    pub secret_query: Option<Secret>,
}

/// What differs between stores.
#[async_trait]
pub(crate) trait Dialect: Send + Sync + std::fmt::Debug + 'static {
    /// The request's URL and all its headers, at this time of the store's clock.
    async fn sign(&self, call: &Call<'_>, now: SystemTime) -> Result<Signed, TokenError>;

    /// What an answer says that is no success.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal;

    /// What tells this state of an object from another one, for the header If-Match of what is read next.
    fn version(&self, headers: &HeaderMap) -> Option<String> {
        text(headers, "etag").filter(|etag| !etag.starts_with("W/")).map(str::to_owned)
    }

    /// Learns from a refusal, so that the next attempt goes elsewhere or otherwise: `true` if it makes sense. At most once per operation.
    fn mend(&self, refusal: &Refusal, headers: &HeaderMap) -> bool;

    /// The store does not take the credential any more: `true` if there may be another.
    fn renew(&self) -> bool;

    /// The error for a refusal that stands.
    fn error(&self, call: &Call<'_>, refusal: &Refusal) -> StoreError;

    /// Who is asked, without secrets, and where it is set: for errors.
    fn place(&self) -> String;
}

/// Why an attempt came to nothing.
enum Failure {
    Credential(TokenError),
    Http(HttpError),
    Refused(Refusal, HeaderMap),
}

/// Sends requests. Clones share connections, clock and gate.
#[derive(Debug, Clone)]
pub(crate) struct Client<D>(Arc<Inner<D>>);

#[derive(Debug)]
struct Inner<D> {
    http: reqwest::Client,
    patience: Patience,
    gate: Gate,
    /// The store's clock before ours, ms.
    clock: AtomicI64,
    answered: AtomicBool,
    /// When a user was last told that the store is waited for.
    told: Mutex<Option<Instant>>,
    dialect: D,
}

/// One operation's tries.
struct Tries {
    begun: Instant,
    backoff: Backoff,
    failures: u32,
    unclear: bool,
    mended: bool,
    renewed: bool,
    clocked: bool,
    digests: u32,
}

impl<D: Dialect> Client<D> {
    /// Fails only if the settings do not fit the HTTP library.
    pub fn new(
        dialect: D,
        patience: Patience,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, SettingError> {
        // HTTPS_PROXY, HTTP_PROXY and NO_PROXY are the library's to read; what goes to this machine goes there, and in the clear only there.
        let near = crate::web::is_plain_and_near(&dialect.place());
        let http = builder(patience.connect, tls);
        let http = if near { http.no_proxy() } else { http }
            .pool_max_idle_per_host(patience.concurrency)
            .pool_idle_timeout(Duration::from_secs(20))
            .build()
            .map_err(|error| SettingError::new("tls", crate::web::root(&error)))?;
        Ok(Self(Arc::new(Inner {
            http,
            patience,
            gate: Gate::new(patience.concurrency),
            clock: AtomicI64::new(0),
            answered: AtomicBool::new(false),
            told: Mutex::new(None),
            dialect,
        })))
    }

    pub fn dialect(&self) -> &D {
        &self.0.dialect
    }

    /// The time by the store's clock, as far as it told.
    pub fn now(&self) -> SystemTime {
        let ahead = self.0.clock.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        let now = SystemTime::now();
        let moved = if ahead < 0 { now.checked_sub(by) } else { now.checked_add(by) };
        moved.unwrap_or(now)
    }

    /// So many days from now, by that time: until when an object is to be locked.
    pub fn in_days(&self, days: u32) -> SystemTime {
        self.now() + Duration::from_secs(u64::from(days) * 86_400)
    }

    /// Sends until there is an answer or no hope; an answer of a status that the call takes may still be found wrong by `read`. Gives what it read.
    pub async fn read_answer<T: Send>(
        &self,
        call: &Call<'_>,
        read: impl Fn(&Reply) -> Result<T, Refusal> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.answer(call, read).await.map(|(_, read)| read)
    }

    /// The same, where the answer as a whole is wanted, and `check` only says whether it is one.
    pub async fn ask(
        &self,
        call: &Call<'_>,
        check: impl Fn(&Reply) -> Result<(), Refusal> + Send + Sync,
    ) -> Result<Reply, StoreError> {
        self.answer(call, check).await.map(|(reply, ())| reply)
    }

    async fn answer<T: Send>(
        &self,
        call: &Call<'_>,
        read: impl Fn(&Reply) -> Result<T, Refusal> + Send + Sync,
    ) -> Result<(Reply, T), StoreError> {
        let mut tries = self.tries();
        loop {
            let Some(turn) = self.0.gate.enter().await else { return Err(closed(call)) };
            let failure = match self.whole(call, tries.unclear).await {
                Ok(reply) => match read(&reply) {
                    Ok(read) => {
                        self.0.gate.went_well();
                        return Ok((reply, read));
                    }
                    Err(refusal) => Failure::Refused(refusal, reply.headers),
                },
                Err(failure) => failure,
            };
            // Others may go while this one waits.
            drop(turn);
            self.after(call, failure, &mut tries).await?;
        }
    }

    /// As [`Client::ask`], where any answer of a status that the call takes will do.
    pub async fn send(&self, call: &Call<'_>) -> Result<Reply, StoreError> {
        self.ask(call, |_| Ok(())).await
    }

    async fn whole(&self, call: &Call<'_>, unclear: bool) -> Result<Reply, Failure> {
        let beat = Beat::new();
        let mut response = self.attempt(call, &beat).await?;
        if !call.is_answer(response.status()) {
            return Err(self.refused_by(call, response, &beat).await);
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk(call, &mut response, &beat).await.map_err(Failure::Http)? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Failure::Http(HttpError::TooLarge(LARGEST_ANSWER)));
            }
            body.extend_from_slice(&chunk);
        }
        let (status, headers, body) = (response.status(), response.headers().clone(), body.freeze());
        Ok(Reply { status, headers, body, unclear })
    }

    /// What a refusal says. Without all of its text the status will do.
    async fn refused_by(&self, call: &Call<'_>, mut response: Response, beat: &Beat) -> Failure {
        let mut body = BytesMut::new();
        while let Ok(Some(chunk)) = self.chunk(call, &mut response, beat).await {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_REFUSAL {
                break;
            }
        }
        let headers = response.headers().clone();
        Failure::Refused(self.0.dialect.refusal(response.status(), &headers, &body), headers)
    }

    /// One attempt, up to the answer's headers.
    async fn attempt(&self, call: &Call<'_>, beat: &Beat) -> Result<Response, Failure> {
        let signed = self.0.dialect.sign(call, self.now()).await.map_err(Failure::Credential)?;
        let mut url = signed.url;
        if let Some(secret) = &signed.secret_query {
            let query = url.query().filter(|query| !query.is_empty());
            let query = query.map_or_else(String::new, |query| format!("{query}&")) + secret.expose();
            url.set_query(Some(&query));
        }
        let mut request = reqwest::Request::new(call.method.clone(), url);
        *request.headers_mut() = signed.headers;
        if !matches!(call.method.as_str(), "GET" | "HEAD" | "DELETE") || call.payload.len() > 0 {
            request.headers_mut().insert(http::header::CONTENT_LENGTH, call.payload.len().into());
            *request.body_mut() = Some(call.payload.body(beat));
        }
        beat.touch();
        let (patience, begun) = (self.patience_for(call), Instant::now());
        let response = tokio::select! {
            response = self.0.http.execute(request) => response,
            () = beat.stops(patience) => return Err(Failure::Http(HttpError::Slow(patience))),
        };
        let response = response.map_err(|error| Failure::Http(classify(&error, self.0.patience.connect)))?;
        let (status, ms) = (response.status(), begun.elapsed().as_millis());
        tracing::debug!(
            "{} {}: {} {}: {status} after {ms} ms",
            call.verb,
            call.object,
            call.method,
            call.payload.len()
        );
        if !status.is_server_error() {
            self.0.answered.store(true, Ordering::Relaxed);
            self.goes_on();
        }
        beat.touch();
        Ok(response)
    }

    /// The next bytes of an answer.
    async fn chunk(
        &self,
        call: &Call<'_>,
        response: &mut Response,
        beat: &Beat,
    ) -> Result<Option<bytes::Bytes>, HttpError> {
        let patience = self.patience_for(call);
        let chunk = tokio::time::timeout(patience, response.chunk()).await;
        beat.touch();
        match chunk {
            Ok(chunk) => chunk.map_err(|error| classify(&error, self.0.patience.connect)),
            Err(_) => Err(HttpError::Slow(patience)),
        }
    }

    fn patience_for(&self, call: &Call<'_>) -> Duration {
        call.patience.unwrap_or_default().max(self.0.patience.idle)
    }

    fn tries(&self) -> Tries {
        let pauses = Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(10) };
        Tries {
            begun: Instant::now(),
            failures: 0,
            backoff: Backoff::with_pauses(pauses, self.0.patience.give_up_after),
            unclear: false,
            mended: false,
            renewed: false,
            clocked: false,
            digests: 0,
        }
    }

    /// Decides after a failed attempt: `Ok` when another one is due, after the pause that it takes.
    async fn after(&self, call: &Call<'_>, failure: Failure, tries: &mut Tries) -> Result<(), StoreError> {
        tries.failures += 1;
        if tries.failures < SURE_TRIES {
            // One attempt may take longer than the whole patience, and be cut at its end.
            tries.backoff.progress();
        }
        let retry_after = match &failure {
            Failure::Credential(error) if !error.passing => return Err(self.credential(call, error)),
            Failure::Credential(_) => None,
            Failure::Http(error) if !error.is_passing() => return Err(self.unreached(call, error)),
            Failure::Http(error) => {
                tries.unclear |= !matches!(error, HttpError::Unreachable(_));
                None
            }
            Failure::Refused(refusal, headers) => {
                if self.refused(refusal, headers, tries) {
                    return Ok(());
                }
                match retry::class(refusal.status, &refusal.code) {
                    Class::SlowDown => self.0.gate.slow_down(),
                    Class::Retry if retry::is_digest(&refusal.code) => tries.digests += 1,
                    Class::Retry => {}
                    _ => return Err(self.0.dialect.error(call, refusal)),
                }
                tries.unclear |= retry::is_unclear(refusal.status, &refusal.code);
                wait_named(headers)
            }
        };
        let over = tries.digests >= DIGEST_TRIES || self.is_hopeless(&failure, tries);
        match tries.backoff.pause().filter(|_| !over) {
            Some(pause) => {
                self.say(call, &failure, tries);
                let most = self.0.patience.give_up_after;
                tokio::time::sleep(retry_after.map_or(pause, |named| named.min(most)).max(pause)).await;
                Ok(())
            }
            None => Err(match &failure {
                Failure::Credential(error) => self.credential(call, error),
                Failure::Http(error) => self.unreached(call, error),
                Failure::Refused(refusal, _) => self.0.dialect.error(call, refusal),
            }),
        }
    }

    /// Nobody has ever answered there, and some seconds are gone.
    fn is_hopeless(&self, failure: &Failure, tries: &Tries) -> bool {
        let most = match failure {
            Failure::Http(_) | Failure::Credential(_) => FIRST_CONTACT,
            // It is there, at least.
            Failure::Refused(..) => FIRST_REFUSALS,
        };
        !self.0.answered.load(Ordering::Relaxed) && tries.begun.elapsed() > most
    }

    fn say(&self, call: &Call<'_>, failure: &Failure, tries: &Tries) {
        let what = match failure {
            Failure::Credential(error) => error.what.clone(),
            Failure::Http(error) => error.to_string(),
            Failure::Refused(refusal, _) => refusal.to_string(),
        };
        tracing::debug!("{} {}: again: {what}", call.verb, call.object);
        let (waited, most) = (tries.begun.elapsed(), self.0.patience.give_up_after);
        let mut told = self.told();
        if waited >= SILENCE && told.is_none_or(|at| at.elapsed() >= AGAIN) {
            *told = Some(Instant::now());
            let (place, waited) = (self.0.dialect.place(), waited.as_secs());
            tracing::warn!(
                "waiting for {place} to {} {}: {what} ({waited} s; given up after {} s without progress)",
                call.verb,
                call.object,
                most.as_secs()
            );
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who was told of waiting is told of its end.
    fn goes_on(&self) {
        if self.told().take().is_some() {
            tracing::warn!("{} answers again", self.0.dialect.place());
        }
    }

    /// What can be mended at once, each once per operation: the place, the credential, the clock.
    fn refused(&self, refusal: &Refusal, headers: &HeaderMap, tries: &mut Tries) -> bool {
        if !tries.mended && self.0.dialect.mend(refusal, headers) {
            tries.mended = true;
            return true;
        }
        match retry::class(refusal.status, &refusal.code) {
            Class::Renew if !tries.renewed && self.0.dialect.renew() => {
                tries.renewed = true;
                true
            }
            Class::Clock if !tries.clocked && self.set_clock(headers) => {
                tries.clocked = true;
                true
            }
            _ => false,
        }
    }

    fn set_clock(&self, headers: &HeaderMap) -> bool {
        let Some(theirs) = date_of(headers) else { return false };
        let ahead = theirs.as_millisecond() - jiff::Timestamp::now().as_millisecond();
        tracing::warn!(
            "this machine's clock is {} s off the store's; its own is used for requests",
            -ahead / 1000
        );
        self.0.clock.store(ahead, Ordering::Relaxed);
        true
    }

    fn credential(&self, call: &Call<'_>, error: &TokenError) -> StoreError {
        self.remote(call, error.what.clone(), error.passing)
    }

    fn unreached(&self, call: &Call<'_>, error: &HttpError) -> StoreError {
        let hint = match error {
            HttpError::Tls(_) => "; if its certificate is signed by a CA of your own, give that by ca-file",
            HttpError::Unreachable(_) | HttpError::Slow(_) if !self.0.answered.load(Ordering::Relaxed) => {
                "; check the endpoint, the network and HTTPS_PROXY"
            }
            _ => "",
        };
        self.remote(call, format!("{} {error}{hint}", self.0.dialect.place()), error.is_passing())
    }

    fn remote(&self, call: &Call<'_>, what: String, passing: bool) -> StoreError {
        StoreError::Remote { operation: call.verb, object: call.object.to_owned(), what, passing }
    }
}

fn closed(call: &Call<'_>) -> StoreError {
    let what = "the store was closed".to_owned();
    StoreError::Remote { operation: call.verb, object: call.object.to_owned(), what, passing: false }
}

/// Stores take a signed date that is off by 15 minutes.
const SKEW: Duration = Duration::from_secs(14 * 60);

/// Whether our clock is too far from that of an answer.
pub(crate) fn is_skewed(headers: &HeaderMap) -> bool {
    let off = date_of(headers).map(|theirs| jiff::Timestamp::now().duration_since(theirs).unsigned_abs());
    off.is_some_and(|off| off > SKEW)
}

fn date_of(headers: &HeaderMap) -> Option<jiff::Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text(headers, "date")?).ok()
}

/// By which what we made is told from what others made, even of the same bytes.
pub(crate) fn new_mark() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// Whether the refusal may be gone later.
pub(crate) fn is_passing(refusal: &Refusal) -> bool {
    matches!(retry::class(refusal.status, &refusal.code), Class::Retry | Class::SlowDown)
}

/// Retry-After, in seconds.
fn wait_named(headers: &HeaderMap) -> Option<Duration> {
    text(headers, "retry-after")?.parse().ok().map(Duration::from_secs)
}

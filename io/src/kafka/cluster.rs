//! The one place where requests find their broker and are retried, and where the cluster's layout is asked for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bodley_protocol::RetryClass;
use bodley_protocol::messages::MetadataRequest;
use kafka_protocol::protocol::{Message, Request};

use super::address::Address;
use super::connection::ClientOptions;
use super::error::KafkaError;
use super::health::Health;
use super::layout::Layout;
use super::reach::Ways;
use crate::backoff::{Backoff, Gate};

/// What a broker is given at first to tell the layout, before another one is asked.
const METADATA_WITHIN: Duration = Duration::from_secs(5);
/// While partitions find no leader, the same broker is asked for the layout for so long.
const ELSEWHERE_EVERY: Duration = Duration::from_secs(10);
/// What has not worked for so long may be because of who tells the layout.
pub const ELSEWHERE_AFTER: Duration = Duration::from_secs(5);

/// Where requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Whichever broker answers.
    Any,
    /// The broker of this id.
    Broker(i32),
}

/// A client of one cluster. Requests of its own share one connection per broker; [`Cluster::connect`] opens others.
#[derive(Debug)]
pub struct Cluster {
    pub(super) bootstrap: Vec<Address>,
    pub(super) options: Arc<ClientOptions>,
    layout: Mutex<Arc<Layout>>,
    refreshing: Gate<KafkaError>,
    /// When another broker was asked for the layout, for the sake of it.
    asked_elsewhere: Mutex<Instant>,
    pub(super) ways: Ways,
    health: Arc<Health>,
}

impl Cluster {
    /// Finds a bootstrap server that answers, and the layout. Does not wait for a cluster that is down.
    pub async fn open(bootstrap: Vec<Address>, options: ClientOptions) -> Result<Arc<Self>, KafkaError> {
        let health = Health::new(options.give_up_after);
        health.watch();
        let cluster = Self {
            bootstrap,
            layout: Mutex::default(),
            asked_elsewhere: Mutex::new(Instant::now()),
            refreshing: Gate::new(options.retry_pauses),
            ways: Ways::new(options.retry_pauses),
            health,
            options: Arc::new(options),
        };
        let layout = cluster.fetch_layout().await?;
        *lock(&cluster.layout) = Arc::new(layout);
        Ok(Arc::new(cluster))
    }

    /// How we connect.
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The layout as last seen.
    pub fn layout(&self) -> Arc<Layout> {
        Arc::clone(&lock(&self.layout))
    }

    /// A layout newer than `seen`: asks the cluster unless another task has done so since. However many ask, and however often, the
    /// cluster hears little of it: the first one asks at once, those that follow at a growing distance.
    pub async fn refresh(&self, seen: &Arc<Layout>) -> Result<Arc<Layout>, KafkaError> {
        self.ask_layout(Some(seen)).await
    }

    /// The layout as it is told after this was called, also when others have just asked. One try.
    pub async fn fresh_layout(&self) -> Result<Arc<Layout>, KafkaError> {
        self.ask_layout(None).await
    }

    /// The same, with as many tries as there is time for.
    pub async fn fresh_layout_patiently(&self) -> Result<Arc<Layout>, KafkaError> {
        self.retrying(|| self.fresh_layout()).await
    }

    /// Whoever has seen a layout is content with a newer one.
    async fn ask_layout(&self, seen: Option<&Arc<Layout>>) -> Result<Arc<Layout>, KafkaError> {
        let mut pass = self.refreshing.enter(KafkaError::again).await?;
        let current = self.layout();
        if seen.is_some_and(|seen| !Arc::ptr_eq(&current, seen)) {
            return Ok(current);
        }
        pass.wait().await;
        let mut fetched = self.fetch_layout().await;
        if fetched.as_ref().is_err_and(|error| matches!(error, KafkaError::Closed { .. })) {
            // The connection was older than the trouble.
            fetched = self.fetch_layout().await;
        }
        if fetched.as_ref().is_ok_and(|fresh| fresh.may_be_older_than(&current)) {
            // Who lags, or is cut off from the controllers, is not asked any more. Another one has the last word.
            self.leave_any().await;
            fetched = self.fetch_layout().await;
        }
        match fetched.and_then(|fresh| fresh.following(&current)) {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                *lock(&self.layout) = Arc::clone(&fresh);
                pass.end(None);
                Ok(fresh)
            }
            Err(error) => {
                pass.end(Some(error.again()));
                Err(error)
            }
        }
    }

    /// As [`Cluster::refresh`], but after a while another broker is asked: the one before may lag.
    pub async fn refresh_elsewhere(&self, seen: &Arc<Layout>) -> Result<Arc<Layout>, KafkaError> {
        let is_due = {
            let mut asked = lock(&self.asked_elsewhere);
            let is_due = asked.elapsed() >= ELSEWHERE_EVERY;
            if is_due {
                *asked = Instant::now();
            }
            is_due
        };
        if is_due {
            self.leave_any().await;
        }
        self.refresh(seen).await
    }

    /// How each broker fares, and who is waited for.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Sends a request, again after passing faults of the way there, until it is answered or `give_up_after` is over. The request must bear
    /// being handled twice. Error codes inside the answer are the caller's.
    pub async fn call<R: Request + Message + Sync>(
        &self,
        to: To,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        self.call_capped(to, i16::MAX, request).await
    }

    /// Sends a request in a version of at most `cap`, without a second try, for callers that choose another broker after a failure.
    pub async fn call_once<R: Request + Message>(
        &self,
        to: To,
        cap: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        self.try_call(to, cap, request).await
    }

    /// As [`Cluster::call`], in a version of at most `cap`.
    pub async fn call_capped<R: Request + Message + Sync>(
        &self,
        to: To,
        cap: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        let mut backoff = self.backoff();
        loop {
            let seen = self.layout();
            let error = match self.try_call(to, cap, request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.retry_class() == RetryClass::Never {
                return Err(error);
            }
            tracing::debug!("again: {error}");
            self.pause_and_refresh(&mut backoff, error, &seen).await?;
        }
    }

    /// Pauses as the options have them.
    pub fn backoff(&self) -> Backoff {
        Backoff::with_pauses(self.options.retry_pauses, self.options.give_up_after)
    }

    /// Waits before the next try after `error`; gives up when the time is over.
    pub async fn pause(&self, backoff: &mut Backoff, error: KafkaError) -> Result<(), KafkaError> {
        if backoff.wait().await {
            return Ok(());
        }
        Err(KafkaError::GaveUp { after: self.options.give_up_after, last: Box::new(error) })
    }

    /// The same, and meanwhile looks where everybody is: a leader may have moved. That the cluster can't be asked now is what the next try finds out.
    pub(super) async fn pause_and_refresh(
        &self,
        backoff: &mut Backoff,
        error: KafkaError,
        seen: &Arc<Layout>,
    ) -> Result<(), KafkaError> {
        let lags = backoff.elapsed() > ELSEWHERE_AFTER;
        let refreshed = async {
            match lags {
                true => self.refresh_elsewhere(seen).await,
                false => self.refresh(seen).await,
            }
        };
        let paused = self.pause(backoff, error);
        tokio::pin!(refreshed, paused);
        tokio::select! {
            biased;
            over = &mut paused => {
                over?;
                let _ = refreshed.await;
                Ok(())
            }
            _ = &mut refreshed => paused.await,
        }
    }

    /// Repeats `operation` after passing errors, until it works or the time is up.
    pub(super) async fn retrying<T, F>(&self, operation: impl Fn() -> F) -> Result<T, KafkaError>
    where
        F: Future<Output = Result<T, KafkaError>>,
    {
        let mut backoff = self.backoff();
        loop {
            let seen = self.layout();
            match operation().await {
                Err(error) if error.retry_class() != RetryClass::Never => {
                    self.pause_and_refresh(&mut backoff, error, &seen).await?;
                }
                result => return result,
            }
        }
    }

    async fn fetch_layout(&self) -> Result<Layout, KafkaError> {
        // Version 12 can tell topics by id; all we need is in it.
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        // A broker that is silent is left for another one, with more patience each time: all of them may need long.
        let failures = self.refreshing.failures().min(8) as u32;
        let after = METADATA_WITHIN.saturating_mul(1 << failures).min(self.options.request_timeout);
        let asked = self.with_connection(To::Any, async |connection| {
            let version = connection.version::<MetadataRequest>(12)?;
            let broker = connection.broker().to_owned();
            match tokio::time::timeout(after, connection.call_version(version, &request)).await {
                Ok(answer) => answer,
                Err(_) => Err(KafkaError::Timeout { broker, what: "answer Metadata".into(), after }),
            }
        });
        Layout::from_response(asked.await?)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

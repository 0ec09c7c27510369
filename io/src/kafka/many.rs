//! Many requests at a time: a broker handles one request of a connection after the other, so each gets a few connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::vec::IntoIter;

use bodley_protocol::RetryClass;
use kafka_protocol::protocol::{Message, Request};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::cluster::{Cluster, To};
use super::connection::Connection;
use super::error::KafkaError;

/// Connections to one broker.
const LANES: usize = 4;
/// Fewer requests than this are not worth a connection more.
const PER_LANE: usize = 4;
/// Answers that wait to be taken.
const WAITING: usize = 8;

/// Requests of one broker that nobody has sent yet, each with its number.
type Queue<R> = Arc<Mutex<IntoIter<(usize, R)>>>;

impl Cluster {
    /// Sends each request to its broker once, in a version of at most `cap`, some at a time, and hands the answers over as they come, each with the number of
    /// its request. A broker that can't be reached is not tried for every request: all of its others get the same error.
    pub(super) async fn call_many<R>(
        self: &Arc<Self>,
        cap: i16,
        requests: Vec<(i32, R)>,
        mut take: impl FnMut(usize, Result<R::Response, KafkaError>),
    ) where
        R: Request + Message + Send + Sync + 'static,
        R::Response: Send,
    {
        let mut by_broker: BTreeMap<i32, Vec<(usize, R)>> = BTreeMap::new();
        for (number, (broker, request)) in requests.into_iter().enumerate() {
            by_broker.entry(broker).or_default().push((number, request));
        }
        let (answers, mut waiting) = mpsc::channel(WAITING);
        let mut lanes = JoinSet::new();
        for (broker, requests) in by_broker {
            let count = requests.len().div_ceil(PER_LANE).clamp(1, LANES);
            let queue: Queue<R> = Arc::new(Mutex::new(requests.into_iter()));
            for number in 0..count {
                let lane = Lane { cluster: Arc::clone(self), broker, own: number > 0, connection: None };
                lanes.spawn(lane.run(cap, Arc::clone(&queue), answers.clone()));
            }
        }
        drop(answers);
        while let Some((number, answer)) = waiting.recv().await {
            take(number, answer);
        }
    }
}

/// One connection to a broker.
struct Lane {
    cluster: Arc<Cluster>,
    broker: i32,
    /// Not the connection that the cluster has anyway.
    own: bool,
    connection: Option<Connection>,
}

type Answer<R> = (usize, Result<<R as Request>::Response, KafkaError>);

impl Lane {
    async fn run<R>(mut self, cap: i16, queue: Queue<R>, answers: mpsc::Sender<Answer<R>>)
    where
        R: Request + Message + Send + Sync + 'static,
        R::Response: Send,
    {
        while let Some((number, request)) = next(&queue) {
            let answer = self.call(cap, &request).await;
            let fatal = answer.as_ref().err().filter(|error| is_of_the_broker(error)).map(KafkaError::again);
            if answers.send((number, answer)).await.is_err() {
                return;
            }
            let Some(error) = fatal else { continue };
            while let Some((number, _)) = next(&queue) {
                if answers.send((number, Err(error.again()))).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn call<R: Request + Message>(&mut self, cap: i16, request: &R) -> Result<R::Response, KafkaError> {
        if !self.own {
            return self.cluster.call_once(To::Broker(self.broker), cap, request).await;
        }
        if self.connection.as_ref().is_none_or(Connection::is_dead) {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.cluster.connect(self.broker).await?),
        };
        let version = connection.version::<R>(cap)?;
        connection.call_version(version, request).await
    }
}

fn next<R>(queue: &Queue<R>) -> Option<(usize, R)> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// The next request would meet it as well.
fn is_of_the_broker(error: &KafkaError) -> bool {
    error.retry_class() == RetryClass::Never
        || matches!(error, KafkaError::Connect { .. } | KafkaError::NoRoute(_) | KafkaError::Timeout { .. })
}

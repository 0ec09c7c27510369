//! The ways to brokers: the cluster's own connections, others for those who want them, and patience with brokers that can't be reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bodley_protocol::RetryClass;
use bodley_protocol::messages::{BrokerId, ListOffsetsRequest};
use kafka_protocol::protocol::{Message, Request};
use tokio::sync::Mutex as AsyncMutex;

use super::address::Address;
use super::cluster::{Cluster, To, lock};
use super::connection::Connection;
use super::error::KafkaError;
use super::health::Asking;
use crate::backoff::{Gate, Pauses};

/// A broker that is asked whether it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(4);

/// A connection, and to which broker, if that is known.
type Slot = Arc<AsyncMutex<Option<(Connection, Option<i32>)>>>;

/// What a cluster's connections share.
#[derive(Debug)]
pub(super) struct Ways {
    pauses: Pauses,
    /// The cluster's own connections, by broker; `None`: to whichever answers.
    slots: Mutex<HashMap<Option<i32>, Slot>>,
    /// Where nobody answers, few try.
    gates: Mutex<HashMap<Address, Arc<Gate<KafkaError>>>>,
    /// Who was left for others, and when: whoever was left last is asked last.
    left: Mutex<HashMap<String, Instant>>,
}

impl Ways {
    pub(super) fn new(pauses: Pauses) -> Self {
        Self { pauses, slots: Mutex::default(), gates: Mutex::default(), left: Mutex::default() }
    }

    fn gate(&self, address: &Address) -> Arc<Gate<KafkaError>> {
        let mut gates = lock(&self.gates);
        match gates.get(address) {
            Some(gate) => Arc::clone(gate),
            None => {
                Arc::clone(gates.entry(address.clone()).or_insert_with(|| Arc::new(Gate::new(self.pauses))))
            }
        }
    }
}

impl Cluster {
    /// A connection of the caller's own to a broker. While none comes about, all who want one share what few tries there are.
    pub async fn connect(&self, broker: i32) -> Result<Connection, KafkaError> {
        let layout = self.layout();
        let address = layout.brokers.get(&broker);
        let address =
            address.ok_or_else(|| KafkaError::NoRoute(format!("broker {broker} is not in the cluster")))?;
        let gate = self.ways.gate(address);
        if gate.failures() == 0 {
            return self.try_connect(address, Some(broker), &gate).await;
        }
        let mut pass = gate.enter(KafkaError::again).await?;
        if gate.failures() == 0 {
            drop(pass);
            return self.try_connect(address, Some(broker), &gate).await;
        }
        pass.wait().await;
        match self.open_way(address, Some(broker)).await {
            Ok(connection) => {
                pass.end(None);
                Ok(connection)
            }
            Err(error) => {
                pass.end(Some(error.again()));
                Err(error)
            }
        }
    }

    /// A try for which nobody has to wait.
    async fn try_connect(
        &self,
        address: &Address,
        broker: Option<i32>,
        gate: &Gate<KafkaError>,
    ) -> Result<Connection, KafkaError> {
        let opened = self.open_way(address, broker).await;
        match &opened {
            Ok(_) => gate.worked(),
            Err(_) => gate.failed(),
        }
        opened
    }

    async fn open_way(&self, address: &Address, broker: Option<i32>) -> Result<Connection, KafkaError> {
        let _asking = broker.map(|broker| self.health().asking(broker, address));
        let opened = Connection::open(address, &self.options).await;
        match (opened, broker) {
            (Ok(mut connection), Some(broker)) => {
                connection.stream.guest = Some(self.health().opened(broker, address));
                Ok(connection)
            }
            (Err(error), Some(broker)) => {
                self.health().down(broker, address, &error);
                Err(error)
            }
            (opened, None) => opened,
        }
    }

    /// A broker is asked on a connection of the caller's own: [`Health::asking`](super::health::Health::asking).
    pub fn asking(&self, broker: i32) -> Option<Asking> {
        self.layout().brokers.get(&broker).map(|address| self.health().asking(broker, address))
    }

    /// A broker has failed on a connection of the caller's own.
    pub fn has_failed(&self, broker: i32, error: &KafkaError) {
        if let Some(address) = self.layout().brokers.get(&broker) {
            self.health().down(broker, address, error);
        }
    }

    /// Whether a broker answers now. Something that waits for it without saying so is better not begun before.
    pub async fn answers(&self, broker: i32) -> Result<(), KafkaError> {
        let nothing = ListOffsetsRequest::default().with_replica_id(BrokerId(-1));
        let asked = async {
            match self.call_once(To::Broker(broker), i16::MAX, &nothing).await {
                // The connection was older than the trouble.
                Err(KafkaError::Closed { .. }) => {
                    self.call_once(To::Broker(broker), i16::MAX, &nothing).await
                }
                answer => answer,
            }
        };
        match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => {
                let broker = format!("broker {broker}");
                Err(KafkaError::Timeout { broker, what: "answer".into(), after: ANSWERS_WITHIN })
            }
        }
    }

    /// The version that requests of type `R` to a broker use, at most `cap`.
    pub async fn version<R: Request + Message>(&self, to: To, cap: i16) -> Result<i16, KafkaError> {
        self.with_connection(to, async |connection| connection.version::<R>(cap)).await
    }

    pub(super) async fn try_call<R: Request + Message>(
        &self,
        to: To,
        cap: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        self.with_connection(to, async |connection| {
            let version = connection.version::<R>(cap)?;
            connection.call_version(version, request).await
        })
        .await
    }

    pub(super) async fn with_connection<T>(
        &self,
        to: To,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        let key = match to {
            To::Any => None,
            To::Broker(id) => Some(id),
        };
        let slot = Arc::clone(lock(&self.ways.slots).entry(key).or_default());
        let mut slot = slot.lock().await;
        if slot.as_ref().is_none_or(|(connection, _)| connection.is_dead()) {
            *slot = None;
            *slot = Some(match to {
                To::Any => self.connect_any().await?,
                To::Broker(id) => (self.connect(id).await?, Some(id)),
            });
        }
        let Some((connection, broker)) = slot.as_mut() else {
            return Err(KafkaError::NoRoute("no connection".into()));
        };
        self.observed(*broker, connection, work).await
    }

    /// Whichever broker answers is to be another one from now on.
    pub(super) async fn leave_any(&self) {
        let slot = Arc::clone(lock(&self.ways.slots).entry(None).or_default());
        let Some((connection, _)) = slot.lock().await.take() else { return };
        lock(&self.ways.left).insert(connection.broker().to_owned(), Instant::now());
    }

    /// Does something with a connection, and notes how the broker fares.
    async fn observed<T>(
        &self,
        broker: Option<i32>,
        connection: &mut Connection,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        let layout = self.layout();
        let known = broker.and_then(|id| Some((id, layout.brokers.get(&id)?)));
        let Some((id, address)) = known else { return work(connection).await };
        let asking = self.health().asking(id, address);
        let done = work(connection).await;
        drop(asking);
        match &done {
            Ok(_) => self.health().requests(id, 0, 0),
            // It has answered, whatever it said.
            Err(error) if error.code().is_some() => self.health().requests(id, 0, 0),
            Err(error) if error.retry_class() != RetryClass::Never => {
                self.health().down(id, address, error);
                if matches!(error, KafkaError::Timeout { .. }) {
                    // It may well take another connection and be as silent there: others come first.
                    self.ways.gate(address).failed();
                }
            }
            Err(_) => {}
        }
        done
    }

    /// A connection to whichever broker answers. Who failed last is asked last.
    async fn connect_any(&self) -> Result<(Connection, Option<i32>), KafkaError> {
        let layout = self.layout();
        let mut errors: Vec<KafkaError> = Vec::new();
        let mut refused = false;
        let backoff = self.backoff();
        let known = layout.brokers.iter().map(|(id, address)| (address, Some(*id)));
        let bootstrap =
            self.bootstrap.iter().filter(|_| self.options.rebootstrap || layout.brokers.is_empty());
        let all = known.chain(bootstrap.map(|address| (address, None)));
        let mut all: Vec<_> = all.map(|(address, id)| (address, id, self.ways.gate(address))).collect();
        let left = lock(&self.ways.left).clone();
        all.sort_by_cached_key(|(address, _, gate)| {
            (gate.failures() > 0, left.get(&address.to_string()).copied())
        });
        let mut tried: Vec<&Address> = Vec::new();
        for (address, id, gate) in &all {
            if tried.contains(address) {
                continue;
            }
            tried.push(address);
            match self.try_connect(address, *id, gate).await {
                Ok(connection) => return Ok((connection, *id)),
                // One of them may be set up badly. Where two say so others will say the same, and an account may get locked.
                Err(error @ KafkaError::Auth { passing: false, .. })
                    if !refused && !layout.brokers.is_empty() =>
                {
                    refused = true;
                    errors.push(error);
                }
                Err(error @ (KafkaError::Auth { passing: false, .. } | KafkaError::Token { .. })) => {
                    return Err(error);
                }
                Err(error) => errors.push(error),
            }
            if backoff.is_over() {
                break;
            }
        }
        // With a single address its own error says more than a list of one; and what no retry helps stays that.
        if self.bootstrap.len() == 1 && layout.brokers.is_empty()
            || errors.iter().all(|error| error.retry_class() == RetryClass::Never)
        {
            errors.truncate(1);
            return Err(errors.pop().unwrap_or_else(|| KafkaError::NoBootstrap("none is given".into())));
        }
        let mut errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.dedup();
        errors.truncate(5);
        Err(KafkaError::NoBootstrap(errors.join("; ")))
    }
}

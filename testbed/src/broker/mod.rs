//! Brokers that do what a test tells them: a small Kafka in memory that answers honestly, and a script that may answer in its place.
//!
//! ```text
//! mod.rs         starting, filling and looking      script.rs  what a request can meet with
//! connection.rs  frames on sockets                  world.rs   topics, logs, groups in memory
//! data.rs        Fetch, Produce, ListOffsets        admin.rs   metadata, settings, groups, producers
//! ```
//! Messages and records are those of the kafka-protocol crate: nothing here shares code with Bodley.

mod admin;
mod connection;
mod data;
mod script;
mod world;

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use kafka_protocol::messages::ApiKey;

use crate::ports;

pub use kafka_protocol;
pub use script::{Action, Call};
pub use world::{Log, Seen, Stored, Topic, World};

type Script = Arc<dyn Fn(&Call<'_>) -> Action + Send + Sync>;

/// What the threads share.
pub(crate) struct Shared {
    world: Mutex<World>,
    script: RwLock<Option<Script>>,
    /// Requests by API since the script was set.
    asked: Mutex<BTreeMap<i16, usize>>,
    /// Open connections by broker and client.
    streams: Mutex<BTreeMap<(i32, SocketAddr), TcpStream>>,
    closing: AtomicBool,
}

/// Brokers of one cluster on loopback, ids from 0. They end when dropped.
pub struct Brokers {
    shared: Arc<Shared>,
    ports: Vec<u16>,
    acceptors: Vec<JoinHandle<()>>,
}

impl Brokers {
    /// Starts so many, without topics.
    pub fn start(nodes: i32) -> Result<Self> {
        let mut listeners = Vec::new();
        for id in 0..nodes {
            // Held until the end, so any will do.
            let listener = TcpListener::bind(ports::loopback(0)).context("listen")?;
            let port = listener.local_addr()?.port();
            listener.set_nonblocking(true)?;
            listeners.push((id, port, listener));
        }
        let ports: Vec<u16> = listeners.iter().map(|(_, port, _)| *port).collect();
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(&ports)),
            script: RwLock::default(),
            asked: Mutex::default(),
            streams: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let accept = |(id, _, listener)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || connection::accept(&shared, id, &listener))
        };
        let acceptors = listeners.into_iter().map(accept).collect();
        Ok(Self { shared, ports, acceptors })
    }

    /// For `-b`: all brokers.
    pub fn bootstrap(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// The port of a broker.
    pub fn port(&self, node: usize) -> Option<u16> {
        self.ports.get(node).copied()
    }

    /// From now on requests meet with `script`. It is called for each; several may be under way.
    pub fn script(&self, script: impl Fn(&Call<'_>) -> Action + Send + Sync + 'static) {
        self.set_script(Some(Arc::new(script)));
    }

    /// From now on all answers are honest; connections that are open are cut.
    pub fn honest(&self) {
        self.set_script(None);
        self.shared.cut();
    }

    fn set_script(&self, script: Option<Script>) {
        *self.shared.script.write().unwrap_or_else(PoisonError::into_inner) = script;
        self.shared.asked().clear();
    }

    /// How many requests of an API came since the script was set.
    pub fn asked(&self, api: ApiKey) -> usize {
        self.shared.asked().get(&(api as i16)).copied().unwrap_or(0)
    }

    /// Looks at or changes what is in memory.
    pub fn world<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.shared.world())
    }

    /// Makes a topic whose partitions are led by the brokers in turn, all of which are its replicas.
    pub fn topic(&self, name: &str, partitions: usize) {
        self.world(|world| world.create(name, partitions, BTreeMap::new()));
    }

    /// Writes `count` records to a partition, in batches of five. Keys and values tell their number.
    pub fn write(&self, topic: &str, partition: usize, count: usize) -> Result<()> {
        self.world(|world| {
            let log = world.log(topic, partition).ok_or_else(|| anyhow!("no {topic}-{partition}"))?;
            for n in (0..count).step_by(5) {
                let records: Vec<usize> = (n..(n + 5).min(count)).collect();
                let bytes = world::batch(log.end, &records)?;
                log.append(bytes)?;
            }
            Ok(())
        })
    }

    /// The records of a partition that a consumer would see.
    pub fn records(&self, topic: &str, partition: usize) -> Result<Vec<Seen>> {
        self.world(|world| {
            world.log(topic, partition).ok_or_else(|| anyhow!("no {topic}-{partition}"))?.records()
        })
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.cut();
        for acceptor in self.acceptors.drain(..) {
            let _ = acceptor.join();
        }
        self.shared.cut(); // those that came in between
    }
}

impl Shared {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<i16, usize>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<(i32, SocketAddr), TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current_script(&self) -> Option<Script> {
        self.script.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cut(&self) {
        let streams = std::mem::take(&mut *self.streams());
        for stream in streams.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

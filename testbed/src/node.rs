//! One server process of a cluster.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::door::{Door, DoorPort};
use crate::jars::Kafka;
use crate::ports;
use crate::probe;
use crate::process::Supervised;
use crate::security::Security;
use crate::setup;
use crate::zookeeper;

const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const KILL_LIMIT: Duration = Duration::from_secs(60);
/// Of all servers: quick to start rather than fast in the long run: compiled lightly, one collector thread.
pub(crate) const JVM: [&str; 6] = [
    "-Xmx512m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
];

/// The loopback ports of a node; they stay the same over restarts.
#[derive(Debug, Clone)]
pub struct NodePorts {
    /// Where clients are served.
    pub client: u16,
    /// What clients are told: the client port, or that of a proxy in front of it.
    pub advertised: u16,
    /// Where brokers serve each other, and the workbench: never behind a proxy.
    pub internal: u16,
    /// Where controllers serve each other.
    pub controller: u16,
    /// The doors of a secured cluster.
    pub doors: Vec<DoorPort>,
}

impl NodePorts {
    pub(crate) fn free(proxied: bool) -> Result<Self> {
        let client = ports::free_port()?;
        let advertised = if proxied { ports::free_port()? } else { client };
        let (internal, controller) = (ports::free_port()?, ports::free_port()?);
        Ok(Self { client, advertised, internal, controller, doors: Vec::new() })
    }

    /// Adds the doors.
    pub(crate) fn secured(mut self, security: &Security) -> Result<Self> {
        let free = |door| DoorPort::free(door, security.is_fronted(door));
        self.doors = security.doors().map(free).collect::<Result<_>>()?;
        Ok(self)
    }

    /// A door of a secured cluster.
    pub fn door(&self, door: Door) -> Option<DoorPort> {
        self.doors.iter().copied().find(|d| d.door == door)
    }
}

/// A broker and controller in one process; in clusters with ZooKeeper a broker.
#[derive(Debug)]
pub struct Node {
    id: usize,
    ports: NodePorts,
    dir: PathBuf,
    kafka: Mutex<Kafka>,
    jvm: Vec<String>,
    zookeeper: Option<u16>,
    process: Mutex<Option<Supervised>>,
}

impl Node {
    /// `dir` holds `server.properties` and a formatted `data/`, see `setup`.
    pub(crate) fn new(id: usize, ports: NodePorts, dir: PathBuf, kafka: Kafka) -> Self {
        let (jvm, zookeeper) = (Vec::new(), None);
        let (kafka, process) = (Mutex::new(kafka), Mutex::new(None));
        Self { id, ports, dir, kafka, jvm, zookeeper, process }
    }

    /// Says where ZooKeeper is, if the node registers there.
    pub(crate) fn registers_at(mut self, zookeeper: Option<u16>) -> Self {
        self.zookeeper = zookeeper;
        self
    }

    /// Adds flags of the JVM.
    pub(crate) fn jvm(mut self, flags: impl IntoIterator<Item = String>) -> Self {
        self.jvm.extend(flags);
        self
    }

    /// The broker id, which is also the node's place in its cluster.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Its ports.
    pub fn ports(&self) -> &NodePorts {
        &self.ports
    }

    /// The file that has the output of all its starts.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// The folder that holds the logs of its partitions.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.process().as_ref().map(Supervised::pid)
    }

    /// Starts the process and waits until it answers as a live broker.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_until_up(1)
    }

    /// Starts the process and does not wait.
    pub fn launch(&self) -> Result<()> {
        let mut process = self.process();
        if let Some(running) = process.as_mut()
            && running.exited()?.is_none()
        {
            bail!("node {} runs already", self.id);
        }
        *process = None;
        if let Some(port) = self.zookeeper {
            zookeeper::wait_until_forgotten(port, self.id)?;
        }
        let mut args: Vec<String> = JVM.iter().map(|&a| a.to_owned()).collect();
        let kafka = lock(&self.kafka).clone();
        args.extend(setup::use_archive(&kafka));
        args.extend_from_slice(&self.jvm);
        args.extend(["-cp".into(), kafka.classpath(), "kafka.Kafka".into()]);
        args.push(self.dir.join("server.properties").display().to_string());
        *process = Some(Supervised::spawn("java", &args, &self.log())?);
        Ok(())
    }

    /// Waits until this node knows at least `brokers` live brokers.
    pub fn wait_until_up(&self, brokers: u32) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let ended = self.process().as_mut().map(Supervised::exited).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("node {} ended at its start ({status}): {}", self.id, self.complaint());
            }
            if probe::brokers_known(self.ports.internal).is_some_and(|n| n >= brokers) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("node {} is not up after {START_LIMIT:?}: {}", self.id, self.complaint());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Stops it in good order (SIGTERM), and by force when that takes too long.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::TERM, STOP_LIMIT)
    }

    /// Kills it (SIGKILL).
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL, KILL_LIMIT)
    }

    /// Freezes it (SIGSTOP): connections stay open, nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Node::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Stops it in good order and starts it again on the same ports and data.
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// One step of a rolling upgrade: stops it in good order and starts it again with another version on the same ports, data and settings.
    pub fn upgrade(&self, version: &str) -> Result<()> {
        let kafka = Kafka::ensure(version)?;
        setup::class_archive(&kafka)?;
        self.stop()?;
        *lock(&self.kafka) = kafka;
        self.start()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut process = self.process();
        process.as_mut().with_context(|| format!("node {} does not run", self.id))?.signal(signal)
    }

    fn end(&self, signal: Signal, limit: Duration) -> Result<()> {
        let mut process = self.process();
        let running = process.as_mut().with_context(|| format!("node {} does not run", self.id))?;
        running.signal(signal)?;
        running.signal(Signal::CONT).ok(); // a paused process sees nothing else before this
        if !running.wait(limit)? {
            running.signal(Signal::KILL)?;
            running.wait(KILL_LIMIT)?;
        }
        *process = None;
        Ok(())
    }

    fn process(&self) -> MutexGuard<'_, Option<Supervised>> {
        lock(&self.process)
    }

    /// Where the log is and what it says last, for an error message.
    fn complaint(&self) -> String {
        let log = self.log();
        let text = fs::read_to_string(&log).unwrap_or_default();
        let telling =
            |line: &&str| line.contains("ERROR") || line.contains("Exception") || line.contains("Error:");
        let last = text.lines().rev().find(telling).or_else(|| text.lines().last()).unwrap_or("it is empty");
        format!("log {}: {last}", log.display())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

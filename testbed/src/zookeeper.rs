//! The ZooKeeper that clusters before KRaft keep their metadata in, from the same jars as their brokers.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::jars::Kafka;
use crate::node::JVM;
use crate::ports;
use crate::process::Supervised;

const START_LIMIT: Duration = Duration::from_secs(180);
/// A broker that died is forgotten after its session, which [`crate::setup`] makes as short as this server allows.
const FORGET_LIMIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(25);
/// Sessions last between two and twenty ticks.
const TICK_MS: u32 = 500;

/// One server, on loopback; it ends on drop.
#[derive(Debug)]
pub(crate) struct ZooKeeper {
    port: u16,
    _process: Supervised,
}

impl ZooKeeper {
    /// Starts it with its data below `dir`, and waits until it serves.
    pub(crate) fn start(kafka: &Kafka, dir: &Path) -> Result<Self> {
        let data = dir.join("data");
        fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
        let port = ports::free_port()?;
        let config = dir.join("zookeeper.properties");
        let text = format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime={TICK_MS}\nadmin.enableServer=false\n\
             4lw.commands.whitelist=srvr,dump\nmaxClientCnxns=0\n",
            data.display()
        );
        fs::write(&config, text)?;
        let mut args: Vec<String> = JVM.iter().map(|&a| a.to_owned()).collect();
        let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
        args.extend(["-cp".to_owned(), kafka.classpath(), main.to_owned(), config.display().to_string()]);
        let log = dir.join("zookeeper.log");
        let mut process = Supervised::spawn("java", &args, &log)?;
        let deadline = Instant::now() + START_LIMIT;
        while !asked(port, "srvr").is_some_and(|answer| answer.contains("Mode:")) {
            if let Some(status) = process.exited()? {
                bail!("ZooKeeper ended at its start ({status}), see {}", log.display());
            }
            if Instant::now() > deadline {
                bail!("ZooKeeper is not up after {START_LIMIT:?}, see {}", log.display());
            }
            std::thread::sleep(POLL);
        }
        Ok(Self { port, _process: process })
    }

    /// Where brokers find it.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Waits until the server at `port` has no broker of this id: until then it would refuse another one, so one that was killed
/// can't start again.
pub(crate) fn wait_until_forgotten(port: u16, broker: usize) -> Result<()> {
    let name = format!("/brokers/ids/{broker}");
    let deadline = Instant::now() + FORGET_LIMIT;
    loop {
        // The sessions with their ephemeral nodes, one a line.
        let sessions = asked(port, "dump");
        if sessions.as_ref().is_some_and(|all| !all.lines().any(|line| line.trim() == name)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let state = if sessions.is_some() { "still knows" } else { "does not answer about" };
            bail!("ZooKeeper {state} broker {broker} after {FORGET_LIMIT:?}");
        }
        std::thread::sleep(POLL);
    }
}

/// The answer to one of its four-letter words.
fn asked(port: u16, word: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&ports::loopback(port), ANSWER_LIMIT).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    stream.write_all(word.as_bytes()).ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

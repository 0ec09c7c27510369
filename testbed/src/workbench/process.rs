//! The process and the exchange of requests and answers with it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::jars::{DEFAULT_VERSION, Kafka};
use crate::java;

const JVM: [&str; 8] = [
    "-Xmx1g",
    "-Xss512k",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
    // A client that is not let in is what some tests want; its exception says why.
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients.NetworkClient=off",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.security.oauthbearer=off",
];

#[derive(Serialize)]
struct Request<'a, A: Serialize> {
    id: u64,
    verb: &'a str,
    args: &'a A,
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    ok: Option<Value>,
    error: Option<String>,
}

type Waiting = Arc<Mutex<Option<HashMap<u64, Sender<Answer>>>>>;

/// An independent Kafka client. Requests of several threads run side by side.
#[derive(Debug)]
pub struct Workbench {
    process: Child,
    requests: Mutex<Option<ChildStdin>>,
    waiting: Waiting,
    next: AtomicU64,
    bootstrap: String,
}

impl Workbench {
    /// Starts a client of the cluster at `bootstrap` (`HOST:PORT,…`).
    pub fn start(bootstrap: &str) -> Result<Self> {
        let kafka = Kafka::ensure(DEFAULT_VERSION)?;
        let classes = java::workbench_classes(&kafka)?;
        let classpath = format!("{}:{}", classes.display(), kafka.classpath());
        let mut process = Command::new("java")
            .args(JVM)
            .args(["-cp", &classpath, "workbench.Main", bootstrap])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start java")?;
        let requests = process.stdin.take();
        let answers = process.stdout.take().context("the workbench has no output")?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let readers = Arc::clone(&waiting);
        std::thread::spawn(move || deliver(answers, &readers));
        let (requests, next) = (Mutex::new(requests), AtomicU64::new(1));
        Ok(Self { process, requests, waiting, next, bootstrap: bootstrap.to_owned() })
    }

    /// The cluster that it talks to.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The batches in a partition's log folder on this machine, in order.
    pub fn batches(&self, log_dir: &Path) -> Result<Vec<super::BatchInfo>> {
        self.call("batches", &serde_json::json!({ "dir": log_dir }))
    }

    /// One request, and the wait for its answer.
    pub(crate) fn call<T: DeserializeOwned>(&self, verb: &str, args: &impl Serialize) -> Result<T> {
        let answer = self.ask(verb, args)?.recv();
        let answer = answer.map_err(|_| anyhow!("{verb}: the workbench process ended"))?;
        match (answer.ok, answer.error) {
            (Some(ok), None) => {
                serde_json::from_value(ok).with_context(|| format!("{verb}: odd answer of the workbench"))
            }
            (_, error) => bail!("{verb}: {}", error.unwrap_or_else(|| "no answer".to_owned())),
        }
    }

    /// One request whose answer says nothing.
    pub(crate) fn order(&self, verb: &str, args: &impl Serialize) -> Result<()> {
        self.call::<Value>(verb, args).map(|_| ())
    }

    fn ask(&self, verb: &str, args: &impl Serialize) -> Result<Receiver<Answer>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut line = serde_json::to_vec(&Request { id, verb, args })?;
        line.push(b'\n');
        let (sender, receiver) = channel();
        let mut waiting = lock(&self.waiting);
        waiting.as_mut().context("the workbench process ended")?.insert(id, sender);
        drop(waiting);
        let mut requests = lock(&self.requests);
        let pipe = requests.as_mut().context("the workbench has no input")?;
        pipe.write_all(&line).and_then(|()| pipe.flush()).context("the workbench process ended")?;
        Ok(receiver)
    }
}

impl Drop for Workbench {
    fn drop(&mut self) {
        drop(lock(&self.requests).take()); // the end of its input ends it
        let _ = self.process.wait();
    }
}

/// Hands each answer to who waits for it; at the end nobody waits any more.
fn deliver(answers: ChildStdout, waiting: &Waiting) {
    for line in BufReader::new(answers).lines().map_while(Result::ok) {
        match serde_json::from_str::<Answer>(&line) {
            Ok(answer) => {
                let sender = lock(waiting).as_mut().and_then(|w| w.remove(&answer.id));
                // A receiver that is gone has given up on its answer.
                let _ = sender.map(|s| s.send(answer));
            }
            Err(e) => eprintln!("workbench: odd line ({e}): {line}"),
        }
    }
    lock(waiting).take();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What a node needs before its first start: its configuration, formatted storage, and an archive of loaded classes
//! that halves the time it takes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::jars::Kafka;
use crate::node::{Node, NodePorts};
use crate::paths;
use crate::properties;
use crate::zookeeper::ZooKeeper;

/// Settings that make a server small, its background work prompt and its failover quick. `extra` overrides them.
const SETTINGS: [(&str, &str); 26] = [
    ("auto.create.topics.enable", "false"),
    ("background.threads", "2"),
    ("controlled.shutdown.enable", "true"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("inter.broker.listener.name", "INTERNAL"),
    ("listener.security.protocol.map", "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("log.cleaner.backoff.ms", "200"),
    ("log.cleaner.dedupe.buffer.size", "8388608"),
    ("log.cleaner.min.cleanable.ratio", "0.01"),
    ("log.initial.task.delay.ms", "500"),
    ("log.retention.check.interval.ms", "1000"),
    ("log.segment.delete.delay.ms", "1000"),
    ("num.io.threads", "4"),
    ("num.network.threads", "2"),
    ("offsets.topic.num.partitions", "4"),
    ("producer.id.expiration.check.interval.ms", "3000"),
    ("queued.max.requests", "64"),
    ("replica.fetch.wait.max.ms", "100"),
    ("socket.request.max.bytes", "268435456"),
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000"),
    ("transaction.state.log.num.partitions", "4"),
    ("unclean.leader.election.enable", "false"),
    ("leader.imbalance.check.interval.seconds", "3600"),
    ("log.cleaner.threads", "1"),
    ("socket.send.buffer.bytes", "1048576"),
    ("socket.receive.buffer.bytes", "1048576"),
];

/// The same for a node of a cluster that keeps its own metadata.
const KRAFT: [(&str, &str); 7] = [
    ("broker.heartbeat.interval.ms", "500"),
    ("broker.session.timeout.ms", "4000"),
    ("controller.listener.names", "CONTROLLER"),
    ("controller.quorum.append.linger.ms", "0"),
    ("initial.broker.registration.timeout.ms", "300000"),
    ("process.roles", "broker,controller"),
    ("share.coordinator.state.topic.num.partitions", "1"),
];

/// And for one that leaves them to ZooKeeper.
const ZOOKEEPER: [(&str, &str); 1] = [("zookeeper.session.timeout.ms", "4000")];

const ARCHIVE: &str = "kafka.jsa";

/// Writes a node's configuration and formats its storage; a broker that goes with ZooKeeper does that itself.
pub(crate) fn prepare_node(kafka: &Kafka, dir: &Path, config: &str, cluster_id: &str) -> Result<()> {
    let data = dir.join("data");
    fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
    fs::write(dir.join("server.properties"), config)?;
    if kafka.needs_zookeeper() {
        return Ok(());
    }
    kafka.bootstrap(&data)?;
    let id = config
        .lines()
        .find_map(|l| l.strip_prefix("node.id="))
        .context("the configuration has no node.id")?;
    let directory = random_id();
    let text = format!("version=1\ncluster.id={cluster_id}\nnode.id={id}\ndirectory.id={directory}\n");
    fs::write(data.join("meta.properties"), text)?;
    Ok(())
}

/// The classes that a node loads at its start, as the JVM archives them. Made once per version, by a node that is
/// started and stopped for it.
pub(crate) fn class_archive(kafka: &Kafka) -> Result<()> {
    paths::once(&archive_dir(kafka), |staging| {
        let ports = NodePorts::free(false)?;
        let node_dir = staging.join("node-0");
        let zookeeper_dir = staging.join("zookeeper");
        let zookeeper =
            kafka.needs_zookeeper().then(|| ZooKeeper::start(kafka, &zookeeper_dir)).transpose()?;
        let registry = zookeeper.as_ref().map(ZooKeeper::port);
        let config =
            server_properties(0, std::slice::from_ref(&ports), &node_dir.join("data"), registry, &[]);
        prepare_node(kafka, &node_dir, &config, &random_id())?;
        let made = staging.join(ARCHIVE);
        let flag = format!("-XX:ArchiveClassesAtExit={}", made.display());
        let node = Node::new(0, ports, node_dir.clone(), kafka.clone()).jvm([flag]);
        node.start()?;
        node.stop()?;
        drop((node, zookeeper));
        fs::remove_dir_all(&node_dir)?;
        if zookeeper_dir.exists() {
            fs::remove_dir_all(&zookeeper_dir)?;
        }
        Ok(())
    })
}

fn archive_dir(kafka: &Kafka) -> PathBuf {
    kafka.cache_dir().join("classes")
}

/// The flag to use the archive, if there is one: not every JVM makes it. A JVM that it does not fit ignores it.
pub(crate) fn use_archive(kafka: &Kafka) -> Option<String> {
    let archive = archive_dir(kafka).join(ARCHIVE);
    archive.exists().then(|| format!("-XX:SharedArchiveFile={}", archive.display()))
}

/// A random id in Kafka's own form; never one that starts with a dash, which tools take for a flag.
pub(crate) fn random_id() -> String {
    let mut bytes = fastrand::u128(..).to_be_bytes();
    if let Some(first) = bytes.first_mut() {
        *first &= 0x7f;
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The id of a cluster that ZooKeeper gave one, as its first broker has written it down.
pub(crate) fn given_id(data: &Path) -> Result<String> {
    let path = data.join("meta.properties");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("cluster.id="));
    Ok(id.with_context(|| format!("{} has no cluster.id", path.display()))?.to_owned())
}

/// The text of `server.properties`. `zookeeper` is the port of the server that keeps the metadata, if one does.
pub(crate) fn server_properties(
    id: usize,
    ports: &[NodePorts],
    data: &Path,
    zookeeper: Option<u16>,
    extra: &[(String, String)],
) -> String {
    let copies = ports.len().min(3).to_string();
    let min_isr = ports.len().min(2).to_string();
    let mut own = vec![("log.dirs", data.display().to_string())];
    if let Some(port) = zookeeper {
        own.extend([("broker.id", id.to_string()), ("zookeeper.connect", format!("127.0.0.1:{port}"))]);
    } else {
        let voters: Vec<String> =
            ports.iter().enumerate().map(|(n, p)| format!("{n}@127.0.0.1:{}", p.controller)).collect();
        own.extend([("node.id", id.to_string()), ("controller.quorum.voters", voters.join(","))]);
    }
    if let Some(p) = ports.get(id) {
        let internal = format!("INTERNAL://127.0.0.1:{}", p.internal);
        let mut listeners = format!("CLIENT://127.0.0.1:{},{internal}", p.client);
        if zookeeper.is_none() {
            let _ = write!(listeners, ",CONTROLLER://127.0.0.1:{}", p.controller);
        }
        let mut advertised = format!("CLIENT://127.0.0.1:{},{internal}", p.advertised);
        for d in &p.doors {
            let _ = write!(listeners, ",{}://127.0.0.1:{}", d.door.listener(), d.port);
            let _ = write!(advertised, ",{}://localhost:{}", d.door.listener(), d.advertised);
        }
        own.push(("listeners", listeners));
        own.push(("advertised.listeners", advertised));
    }
    own.push(("offsets.topic.replication.factor", copies.clone()));
    own.push(("transaction.state.log.replication.factor", copies.clone()));
    own.push(("default.replication.factor", copies.clone()));
    own.push(("transaction.state.log.min.isr", min_isr.clone()));
    if zookeeper.is_none() {
        own.push(("share.coordinator.state.topic.replication.factor", copies));
        own.push(("share.coordinator.state.topic.min.isr", min_isr));
    }

    let kind = if zookeeper.is_some() { &ZOOKEEPER[..] } else { &KRAFT[..] };
    let settings = SETTINGS.iter().chain(kind).map(|(k, v)| (*k, (*v).to_owned())).chain(own);
    let settings = settings.filter(|(k, _)| !extra.iter().any(|(e, _)| e == k));
    let extra = extra.iter().map(|(k, v)| (k.as_str(), v.clone()));
    properties::text(&settings.chain(extra).collect::<Vec<_>>())
}

//! Real Kafka clusters in KRaft mode, on loopback, made and thrown away by tests.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::jars::{DEFAULT_VERSION, Kafka};
use crate::node::{self, Node, NodePorts};
use crate::paths;
use crate::process::Swept;
use crate::proxy::Proxy;
use crate::workbench::{BatchInfo, Workbench};

/// Settings that make a server small, its background work prompt and its failover quick. `extra` overrides them.
const SETTINGS: [(&str, &str); 31] = [
    ("auto.create.topics.enable", "false"),
    ("background.threads", "2"),
    ("broker.heartbeat.interval.ms", "500"),
    ("broker.session.timeout.ms", "6000"),
    ("controlled.shutdown.enable", "true"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("inter.broker.listener.name", "INTERNAL"),
    ("controller.listener.names", "CONTROLLER"),
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
    ("process.roles", "broker,controller"),
    ("producer.id.expiration.check.interval.ms", "3000"),
    ("queued.max.requests", "64"),
    ("replica.fetch.wait.max.ms", "100"),
    ("share.coordinator.state.topic.num.partitions", "1"),
    ("socket.request.max.bytes", "268435456"),
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000"),
    ("transaction.state.log.num.partitions", "4"),
    ("unclean.leader.election.enable", "false"),
    ("leader.imbalance.check.interval.seconds", "3600"),
    ("log.cleaner.threads", "1"),
    ("socket.send.buffer.bytes", "1048576"),
    ("socket.receive.buffer.bytes", "1048576"),
];

/// Set (to anything) to keep the data of clusters when they end.
pub const KEEP: &str = "BODLEY_KEEP";

/// What kind of cluster to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many nodes, each a broker and a controller.
    pub nodes: usize,
    /// The version of Apache Kafka.
    pub version: String,
    /// Server settings that override the testbed's.
    pub extra: Vec<(String, String)>,
    /// Puts a [`Proxy`] in front of each node, which clients are told instead of the node itself.
    pub proxied: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { nodes: 1, version: DEFAULT_VERSION.to_owned(), extra: Vec::new(), proxied: false }
    }
}

impl ClusterOptions {
    /// One node of the default version.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Adds a server setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.extra.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts proxies in front of the nodes.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }
}

/// A running cluster. Its processes end and its data goes when it is dropped, or when this process ends in
/// whatever way.
#[derive(Debug)]
pub struct Cluster {
    id: String,
    // The order matters on drop: proxies and the workbench, then the nodes, then the folder under them.
    proxies: Vec<Proxy>,
    workbench: Mutex<Option<Arc<Workbench>>>,
    nodes: Vec<Node>,
    dir: PathBuf,
    _swept: Option<Swept>,
}

impl Cluster {
    /// Starts a cluster and waits until each node knows all of them.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        if options.nodes == 0 {
            bail!("a cluster needs at least one node");
        }
        let kafka = Kafka::ensure(&options.version)?;
        let metadata = kafka.bootstrap_metadata()?;
        let runs = paths::testbed_dir().join("run");
        fs::create_dir_all(&runs).with_context(|| format!("create {}", runs.display()))?;
        let dir = tempfile::Builder::new().prefix("cluster-").tempdir_in(&runs)?.keep();
        let swept = if std::env::var_os(KEEP).is_some() { None } else { Some(Swept::new(&dir)?) };

        let ports =
            (0..options.nodes).map(|_| NodePorts::free(options.proxied)).collect::<Result<Vec<_>>>()?;
        let id = random_id();
        let mut nodes = Vec::new();
        for (n, own) in ports.iter().enumerate() {
            let node_dir = dir.join(format!("node-{n}"));
            let config = server_properties(n, &ports, &node_dir.join("data"), &options.extra);
            node::prepare(&node_dir, &config, &id, &metadata)?;
            nodes.push(Node::new(n, *own, node_dir, kafka.clone()));
        }
        let proxied = ports.iter().filter(|_| options.proxied);
        let proxies = proxied.map(|p| Proxy::start_at(p.advertised, p.client)).collect::<Result<_>>()?;
        let cluster = Self { id, proxies, workbench: Mutex::new(None), nodes, dir, _swept: swept };
        cluster.nodes.iter().try_for_each(Node::launch)?;
        cluster.wait_until_up()?;
        Ok(cluster)
    }

    /// Waits until every node knows all nodes as live brokers.
    pub fn wait_until_up(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|n| n.wait_until_up(self.nodes.len() as u32))
    }

    /// The cluster id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What a client is given to find the cluster: through the proxies when there are some.
    pub fn bootstrap(&self) -> String {
        self.addresses(|ports| ports.advertised)
    }

    /// The same for a listener that no proxy stands before.
    pub fn direct_bootstrap(&self) -> String {
        self.addresses(|ports| ports.internal)
    }

    fn addresses(&self, port: impl Fn(NodePorts) -> u16) -> String {
        let all: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", port(n.ports()))).collect();
        all.join(",")
    }

    /// All nodes, by broker id from 0.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this broker id.
    pub fn node(&self, id: usize) -> Result<&Node> {
        self.nodes.get(id).with_context(|| format!("the cluster has no node {id}"))
    }

    /// The proxy in front of the node with this broker id.
    pub fn proxy(&self, id: usize) -> Result<&Proxy> {
        self.proxies.get(id).with_context(|| format!("there is no proxy in front of a node {id}"))
    }

    /// The independent client of this cluster, started when first asked for. It bypasses the proxies.
    pub fn workbench(&self) -> Result<Arc<Workbench>> {
        let mut slot = self.workbench.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workbench) = &*slot {
            return Ok(Arc::clone(workbench));
        }
        let workbench = Arc::new(Workbench::start(&self.direct_bootstrap())?);
        *slot = Some(Arc::clone(&workbench));
        Ok(workbench)
    }

    /// The batches of a partition as they lie on the disk of a node.
    pub fn batches(&self, node: usize, topic: &str, partition: i32) -> Result<Vec<BatchInfo>> {
        let log = self.node(node)?.data_dir().join(format!("{topic}-{partition}"));
        self.workbench()?.batches(&log)
    }

    /// The folder with the nodes' data and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A one-node cluster that all tests of a test binary share. Use topic names of your own in it.
pub fn shared_cluster() -> Result<&'static Cluster> {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Cluster::start(ClusterOptions::new()).map_err(|e| format!("{e:#}")));
    shared.as_ref().map_err(|e| anyhow::Error::msg(e.clone()))
}

/// A random id in Kafka's own form; never one that starts with a dash, which tools take for a flag.
pub(crate) fn random_id() -> String {
    let mut bytes = fastrand::u128(..).to_be_bytes();
    if let Some(first) = bytes.first_mut() {
        *first &= 0x7f;
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

fn server_properties(id: usize, ports: &[NodePorts], data: &Path, extra: &[(String, String)]) -> String {
    let copies = ports.len().min(3).to_string();
    let min_isr = ports.len().min(2).to_string();
    let voters: Vec<String> =
        ports.iter().enumerate().map(|(n, p)| format!("{n}@127.0.0.1:{}", p.controller)).collect();
    let mut own = vec![
        ("node.id", id.to_string()),
        ("controller.quorum.voters", voters.join(",")),
        ("log.dirs", data.display().to_string()),
    ];
    if let Some(p) = ports.get(id) {
        let internal = format!("INTERNAL://127.0.0.1:{}", p.internal);
        let controller = format!("CONTROLLER://127.0.0.1:{}", p.controller);
        own.push(("listeners", format!("CLIENT://127.0.0.1:{},{internal},{controller}", p.client)));
        own.push(("advertised.listeners", format!("CLIENT://127.0.0.1:{},{internal}", p.advertised)));
    }
    own.push(("offsets.topic.replication.factor", copies.clone()));
    own.push(("transaction.state.log.replication.factor", copies.clone()));
    own.push(("share.coordinator.state.topic.replication.factor", copies.clone()));
    own.push(("default.replication.factor", copies));
    own.push(("transaction.state.log.min.isr", min_isr.clone()));
    own.push(("share.coordinator.state.topic.min.isr", min_isr));

    let settings = SETTINGS.iter().map(|(k, v)| (*k, (*v).to_owned())).chain(own);
    let settings: Vec<(&str, String)> =
        settings.filter(|(k, _)| !extra.iter().any(|(e, _)| e == k)).collect();
    let extra = extra.iter().map(|(k, v)| (k.as_str(), v.clone()));
    settings.into_iter().chain(extra).fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}={value}");
        text
    })
}

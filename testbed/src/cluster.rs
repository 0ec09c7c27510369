//! Real Kafka clusters on loopback, made and thrown away by tests: in KRaft mode, and before Kafka 3.3 with ZooKeeper.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::door::Door;
use crate::iam::{Fronts, Iam};
use crate::jars::{DEFAULT_VERSION, Kafka};
use crate::login::Login;
use crate::node::{Node, NodePorts};
use crate::oidc::Oidc;
use crate::paths;
use crate::pki::Pki;
use crate::process::Swept;
use crate::proxy::Proxy;
use crate::security::{SCRAM_USERS, Security};
use crate::setup;
use crate::workbench::{BatchInfo, Workbench};
use crate::zookeeper::ZooKeeper;

/// Set (to anything) to keep the data of clusters when they end.
pub const KEEP: &str = "BODLEY_KEEP";

/// What kind of cluster to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many nodes, each a broker and a controller; with ZooKeeper, of which there is one, each a broker.
    pub nodes: usize,
    /// The version of Apache Kafka.
    pub version: String,
    /// Server settings that override the testbed's.
    pub extra: Vec<(String, String)>,
    /// The rack of each node; one without is in none.
    pub racks: Vec<String>,
    /// Flags of the JVM that override the testbed's, such as `-Xmx2g` for ten thousand partitions or
    /// `-XX:TieredStopAtLevel=4` where the server's speed counts and not its start.
    pub jvm: Vec<String>,
    /// Puts a [`Proxy`] in front of each node, which clients are told instead of the node itself.
    pub proxied: bool,
    /// Gives the cluster its [doors](Door).
    pub security: Option<Security>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        let (version, extra, jvm) = (DEFAULT_VERSION.to_owned(), Vec::new(), Vec::new());
        Self { nodes: 1, version, extra, racks: Vec::new(), jvm, proxied: false, security: None }
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

    /// A node for each of these racks; a leader sends consumers on to the replica in theirs (KIP-392).
    #[must_use]
    pub fn racks(mut self, racks: &[&str]) -> Self {
        self.nodes = racks.len();
        self.racks = racks.iter().map(|&rack| rack.to_owned()).collect();
        self.set("replica.selector.class", "org.apache.kafka.common.replica.RackAwareReplicaSelector")
    }

    /// Adds a flag of the JVM.
    #[must_use]
    pub fn jvm(mut self, flag: &str) -> Self {
        self.jvm.push(flag.to_owned());
        self
    }

    /// Sets the version of Apache Kafka.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// Puts proxies in front of the nodes.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Adds all [doors](Door) with their users; the plain listeners stay.
    #[must_use]
    pub fn secured(self) -> Self {
        self.secure(|_| ())
    }

    /// The same, and users may do only what ACLs allow ([`Workbench::allow`]). Who comes without a name may do everything:
    /// the workbench, and clients of [`Cluster::bootstrap`] and [`Door::Ssl`].
    #[must_use]
    pub fn authorized(self) -> Self {
        self.secure(|s| s.authorized = true)
    }

    /// Adds all doors; a SASL session on them ends after so long, unless the client logs in again.
    #[must_use]
    pub fn reauth(self, after: Duration) -> Self {
        self.secure(|s| s.reauth = Some(after))
    }

    /// Adds all doors, this one with a [`Proxy`] in front of it on each node.
    #[must_use]
    pub fn proxied_door(self, door: Door) -> Self {
        self.secure(|s| s.proxied.push(door))
    }

    /// Adds all doors; those with SASL take tokens of this provider, which has to be there as long as the cluster. Kafka 4 is needed.
    #[must_use]
    pub fn oidc(self, provider: &Oidc) -> Self {
        self.secure(|s| s.issuer = Some(provider.issuer()))
    }

    /// Adds all doors and [`Door::Iam`], where this one judges the clients.
    #[must_use]
    pub fn iam(self, iam: &Iam) -> Self {
        self.secure(|s| s.iam = Some(iam.clone()))
    }

    fn secure(mut self, change: impl FnOnce(&mut Security)) -> Self {
        change(self.security.get_or_insert_default());
        self
    }
}

/// A running cluster. Its processes end and its data goes when it is dropped, or when this process ends in
/// whatever way.
#[derive(Debug)]
pub struct Cluster {
    id: String,
    // The order matters on drop: proxies and the workbench, then the nodes and ZooKeeper, then the folder under them.
    proxies: Vec<Proxy>,
    doors: Vec<Vec<(Door, Proxy)>>,
    _fronts: Option<Fronts>,
    workbench: Mutex<Option<Arc<Workbench>>>,
    nodes: Vec<Node>,
    _zookeeper: Option<ZooKeeper>,
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
        if kafka.needs_zookeeper() && options.security.is_some() {
            bail!("the doors of secured clusters need Kafka 3.3 or newer");
        }
        setup::class_archive(&kafka)?;
        let runs = paths::testbed_dir().join("run");
        fs::create_dir_all(&runs).with_context(|| format!("create {}", runs.display()))?;
        let dir = tempfile::Builder::new().prefix("cluster-").tempdir_in(&runs)?.keep();
        let swept = if std::env::var_os(KEEP).is_some() { None } else { Some(Swept::new(&dir)?) };

        let ports = (0..options.nodes).map(|_| free_ports(&options)).collect::<Result<Vec<_>>>()?;
        let zookeeper_dir = dir.join("zookeeper");
        let zookeeper =
            kafka.needs_zookeeper().then(|| ZooKeeper::start(&kafka, &zookeeper_dir)).transpose()?;
        let registry = zookeeper.as_ref().map(ZooKeeper::port);
        let id = setup::random_id();
        let nodes = prepare_nodes(&kafka, &options, &ports, (&dir, &id, registry))?;
        let proxied = ports.iter().filter(|_| options.proxied);
        let proxies = proxied.map(|p| Proxy::start_at(p.advertised, p.client)).collect::<Result<_>>()?;
        let doors = ports.iter().map(door_proxies).collect::<Result<_>>()?;
        let iam = options.security.as_ref().and_then(|s| s.iam.as_ref());
        let fronts = iam.map(|iam| {
            let doors = ports.iter().filter_map(|p| p.door(Door::Iam));
            Fronts::start(iam, doors.map(|d| (d.advertised, d.port)))
        });
        let (_fronts, workbench) = (fronts.transpose()?, Mutex::new(None));
        let (_zookeeper, _swept) = (zookeeper, swept);
        let mut cluster = Self { id, proxies, doors, _fronts, workbench, nodes, _zookeeper, dir, _swept };
        cluster.nodes.iter().try_for_each(Node::launch)?;
        cluster.wait_until_up()?;
        if kafka.needs_zookeeper() {
            cluster.id = setup::given_id(&cluster.node(0)?.data_dir())?;
        }
        if options.security.is_some() {
            cluster.workbench()?.set_scram_users(&SCRAM_USERS)?;
        }
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

    /// The same for a door of a secured cluster, by the name `localhost`, and through its proxies when it has some.
    pub fn door(&self, door: Door) -> Result<String> {
        let port = |node: &Node| node.ports().door(door).map(|d| format!("localhost:{}", d.advertised));
        let all: Option<Vec<String>> = self.nodes.iter().map(port).collect();
        Ok(all.context("the cluster is not secured")?.join(","))
    }

    /// What a client's `client.properties` has to say to come in by a door; see [`properties::text`](crate::properties::text).
    pub fn client_properties(&self, door: Door, login: &Login) -> Result<Vec<(String, String)>> {
        Ok(login.properties(door, &self.door(door)?, Pki::ensure()?))
    }

    /// The certificates of all secured clusters.
    pub fn pki(&self) -> Result<&'static Pki> {
        Pki::ensure()
    }

    fn addresses(&self, port: impl Fn(&NodePorts) -> u16) -> String {
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

    /// The proxy in front of a door of the node with this broker id, see [`ClusterOptions::proxied_door`].
    pub fn door_proxy(&self, door: Door, id: usize) -> Result<&Proxy> {
        let mut doors = self.doors.get(id).into_iter().flatten();
        let found = doors.find(|(d, _)| *d == door).map(|(_, proxy)| proxy);
        found.with_context(|| format!("there is no proxy in front of door {door:?} of a node {id}"))
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

/// The nodes of the cluster `id` below `dir`, none of them started.
fn prepare_nodes(
    kafka: &Kafka,
    options: &ClusterOptions,
    ports: &[NodePorts],
    (dir, id, zookeeper): (&Path, &str, Option<u16>),
) -> Result<Vec<Node>> {
    let mut settings = Vec::new();
    if let Some(security) = &options.security {
        settings = security.settings(Pki::ensure()?);
    }
    settings.extend_from_slice(&options.extra);
    let node = |(n, own): (usize, &NodePorts)| {
        let node_dir = dir.join(format!("node-{n}"));
        let rack = options.racks.get(n).map(|rack| ("broker.rack".to_owned(), rack.clone()));
        let settings: Vec<_> = settings.iter().cloned().chain(rack).collect();
        let config = setup::server_properties(n, ports, &node_dir.join("data"), zookeeper, &settings);
        setup::prepare_node(kafka, &node_dir, &config, id)?;
        let secured = options.security.as_ref().and_then(Security::jvm);
        let node = Node::new(n, own.clone(), node_dir, kafka.clone());
        Ok(node.registers_at(zookeeper).jvm(secured.into_iter().chain(options.jvm.clone())))
    };
    ports.iter().enumerate().map(node).collect()
}

fn free_ports(options: &ClusterOptions) -> Result<NodePorts> {
    let ports = NodePorts::free(options.proxied)?;
    match &options.security {
        Some(security) => ports.secured(security),
        None => Ok(ports),
    }
}

fn door_proxies(ports: &NodePorts) -> Result<Vec<(Door, Proxy)>> {
    let proxied = ports.doors.iter().filter(|d| d.advertised != d.port && d.door != Door::Iam);
    proxied.map(|d| Ok((d.door, Proxy::start_at(d.advertised, d.port)?))).collect()
}

/// A one-node cluster that all tests of a test binary share. Use topic names of your own in it.
pub fn shared_cluster() -> Result<&'static Cluster> {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Cluster::start(ClusterOptions::new()).map_err(|e| format!("{e:#}")));
    shared.as_ref().map_err(|e| anyhow::Error::msg(e.clone()))
}

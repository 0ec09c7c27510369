//! The cluster that is measured against: one of our own, or any other.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use bodley_testbed::jars::{DEFAULT_VERSION, Kafka};
use bodley_testbed::{Cluster, ClusterOptions, Workbench};

use crate::cost;

/// How long deleted topics are waited for.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// A broker that we can't look into gets so long after a deletion; Kafka itself waits a minute by default before it removes files.
const REMOTE_PAUSE: Duration = Duration::from_secs(1);

/// A cluster, and Apache's own client to make topics with.
pub struct Site {
    bench: Arc<Workbench>,
    cluster: Option<Cluster>,
    bootstrap: String,
    kafka: Kafka,
    /// What the names of our topics begin with.
    prefix: String,
}

impl Site {
    /// Starts a Kafka, unless there is one.
    pub fn open(bootstrap: Option<&str>) -> Result<Self> {
        let kafka = Kafka::ensure(DEFAULT_VERSION)?;
        let prefix = format!("bench-{:08x}", fastrand::u32(..));
        if let Some(bootstrap) = bootstrap {
            let (bench, bootstrap) = (Arc::new(Workbench::start(bootstrap)?), bootstrap.to_owned());
            return Ok(Self { bench, cluster: None, bootstrap, kafka, prefix });
        }
        let cluster = Cluster::start(server())?;
        let (bench, bootstrap) = (cluster.workbench()?, cluster.bootstrap());
        Ok(Self { bench, cluster: Some(cluster), bootstrap, kafka, prefix })
    }

    /// Where clients find it.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Kafka's own tools.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// What it is, in words.
    pub fn describe(&self) -> String {
        match &self.cluster {
            Some(_) => format!("Apache Kafka {}, one node on this machine", self.kafka.version()),
            None => format!("the cluster at {}", self.bootstrap),
        }
    }

    /// What a topic of ours is called: names of two sessions differ.
    pub fn name(&self, topic: &str) -> String {
        format!("{}-{topic}", self.prefix)
    }

    /// Makes a topic that keeps everything, and waits until each of its partitions answers.
    pub fn create(&self, name: &str, partitions: i32) -> Result<()> {
        self.bench.create_topic(name, partitions, &[("retention.ms", "-1"), ("retention.bytes", "-1")])?;
        self.bench.describe(name)?;
        Ok(())
    }

    /// Removes a topic.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.bench.delete_topic(name)
    }

    /// Records in a topic, as far as offsets tell.
    pub fn records(&self, name: &str) -> Result<i64> {
        Ok(self.bench.describe(name)?.partitions.iter().map(|p| p.end - p.start).sum())
    }

    /// CPU seconds of the broker so far; `None` where it is not ours.
    pub fn cpu(&self) -> Result<Option<f64>> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        cluster.node(0)?.pid().map(cost::so_far).transpose()
    }

    /// Waits until what was done before costs nothing any more: files of deleted topics are gone, and no written page is left in memory.
    pub fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        match &self.cluster {
            None => thread::sleep(REMOTE_PAUSE),
            Some(cluster) => {
                let data = cluster.node(0)?.data_dir();
                while Instant::now() < deadline
                    && std::fs::read_dir(&data)?
                        .any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().ends_with("-delete")))
                {
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
        rustix::fs::sync();
        Ok(())
    }
}

/// A broker that is compiled with all means, as one in production is, and whose own housekeeping stays out of the way.
fn server() -> ClusterOptions {
    let options = ClusterOptions::new().jvm("-XX:TieredStopAtLevel=4").jvm("-Xms2g").jvm("-Xmx2g");
    let settings = [
        ("log.retention.ms", "-1"),
        ("log.retention.check.interval.ms", "3600000"),
        ("log.cleaner.backoff.ms", "15000"),
        // Kafka's own default of 10 MiB is set aside for each of a thousand partitions.
        ("log.index.size.max.bytes", "1048576"),
        // Kafka's own defaults.
        ("num.io.threads", "8"),
        ("num.network.threads", "3"),
    ];
    settings.iter().fold(options, |options, (name, value)| options.set(name, value))
}

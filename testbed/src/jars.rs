//! Apache Kafka's jars: fetched by Maven once per version, or taken from an installation named by `KAFKA_HOME`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::java;
use crate::paths;

/// The version that clusters run and that the workbench's client has, unless another is asked for.
pub const DEFAULT_VERSION: &str = "4.2.0";

/// The versions that Bodley is tested on: the oldest, without topic ids; one with them and with ZooKeeper; the last that has both
/// ZooKeeper and KRaft; the newest.
pub const TESTED_VERSIONS: [&str; 4] = ["2.4.1", "2.8.2", "3.9.1", "4.4.0"];

const SCALA: &str = "2.13";
/// A logger for the server and the client; it must fit the slf4j API 1.7 that all these versions bring, and be the only one.
const LOGGER: (&str, &str, &str) = ("org.slf4j", "slf4j-simple", "1.7.36");
const MSK_IAM: (&str, &str, &str) = ("software.amazon.msk", "aws-msk-iam-auth", "2.3.5");
/// What some versions bring of their own.
const OTHER_LOGGERS: [&str; 2] = ["slf4j-reload4j", "slf4j-log4j12"];
/// What formatted storage has beside the names of cluster and node; the second in newer versions of Kafka 4.
const BOOTSTRAP: [&str; 2] =
    ["bootstrap.checkpoint", "__cluster_metadata-0/00000000000000000000-0000000000.checkpoint"];

/// One version of Apache Kafka, ready to run.
#[derive(Debug, Clone)]
pub struct Kafka {
    version: String,
    libs: PathBuf,
    cache: PathBuf,
}

impl Kafka {
    /// Finds the jars of `version`, fetching them when they are not there. `KAFKA_HOME` (an installation of
    /// Kafka 4 or newer, only its `libs/` is used) takes the place of [`DEFAULT_VERSION`].
    pub fn ensure(version: &str) -> Result<Self> {
        java::check_java()?;
        let home = std::env::var_os("KAFKA_HOME").filter(|h| !h.is_empty() && version == DEFAULT_VERSION);
        match home {
            Some(home) => Self::installed(Path::new(&home)),
            None => Self::fetched(version),
        }
    }

    fn installed(home: &Path) -> Result<Self> {
        let libs = home.join("libs");
        let names = fs::read_dir(&libs)
            .with_context(|| format!("KAFKA_HOME names no Kafka installation: {}", libs.display()))?;
        for name in names {
            let name = name?.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix("kafka-clients-").and_then(|v| v.strip_suffix(".jar"));
            if let Some(version) = version {
                let cache = paths::testbed_dir().join("kafka").join(format!("home-{version}"));
                return Ok(Self { version: version.to_owned(), libs, cache });
            }
        }
        bail!("KAFKA_HOME names no Kafka installation: no kafka-clients jar in {}", libs.display())
    }

    fn fetched(version: &str) -> Result<Self> {
        if !version.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)) || version.is_empty() {
            bail!("{version:?} is not a Kafka version such as {DEFAULT_VERSION}");
        }
        let cache = paths::testbed_dir().join("kafka").join(version);
        let libs = cache.join("libs");
        let server = format!("kafka_{SCALA}");
        let mut wanted = vec![("org.apache.kafka", &*server, version), LOGGER];
        if !keeps_metadata_in_zookeeper(version) {
            wanted.push(("org.apache.kafka", "kafka-tools", version));
        }
        let advice = "install Maven (on Debian: maven), or set KAFKA_HOME to an installation of Kafka";
        fetch(&libs, &wanted, advice).with_context(|| format!("fetch Apache Kafka {version}"))?;
        Ok(Self { version: version.to_owned(), libs, cache })
    }

    /// The version, such as `4.2.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether its clusters keep their metadata in ZooKeeper. Those from 3.3 on, which can do without, do so here.
    pub(crate) fn needs_zookeeper(&self) -> bool {
        keeps_metadata_in_zookeeper(&self.version)
    }

    /// Where things made from this version are kept.
    pub(crate) fn cache_dir(&self) -> &Path {
        &self.cache
    }

    /// All jars, as an argument of `java -cp`.
    pub fn classpath(&self) -> String {
        format!("{}/*", self.libs.display())
    }

    /// A `java` command with these jars, for Kafka's own tools: the caller adds the main class and arguments.
    pub fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.arg("-cp").arg(self.classpath());
        java
    }

    /// The metadata that a formatted node starts with. It does not depend on the cluster or the node, so the
    /// storage tool runs once per version and every node gets a copy in its folder `data`.
    pub(crate) fn bootstrap(&self, data: &Path) -> Result<()> {
        let dir = self.cache.join("formatted");
        paths::once(&dir, |staging| {
            let config = staging.join("format.properties");
            let text = format!(
                "process.roles=broker,controller\nnode.id=0\ncontroller.quorum.voters=0@127.0.0.1:9093\n\
                 listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n\
                 controller.listener.names=CONTROLLER\nlog.dirs={}\n",
                staging.join("data").display()
            );
            fs::write(&config, text)?;
            let classpath = self.classpath();
            let args = [
                "-cp",
                &classpath,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "AAAAAAAAAAAAAAAAAAAAAQ",
                "-c",
            ];
            let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
            args.push(config.as_os_str());
            let formatted = java::run_tool("java", &args, "install a JDK");
            formatted.context("format storage (Kafka 3.3 or newer is needed, one with KRaft)")?;
            let copied = copy_bootstrap(&staging.join("data"), staging);
            copied?.context("the storage tool has made no metadata where it is known to")?;
            Ok(())
        })?;
        copy_bootstrap(&dir, data)?.with_context(|| format!("no metadata in {}", dir.display()))
    }
}

/// `None`: there is none.
fn copy_bootstrap(from: &Path, to: &Path) -> Result<Option<()>> {
    let Some(name) = BOOTSTRAP.into_iter().find(|name| from.join(name).exists()) else { return Ok(None) };
    let target = to.join(name);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    fs::copy(from.join(name), &target).with_context(|| format!("write {}", target.display()))?;
    Ok(Some(()))
}

fn keeps_metadata_in_zookeeper(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (3, 3)
}

/// The folder with the jars of Amazon's own client side for IAM, which goes with any Kafka client in Java.
pub fn msk_iam_auth() -> Result<PathBuf> {
    let (group, name, version) = MSK_IAM;
    let libs = paths::testbed_dir().join("kafka").join(format!("{name}-{version}"));
    fetch(&libs, &[MSK_IAM], "install Maven (on Debian: maven)")
        .with_context(|| format!("fetch {group}:{name}"))?;
    Ok(libs)
}

/// Has Maven fill a folder with jars and all that they need, once.
fn fetch(libs: &Path, wanted: &[(&str, &str, &str)], advice: &str) -> Result<()> {
    paths::once(libs, |staging| {
        let pom = PathBuf::from(format!("{}.pom.xml", libs.display()));
        fs::write(&pom, project(wanted))?;
        let out = format!("-DoutputDirectory={}", staging.display());
        let copy = ["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", &out, "-f"];
        let mut args: Vec<&OsStr> = copy.iter().map(OsStr::new).collect();
        args.push(pom.as_os_str());
        java::run_tool("mvn", &args, advice)
    })
}

fn project(wanted: &[(&str, &str, &str)]) -> String {
    let without: String = OTHER_LOGGERS
        .iter()
        .map(|name| {
            format!("<exclusion><groupId>org.slf4j</groupId><artifactId>{name}</artifactId></exclusion>")
        })
        .collect();
    let dependencies: String = wanted
        .iter()
        .map(|(group, name, version)| {
            format!(
                "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>\
                 <version>{version}</version>\
                 <exclusions>{without}</exclusions></dependency>\n"
            )
        })
        .collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n<modelVersion>4.0.0</modelVersion>\n\
         <groupId>testbed</groupId><artifactId>kafka</artifactId><version>1</version>\
         <packaging>pom</packaging>\n<dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )
}

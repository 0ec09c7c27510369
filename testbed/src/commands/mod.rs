//! What the subcommands do.

pub(crate) mod demo;
mod fuzz;
mod secure;
mod suite;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use bodley_testbed::workloads::Many;
use bodley_testbed::{Cluster, ClusterOptions, Isolation, Workbench, paths, workloads};

/// What `up` starts.
pub(crate) struct Up {
    pub(crate) nodes: usize,
    pub(crate) version: String,
    pub(crate) secure: bool,
    pub(crate) partitions: Option<u32>,
}

/// What the topics of `up --partitions` are called, and the size of the record in each partition.
const MANY: (&str, u32) = ("many-", 1024);

pub(crate) fn up(Up { nodes, version, secure, partitions }: Up) -> Result<ExitCode> {
    let started = Instant::now();
    let many = partitions.map(|partitions| Many::new(MANY.0, partitions)).transpose()?;
    let options = ClusterOptions::new().nodes(nodes).version(&version);
    let options = if many.is_some() { Many::fit(options) } else { options };
    let secured = secure.then(secure::Servers::start).transpose()?;
    let cluster = Cluster::start(secured.iter().fold(options, |options, servers| servers.secure(options)))?;
    println!(
        "Kafka is up after {:.1} s at:\n\n    {}\n",
        started.elapsed().as_secs_f64(),
        cluster.bootstrap()
    );
    if let Some(servers) = &secured {
        servers.explain(&cluster)?;
    }
    if let Some(many) = &many {
        fill(&cluster, many)?;
    }
    println!("Data and logs: {}", cluster.dir().display());
    println!("Press Ctrl-C to stop it and remove its data (set BODLEY_KEEP=1 to keep the data).");
    // Whatever ends this process ends the servers, too.
    loop {
        std::thread::park();
    }
}

fn fill(cluster: &Cluster, many: &Many) -> Result<()> {
    let (started, bench) = (Instant::now(), cluster.workbench()?);
    many.create(&bench)?;
    println!("Topics after {:.1} s:", started.elapsed().as_secs_f64());
    for (topic, partitions) in many.topics() {
        println!("    {topic:<10} {partitions:>5} partitions");
    }
    many.write(&bench, MANY.1, 1)?;
    println!("{} bytes in each partition after {:.1} s\n", MANY.1, started.elapsed().as_secs_f64());
    Ok(())
}

pub(crate) fn odd(bootstrap: &str, prefix: &str) -> Result<ExitCode> {
    let bench = Workbench::start(bootstrap)?;
    for spec in workloads::write_odd_topics(&bench, prefix)? {
        println!("{:<30} {:>3} partitions", spec.name, spec.partitions);
    }
    eprintln!(
        "The transaction left open in {prefix}transaction-open is aborted by the broker after 15 minutes."
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn dump(
    bootstrap: &str,
    topic: &str,
    isolation: Isolation,
    out: Option<PathBuf>,
) -> Result<ExitCode> {
    let bench = Workbench::start(bootstrap)?;
    let dump = match &out {
        Some(file) => bench.dump_to(topic, isolation, file)?,
        None => bench.dump(topic, isolation)?,
    };
    if out.is_none() {
        io::copy(&mut File::open(dump.file())?, &mut io::stdout().lock())?;
    }
    eprintln!("{} records of {} partitions", dump.len(), dump.partitions().len());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn test(soak: bool, extra: &[String]) -> Result<ExitCode> {
    bodley_testbed::prepare()?;
    let passed = if extra.is_empty() { suite::run(soak)? } else { some(soak, extra)? };
    if passed && (!soak || fuzz::all()?) { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::FAILURE) }
}

/// What cargo makes of these arguments.
fn some(soak: bool, extra: &[String]) -> Result<bool> {
    let mut test = cargo();
    test.args(["test", "--workspace", "--locked"]).args(extra);
    if soak {
        test.env("BODLEY_SOAK", "1");
    }
    Ok(test.status().context("start cargo")?.success())
}

/// The cargo that runs us, in the workspace.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::workspace_dir());
    cargo
}

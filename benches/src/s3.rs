//! A backup to S3 beside a loop that puts the same parts with the same client, and restores from stores near and far.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bodley_io::kafka::security::{Tls, TlsOptions};
use bodley_io::store::Store;
use bodley_io::{BufferPool, Filled};
use bodley_storage_rest::Environment;
use bodley_storage_rest::s3::{S3Options, S3Store};
use bodley_testbed::iam::{AwsCredentials, REGION};
use bodley_testbed::stores::s3::BucketOptions;
use bodley_testbed::stores::{S3, SeaweedFs};
use bodley_testbed::workloads::{BulkOptions, bulk};
use bodley_testbed::{Cluster, ClusterOptions};
use clap::Args;

use crate::cost::{self, Cost};

const TOPIC: &str = "bulk";
const PARTITIONS: i32 = 4;
const BUCKET: &str = "bench";
const PART: usize = 16 << 20;
/// A segment of a backup.
const SEGMENT: u64 = 1 << 30;
/// Segments that a backup writes at a time.
const LANES: u64 = 2;
/// Of every request, in the second part.
const FAR: Duration = Duration::from_millis(100);

/// What is measured.
#[derive(Debug, Args)]
pub struct Options {
    /// Size of the topic.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mebibytes: u64,
    /// Runs of each, in turns.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// A bodley of release quality.
    #[arg(long, value_name = "FILE", default_value = "target/release/bodley")]
    bodley: std::path::PathBuf,
}

/// Puts parts of no meaning.
#[derive(Debug, Args)]
pub struct Put {
    /// The store.
    #[arg(long)]
    endpoint: String,
    /// What the objects' names begin with.
    #[arg(long)]
    prefix: String,
    /// How much.
    #[arg(long)]
    mebibytes: u64,
}

impl Put {
    /// Puts all of it. Parts are numbered, the bytes behind the number are always the same.
    pub fn run(&self) -> Result<()> {
        tokio::runtime::Runtime::new()?.block_on(async {
            let options = S3Options {
                endpoint: Some(self.endpoint.clone()),
                part_len: Some(PART),
                ..S3Options::new(BUCKET, &self.prefix)
            };
            let tls = Tls::new(&TlsOptions::default())?.config();
            let store = Arc::new(S3Store::new(options, &Environment::of_process(), &tls)?);
            let pool = BufferPool::new(PART, 160 << 20);
            let lanes = (0..LANES).map(|lane| {
                tokio::spawn(put(Arc::clone(&store), Arc::clone(&pool), lane, (self.mebibytes << 20) / LANES))
            });
            for lane in lanes.collect::<Vec<_>>() {
                lane.await??;
            }
            Ok(())
        })
    }
}

async fn put(store: Arc<S3Store>, pool: Arc<BufferPool>, lane: u64, bytes: u64) -> Result<()> {
    let mut left = bytes;
    for segment in 0.. {
        let mut upload = store.create(&format!("data/{lane}-{segment}.seg")).await?;
        let mut room = left.min(SEGMENT);
        while room > 0 {
            let len = room.min(PART as u64);
            let mut buf = pool.get(PART).await?;
            if let Some(start) = buf.first_chunk_mut() {
                *start = (lane ^ left).to_le_bytes();
            }
            // The store sums it up: a backup knows the sum from its walk.
            upload.write(Filled::new(buf, 0, len as usize)).await?;
            (left, room) = (left - len, room - len);
        }
        upload.finish().await?;
        if left == 0 {
            break;
        }
    }
    Ok(())
}

/// Sets everything up, measures in turns, prints two tables.
pub fn run(options: &Options) -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::new().jvm("-Xmx1g"))?;
    let bench = cluster.workbench()?;
    bench.create_topic(TOPIC, PARTITIONS, &[("retention.ms", "-1")])?;
    let load = BulkOptions { partitions: PARTITIONS, ..BulkOptions::default() };
    bulk(&bench, TOPIC, options.mebibytes << 20, load)?;
    near(options, &cluster)?;
    far(options, &cluster)
}

fn keys<'c>(command: &'c mut Command, credentials: &AwsCredentials, endpoint: &str) -> &'c mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
        .env("AWS_REGION", REGION)
        .env("AWS_ENDPOINT_URL_S3", endpoint)
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
}

fn backup(bodley: &Path, bootstrap: &str, vault: &str) -> Command {
    let mut command = Command::new(bodley);
    command.args(["backup", "--quiet", "--topic", TOPIC, "-b", bootstrap, "--vault", vault]);
    command
}

/// Backup and raw loop into a real server.
fn near(options: &Options, cluster: &Cluster) -> Result<()> {
    let seaweed = SeaweedFs::start()?;
    seaweed.make_bucket(BUCKET)?;
    let (pid, endpoint) = (seaweed.pid(), seaweed.endpoint());
    let gibibytes = options.mebibytes as f64 / 1024.0;
    let mut rows: Vec<(&str, Vec<(Cost, f64)>)> =
        ["raw loop of PUTs", "bodley backup", "bodley verify"].map(|name| (name, Vec::new())).into();
    for round in 0..=options.runs {
        for (at, (_, costs)) in rows.iter_mut().enumerate() {
            let vault = format!("s3://{BUCKET}/backup-{round}");
            let mut command = match at {
                0 => {
                    let mut command = Command::new(std::env::current_exe()?);
                    command.args(["put", "--endpoint", &endpoint, "--prefix", &format!("raw-{round}")]);
                    command.args(["--mebibytes", &options.mebibytes.to_string()]);
                    command
                }
                1 => backup(&options.bodley, &cluster.bootstrap(), &vault),
                _ => {
                    let mut command = Command::new(&options.bodley);
                    command.args(["verify", "--quiet", "--vault", &vault]);
                    command
                }
            };
            let before = cost::so_far(pid)?;
            let (cost, _) = cost::of(keys(&mut command, seaweed.admin(), &endpoint))?;
            if round > 0 {
                costs.push((cost, cost::so_far(pid)? - before));
            }
        }
    }
    println!(
        "{gibibytes:.2} GiB in {PARTITIONS} partitions to SeaweedFS over http, medians of {} (least - most)\n",
        options.runs
    );
    println!(
        "{:<20} {:>24} {:>26} {:>18} {:>8}",
        "", "MiB/s", "client's CPU-s/GiB", "server's CPU-s/GiB", "RSS MiB"
    );
    let mut rates = Vec::new();
    for (name, costs) in &rows {
        let (rate, slow, fast) =
            cost::spread(costs.iter().map(|(cost, _)| gibibytes * 1024.0 / cost.took.as_secs_f64()));
        let (cpu, least, most) = cost::spread(costs.iter().map(|(cost, _)| cost.cpu / gibibytes));
        let (server, ..) = cost::spread(costs.iter().map(|(_, server)| server / gibibytes));
        let (rss, ..) = cost::spread(costs.iter().map(|(cost, _)| (cost.rss >> 20) as f64));
        rates.push(rate);
        println!(
            "{name:<20} {rate:>8.0} ({slow:.0} - {fast:.0}) {cpu:>14.2} ({least:.2} - {most:.2}) {server:>18.2} {rss:>8.0}"
        );
    }
    if let [raw, backup, _] = rates.as_slice() {
        println!("\nbackup / raw loop: {:.2}\n", backup / raw);
    }
    Ok(())
}

/// Restores from a store in this process that answers at once, or after a while; and what a backup asks it.
fn far(options: &Options, cluster: &Cluster) -> Result<()> {
    let s3 = S3::start()?;
    s3.make_bucket(BUCKET, BucketOptions::default());
    let (vault, endpoint) = (format!("s3://{BUCKET}/far"), s3.endpoint());
    let gibibytes = options.mebibytes as f64 / 1024.0;
    let mut command = backup(&options.bodley, &cluster.bootstrap(), &vault);
    let bench = cluster.workbench()?;
    cost::of(keys(&mut command, s3.admin(), &endpoint))?;
    let per = |what: &str| {
        let counts = s3.log().counts();
        let all: u64 = counts.values().sum();
        println!("{what}: {:.0} requests per GiB {counts:?}", all as f64 / gibibytes);
        s3.log().clear();
    };
    per("backup");
    let (mut at_once, mut delayed) = (Vec::new(), Vec::new());
    for round in 0..=options.runs {
        for (delay, costs) in [(Duration::ZERO, &mut at_once), (FAR, &mut delayed)] {
            s3.faults().delay(delay);
            s3.log().clear();
            let target = format!("restored-{round}-{}", delay.as_millis());
            let mut command = Command::new(&options.bodley);
            let rename = format!("{TOPIC}={target}");
            command.args([
                "restore",
                "--quiet",
                "-b",
                &cluster.bootstrap(),
                "--vault",
                &vault,
                "--rename",
                &rename,
            ]);
            let (cost, _) = cost::of(keys(&mut command, s3.admin(), &endpoint))?;
            if round > 0 {
                costs.push(gibibytes * 1024.0 / cost.took.as_secs_f64());
            }
            bench.delete_topic(&target).context("delete what was restored")?;
        }
    }
    s3.faults().delay(Duration::ZERO);
    per("restore");
    let ((near, ..), (far, ..)) = (cost::spread(at_once), cost::spread(delayed));
    println!(
        "restore: {near:.0} MiB/s at once, {far:.0} MiB/s with {} ms per request: {:.2}",
        FAR.as_millis(),
        far / near
    );
    Ok(())
}

//! A backup over TLS beside a raw rustls reader.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use bodley_testbed::workloads::{BulkOptions, bulk};
use bodley_testbed::{Cluster, ClusterOptions, Door, Login, properties};

use crate::cost::{self, Cost};

const TOPIC: &str = "bulk";
const PARTITIONS: i32 = 4;

/// Sets a cluster up, measures in turns, prints one table.
pub fn run(mebibytes: u64, runs: usize, bodley: &Path, vaults: &Path) -> Result<()> {
    // Java encrypts at a decent pace only once it has compiled with all its means.
    let options = ClusterOptions::new().secured().jvm("-XX:TieredStopAtLevel=4").jvm("-Xmx1g");
    let cluster = Cluster::start(options.set("listener.name.tls.num.network.threads", "2"))?;
    let bench = cluster.workbench()?;
    bench.create_topic(TOPIC, PARTITIONS, &[])?;
    let load = BulkOptions { partitions: PARTITIONS, ..BulkOptions::default() };
    let records = bulk(&bench, TOPIC, mebibytes << 20, load)?;

    let work = tempfile::tempdir_in(vaults).context("make a folder for vaults")?;
    let ca = cluster.pki()?.ca();
    let settings = work.path().join("client.properties");
    fs::write(&settings, properties::text(&cluster.client_properties(Door::Ssl, &Login::Anonymous)?))?;
    let (plain, secure) = (cluster.bootstrap(), cluster.door(Door::Ssl)?);
    let drain = |address: &str, tls: bool| {
        let mut command = Command::new(std::env::current_exe().unwrap_or_default());
        command.args(["drain", "--topic", TOPIC, "--address", address, "--records", &records.to_string()]);
        if tls {
            command.arg("--ca").arg(&ca);
        }
        command
    };
    let vault = work.path().join("vault");
    let backup = |tls: bool| {
        let mut command = Command::new(bodley);
        command.args(["backup", "--quiet", "--topic", TOPIC, "--vault"]).arg(&vault);
        match tls {
            true => command.arg("--command-config").arg(&settings),
            false => command.args(["-b", &plain]),
        };
        command
    };
    let mut rows: Vec<(&str, Vec<Cost>)> =
        ["drain, plain", "drain, TLS", "bodley backup, plain", "bodley backup, TLS"]
            .map(|name| (name, Vec::new()))
            .into();
    // The first round warms everything up and is not counted.
    for round in 0..=runs {
        for (at, (_, costs)) in rows.iter_mut().enumerate() {
            let _ = fs::remove_dir_all(&vault);
            let mut command = match at {
                0 => drain(&plain, false),
                1 => drain(&secure, true),
                at => backup(at == 3),
            };
            let (cost, _) = cost::of(&mut command)?;
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    print(&rows, mebibytes as f64 / 1024.0, runs);
    Ok(())
}

fn print(rows: &[(&str, Vec<Cost>)], gibibytes: f64, runs: usize) {
    println!(
        "{gibibytes:.2} GiB in {PARTITIONS} partitions, batches of 256 KiB, medians of {runs} (least - most)\n"
    );
    println!("{:<22} {:>24} {:>30}", "", "MiB/s", "client's CPU-s/GiB");
    let mut cpu = Vec::new();
    for (name, costs) in rows {
        let (rate, slow, fast) =
            cost::spread(costs.iter().map(|cost| gibibytes * 1024.0 / cost.took.as_secs_f64()));
        let (middle, least, most) = cost::spread(costs.iter().map(|cost| cost.cpu / gibibytes));
        cpu.push(middle);
        println!("{name:<22} {rate:>8.0} ({slow:.0} - {fast:.0}) {middle:>16.2} ({least:.2} - {most:.2})");
    }
    if let [_, drained, _, backed_up] = cpu.as_slice() {
        println!("\nbackup over TLS / raw rustls reader, CPU: {:.2}", backed_up / drained);
    }
}

//! `cargo bench-e2e`: Bodley beside what else moves a topic. `cargo bench-tls`: what TLS costs a backup, beside a raw reader of the same bytes.

mod cost;
mod drain;
mod e2e;
mod fill;
mod payload;
mod reader;
mod s3;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures Bodley beside named baselines, in one run.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Backup, verify and restore beside raw readers, plain copies, Kafka's own tools and kcat.
    E2e(Box<e2e::Options>),
    /// A backup over TLS beside a raw rustls reader that throws the bytes away, and both in plain text.
    Tls {
        /// Size of the topic.
        #[arg(long, value_name = "MIB", default_value_t = 1024)]
        mebibytes: u64,
        /// Runs of each, in turns.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// A bodley of release quality.
        #[arg(long, value_name = "FILE", default_value = "target/release/bodley")]
        bodley: PathBuf,
        /// Where vaults are made and thrown away; on a file system in memory the copy into it adds to the cost.
        #[arg(long, value_name = "FOLDER", default_value = "target")]
        vaults: PathBuf,
    },
    /// A backup to S3 beside a raw loop of PUTs, and restores from stores near and far.
    S3(s3::Options),
    /// That loop, as a process of its own.
    #[command(hide = true)]
    Put(s3::Put),
    /// The raw reader, as a process of its own.
    #[command(hide = true)]
    Drain(drain::Drain),
    /// The plain copy, likewise.
    #[command(hide = true)]
    Copy(drain::Copy),
    /// What fills topics, likewise.
    #[command(hide = true)]
    Fill(fill::Fill),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().what {
        What::Tls { mebibytes, runs, bodley, vaults } => tls::run(mebibytes, runs, &bodley, &vaults)?,
        What::E2e(options) => e2e::run(&options)?,
        What::S3(options) => s3::run(&options)?,
        What::Put(put) => put.run()?,
        What::Drain(drain) => drain.run()?,
        What::Copy(copy) => copy.run()?,
        What::Fill(fill) => fill.run()?,
    }
    Ok(ExitCode::SUCCESS)
}

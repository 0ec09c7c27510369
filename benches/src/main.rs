//! `cargo bench-tls`: what TLS costs a backup, beside a raw reader of the same bytes with the same library.

mod cost;
mod drain;
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
    /// The raw reader, as a process of its own.
    #[command(hide = true)]
    Drain(drain::Drain),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().what {
        What::Tls { mebibytes, runs, bodley, vaults } => tls::run(mebibytes, runs, &bodley, &vaults)?,
        What::Drain(drain) => drain.run()?,
    }
    Ok(ExitCode::SUCCESS)
}

//! `cargo testbed`: clusters to play with, the whole test suite with its set-up, and a demo.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use bodley_testbed::jars::DEFAULT_VERSION;
use clap::{Parser, Subcommand, ValueEnum};

/// Real Kafka clusters on this machine, for tests and demos of Bodley.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster and keep it until Ctrl-C.
    Up {
        /// How many nodes, each a broker and a controller.
        #[arg(long, default_value_t = 1)]
        nodes: usize,
        /// The version of Apache Kafka.
        #[arg(long, default_value = DEFAULT_VERSION)]
        version: String,
        /// Add listeners with TLS, SASL and tokens of an OpenID provider, and write a client.properties for each.
        #[arg(long)]
        secure: bool,
        /// Create so many partitions in topics of up to 1,000, and write 1 KiB into each.
        #[arg(long, value_name = "N")]
        partitions: Option<u32>,
    },
    /// Write topics with every oddity that a legal log can have.
    Odd {
        /// The cluster to write to.
        #[arg(short, long, value_name = "HOST:PORT")]
        bootstrap_server: String,
        /// What the names of the topics start with.
        #[arg(long, default_value = "odd-")]
        prefix: String,
    },
    /// Read a topic with Apache's own client, one line of JSON per record.
    Dump {
        /// The cluster to read from.
        #[arg(short, long, value_name = "HOST:PORT")]
        bootstrap_server: String,
        /// The topic.
        #[arg(short, long)]
        topic: String,
        /// Which transactions the reader sees.
        #[arg(long, value_enum, default_value_t = IsolationArg::ReadCommitted)]
        isolation: IsolationArg,
        /// The file to write; standard output when none.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Set everything up and run all tests of the workspace, two test programs at a time.
    Test {
        /// Also run the long tests (sets BODLEY_SOAK=1).
        #[arg(long)]
        soak: bool,
        /// Arguments for cargo test, which then runs what they name.
        #[arg(last = true, value_name = "ARGS")]
        extra: Vec<String>,
    },
    /// Back up a cluster, wipe it, restore it, and compare every record.
    Demo {
        /// A bodley binary; built from this workspace when none is given.
        #[arg(long, value_name = "FILE")]
        bodley: Option<PathBuf>,
        /// The size of the largest topic.
        #[arg(long, value_name = "MIB", default_value_t = 64)]
        mebibytes: u64,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum IsolationArg {
    ReadCommitted,
    ReadUncommitted,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up { nodes, version, secure, partitions } => {
            commands::up(commands::Up { nodes, version, secure, partitions })
        }
        Command::Odd { bootstrap_server, prefix } => commands::odd(&bootstrap_server, &prefix),
        Command::Dump { bootstrap_server, topic, isolation, out } => {
            commands::dump(&bootstrap_server, &topic, isolation.into(), out)
        }
        Command::Test { soak, extra } => commands::test(soak, &extra),
        Command::Demo { bodley, mebibytes } => commands::demo::run(bodley, mebibytes),
    };
    done.unwrap_or_else(|failure| {
        eprintln!("testbed: {failure:#}");
        ExitCode::FAILURE
    })
}

impl From<IsolationArg> for bodley_testbed::Isolation {
    fn from(arg: IsolationArg) -> Self {
        match arg {
            IsolationArg::ReadCommitted => Self::Committed,
            IsolationArg::ReadUncommitted => Self::Uncommitted,
        }
    }
}

//! One file per command; here what they share.

mod backup;
mod cat;
mod cluster;
mod copy;
mod doctor;
mod groups;
mod list;
mod offset_map;
mod rebuild;
mod restore;
mod show;
mod status;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use bodley_engine::{Report, Selection};
use bodley_io::latency::Latencies;
use bodley_io::store::SharedStore;
use bodley_io::store::decorators::{Limit, Measured, Retry, Throttled};
use bodley_io::throttle::Throttle;

use crate::args::{Args, Command, Common, OutputFormat, Rate, TopicArgs, VaultsArg};
use crate::ended::Ended;
use crate::output;
use crate::vault::{self, VaultOption};

use cluster::open_cluster;

/// Result of a command: its exit code.
type Outcome = Result<u8, Box<Ended>>;

/// Operations of a disk at a time; uploads aside.
const STORE_OPERATIONS: usize = 32;
const STORE_GIVES_UP_AFTER: Duration = Duration::from_secs(60);

/// Runs a command to its exit code.
pub async fn run(args: Args) -> u8 {
    let format = args.common.output;
    let name = args.command.name();
    let outcome = match args.command {
        Command::Backup(flags) => backup::run(flags, &args.common).await,
        Command::Verify(flags) => verify::run(flags, &args.common).await,
        Command::Restore(flags) => restore::run(*flags, &args.common).await,
        Command::Rebuild(flags) => rebuild::run(flags, &args.common).await,
        Command::Copy(flags) => copy::run(flags, &args.common).await,
        Command::Doctor(flags) => doctor::run(flags, &args.common).await,
        Command::Cat(flags) => cat::run(flags, &args.common).await,
        Command::List(flags) => list::run(flags, &args.common).await,
        Command::Status(flags) => status::run(flags, &args.common).await,
        Command::Show(flags) => show::run(flags, &args.common).await,
        Command::Groups(flags) => groups::run(flags, &args.common).await,
        Command::Completions { shell } => completions(shell),
    };
    match outcome {
        Ok(code) => code,
        Err(ended) => {
            output::print_failure(format, name, &ended);
            ended.exit_code()
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut command = <Args as clap::CommandFactory>::command();
    // Into memory first: the generator panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "bodley", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end());
    Ok(0)
}

fn throttle(rate: Option<Rate>) -> Option<Arc<Throttle>> {
    rate.map(|Rate(bytes)| Arc::new(Throttle::new(bytes)))
}

/// A vault as a command names it.
#[derive(Clone, Copy)]
struct Named<'a> {
    url: &'a str,
    options: &'a [VaultOption],
    /// By which these were typed.
    flag: &'static str,
    /// The user says that only ever one run writes.
    single_writer: bool,
}

impl<'a> Named<'a> {
    /// The vault of `--vault`.
    fn vault(url: &'a str, common: &'a Common) -> Self {
        Self { url, options: &common.vault_options, flag: "--vault-option", single_writer: false }
    }
}

/// The stores of two vaults, and what is to be said about them.
struct Pair {
    source: SharedStore,
    target: SharedStore,
    note: Option<String>,
}

impl Pair {
    fn open(vaults: &VaultsArg, common: &Common, latencies: &Arc<Latencies>) -> Result<Self, Box<Ended>> {
        let from = Named::vault(&vaults.vault.vault, common);
        let to = Named {
            url: &vaults.to_vault,
            options: &vaults.to_vault_options,
            flag: "--to-vault-option",
            single_writer: vaults.writers.single_writer,
        };
        let source = open_measured(from, vaults.limit_read, None, latencies)?;
        let target = open_measured(to, None, vaults.limit_write, latencies)?;
        // It says nothing to a store that settles races by itself.
        let note = (to.single_writer && target.decides_races()).then(|| {
            format!("--single-writer is not needed for {}: it settles races by itself", target.url())
        });
        Ok(Self { source, target, note })
    }
}

/// The store of the vault that is read, with its policies around it.
fn open_store(url: &str, common: &Common) -> Result<SharedStore, Box<Ended>> {
    open_measured(Named::vault(url, common), None, None, &Arc::default())
}

/// The same of any vault; how long it takes to read and write is recorded, what limits and retries wait aside.
fn open_measured(
    named: Named<'_>,
    read: Option<Rate>,
    write: Option<Rate>,
    latencies: &Arc<Latencies>,
) -> Result<SharedStore, Box<Ended>> {
    let vault::Opened { store, is_remote } =
        vault::open(named.url, (named.options, named.flag), named.single_writer).map_err(usage)?;
    let mut store: SharedStore = Arc::new(Measured::new(store, Arc::clone(latencies)));
    if read.is_some() || write.is_some() {
        store = Arc::new(Throttled::new(store, throttle(read), throttle(write)));
    }
    if is_remote {
        return Ok(store);
    }
    let store: SharedStore = Arc::new(Retry::new(store, STORE_GIVES_UP_AFTER));
    Ok(Arc::new(Limit::new(store, STORE_OPERATIONS)))
}

fn usage(message: String) -> Box<Ended> {
    Box::new(Ended::usage(message))
}

fn selection(arg: TopicArgs) -> Selection {
    Selection { topics: arg.topics, exclude: arg.exclude, include_internal: arg.include_internal }
}

/// Prints a report in the form asked for.
fn finish(common: &Common, command: &str, code: u8, report: &Report, summary: &str) {
    if common.verbose > 0 {
        output::print_latency(&report.latency);
    }
    match common.output {
        OutputFormat::Json => output::print_json(command, code, report),
        OutputFormat::Text => output::print_report(report, summary),
    }
}

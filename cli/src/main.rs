//! The binary `bodley`: flags to engine, results to a terminal or a program.

mod args;
mod client;
mod commands;
mod config;
mod ended;
mod files;
mod limits;
mod output;
mod progress;
mod records;
mod signals;
mod vault;

use std::borrow::Cow;
use std::process::ExitCode;

use bodley_engine::Issue;
use bodley_engine::error::Severity;

use args::{Args, OutputFormat};
use config::{Refused, Why};

fn main() -> ExitCode {
    let args = match config::parse(std::env::args_os().collect(), std::env::var_os("BODLEY_CONFIG")) {
        Ok(args) => args,
        Err(refused) => return usage(&refused),
    };
    init_logging(args.common.verbose);
    let started = limits::open_files().and_then(|()| limits::address_space()).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map_err(|error| format!("cannot start: {error}"))
    });
    let runtime = match started {
        Ok(runtime) => runtime,
        Err(message) => return not_started(&args, message),
    };
    let code = runtime.block_on(commands::run(args));
    // Unfinished files of an abandoned run are removed; a disk that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(3));
    ExitCode::from(output::exit_code(code))
}

fn not_started(args: &Args, message: String) -> ExitCode {
    let issue = Issue::new("system", Severity::Failed, message);
    output::print_failure(args.common.output, args.command.name(), &ended::Ended::from(issue));
    ExitCode::from(Severity::Failed.exit_code())
}

/// Help goes to stdout, errors to stderr; a program that asked for JSON gets its one document.
fn usage(refused: &Refused) -> ExitCode {
    let words: Vec<_> = refused.words.iter().map(|word| word.to_string_lossy()).collect();
    let json = words.iter().any(|word| word == "--output=json")
        || words
            .windows(2)
            .any(|pair| matches!(pair, [flag, value] if flag == "--output" && value == "json"));
    let message = match &refused.why {
        Why::File(message) => {
            if !json {
                output::print_failure(OutputFormat::Text, "", &ended::Ended::usage(message.as_str()));
            }
            message.clone()
        }
        Why::Clap(error) => {
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
            let message = error.render().to_string();
            let first: Vec<&str> =
                message.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            first.join(" ").trim_start_matches("error: ").to_owned()
        }
    };
    if json {
        let commands = <Args as clap::CommandFactory>::command();
        let is_command =
            |word: &&Cow<'_, str>| commands.get_subcommands().any(|c| c.get_name() == word.as_ref());
        let command = words.iter().find(is_command).map_or("", |word| word.as_ref());
        output::print_failure(OutputFormat::Json, command, &ended::Ended::usage(message));
    }
    ExitCode::from(2)
}

fn init_logging(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "warn",
        1 => {
            "bodley=info,bodley_engine=info,bodley_io=info,bodley_protocol=info,bodley_storage_rest=info,warn"
        }
        // What the HTTP library does with its connections is of no use to anybody.
        _ => "debug,hyper_util=info,reqwest=info",
    };
    let filter = EnvFilter::try_from_env("BODLEY_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
}

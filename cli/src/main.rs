//! The binary `bodley`: flags to engine, results to a terminal or a program.

mod args;
mod commands;
mod ended;
mod output;
mod progress;
mod signals;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, OutputFormat};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    init_logging(args.common.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bodley: cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    let code = runtime.block_on(commands::run(args));
    // Blocking file work of an abandoned run must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Help goes to stdout, errors to stderr; a program that asked for JSON gets its one document.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let args: Vec<String> = std::env::args().collect();
    let json = args.iter().any(|arg| arg == "--output=json")
        || args.windows(2).any(|pair| matches!(pair, [flag, value] if flag == "--output" && value == "json"));
    if json {
        let message = error.render().to_string();
        let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let command = args.get(1).cloned().unwrap_or_default();
        output::print_failure(OutputFormat::Json, &command, &ended::Ended::usage(first));
    }
    ExitCode::from(2)
}

fn init_logging(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "warn",
        1 => "bodley=info,bodley_engine=info,bodley_io=info,bodley_protocol=info,warn",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("BODLEY_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
}

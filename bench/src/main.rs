//! Benchmarks of hither's channel beside others: `cargo run --release -p hither-bench -- help`.

mod calls;
mod client;
mod codec;
mod count;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What ends a benchmark early.
type Error = Box<dyn std::error::Error + Send + Sync>;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Benchmarks of hither's channel beside others.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a number of calls on one thread, for callgrind and strace.
    Count(count::Arguments),
    /// Serves until the standard input ends: started by the other commands.
    Server(server::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Count(arguments) => count::run(&arguments),
        Command::Server(arguments) => server::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hither-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

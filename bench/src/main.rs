//! Benchmarks of hither's channel beside others: `cargo run --release -p hither-bench -- help`.

mod calls;
mod cell;
mod change;
mod client;
mod codec;
mod compare;
mod count;
mod limits;
mod memory;
mod server;
mod tls;

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
    /// Compares the calls per second of channels, and prints a table of ratios.
    Compare(Box<compare::Arguments>),
    /// Changes a service of many instances, one at a time and many at once.
    Change(change::Arguments),
    /// Makes a number of calls on one thread, for callgrind and strace.
    Count(count::Arguments),
    /// Measures the memory of connections.
    Memory(memory::Arguments),
    /// Serves until the standard input ends: started by the other commands.
    Server(server::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Change(arguments) => change::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Count(arguments) => count::run(&arguments),
        Command::Memory(arguments) => memory::run(&arguments),
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

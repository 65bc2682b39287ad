//! What the command-line programs share: arguments, output and exit codes.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use hither::{RegistryUrl, ServiceName, parse_duration, report};

use crate::logging;

/// The registry and the service, the same for servers and clients.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The registry: etcd://host:port,host:port/prefix, or static://host:port,host:port for a list of addresses
    #[arg(long, value_name = "URL", default_value = "etcd://127.0.0.1:2379", value_parser = RegistryUrlParser)]
    pub registry: RegistryUrl,
    /// The name under which the service is registered
    #[arg(long, value_name = "NAME", default_value = "grpc-demo/grpc/discover-demo")]
    pub service: ServiceName,
}

/// Parses `--registry`. clap's own parsers repeat an invalid value, which may contain a password.
#[derive(Debug, Clone, Copy)]
struct RegistryUrlParser;

impl TypedValueParser for RegistryUrlParser {
    type Value = RegistryUrl;

    fn parse_ref(
        &self,
        _: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<RegistryUrl, clap::Error> {
        value.to_string_lossy().parse().map_err(|error: hither::Error| {
            let message = format!("invalid value for '--registry <URL>': {}", error.report());
            clap::Error::raw(ErrorKind::ValueValidation, message)
        })
    }
}

/// Parses a duration such as `100ms`, `1.5s` or `1m30s`.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.message().to_owned())
}

/// Why a program ends, and its exit code.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The input cannot be used, or no server is ready: exit code 2.
    pub fn usage(error: &(dyn Error + 'static)) -> Self {
        Self::usage_message(report(error))
    }

    /// As [`usage`](Self::usage), with a message instead of an error.
    pub fn usage_message(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// The program failed while it ran: exit code 1.
    pub fn failed(error: &(dyn Error + 'static)) -> Self {
        Self { message: report(error), code: 1 }
    }
}

/// Parses the arguments, runs the program on a Tokio runtime, and returns its exit code. A failure is one line on
/// stderr.
pub fn run<A: Parser, F: Future<Output = Result<ExitCode, Failure>>>(
    program: impl FnOnce(A) -> F,
) -> ExitCode {
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // A closed stdout is no failure of --help.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            // The error without the usage: one line, whatever was typed.
            let text = error.to_string();
            let message = text.split("\n\n").next().unwrap_or("error: invalid arguments");
            eprint(one_line(message));
            return ExitCode::from(2);
        }
    };
    logging::init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprint(format_args!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(program(arguments)).unwrap_or_else(|failure| {
        eprint(format_args!("error: {}", one_line(&failure.message)));
        ExitCode::from(failure.code)
    });
    // Without waiting for a host name that is still being resolved.
    runtime.shutdown_background();
    code
}

/// Replaces each run of white space, also line breaks, by one space.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Prints a line on stdout. A closed stdout does not end the program.
pub fn print(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line about the state of the program on stderr.
pub fn eprint(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

//! What the command-line programs have in common: arguments, and how they end.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use hither_core::{ServiceName, report};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use tracing_subscriber::filter::LevelFilter;

/// Where the service is found, for both sides.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The registry: etcd://host:port, further nodes after commas
    #[arg(long, value_name = "URL", default_value = "etcd://127.0.0.1:2379")]
    pub registry: RegistryUrl,
    /// The name under which the service is registered
    #[arg(long, value_name = "NAME", default_value = "grpc-demo/grpc/discover-demo")]
    pub service: ServiceName,
}

/// The URL of a registry; printed as given, but without user and password.
#[derive(Debug, Clone)]
pub struct RegistryUrl {
    text: String,
    options: EtcdConfig,
}

impl RegistryUrl {
    /// The registry. Nothing is sent yet: it need not be there.
    ///
    /// # Errors
    /// What the backend says.
    pub fn connect(&self) -> hither_core::Result<EtcdRegistry> {
        EtcdRegistry::connect(self.options.clone())
    }
}

impl std::str::FromStr for RegistryUrl {
    type Err = hither_core::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let options = text.parse()?;
        // What is shown has no password in it.
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
        let secret = authority.rfind('@').map_or(0, |at| at + 1);
        let shown = format!("{scheme}://{}", &rest[secret..]);
        Ok(Self { text: shown, options })
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A duration with its unit, such as `100ms` or `2s`.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error} (expected such as 100ms, 2s or 1m)"))
}

/// Why a program ends, and with which exit code.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The input cannot be used, or nobody is there: exit code 2.
    pub fn usage(error: &(dyn Error + 'static)) -> Self {
        Self::usage_line(report(error))
    }

    /// As [`usage`](Self::usage), in our own words.
    pub fn usage_line(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// It failed at its work: exit code 1.
    pub fn at_work(error: &(dyn Error + 'static)) -> Self {
        Self { message: report(error), code: 1 }
    }
}

/// Parses the arguments, runs the program on a Tokio runtime, and gives its exit code; what goes wrong is one line
/// on stderr.
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
            // The complaint without the usage: one line, whatever was typed.
            let text = error.to_string();
            let complaint = text.split("\n\n").next().unwrap_or("error: bad arguments");
            note(one_line(complaint));
            return ExitCode::from(2);
        }
    };
    log_if_asked();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(format_args!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(program(arguments)).unwrap_or_else(|failure| {
        note(format_args!("error: {}", one_line(&failure.message)));
        ExitCode::from(failure.code)
    });
    // A name that is still being looked up holds nobody up.
    runtime.shutdown_background();
    code
}

/// Whatever it has in it, one line.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One line for the user, on stdout. That nobody reads it is no reason to stop.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// One line about what is going on, on stderr.
pub fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// `RUST_LOG=info` (or `debug`, …) shows what the libraries do; without it they are silent, and the programs say
/// what a user has to know.
fn log_if_asked() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse::<LevelFilter>().ok());
    if let Some(level) = level {
        tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).init();
    }
}

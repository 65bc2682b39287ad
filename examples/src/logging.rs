//! Logs of the libraries, as `RUST_LOG` selects them.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Logs to stderr what `RUST_LOG` selects, such as `info` or `hither_core=debug`; nothing when it is not set, because
/// the programs print what a user has to know. Colours only on a terminal, and not with `NO_COLOR`.
pub fn init() {
    if env::var_os(EnvFilter::DEFAULT_ENV).is_none_or(|filter| filter.is_empty()) {
        return;
    }
    let filter = match EnvFilter::try_from_default_env() {
        Ok(filter) => filter,
        Err(error) => return eprintln!("RUST_LOG is ignored: {error}"),
    };
    let has_colours =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(has_colours);
    if let Err(error) = logs.try_init() {
        eprintln!("RUST_LOG is ignored: {error}");
    }
}

//! Running other programs, each printed before it runs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;

/// One run of a program.
#[derive(Debug)]
pub(crate) struct Step {
    command: Command,
    variables: BTreeMap<String, String>,
    text: String,
}

impl Step {
    /// The cargo that runs this program.
    pub(crate) fn cargo(directory: &Path) -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), directory)
            .displayed_as("cargo")
    }

    pub(crate) fn new(program: impl AsRef<OsStr>, directory: &Path) -> Self {
        let mut command = Command::new(program.as_ref());
        command.current_dir(directory);
        Self { command, variables: BTreeMap::new(), text: program.as_ref().display().to_string() }
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        for argument in arguments {
            self.text.push_str(&format!(" {}", argument.as_ref().display()));
            self.command.arg(argument);
        }
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.to_owned(), format!("{:?} ", value.as_ref().display().to_string()));
        self.command.env(name, value);
        self
    }

    pub(crate) fn envs(self, all: impl IntoIterator<Item = (&'static str, impl AsRef<OsStr>)>) -> Self {
        all.into_iter().fold(self, |step, (name, value)| step.env(name, value))
    }

    /// Sets how the program is named in messages.
    pub(crate) fn displayed_as(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// Asks the program for English output, for those whose output is parsed.
    pub(crate) fn in_english(mut self) -> Self {
        self.command.env("LC_ALL", "C");
        self
    }

    /// Prints the command line, runs it, and prints how long it took; an error has the program's exit code.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        eprintln!("==> {}", self.display());
        let started = now();
        let status = self.command.status().map_err(|error| self.cannot_start(&error))?;
        eprintln!("    took {:.1} s", started.elapsed().as_secs_f64());
        if status.success() {
            return Ok(());
        }
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Err(Error::new(format!("`{}` failed: {status}", self.display())).with_code(code))
    }

    /// Runs it quietly, and returns its standard output; an error has its standard error.
    pub(crate) fn output(mut self) -> Result<String, Error> {
        let output = self.command.stdin(Stdio::null()).output().map_err(|error| self.cannot_start(&error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(Error::new(format!("`{}` failed: {}: {}", self.display(), output.status, stderr.trim())))
    }

    /// Returns the command line as it would be typed.
    fn display(&self) -> String {
        let variables = self.variables.iter().map(|(name, value)| format!("{name}={value}"));
        variables.chain([self.text.clone()]).collect()
    }

    fn cannot_start(&self, error: &std::io::Error) -> Error {
        Error::new(format!("`{}` cannot be started: {error}", self.display()))
    }
}

#[allow(clippy::disallowed_types, reason = "this is no async code, and measures real time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Step {
        Step::new("sh", Path::new("/")).args(["-c", script])
    }

    #[test]
    fn an_error_has_the_exit_code_of_the_program() {
        assert_eq!(shell("exit 101").run().unwrap_err().code(), 101);
        assert_eq!(shell("kill -9 $$").run().unwrap_err().code(), 1, "a signal has none");
        assert_eq!(Step::new("/nowhere", Path::new("/")).run().unwrap_err().code(), 1);
    }

    #[test]
    fn output_is_the_standard_output_or_an_error_with_the_standard_error() {
        assert_eq!(shell("echo out; echo err >&2").output().unwrap(), "out\n");
        let error = shell("echo out; echo err >&2; exit 3").output().unwrap_err().to_string();
        assert!(error.ends_with("err"), "{error}");
    }

    #[test]
    fn the_environment_is_part_of_what_is_printed() {
        let step = Step::new("cargo", Path::new("/")).args(["doc"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(step.display(), "RUSTDOCFLAGS=\"-D warnings\" cargo doc");
        let step = step.env("ETCD_BIN", "/old").env("ETCD_BIN", "/new");
        assert_eq!(step.display(), "ETCD_BIN=\"/new\" RUSTDOCFLAGS=\"-D warnings\" cargo doc");
    }
}

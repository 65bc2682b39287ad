//! Running other programs, visibly.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Why a command of ours ends, and with which exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    code: u8,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), code: 1 }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { what: what.into(), code: 2 }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// One program run.
#[derive(Debug)]
pub(crate) struct Step {
    command: Command,
    text: String,
}

impl Step {
    /// The cargo that runs us.
    pub(crate) fn cargo(directory: &Path) -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), directory).said_as("cargo")
    }

    pub(crate) fn new(program: impl AsRef<OsStr>, directory: &Path) -> Self {
        let mut command = Command::new(program.as_ref());
        command.current_dir(directory);
        Self { command, text: program.as_ref().display().to_string() }
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        for argument in arguments {
            self.text.push_str(&format!(" {}", argument.as_ref().display()));
            self.command.arg(argument);
        }
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.text = format!("{name}={:?} {}", value.as_ref().display().to_string(), self.text);
        self.command.env(name, value);
        self
    }

    pub(crate) fn envs(self, all: impl IntoIterator<Item = (&'static str, impl AsRef<OsStr>)>) -> Self {
        all.into_iter().fold(self, |step, (name, value)| step.env(name, value))
    }

    /// Says it shorter.
    pub(crate) fn said_as(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// For programs whose words we read.
    pub(crate) fn in_english(mut self) -> Self {
        self.command.env("LC_ALL", "C");
        self
    }

    /// Says what it runs, and runs it; a failure has the program's exit code.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        eprintln!("==> {}", self.text);
        let status = self.command.status().map_err(|error| self.cannot_start(&error))?;
        if status.success() {
            return Ok(());
        }
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Err(Failure { what: format!("`{}` failed: {status}", self.text), code })
    }

    /// Runs it in silence, and gives what it printed; a failure has its last words.
    pub(crate) fn output(mut self) -> Result<String, Failure> {
        let output = self.command.stdin(Stdio::null()).output().map_err(|error| self.cannot_start(&error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!("`{}` failed: {}: {}", self.text, output.status, words.trim())))
    }

    fn cannot_start(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("`{}` cannot be started: {error}", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Step {
        Step::new("sh", Path::new("/")).args(["-c", script])
    }

    #[test]
    fn a_failure_has_the_exit_code_of_the_program() {
        assert_eq!(shell("exit 101").run().unwrap_err().code(), 101);
        assert_eq!(shell("kill -9 $$").run().unwrap_err().code(), 1, "a signal has none");
        assert_eq!(Step::new("/nowhere", Path::new("/")).run().unwrap_err().code(), 1);
    }

    #[test]
    fn output_is_what_was_printed_or_the_last_words() {
        assert_eq!(shell("echo out; echo err >&2").output().unwrap(), "out\n");
        let failure = shell("echo out; echo err >&2; exit 3").output().unwrap_err().to_string();
        assert!(failure.ends_with("err"), "{failure}");
    }

    #[test]
    fn the_environment_is_part_of_what_is_said() {
        let step = Step::new("cargo", Path::new("/")).args(["doc"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(step.text, "RUSTDOCFLAGS=\"-D warnings\" cargo doc");
    }
}

//! The error of all commands.

use std::fmt;
use std::io;
use std::path::Path;

/// What failed, and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    code: u8,
}

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// A command line that cannot be understood: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// A file that cannot be read, created, written, …: `verb` names it.
    pub(crate) fn io(verb: &str, file: &Path, error: &io::Error) -> Self {
        Self::new(format!("cannot {verb} {}: {error}", file.display()))
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

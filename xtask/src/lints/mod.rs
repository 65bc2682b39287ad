//! Checks of our own, for what no lint of rustc, clippy or Cargo finds.

mod import_cycles;
mod links;
mod log_effects;
mod packaging;
mod rust_version;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::metadata::Metadata;

/// Runs them all, and prints every finding; any is an error.
pub(crate) fn run(root: &Path, metadata: &Metadata) -> Result<(), Error> {
    let folders: Vec<_> = metadata.members().map(|member| member.folder().to_owned()).collect();
    let mut findings = log_effects::find(root, &folders)?;
    for folder in &folders {
        findings.extend(import_cycles::find(root, &folder.join("src"))?);
    }
    findings.extend(links::find(root, &folders)?);
    findings.extend(rust_version::find(root, metadata)?);
    findings.extend(packaging::find(root, metadata)?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() { Ok(()) } else { Err(Error::new(format!("{} findings", findings.len()))) }
}

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// Relative to the top of the workspace.
    file: PathBuf,
    /// 0 is the file as a whole.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.message),
        }
    }
}

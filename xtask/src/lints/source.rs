//! Rust source files as token trees.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;

use crate::error::Error;

/// A source file of the workspace.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the top of the workspace.
    pub(crate) file: PathBuf,
    pub(crate) tokens: TokenStream,
}

/// The Rust files below a folder, in order. `target` folders are left out.
pub(crate) fn below(root: &Path, folder: &Path) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    collect(root, folder, &mut sources)?;
    Ok(sources)
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(|error| Error::io("read", folder, &error))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(root, &path, sources)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
            let tokens = parse(&text).map_err(|why| Error::new(format!("{}:{why}", path.display())))?;
            let file = path.strip_prefix(root).unwrap_or(&path).to_owned();
            sources.push(Source { file, tokens });
        }
    }
    Ok(())
}

/// Reads one file; the error begins with the line.
pub(crate) fn parse(text: &str) -> Result<TokenStream, String> {
    text.parse().map_err(|error: proc_macro2::LexError| format!("{}: {error}", error.span().start().line))
}

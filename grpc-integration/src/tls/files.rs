//! The content of files at one moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// More than any bundle of certificates has. A device file has no end.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Files and what was in them when they were read.
///
/// They are compared by content: the time of a file may stay the same when it is replaced, and where files are links
/// to links, as Kubernetes mounts secrets, the link itself never changes.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Files(BTreeMap<PathBuf, Result<Vec<u8>, io::ErrorKind>>);

impl Files {
    /// Reads all of them. Blocks.
    pub(crate) fn read<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let content = |path: &PathBuf| (path.clone(), content(path).map_err(|error| error.kind()));
        Self(paths.into_iter().map(content).collect())
    }

    /// # Errors
    /// `InvalidArgument` for a file that could not be read.
    pub(super) fn content(&self, path: &Path, what: &str) -> Result<&[u8]> {
        match self.0.get(path) {
            Some(Ok(content)) => Ok(content),
            Some(Err(kind)) => {
                Err(Error::invalid_argument(format!("{what} {} cannot be read: {kind}", path.display())))
            }
            None => Err(Error::invalid_argument(format!("{what} {} was not read", path.display()))),
        }
    }
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_equal_content_is_equal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let absent = Files::read([&path]);
        let error = absent.content(&path, "the CA").unwrap_err().to_string();
        assert_eq!(error, format!("the CA {} cannot be read: entity not found", path.display()));
        std::fs::write(&path, "1").unwrap();
        let first = Files::read([&path]);
        assert!(first != absent && first.content(&path, "the CA").unwrap() == b"1");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "1").unwrap();
        assert!(Files::read([&path]) == first);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_without_an_end_is_an_error() {
        let path = PathBuf::from("/dev/zero");
        let error = Files::read([&path]).content(&path, "the CA").unwrap_err().to_string();
        assert_eq!(error, "the CA /dev/zero cannot be read: file too large");
    }
}

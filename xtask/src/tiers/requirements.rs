//! What `ci` needs and does not install by itself, so that all that is missing is known before anything runs.

use std::ffi::OsString;
use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::tools::{Tools, go};

/// One error that names all that is missing, each with where to get it.
pub(super) fn check(root: &Path) -> Result<(), Error> {
    let compiler = std::env::var_os("CC").filter(|compiler| !compiler.is_empty());
    let compiler = compiler.unwrap_or_else(|| OsString::from("cc"));
    let component = |name: &str, package: &str| {
        let version = Step::cargo(root).args([name, "--version"]).output();
        version
            .err()
            .map(|_| Error::new(format!("cargo {name} is missing: `rustup component add {package}`")))
    };
    let missing = [
        component("fmt", "rustfmt"),
        component("clippy", "clippy"),
        Tools::lacks(root),
        go::lacks(root),
        Step::new(&compiler, root).args(["--version"]).output().err().map(|_| {
            let compiler = compiler.display();
            Error::new(format!("the C compiler `{compiler}` is missing: install one, or name it in CC"))
        }),
    ];
    all_met(missing.into_iter().flatten())
}

fn all_met(missing: impl Iterator<Item = Error>) -> Result<(), Error> {
    let missing: String =
        missing.map(|error| format!("\n- {}", error.to_string().replace('\n', "\n  "))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("`ci` lacks:{missing}\n`cargo xtask test` needs no Go.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_in_one_error() {
        assert!(all_met([].into_iter()).is_ok());
        let missing =
            ["x/go.mod needs Go 1.26", "the C compiler `cc` is missing:\ninstall one"].map(Error::new);
        let error = all_met(missing.into_iter()).unwrap_err().to_string();
        for part in ["- x/go.mod needs Go 1.26\n", "- the C compiler `cc` is missing:\n  install one\n"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

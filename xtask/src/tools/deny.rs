//! cargo-deny, which checks the licences, bans and sources of dependencies.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Step;
use crate::error::Error;

/// One version, so that the result depends on this workspace alone.
const VERSION: &str = "0.20.2";

/// Returns the program, and installs it into `target/tools` if it is missing: 50 seconds on two cores without
/// optimisation, which would take several minutes, for a program that runs for a second.
pub(crate) fn ensure(root: &Path) -> Result<PathBuf, Error> {
    let tools = root.join("target/tools");
    let installed = tools.join("bin/cargo-deny");
    if is_right(&installed, root) {
        return Ok(installed);
    }
    let in_path = PathBuf::from("cargo-deny");
    if is_right(&in_path, root) {
        return Ok(in_path);
    }
    let build = tools.join("build");
    Step::cargo(root)
        .args([
            "install",
            "cargo-deny",
            "--version",
            VERSION,
            "--locked",
            "--debug",
            "--force",
            "--quiet",
            "--root",
        ])
        .args([&tools, Path::new("--target-dir"), &build])
        .run()?;
    fs::remove_dir_all(&build).map_err(|error| Error::io("remove", &build, &error))?;
    Ok(installed)
}

fn is_right(program: &Path, root: &Path) -> bool {
    let version = Step::new(program, root).args(["--version"]).output();
    version.is_ok_and(|version| version.trim() == format!("cargo-deny {VERSION}"))
}

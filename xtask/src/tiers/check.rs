//! What to run before each commit: under two minutes when warm.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::lints;
use crate::metadata::Metadata;
use crate::tools::{Tools, deny};

/// Tests that `cargo test` does not run, so that `--all-targets` does not include them.
const EXPLICIT_TESTS: [(&str, &str); 2] = [("hither-etcd", "faults"), ("hither-examples", "interop")];

/// All packages but the benchmarks, whose dependencies are many: `ci` checks them.
pub(super) const WITHOUT_BENCH: [&str; 3] = ["--workspace", "--exclude", "hither-bench"];

/// An application that is no member of the workspace.
pub(super) const APPLICATION: [&str; 2] = ["--manifest-path", "examples/standalone/Cargo.toml"];

pub(crate) fn run(root: &Path) -> Result<(), Error> {
    without_tests(root)?;
    let unit_tests = ["test", "--all-features", "--lib", "--bins"];
    Step::cargo(root).args(unit_tests).args(WITHOUT_BENCH).run()?;
    Step::cargo(root).args(["test", "--all-features", "--doc"]).args(WITHOUT_BENCH).run()
}

/// Runs all but the tests, since `ci` runs all tests.
pub(super) fn without_tests(root: &Path) -> Result<(), Error> {
    let cargo = |arguments: &[&str]| Step::cargo(root).args(arguments);
    Tools::ensure_for_build(root)?;
    let deny = deny::ensure(root)?;
    let metadata = Metadata::load(root)?;

    cargo(&["fmt", "--all", "--check"]).run()?;
    cargo(&["fmt", "--check"]).args(APPLICATION).run()?;
    // Its lock file has to follow the dependencies of the members.
    cargo(&["metadata", "--locked", "--format-version=1"]).args(APPLICATION).output()?;
    lints::run(root, &metadata)?;
    // Advisories are left out: they need a network, and change without a change of ours.
    let checks = ["--offline", "--locked", "--log-level=error", "check", "licenses", "bans", "sources"];
    Step::new(deny, root).displayed_as("cargo deny").args(checks).run()?;
    let clippy = cargo(&["clippy", "--all-targets", "--all-features"]).args(WITHOUT_BENCH);
    clippy.args(["--", "-D", "warnings"]).run()?;
    for (package, target) in EXPLICIT_TESTS {
        let clippy = ["clippy", "-p", package, "--all-features", "--test", target, "--", "-D", "warnings"];
        cargo(&clippy).run()?;
    }
    cargo(&["doc", "--all-features", "--no-deps"])
        .args(WITHOUT_BENCH)
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()
}

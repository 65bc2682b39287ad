//! What has to hold before a change goes in.

use std::path::Path;

use serde_json::Value;

use crate::command::{Failure, Step};
use crate::tools::{Tools, go};
use crate::{faults, interop};

pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let cargo = |arguments: &[&str]| Step::cargo(root).args(arguments);
    let tools = Tools::ensure(root)?;
    tools.announce();

    // Locked, so that a manifest which Cargo.lock does not know of is found here.
    let metadata = cargo(&["metadata", "--locked", "--no-deps", "--format-version=1"]).output()?;
    let packages = packages(&metadata)?;

    cargo(&["fmt", "--all", "--check"]).run()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]).run()?;
    // No part of all targets, because it is no part of `cargo test`.
    let faults = ["clippy", "-p", "hither-etcd", "--all-features", "--test", "faults"];
    cargo(&faults).args(["--", "-D", "warnings"]).run()?;
    for package in &packages {
        // Without tests, whose dependencies may bring features of their own.
        let clippy = ["clippy", "-p", &package.name, "--no-default-features"];
        cargo(&clippy).args(["--", "-D", "warnings"]).run()?;
        for feature in &package.features {
            cargo(&clippy).args(["--features", feature, "--", "-D", "warnings"]).run()?;
        }
    }
    cargo(&["doc", "--workspace", "--all-features", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").run()?;
    cargo(&["xtask", "test"]).run()?;
    // What depends on the version of etcd, on a newer one.
    let etcd = go::etcd(root)?;
    cargo(&["xtask", "test", "-p", "hither-etcd", "--tests"]).env("ETCD_BIN", etcd).run()?;
    // And what depends on progress answers, on one that may never give any: etcd-io/etcd#17507.
    let silent = ["--test", "conformance", "--test", "silence", "--test", "watch"];
    let etcd = go::silent_etcd(root)?;
    cargo(&["xtask", "test", "-p", "hither-etcd"]).args(silent).env("ETCD_BIN", etcd).run()?;
    // A minute of random keys and values.
    let properties =
        ["test", "-p", "hither-etcd", "--all-features", "--lib", "properties", "--", "--nocapture"];
    cargo(&properties).env("PROPTEST_CASES", "20000").run()?;
    cargo(&["quickstart"]).run()?;
    faults::run(root, &[], 1)?;
    interop::run(root)
}

/// That, and what takes too long for every change.
pub(crate) fn nightly(root: &Path) -> Result<(), Failure> {
    run(root)?;
    faults::run(root, &[], 3)?;
    Step::cargo(root).args(["bench", "-p", "hither-etcd"]).run()
}

#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    features: Vec<String>,
}

/// The packages of the workspace, as `cargo metadata` lists them.
fn packages(metadata: &str) -> Result<Vec<Package>, Failure> {
    let unreadable =
        |why: &dyn std::fmt::Display| Failure::new(format!("`cargo metadata` cannot be read: {why}"));
    let metadata: Value = serde_json::from_str(metadata).map_err(|error| unreadable(&error))?;
    let packages = metadata["packages"].as_array().ok_or_else(|| unreadable(&"it has no packages"))?;
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().ok_or_else(|| unreadable(&"a package has no name"))?;
            let features = package["features"].as_object().into_iter().flat_map(|features| features.keys());
            Ok(Package { name: name.to_owned(), features: features.cloned().collect() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_with_their_features() {
        let metadata = r#"{"packages": [
            {"name": "hither-core", "features": {"conformance": ["tokio/macros"], "mock": ["dep:mockall"]}},
            {"name": "xtask", "features": {}}
        ]}"#;
        let core =
            Package { name: "hither-core".into(), features: vec!["conformance".into(), "mock".into()] };
        let xtask = Package { name: "xtask".into(), features: vec![] };
        assert_eq!(packages(metadata).unwrap(), [core, xtask]);
    }

    #[test]
    fn unreadable_metadata_is_a_failure() {
        for bad in ["", "{}", r#"{"packages": [{}]}"#] {
            assert!(packages(bad).unwrap_err().to_string().contains("cannot be read"), "{bad}");
        }
    }
}

//! Rust and Go in one fleet: builds the Go peers, and runs the tests that need them.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::tools::{Tools, go};

/// Each is a Go module that builds the peer with other versions of Go's packages.
const VERSIONS: [&str; 3] = ["newest", "v3.5.26", "v3.5.9"];

/// Each test has an etcd and up to five programs of its own.
const CONCURRENCY: &str = "4";

pub(crate) fn run(root: &Path) -> Result<(), Error> {
    let tools = Tools::ensure_all(root)?;
    let peers = root.join("target/interop");
    for version in VERSIONS {
        go::build(&root.join("examples/tests/interop/go").join(version), &peers.join(version))?;
    }
    let test = ["test", "-p", "hither-examples", "--features", "etcd", "--test", "interop"];
    let step = Step::cargo(root).args(test).args(["--", "--test-threads", CONCURRENCY]);
    step.envs(tools.env()).env("INTEROP_PEERS", peers).run()
}

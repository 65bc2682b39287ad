//! What is put beside software that others wrote: builds the Go peers, and runs the tests that need them.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::tools::{Tools, go};

/// Go modules. Each but the last builds the peer with other versions of Go's packages; the last is a server with gRPC's test
/// service.
const MODULES: [&str; 4] = ["newest", "v3.5.26", "v3.5.9", "server"];

/// Each test has an etcd and up to five programs of its own.
const CONCURRENCY: &str = "4";

/// Runs those whose names contain `filter`.
pub(crate) fn run(root: &Path, filter: &[String]) -> Result<(), Error> {
    let tools = Tools::ensure_all(root)?;
    let peers = root.join("target/interop");
    for module in MODULES {
        go::build(&root.join("examples/tests/interop/go").join(module), &peers.join(module))?;
    }
    let test = ["test", "-p", "hither-examples", "--features", "etcd", "--test", "interop"];
    let step = Step::cargo(root).args(test).args(["--", "--test-threads", CONCURRENCY]).args(filter);
    step.envs(tools.env()).env("INTEROP_PEERS", peers).run()
}

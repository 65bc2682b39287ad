//! Channels side by side: hither's, tonic's, ginepro's and grpc-go's.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::tools::go;

/// Compares them, and prints a table of ratios.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Error> {
    let grpc_go = root.join("target/bench/grpc-go");
    let flags = match go::build(&root.join("bench/go"), &grpc_go) {
        Ok(()) => vec!["--grpc-go".as_ref(), grpc_go.as_os_str()],
        Err(error) => {
            eprintln!("without grpc-go: {error}");
            Vec::new()
        }
    };
    let program = ["run", "--quiet", "--release", "-p", "hither-bench", "--features", "ginepro", "--"];
    Step::cargo(root).args(program).args(["compare"]).args(flags).args(arguments).run()
}

/// Lints and tests the program, and shows that each channel can be compared: no figure is looked at.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    let clippy = ["clippy", "-p", "hither-bench", "--all-targets", "--all-features", "--", "-D", "warnings"];
    Step::cargo(root).args(clippy).run()?;
    Step::cargo(root).args(["test", "-p", "hither-bench", "--all-features"]).run()?;
    if cfg!(target_os = "linux") { run(root, &["--quick".to_owned()]) } else { Ok(()) }
}

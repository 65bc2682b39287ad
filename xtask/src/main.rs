//! Set-up and test commands of this workspace: `cargo xtask help`.

mod bench;
mod command;
mod error;
mod faults;
mod instructions;
mod interop;
mod leaks;
mod lints;
mod metadata;
mod simulation;
mod tiers;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use error::Error;
use tools::{Tools, go};

const HELP: &str = "\
Set-up and test commands of hither. The tiers, each with the time it takes on two cores:

  cargo xtask check         before each commit, under two minutes when warm: formatting, lints, licences, docs, unit
                            tests and doc tests, and whether the packages are complete
  cargo xtask test [ARGS]   every test that needs no Go, on real etcds where one is needed; ARGS go to `cargo test`
  cargo xtask ci            before a change goes in, about 25 minutes from nothing: `check` and `test`, each feature
                            alone, the packages built as published, and with Go the tests on other versions of etcd,
                            `faults` and `interop`. It first lists all that is missing
  cargo xtask nightly       `ci`, then the faults three times more, `leaks`, and the benchmarks

Parts of them, and tools:

  cargo xtask faults [NAME] a registration and a watch through every fault of etcd, on two versions of etcd (and with
                            users on a third), one row a fault; NAME is a part of a test's name; needs Go
  cargo xtask interop [NAME]
                            Rust and Go in one fleet on a real etcd, and our channel beside nginx, HAProxy, nghttp2 and
                            grpc-go's server; NAME is a part of a test's name; needs Go
  cargo xtask leaks         tasks, sockets and memory after 10,000 channels, and after 100,000 instances that came and went;
                            needs Linux
  cargo xtask bench [FLAGS] calls per second of hither's channel beside tonic's, ginepro and grpc-go, as ratios; FLAGS
                            are those of `hither-bench compare`, as in `bench --callers 1,16 --threads 2`; needs Linux,
                            and Go for grpc-go
  cargo xtask instructions [CHANNEL [FLAGS]]
                            instructions and allocations of a call on hither's channel beside tonic's, counted by
                            callgrind, and the bounds on them; with a channel, what functions they are in: FLAGS are
                            those of `hither-bench count`, as in `instructions hither --callers 1`; `instructions features`
                            is what each policy and feature costs; needs Linux
  cargo xtask simulation    writes the simulation's table into BENCHMARKS.md: the latencies and errors of each policy in a
                            fleet with a degraded zone, in virtual time; `ci` checks that it is up to date
  cargo xtask tools         finds etcd, etcdctl, protoc, valgrind, cargo-deny and what `interop` needs (nginx, haproxy,
                            nghttpd, h2load, curl), and fetches what is missing into target/tools: the packages of
                            Debian or Ubuntu, unpacked there; nothing is installed or started
  cargo xtask package       makes the packages as `cargo publish` would, and builds each from its package alone
  cargo xtask etcd          builds an etcd of 3.6 with Go, and prints how to run the tests on it
  cargo xtask help          this

ETCD_BIN, ETCDCTL_BIN and PROTOC in the environment name other binaries. What needs Go needs Go 1.26 or newer.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let rest: Vec<String> = arguments.collect();
    match run(command.as_deref(), &rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn run(command: Option<&str>, rest: &[String]) -> Result<(), Error> {
    let root = root();
    match (command, rest) {
        (Some("check"), []) => tiers::check(&root),
        (Some("test"), arguments) => tiers::test(&root, arguments),
        (Some("ci"), []) => tiers::ci(&root),
        (Some("nightly"), []) => tiers::nightly(&root),
        (Some("bench"), arguments) => bench::run(&root, arguments),
        (Some("faults"), filter) => faults::run(&root, filter, 1),
        (Some("leaks"), []) => leaks::run(&root),
        (Some("instructions"), arguments) => instructions::run(&root, arguments),
        (Some("interop"), filter) => interop::run(&root, filter),
        (Some("package"), []) => tiers::package(&root),
        (Some("simulation"), []) => simulation::run(&root),
        (Some("tools"), []) => {
            Tools::ensure_all(&root)?.announce();
            if cfg!(target_os = "linux") {
                tools::valgrind(&root)?;
            }
            tools::deny::ensure(&root).map(drop)
        }
        (Some("etcd"), []) => go::etcd(&root).map(|etcd| println!("ETCD_BIN={}", etcd.display())),
        (None | Some("help" | "-h" | "--help"), _) => {
            print!("{HELP}");
            Ok(())
        }
        (
            Some(
                command
                @ ("check" | "package" | "tools" | "ci" | "nightly" | "etcd" | "leaks" | "simulation"),
            ),
            _,
        ) => Err(Error::usage(format!("`{command}` takes no arguments"))),
        (Some(other), _) => Err(Error::usage(format!("no command `{other}`; `cargo xtask help` lists them"))),
    }
}

/// The top of the workspace, which this package is right below.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_is_a_usage_error() {
        assert_eq!(run(Some("tset"), &[]).unwrap_err().code(), 2);
        assert_eq!(run(Some("ci"), &["x".to_owned()]).unwrap_err().code(), 2);
        assert!(run(Some("help"), &[]).is_ok());
    }
}

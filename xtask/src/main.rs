//! Set-up and test commands of this workspace: `cargo xtask help`.

mod command;
mod faults;
mod interop;
mod process;
mod tiers;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use command::{Failure, Step};
use tiers::ci;
use tools::{Tools, go};

const HELP: &str = "\
Set-up and test commands of hither.

  cargo xtask tools         finds etcd, etcdctl and protoc, and fetches what is missing into target/tools:
                            Debian's and Ubuntu's packages, unpacked there; nothing is installed or started
  cargo xtask test [ARGS]   tools, then every test, doc test and conformance run; ARGS go to `cargo test`
  cargo xtask ci            what has to hold before a change goes in: formatting, clippy on all features and on
                            each alone, docs, `cargo xtask test`, `cargo quickstart`, and with Go hither-etcd's
                            tests on a newer etcd, those of watches on one of 3.5 that may answer no progress
                            request, `faults` and `interop`
  cargo xtask nightly       `ci`, then what takes longer: the faults three times more, and the benchmarks
  cargo xtask etcd          builds an etcd of 3.6 with Go, and says how to run the tests on it
  cargo xtask faults [NAME] what registrations and views go through when etcd has a bad day, on two versions of
                            etcd (and with users on a third), one row a fault; needs Go; NAME is a part of a
                            test's name
  cargo xtask interop       Rust and Go in one fleet on a real etcd, one row a case; needs Go
  cargo xtask help          this

ETCD_BIN, ETCDCTL_BIN and PROTOC in the environment name other binaries. What needs Go needs Go 1.26 or newer.
";

/// How many tests run at the same time. Those that are many wait for timers and processes most of their time, so this
/// has nothing to do with the number of processors.
const AT_ONCE: &str = "8";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let rest: Vec<String> = arguments.collect();
    match run(command.as_deref(), &rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn run(command: Option<&str>, rest: &[String]) -> Result<(), Failure> {
    let root = root();
    match (command, rest) {
        (Some("test"), arguments) => test(&root, arguments),
        (Some("tools"), []) => Tools::ensure(&root).map(|tools| tools.announce()),
        (Some("ci"), []) => ci::run(&root),
        (Some("nightly"), []) => ci::nightly(&root),
        (Some("faults"), filter) => faults::run(&root, filter, 1),
        (Some("interop"), []) => interop::run(&root),
        (Some("etcd"), []) => go::etcd(&root).map(|etcd| println!("ETCD_BIN={}", etcd.display())),
        (None | Some("help" | "-h" | "--help"), _) => {
            print!("{HELP}");
            Ok(())
        }
        (Some(command @ ("tools" | "ci" | "nightly" | "interop" | "etcd")), _) => {
            Err(Failure::usage(format!("`{command}` takes no arguments")))
        }
        (Some(other), _) => {
            Err(Failure::usage(format!("no command `{other}`; `cargo xtask help` lists them")))
        }
    }
}

fn test(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let tools = Tools::ensure(root)?;
    tools.announce();
    let mut step = Step::cargo(root).args(test_arguments(arguments)).envs(tools.env());
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        step = step.env("RUST_TEST_THREADS", AT_ONCE);
    }
    step.run()
}

/// Everything, unless the caller names packages.
fn test_arguments(arguments: &[String]) -> Vec<String> {
    let names_packages = arguments.iter().take_while(|argument| *argument != "--").any(|argument| {
        argument == "--package" || argument.starts_with("--package=") || argument.starts_with("-p")
    });
    let scope = if names_packages { None } else { Some("--workspace") };
    let ours = ["test"].into_iter().chain(scope).chain(["--all-features"]).map(str::to_owned);
    ours.chain(arguments.iter().cloned()).collect()
}

/// The top of the workspace: this package stands right below it.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(arguments: &[&str]) -> Vec<String> {
        test_arguments(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_package_the_whole_workspace_is_tested() {
        assert_eq!(arguments(&[]), ["test", "--workspace", "--all-features"]);
        assert_eq!(
            arguments(&["--", "-p"]),
            ["test", "--workspace", "--all-features", "--", "-p"],
            "what stands after -- is the tests' own"
        );
    }

    #[test]
    fn a_named_package_is_tested_alone() {
        for named in [&["-p", "hither-core"][..], &["-phither-core"], &["--package=hither-core"]] {
            assert_eq!(arguments(named)[..2], ["test", "--all-features"], "{named:?}");
        }
    }

    #[test]
    fn an_unknown_command_is_a_usage_error() {
        assert_eq!(run(Some("tset"), &[]).unwrap_err().code(), 2);
        assert_eq!(run(Some("ci"), &["x".to_owned()]).unwrap_err().code(), 2);
        assert!(run(Some("help"), &[]).is_ok());
    }
}

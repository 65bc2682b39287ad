//! Every test that needs no Go.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::tiers::check::WITHOUT_BENCH;
use crate::tools::Tools;

/// How many tests run at the same time. Most of them wait for timers and processes, so this does not depend on the
/// number of processors.
pub(crate) const CONCURRENCY: &str = "8";

pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Error> {
    step(root, arguments)?.run()
}

/// Returns the run of these tests; `ci` sets more variables.
pub(super) fn step(root: &Path, arguments: &[impl AsRef<str>]) -> Result<Step, Error> {
    let tools = Tools::ensure(root)?;
    tools.announce();
    let mut step = Step::cargo(root).args(cargo_arguments(arguments)).envs(tools.env());
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        step = step.env("RUST_TEST_THREADS", CONCURRENCY);
    }
    Ok(step)
}

/// Returns the arguments for cargo: all packages, unless the caller names some.
fn cargo_arguments(arguments: &[impl AsRef<str>]) -> Vec<String> {
    let arguments = arguments.iter().map(AsRef::as_ref);
    let names_packages = arguments.clone().take_while(|argument| *argument != "--").any(|argument| {
        argument == "--package" || argument.starts_with("--package=") || argument.starts_with("-p")
    });
    let scope = if names_packages { &[][..] } else { &WITHOUT_BENCH };
    let ours = ["test"].into_iter().chain(scope.iter().copied()).chain(["--all-features"]);
    ours.chain(arguments).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_package_all_but_the_benchmarks_are_tested() {
        let all = ["test", "--workspace", "--exclude", "hither-bench", "--all-features"];
        assert_eq!(cargo_arguments(&[""; 0]), all);
        assert_eq!(
            cargo_arguments(&["--", "-p"]),
            [&all[..], &["--", "-p"]].concat(),
            "arguments after -- are for the tests"
        );
    }

    #[test]
    fn a_named_package_is_tested_alone() {
        for named in [&["-p", "hither-core"][..], &["-phither-core"], &["--package=hither-core"]] {
            assert_eq!(cargo_arguments(named)[..2], ["test", "--all-features"], "{named:?}");
        }
    }
}

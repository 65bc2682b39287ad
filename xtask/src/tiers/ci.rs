//! What has to hold before a change goes in.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::tiers::{check, package, requirements, test};
use crate::tools::{Tools, go};
use crate::{bench, faults, instructions, interop, simulation};

pub(crate) fn run(root: &Path) -> Result<(), Error> {
    // First what may be missing, then what needs a network.
    requirements::check(root)?;
    Tools::ensure_all(root)?.announce();
    go::download(root)?;

    check::without_tests(root)?;
    let metadata = Metadata::load(root)?;
    each_feature(root, &metadata)?;
    let application = ["clippy", "--locked", "--target-dir", "target"];
    Step::cargo(root).args(application).args(check::APPLICATION).args(["--", "-D", "warnings"]).run()?;
    test::run(root, &[])?;
    on_other_etcds(root)?;
    random_values(root)?;
    Step::cargo(root).args(["quickstart"]).run()?;
    bench::check(root)?;
    simulation::check(root)?;
    instructions::check(root)?;
    package::run(root)?;
    faults::run(root, &[], 1)?;
    interop::run(root, &[])
}

/// Checks each package without features, and with each feature alone; without features the facade's own tests run, which
/// show that it names the feature that a URL needs.
fn each_feature(root: &Path, metadata: &Metadata) -> Result<(), Error> {
    for member in metadata.members() {
        // Without tests, whose dependencies may bring features of their own.
        let clippy = ["clippy", "-p", &member.name, "--no-default-features"];
        let features = member.features.iter().filter(|feature| *feature != "default").map(String::as_str);
        for feature in [""].into_iter().chain(features) {
            Step::cargo(root).args(clippy).args(["--features", feature, "--", "-D", "warnings"]).run()?;
        }
    }
    Step::cargo(root).args(["test", "-p", "hither", "--no-default-features", "--lib"]).run()
}

/// Runs the tests whose outcome depends on the version of etcd.
fn on_other_etcds(root: &Path) -> Result<(), Error> {
    let newest = go::etcd(root)?;
    test::step(root, &["-p", "hither-etcd", "--tests"])?.env("ETCD_BIN", newest).run()?;
    // This version may never answer a progress request: etcd-io/etcd#17507.
    let silent = go::silent_etcd(root)?;
    let watches = ["-p", "hither-etcd", "--test", "conformance", "--test", "silence", "--test", "watch"];
    test::step(root, &watches)?.env("ETCD_BIN", silent).run()
}

/// Runs the property tests for a minute.
fn random_values(root: &Path) -> Result<(), Error> {
    let properties =
        ["test", "-p", "hither-etcd", "--all-features", "--lib", "properties", "--", "--nocapture"];
    Step::cargo(root).args(properties).env("PROPTEST_CASES", "20000").run()
}

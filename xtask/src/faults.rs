//! The campaign of faults, on two versions of etcd: one row a fault and a version.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::Step;
use crate::error::Error;
use crate::tiers::CONCURRENCY;
use crate::tools::{Tools, go};

/// Runs the faults whose names contain `filter`, and prints the table; `rounds` times. Without a filter, those of
/// an etcd with users run on a third version too, which treats users in a way of its own.
pub(crate) fn run(root: &Path, filter: &[String], rounds: u32) -> Result<(), Error> {
    let tools = Tools::ensure(root)?;
    let (given, newest) = (tools.path("etcd").to_owned(), go::etcd(root)?);
    let (older, newer) = (version(root, &given)?, version(root, &newest)?);
    differ(&older, &newer).map_err(Error::new)?;
    let mut on = format!("on etcd {older} and {newer}");
    let mut campaigns = vec![(given, older, filter.to_vec()), (newest, newer, filter.to_vec())];
    if filter.is_empty() {
        let reticent = go::reticent_etcd(root)?;
        let version = version(root, &reticent)?;
        on.push_str(&format!(", and with users on {version}"));
        campaigns.push((reticent, version, WITH_USERS.map(str::to_owned).to_vec()));
    }
    println!("{on}");
    // Alone, so that what the compiler says does not come between the rows.
    Step::cargo(root).args(TEST).args(["--no-run"]).run()?;

    println!(
        "{:12} {:78} {:>11} {:>11} {:>6} {:>6}",
        "etcd", "fault", "registered", "view right", "wrong", "lease"
    );
    let mut failed = Vec::new();
    for _ in 0..rounds {
        for (etcd, version, filter) in &campaigns {
            failed.extend(campaign(root, &tools, etcd, version, filter)?);
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Error::new(format!("{} faults are not survived: {}", failed.len(), failed.join(", ")))),
    }
}

const TEST: [&str; 6] = ["test", "-p", "hither-etcd", "--all-features", "--test", "faults"];

/// The faults of an etcd that has users.
const WITH_USERS: [&str; 2] = ["auth::", "tls::cluster_with_users"];

/// All faults on one etcd; those that failed.
fn campaign(
    root: &Path,
    tools: &Tools,
    etcd: &Path,
    version: &str,
    filter: &[String],
) -> Result<Vec<String>, Error> {
    let cannot = |why: &dyn std::fmt::Display| Error::new(format!("the campaign does not run: {why}"));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(["--quiet"]).args(TEST);
    // The harness takes several filters, cargo one.
    command.args(["--", "--format=pretty", "--test-threads", CONCURRENCY]).args(filter);
    command.envs(tools.env()).env("ETCD_BIN", etcd).stdout(Stdio::piped());
    let mut running = command.spawn().map_err(|error| cannot(&error))?;
    let said = running.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines());

    let (mut tally, mut last_words) = (Tally::default(), Vec::new());
    for line in said.map_while(Result::ok) {
        match read(&line) {
            Line::Row([fault, registered, right, wrong, lease]) => {
                tally.rows += 1;
                println!("{version:12} {fault:78} {registered:>11} {right:>11} {wrong:>6} {lease:>6}");
            }
            Line::Passed => tally.passed += 1,
            Line::Failed(test) => {
                println!("{version:12} {test:78} FAILED");
                tally.failed.push(format!("{test} on {version}"));
            }
            Line::Other => last_words.push(line),
        }
    }
    let status = running.wait().map_err(|error| cannot(&error))?;
    if !status.success() {
        last_words.iter().for_each(|line| eprintln!("{line}"));
    }
    tally.verdict(status.success()).map_err(|why| cannot(&why))
}

/// What a campaign came to.
#[derive(Debug, Default)]
struct Tally {
    rows: usize,
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    /// The tests that failed; an error where the campaign as a whole says nothing.
    fn verdict(self, succeeded: bool) -> Result<Vec<String>, String> {
        match (succeeded, self.failed.is_empty()) {
            (true, true) if self.passed == 0 => Err("it has no such fault".to_owned()),
            (true, true) if self.rows != self.passed => {
                Err(format!("{} tests passed, and {} rows were written", self.passed, self.rows))
            }
            (false, true) => Err("it ended with an error, and no test failed".to_owned()),
            _ => Ok(self.failed),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Row([&'a str; 5]),
    Passed,
    Failed(&'a str),
    Other,
}

/// What the campaign writes for a fault, or the test harness for a test.
fn read(line: &str) -> Line<'_> {
    // The harness may have begun a line of its own.
    if let Some((_, row)) = line.split_once("fault: ") {
        let mut parts = row.split(" | ");
        let mut next = || parts.next();
        if let (Some(fault), Some(registered), Some(right), Some(wrong), Some(lease)) =
            (next(), next(), next(), next(), next())
        {
            return Line::Row([fault, registered, right, wrong, lease]);
        }
    }
    // What a test has written may stand between its name and its end.
    if line == "ok" || line.starts_with("test ") && line.ends_with(" ... ok") {
        return Line::Passed;
    }
    match line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
        Some(test) => Line::Failed(test),
        None => Line::Other,
    }
}

/// `3.6.16`.
fn version(root: &Path, etcd: &Path) -> Result<String, Error> {
    let said = Step::new(etcd, root).args(["--version"]).output()?;
    let version = said.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    version
        .map(|version| version.trim().to_owned())
        .ok_or_else(|| Error::new(format!("{} does not say which version of etcd it is", etcd.display())))
}

/// Two versions that tell something: the newer one of 3.6 or later, the other one of another minor version.
fn differ(given: &str, newest: &str) -> Result<(), String> {
    let minor = |version: &str| {
        let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
        parts.next().flatten().zip(parts.next().flatten())
    };
    if minor(newest) < Some((3, 6)) {
        return Err(format!(
            "xtask/etcd/newest is etcd {newest}, and has to be 3.6 or newer beside ETCD_BIN's {given}"
        ));
    }
    if minor(given).is_none() || minor(given) == minor(newest) {
        return Err(format!(
            "the faults need two minor versions of etcd, and have {given} and {newest}: name another one in ETCD_BIN, \
             such as one of 3.4"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_etcds_differ_by_more_than_a_patch_and_one_is_of_today() {
        assert_eq!(differ("3.4.23", "3.6.16"), Ok(()));
        assert_eq!(differ("3.5.12", "3.7.0-rc.1"), Ok(()));
        for (given, newest) in [
            ("3.6.16", "3.6.16"),
            ("3.6.5", "3.6.16"),
            ("3.4.23", "3.5.12"),
            ("3.4.23", "main"),
            ("main", "3.6.16"),
        ] {
            let why = differ(given, newest).unwrap_err();
            for word in ["ETCD_BIN", given, newest] {
                assert!(why.contains(word), "{why}");
            }
        }
    }

    #[test]
    fn rows_and_failures_are_told_from_the_rest() {
        let row = ["etcd killed", "1.00 s", "-", "no", "yes"];
        assert_eq!(read("fault: etcd killed | 1.00 s | - | no | yes"), Line::Row(row));
        assert_eq!(read("test way::cut ... fault: etcd killed | 1.00 s | - | no | yes"), Line::Row(row));
        assert_eq!(read("test way::cut ... FAILED"), Line::Failed("way::cut"));
        assert_eq!(read("test way::cut ... ok"), Line::Passed);
        for other in ["", "fault: in the wrong form", "running 3 tests"] {
            assert_eq!(read(other), Line::Other, "{other}");
        }
    }

    #[test]
    fn a_campaign_says_something_only_if_every_test_that_passed_has_a_row() {
        let tally = |rows, passed, failed: &[&str]| Tally {
            rows,
            passed,
            failed: failed.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(tally(3, 3, &[]).verdict(true), Ok(vec![]));
        assert_eq!(tally(3, 2, &["way::cut"]).verdict(false), Ok(vec!["way::cut".to_owned()]));
        for (rows, passed, succeeded, why) in
            [(0, 0, true, "no such fault"), (2, 3, true, "3 tests passed"), (3, 3, false, "an error")]
        {
            assert!(tally(rows, passed, &[]).verdict(succeeded).unwrap_err().contains(why));
        }
    }
}

//! The campaign of faults, on two versions of etcd: one row a fault and a version.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::AT_ONCE;
use crate::command::{Failure, Step};
use crate::go;
use crate::tools::Tools;

/// Runs the faults whose names contain `filter`, and prints the table; `rounds` times.
pub(crate) fn run(root: &Path, filter: &[String], rounds: u32) -> Result<(), Failure> {
    let tools = Tools::ensure(root)?;
    let etcds = [tools.path("etcd").to_owned(), go::etcd(root)?];
    // Alone, so that what the compiler says does not come between the rows.
    Step::cargo(root).args(TEST).args(["--no-run"]).run()?;

    println!(
        "{:12} {:72} {:>11} {:>11} {:>6} {:>6}",
        "etcd", "fault", "registered", "view right", "wrong", "lease"
    );
    let mut failed = Vec::new();
    for _ in 0..rounds {
        for etcd in &etcds {
            let version = version(root, etcd)?;
            failed.extend(campaign(root, &tools, etcd, &version, filter)?);
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => {
            Err(Failure::new(format!("{} faults are not survived: {}", failed.len(), failed.join(", "))))
        }
    }
}

const TEST: [&str; 6] = ["test", "-p", "hither-etcd", "--all-features", "--test", "faults"];

/// All faults on one etcd; those that failed.
fn campaign(
    root: &Path,
    tools: &Tools,
    etcd: &PathBuf,
    version: &str,
    filter: &[String],
) -> Result<Vec<String>, Failure> {
    let cannot = |why: &dyn std::fmt::Display| Failure::new(format!("the campaign does not run: {why}"));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(["--quiet"]).args(TEST).args(filter);
    command.args(["--", "--format=pretty", "--test-threads", AT_ONCE]);
    command.envs(tools.env()).env("ETCD_BIN", etcd).stdout(Stdio::piped());
    let mut running = command.spawn().map_err(|error| cannot(&error))?;
    let said = running.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines());

    let (mut failed, mut rows, mut last_words) = (Vec::new(), 0, Vec::new());
    for line in said.map_while(Result::ok) {
        match read(&line) {
            Line::Row([fault, registered, right, wrong, lease]) => {
                rows += 1;
                println!("{version:12} {fault:72} {registered:>11} {right:>11} {wrong:>6} {lease:>6}");
            }
            Line::Failed(test) => {
                println!("{version:12} {test:72} FAILED");
                failed.push(format!("{test} on {version}"));
            }
            Line::Other => last_words.push(line),
        }
    }
    let status = running.wait().map_err(|error| cannot(&error))?;
    if !status.success() {
        last_words.iter().for_each(|line| eprintln!("{line}"));
        if failed.is_empty() {
            return Err(cannot(&status));
        }
    } else if rows == 0 {
        return Err(cannot(&"it has no such fault"));
    }
    Ok(failed)
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Row([&'a str; 5]),
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
    match line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
        Some(test) => Line::Failed(test),
        None => Line::Other,
    }
}

/// `3.6.16`.
fn version(root: &Path, etcd: &Path) -> Result<String, Failure> {
    let said = Step::new(etcd, root).args(["--version"]).output()?;
    let version = said.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    version
        .map(|version| version.trim().to_owned())
        .ok_or_else(|| Failure::new(format!("{} does not say which version of etcd it is", etcd.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_failures_are_told_from_the_rest() {
        let row = ["etcd killed", "1.00 s", "-", "no", "yes"];
        assert_eq!(read("fault: etcd killed | 1.00 s | - | no | yes"), Line::Row(row));
        assert_eq!(read("test way::cut ... fault: etcd killed | 1.00 s | - | no | yes"), Line::Row(row));
        assert_eq!(read("test way::cut ... FAILED"), Line::Failed("way::cut"));
        for other in ["test way::cut ... ok", "", "fault: in the wrong form", "running 3 tests"] {
            assert_eq!(read(other), Line::Other, "{other}");
        }
    }
}

//! The faults of an etcd, on two versions of etcd and in part on a third.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::tiers::CONCURRENCY;
use crate::tools::{Tools, go};

const TEST: [&str; 6] = ["test", "-p", "hither-etcd", "--all-features", "--test", "faults"];

/// The faults of an etcd that has users.
const WITH_USERS: [&str; 2] = ["auth::", "tls::cluster_with_users"];

/// Runs the faults whose names contain `filter`, `rounds` times. Without a filter, those of an etcd with users run on a
/// third version too, which treats users in a way of its own.
pub(crate) fn run(root: &Path, filter: &[String], rounds: u32) -> Result<(), Error> {
    if filter.len() > 1 {
        return Err(Error::usage("`faults` takes a part of one name"));
    }
    let tools = Tools::ensure(root)?;
    let (given, newest) = (tools.path("etcd").to_owned(), go::etcd(root)?);
    let (older, newer) = (version(root, &given)?, version(root, &newest)?);
    differ(&older, &newer).map_err(Error::new)?;
    let filter = filter.first().map(String::as_str);
    let mut campaigns = vec![(given, older, filter), (newest, newer, filter)];
    if filter.is_none() {
        let reticent = go::reticent_etcd(root)?;
        let version = version(root, &reticent)?;
        campaigns.extend(WITH_USERS.map(|users| (reticent.clone(), version.clone(), Some(users))));
    }
    // All of them run, whatever fails.
    let mut failed = Vec::new();
    for _ in 0..rounds {
        for (etcd, version, filter) in &campaigns {
            println!("on etcd {version}:");
            let step = Step::cargo(root).args(TEST).args(["--", "--test-threads", CONCURRENCY]).args(*filter);
            if step.envs(tools.env()).env("ETCD_BIN", etcd).run().is_err() {
                failed.push(version.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("there are faults that are not survived on etcd {}", failed.join(", "))))
}

/// `3.6.16`.
fn version(root: &Path, etcd: &Path) -> Result<String, Error> {
    let output = Step::new(etcd, root).args(["--version"]).output()?;
    let version = output.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    version
        .map(|version| version.trim().to_owned())
        .ok_or_else(|| Error::new(format!("{} prints no version of etcd", etcd.display())))
}

/// Checks that the newer one is 3.6 or later, and the other one is of another minor version.
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
}

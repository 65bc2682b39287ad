//! Go's part: the newest etcd, and the peers that our programs are put beside.

use std::path::{Path, PathBuf};

use crate::command::{Failure, Step};

const ADVICE: &str = "this needs Go 1.25 or newer in the PATH: https://go.dev/dl";

/// Builds the module in `directory` into `out`.
pub(crate) fn build(directory: &Path, out: &Path) -> Result<(), Failure> {
    check(directory)?;
    Step::new("go", directory).args(["build", "-mod=readonly", "-o"]).args([out]).args(["."]).run()
}

/// Builds an etcd newer than the one that the distributions have, for tests to be run on with `ETCD_BIN`.
pub(crate) fn etcd(root: &Path) -> Result<PathBuf, Failure> {
    etcd_of(root, "newest")
}

/// Builds one of those which tell their status to root alone, where they have users: 3.6.0 to 3.6.11.
pub(crate) fn reticent_etcd(root: &Path) -> Result<PathBuf, Failure> {
    etcd_of(root, "v3.6.5")
}

fn etcd_of(root: &Path, version: &str) -> Result<PathBuf, Failure> {
    let out = root.join("target/tools").join(format!("etcd-{version}"));
    build(&root.join("xtask/etcd").join(version), &out)?;
    Ok(out)
}

fn check(directory: &Path) -> Result<(), Failure> {
    let said =
        Step::new("go", directory).args(["env", "GOVERSION"]).output().map_err(|_| Failure::new(ADVICE))?;
    match minor(&said) {
        Some(25..) => Ok(()),
        Some(..25) | None => Err(Failure::new(format!("{ADVICE} (this is {})", said.trim()))),
    }
}

/// 26 of `go1.26.8` and of `go1.26rc1`.
fn minor(version: &str) -> Option<u32> {
    version.trim().strip_prefix("go1.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read() {
        for (version, expected) in [
            ("go1.26.8\n", Some(26)),
            ("go1.25", Some(25)),
            ("go1.27rc1", Some(27)),
            ("devel", None),
            ("", None),
        ] {
            assert_eq!(minor(version), expected, "{version}");
        }
    }
}

//! Go's part: the newest etcd, and the peers that our programs are put beside.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{Failure, Step};
use crate::tools::cannot;

/// The oldest Go that is tried, whatever less a module may ask for.
const OLDEST: Version = Version(1, 25);

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

/// Builds one of those that answer no more on a watch which was asked how far it is before it was ready:
/// etcd-io/etcd#17507, of 3.5.8 to 3.5.12.
pub(crate) fn silent_etcd(root: &Path) -> Result<PathBuf, Failure> {
    etcd_of(root, "v3.5.12")
}

fn etcd_of(root: &Path, version: &str) -> Result<PathBuf, Failure> {
    let out = root.join("target/tools").join(format!("etcd-{version}"));
    build(&root.join("xtask/etcd").join(version), &out)?;
    Ok(out)
}

/// Whether the Go that is here is new enough for the module in `directory`: its own complaint names no place to get
/// another one.
fn check(directory: &Path) -> Result<(), Failure> {
    let manifest = directory.join("go.mod");
    let text = fs::read_to_string(&manifest).map_err(|error| cannot("read", &manifest, &error))?;
    // Where Go may fetch another Go for a module, this is the other one.
    let here = Step::new("go", directory).args(["env", "GOVERSION"]).output();
    complaint(&manifest, &text, here).map_or(Ok(()), Err)
}

fn complaint(manifest: &Path, text: &str, here: Result<String, Failure>) -> Option<Failure> {
    let needed = Version::of_manifest(text);
    let why = match here {
        Ok(here) if Version::of_go(&here).is_some_and(|here| here >= needed) => return None,
        Ok(here) => format!("this is {}", here.trim()),
        Err(failure) => failure.to_string(),
    };
    let Version(major, minor) = needed;
    let manifest = manifest.display();
    Some(Failure::new(format!(
        "{manifest} needs Go {major}.{minor} or newer in the PATH (https://go.dev/dl): {why}"
    )))
}

/// Major and minor: no patch of Go's asks for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// What a `go.mod` asks for.
    fn of_manifest(text: &str) -> Self {
        let asked = text.lines().find_map(|line| Self::parse(line.strip_prefix("go ")?));
        asked.map_or(OLDEST, |asked| asked.max(OLDEST))
    }

    /// What `go env GOVERSION` says.
    fn of_go(said: &str) -> Option<Self> {
        Self::parse(said.trim().strip_prefix("go")?)
    }

    /// 1.26 of `1.26`, of `1.26.8` and of `1.26rc1`.
    fn parse(text: &str) -> Option<Self> {
        let (major, rest) = text.trim().split_once('.')?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read() {
        for (said, expected) in [
            ("go1.26.8\n", Some(Version(1, 26))),
            ("go1.25", Some(Version(1, 25))),
            ("go1.27rc1", Some(Version(1, 27))),
            ("go2.0", Some(Version(2, 0))),
            ("devel", None),
            ("", None),
        ] {
            assert_eq!(Version::of_go(said), expected, "{said}");
        }
    }

    #[test]
    fn a_module_asks_for_a_version_and_never_for_one_that_is_not_tried() {
        for (manifest, expected) in [
            ("module m\n\ngo 1.26.0\n\nrequire go.example/x v1.27.0\n", Version(1, 26)),
            ("module m\ngo 1.27 // a reason\n", Version(1, 27)),
            ("module m\ngo 1.21\ntoolchain go1.28.1\n", OLDEST),
            ("module m\n", OLDEST),
        ] {
            assert_eq!(Version::of_manifest(manifest), expected, "{manifest}");
        }
    }

    #[test]
    fn a_go_that_is_too_old_is_told_which_module_needs_what() {
        let complaint = |manifest, here: &str| {
            let complaint = complaint(Path::new("x/go.mod"), manifest, Ok(here.to_owned()));
            complaint.map(|failure| failure.to_string())
        };
        assert_eq!(complaint("go 1.26.0", "go1.26.8\n"), None);
        assert_eq!(complaint("go 1.21", "go1.25.0\n"), None);
        assert_eq!(complaint("go 1.26.0", "go2.1\n"), None);
        assert_eq!(
            complaint("go 1.26.0", "go1.25.3\n").as_deref(),
            Some("x/go.mod needs Go 1.26 or newer in the PATH (https://go.dev/dl): this is go1.25.3")
        );
        let unknown = complaint("go 1.21", "devel").expect("what is not known is not trusted");
        assert!(unknown.contains("needs Go 1.25"), "{unknown}");
    }

    #[test]
    fn a_go_that_is_missing_is_asked_for_with_its_version() {
        let missing = Err(Failure::new("`go env GOVERSION` cannot be started"));
        let complaint = complaint(Path::new("x/go.mod"), "go 1.26.0", missing).unwrap().to_string();
        assert!(
            complaint.contains("needs Go 1.26") && complaint.contains("cannot be started"),
            "{complaint}"
        );
    }

    #[test]
    fn the_version_that_the_readme_names_does_for_every_module() {
        let root = crate::root();
        let modules = ["xtask/etcd", "backend-etcd/tests/interop-go"].map(|place| root.join(place));
        let folders = modules.iter().flat_map(|place| fs::read_dir(place).unwrap());
        let manifests =
            folders.filter_map(|folder| fs::read_to_string(folder.unwrap().path().join("go.mod")).ok());
        let Version(major, minor) = manifests.map(|text| Version::of_manifest(&text)).max().unwrap();
        let readme = fs::read_to_string(root.join("README.md")).unwrap();
        let promise = format!("Go {major}.{minor} or newer");
        assert!(readme.contains(&promise), "the README does not say {promise:?}");
        assert!(crate::HELP.contains(&promise), "the help does not say {promise:?}");
    }
}

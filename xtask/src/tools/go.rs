//! What is built with Go: newer etcds, and the peers of the interop tests.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Step;
use crate::error::Error;

/// The oldest Go that is tried, even if a module asks for less.
const OLDEST: Version = Version(1, 25);

/// Folders whose subfolders are Go modules.
const MODULES: [&str; 3] = ["xtask/etcd", "examples/tests/interop/go", "bench"];

/// Returns what is wrong with the Go in the `PATH`, if anything is.
pub(crate) fn lacks(root: &Path) -> Option<Error> {
    modules(root).err().or_else(|| modules(root).ok()?.iter().find_map(|module| check(module).err()))
}

/// Downloads what all modules need, so that a missing network is found before anything is built.
pub(crate) fn download(root: &Path) -> Result<(), Error> {
    modules(root)?.iter().try_for_each(|module| Step::new("go", module).args(["mod", "download"]).run())
}

/// Returns all modules, the one that needs the newest Go first.
fn modules(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut modules = Vec::new();
    for folder in MODULES.map(|folder| root.join(folder)) {
        let entries = fs::read_dir(&folder).map_err(|error| Error::io("read", &folder, &error))?;
        for module in entries.flatten().map(|entry| entry.path()) {
            if let Ok(text) = fs::read_to_string(module.join("go.mod")) {
                modules.push((Version::of_manifest(&text), module));
            }
        }
    }
    modules.sort_by(|a, b| b.cmp(a));
    Ok(modules.into_iter().map(|(_, module)| module).collect())
}

/// Builds the module in `directory` into `out`.
pub(crate) fn build(directory: &Path, out: &Path) -> Result<(), Error> {
    check(directory)?;
    Step::new("go", directory).args(["build", "-mod=readonly", "-o"]).args([out]).args(["."]).run()
}

/// Builds an etcd newer than that of the distributions, to run tests on with `ETCD_BIN`.
pub(crate) fn etcd(root: &Path) -> Result<PathBuf, Error> {
    etcd_of(root, "newest")
}

/// Builds one of those with users that give their status to root alone: 3.6.0 to 3.6.11.
pub(crate) fn reticent_etcd(root: &Path) -> Result<PathBuf, Error> {
    etcd_of(root, "v3.6.5")
}

/// Builds one of those that never again answer a watch after a progress request that came before the watch was ready:
/// etcd-io/etcd#17507, of 3.5.8 to 3.5.12.
pub(crate) fn silent_etcd(root: &Path) -> Result<PathBuf, Error> {
    etcd_of(root, "v3.5.12")
}

fn etcd_of(root: &Path, version: &str) -> Result<PathBuf, Error> {
    let out = root.join("target/tools").join(format!("etcd-{version}"));
    build(&root.join("xtask/etcd").join(version), &out)?;
    Ok(out)
}

/// Checks that the Go in the `PATH` is new enough for the module in `directory`: Go's own message does not name where
/// to get another one.
fn check(directory: &Path) -> Result<(), Error> {
    let manifest = directory.join("go.mod");
    let text = fs::read_to_string(&manifest).map_err(|error| Error::io("read", &manifest, &error))?;
    // Where Go may fetch another toolchain for a module, this is the version of the other one.
    let here = Step::new("go", directory).args(["env", "GOVERSION"]).output();
    too_old(&manifest, &text, here).map_or(Ok(()), Err)
}

fn too_old(manifest: &Path, text: &str, here: Result<String, Error>) -> Option<Error> {
    let needed = Version::of_manifest(text);
    let why = match here {
        Ok(here) if Version::of_go(&here).is_some_and(|here| here >= needed) => return None,
        Ok(here) => format!("this is {}", here.trim()),
        Err(error) => error.to_string(),
    };
    let Version(major, minor) = needed;
    let manifest = manifest.display();
    Some(Error::new(format!(
        "{manifest} needs Go {major}.{minor} or newer in the PATH (https://go.dev/dl): {why}"
    )))
}

/// Major and minor version; a patch version makes no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// Parses the version that a `go.mod` needs.
    fn of_manifest(text: &str) -> Self {
        let asked = text.lines().find_map(|line| Self::parse(line.strip_prefix("go ")?));
        asked.map_or(OLDEST, |asked| asked.max(OLDEST))
    }

    /// Parses the output of `go env GOVERSION`.
    fn of_go(version: &str) -> Option<Self> {
        Self::parse(version.trim().strip_prefix("go")?)
    }

    /// Parses `1.26`, `1.26.8` and `1.26rc1` as 1.26.
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
        for (text, expected) in [
            ("go1.26.8\n", Some(Version(1, 26))),
            ("go1.25", Some(Version(1, 25))),
            ("go1.27rc1", Some(Version(1, 27))),
            ("go2.0", Some(Version(2, 0))),
            ("devel", None),
            ("", None),
        ] {
            assert_eq!(Version::of_go(text), expected, "{text}");
        }
    }

    #[test]
    fn a_module_needs_its_version_of_go_and_at_least_the_oldest_that_is_tried() {
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
    fn the_error_for_an_old_go_names_the_module_and_the_version() {
        let too_old = |manifest, here: &str| {
            let error = too_old(Path::new("x/go.mod"), manifest, Ok(here.to_owned()));
            error.map(|error| error.to_string())
        };
        assert_eq!(too_old("go 1.26.0", "go1.26.8\n"), None);
        assert_eq!(too_old("go 1.21", "go1.25.0\n"), None);
        assert_eq!(too_old("go 1.26.0", "go2.1\n"), None);
        assert_eq!(
            too_old("go 1.26.0", "go1.25.3\n").as_deref(),
            Some("x/go.mod needs Go 1.26 or newer in the PATH (https://go.dev/dl): this is go1.25.3")
        );
        let unknown = too_old("go 1.21", "devel").expect("an unknown version is an error");
        assert!(unknown.contains("needs Go 1.25"), "{unknown}");
    }

    #[test]
    fn the_error_for_a_missing_go_names_the_version() {
        let missing = Err(Error::new("`go env GOVERSION` cannot be started"));
        let error = too_old(Path::new("x/go.mod"), "go 1.26.0", missing).unwrap().to_string();
        assert!(error.contains("needs Go 1.26") && error.contains("cannot be started"), "{error}");
    }

    #[test]
    fn contributing_and_help_name_a_version_of_go_that_suffices_for_every_module() {
        let root = crate::root();
        let first = &modules(&root).unwrap()[0];
        let Version(major, minor) = Version::of_manifest(&fs::read_to_string(first.join("go.mod")).unwrap());
        let guide = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
        let promise = format!("Go {major}.{minor} or newer");
        assert!(guide.contains(&promise), "CONTRIBUTING.md lacks {promise:?}");
        assert!(crate::HELP.contains(&promise), "the help lacks {promise:?}");
    }
}

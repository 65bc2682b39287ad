//! Programs that the build and the tests need: used where they are installed, fetched where they are not.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod apt;
mod bin;
pub(crate) mod deny;
pub(crate) mod go;

use crate::error::Error;

/// A program that the tests and the build need.
#[derive(Debug)]
struct Tool {
    name: &'static str,
    /// The environment variable that names another executable.
    variable: &'static str,
    /// The packages of Debian and Ubuntu that have it, and the files that it needs.
    packages: &'static [&'static str],
    /// The package of Homebrew that has it.
    brew: &'static str,
    /// Arguments of a run that succeeds only if the tool works.
    check: &'static [&'static str],
}

/// What the build and every test needs.
static TOOLS: [Tool; 3] = [
    Tool {
        name: "etcd",
        variable: "ETCD_BIN",
        packages: &["etcd-server"],
        brew: "etcd",
        check: &["--version"],
    },
    Tool {
        name: "etcdctl",
        variable: "ETCDCTL_BIN",
        packages: &["etcd-client"],
        brew: "etcd",
        check: &["version"],
    },
    Tool {
        name: "protoc",
        variable: "PROTOC",
        // The compiler, and the files of `google/protobuf`, which others import.
        packages: &["protobuf-compiler", "libprotobuf-dev"],
        brew: "protobuf",
        check: &["-o/dev/null", "google/protobuf/descriptor.proto"],
    },
];

/// Of the benchmarks alone, and of Linux alone. Only valgrind is fetched for `ci`.
static VALGRIND: Tool = Tool {
    name: "valgrind",
    variable: "VALGRIND",
    packages: &["valgrind"],
    brew: "valgrind",
    check: &["--tool=callgrind", "--version"],
};
static STRACE: Tool =
    Tool { name: "strace", variable: "STRACE", packages: &["strace"], brew: "strace", check: &["--version"] };

/// What `interop` needs beside those: proxies, servers and clients of HTTP/2.
static PEERS: [Tool; 5] = [
    Tool { name: "nginx", variable: "NGINX_BIN", packages: &["nginx"], brew: "nginx", check: &["-v"] },
    Tool {
        name: "haproxy",
        variable: "HAPROXY_BIN",
        packages: &["haproxy"],
        brew: "haproxy",
        check: &["-v"],
    },
    Tool {
        name: "nghttpd",
        variable: "NGHTTPD_BIN",
        packages: &["nghttp2-server"],
        brew: "nghttp2",
        check: &["--version"],
    },
    Tool {
        name: "h2load",
        variable: "H2LOAD_BIN",
        packages: &["nghttp2-client"],
        brew: "nghttp2",
        check: &["--version"],
    },
    Tool {
        name: "curl",
        variable: "CURL_BIN",
        packages: &["curl"],
        brew: "curl",
        // Fails if it was built without HTTP/2.
        check: &["--http2-prior-knowledge", "--version"],
    },
];

/// The paths of the tools.
#[derive(Debug)]
pub(crate) struct Tools {
    found: Vec<(&'static Tool, PathBuf)>,
}

impl Tools {
    /// Finds each tool: named by its variable, or in `target/tools/bin`, or in the `PATH`, or fetched. What
    /// was not named is in `target/tools/bin` afterwards.
    pub(crate) fn ensure(root: &Path) -> Result<Self, Error> {
        Self::found(root, TOOLS.iter().collect())
    }

    /// Does the same for all tools, with those that only `interop` needs.
    pub(crate) fn ensure_all(root: &Path) -> Result<Self, Error> {
        Self::found(root, all())
    }

    /// Does the same for the one tool that a build needs: protoc.
    pub(crate) fn ensure_for_build(root: &Path) -> Result<(), Error> {
        Self::found(root, vec![&TOOLS[2]]).map(drop)
    }

    fn found(root: &Path, wanted: Vec<&'static Tool>) -> Result<Self, Error> {
        ensure(root, &wanted)?;
        let bin = root.join("target/tools/bin");
        let place =
            |tool: &'static Tool| Ok((tool, named(root, tool)?.unwrap_or_else(|| bin.join(tool.name))));
        Ok(Self { found: wanted.into_iter().map(place).collect::<Result<_, Error>>()? })
    }

    /// Returns the error that `ensure_all` is bound to return, if any, and fetches nothing.
    pub(crate) fn lacks(root: &Path) -> Option<Error> {
        let valgrind = cfg!(target_os = "linux").then_some(&VALGRIND);
        let missing = match missing(root, &all().into_iter().chain(valgrind).collect::<Vec<_>>()) {
            Ok(missing) => missing.into_iter().filter(|tool| in_path(tool).is_none()).collect::<Vec<_>>(),
            Err(error) => return Some(error),
        };
        let why = apt::check().err().filter(|_| !missing.is_empty())?;
        Some(advice(&missing, &why))
    }

    /// Prints the paths.
    pub(crate) fn announce(&self) {
        for (tool, path) in &self.found {
            eprintln!("{:8} {}", tool.name, path.display());
        }
    }

    /// Returns the path of one of them.
    pub(crate) fn path<'a>(&'a self, name: &'a str) -> &'a Path {
        let found = self.found.iter().find(|(tool, _)| tool.name == name);
        found.map_or(Path::new(name), |(_, path)| path)
    }

    /// Returns the environment variables that pass the paths to tests.
    ///
    /// `PROTOC` is left to `.cargo/config.toml` and the caller: a build script runs again when the variable changes, so
    /// it has to be the same for all cargo commands.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let passed = self.found.iter().filter(|(tool, _)| tool.variable != "PROTOC");
        passed.map(|(tool, path)| (tool.variable, path.as_path()))
    }
}

/// Finds valgrind in the same ways, and returns its path.
pub(crate) fn valgrind(root: &Path) -> Result<PathBuf, Error> {
    alone(root, &VALGRIND)
}

/// Finds strace in the same ways, and returns its path.
pub(crate) fn strace(root: &Path) -> Result<PathBuf, Error> {
    alone(root, &STRACE)
}

/// The system's is not linked to, because Debian's valgrind does not run from a link.
fn alone(root: &Path, tool: &'static Tool) -> Result<PathBuf, Error> {
    if let Some(found) = named(root, tool)?.or_else(|| in_path(tool)) {
        return Ok(found);
    }
    ensure(root, &[tool])?;
    Ok(root.join("target/tools/bin").join(tool.name))
}

fn all() -> Vec<&'static Tool> {
    TOOLS.iter().chain(&PEERS).collect()
}

fn ensure(root: &Path, wanted: &[&'static Tool]) -> Result<(), Error> {
    let tools = root.join("target/tools");
    let bin = tools.join("bin");
    fs::create_dir_all(&bin).map_err(|error| Error::io("create", &bin, &error))?;
    let mut to_fetch = Vec::new();
    for tool in missing(root, wanted)? {
        match in_path(tool) {
            Some(system) => bin::link(&system, &bin.join(tool.name))?,
            None => to_fetch.push(tool),
        }
    }
    if to_fetch.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = to_fetch.iter().flat_map(|tool| tool.packages).copied().collect();
    eprintln!("fetching {} into {}", packages.join(", "), tools.display());
    let unpacked = apt::fetch(&tools, &packages).map_err(|error| advice(&to_fetch, &error))?;
    for tool in to_fetch {
        bin::write_wrapper(&unpacked, &bin.join(tool.name))?;
        if !runs(&bin.join(tool.name), tool) {
            let why = Error::new(format!("what was fetched as {} does not run", tool.name));
            return Err(advice(&[tool], &why));
        }
    }
    Ok(())
}

/// Returns the tools that no variable names and `target/tools/bin` lacks.
fn missing(root: &Path, wanted: &[&'static Tool]) -> Result<Vec<&'static Tool>, Error> {
    let bin = root.join("target/tools/bin");
    let mut missing = Vec::new();
    for &tool in wanted {
        if named(root, tool)?.is_none() && !runs(&bin.join(tool.name), tool) {
            missing.push(tool);
        }
    }
    Ok(missing)
}

/// Returns the executable that the caller's environment names.
fn named(root: &Path, tool: &Tool) -> Result<Option<PathBuf>, Error> {
    let value = std::env::var_os(tool.variable);
    let Some(path) = chosen(root, value) else { return Ok(None) };
    if runs(&path, tool) {
        return Ok(Some(path));
    }
    Err(Error::new(format!("{} names {}, which does not run", tool.variable, path.display())))
}

/// Returns the value of a variable, unless it is empty or the setting in `.cargo/config.toml`.
fn chosen(root: &Path, value: Option<OsString>) -> Option<PathBuf> {
    let path = PathBuf::from(value.filter(|value| !value.is_empty())?);
    (path != root.join("xtask/protoc")).then_some(path)
}

fn runs(program: &Path, tool: &Tool) -> bool {
    let mut command = Command::new(program);
    command.args(tool.check).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn in_path(tool: &Tool) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(tool.name))
        .find(|program| runs(program, tool))
}

fn advice(missing: &[&Tool], why: &Error) -> Error {
    let names: Vec<_> = missing.iter().map(|tool| tool.name).collect();
    let packages: Vec<_> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    let mut brew: Vec<_> = missing.iter().map(|tool| tool.brew).collect();
    brew.dedup();
    let variables: Vec<_> = missing.iter().map(|tool| tool.variable).collect();
    Error::new(format!(
        "{} missing, and could not be fetched: {why}\n\
         Install {} (on Debian and Ubuntu the packages {}; on macOS `brew install {}`) so that they \
         are in the PATH, or name them in {}.",
        if names.len() == 1 { format!("{} is", names[0]) } else { format!("{} are", names.join(", ")) },
        names.join(", "),
        packages.join(", "),
        brew.join(" "),
        variables.join(", "),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_names_a_tool_unless_it_is_empty_or_the_setting_of_cargo_config() {
        let root = Path::new("/house");
        assert_eq!(chosen(root, None), None);
        assert_eq!(chosen(root, Some("".into())), None);
        assert_eq!(chosen(root, Some("/house/xtask/protoc".into())), None);
        assert_eq!(chosen(root, Some("/opt/protoc".into())), Some("/opt/protoc".into()));
    }

    #[test]
    fn the_advice_names_programs_packages_and_variables() {
        let advice = advice(&[&TOOLS[0], &TOOLS[2]], &Error::new("no network")).to_string();
        for word in [
            "etcd, protoc are missing",
            "no network",
            "etcd-server, protobuf-compiler",
            "brew install etcd protobuf",
            "ETCD_BIN, PROTOC",
        ] {
            assert!(advice.contains(word), "{advice}");
        }
    }
}

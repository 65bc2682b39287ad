//! etcd, etcdctl and protoc: taken from where they are, fetched where they are not.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod apt;
pub(crate) mod deny;
pub(crate) mod go;

use crate::error::Error;

/// A program that the tests and the build need.
#[derive(Debug)]
struct Tool {
    name: &'static str,
    /// The variable that names another one.
    variable: &'static str,
    /// The packages that have it, and what it works with.
    packages: &'static [&'static str],
    /// What it is asked to do to show that it works.
    check: &'static [&'static str],
}

static TOOLS: [Tool; 3] = [
    Tool { name: "etcd", variable: "ETCD_BIN", packages: &["etcd-server"], check: &["--version"] },
    Tool { name: "etcdctl", variable: "ETCDCTL_BIN", packages: &["etcd-client"], check: &["version"] },
    Tool {
        name: "protoc",
        variable: "PROTOC",
        // The compiler, and the files of `google/protobuf` that others import: it runs without them, and fails.
        packages: &["protobuf-compiler", "libprotobuf-dev"],
        check: &["-o/dev/null", "google/protobuf/descriptor.proto"],
    },
];

/// Where the tools are.
#[derive(Debug)]
pub(crate) struct Tools {
    found: Vec<(&'static Tool, PathBuf)>,
}

impl Tools {
    /// Finds each tool: named by its variable, or in `target/tools/bin`, or in the `PATH`, or fetched. What
    /// was not named is in `target/tools/bin` afterwards.
    pub(crate) fn ensure(root: &Path) -> Result<Self, Error> {
        ensure(root, &TOOLS)?;
        let bin = root.join("target/tools/bin");
        let place =
            |tool: &'static Tool| Ok((tool, named(root, tool)?.unwrap_or_else(|| bin.join(tool.name))));
        Ok(Self { found: TOOLS.iter().map(place).collect::<Result<_, Error>>()? })
    }

    /// Does the same for what a build needs: protoc.
    pub(crate) fn ensure_for_build(root: &Path) -> Result<(), Error> {
        ensure(root, &TOOLS[2..])
    }

    /// Returns why `ensure` is bound to fail, if it is: without fetching anything.
    pub(crate) fn lacks(root: &Path) -> Option<Error> {
        let missing = match missing(root, &TOOLS) {
            Ok(missing) => missing.into_iter().filter(|tool| in_path(tool).is_none()).collect::<Vec<_>>(),
            Err(error) => return Some(error),
        };
        let why = apt::check().err().filter(|_| !missing.is_empty())?;
        Some(advice(&missing, &why))
    }

    pub(crate) fn announce(&self) {
        for (tool, path) in &self.found {
            eprintln!("{:8} {}", tool.name, path.display());
        }
    }

    /// Where one of them is.
    pub(crate) fn path<'a>(&'a self, name: &'a str) -> &'a Path {
        let found = self.found.iter().find(|(tool, _)| tool.name == name);
        found.map_or(Path::new(name), |(_, path)| path)
    }

    /// The variables that tell tests and build scripts.
    ///
    /// `PROTOC` is left to `.cargo/config.toml` and the caller: a build script runs again when it changes, so it
    /// had better be the same for all cargo commands.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let told = self.found.iter().filter(|(tool, _)| tool.variable != "PROTOC");
        told.map(|(tool, path)| (tool.variable, path.as_path()))
    }
}

fn ensure(root: &Path, wanted: &'static [Tool]) -> Result<(), Error> {
    let tools = root.join("target/tools");
    let bin = tools.join("bin");
    fs::create_dir_all(&bin).map_err(|error| Error::io("create", &bin, &error))?;
    let mut to_fetch = Vec::new();
    for tool in missing(root, wanted)? {
        match in_path(tool) {
            Some(system) => link(&system, &bin.join(tool.name))?,
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
        write_wrapper(&unpacked, &bin, tool)?;
        if !runs(&bin.join(tool.name), tool) {
            let why = Error::new(format!("what was fetched as {} does not run", tool.name));
            return Err(advice(&[tool], &why));
        }
    }
    Ok(())
}

/// The tools that neither a variable names nor `target/tools/bin` has.
fn missing(root: &Path, wanted: &'static [Tool]) -> Result<Vec<&'static Tool>, Error> {
    let bin = root.join("target/tools/bin");
    let mut missing = Vec::new();
    for tool in wanted {
        if named(root, tool)?.is_none() && !runs(&bin.join(tool.name), tool) {
            missing.push(tool);
        }
    }
    Ok(missing)
}

/// The tool that the caller's environment names.
fn named(root: &Path, tool: &Tool) -> Result<Option<PathBuf>, Error> {
    let value = std::env::var_os(tool.variable);
    let Some(path) = chosen(root, value) else { return Ok(None) };
    if runs(&path, tool) {
        return Ok(Some(path));
    }
    Err(Error::new(format!("{} names {}, which does not run", tool.variable, path.display())))
}

/// What a variable says, unless it is empty or only our own setting in `.cargo/config.toml`.
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

fn link(program: &Path, at: &Path) -> Result<(), Error> {
    remove(at)?;
    symlink(program, at).map_err(|error| Error::io("create", at, &error))
}

/// A script that runs what was unpacked, with the libraries that came along. It `exec`s, so that a signal to
/// its process reaches the program.
fn write_wrapper(unpacked: &Path, bin: &Path, tool: &Tool) -> Result<(), Error> {
    let at = bin.join(tool.name);
    remove(&at)?;
    let script = wrapper(&unpacked.join("usr/bin").join(tool.name), &apt::library_directories(unpacked));
    fs::write(&at, script).map_err(|error| Error::io("write", &at, &error))?;
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755))
        .map_err(|error| Error::io("mark", &at, &error))
}

fn wrapper(program: &Path, libraries: &[PathBuf]) -> String {
    let mut script = "#!/bin/sh\n# Written by `cargo xtask tools`.\n".to_owned();
    if !libraries.is_empty() {
        let libraries: Vec<_> = libraries.iter().map(|directory| directory.display().to_string()).collect();
        let libraries = quoted(&libraries.join(":"));
        script.push_str(&format!(
            "LD_LIBRARY_PATH={libraries}\"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"\nexport LD_LIBRARY_PATH\n"
        ));
    }
    script.push_str(&format!("exec {} \"$@\"\n", quoted(&program.display().to_string())));
    script
}

/// As one word of the shell's.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn remove(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", file, &error)),
        _ => Ok(()),
    }
}

fn advice(missing: &[&Tool], why: &Error) -> Error {
    let names: Vec<_> = missing.iter().map(|tool| tool.name).collect();
    let packages: Vec<_> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    let variables: Vec<_> = missing.iter().map(|tool| tool.variable).collect();
    Error::new(format!(
        "{} missing, and could not be fetched: {why}\n\
         Install {} (on Debian and Ubuntu the packages {}; on macOS `brew install etcd protobuf`) so that they \
         are in the PATH, or name them in {}.",
        if names.len() == 1 { format!("{} is", names[0]) } else { format!("{} are", names.join(", ")) },
        names.join(", "),
        packages.join(", "),
        variables.join(", "),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(script: &Path, argument: &str) -> String {
        let output =
            Command::new("sh").arg(script).arg(argument).env_remove("LD_LIBRARY_PATH").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_variable_names_a_tool_unless_it_is_empty_or_our_own_setting() {
        let root = Path::new("/house");
        assert_eq!(chosen(root, None), None);
        assert_eq!(chosen(root, Some("".into())), None);
        assert_eq!(chosen(root, Some("/house/xtask/protoc".into())), None);
        assert_eq!(chosen(root, Some("/opt/protoc".into())), Some("/opt/protoc".into()));
    }

    #[test]
    fn a_wrapper_passes_arguments_and_libraries_on_from_any_path() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("it's a place");
        fs::create_dir(&place).unwrap();
        let program = place.join("program");
        fs::write(&program, "#!/bin/sh\necho \"$LD_LIBRARY_PATH <$1>\"\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let script = place.join("wrapper");
        fs::write(&script, wrapper(&program, &["/a'b".into(), "/c".into()])).unwrap();
        assert_eq!(output(&script, "two words"), "/a'b:/c <two words>\n");
        fs::write(&script, wrapper(&program, &[])).unwrap();
        assert_eq!(output(&script, ""), " <>\n");
    }

    #[test]
    fn a_link_replaces_one_that_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("etcd");
        link(Path::new("/nowhere"), &at).unwrap();
        link(Path::new("/bin/sh"), &at).unwrap();
        assert_eq!(fs::read_link(&at).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn the_advice_names_programs_packages_and_variables() {
        let advice = advice(&[&TOOLS[0], &TOOLS[2]], &Error::new("no network")).to_string();
        for word in
            ["etcd, protoc are missing", "no network", "etcd-server, protobuf-compiler", "ETCD_BIN, PROTOC"]
        {
            assert!(advice.contains(word), "{advice}");
        }
    }
}

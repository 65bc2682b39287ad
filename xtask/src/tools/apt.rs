//! Packages of Debian and Ubuntu, downloaded and unpacked: no root, nothing installed, nothing started.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Step;
use crate::error::Error;

/// Unpacks these packages, and the libraries they need that the system lacks; returns where.
///
/// It tries the system's package lists first. Where there are none, as in most containers, or they are too old to
/// download by, it fetches lists of its own.
pub(crate) fn fetch(tools: &Path, packages: &[&str]) -> Result<PathBuf, Error> {
    check()?;
    let (debs, unpacked) = (tools.join("debs"), tools.join("root"));
    // What an interrupted run left there is of no use.
    let _ = fs::remove_dir_all(&debs);
    for directory in [&debs, &unpacked] {
        fs::create_dir_all(directory).map_err(|error| Error::io("create", directory, &error))?;
    }
    let with_system_lists = Apt { directory: &debs, private: None };
    if with_system_lists.download(packages).is_err() {
        eprintln!("the system's package lists are of no use; fetching others");
        let with_own_lists = Apt { directory: &debs, private: Some(private_state(tools)?) };
        with_own_lists.update()?;
        with_own_lists.download(packages)?;
    }
    for deb in files_ending(&debs, ".deb")? {
        Step::new("dpkg-deb", tools).args(["-x".as_ref(), deb.as_os_str(), unpacked.as_os_str()]).output()?;
        // Otherwise the next fetch would unpack an old version over a new one.
        fs::remove_file(&deb).map_err(|error| Error::io("remove", &deb, &error))?;
    }
    Ok(unpacked)
}

/// Checks that this system can download and unpack packages.
pub(crate) fn check() -> Result<(), Error> {
    for program in ["apt-get", "dpkg-deb"] {
        let version = Step::new(program, Path::new("/")).args(["--version"]).output();
        version.map_err(|_| Error::new(format!("this system has no {program}")))?;
    }
    Ok(())
}

/// Returns the folders that shared libraries were unpacked to.
pub(crate) fn library_directories(unpacked: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for above in ["usr/lib", "lib"] {
        let above = unpacked.join(above);
        let below = fs::read_dir(&above).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(
            below
                .filter(|path| path.is_dir())
                .chain([above.clone()])
                .filter(|directory| has_libraries(directory)),
        );
    }
    found.sort();
    found
}

struct Apt<'a> {
    /// The folder that downloads go to.
    directory: &'a Path,
    /// The folder of package lists and caches, unless they are the system's.
    private: Option<PathBuf>,
}

impl Apt<'_> {
    fn update(&self) -> Result<(), Error> {
        self.run(&["update"])?;
        // An update that reaches no server prints a warning, and succeeds.
        match self
            .private
            .as_deref()
            .map(|state| files_ending(&state.join("lists"), "Release"))
            .transpose()?
        {
            Some(lists) if lists.is_empty() => {
                Err(Error::new("`apt-get update` brought no package lists; is this machine offline?"))
            }
            _ => Ok(()),
        }
    }

    fn download(&self, packages: &[&str]) -> Result<(), Error> {
        let simulate = ["--simulate", "--no-install-recommends", "install"];
        let plan = self.run(&[&simulate[..], packages].concat())?;
        let needed = needed(&plan, packages);
        self.run(&[&["download"], &needed[..]].concat()).map(drop)
    }

    fn run(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut options = vec![
            // This changes nothing that a lock would guard, and may lack the right to take one.
            "Debug::NoLocking=1".to_owned(),
            // Otherwise apt, run as root, writes as a user without the right to write here.
            "APT::Sandbox::User=root".to_owned(),
        ];
        if let Some(state) = &self.private {
            options.push(format!("Dir::State::lists={}", state.join("lists").display()));
            options.push(format!("Dir::Cache={}", state.join("cache").display()));
        }
        let options = options.iter().flat_map(|option| ["-o", option]);
        Step::new("apt-get", self.directory)
            .args(options.chain(arguments.iter().copied()))
            .displayed_as(format!("apt-get {}", arguments.join(" ")))
            .in_english()
            .output()
    }
}

/// Returns the packages to download: those requested, and the libraries that an installation would add.
///
/// A simulation prints `Inst name (version …)`, and `Inst name [old version] (version …)` for an upgrade. What
/// the system has in an older version is left alone: a program must not mix its C library with ours.
fn needed<'a>(plan: &'a str, packages: &[&'a str]) -> Vec<&'a str> {
    let mut needed = packages.to_vec();
    for line in plan.lines() {
        let mut words = line.split_whitespace();
        let (Some("Inst"), Some(name), Some(version)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if name.starts_with("lib") && version.starts_with('(') && !needed.contains(&name) {
            needed.push(name);
        }
    }
    needed
}

fn private_state(tools: &Path) -> Result<PathBuf, Error> {
    let state = tools.join("apt");
    for partial in ["lists/partial", "cache/archives/partial"] {
        let directory = state.join(partial);
        fs::create_dir_all(&directory).map_err(|error| Error::io("create", &directory, &error))?;
    }
    Ok(state)
}

fn files_ending(directory: &Path, ending: &str) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).map_err(|error| Error::io("read", directory, &error))?;
    let files = entries.flatten().map(|entry| entry.path());
    Ok(files.filter(|path| path.display().to_string().ends_with(ending)).collect())
}

fn has_libraries(directory: &Path) -> bool {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .any(|name| name.ends_with(".so") || name.contains(".so."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_that_the_system_lacks_are_downloaded_too() {
        let plan = "\
NOTE: This is only a simulation!
Reading package lists...
Inst libprotobuf32 (3.21.12-3 Debian:12.0/stable [amd64])
Inst libprotoc32 (3.21.12-3 Debian:12.0/stable [amd64])
Inst protobuf-compiler (3.21.12-3 Debian:12.0/stable [amd64])
Inst libc6 [2.36-9] (2.36-10 Debian:12.0/stable [amd64])
Inst adduser (3.134 Debian:12.0/stable [all])
Conf libprotobuf32 (3.21.12-3 Debian:12.0/stable [amd64])
";
        assert_eq!(
            needed(plan, &["etcd-server", "protobuf-compiler"]),
            ["etcd-server", "protobuf-compiler", "libprotobuf32", "libprotoc32"]
        );
    }

    #[test]
    fn library_directories_are_those_with_libraries() {
        let unpacked = tempfile::tempdir().unwrap();
        for directory in ["usr/lib/x86_64-linux-gnu", "usr/lib/systemd", "lib"] {
            fs::create_dir_all(unpacked.path().join(directory)).unwrap();
        }
        fs::write(unpacked.path().join("usr/lib/x86_64-linux-gnu/libprotoc.so.32"), "").unwrap();
        fs::write(unpacked.path().join("usr/lib/systemd/etcd.service"), "").unwrap();
        assert_eq!(library_directories(unpacked.path()), [unpacked.path().join("usr/lib/x86_64-linux-gnu")]);
        assert_eq!(library_directories(Path::new("/nowhere")), Vec::<PathBuf>::new());
    }
}

//! `target/tools/bin`: links to programs of the system, and scripts that run those which were unpacked.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::tools::apt;

/// Links to a program, in place of what is there.
pub(super) fn link(program: &Path, at: &Path) -> Result<(), Error> {
    remove(at)?;
    symlink(program, at).map_err(|error| Error::io("create", at, &error))
}

/// Writes a script that runs the unpacked program of this name with the libraries that were unpacked with it. It `exec`s,
/// so that a signal to its process reaches the program.
pub(super) fn write_wrapper(unpacked: &Path, at: &Path) -> Result<(), Error> {
    remove(at)?;
    let program = program(unpacked, at.file_name().unwrap_or_default());
    let mut script = wrapper(&program, &apt::library_directories(unpacked));
    let valgrind = unpacked.join("usr/libexec/valgrind");
    if program.ends_with("valgrind") && valgrind.is_dir() {
        // Otherwise it looks for its tools where it would be installed.
        let folder = quoted(&valgrind.display().to_string());
        script = script.replacen("exec ", &format!("VALGRIND_LIB={folder} exec "), 1);
    }
    fs::write(at, script).map_err(|error| Error::io("write", at, &error))?;
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).map_err(|error| Error::io("mark", at, &error))
}

/// Returns the path of an unpacked program: those of servers are in `sbin`.
fn program(unpacked: &Path, name: &OsStr) -> PathBuf {
    let of_servers = unpacked.join("usr/sbin").join(name);
    if of_servers.is_file() { of_servers } else { unpacked.join("usr/bin").join(name) }
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

/// Quotes text as one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn remove(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", file, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What a shell behind `script` prints that is given `argument`.
    fn output(script: &Path, argument: &str) -> String {
        let print = "echo \"$LD_LIBRARY_PATH <$1>\"";
        let mut command = Command::new("sh");
        command.arg(script).args(["-c", print, "it", argument]).env_remove("LD_LIBRARY_PATH");
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn a_wrapper_passes_arguments_and_libraries_on_from_any_path() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("it's a place");
        fs::create_dir(&place).unwrap();
        let program = place.join("program");
        // One that was written just now may be busy: another thread that starts a process has its file open for a moment.
        link(Path::new("/bin/sh"), &program).unwrap();
        let script = place.join("wrapper");
        fs::write(&script, wrapper(&program, &["/a'b".into(), "/c".into()])).unwrap();
        assert_eq!(output(&script, "two words"), "/a'b:/c <two words>\n");
        fs::write(&script, wrapper(&program, &[])).unwrap();
        assert_eq!(output(&script, ""), " <>\n");
    }

    #[test]
    fn a_program_may_be_among_those_of_servers() {
        let unpacked = tempfile::tempdir().unwrap();
        let sbin = unpacked.path().join("usr/sbin");
        fs::create_dir_all(&sbin).unwrap();
        fs::write(sbin.join("nginx"), "").unwrap();
        assert_eq!(program(unpacked.path(), OsStr::new("nginx")), sbin.join("nginx"));
        assert_eq!(program(unpacked.path(), OsStr::new("etcd")), unpacked.path().join("usr/bin/etcd"));
    }

    #[test]
    fn a_link_replaces_one_that_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("etcd");
        link(Path::new("/nowhere"), &at).unwrap();
        link(Path::new("/bin/sh"), &at).unwrap();
        assert_eq!(fs::read_link(&at).unwrap(), Path::new("/bin/sh"));
    }
}

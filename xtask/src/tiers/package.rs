//! The packages as `cargo publish` would make them, each built from nothing but its package.

use std::fs;
use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::metadata::{Metadata, Package};

/// Makes all packages, and checks that each compiles.
///
/// Cargo could do the second part too, but keeps what it unpacks of packages that others depend on in its home, and takes
/// that for the new packages when it runs again.
pub(crate) fn run(root: &Path) -> Result<(), Error> {
    let metadata = Metadata::load(root)?;
    let published: Vec<_> = metadata.published().collect();
    let names = published.iter().flat_map(|package| ["--package", &package.name]);
    Step::cargo(root).args(["package", "--quiet", "--allow-dirty", "--no-verify"]).args(names).run()?;

    let packages = root.join("target/package");
    let unpacked = packages.join("unpacked");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).map_err(|error| Error::io("remove", &unpacked, &error))?;
    }
    fs::create_dir_all(&unpacked).map_err(|error| Error::io("create", &unpacked, &error))?;
    for package in &published {
        let archive = packages.join(format!("{}.crate", folder(package)));
        Step::new("tar", &unpacked).args(["-xzf".as_ref(), archive.as_os_str()]).output()?;
    }
    let manifest = unpacked.join("Cargo.toml");
    fs::write(&manifest, workspace(&published)).map_err(|error| Error::io("write", &manifest, &error))?;
    let lock = unpacked.join("Cargo.lock");
    fs::copy(root.join("Cargo.lock"), &lock).map_err(|error| Error::io("write", &lock, &error))?;
    for package in &published {
        // Alone, so that none has features that another one enables.
        let check = ["check", "--package", &package.name, "--manifest-path"];
        let target = root.join("target/package/build");
        Step::cargo(root).args(check).args([&manifest]).env("CARGO_TARGET_DIR", target).run()?;
    }
    Ok(())
}

/// A workspace of the unpacked packages, in which they depend on each other.
fn workspace(packages: &[&Package]) -> String {
    let members: Vec<_> = packages.iter().map(|package| format!("{:?}", folder(package))).collect();
    let patches =
        packages.iter().map(|package| format!("{} = {{ path = {:?} }}\n", package.name, folder(package)));
    format!(
        "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n[patch.crates-io]\n{}",
        members.join(", "),
        patches.collect::<String>()
    )
}

/// The folder in a package's archive.
fn folder(package: &Package) -> String {
    format!("{}-{}", package.name, package.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_depend_on_each_other_and_not_on_those_of_the_registry() {
        let package =
            |name: &str| Package { name: name.into(), version: "0.1.0".into(), ..Package::default() };
        let (core, etcd) = (package("hither-core"), package("hither-etcd"));
        let expected = r#"[workspace]
resolver = "3"
members = ["hither-core-0.1.0", "hither-etcd-0.1.0"]

[patch.crates-io]
hither-core = { path = "hither-core-0.1.0" }
hither-etcd = { path = "hither-etcd-0.1.0" }
"#;
        assert_eq!(workspace(&[&core, &etcd]), expected);
    }
}

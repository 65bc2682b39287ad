//! The minimum Rust version, as far as a newer toolchain can check it.
//!
//! Clippy's `incompatible_msrv` checks what we use of the standard library; here it is made sure that the lint and the
//! version are in force in every package, and that no dependency asks for a newer Rust.

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::lints::Finding;
use crate::metadata::{Metadata, Package};

pub(crate) fn find(root: &Path, metadata: &Metadata) -> Result<Vec<Finding>, Error> {
    let manifest = root.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(|error| Error::io("read", &manifest, &error))?;
    let ours = text.lines().find_map(|line| line.strip_prefix("rust-version = ")?.trim().split('"').nth(1));
    let ours = ours.ok_or_else(|| Error::new("Cargo.toml has no rust-version"))?;
    let mut findings = newer(root, ours, metadata.packages());
    if !text.contains("\nincompatible_msrv = ") {
        findings.push(finding(root, &manifest, "the lint incompatible_msrv is not set".to_owned()));
    }
    for member in metadata.members() {
        let manifest = &member.manifest;
        let text = fs::read_to_string(manifest).map_err(|error| Error::io("read", manifest, &error))?;
        findings.extend(not_in_force(root, ours, member, &text));
    }
    Ok(findings)
}

/// Packages that ask for a newer Rust. All of Cargo.lock: tests and tools are built with the oldest Rust too.
fn newer(root: &Path, ours: &str, packages: &[Package]) -> Vec<Finding> {
    let asks = |package: &Package| {
        let theirs = package.rust_version.clone()?;
        let message =
            format!("{} {} needs Rust {theirs}, and we promise {ours}", package.name, package.version);
        (version(&theirs) > version(ours)).then(|| finding(root, &root.join("Cargo.lock"), message))
    };
    packages.iter().filter_map(asks).collect()
}

fn not_in_force(root: &Path, ours: &str, member: &Package, manifest: &str) -> Vec<Finding> {
    let mut messages = Vec::new();
    if member.rust_version.as_deref() != Some(ours) {
        messages.push("needs `rust-version.workspace = true`".to_owned());
    }
    let after = manifest.split("\n[lints]").nth(1).unwrap_or_default();
    if !after.split("\n[").next().unwrap_or_default().contains("workspace = true") {
        messages.push("needs `[lints] workspace = true`".to_owned());
    }
    messages.into_iter().map(|message| finding(root, &member.manifest, message)).collect()
}

fn finding(root: &Path, file: &Path, message: String) -> Finding {
    Finding { file: file.strip_prefix(root).unwrap_or(file).to_owned(), line: 0, message }
}

/// `1.88` and `1.88.0` are the same.
fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(rust_version: Option<&str>) -> Package {
        Package {
            name: "tokio".into(),
            version: "2.0.0".into(),
            manifest: "/w/core/Cargo.toml".into(),
            rust_version: rust_version.map(str::to_owned),
            ..Package::default()
        }
    }

    #[test]
    fn a_dependency_that_needs_a_newer_rust_is_found() {
        for (theirs, is_found) in [
            (Some("1.89"), true),
            (Some("1.88.1"), true),
            (Some("2.0"), true),
            (Some("1.88.0"), false),
            (Some("1.9"), false),
            (None, false),
        ] {
            let found = newer(Path::new("/w"), "1.88", &[package(theirs)]);
            assert_eq!(found.len(), usize::from(is_found), "{theirs:?}");
        }
        let found = newer(Path::new("/w"), "1.88", &[package(Some("1.90"))]);
        assert_eq!(found[0].to_string(), "Cargo.lock: tokio 2.0.0 needs Rust 1.90, and we promise 1.88");
    }

    #[test]
    fn a_package_without_the_version_or_the_lints_is_found() {
        let found = |rust_version, manifest: &str| {
            let found = not_in_force(Path::new("/w"), "1.88", &package(rust_version), manifest);
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let lints = "[package]\n\n[lints]\nworkspace = true\n\n[features]\n";
        assert_eq!(found(Some("1.88"), lints), "");
        assert!(found(Some("1.95"), lints).contains("core/Cargo.toml: needs `rust-version"));
        assert!(found(None, lints).contains("needs `rust-version"));
        for without in ["[package]\n", "[package]\n\n[lints]\n\n[x]\nworkspace = true\n"] {
            assert!(found(Some("1.88"), without).contains("needs `[lints] workspace = true`"), "{without}");
        }
    }
}

//! The packages, as `cargo metadata` describes them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::Step;
use crate::error::Error;

/// The workspace and all that it depends on.
#[derive(Debug)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
}

/// One package.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) is_member: bool,
    /// Whether it may go to a registry.
    pub(crate) is_published: bool,
    /// The path of its Cargo.toml.
    pub(crate) manifest: PathBuf,
    pub(crate) rust_version: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) description: Option<String>,
    pub(crate) license: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) readme: Option<String>,
    pub(crate) keywords: Vec<String>,
    pub(crate) categories: Vec<String>,
    /// `package.metadata.docs.rs`.
    pub(crate) docs_rs: Value,
}

impl Package {
    /// Returns the folder of its Cargo.toml.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest.parent().unwrap_or(&self.manifest)
    }
}

impl Metadata {
    /// Runs `cargo metadata`, locked, so that a Cargo.lock that does not match a manifest is an error here.
    pub(crate) fn load(root: &Path) -> Result<Self, Error> {
        let metadata = ["metadata", "--locked", "--all-features", "--format-version=1"];
        Self::parse(&Step::cargo(root).args(metadata).output()?)
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let unreadable = |why: String| Error::new(format!("`cargo metadata` cannot be read: {why}"));
        let metadata: Value = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        let list = |key: &str| metadata[key].as_array().ok_or_else(|| unreadable(format!("it has no {key}")));
        let members = list("workspace_members")?;
        let packages = list("packages")?.iter().map(|package| {
            let is_member = members.contains(&package["id"]);
            package_of(package, is_member)
                .ok_or_else(|| unreadable(format!("a package is incomplete: {package}")))
        });
        Ok(Self { packages: packages.collect::<Result<_, _>>()? })
    }

    /// Returns all packages, including dependencies.
    pub(crate) fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// Returns the packages of the workspace.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.is_member)
    }

    /// Returns the packages of the workspace that are published.
    pub(crate) fn published(&self) -> impl Iterator<Item = &Package> {
        self.members().filter(|package| package.is_published)
    }
}

fn package_of(package: &Value, is_member: bool) -> Option<Package> {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    let list = |key: &str| {
        let values = package[key].as_array().into_iter().flatten();
        values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    Some(Package {
        name: text("name")?,
        version: text("version")?,
        is_member,
        // `null` is every registry, and `[]` is none.
        is_published: !package["publish"].as_array().is_some_and(Vec::is_empty),
        manifest: text("manifest_path")?.into(),
        rust_version: text("rust_version"),
        features: package["features"].as_object().into_iter().flat_map(|map| map.keys().cloned()).collect(),
        description: text("description"),
        license: text("license"),
        repository: text("repository"),
        readme: text("readme"),
        keywords: list("keywords"),
        categories: list("categories"),
        docs_rs: package["metadata"]["docs"]["rs"].clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_their_features_and_know_whether_they_are_published() {
        let metadata = Metadata::parse(
            r#"{"workspace_members": ["core 0.1", "xtask 0.1"], "packages": [
                {"id": "core 0.1", "name": "hither-core", "version": "0.1.0", "manifest_path": "/w/core/Cargo.toml",
                 "publish": null, "features": {"conformance": ["tokio/macros"], "mock": ["dep:mockall"]},
                 "keywords": ["grpc"], "metadata": {"docs": {"rs": {"all-features": true}}}},
                {"id": "xtask 0.1", "name": "xtask", "version": "0.1.0", "manifest_path": "/w/xtask/Cargo.toml",
                 "publish": [], "features": {}},
                {"id": "tokio 1.0", "name": "tokio", "version": "1.0.0", "manifest_path": "/r/tokio/Cargo.toml",
                 "features": {}, "rust_version": "1.85"}
            ]}"#,
        )
        .unwrap();
        let names =
            |packages: Vec<&Package>| packages.iter().map(|package| package.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(metadata.packages().iter().collect()), ["hither-core", "xtask", "tokio"]);
        assert_eq!(names(metadata.members().collect()), ["hither-core", "xtask"]);
        assert_eq!(names(metadata.published().collect()), ["hither-core"]);
        let core = &metadata.packages()[0];
        assert_eq!(core.features, ["conformance", "mock"]);
        assert_eq!((core.folder(), &core.keywords[..]), (Path::new("/w/core"), &["grpc".to_owned()][..]));
        assert_eq!(core.docs_rs["all-features"], true);
        assert_eq!(metadata.packages()[2].rust_version.as_deref(), Some("1.85"));
    }

    #[test]
    fn unreadable_metadata_is_an_error() {
        for bad in ["", "{}", r#"{"workspace_members": [], "packages": [{}]}"#] {
            assert!(Metadata::parse(bad).unwrap_err().to_string().contains("cannot be read"), "{bad}");
        }
    }
}

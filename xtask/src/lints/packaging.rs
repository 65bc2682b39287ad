//! What every published package has to have.
//!
//! `cargo publish --dry-run` only warns of a missing description, and knows nothing of the rest; the registry would
//! refuse the package, or show a page without it.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::lints::Finding;
use crate::metadata::{Metadata, Package};

/// The categories that we use, of those on <https://crates.io/category_slugs>. Another one is only ignored there.
const CATEGORIES: [&str; 5] =
    ["api-bindings", "asynchronous", "development-tools::testing", "network-programming", "web-programming"];

/// What has to be in the package.
const REQUIRED: [&str; 5] = ["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md", "src/lib.rs"];

/// What may be there besides `src`: Cargo's own files.
const ALLOWED: [&str; 3] = [".cargo_vcs_info.json", "Cargo.lock", "Cargo.toml.orig"];

pub(crate) fn find(root: &Path, metadata: &Metadata) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for package in metadata.published() {
        let list = ["package", "--list", "--allow-dirty", "--package", &package.name];
        let list = Step::cargo(root).args(list).output()?;
        let messages = incomplete(package).into_iter().chain(misplaced(list.lines()));
        let file = package.manifest.strip_prefix(root).unwrap_or(&package.manifest).to_owned();
        findings.extend(messages.map(|message| Finding { file: file.clone(), line: 0, message }));
    }
    Ok(findings)
}

/// What its Cargo.toml lacks.
fn incomplete(package: &Package) -> Vec<String> {
    let mut messages = Vec::new();
    let mut need = |is_met: bool, message: &str| {
        if !is_met {
            messages.push(message.to_owned());
        }
    };
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.trim().is_empty());
    need(is_set(&package.description), "has no description");
    need(
        package.description.as_ref().is_none_or(|text| text.len() <= 120),
        "has a description of more than a line",
    );
    need(is_set(&package.license), "has no license");
    need(is_set(&package.repository), "has no repository");
    need(is_set(&package.readme), "has no readme");
    need(!package.keywords.is_empty(), "has no keywords");
    need(package.keywords.len() <= 5, "has more than five keywords");
    need(!package.categories.is_empty(), "has no categories");
    need(package.categories.len() <= 5, "has more than five categories");
    need(package.docs_rs["all-features"] == true, "has no `package.metadata.docs.rs.all-features = true`");
    for keyword in package.keywords.iter().filter(|keyword| !is_keyword(keyword)) {
        messages.push(format!("has the keyword {keyword:?}, which the registry refuses"));
    }
    for category in package.categories.iter().filter(|category| !CATEGORIES.contains(&category.as_str())) {
        messages.push(format!("has the category {category:?}, which is not among those known to exist"));
    }
    messages
}

/// The registry's rule.
fn is_keyword(keyword: &str) -> bool {
    keyword.len() <= 20
        && keyword.starts_with(|first: char| first.is_ascii_alphanumeric())
        && keyword.chars().all(|c| c.is_ascii_alphanumeric() || "_-+".contains(c))
}

/// What its files lack, and what is there that must not be: tests have keys and certificates.
fn misplaced<'a>(files: impl Iterator<Item = &'a str>) -> Vec<String> {
    let files: Vec<_> = files.collect();
    let missing = REQUIRED.iter().filter(|file| !files.contains(file));
    let missing = missing.map(|file| format!("does not package {file}"));
    let surplus = files.iter().filter(|file| {
        let is_source = file.starts_with("src/") && file.ends_with(".rs");
        !is_source && !REQUIRED.contains(file) && !ALLOWED.contains(file)
    });
    missing.chain(surplus.map(|file| format!("packages {file}"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is found after a change.
    type Case = (&'static str, fn(&mut Package));

    fn complete() -> Package {
        Package {
            name: "hither-core".into(),
            description: Some("Service discovery".into()),
            license: Some("MIT".into()),
            repository: Some("https://example.org".into()),
            readme: Some("README.md".into()),
            keywords: vec!["grpc".into()],
            categories: vec!["network-programming".into()],
            docs_rs: json!({"all-features": true}),
            ..Package::default()
        }
    }

    #[test]
    fn each_missing_field_is_found() {
        assert_eq!(incomplete(&complete()), Vec::<String>::new());
        let without: [Case; 9] = [
            ("no description", |package| package.description = None),
            ("no description", |package| package.description = Some(" ".into())),
            ("no license", |package| package.license = None),
            ("no repository", |package| package.repository = None),
            ("no readme", |package| package.readme = None),
            ("no keywords", |package| package.keywords.clear()),
            ("no categories", |package| package.categories.clear()),
            ("all-features", |package| package.docs_rs = json!(null)),
            ("all-features", |package| package.docs_rs = json!({"all-features": false})),
        ];
        for (expected, remove) in without {
            let mut package = complete();
            remove(&mut package);
            let found = incomplete(&package);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn what_the_registry_refuses_or_ignores_is_found() {
        let spoilt: [Case; 6] = [
            ("more than a line", |package| package.description = Some("x".repeat(121))),
            ("more than five keywords", |package| package.keywords = vec!["x".into(); 6]),
            ("more than five categories", |package| package.categories = vec!["asynchronous".into(); 6]),
            ("\"service discovery\"", |package| package.keywords = vec!["service discovery".into()]),
            ("\"a-keyword-of-21-chars\"", |package| package.keywords = vec!["a-keyword-of-21-chars".into()]),
            ("\"networking\"", |package| package.categories = vec!["networking".into()]),
        ];
        for (expected, spoil) in spoilt {
            let mut package = complete();
            spoil(&mut package);
            let found = incomplete(&package);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn a_package_has_its_licences_and_nothing_of_its_tests() {
        let complete = REQUIRED.iter().chain(&ALLOWED).copied().chain(["src/a/b.rs"]);
        assert_eq!(misplaced(complete.clone()), Vec::<String>::new());
        for required in REQUIRED {
            let found = misplaced(complete.clone().filter(|file| *file != required));
            assert_eq!(found, [format!("does not package {required}")]);
        }
        for surplus in
            ["tests/tls/server-key.pem", "tests/watch.rs", "src/key.pem", "benches/scale/main.rs", ".env"]
        {
            assert_eq!(misplaced(complete.clone().chain([surplus])), [format!("packages {surplus}")]);
        }
    }
}

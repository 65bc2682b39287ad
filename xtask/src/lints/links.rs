//! Relative links of the Markdown files at the top and in each package: their files and headings have to exist.
//!
//! rustdoc checks the links of doc comments, and no tool of ours those of Markdown files. Links to other sites are left
//! out, because they need a network.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::lints::Finding;

pub(crate) fn find(root: &Path, folders: &[PathBuf]) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for folder in folders.iter().map(PathBuf::as_path).chain([root]) {
        let entries = fs::read_dir(folder).map_err(|error| Error::io("read", folder, &error))?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
        files.sort();
        for file in files {
            findings.extend(broken(root, &file)?);
        }
    }
    Ok(findings)
}

fn broken(root: &Path, file: &Path) -> Result<Vec<Finding>, Error> {
    let text = read(file)?;
    let mut findings = Vec::new();
    for (line, target) in links(&text) {
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let linked = match path {
            "" => file.to_owned(),
            path => file.parent().unwrap_or(root).join(path),
        };
        let message = if !linked.exists() {
            format!("{target} does not exist")
        } else if !anchor.is_empty() && !anchors(&read(&linked)?).iter().any(|known| known == anchor) {
            format!("{target} names no heading")
        } else {
            continue;
        };
        findings.push(Finding { file: file.strip_prefix(root).unwrap_or(file).to_owned(), line, message });
    }
    Ok(findings)
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|error| Error::io("read", file, &error))
}

/// The lines of a text outside its code blocks, counted from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((number + 1, line))
    })
}

/// The targets of `[text](target)` and `[name]: target` that are not on another site.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        let inline =
            line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        let definition =
            line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target.trim());
        let relative = |target: &&str| !target.contains("://") && !target.starts_with("mailto:");
        links.extend(inline.chain(definition).filter(relative).map(|target| (number, target)));
    }
    links
}

/// The anchors that GitHub gives to the headings of a text.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |(_, line): (usize, &str)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_links_and_definitions_are_found_and_other_sites_and_code_are_not() {
        let text = "[a](x/y.rs) and [b](#part), [c](https://h/d)\n```text\n[d](z)\n```\n[e]: w.md#top\n[f]: http://h\n";
        assert_eq!(links(text), [(1, "x/y.rs"), (1, "#part"), (5, "w.md#top")]);
    }

    #[test]
    fn headings_have_the_anchors_of_github() {
        let text = "# A b\n```sh\n# no\n```\n## One `Discovery`, for all-channels\n";
        assert_eq!(anchors(text), ["a-b", "one-discovery-for-all-channels"]);
    }

    #[test]
    fn a_link_to_a_missing_file_or_heading_is_found() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.md");
        fs::write(&file, "# A\n[x](a.md) [y](b.md)\n[z](#a) [w](a.md#b)\n").unwrap();
        let found = broken(root.path(), &file).unwrap();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["a.md:2: b.md does not exist", "a.md:3: a.md#b names no heading"]);
    }
}

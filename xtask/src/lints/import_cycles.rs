//! No cycles of imports between files, except between a module and those below it.
//!
//! A name that comes through a re-export counts for the file that defines it, so `use crate::Name` hides no cycle.
//! Modules under `#[cfg(test)]` and tests are left out: they may use whatever they test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use crate::error::Error;
use crate::lints::{Finding, source};

/// A module's path below the crate's root: `["discovery", "watcher"]`.
type ModulePath = Vec<String>;

/// Checks one `src` folder.
pub(crate) fn find(root: &Path, src: &Path) -> Result<Vec<Finding>, Error> {
    let mut krate = Crate::default();
    for source in source::below(root, src)? {
        let inside = root.join(&source.file);
        let inside = inside.strip_prefix(src).unwrap_or(&inside);
        // Each is a crate of its own.
        if !inside.starts_with("bin") {
            krate.add_file(source.file.clone(), &module_path(inside), source.tokens);
        }
    }
    Ok(krate.findings())
}

/// `a/mod.rs` and `a.rs` are the module `a`; `lib.rs` and `main.rs` are the root.
fn module_path(file: &Path) -> ModulePath {
    let mut path: ModulePath =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| last == "mod") || path == ["lib"] || path == ["main"] {
        path.pop();
    }
    path
}

#[derive(Debug, Default)]
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

/// What a module defines, and what it names.
#[derive(Debug, Default)]
struct Module {
    /// Set for the module of a file, and empty for one inside a file.
    file: PathBuf,
    defined: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths in the code that begin with `crate`, `self`, `super` or a module.
    paths: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Import {
    /// The name that it has here; `*` is a glob.
    name: String,
    path: Vec<String>,
}

type Edges = BTreeMap<ModulePath, BTreeMap<ModulePath, BTreeSet<String>>>;

impl Crate {
    fn add_file(&mut self, file: PathBuf, path: &ModulePath, tokens: TokenStream) {
        self.modules.entry(path.clone()).or_default().file = file;
        self.add_items(path, tokens);
    }

    fn add_items(&mut self, path: &ModulePath, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            at += match rest {
                [TokenTree::Ident(keyword), TokenTree::Ident(name), TokenTree::Group(body), ..]
                    if keyword == "mod" && body.delimiter() == Delimiter::Brace =>
                {
                    if !is_for_tests(&tokens[..at]) {
                        let inner = [path.as_slice(), &[name.to_string()]].concat();
                        self.modules.entry(inner.clone()).or_default();
                        self.add_items(&inner, body.stream());
                    }
                    3
                }
                [TokenTree::Ident(keyword), ..] if keyword == "use" => {
                    let length = rest.iter().position(|token| is_punct(token, ';')).unwrap_or(rest.len());
                    let imports = &mut self.modules.entry(path.clone()).or_default().imports;
                    use_tree(&rest[1..length], &[], imports);
                    length
                }
                [TokenTree::Ident(keyword), TokenTree::Ident(name), ..]
                    if is_definition(&keyword.to_string()) =>
                {
                    self.modules.entry(path.clone()).or_default().defined.insert(name.to_string());
                    2
                }
                [first, ..] => {
                    let paths = &mut self.modules.entry(path.clone()).or_default().paths;
                    match first {
                        TokenTree::Group(group) => inside(group, paths),
                        _ => paths.extend(path_at(&tokens, at)),
                    }
                    1
                }
                [] => 1,
            };
        }
    }

    /// The file's module that defines what this path names, seen from a module.
    fn resolve(&self, from: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        // Imports that name each other in a circle resolve to nothing.
        let depth = depth.checked_sub(1)?;
        let mut at = from.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            // Another crate, or what is defined or imported here, which is no path of its own.
            first if !self.modules.contains_key(&[at.as_slice(), &[first.to_owned()]].concat()) => {
                return None;
            }
            _ => {}
        }
        while let Some(part) = rest.first() {
            let child = [at.as_slice(), std::slice::from_ref(part)].concat();
            if self.modules.contains_key(&child) {
                (at, rest) = (child, &rest[1..]);
                continue;
            }
            let module = self.modules.get(&at)?;
            if !module.defined.contains(part) {
                let named = module.imports.iter().filter(|import| import.name == *part);
                let globs = module.imports.iter().filter(|import| import.name == "*");
                let named = named.map(|import| import.path.clone());
                let globs = globs.map(|import| [import.path.as_slice(), std::slice::from_ref(part)].concat());
                let reexported = named.chain(globs).find_map(|path| {
                    let found = self.resolve(&at, &path, depth)?;
                    Some(found).filter(|found| *found != at)
                });
                if let Some(found) = reexported {
                    return Some(found);
                }
            }
            break;
        }
        Some(self.file_module(at))
    }

    /// The module of the file that contains a module.
    fn file_module(&self, mut at: ModulePath) -> ModulePath {
        while self.modules.get(&at).is_some_and(|module| module.file.as_os_str().is_empty()) && !at.is_empty()
        {
            at.pop();
        }
        at
    }

    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (path, module) in &self.modules {
            let from = self.file_module(path.clone());
            let imported = module.imports.iter().map(|import| &import.path);
            for used in imported.chain(&module.paths) {
                let Some(to) = self.resolve(path, used, 16) else { continue };
                if to != from {
                    let name = used.last().cloned().unwrap_or_default();
                    edges.entry(from.clone()).or_default().entry(to).or_default().insert(name);
                }
            }
        }
        edges
    }

    fn findings(&self) -> Vec<Finding> {
        let edges = self.edges();
        let files = self.modules.keys().map(|path| self.file_module(path.clone())).collect();
        cycles(&files, &edges).iter().map(|cycle| self.finding(cycle, &edges)).collect()
    }

    fn finding(&self, cycle: &BTreeSet<ModulePath>, edges: &Edges) -> Finding {
        let mut uses = Vec::new();
        for from in cycle {
            for (to, names) in edges.get(from).into_iter().flatten().filter(|(to, _)| cycle.contains(*to)) {
                let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                uses.push(format!("{} uses {} of {}", from.join("::"), names, to.join("::")));
            }
        }
        let first = cycle.first().and_then(|first| self.modules.get(first));
        let file = first.map(|module| module.file.clone()).unwrap_or_default();
        Finding { file, line: 0, message: format!("a cycle of imports: {}", uses.join("; ")) }
    }
}

/// The groups of modules that reach each other, without those between a module and what is below it.
fn cycles(modules: &BTreeSet<ModulePath>, edges: &Edges) -> Vec<BTreeSet<ModulePath>> {
    let reachable: BTreeMap<_, _> =
        modules.iter().map(|from| (from, reachable(from, modules, edges))).collect();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for from in modules {
        let is_in_cycle = |to: &&ModulePath| reachable[from].contains(*to) && reachable[*to].contains(from);
        let cycle: BTreeSet<_> = modules.iter().filter(is_in_cycle).cloned().collect();
        if cycle.len() < 2 || !seen.insert(cycle.clone()) {
            continue;
        }
        match cycle.iter().find(|above| cycle.iter().all(|below| below.starts_with(above))) {
            Some(above) => {
                let below = cycle.iter().filter(|module| *module != above).cloned().collect();
                found.extend(cycles(&below, edges));
            }
            None => found.push(cycle),
        }
    }
    found
}

fn reachable(from: &ModulePath, modules: &BTreeSet<ModulePath>, edges: &Edges) -> BTreeSet<ModulePath> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(at) = next.pop() {
        let targets = edges.get(at).into_iter().flat_map(BTreeMap::keys);
        for to in targets.filter(|to| modules.contains(*to)) {
            if reached.insert(to.clone()) {
                next.push(to);
            }
        }
    }
    reached
}

/// Whether the item that begins here has the attribute `#[cfg(test)]`.
fn is_for_tests(before: &[TokenTree]) -> bool {
    let mut before = before;
    // Visibility.
    while let [rest @ .., TokenTree::Ident(_)] | [rest @ .., TokenTree::Ident(_), TokenTree::Group(_)] =
        before
    {
        before = rest;
    }
    while let [rest @ .., TokenTree::Punct(hash), TokenTree::Group(attribute)] = before {
        if hash.as_char() != '#' {
            return false;
        }
        if attribute.to_string().replace(char::is_whitespace, "") == "[cfg(test)]" {
            return true;
        }
        before = rest;
    }
    false
}

fn is_definition(keyword: &str) -> bool {
    ["struct", "enum", "union", "trait", "type", "fn", "const", "static"].contains(&keyword)
}

/// `a::{b, c as d, e::*}`, put below a path.
fn use_tree(tokens: &[TokenTree], above: &[String], imports: &mut Vec<Import>) {
    let mut path = above.to_vec();
    let mut name = None;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(ident) if ident == "as" => name = tokens.get(at + 1).map(ToString::to_string),
            TokenTree::Ident(ident) if name.is_none() => path.push(ident.to_string()),
            TokenTree::Punct(punct) if punct.as_char() == '*' => name = Some("*".to_owned()),
            TokenTree::Group(group) => {
                let tokens: Vec<_> = group.stream().into_iter().collect();
                for tree in tokens.split(|token| is_punct(token, ',')).filter(|tree| !tree.is_empty()) {
                    use_tree(tree, &path, imports);
                }
                return;
            }
            _ => {}
        }
    }
    // `a::{self}` is `a`.
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if let Some(last) = path.last().cloned() {
        imports.push(Import { name: name.unwrap_or(last), path });
    }
}

/// The paths inside a group, at any depth.
fn inside(group: &Group, paths: &mut Vec<Vec<String>>) {
    let tokens: Vec<_> = group.stream().into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => inside(group, paths),
            _ => paths.extend(path_at(&tokens, at)),
        }
    }
}

/// The path of two or more segments that begins here.
fn path_at(tokens: &[TokenTree], at: usize) -> Option<Vec<String>> {
    let continues = at >= 2 && is_punct(&tokens[at - 1], ':') && is_punct(&tokens[at - 2], ':');
    if continues {
        return None;
    }
    let mut path = Vec::new();
    let mut rest = &tokens[at..];
    while let [TokenTree::Ident(part), after @ ..] = rest {
        path.push(part.to_string());
        match after {
            [first, second, after @ ..] if is_punct(first, ':') && is_punct(second, ':') => rest = after,
            _ => break,
        }
    }
    (path.len() > 1).then_some(path)
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let mut krate = Crate::default();
        for (file, text) in files {
            krate.add_file(file.into(), &module_path(Path::new(file)), source::parse(text).unwrap());
        }
        krate.findings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_cycle_between_two_files_is_found() {
        let found = findings(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "use crate::a::A; pub struct B;"),
        ]);
        assert_eq!(found, ["a.rs: a cycle of imports: a uses B of b; b uses A of a"]);
    }

    #[test]
    fn a_cycle_is_found_through_reexports_nested_imports_and_paths_in_code() {
        for (a, b) in [
            ("use crate::B; pub struct A;", "use crate::{x::Y, A}; pub struct B;"),
            ("pub struct A(crate::B);", "fn b() { loop { f(super::a::A) } } pub struct B;"),
            ("use super::b; pub struct A(b::B);", "use crate::a::*; pub struct B(A);"),
            ("mod inner { use super::super::b::B; } pub struct A;", "pub struct B(crate::A);"),
        ] {
            let found = findings(&[
                ("lib.rs", "mod a; mod b; pub use a::A; pub use crate::b::*;"),
                ("a.rs", a),
                ("b.rs", b),
            ]);
            assert_eq!(found.len(), 1, "{a} {b}: {found:?}");
        }
    }

    #[test]
    fn a_module_and_those_below_it_may_use_each_other() {
        let found = findings(&[
            ("lib.rs", "mod a; pub use a::A; pub type Result = ();"),
            ("a/mod.rs", "mod x; mod y; use x::X; pub struct A(X, y::Y);"),
            ("a/x.rs", "use super::A; use crate::Result; pub struct X;"),
            ("a/y.rs", "use super::A; use super::x::X; pub struct Y;"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn siblings_below_a_module_and_folders_may_not() {
        let siblings = findings(&[
            ("a/mod.rs", "mod x; mod y; use x::X; pub struct A(X);"),
            ("a/x.rs", "use super::y::Y; pub struct X(super::A);"),
            ("a/y.rs", "use super::x::X; pub struct Y;"),
        ]);
        assert_eq!(siblings, ["a/x.rs: a cycle of imports: a::x uses Y of a::y; a::y uses X of a::x"]);
        let folders = findings(&[
            ("a/mod.rs", "mod x; pub struct A(x::X);"),
            ("a/x.rs", "use crate::b::B; pub struct X;"),
            ("b.rs", "use crate::a::A; pub struct B;"),
        ]);
        assert_eq!(folders.len(), 1, "{folders:?}");
    }

    #[test]
    fn tests_may_use_what_they_test() {
        let found = findings(&[
            ("a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }"),
            ("b.rs", "use crate::a::A; pub struct B;"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }
}

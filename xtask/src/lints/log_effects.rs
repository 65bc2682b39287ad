//! No effect inside a log macro.
//!
//! A disabled event evaluates none of its fields, so whatever a field does beside being read is lost with its
//! subscriber: `warn!(connections = cutter.cut())` cuts no connection where WARN is off. `debug_assert!` has the same
//! trap. So their arguments may hold fields, literals, operators and calls of the pure functions below; everything else
//! belongs into a `let` before the macro.

use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

use crate::error::Error;
use crate::lints::{Finding, source};

/// Macros that may evaluate nothing: those of tracing and log, by their last path segment.
const MACROS: [&str; 15] = [
    "error",
    "warn",
    "info",
    "debug",
    "trace",
    "event",
    "span",
    "error_span",
    "warn_span",
    "info_span",
    "debug_span",
    "trace_span",
    "debug_assert",
    "debug_assert_eq",
    "debug_assert_ne",
];

/// Functions and methods without an effect, by name. Add a getter here when a log line needs it; never add a name that
/// any type of the workspace gives to something with an effect.
const PURE: [&str; 24] = [
    "address",
    "addresses",
    "as_deref",
    "as_ref",
    "as_secs_f64",
    "as_str",
    "code",
    "debug",
    "display",
    "elapsed",
    "first",
    "from_utf8_lossy",
    "id",
    "instance",
    "is_empty",
    "kind",
    "last",
    "len",
    "local_addr",
    "message",
    "name",
    "report",
    "revision",
    "service",
];

/// Macros without an effect but that of their arguments.
const PURE_MACROS: [&str; 5] = ["concat", "format", "format_args", "matches", "stringify"];

/// Keywords that change what happens, or what runs next.
const EFFECTS: [&str; 8] = ["async", "await", "break", "continue", "move", "mut", "return", "unsafe"];

/// Searches all Rust files below these folders.
pub(crate) fn find(root: &Path, folders: &[PathBuf]) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for folder in folders {
        for source in source::below(root, folder)? {
            search(source.tokens, &mut |line, message| {
                findings.push(Finding { file: source.file.clone(), line, message });
            });
        }
    }
    Ok(findings)
}

/// Finds the macros, at any depth.
fn search(tokens: TokenStream, found: &mut impl FnMut(usize, String)) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        match macro_name(&tokens[..at]) {
            Some(name) if MACROS.contains(&name.as_str()) => {
                arguments(group, Named::Yes, &mut |line, effect| {
                    found(line, format!("`{name}!` may evaluate nothing, and has {effect}"));
                });
            }
            _ => {
                if is_instrument(&tokens[..at], group) {
                    instrument(group, found);
                }
                search(group.stream(), found);
            }
        }
    }
}

/// The name of the macro that the next group calls.
fn macro_name(before: &[TokenTree]) -> Option<String> {
    match before {
        [.., TokenTree::Ident(name), TokenTree::Punct(bang)] if bang.as_char() == '!' => {
            Some(name.to_string())
        }
        _ => None,
    }
}

/// Whether this is the inside of `#[instrument(…)]` or `#[tracing::instrument(…)]`.
fn is_instrument(before: &[TokenTree], group: &Group) -> bool {
    let is_attribute = matches!(before.last(), Some(TokenTree::Punct(punct)) if punct.as_char() == '#')
        && group.delimiter() == Delimiter::Bracket;
    is_attribute
        && group
            .stream()
            .into_iter()
            .any(|token| matches!(&token, TokenTree::Ident(name) if name == "instrument"))
}

/// Checks the content of `fields(…)`.
fn instrument(attribute: &Group, found: &mut impl FnMut(usize, String)) {
    let options = attribute.stream().into_iter().find_map(|token| match token {
        TokenTree::Group(group) => Some(group),
        _ => None,
    });
    let options: Vec<_> = options.into_iter().flat_map(|options| options.stream()).collect();
    for pair in options.windows(2) {
        if let [TokenTree::Ident(name), TokenTree::Group(fields)] = pair
            && name == "fields"
        {
            arguments(fields, Named::Yes, &mut |line, effect| {
                found(line, format!("`#[instrument]` may evaluate nothing, and has {effect}"));
            });
        }
    }
}

/// Whether arguments may begin with `name =`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Yes,
    No,
}

/// Checks comma-separated arguments.
fn arguments(group: &Group, named: Named, found: &mut impl FnMut(usize, String)) {
    let tokens: Vec<_> = group.stream().into_iter().collect();
    for argument in tokens.split(|token| is_punct(token, ',')) {
        let name = argument.iter().position(|token| is_punct(token, '='));
        let value = match name {
            Some(end)
                if named == Named::Yes
                    && is_field_name(&argument[..end])
                    && !is_comparison(argument, end) =>
            {
                &argument[end + 1..]
            }
            _ => argument,
        };
        expression(value, found);
    }
}

/// `service`, `otel.name`, `"a field"`, `{CONSTANT}`.
fn is_field_name(tokens: &[TokenTree]) -> bool {
    !tokens.is_empty()
        && tokens.iter().all(|token| match token {
            TokenTree::Ident(_) | TokenTree::Literal(_) => true,
            TokenTree::Punct(punct) => punct.as_char() == '.',
            TokenTree::Group(_) => false,
        })
}

fn expression(tokens: &[TokenTree], found: &mut impl FnMut(usize, String)) {
    for (at, token) in tokens.iter().enumerate() {
        let before = &tokens[..at];
        let line = token.span().start().line;
        match token {
            TokenTree::Literal(_) => {}
            TokenTree::Ident(name) => {
                let name = name.to_string();
                if EFFECTS.contains(&name.as_str()) {
                    found(line, format!("the keyword `{name}`"));
                }
            }
            TokenTree::Punct(punct) => match punct.as_char() {
                '?' if ends_operand(before) => found(line, "an early return by `?`".to_owned()),
                '=' if !is_comparison(tokens, at) => found(line, "an assignment".to_owned()),
                '|' if !ends_operand(before) && !is_joint(before, "|") => found(line, "a closure".to_owned()),
                _ => {}
            },
            TokenTree::Group(group) => match group.delimiter() {
                Delimiter::Brace => found(line, "a block".to_owned()),
                _ if macro_name(before).is_some() => {
                    let name = macro_name(before).unwrap_or_default();
                    if PURE_MACROS.contains(&name.as_str()) {
                        arguments(group, Named::Yes, found);
                    } else {
                        found(line, format!("the macro `{name}!`"));
                    }
                }
                Delimiter::Parenthesis if ends_operand(before) => call(before, group, found),
                Delimiter::Parenthesis | Delimiter::Bracket | Delimiter::None => {
                    arguments(group, Named::No, found);
                }
            },
        }
    }
}

/// A call: the token before the parentheses is called.
fn call(before: &[TokenTree], group: &Group, found: &mut impl FnMut(usize, String)) {
    let line = group.span().start().line;
    match before.last() {
        Some(TokenTree::Ident(name)) if PURE.contains(&name.to_string().as_str()) => {
            arguments(group, Named::No, found);
        }
        Some(TokenTree::Ident(name)) if name == "map" && is_display(group) => {}
        Some(TokenTree::Ident(name)) => {
            found(line, format!("a call of `{name}`, which is not known to be pure: call it before"));
        }
        _ => found(line, "a call of something that is not known to be pure: call it before".to_owned()),
    }
}

/// `tracing::field::display` or `debug`: wrappers without an effect.
fn is_display(group: &Group) -> bool {
    let path: String = group.stream().into_iter().map(|token| token.to_string()).collect();
    ["tracing::field::display", "tracing::field::debug"].contains(&path.as_str())
}

/// Whether a value ends here, so that what follows is applied to it: `x(…)`, `x?`, `x | y`.
fn ends_operand(before: &[TokenTree]) -> bool {
    match before.last() {
        Some(TokenTree::Ident(_) | TokenTree::Literal(_) | TokenTree::Group(_)) => true,
        // The end of `f::<T>`.
        Some(TokenTree::Punct(punct)) => punct.as_char() == '>',
        None => false,
    }
}

/// Whether this `=` is one of `==`, `!=`, `<=`, `>=`.
fn is_comparison(tokens: &[TokenTree], at: usize) -> bool {
    let begins = matches!(
        (&tokens[at], tokens.get(at + 1)),
        (TokenTree::Punct(this), Some(next)) if this.spacing() == Spacing::Joint && is_punct(next, '=')
    );
    begins || is_joint(&tokens[..at], "=!<>")
}

/// Whether the token right before is one of these.
fn is_joint(before: &[TokenTree], characters: &str) -> bool {
    matches!(before.last(), Some(TokenTree::Punct(punct))
        if punct.spacing() == Spacing::Joint && characters.contains(punct.as_char()))
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(text: &str) -> Vec<(usize, String)> {
        let mut effects = Vec::new();
        search(source::parse(text).unwrap(), &mut |line, message| effects.push((line, message)));
        effects
    }

    #[test]
    fn a_call_that_may_have_an_effect_is_found_with_its_line() {
        let text = "fn f() {\n    tracing::warn!(\n        connections = cutter.cut(),\n        \"closing\"\n    );\n}";
        let found = effects(text);
        assert_eq!(found.len(), 1, "{found:?}");
        let (line, message) = &found[0];
        assert_eq!(*line, 3);
        assert!(message.contains("`warn!`") && message.contains("`cut`"), "{message}");
    }

    #[test]
    fn effects_are_found_in_every_form() {
        for effect in [
            "warn!(n = cutter.cut())",
            "warn!(%cut())",
            "warn!(?self.queue.pop_front(), \"lost\")",
            "warn!(\"{}\", next())",
            "warn!(\"{n}\", n = next())",
            "warn!(message = format!(\"{}\", next()))",
            "warn!(n = (cut)())",
            "warn!(n = (self.cut)())",
            "warn!(n = cut::<u8>())",
            "warn!(n = table[next()])",
            "warn!(n = list.len() + next())",
            "warn!(n = name.len(next()))",
            "warn!(n = { cut(); 1 })",
            "warn!(n = if cut { 1 } else { 2 })",
            "warn!(n = (count += 1))",
            "warn!(n = (count = 1))",
            "warn!(n = read?)",
            "warn!(n = read.await)",
            "warn!(n = &mut count)",
            "warn!(n = list.first(|x| x))",
            "warn!(n = list.map(cut))",
            "warn!(n = vec![next()])",
            "warn!(target: \"x\", n = next())",
            "tracing::event!(Level::WARN, n = next())",
            "info_span!(\"x\", n = next())",
            "log::info!(\"{}\", next())",
            "debug_assert!(list.insert(1))",
            "select! { _ = x => { warn!(n = next()) } }",
            "#[tracing::instrument(fields(n = next()))] fn f() {}",
            "macro_rules! m { ($x:expr) => { warn!(n = $x.cut()) } }",
        ] {
            assert!(!effects(effect).is_empty(), "{effect}");
        }
    }

    #[test]
    fn what_only_reads_passes() {
        for pure in [
            "warn!(\"watch lost; retrying\")",
            "warn!(%service, ?delay, cause = error.report(), \"lost\")",
            "warn!(%self.service, n = self.list.len() + 1, is_late = a == b && c != d || e <= f, \"lost\")",
            "warn!(file = %file.display(), otel.name = \"x\", \"a name\" = 1)",
            "warn!(key = %String::from_utf8_lossy(key))",
            "warn!(address = list.first().map(tracing::field::display))",
            "warn!(\"{} of {n}\", list[0], n = list.len())",
            "warn!(parent: &span, target: \"x\", \"x\")",
            "event!(Level::WARN, x = (1 | 2), y = &*z, \"x\")",
            "info_span!(\"x\", kind = ?error.kind(), id = tracing::field::Empty)",
            "macro_rules! m { ($($x:tt)*) => { tracing::warn!($($x)*) } }",
            "debug_assert!(!list.is_empty())",
            "#[instrument(skip(self), fields(service = %self.service))] fn f() {}",
            "if error != (x) { cut() }",
            "other!(cut())",
            "// warn!(cut())\n/// warn!(cut())\nconst X: &str = \"warn!(cut())\";",
        ] {
            assert_eq!(effects(pure), [], "{pure}");
        }
    }

    #[test]
    fn files_are_searched_at_any_depth() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("core/src/deep");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("file.rs"), "fn f() { warn!(x = next()); }").unwrap();
        let findings = find(root.path(), &[root.path().join("core")]).unwrap();
        let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("core/src/deep/file.rs:1: "), "{findings:?}");
    }
}

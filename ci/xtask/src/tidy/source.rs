//! One parsed Rust file: its syntax, all its tokens, and which of its lines are tests.

use super::Violation;
use super::tree::Tree;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use syn::spanned::Spanned;

/// A Rust file of the house.
pub struct Source {
    /// Path below the root.
    pub path: String,
    /// Number of lines.
    pub lines: usize,
    /// The syntax tree.
    pub file: syn::File,
    /// Every token of the file, macro bodies included.
    pub tokens: Vec<Token>,
    /// Lines (from 1) of items that are compiled for tests only.
    tests: Vec<RangeInclusive<usize>>,
    /// The whole file is compiled for tests only.
    test_file: bool,
}

/// One token, brackets included, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// An identifier, a literal as it is written, one character of punctuation, or a bracket.
    pub text: String,
    /// Line from 1.
    pub line: usize,
}

impl Source {
    /// Parses every `.rs` file; those that don't parse become violations.
    pub fn parse_all(tree: &Tree) -> (Vec<Source>, Vec<Violation>) {
        let (mut sources, mut broken) = (Vec::new(), Vec::new());
        for (path, text) in tree.texts().filter(|(p, _)| p.ends_with(".rs")) {
            match Source::parse(path, text) {
                Ok(source) => sources.push(source),
                Err(violation) => broken.push(violation),
            }
        }
        let test_modules: BTreeSet<_> = sources.iter().flat_map(Source::test_modules).collect();
        for source in &mut sources {
            let inside =
                |m: &String| source.path == format!("{m}.rs") || source.path.starts_with(&format!("{m}/"));
            source.test_file = test_modules.iter().any(inside) || source.path.contains("/tests/");
        }
        (sources, broken)
    }

    fn parse(path: &str, text: &str) -> Result<Source, Violation> {
        let fault = |e: syn::Error| {
            let what = format!("does not parse: {e}");
            Violation::new(path, e.span().start().line.max(1), what, "Rust", "mend it")
        };
        let file = syn::parse_file(text).map_err(fault)?;
        let tokens = text.parse::<TokenStream>().map_err(|e| fault(e.into()))?;
        let tests = file.items.iter().filter(|i| for_tests(attributes(i))).map(|i| lines(i.span())).collect();
        let (mut flat, path) = (Vec::new(), path.to_string());
        flatten(tokens, &mut flat);
        Ok(Source { path, lines: text.lines().count(), file, tokens: flat, tests, test_file: false })
    }

    /// Whether a line is compiled for tests only.
    pub fn is_test(&self, line: usize) -> bool {
        self.test_file || self.tests.iter().any(|r| r.contains(&line))
    }

    /// Lines that are not compiled for tests only.
    pub fn non_test_lines(&self) -> usize {
        (1..=self.lines).filter(|line| !self.is_test(*line)).count()
    }

    /// `room/crate` of the file, if it is in one.
    pub fn home(&self) -> Option<&str> {
        let (end, _) = self.path.match_indices('/').nth(1)?;
        Some(&self.path[..end])
    }

    /// Path without `.rs` of every module that this file declares under `#[cfg(test)]` in a file of its own.
    fn test_modules(&self) -> Vec<String> {
        let modules = self.file.items.iter().filter_map(|item| match item {
            syn::Item::Mod(m) if m.content.is_none() && for_tests(&m.attrs) => Some(m.ident.to_string()),
            _ => None,
        });
        modules.map(|name| self.module_path(&name)).collect()
    }

    /// Path without `.rs` of the module `name` that this file declares.
    pub fn module_path(&self, name: &str) -> String {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        match file {
            "lib.rs" | "main.rs" | "mod.rs" => format!("{folder}/{name}"),
            own => format!("{folder}/{}/{name}", own.trim_end_matches(".rs")),
        }
    }
}

/// First and last line of a span.
pub fn lines(span: proc_macro2::Span) -> RangeInclusive<usize> {
    span.start().line..=span.end().line
}

/// Whether attributes say `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
fn for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().filter(|a| a.path().is_ident("cfg")).any(|a| {
        let Ok(list) = a.meta.require_list() else { return false };
        let words: String = list.tokens.to_string().split_whitespace().collect();
        words == "test"
            || words
                .strip_prefix("all(")
                .is_some_and(|w| w.trim_end_matches(')').split(',').any(|w| w == "test"))
    })
}

/// The outer attributes of an item.
fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item::{Const, Enum, Fn, Impl, Macro, Mod, Static, Struct, Trait, Type, Use};
    match item {
        Mod(i) => &i.attrs,
        Fn(i) => &i.attrs,
        Use(i) => &i.attrs,
        Impl(i) => &i.attrs,
        Struct(i) => &i.attrs,
        Enum(i) => &i.attrs,
        Const(i) => &i.attrs,
        Static(i) => &i.attrs,
        Macro(i) => &i.attrs,
        Trait(i) => &i.attrs,
        Type(i) => &i.attrs,
        _ => &[],
    }
}

/// Unfolds groups, so that a sequence of tokens can be looked for across them.
fn flatten(tokens: TokenStream, out: &mut Vec<Token>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push(Token { text: open.into(), line: group.span_open().start().line });
                flatten(group.stream(), out);
                out.push(Token { text: close.into(), line: group.span_close().start().line });
            }
            other => out.push(Token { text: other.to_string(), line: other.span().start().line }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Source {
        Source::parse("guest/a/src/lib.rs", text).unwrap()
    }

    #[test]
    fn test_modules_are_no_part_of_the_length() {
        let source = one("//! a\nfn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n");
        assert_eq!((source.lines, source.non_test_lines()), (6, 2));
    }

    #[test]
    fn code_for_another_configuration_counts() {
        let source = one("//! a\n#[cfg(unix)]\nmod m {\n}\n#[cfg(any(test, unix))]\nfn f() {}\n");
        assert_eq!(source.non_test_lines(), 6);
    }

    #[test]
    fn a_test_module_in_its_own_file_is_a_test_file() {
        let tree = Tree::of(&[
            ("guest/a/src/lib.rs", "#[cfg(test)]\nmod checks;\nmod b;\n"),
            ("guest/a/src/checks.rs", "fn f() {}\n"),
            ("guest/a/src/b.rs", "mod c;\n#[cfg(all(test, unix))]\nmod deep;\n"),
            ("guest/a/src/b/deep.rs", "fn f() {}\n"),
        ]);
        let (sources, broken) = Source::parse_all(&tree);
        assert_eq!(broken, []);
        let tests: Vec<_> = sources.iter().filter(|s| s.is_test(1)).map(|s| s.path.as_str()).collect();
        assert_eq!(tests, ["guest/a/src/b/deep.rs", "guest/a/src/checks.rs", "guest/a/src/lib.rs"]);
        let declares: Vec<_> = sources.iter().map(|s| (s.is_test(1), s.is_test(3))).collect();
        assert_eq!(declares, [(false, true), (true, true), (true, true), (true, false)]);
    }

    #[test]
    fn a_file_that_does_not_parse_is_reported_with_its_line() {
        let (_, broken) = Source::parse_all(&Tree::of(&[("ci/a/src/lib.rs", "//! a\nfn {}\n")]));
        assert_eq!((broken.len(), broken[0].line), (1, 2));
    }

    #[test]
    fn tokens_inside_macros_are_seen() {
        let source = one("fn f() { m!(a(b[0])) }\n");
        let text: Vec<_> = source.tokens.iter().map(|t| t.text.as_str()).collect();
        assert_eq!(text.concat(), "fnf(){m!(a(b[0]))}");
    }
}

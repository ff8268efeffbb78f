//! Lengths: functions, files, shell scripts; and the `//!` that opens every Rust file.

use super::Violation;
use super::source::{Source, lines};
use super::tree::Tree;
use syn::spanned::Spanned;
use syn::visit::Visit;

const FUNCTION: usize = 70;
const FILE: usize = 600;
const SHELL: usize = 50;

/// Everything that is too long or opens without saying what it is.
pub fn check(tree: &Tree, sources: &[Source]) -> Vec<Violation> {
    let mut out = Vec::new();
    for source in sources {
        out.extend(long_file(source));
        out.extend(long_functions(source));
    }
    for (path, text) in tree.texts() {
        out.extend(unopened(path, text));
        out.extend(long_shell(path, text));
    }
    out
}

fn long_file(source: &Source) -> Option<Violation> {
    let found = source.non_test_lines();
    (found > FILE).then(|| {
        let what = format!("{found} lines besides tests");
        Violation::new(&source.path, FILE + 1, what, &format!("at most {FILE}"), "split it by subject")
    })
}

fn long_functions(source: &Source) -> Vec<Violation> {
    let mut functions = Functions::default();
    functions.visit_file(&source.file);
    let long = functions.found.into_iter().filter(|(_, _, length)| *length > FUNCTION);
    let violation = |(name, line, length)| {
        let what = format!("function `{name}` has {length} lines");
        Violation::new(
            &source.path,
            line,
            what,
            &format!("at most {FUNCTION}"),
            "give its steps names of their own",
        )
    };
    long.map(violation).collect()
}

/// Name, first line and number of lines of every function, from its signature to its closing brace.
#[derive(Default)]
struct Functions {
    found: Vec<(String, usize, usize)>,
}

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (*lines(signature.span()).start(), *lines(block.span()).end());
        self.found.push((signature.ident.to_string(), first, last + 1 - first));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }

    /// Functions written inside a macro call, such as property tests, are functions too.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let Ok(file) = syn::parse2::<syn::File>(call.tokens.clone()) {
            // The parsed copy keeps the spans of the original.
            for item in &file.items {
                if let syn::Item::Fn(function) = item {
                    self.add(&function.sig, &function.block);
                }
            }
        }
    }
}

fn unopened(path: &str, text: &str) -> Option<Violation> {
    let wrong = path.ends_with(".rs") && !text.starts_with("//!");
    wrong.then(|| {
        let what = "does not open with `//!`".to_string();
        let fix = "say its purpose, what is deliberately absent and the spec it follows";
        Violation::new(path, 1, what, "a first line that starts with `//!`", fix)
    })
}

fn long_shell(path: &str, text: &str) -> Option<Violation> {
    let first = text.lines().next().unwrap_or_default();
    let interpreter =
        first.strip_prefix("#!").and_then(|l| l.split(['/', ' ']).rfind(|w| !w.starts_with('-')));
    let is_shell =
        path.ends_with(".sh") || interpreter.is_some_and(|i| matches!(i, "sh" | "bash" | "dash" | "ash"));
    let found = text.lines().count();
    (is_shell && found > SHELL).then(|| {
        let what = format!("shell script of {found} lines");
        Violation::new(
            path,
            SHELL + 1,
            what,
            &format!("at most {SHELL}"),
            "write it in Rust, in xtask or the builder",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(path: &str, text: &str) -> Vec<Violation> {
        let tree = Tree::of(&[(path, text)]);
        let (sources, broken) = Source::parse_all(&tree);
        assert_eq!(broken, []);
        check(&tree, &sources)
    }

    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_of_71_lines_is_refused_and_of_70_accepted() {
        assert_eq!(check_one("ci/a/src/lib.rs", &format!("//! a\n{}", function(70))), []);
        let found = check_one("ci/a/src/lib.rs", &format!("//! a\n{}", function(71)));
        assert_eq!((found.len(), found[0].line), (1, 2));
        assert!(found[0].what.contains("71 lines"), "{found:?}");
    }

    #[test]
    fn comments_and_attributes_above_a_function_do_not_count() {
        let text = format!("//! a\n{}#[inline]\n{}", "/// long story\n".repeat(40), function(60));
        assert_eq!(check_one("ci/a/src/lib.rs", &text), []);
    }

    #[test]
    fn long_functions_are_found_wherever_they_stand() {
        for around in ["mod m {", "impl T {", "trait T {", "fn outer() {", "proptest! {"] {
            let text = format!("//! a\n{around}\n#[test]\n{}}}\n", function(80));
            let found = check_one("ci/a/src/lib.rs", &text);
            assert!(found.iter().any(|v| v.what.contains("`f` has 80")), "in `{around}`: {found:?}");
        }
    }

    #[test]
    fn a_file_of_601_lines_is_refused_but_tests_may_be_long() {
        let statics = |n: usize| format!("//! a\n{}", "static A: u8 = 0;\n".repeat(n - 1));
        assert_eq!(check_one("ci/a/src/lib.rs", &statics(600)), []);
        assert_eq!(check_one("ci/a/src/lib.rs", &statics(601)).len(), 1);
        let tests =
            format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", statics(600), "static A: u8 = 0;\n".repeat(500));
        assert_eq!(check_one("ci/a/src/lib.rs", &tests), []);
    }

    #[test]
    fn a_file_without_a_heading_is_refused() {
        assert_eq!(check_one("ci/a/src/lib.rs", "// a\nfn f() {}\n").len(), 1);
    }

    #[test]
    fn shell_of_51_lines_is_refused_with_any_name() {
        let text = |shebang: &str, n: usize| format!("{shebang}\n{}", "true\n".repeat(n - 1));
        for (path, shebang) in [
            ("ci/a.sh", "# a"),
            ("image/x", "#!/bin/sh"),
            ("image/x", "#!/usr/bin/env bash"),
            ("image/x", "#!/bin/bash -e"),
        ] {
            assert_eq!(check_one(path, &text(shebang, 50)), []);
            assert_eq!(check_one(path, &text(shebang, 51)).len(), 1, "{path} {shebang}");
        }
        assert_eq!(check_one("ci/a.py", &text("#!/usr/bin/env python3", 51)), []);
    }
}

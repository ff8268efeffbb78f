//! `unsafe` stands in one module a crate, which carries an allow of `unsafe_code` with a reason.
//!
//! The allow stands on a `mod` (inline or in a file of its own) or at the head of a file.

use super::Violation;
use super::source::{Source, lines};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// A place where `unsafe` may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Quarantine {
    /// The file with the allow.
    declared: String,
    /// Line of the allow.
    line: usize,
    /// Files in which `unsafe` may stand: this one with `.rs` and those below it; or only these lines of `declared`.
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Lines(RangeInclusive<usize>),
    /// Path of a module without `.rs`.
    Module(String),
}

impl Quarantine {
    fn holds(&self, path: &str, line: usize) -> bool {
        match &self.place {
            Place::Lines(range) => path == self.declared && range.contains(&line),
            Place::Module(module) => {
                path == format!("{module}.rs") || path.starts_with(&format!("{module}/"))
            }
        }
    }
}

/// `unsafe` outside a quarantine, a second quarantine in a crate, and allows that stand on something smaller than a module.
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut crates: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        crates.entry(source.home().unwrap_or_default()).or_default().push(source);
    }
    for sources in crates.values() {
        let mut finder = Finder::default();
        for source in sources {
            finder.read(source);
        }
        out.append(&mut finder.misplaced);
        for extra in finder.found.iter().skip(1) {
            let what = format!("a second quarantine; the first is declared in {}", finder.found[0].declared);
            let fix = "move both into one module";
            out.push(Violation::new(
                &extra.declared,
                extra.line,
                what,
                "one module with `unsafe` a crate",
                fix,
            ));
        }
        out.extend(sources.iter().flat_map(|s| escaped(s, &finder.found)));
    }
    out
}

/// Each `unsafe` of a file that no quarantine holds.
fn escaped(source: &Source, quarantines: &[Quarantine]) -> Vec<Violation> {
    let held = |line| quarantines.iter().any(|q| q.holds(&source.path, line));
    let words = source.tokens.iter().filter(|t| t.text == "unsafe" && !held(t.line));
    let violation = |line| {
        let expected = "`unsafe` only in the crate's one quarantined module";
        let fix = "use a safe wrapper, or move it into a module under #[allow(unsafe_code, reason = \"..\")]";
        Violation::new(&source.path, line, "`unsafe` outside the quarantine".into(), expected, fix)
    };
    words.map(|t| violation(t.line)).collect()
}

/// Finds allows of `unsafe_code`.
#[derive(Default)]
struct Finder {
    found: Vec<Quarantine>,
    misplaced: Vec<Violation>,
    /// Path of the file that is read.
    path: String,
    /// Lines of allows that stand on modules.
    known: Vec<usize>,
}

impl Finder {
    fn read(&mut self, source: &Source) {
        self.path.clone_from(&source.path);
        self.known.clear();
        for attribute in source.file.attrs.iter().filter(|a| allows_unsafe(a)) {
            self.add(attribute, Place::Lines(1..=source.lines));
        }
        self.modules(source, &source.file.items);
        self.visit_file(&source.file);
    }

    /// Quarantines on the modules of a file.
    fn modules(&mut self, source: &Source, items: &[syn::Item]) {
        for item in items {
            let syn::Item::Mod(module) = item else { continue };
            let place = match &module.content {
                Some(_) => Place::Lines(lines(module.span())),
                None => Place::Module(source.module_path(&module.ident.to_string())),
            };
            for attribute in module.attrs.iter().filter(|a| allows_unsafe(a)) {
                self.add(attribute, place.clone());
            }
            if let Some((_, items)) = &module.content {
                self.modules(source, items);
            }
        }
    }

    fn add(&mut self, attribute: &syn::Attribute, place: Place) {
        let line = attribute.span().start().line;
        self.known.push(line);
        self.found.push(Quarantine { declared: self.path.clone(), line, place });
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let line = attribute.span().start().line;
        if allows_unsafe(attribute) && !self.known.contains(&line) {
            let what = "`unsafe_code` is allowed on something smaller than a module".to_string();
            let fix = "move the code into a module of its own and put the allow there";
            self.misplaced.push(Violation::new(&self.path, line, what, "the allow on a module", fix));
        }
    }
}

fn allows_unsafe(attribute: &syn::Attribute) -> bool {
    let path = attribute.path();
    let lifts = path.is_ident("allow") || path.is_ident("expect") || path.is_ident("warn");
    let tokens = attribute.meta.require_list().map(|l| l.tokens.to_string()).unwrap_or_default();
    lifts && tokens.split(',').any(|w| w.trim() == "unsafe_code")
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const ALLOW: &str = "#[allow(unsafe_code, reason = \"ioctl has no safe wrapper\")]";

    fn check_files(files: &[(&str, &str)]) -> Vec<Violation> {
        let (sources, broken) = Source::parse_all(&Tree::of(files));
        assert_eq!(broken, []);
        check(&sources)
    }

    #[test]
    fn unsafe_in_the_quarantined_module_is_accepted() {
        let declared = format!("//! a\n{ALLOW}\nmod sys;\n");
        let files = [
            ("guest/a/src/lib.rs", declared.as_str()),
            ("guest/a/src/sys.rs", "fn f() { unsafe { g() } }\n"),
        ];
        assert_eq!(check_files(&files), []);
        let inline = format!("//! a\n{ALLOW}\nmod sys {{\n    fn f() {{ unsafe {{ g() }} }}\n}}\n");
        assert_eq!(check_files(&[("guest/a/src/lib.rs", &inline)]), []);
        let head = "//! a\n#![allow(unsafe_code, reason = \"why\")]\nunsafe fn f() {}\n";
        assert_eq!(check_files(&[("guest/a/src/sys.rs", head)]), []);
    }

    #[test]
    fn unsafe_of_every_form_outside_is_refused_with_its_line() {
        for text in [
            "fn f() { unsafe { g() } }",
            "unsafe fn f() {}",
            "unsafe impl Send for T {}",
            "unsafe extern \"C\" { fn f(); }",
            "#[unsafe(no_mangle)] fn f() {}",
            "m! { unsafe { g() } }",
        ] {
            let found = check_files(&[("guest/a/src/lib.rs", &format!("//! a\n{text}\n"))]);
            assert_eq!(found.iter().map(|v| v.line).collect::<Vec<_>>(), [2], "{text}");
        }
    }

    #[test]
    fn unsafe_beside_the_quarantined_module_is_refused() {
        let text = format!("//! a\n{ALLOW}\nmod sys {{\n}}\nunsafe fn f() {{}}\n");
        assert_eq!(check_files(&[("guest/a/src/lib.rs", &text)]).len(), 1);
    }

    #[test]
    fn a_second_quarantine_is_refused_in_one_crate_but_not_in_another() {
        let text = format!("//! a\n{ALLOW}\nmod one {{\n}}\n");
        let two = [("guest/a/src/lib.rs", text.as_str()), ("guest/a/src/b.rs", text.as_str())];
        let found = check_files(&two);
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("second quarantine"));
        let apart = [("guest/a/src/lib.rs", text.as_str()), ("guest/b/src/lib.rs", text.as_str())];
        assert_eq!(check_files(&apart), []);
    }

    #[test]
    fn an_allow_on_a_function_is_refused() {
        let found = check_files(&[(
            "guest/a/src/lib.rs",
            &format!("//! a\n{ALLOW}\nfn f() {{ unsafe {{ g() }} }}\n"),
        )]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].what.contains("smaller than a module"));
    }
}

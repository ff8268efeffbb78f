//! What a page says is shown by a test, is: every test that the threat model names exists.

use super::Violation;
use super::tree::{Tree, line_where};
use std::collections::BTreeSet;

const PAGES: [&str; 2] = ["docs/SECURITY.md", "docs/explanation/threat-model.md"];
/// A name of so many words between backquotes is a test's; names of checks and options are shorter.
const WORDS: usize = 4;

/// Names of tests that are no function of any source file.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let named = PAGES.iter().filter_map(|page| Some((*page, tree.text(page)?)));
    let named: Vec<_> =
        named.flat_map(|(page, text)| tests(text).into_iter().map(move |name| (page, text, name))).collect();
    let functions: BTreeSet<&str> = tree
        .texts()
        .filter(|(path, _)| path.ends_with(".rs"))
        .flat_map(|(_, text)| functions(text))
        .collect();
    let gone = named.into_iter().filter(|(_, _, name)| !functions.contains(name));
    gone.map(|(page, text, name)| {
        let line = line_where(text, |line| line.contains(&format!("`{name}`")));
        let fix = "name the test that shows it now, or say that nothing does";
        Violation::new(page, line, format!("no test is called `{name}`"), "tests that exist", fix)
    })
    .collect()
}

/// Every second piece between backquotes is code.
fn tests(page: &str) -> Vec<&str> {
    let code = page.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_name = |text: &&str| {
        text.split('_').count() >= WORDS
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    code.filter(is_name).collect()
}

fn functions(source: &str) -> impl Iterator<Item = &str> {
    let starts = source.split("fn ").skip(1);
    starts.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_gone_is_refused_with_its_line() {
        let page =
            "# T\n| x | `a_right_thing_is_accepted`, `tcb_module` |\n| y | `a_wrong_thing_is_refused` |\n";
        let source = "//! x\n#[test]\nfn a_right_thing_is_accepted() {}\n";
        let tree = Tree::of(&[("docs/explanation/threat-model.md", page), ("guest/a/src/a.rs", source)]);
        let found: Vec<_> = check(&tree).into_iter().map(|v| (v.line, v.what)).collect();
        assert_eq!(found, [(3, "no test is called `a_wrong_thing_is_refused`".to_owned())]);
    }
}

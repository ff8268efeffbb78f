//! Words that may not stand in code: allows without a reason, unfinished work, tests that don't run.

use super::Violation;
use super::source::{Source, Token};

/// Macros of unfinished work.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// All such words of all files, macro bodies included.
pub fn check(sources: &[Source]) -> Vec<Violation> {
    sources.iter().flat_map(|s| check_tokens(&s.path, &s.tokens)).collect()
}

fn check_tokens(path: &str, tokens: &[Token]) -> Vec<Violation> {
    let mut out = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let next = tokens.get(i + 1).map_or("", |t| t.text.as_str());
        if next == "!" && UNFINISHED.contains(&token.text.as_str()) {
            let what = format!("`{}!` in code", token.text);
            out.push(Violation::new(path, token.line, what, "finished work", "write it, or take it out"));
        }
        if token.text == "#" {
            out.extend(attribute(path, &tokens[i..]));
        }
    }
    out
}

/// Reads an attribute that starts at its `#`.
fn attribute(path: &str, tokens: &[Token]) -> Vec<Violation> {
    let open = if tokens.get(1).is_some_and(|t| t.text == "!") { 2 } else { 1 };
    if tokens.get(open).is_none_or(|t| t.text != "[") {
        return Vec::new();
    }
    let inside = group(&tokens[open..]);
    let mut out = Vec::new();
    for (i, token) in inside.iter().enumerate() {
        // The name of the attribute itself, or of one that `cfg_attr` makes.
        let named = i == 0 || (inside[0].text == "cfg_attr" && inside[i - 1].text == ",");
        match token.text.as_str() {
            "ignore" if named => {
                let what = "a test is ignored".to_string();
                out.push(Violation::new(
                    path,
                    token.line,
                    what,
                    "tests that run",
                    "make it run, or delete it",
                ));
            }
            "allow" | "expect" if named && !has_reason(group(&inside[i + 1..])) => {
                let what = format!("`{}` without a reason", token.text);
                let fix = "say why the lint is wrong here, or mend what it found";
                out.push(Violation::new(path, token.line, what, "`reason = \"..\"`", fix));
            }
            _ => {}
        }
    }
    out
}

fn has_reason(tokens: &[Token]) -> bool {
    let says = |literal: &str| literal.trim_matches(['"', 'r', '#', ' ']).len() > 2;
    tokens.windows(3).any(|w| w[0].text == "reason" && w[1].text == "=" && says(&w[2].text))
}

/// What stands between the opening bracket at the front and its partner.
fn group(tokens: &[Token]) -> &[Token] {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return tokens.get(1..i).unwrap_or_default();
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    fn whats(text: &str) -> Vec<String> {
        let (sources, broken) = Source::parse_all(&Tree::of(&[("ci/a/src/lib.rs", text)]));
        assert_eq!(broken, []);
        check(&sources).into_iter().map(|v| format!("{}: {}", v.line, v.what)).collect()
    }

    #[test]
    fn an_allow_needs_a_reason_wherever_it_stands() {
        for text in [
            "#![allow(dead_code)]",
            "#![allow(dead_code, reason = \"\")]",
            "#[allow(dead_code, unused)] fn f() {}",
            "#[expect(dead_code)] fn f() {}",
            "#[cfg_attr(test, allow(dead_code))] fn f() {}",
            "fn f() { #[allow(unused)] let x = 1; }",
            "m! { #[allow(dead_code)] fn f() {} }",
        ] {
            assert_eq!(whats(text).len(), 1, "{text}");
        }
        for text in [
            "#![allow(dead_code, reason = \"why\")]",
            "#[cfg_attr(test, allow(dead_code, reason = \"why\"))] fn f() {}",
            "#[derive(Debug)] struct S; fn allow(x: u8) {} fn f() { allow(1) }",
        ] {
            assert_eq!(whats(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn unfinished_work_is_refused_and_words_alone_are_not() {
        for text in ["fn f() { todo!() }", "fn f() {\n unimplemented!(\"x\") }", "fn f() { m!(dbg!(1)) }"] {
            assert_eq!(whats(text).len(), 1, "{text}");
        }
        assert_eq!(whats("/// todo!\nfn todo() { let s = \"dbg!()\"; todo() }"), [""; 0]);
    }

    #[test]
    fn an_ignored_test_is_refused_with_its_line() {
        assert_eq!(whats("#[test]\n#[ignore]\nfn f() {}"), ["2: a test is ignored"]);
        assert_eq!(whats("#[test]\n#[ignore = \"slow\"]\nfn f() {}"), ["2: a test is ignored"]);
        assert_eq!(whats("#[cfg_attr(unix, ignore)]\nfn f() {}"), ["1: a test is ignored"]);
        assert_eq!(whats("fn ignore() {}\n#[serde(ignore)]\nstruct S;"), [""; 0]);
    }
}

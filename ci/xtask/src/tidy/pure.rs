//! The pure crates have no I/O, no clock, no randomness of their own: what they need is passed in.

use super::Violation;
use super::manifest::{Kind, Manifest};
use super::source::{Source, Token};

/// `room/crate` of those that are pure.
const PURE: [&str; 4] = ["measurements/measure", "measurements/evidence", "guest/protocol", "guest/payment"];
/// Crates that bring I/O, a clock or randomness.
const DEPENDENCIES: [&str; 20] = [
    "async-std",
    "axum",
    "chrono",
    "futures",
    "getrandom",
    "hyper",
    "hyper-util",
    "libc",
    "mio",
    "nix",
    "rand",
    "reqwest",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "tokio-rustls",
    "ureq",
];
/// Modules of the standard library that do.
/// Scoped threads are not among them: they compute the same, only sooner.
const MODULES: [&str; 5] = ["env", "fs", "net", "os", "process"];
/// Clocks of the standard library.
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

/// Impure dependencies and impure uses of the standard library outside tests.
pub fn check(manifests: &[Manifest], sources: &[Source]) -> Vec<Violation> {
    let mut out = Vec::new();
    for manifest in manifests.iter().filter(|m| PURE.contains(&format!("{}/{}", m.room, m.folder).as_str())) {
        let shipped = manifest.dependencies.iter().filter(|d| d.kind == Kind::Normal);
        for dependency in shipped.filter(|d| DEPENDENCIES.contains(&d.name.as_str())) {
            let what = format!("pure crate `{}` depends on `{}`", manifest.name, dependency.name);
            out.push(impure(&manifest.path, dependency.line, what));
        }
    }
    for source in sources.iter().filter(|s| s.home().is_some_and(|h| PURE.contains(&h))) {
        for (line, name) in uses(&source.tokens).into_iter().filter(|(line, _)| !source.is_test(*line)) {
            out.push(impure(&source.path, line, format!("pure code uses `{name}`")));
        }
    }
    out
}

fn impure(path: &str, line: usize, what: String) -> Violation {
    let expected = "no I/O, no clock, no randomness in measure, evidence, protocol and payment";
    Violation::new(path, line, what, expected, "pass bytes and times in from the caller")
}

/// Line and name of each impure use.
fn uses(tokens: &[Token]) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        if CLOCKS.contains(&token.text.as_str()) {
            out.push((token.line, token.text.clone()));
        }
        let path = tokens.get(i + 1..i + 4).unwrap_or_default();
        let is_path = token.text == "std" && path.iter().take(2).all(|t| t.text == ":");
        if let (true, [_, _, next]) = (is_path, path) {
            let names = if next.text == "{" { heads(&tokens[i + 3..]) } else { vec![next] };
            let names = names.into_iter().filter(|t| MODULES.contains(&t.text.as_str()));
            out.extend(names.map(|t| (t.line, format!("std::{}", t.text))));
        }
    }
    out
}

/// First word of each entry of `{a::b, c}`.
fn heads(tokens: &[Token]) -> Vec<&Token> {
    let (mut depth, mut out) = (0, Vec::new());
    for (i, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && matches!(tokens[i - 1].text.as_str(), "{" | ",") => out.push(token),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::manifest::read_all;
    use super::super::tree::Tree;
    use super::*;

    fn check_files(files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::of(files);
        let (sources, broken) = Source::parse_all(&tree);
        assert_eq!(broken, []);
        check(&read_all(&tree), &sources).into_iter().map(|v| format!("{}: {}", v.line, v.what)).collect()
    }

    #[test]
    fn an_impure_dependency_is_refused_in_a_pure_crate_only() {
        let text = "[package]\nname = \"measure\"\n[dependencies]\nsha2 = \"1\"\ntokio.workspace = true\n";
        let found = check_files(&[("measurements/measure/Cargo.toml", text)]);
        assert_eq!(found, ["5: pure crate `measure` depends on `tokio`"]);
        assert_eq!(check_files(&[("host/client/Cargo.toml", text)]), [""; 0]);
        let dev = text.replace("[dependencies]", "[dev-dependencies]");
        assert_eq!(check_files(&[("measurements/measure/Cargo.toml", &dev)]), [""; 0]);
    }

    #[test]
    fn impure_parts_of_std_are_refused_in_every_form() {
        for text in [
            "use std::fs;",
            "use std::{fmt, fs::File};",
            "use std::{collections::{BTreeMap, BTreeSet}, net::TcpStream};",
            "fn f() { std::fs::read(\"x\"); }",
            "fn f() { m!(std::env::var(\"x\")); }",
            "use std::time::{Duration, SystemTime};",
            "fn f() { std::time::Instant::now(); }",
        ] {
            assert_eq!(check_files(&[("guest/protocol/src/lib.rs", text)]).len(), 1, "{text}");
            assert_eq!(check_files(&[("guest/attest/src/lib.rs", text)]), [""; 0], "{text}");
        }
    }

    #[test]
    fn pure_parts_of_std_and_tests_are_free() {
        let text = "use std::{fmt, time::Duration};\nuse crate::{fs, net};\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(check_files(&[("guest/protocol/src/lib.rs", text)]), [""; 0]);
    }
}

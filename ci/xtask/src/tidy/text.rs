//! Rules on the text and the size of every tracked file.

use super::Violation;
use super::tree::{Tree, line_where};

/// Bytes; what is larger belongs into a release, not into history.
const LARGEST: usize = 5_000_000;

/// Large files, private keys, paths of one machine, ragged ends.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut out = Vec::new();
    for (path, bytes) in tree.iter() {
        if bytes.len() > LARGEST {
            let what = format!("{} bytes", bytes.len());
            let fix = "make it at build time, or publish it as a release asset";
            out.push(Violation::new(path, 1, what, &format!("at most {LARGEST}"), fix));
        }
    }
    for (path, text) in tree.texts() {
        out.extend(private_key(path, text));
        out.extend(text.lines().enumerate().filter_map(|(i, line)| machine_path(path, i + 1, line)));
        out.extend(ragged(path, text));
    }
    out
}

/// A private key in PEM. Keys are made at first run and stay out of git.
fn private_key(path: &str, text: &str) -> Option<Violation> {
    // Put together here, so that this file does not hold the header itself.
    let (begin, key) = ("-----BEGIN ", format!("{} KEY-----", "PRIVATE"));
    let is_header = |line: &str| line.split_once(begin).is_some_and(|(_, rest)| rest.contains(&key));
    text.lines().any(is_header).then(|| {
        let fix = "remove it, rewrite the commit and treat the key as known to all";
        Violation::new(path, line_where(text, is_header), "holds a private key".into(), "no key in git", fix)
    })
}

/// An absolute path that exists on one developer's machine only.
fn machine_path(path: &str, line: usize, text: &str) -> Option<Violation> {
    let found = text.match_indices('/').find_map(|(at, _)| {
        // `docs/home/a` and `sysroot/x` are not absolute.
        let before = text[..at].chars().next_back();
        let inside = before.is_some_and(|c| c.is_alphanumeric() || "._-/}>)".contains(c));
        let mut names = text[at + 1..].split('/');
        let (first, second) = (names.next()?, names.next()?);
        let named = second.starts_with(|c: char| c.is_ascii_alphanumeric() || "._-".contains(c));
        let personal = match first {
            "home" | "Users" => named,
            "root" | "work" => true,
            _ => false,
        };
        (!inside && personal).then(|| format!("/{first}/"))
    })?;
    let what = format!("a path of one machine, `{found}..`");
    let fix = "write it relative to the checkout, or take it from the environment";
    Some(Violation::new(path, line, what, "paths that hold on every machine", fix))
}

/// Trailing white space and a missing last newline.
fn ragged(path: &str, text: &str) -> Vec<Violation> {
    let mut out = Vec::new();
    // In a patch, a blank context line is a single space.
    let patch = path.ends_with(".patch") || path.ends_with(".diff");
    for (i, line) in text.split('\n').enumerate() {
        if !patch && line.ends_with([' ', '\t', '\r']) {
            out.push(Violation::new(path, i + 1, "trailing whitespace".into(), "none", "cut it off"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        let last = text.lines().count();
        let what = "no newline at the end of the file".to_string();
        out.push(Violation::new(path, last, what, "a last line that ends", "add a newline"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        check(&Tree::of(&[("docs/a.md", text)])).into_iter().map(|v| (v.line, v.what)).collect()
    }

    #[test]
    fn a_path_of_one_machine_is_refused_with_its_line() {
        for path in [["/ho", "me/ann/x"], ["/ro", "ot/.cargo"], ["/wo", "rk/main"], ["/Us", "ers/ann/x"]] {
            let path = path.concat();
            for line in
                [path.clone(), format!("see `{path}`"), format!("A={path}:/usr"), format!("(\"{path}\")")]
            {
                assert_eq!(found(&format!("fine\n{line}\n")).len(), 1, "{line}");
                assert_eq!(found(&format!("fine\n{line}\n"))[0].0, 2);
            }
        }
    }

    #[test]
    fn paths_of_every_machine_are_accepted() {
        for line in [
            "/usr/lib",
            "guest/work/x",
            "sysroot/root/x",
            "/run/chrysalis/models",
            "a /home directory",
            "/root",
        ] {
            assert_eq!(found(&format!("{line}\n")), [], "{line}");
        }
    }

    #[test]
    fn a_private_key_is_refused_and_a_certificate_accepted() {
        for kind in ["", "EC ", "RSA ", "ENCRYPTED ", "OPENSSH "] {
            let text = format!("a\n-----BEGIN {kind}{} KEY-----\nMIIE\n", "PRIVATE");
            assert_eq!(found(&text), [(2, "holds a private key".to_string())]);
        }
        assert_eq!(found("-----BEGIN CERTIFICATE-----\nMIIE\n"), []);
        assert_eq!(found("-----BEGIN PUBLIC KEY-----\nMIIE\n"), []);
    }

    #[test]
    fn a_file_over_five_megabytes_is_refused() {
        assert_eq!(found(&"a\n".repeat(LARGEST / 2)), []);
        assert_eq!(found(&"a\n".repeat(LARGEST / 2 + 1)).len(), 1);
    }

    #[test]
    fn ragged_ends_are_refused_with_their_lines() {
        assert_eq!(found("a \nb\t\nc\r\nd\n").iter().map(|f| f.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(found("a\nb"), [(2, "no newline at the end of the file".to_string())]);
        assert_eq!(found(""), []);
        assert_eq!(check(&Tree::of(&[("image/a.patch", " \n+a\n")])), []);
    }
}

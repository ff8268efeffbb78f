//! Reads what `cargo fmt --check` printed.

use super::Violation;
use std::collections::BTreeMap;
use std::path::Path;

/// `stdout` names each place that rustfmt would change; `stderr` says why it could not read a file.
pub fn check(root: &Path, success: bool, stdout: &str, stderr: &str) -> Vec<Violation> {
    let mut files: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (path, line) in stdout.lines().filter_map(|line| difference(root, line)) {
        files.entry(path).or_default().push(line);
    }
    let violation = |(path, lines): (String, Vec<usize>)| {
        let what = format!("is not formatted (places: {})", lines.len());
        Violation::new(&path, lines[0], what, "rustfmt's form", "run rustfmt on it, or cargo fmt")
    };
    let mut out: Vec<_> = files.into_iter().map(violation).collect();
    if out.is_empty() && !success {
        let said = stderr.lines().find(|l| l.contains("error")).or(stderr.lines().next());
        let what = format!("cargo fmt could not run: {}", said.unwrap_or("it says nothing").trim());
        out.push(Violation::new(
            "Cargo.toml",
            1,
            what,
            "a workspace that rustfmt can read",
            "mend what it names",
        ));
    }
    out
}

/// `Diff in PATH:LINE:`
fn difference(root: &Path, line: &str) -> Option<(String, usize)> {
    let place = line.strip_prefix("Diff in ")?.trim_end_matches(':');
    let (path, line) = place.rsplit_once(':')?;
    let path = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path));
    Some((path.to_string_lossy().into_owned(), line.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_reported_once_at_its_first_difference() {
        let printed = "Diff in /house/guest/a/src/lib.rs:12:\n-a\n+b\nDiff in /house/guest/a/src/lib.rs:40:\n\
                       Diff in /house/ci/b/src/main.rs:1:\n";
        let found = check(Path::new("/house"), false, printed, "");
        let places: Vec<_> = found.iter().map(|v| (v.path.as_str(), v.line)).collect();
        assert_eq!(places, [("ci/b/src/main.rs", 1), ("guest/a/src/lib.rs", 12)]);
    }

    #[test]
    fn a_workspace_that_rustfmt_cannot_read_is_reported() {
        let found = check(Path::new("/house"), false, "", "error[E0583]: file not found for module `up`\n");
        assert!(found[0].what.contains("module `up`"), "{found:?}");
        assert_eq!(check(Path::new("/house"), true, "", ""), []);
    }
}

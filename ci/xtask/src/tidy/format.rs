//! Reads what `cargo fmt --check` printed.

use super::Violation;
use std::path::Path;

/// `stdout` names each place that rustfmt would change; `stderr` says why it could not read a file.
pub fn check(root: &Path, success: bool, stdout: &str, stderr: &str) -> Vec<Violation> {
    let mut out: Vec<_> = stdout.lines().filter_map(|line| difference(root, line)).collect();
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
fn difference(root: &Path, line: &str) -> Option<Violation> {
    let place = line.strip_prefix("Diff in ")?.trim_end_matches(':');
    let (path, line) = place.rsplit_once(':')?;
    let path = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path)).to_string_lossy();
    let what = "is not formatted".to_string();
    Some(Violation::new(&path, line.parse().ok()?, what, "rustfmt's form", "run cargo fmt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_reported_with_its_place() {
        let printed = "Diff in /house/guest/a/src/lib.rs:12:\n-a\n+b\nDiff in /house/ci/b/src/main.rs:1:\n";
        let found = check(Path::new("/house"), false, printed, "");
        let places: Vec<_> = found.iter().map(|v| (v.path.as_str(), v.line)).collect();
        assert_eq!(places, [("guest/a/src/lib.rs", 12), ("ci/b/src/main.rs", 1)]);
    }

    #[test]
    fn a_workspace_that_rustfmt_cannot_read_is_reported() {
        let found = check(Path::new("/house"), false, "", "error[E0583]: file not found for module `up`\n");
        assert!(found[0].what.contains("module `up`"), "{found:?}");
        assert_eq!(check(Path::new("/house"), true, "", ""), []);
    }
}

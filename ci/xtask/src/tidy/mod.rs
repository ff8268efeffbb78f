//! `cargo xtask tidy`: the house rules as code.
//!
//! ```text
//! tracked files --> Tree --> rules on text, manifests, docs ---.
//!                    `-----> Source (syn) --> rules on syntax --+--> violations, all at once
//! cargo tree, metadata, fmt --> rules on what they printed ----'
//! ```
//! Every rule is a function from values to violations, so each is tested on a tree in memory; only this file and
//! [`outside`] touch the disk or start a program. `docs/architecture.md` says why the rules are what they are.
//!
//! Deliberately absent: a way to silence one violation. A rule that is wrong is changed here, where everybody sees it.

mod arrows;
mod claims;
mod docs;
mod format;
mod layout;
mod length;
mod licences;
mod manifest;
mod outside;
mod production;
mod pure;
mod quarantine;
mod source;
mod spdx;
mod text;
mod tree;
mod words;

use source::Source;
use std::fmt;
use std::path::Path;
use tree::Tree;

/// Options of `cargo xtask tidy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the violations as one JSON document instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// One breach of a house rule, with everything needed to mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Path below the checkout.
    pub path: String,
    /// Line from 1; 1 where the whole file is meant.
    pub line: usize,
    /// What was found.
    pub what: String,
    /// What the house wants.
    pub expected: String,
    /// What to do.
    pub fix: String,
}

impl Violation {
    fn new(path: &str, line: usize, what: String, expected: &str, fix: &str) -> Self {
        Violation { path: path.into(), line, what, expected: expected.into(), fix: fix.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { path, line, what, expected, fix } = self;
        write!(f, "{path}:{line}: {what}; expected {expected}; {fix}")
    }
}

/// What a whole run found.
#[derive(Debug, Default)]
struct Report {
    violations: Vec<Violation>,
    /// Checks that did not run, and why.
    skipped: Vec<String>,
    files: usize,
}

/// Checks the checkout at `root`; the error says how many violations were printed.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let began = std::time::Instant::now();
    let report = check(root)?;
    if args.json {
        println!("{:#}", report.to_json());
    } else {
        report.print(began.elapsed());
    }
    match report.violations.len() {
        0 => Ok(()),
        n => {
            anyhow::bail!("tidy: {n} breaches of the house rules, printed above; mend each and run it again")
        }
    }
}

/// Runs every rule; the slow programs run while the files are read.
fn check(root: &Path) -> anyhow::Result<Report> {
    let tree = Tree::load(root)?;
    let manifests = manifest::read_all(&tree);
    Ok(std::thread::scope(|scope| {
        let programs = scope.spawn(|| outside::check(root, &tree, &manifests));
        let mut report = Report { files: tree.len(), ..Report::default() };
        report.violations.extend(on_files(&tree, &manifests));
        let (violations, skipped) = programs.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        report.violations.extend(violations);
        report.skipped = skipped;
        report.violations.sort();
        report.violations.dedup();
        report
    }))
}

/// The rules that need no other program.
fn on_files(tree: &Tree, manifests: &[manifest::Manifest]) -> Vec<Violation> {
    let (sources, mut out) = Source::parse_all(tree);
    out.extend(manifests.iter().flat_map(|m| m.broken.clone()));
    out.extend(layout::check(tree));
    out.extend(arrows::check(manifests));
    out.extend(pure::check(manifests, &sources));
    out.extend(length::check(tree, &sources));
    out.extend(quarantine::check(&sources));
    out.extend(words::check(&sources));
    out.extend(text::check(tree));
    out.extend(docs::check(tree, manifests));
    out.extend(claims::check(tree));
    out
}

impl Report {
    fn print(&self, took: std::time::Duration) {
        for violation in &self.violations {
            println!("{violation}");
        }
        for skipped in &self.skipped {
            println!("skipped: {skipped}");
        }
        let verdict = match self.violations.len() {
            0 => "tidy".to_string(),
            n => format!("{n} violations"),
        };
        println!("{} files in {:.1} s: {verdict}", self.files, took.as_secs_f64());
    }

    fn to_json(&self) -> serde_json::Value {
        let rows = self.violations.iter().map(|v| {
            serde_json::json!({
                "path": v.path, "line": v.line, "what": v.what, "expected": v.expected, "fix": v.fix,
            })
        });
        serde_json::json!({
            "violations": rows.collect::<Vec<_>>(), "skipped": self.skipped, "files": self.files,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_prints_place_fault_expectation_and_remedy() {
        let v = Violation::new("guest/a/src/lib.rs", 7, "function is long".into(), "70 lines", "split it");
        assert_eq!(v.to_string(), "guest/a/src/lib.rs:7: function is long; expected 70 lines; split it");
    }

    #[test]
    fn one_run_reports_faults_of_different_rules_together() {
        let tree = Tree::of(&[("junk/x.rs", "fn main() { }  \n"), ("Cargo.toml", "")]);
        let whats: Vec<_> = on_files(&tree, &[]).into_iter().map(|v| v.what).collect();
        for wanted in ["`junk`", "does not open with", "trailing whitespace"] {
            assert!(whats.iter().any(|w| w.contains(wanted)), "{wanted} is missing in {whats:?}");
        }
    }

    #[test]
    fn json_carries_every_field() {
        let violations = vec![Violation::new("a", 1, "b".into(), "c", "d")];
        let json = Report { violations, ..Report::default() }.to_json();
        assert_eq!(json["violations"][0]["expected"], "c");
    }
}

//! The programs that tidy runs: cargo tree, cargo metadata, cargo fmt and, where it is installed, cargo-deny.
//!
//! All of them offline and with the lock as it is; packages that a fresh machine lacks are fetched once. Each runs in a
//! thread of its own, since each waits on one core.

use super::manifest::Manifest;
use super::tree::Tree;
use super::{Violation, format, licences, production};
use anyhow::{Context, bail};
use std::path::Path;
use std::process::{Command, Output};

/// Guests run on this and nothing else; packages of other systems need not be on disk.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Violations, and what was skipped and why.
pub type Found = (Vec<Violation>, Vec<String>);

/// Runs everything. A program that fails is a violation too, so that it hides no other.
pub fn check(root: &Path, tree: &Tree, manifests: &[Manifest]) -> Found {
    std::thread::scope(|scope| {
        let checks = [
            scope.spawn(|| formatted(root)),
            scope.spawn(|| linked(root, manifests)),
            scope.spawn(|| licensed(root, tree, manifests)),
            scope.spawn(|| denied(root)),
        ];
        let mut all = Found::default();
        for check in checks {
            let (violations, skipped) = match check.join() {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => (vec![failed(&error)], Vec::new()),
                Err(panic) => std::panic::resume_unwind(panic),
            };
            all.0.extend(violations);
            all.1.extend(skipped);
        }
        all
    })
}

fn failed(error: &anyhow::Error) -> Violation {
    let what = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    Violation::new("Cargo.toml", 1, what, "a workspace that cargo reads offline", "mend what it names")
}

fn formatted(root: &Path) -> anyhow::Result<Found> {
    let output = cargo(root, &["fmt", "--all", "--check"])?;
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Ok((format::check(root, output.status.success(), &stdout, &stderr), Vec::new()))
}

fn linked(root: &Path, manifests: &[Manifest]) -> anyhow::Result<Found> {
    if !manifests.iter().any(|m| m.name == production::SIMULATOR) {
        return Ok(Found::default());
    }
    let graph = ["--workspace", "--edges", "normal,build", "--target", TARGET];
    let question = ["tree", "--offline", "--locked", "--prefix", "none", "--invert", production::SIMULATOR];
    let dependents = answer(root, &[question.as_slice(), &graph].concat())?;
    Ok((production::check(&dependents, manifests), Vec::new()))
}

fn licensed(root: &Path, tree: &Tree, manifests: &[Manifest]) -> anyhow::Result<Found> {
    let question =
        ["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", TARGET];
    let metadata =
        serde_json::from_str(&answer(root, &question)?).context("cargo metadata printed no JSON")?;
    let mut violations = licences::licences(tree, &metadata);
    violations.extend(licences::locked(tree, manifests));
    Ok((violations, Vec::new()))
}

fn denied(root: &Path) -> anyhow::Result<Found> {
    let installed = cargo(root, &["deny", "--version"])?.status.success();
    if !installed {
        let how = "install it with `cargo install --locked cargo-deny` to see duplicate versions too";
        return Ok((Vec::new(), vec![format!("cargo-deny is not installed; {how}")]));
    }
    let options = ["deny", "--offline", "--config", licences::CONFIG];
    let checks = ["check", "bans", "licenses", "sources"];
    let output = cargo(root, &[options, checks].concat())?;
    let errors = text(&output.stderr);
    let errors = errors.lines().filter(|l| l.starts_with("error"));
    let violation = |said: &str| {
        let fix = "see it whole with `cargo deny --config ci/deny.toml check`";
        Violation::new(licences::CONFIG, 1, format!("cargo-deny says: {said}"), "no error of cargo-deny", fix)
    };
    let found: Vec<_> = errors.map(violation).collect();
    if found.is_empty() && !output.status.success() {
        bail!("cargo deny failed, though it names no fault: {}", text(&output.stderr).trim());
    }
    Ok((found, Vec::new()))
}

/// What cargo printed, or the reason why it could not answer.
fn answer(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut output = cargo(root, arguments)?;
    if !output.status.success() && text(&output.stderr).contains("--offline") {
        // A fresh machine: the lock names packages that are not on disk yet.
        cargo(root, &["fetch", "--quiet", "--locked", "--target", TARGET])?;
        output = cargo(root, arguments)?;
    }
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let fetch = format!("if packages are missing, run `cargo fetch --locked --target {TARGET}`");
    bail!("`cargo {}` failed ({fetch}): {}", arguments[0], text(&output.stderr).trim())
}

fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = Command::new(program).args(arguments).current_dir(root).output();
    run.context("cargo did not start; install the toolchain that rust-toolchain.toml names")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

//! A change outside the measured rooms never moves a measurement: this makes such a change, builds again and compares.

use crate::steps::{House, show};
use anyhow::{Context, Result, bail};
use builder::{Artifacts, Checkout, Profile};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Files outside the measured rooms, and a line that each of them takes.
const CHANGES: [(&str, &str); 3] = [
    ("host/launcher/src/lib.rs", "// A line that no guest sees."),
    ("ci/e2e/src/lib.rs", "// A line that no guest sees."),
    ("docs/architecture.md", "A line that no guest sees."),
];

/// Builds the worker image from a changed copy of the checkout and compares it with `before`, file by file.
pub fn check(house: &House, before: &Artifacts) -> Result<()> {
    let copy = house.out(".still");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy).with_context(|| format!("{}: can't make", copy.display()))?;
    builder::source::stage(house.checkout.root(), &copy)?;
    crate::host::run(Command::new("git").args(["init", "--quiet"]).arg(&copy))?;
    for (file, line) in CHANGES {
        append(&copy.join(file), line)?;
    }
    let after = builder::build(&Checkout::at(&copy)?, Profile::Worker, &mut show)?;
    let moved: Vec<&str> = before
        .files
        .iter()
        .filter(|file| !after.files.contains(file))
        .map(|file| file.name.as_str())
        .collect();
    if !moved.is_empty() || before.files.len() != after.files.len() {
        bail!("a change to {} moved {}; find what carries it into the guest", CHANGES[0].0, moved.join(", "));
    }
    fs::remove_dir_all(&copy).with_context(|| format!("{}: can't remove", copy.display()))
}

fn append(file: &Path, line: &str) -> Result<()> {
    let opened = OpenOptions::new().append(true).open(file);
    let mut opened = opened.with_context(|| format!("{}: can't open", file.display()))?;
    writeln!(opened, "{line}").with_context(|| format!("{}: can't write", file.display()))
}

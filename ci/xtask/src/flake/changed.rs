//! Copies of the source with one change each: what must be refused, what must move, and what must not.

use super::root::FLAKE;
use super::{STUB, Stand};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A copy of the staged source in which `file` is what `change` makes of it.
fn copy(stand: &Stand<'_>, file: &str, change: impl Fn(&str) -> String) -> Result<PathBuf> {
    let to = fresh(stand)?;
    edit(&to, file, change)?;
    Ok(to)
}

/// A copy as it is: links, so that it costs little.
fn fresh(stand: &Stand<'_>) -> Result<PathBuf> {
    let to = stand.source.with_file_name("changed");
    let _ = fs::remove_dir_all(&to);
    crate::host::run(Command::new("cp").arg("-al").arg(&stand.source).arg(&to))?;
    Ok(to)
}

/// Changes a file of a copy, which gets bytes of its own.
fn edit(to: &Path, file: &str, change: impl Fn(&str) -> String) -> Result<()> {
    let path = to.join(file);
    let before = fs::read_to_string(&path).with_context(|| format!("{}: can't read", path.display()))?;
    let after = change(&before);
    ensure!(before != after, "{file}: the change changed nothing");
    fs::remove_file(&path)
        .and_then(|()| fs::write(&path, after))
        .with_context(|| format!("{file}: can't change"))
}

/// Evaluates a package of a changed copy, which must fail with all of `words`.
fn refused(
    stand: &Stand<'_>,
    file: &str,
    change: impl Fn(&str) -> String,
    package: &str,
    words: &[&str],
) -> Result<()> {
    let changed = copy(stand, file, change)?;
    let installable = format!("{FLAKE}#{package}.drvPath");
    let said = stand.nix.refusal(&changed, &[&["eval", &installable], &STUB[..]].concat())?;
    for word in words {
        ensure!(said.contains(word), "{file}: refused without a word about `{word}`: {said}");
    }
    Ok(())
}

pub(super) fn pins_cannot_drift(stand: &Stand<'_>) -> Result<()> {
    let other = |text: &str| text.replace("channel = \"", "channel = \"9");
    refused(stand, "rust-toolchain.toml", other, "toolchain", &["nix/toolchain.nix", "channel manifest"])?;
    let more = |text: &str| format!("{text}cowsay   # a tool more\n");
    refused(stand, "image/tools.packages", more, "image-tools", &["without a counterpart [\"cowsay\"]"])?;
    let fewer = |text: &str| text.replace("\nswtpm  ", "\n# swtpm  ");
    refused(stand, "image/tools.packages", fewer, "image-tools", &["[\"swtpm\"]"])
}

pub(super) fn another_hash_is_refused(stand: &Stand<'_>) -> Result<()> {
    // The first checksum, with its first digit changed.
    let change = |text: &str| match text.split_once("checksum = \"") {
        Some((before, rest)) if rest.starts_with('0') => format!("{before}checksum = \"1{}", &rest[1..]),
        Some((before, rest)) => format!("{before}checksum = \"0{}", &rest[1..]),
        None => text.to_owned(),
    };
    let changed = copy(stand, "Cargo.lock", change)?;
    let said = stand.nix.refusal(&changed, &["build", "--no-link", &format!("{FLAKE}#kit-crates")])?;
    ensure!(said.contains("unable to download"), "refused for another reason: {said}");
    Ok(())
}

pub(super) fn only_rooms_that_are_measured_move(stand: &Stand<'_>) -> Result<()> {
    let installable = format!("{FLAKE}#measured");
    let path = |source: &Path| stand.nix.ask(source, "nix", &["eval", "--raw", &installable]);
    let before = path(&stand.source)?;
    let line = |text: &str| format!("{text}\n");
    let elsewhere = fresh(stand)?;
    for file in ["docs/CHANGELOG.md", "ci/xtask/src/main.rs", "host/launcher/src/lib.rs", "README.md"] {
        edit(&elsewhere, file, line)?;
    }
    ensure!(path(&elsewhere)? == before, "docs/, ci/, host/ or the README moves it");
    for file in
        ["guest/initrd/src/main.rs", "image/mkosi.conf", "measurements/measure/src/lib.rs", "Cargo.lock"]
    {
        ensure!(path(&copy(stand, file, line)?)? != before, "{file} does not move it");
    }
    Ok(())
}

//! Makes a kit: from a commit, or from the files as they are. What the cache lacks is fetched, by hash.

use super::copy::{Kit, stream};
use super::index::{Index, Kind, Object};
use super::source::{self, Taken};
use super::unpack::{Crate, Locks, package_name};
use super::{INDEX, OBJECTS};
use crate::checkout::Checkout;
use crate::guest::Toolchain;
use crate::hash;
use crate::lock::{Kind as Locked, Lock, Sources, fetch};
use crate::progress::{Report, say};
use crate::tools::run;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Source of a kit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A commit, in git's words.
    Commit(String),
    /// The files as they are, tracked or to be tracked. No release can be rebuilt from it: its commit is nobody's.
    WorkingTree,
}

/// Makes a kit in the new folder `out`.
pub fn make(checkout: &Checkout, what: &What, out: &Path, report: Report<'_>) -> Result<Kit> {
    ensure!(
        fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none()),
        "{}: not empty; give a new folder",
        out.display()
    );
    let scratch = out.with_extension("making");
    let _ = fs::remove_dir_all(&scratch);
    let making = Making { objects: scratch.join(OBJECTS), listed: Vec::new() };
    fs::create_dir_all(&making.objects)
        .with_context(|| format!("{}: can't make", making.objects.display()))?;
    let made = fill(checkout, what, &scratch, making, report);
    if made.is_err() {
        let _ = fs::remove_dir_all(&scratch);
    }
    let index = made?;
    fs::write(scratch.join(INDEX), index.to_bytes())?;
    let _ = fs::remove_dir(out);
    fs::rename(&scratch, out).with_context(|| format!("{}: can't put in place", out.display()))?;
    Ok(Kit::open(out)?)
}

fn fill(
    checkout: &Checkout,
    what: &What,
    scratch: &Path,
    mut making: Making,
    report: Report<'_>,
) -> Result<Index> {
    let tar = scratch.join("source.tar");
    let Taken { commit, object } = match what {
        What::Commit(revision) => source::take(checkout.root(), revision, &tar)?,
        What::WorkingTree => source::take_working_tree(checkout.root(), scratch, &tar)?,
    };
    say(report, "kit", format!("source of commit {commit}"));
    let file = scratch.join("commit");
    fs::write(&file, object)?;
    making.add(Kind::Commit, commit.clone(), &file)?;
    making.add(Kind::Source, "source.tar".into(), &tar)?;
    // The locks are the commit's, whatever the checkout holds now.
    let staged = scratch.join("source");
    fs::create_dir_all(&staged)?;
    tar::Archive::new(File::open(&tar)?).unpack(&staged)?;
    let locks = Locks::load(&staged)?;
    say(report, "kit", format!("{} packages", locks.packages.len()));
    for kind in [Locked::Packages, Locked::Tools] {
        let lock = Lock::load(&staged.join(kind.file()))?;
        fetch(&lock, checkout.cache(), &Sources::of_this_host(), report)?;
    }
    for package in &locks.packages {
        making.take(
            Kind::Package,
            package_name(package),
            &package.sha256,
            &package.cached(checkout.cache()),
        )?;
    }
    let toolchain = Toolchain::find(checkout)?;
    say(report, "kit", format!("{} crates", locks.crates.len()));
    let packed = crates(&locks.crates, checkout, &toolchain, &staged)?;
    for (one, path) in locks.crates.iter().zip(packed) {
        making.take(Kind::Crate, one.id.clone(), &one.checksum, &path)?;
    }
    say(report, "kit", format!("{}, {} files", toolchain.version, locks.toolchain.files.len()));
    for file in &locks.toolchain.files {
        let path = toolchain.sysroot.join(&file.path);
        making.take(Kind::Toolchain, file.path.clone(), &file.sha256, &path).with_context(|| {
            format!("install it anew: rustup toolchain install {}", locks.toolchain.channel)
        })?;
    }
    for leftover in ["source.tar", "commit", "git-index"].map(|name| scratch.join(name)) {
        let _ = fs::remove_file(leftover);
    }
    for leftover in ["source", "git-objects"].map(|name| scratch.join(name)) {
        let _ = fs::remove_dir_all(leftover);
    }
    Ok(Index::new(commit, making.listed)?)
}

/// Objects so far.
struct Making {
    objects: PathBuf,
    listed: Vec<Object>,
}

impl Making {
    /// An object that nothing fixes yet.
    fn add(&mut self, kind: Kind, name: String, from: &Path) -> Result<()> {
        self.take(kind, name, &hash::file(from)?, from)
    }

    /// An object whose hash a lock fixes.
    fn take(&mut self, kind: Kind, name: String, sha256: &str, from: &Path) -> Result<()> {
        let meta = fs::metadata(from).with_context(|| format!("{}: can't read", from.display()))?;
        let object = Object { kind, name, sha256: sha256.to_owned(), size: meta.len() };
        let to = self.objects.join(sha256);
        if !to.exists() {
            let mut file = File::create(&to).with_context(|| format!("{}: can't make", to.display()))?;
            stream(&object, from, &mut File::open(from)?, &mut file)?;
        }
        self.listed.push(object);
        Ok(())
    }
}

/// The packed crates in cargo's cache, in the order of `wanted`; what lacks is fetched once.
fn crates(
    wanted: &[Crate],
    checkout: &Checkout,
    toolchain: &Toolchain,
    source: &Path,
) -> Result<Vec<PathBuf>> {
    let home = checkout.cache().join("cargo");
    let mut cached = in_cache(&home)?;
    if wanted.iter().any(|one| !cached.contains_key(&one.id)) {
        // Without a target: a folder of crates has to hold those of every platform.
        let mut fetch = Command::new(toolchain.sysroot.join("bin/cargo"));
        fetch.args(["fetch", "--locked", "--quiet"]).current_dir(source);
        fetch.env("CARGO_HOME", &home).env("RUSTC", toolchain.sysroot.join("bin/rustc"));
        run("cargo fetch --locked", &mut fetch)?;
        cached = in_cache(&home)?;
    }
    let find = |one: &Crate| match cached.get(&one.id) {
        Some(path) => Ok(path.clone()),
        None => bail!("crate {}: `cargo fetch` did not bring it; is the registry up?", one.id),
    };
    wanted.iter().map(find).collect()
}

/// Packed crates below cargo's home, by name and version.
fn in_cache(home: &Path) -> Result<HashMap<String, PathBuf>> {
    let mut found = HashMap::new();
    let Ok(registries) = fs::read_dir(home.join("registry/cache")) else { return Ok(found) };
    for registry in registries {
        for entry in fs::read_dir(registry?.path())? {
            let path = entry?.path();
            let id =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".crate"));
            if let Some(id) = id {
                found.insert(id.to_owned(), path.clone());
            }
        }
    }
    Ok(found)
}

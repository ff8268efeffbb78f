//! A kit becomes a clean root: a checkout, a cache and a toolchain that hold what the kit held, and nothing else.
//!
//! ```text
//! ROOT/source               git checkout of the commit
//! ROOT/cache/debs           packages, where fetching finds them
//! ROOT/cache/cargo          crates, unpacked where cargo would have unpacked them, as a source of their own
//! ROOT/toolchain            rustc, cargo, the standard library
//! ```

use super::copy::Kit;
use super::error::KitError;
use super::index::{Kind, Object, is_hex, is_plain};
use super::source;
use super::toolchain::{Installed, ToolchainLock};
use crate::checkout::Checkout;
use crate::lock::{Kind as Locked, Lock, Package};
use crate::progress::{Report, say};
use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where cargo unpacks crates of its default registry, below its home. The programs' panic messages hold this path, so
/// crates that came from a kit have to lie there as well.
const CRATES: &str = "registry/src/index.crates.io-1949cf8c6b5b557f";
/// Largest crate, packed.
const MAX_CRATE: u64 = 64 << 20;
/// Largest crate, unpacked.
const MAX_UNPACKED: u64 = 1 << 30;

/// Everything that the locks of a source fix.
pub(super) struct Locks {
    pub packages: Vec<Package>,
    pub crates: Vec<Crate>,
    pub toolchain: ToolchainLock,
}

/// A crate of Cargo.lock.
pub(super) struct Crate {
    /// `NAME-VERSION`.
    pub id: String,
    /// SHA-256 of the .crate, lower-case hex.
    pub checksum: String,
}

impl Locks {
    /// Reads the locks of a source.
    pub fn load(source: &Path) -> Result<Self> {
        let mut packages = BTreeMap::new();
        for kind in [Locked::Packages, Locked::Tools] {
            for package in Lock::load(&source.join(kind.file()))?.packages {
                packages.insert(package_name(&package), package);
            }
        }
        let path = source.join("Cargo.lock");
        let text = fs::read_to_string(&path).with_context(|| format!("{}: can't read", path.display()))?;
        let crates = crates(&text).with_context(|| format!("{}", path.display()))?;
        let packages = packages.into_values().collect();
        Ok(Locks { packages, crates, toolchain: ToolchainLock::load(source)? })
    }

    /// Kind, name and hash of everything that a kit of this source holds besides the source.
    fn wanted(&self) -> BTreeSet<(Kind, String, String)> {
        let packages = self.packages.iter().map(|p| (Kind::Package, package_name(p), p.sha256.clone()));
        let crates = self.crates.iter().map(|c| (Kind::Crate, c.id.clone(), c.checksum.clone()));
        let files = self.toolchain.files.iter();
        let files = files.map(|file| (Kind::Toolchain, file.path.clone(), file.sha256.clone()));
        packages.chain(crates).chain(files).collect()
    }
}

/// How a kit names a package.
pub(super) fn package_name(package: &Package) -> String {
    format!("{} {} {}", package.name, package.version, package.arch)
}

/// Crates of a Cargo.lock that come from a registry.
fn crates(lock: &str) -> Result<Vec<Crate>> {
    let table: toml::Table = lock.parse().context("not TOML")?;
    let packages = table.get("package").and_then(|list| list.as_array()).context("no [[package]]")?;
    let mut found = Vec::new();
    for package in packages.iter().filter(|package| package.get("source").is_some()) {
        let text = |key| package.get(key).and_then(|value| value.as_str()).unwrap_or_default();
        let id = format!("{}-{}", text("name"), text("version"));
        let checksum = text("checksum");
        ensure!(is_plain(&id) && !id.contains('/'), "`{}` is no name of a crate", id.escape_debug());
        ensure!(is_hex(checksum, 64), "{id}: no checksum; a kit carries crates of a registry only");
        found.push(Crate { id, checksum: checksum.to_owned() });
    }
    Ok(found)
}

/// Unpacks into `root`, a new or empty folder.
pub fn unpack(kit: &Kit, root: &Path, report: Report<'_>) -> Result<Checkout> {
    let source = root.join("source");
    say(report, "kit", format!("source of commit {}", kit.index().commit));
    source::restore(kit, &source)?;
    let locks = Locks::load(&source)?;
    agree(kit, &locks)?;
    let objects: BTreeMap<(Kind, &str), &Object> =
        kit.index().objects.iter().map(|object| ((object.kind, object.name.as_str()), object)).collect();
    let object = |kind, name: &str| objects.get(&(kind, name)).copied().context("an object went missing");
    let cache = root.join("cache");
    say(report, "kit", format!("{} packages", locks.packages.len()));
    for package in &locks.packages {
        kit.copy(object(Kind::Package, &package_name(package))?, &package.cached(&cache))?;
    }
    say(report, "kit", format!("{} crates", locks.crates.len()));
    let cargo = cache.join("cargo");
    for one in &locks.crates {
        let packed = kit.bytes(object(Kind::Crate, &one.id)?, MAX_CRATE)?;
        unpack_crate(one, &packed, &cargo.join(CRATES)).with_context(|| format!("crate {}", one.id))?;
    }
    cargo_settings(&cargo)?;
    let toolchain = root.join("toolchain");
    say(report, "kit", format!("Rust {}, {} files", locks.toolchain.channel, locks.toolchain.files.len()));
    for file in &locks.toolchain.files {
        install(kit, object(Kind::Toolchain, &file.path)?, file, &toolchain)?;
    }
    Checkout::supplied(&source, &cache, &toolchain)
}

/// The kit holds what the locks want, and no more.
fn agree(kit: &Kit, locks: &Locks) -> Result<(), KitError> {
    let is_source = |object: &&Object| matches!(object.kind, Kind::Commit | Kind::Source);
    let given = kit.index().objects.iter().filter(|object| !is_source(object));
    let given: BTreeSet<_> =
        given.map(|object| (object.kind, object.name.clone(), object.sha256.clone())).collect();
    let wanted = locks.wanted();
    let refuse = |(kind, name, sha256): &(Kind, String, String), fault| {
        let name = format!("{kind:?} {name} (SHA-256 {sha256})").to_lowercase();
        Err(KitError::Locks { name, fault, commit: kit.index().commit.clone() })
    };
    if let Some(lacking) = wanted.difference(&given).next() {
        return refuse(lacking, "locked by the source, and not in the kit");
    }
    match given.difference(&wanted).next() {
        Some(extra) => refuse(extra, "in the kit, and locked by nothing in the source"),
        None => Ok(()),
    }
}

/// Unpacks a .crate below `dir`; all of it lies in one folder of the crate's name.
fn unpack_crate(one: &Crate, packed: &[u8], dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("{}: can't make", dir.display()))?;
    let mut archive = tar::Archive::new(GzDecoder::new(packed).take(MAX_UNPACKED));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        ensure!(kind.is_file() || kind.is_dir(), "{}: neither file nor folder", path.display());
        ensure!(path.starts_with(&one.id) && entry.unpack_in(dir)?, "{}: leads elsewhere", path.display());
    }
    // What cargo asks of a folder of crates: the hash of the whole; an empty list means that no file is checked again.
    let sum = serde_json::json!({ "files": {}, "package": one.checksum });
    let path = dir.join(&one.id).join(".cargo-checksum.json");
    fs::write(&path, sum.to_string()).with_context(|| format!("{}: can't write", path.display()))
}

/// Tells cargo, as it runs in the tools root, to look nowhere else.
fn cargo_settings(cargo: &Path) -> Result<()> {
    let text = format!(
        "[source.crates-io]\nreplace-with = \"kit\"\n\n[source.kit]\ndirectory = \"/chrysalis/cargo/{CRATES}\"\n\n\
         [net]\noffline = true\n"
    );
    let path = cargo.join("config.toml");
    fs::write(&path, text).with_context(|| format!("{}: can't write", path.display()))
}

fn install(kit: &Kit, object: &Object, file: &Installed, toolchain: &Path) -> Result<()> {
    let to = toolchain.join(&file.path);
    kit.copy(object, &to)?;
    let mode = if file.executable { 0o755 } else { 0o644 };
    fs::set_permissions(&to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("{}: can't set the mode", to.display()))?;
    if object.size != file.size {
        bail!("{}: {} bytes, the toolchain's lock says {}", file.path, object.size, file.size);
    }
    Ok(())
}

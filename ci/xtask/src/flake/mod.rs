//! `cargo xtask flake`: what `nix/` claims, shown with the real nix, offline.
//!
//! Input-free parts are built, and built again to compare. What needs nixpkgs is evaluated against `nix/stub`, because no
//! nixpkgs can be had offline; that shows names and arguments, and nothing about whether those packages build.

mod changed;
mod pins;
mod root;

use crate::steps::{House, Steps};
use anyhow::{Context, Result, ensure};
use builder::lock::{Kind, Lock, Sources};
use root::{FLAKE, Nix};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Built twice, with nothing but this checkout and what its locks name.
const INPUT_FREE: [&str; 3] = ["kit-crates", "kit-image", "sources-initrd"];
/// Those that need nixpkgs.
const FROM_NIXPKGS: [&str; 7] = [
    "chrysalis",
    "chrysalis-init",
    "chrysalis-proxy",
    "chrysalis-worker",
    "image-tools",
    "initrd",
    "toolchain",
];
/// The stub in the place of nixpkgs.
const STUB: [&str; 4] = ["--override-input", "nixpkgs", "path:/run/source/nix/stub", "--no-write-lock-file"];

/// Runs it alone.
pub fn run(root: &Path) -> Result<()> {
    let mut steps = Steps::new(1);
    steps.next("Flake");
    let shown = check(&House::open(root)?)?;
    steps.done(&format!("{shown} claims shown"));
    Ok(())
}

/// What the claims are shown with.
struct Stand<'a> {
    house: &'a House,
    nix: Nix,
    source: PathBuf,
}

/// Shows every claim; returns how many.
pub fn check(house: &House) -> Result<usize> {
    let folder = house.checkout.cache().join("nix");
    fs::create_dir_all(&folder).with_context(|| format!("{}: can't make", folder.display()))?;
    // One at a time: they share a staged source and a store.
    let lock = fs::File::create(folder.join("lock")).context("the flake's lock file: can't make")?;
    lock.lock().context("the flake's lock file: can't lock")?;
    let source = folder.join("source");
    fs::create_dir_all(&source).with_context(|| format!("{}: can't make", source.display()))?;
    builder::source::stage(house.checkout.root(), &source)?;
    let stand = Stand { house, nix: Nix::open(house)?, source };
    let claims: [(&str, fn(&Stand<'_>) -> Result<()>); 7] = [
        ("pins equal rust-toolchain.toml, Cargo.lock and the image's locks", pins_are_the_locks),
        (
            "every crate and every package of the image in the cache is the one that the flake describes",
            downloads_fit,
        ),
        (
            "input-free parts build twice to equal bytes, offline and without nixpkgs",
            input_free_parts_build_twice,
        ),
        ("what needs nixpkgs evaluates against the STUB, and the stub builds nothing", the_rest_evaluates),
        ("another compiler, or another list of tools, is refused", changed::pins_cannot_drift),
        ("a crate with another hash is not built from", changed::another_hash_is_refused),
        (
            "docs/, ci/ and host/ do not move the measured source; guest/ does",
            changed::only_rooms_that_are_measured_move,
        ),
    ];
    for (claim, show) in claims {
        show(&stand).with_context(|| format!("nix/: not so: {claim}"))?;
        eprintln!("      ok  {claim}");
    }
    // What changed copies left behind; what was built twice is kept, with all that it refers to.
    stand.nix.ask(&stand.source, "nix-store", &["--gc", "--quiet"])?;
    if !stand.nix.sandboxed() {
        eprintln!("      note: builds were not sandboxed");
    }
    Ok(claims.len())
}

impl Stand<'_> {
    /// `nix eval --json` of an attribute of this checkout's flake.
    fn value(&self, attribute: &str, more: &[&str]) -> Result<Value> {
        let installable = format!("{FLAKE}#{attribute}");
        let printed =
            self.nix.ask(&self.source, "nix", &[&["eval", "--json", &installable], more].concat())?;
        serde_json::from_str(&printed).context("nix printed no JSON")
    }

    fn text(&self, file: &str) -> Result<String> {
        let path = self.house.checkout.root().join(file);
        fs::read_to_string(&path).with_context(|| format!("{}: can't read", path.display()))
    }

    fn locked(&self, kind: Kind) -> Result<Lock> {
        Lock::load(&self.house.checkout.root().join(kind.file()))
    }
}

fn pins_are_the_locks(stand: &Stand<'_>) -> Result<()> {
    let said = stand.value("pins", &[])?;
    pins::same("Cargo.lock", &pins::stated(&said["crates"])?, &pins::crates(&stand.text("Cargo.lock")?)?)?;
    for (name, kind) in [("image", Kind::Packages), ("tools", Kind::Tools)] {
        let stated = pins::stated(&said["debian"][name])?;
        pins::same(kind.file(), &stated, &pins::debian(&stand.locked(kind)?))?;
    }
    let toolchain = builder::guest::Toolchain::find(&stand.house.checkout)?;
    let channel = toolchain.version.split(' ').nth(1).unwrap_or_default();
    if pins::compiler(&said["rust"], channel, &toolchain.sysroot)?.is_none() {
        eprintln!("      SKIPPED: hashes of the compiler's archives (rustup did not install this toolchain)");
    }
    Ok(())
}

/// Adds what the caches hold to the store under the names and hashes that it has. Where a description in the flake is of other
/// bytes, its store path is another, and the builds that follow would have to fetch it, without a network.
fn downloads_fit(stand: &Stand<'_>) -> Result<()> {
    let cache = stand.house.checkout.cache();
    let mut fetch = Command::new("cargo");
    fetch.args(["fetch", "--locked", "--quiet"]).current_dir(stand.house.checkout.root());
    crate::host::run(fetch.env("CARGO_HOME", cache.join("cargo")))?;
    let image = stand.locked(Kind::Packages)?;
    builder::lock::fetch(&image, cache, &Sources::of_this_host(), &mut crate::steps::show)?;

    let incoming = stand.nix.incoming();
    let _ = fs::remove_dir_all(&incoming);
    fs::create_dir_all(&incoming).with_context(|| format!("{}: can't make", incoming.display()))?;
    for (name, _) in pins::crates(&stand.text("Cargo.lock")?)? {
        lend(&of_registries(cache, &name)?, &incoming.join(name))?;
    }
    for package in &image.packages {
        lend(&package.cached(cache), &incoming.join(format!("{}.deb", package.sha256)))?;
    }
    let add = ["-euc", "cd /nix/incoming; nix-store --add-fixed sha256 * >/dev/null"];
    stand.nix.ask(&stand.source, "sh", &add)?;
    fs::remove_dir_all(&incoming).with_context(|| format!("{}: can't remove", incoming.display()))
}

/// Where cargo keeps a crate: below a folder for each registry.
fn of_registries(cache: &Path, name: &str) -> Result<PathBuf> {
    let registries = cache.join("cargo/registry/cache");
    let entries =
        fs::read_dir(&registries).with_context(|| format!("{}: unreadable", registries.display()))?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path().join(name)));
    files.find(|file| file.is_file()).with_context(|| format!("{name}: cargo fetched no such file"))
}

fn lend(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("{}: can't copy", from.display()))?;
    }
    Ok(())
}

fn input_free_parts_build_twice(stand: &Stand<'_>) -> Result<()> {
    let installables = INPUT_FREE.map(|name| format!("{FLAKE}#{name}"));
    let installables: Vec<&str> = installables.iter().map(String::as_str).collect();
    let build = |how: &[&str]| {
        let args = [&["build"], how, &installables].concat();
        stand.nix.ask(&stand.source, "nix", &args)
    };
    let paths = build(&["--print-out-paths", "--out-link", root::KEPT])?;
    build(&["--rebuild", "--no-link"])?;
    let index =
        paths.lines().find(|path| path.ends_with("-kit-crates")).context("nix named no kit-crates")?;
    let lines =
        fs::read_to_string(stand.nix.on_host(index)).with_context(|| format!("{index}: unreadable"))?;
    let crates = pins::crates(&stand.text("Cargo.lock")?)?;
    for (name, sha256) in &crates {
        let listed = |line: &str| line.starts_with(sha256.as_str()) && line.contains(&format!("-{name}  "));
        ensure!(lines.lines().any(listed), "the index does not list {name} {sha256}");
    }
    ensure!(lines.lines().count() == crates.len(), "the index lists more than Cargo.lock");
    Ok(())
}

fn the_rest_evaluates(stand: &Stand<'_>) -> Result<()> {
    let apply = ["--apply", "builtins.mapAttrs (_: package: package.drvPath)"];
    let more = [&STUB[..], &apply].concat();
    let packages = stand.value("packages.x86_64-linux", &more)?;
    for name in FROM_NIXPKGS {
        ensure!(packages.get(name).is_some_and(Value::is_string), "no package {name}");
    }
    stand.value("devShells.x86_64-linux", &more)?;
    let installables = FROM_NIXPKGS.map(|name| format!("{FLAKE}#{name}"));
    let installables: Vec<&str> = installables.iter().map(String::as_str).collect();
    let build = [&["build", "--no-link", "--keep-going"], &installables[..], &STUB].concat();
    let said = stand.nix.refusal(&stand.source, &build)?;
    let said_so =
        said.lines().filter(|line| line.contains("> ") && line.contains("this is the STUB of nixpkgs"));
    ensure!(said_so.count() == FROM_NIXPKGS.len(), "not every package fails because of the stub: {said}");
    Ok(())
}

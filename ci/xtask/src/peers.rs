//! What the engine is measured beside: llama.cpp, onnxruntime and transformers in the cache, from pinned hashes, and the
//! same random weights for all of them.
//!
//! ```text
//! cache/peers/site ....... wheels of ci/reference/peers.txt          cache/peers/build/site ... llama-build.txt
//! cache/peers/llama ...... llama.cpp, compiled for this processor from llama.txt
//! cache/peers/stage ...... weights, graph, our program: what `bench --engine` is given
//! ```
//! All of it may be deleted at will: 8 GB are weights, and llama.cpp takes about ten minutes to compile.

use crate::host;
use crate::reference::{wheels, wheels_of};
use crate::steps::{House, show};
use anyhow::{Context, Result};
use builder::Tools;
use builder::lock::Kind;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How llama.cpp is compiled: for this very processor, and only what computes.
const FLAGS: &str = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_CURL=OFF";

/// Peers that are ready to be measured beside.
pub struct Peers {
    root: Tools,
    sites: OsString,
    stage: PathBuf,
}

/// Makes what is missing.
pub fn ready(house: &House) -> Result<Peers> {
    let folder = house.checkout.cache().join("peers");
    let pins = house.checkout.root().join("ci/reference");
    let site = wheels_of(house, &pins.join("peers.txt"), &folder)?;
    let llama = llama(house, &pins, &folder)?;
    let sites = std::env::join_paths([site, llama, wheels(house)?])
        .with_context(|| format!("{}: a path with a colon", folder.display()))?;
    let root = Tools::of_lock(&house.checkout, Kind::Reference, &mut show)?;
    let peers = Peers { root, sites, stage: folder.join("stage") };
    fs::create_dir_all(&peers.stage).with_context(|| format!("{}: can't make", peers.stage.display()))?;
    peers.models(house)?;
    Ok(peers)
}

impl Peers {
    /// What `bench --engine` is given.
    pub fn stage(&self) -> &Path {
        &self.stage
    }

    /// A program in the root where the peers run, with their libraries.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.root.command(program);
        command.env("PYTHONPATH", &self.sites).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// The decoder of 16 bits in our own bytes, made anew by the engine's `model` that is measured: its layout may have changed.
    pub fn quantised(&self, model: &Path) -> Result<()> {
        let folder = self.stage.join("decoder-int8");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("{}: can't remove", folder.display()))?;
        }
        let model = model.display().to_string();
        host::run(self.command(&model).arg("quantise").args([self.stage.join("decoder-f16"), folder]))
    }

    /// Weights and graph, each made anew when the program that writes it changed.
    fn models(&self, house: &House) -> Result<()> {
        let scripts = house.checkout.root().join("ci/reference/peers");
        let minilm = house.model_folder()?;
        let link = self.stage.join("minilm");
        if !link.exists() {
            symlink(&minilm, &link).with_context(|| format!("{}: can't link", link.display()))?;
        }
        let graph = self.stage.join("minilm.onnx");
        for (script, arguments) in [("export.py", vec![&minilm, &graph]), ("weights.py", vec![&self.stage])] {
            let (script, stamp) = (scripts.join(script), self.stage.join(script).with_extension("done"));
            let text = fs::read(&script).with_context(|| format!("{}: can't read", script.display()))?;
            if fs::read(&stamp).is_ok_and(|there| there == text) {
                continue;
            }
            host::run(self.command("python3").arg(&script).args(arguments))?;
            fs::write(&stamp, text).with_context(|| format!("{}: can't write", stamp.display()))?;
        }
        Ok(())
    }
}

/// The folder that holds the compiled package of llama.cpp.
fn llama(house: &House, pins: &Path, folder: &Path) -> Result<PathBuf> {
    let (site, stamp) = (folder.join("llama"), folder.join("llama.txt"));
    let pin = pins.join("llama.txt");
    let wanted = fs::read(&pin).with_context(|| format!("{}: can't read", pin.display()))?;
    let wanted = [wanted, FLAGS.into(), processor().into()].concat();
    if fs::read(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(site);
    }
    let build = folder.join("build");
    let tools = wheels_of(house, &pins.join("llama-build.txt"), &build)?;
    let programs = programs(&tools)?;
    let out = build.join("out");
    for dir in [&site, &out] {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).with_context(|| format!("{}: can't make", dir.display()))?;
    }
    eprintln!("      compiling llama.cpp for this processor, once: about ten minutes");
    let mut pip = host::online(&house.tools).command("python3");
    pip.args(["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--require-hashes"]);
    pip.args(["--no-binary=:all:", "--wheel-dir"]).arg(&out).arg("--requirement").arg(&pin);
    // The folders of system programs too: entering the root needs `chroot`.
    let path = [programs, "/usr/sbin".into(), "/usr/bin".into(), "/sbin".into(), "/bin".into()];
    let path = std::env::join_paths(path)?;
    pip.env("PATH", path).env("PYTHONPATH", &tools).env("CMAKE_ARGS", FLAGS);
    host::run(&mut pip)?;
    crate::reference::unpack(house, &out, &site)?;
    fs::write(&stamp, wanted).with_context(|| format!("{}: can't write", stamp.display()))?;
    Ok(site)
}

/// Makes the programs of unpacked wheels runnable, in one folder: unpacking forgets that they are programs.
fn programs(site: &Path) -> Result<PathBuf> {
    let folder = site.join("cmake/data/bin");
    let ninja = fs::read_dir(site)?.filter_map(|entry| Some(entry.ok()?.path().join("scripts/ninja")));
    let ninja = ninja.filter(|path| path.is_file()).last().context("the wheel of ninja holds no program")?;
    fs::copy(&ninja, folder.join("ninja")).with_context(|| format!("{}: can't copy", ninja.display()))?;
    for entry in fs::read_dir(&folder).with_context(|| format!("{}: unreadable", folder.display()))? {
        let path = entry?.path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{}: can't be made a program", path.display()))?;
    }
    Ok(folder)
}

/// What llama.cpp is compiled for: a cache that moved to another machine is compiled anew.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().find(|line| line.starts_with("flags")).unwrap_or_default().to_owned()
}

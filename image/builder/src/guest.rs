//! Compiles the guest's programs inside the tools root, at fixed paths, from the staged source.
//!
//! ```text
//! cache/src     at /chrysalis/src         the staged source (see `source`)
//! cache/target  at /chrysalis/target      shared by every checkout
//! cache/cargo   at /chrysalis/cargo       crates, fetched by hash (Cargo.lock)
//! rustc sysroot at /chrysalis/toolchain   the pinned version of this host
//! ```
//! Production programs are selected without the simulator, so that its dependencies can't change their features.

use crate::Profile;
use crate::checkout::Checkout;
use crate::progress::{Report, say};
use crate::source;
use crate::tools::{Tools, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Paths of compiled programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The static first program, `/init` of the initrd.
    pub initrd: PathBuf,
    /// First service.
    pub init: PathBuf,
    /// The daemons and, in the debug profile, the simulated platform, with their names in the root.
    pub others: Vec<(&'static str, PathBuf)>,
}

impl Binaries {
    /// Those that live in the root, with their names there.
    pub(crate) fn in_root(&self) -> Vec<(&'static str, &Path)> {
        let others = self.others.iter().map(|(name, path)| (*name, path.as_path()));
        [("chrysalis-init", self.init.as_path())].into_iter().chain(others).collect()
    }
}

pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a profile's root holds besides the first service. A released image holds the daemon of its role alone.
fn programs(profile: Profile) -> &'static [&'static str] {
    match profile {
        Profile::Worker | Profile::WorkerGpu => &["chrysalis-worker"],
        Profile::Proxy => &["chrysalis-proxy"],
        Profile::Debug | Profile::DebugGpu => &["chrysalis-worker", "chrysalis-proxy", "chrysalis-simulator"],
    }
}

/// Features that the GPU profiles' programs are compiled with, beyond the default.
const GPU_FEATURES: [&str; 3] = ["init/gpu", "worker/gpu", "worker/cuda"];

/// Features that a profile's program of this crate is compiled with, beyond the default.
pub(crate) fn features(profile: Profile, name: &str) -> Vec<&'static str> {
    let of_crate = |feature: &&'static str| -> Option<&'static str> {
        feature.split_once('/').filter(|(owner, _)| *owner == name).map(|(_, feature)| feature)
    };
    GPU_FEATURES.iter().filter(|_| profile.gpu()).filter_map(of_crate).collect()
}

/// The Rust toolchain of this host, checked against `rust-toolchain.toml`.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// `rustc --print sysroot`.
    pub sysroot: PathBuf,
    /// `rustc --version`.
    pub version: String,
}

impl Toolchain {
    /// Finds the pinned toolchain.
    pub fn find(checkout: &Checkout) -> Result<Self> {
        let file = checkout.root().join("rust-toolchain.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("{}: can't read", file.display()))?;
        let table: toml::Table = text.parse().with_context(|| format!("{}: not TOML", file.display()))?;
        let pinned = table.get("toolchain").and_then(|t| t.get("channel")).and_then(|c| c.as_str());
        let pinned = pinned.with_context(|| format!("{}: no toolchain.channel", file.display()))?;
        let rustc = checkout.toolchain().map_or("rustc".into(), |sysroot| sysroot.join("bin/rustc"));
        let ask = |args: &[&str]| -> Result<String> {
            let output = run("rustc", Command::new(&rustc).args(args).current_dir(checkout.root()));
            let output = output
                .with_context(|| format!("install Rust {pinned}: rustup toolchain install {pinned}"))?;
            Ok(String::from_utf8(output)?.trim().to_owned())
        };
        let version = ask(&["--version"])?;
        if version.split(' ').nth(1) != Some(pinned) {
            bail!("rustc is `{version}`, the guest's bytes need {pinned}: rustup toolchain install {pinned}");
        }
        Ok(Toolchain { sysroot: PathBuf::from(ask(&["--print", "sysroot"])?), version })
    }
}

/// Fetches crates by hash; on the host, where its network settings are.
pub(crate) fn fetch(toolchain: &Toolchain, source: &Path, cargo: &Path) -> Result<()> {
    let mut fetch = Command::new(toolchain.sysroot.join("bin/cargo"));
    fetch.args(["fetch", "--locked", "--quiet", "--target", TARGET]).current_dir(source);
    fetch.env("CARGO_HOME", cargo).env("RUSTC", toolchain.sysroot.join("bin/rustc"));
    run("cargo fetch --locked", &mut fetch).map(|_| ())
}

/// A place to compile in.
pub struct Workshop {
    tools: Tools,
    toolchain: Toolchain,
    target: PathBuf,
    // Held while anything is compiled: the staged source must stand still.
    _lock: File,
}

impl Workshop {
    /// Stages the source, fetches crates and binds everything into the tools root. `home` holds `src` and `target`;
    /// crates are shared through the checkout's cache.
    pub fn open(checkout: &Checkout, tools: &Tools, home: &Path, report: Report<'_>) -> Result<Self> {
        let toolchain = Toolchain::find(checkout)?;
        let (staged, target, cargo) = (home.join("src"), home.join("target"), checkout.cache().join("cargo"));
        for dir in [&staged, &target, &cargo] {
            fs::create_dir_all(dir).with_context(|| format!("{}: can't make", dir.display()))?;
        }
        let lock =
            File::create(home.join("src.lock")).with_context(|| format!("{}: can't lock", home.display()))?;
        if lock.try_lock().is_err() {
            say(report, "guest", "waiting for another build that uses the same source folder");
            lock.lock().with_context(|| format!("{}: can't lock", home.display()))?;
        }
        let changed = source::stage(checkout.root(), &staged)?;
        say(report, "guest", format!("source staged, {changed} files changed"));
        if checkout.toolchain().is_none() {
            fetch(&toolchain, &staged, &cargo)?;
        }
        let tools = tools.clone();
        let tools =
            tools.bind(&staged, Path::new("/chrysalis/src")).bind(&target, Path::new("/chrysalis/target"));
        let tools = tools.bind(&cargo, Path::new("/chrysalis/cargo"));
        let tools = tools.bind(&toolchain.sysroot, Path::new("/chrysalis/toolchain"));
        Ok(Workshop { tools, toolchain, target, _lock: lock })
    }

    /// `cargo` inside the tools root, offline, with the flags of the guest; add a subcommand and its arguments.
    pub fn cargo(&self) -> Command {
        self.cargo_with(&[])
    }

    fn cargo_with(&self, flags: &[&str]) -> Command {
        let mut command = self.tools.command("/chrysalis/toolchain/bin/cargo");
        let remap =
            ["--remap-path-prefix=/chrysalis/src=chrysalis", "--remap-path-prefix=/chrysalis/cargo=cargo"];
        let flags = [&remap, flags].concat().join("\u{1f}");
        command.env("PATH", "/chrysalis/toolchain/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("CARGO_HOME", "/chrysalis/cargo").env("CARGO_TARGET_DIR", "/chrysalis/target");
        command.env("CARGO_ENCODED_RUSTFLAGS", flags).env("CARGO_NET_OFFLINE", "true");
        // What the caller's own build set must not leak in.
        for name in [
            "RUSTFLAGS",
            "RUSTC",
            "RUSTUP_TOOLCHAIN",
            "CARGO_BUILD_TARGET",
            "CFLAGS",
            "CC",
            "LD_LIBRARY_PATH",
        ] {
            command.env_remove(name);
        }
        command.env("CARGO_TERM_COLOR", "never").env("SOURCE_DATE_EPOCH", "315532800");
        command
    }

    /// The toolchain in use.
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// Compiles what the profile needs; cargo does nothing where nothing changed.
    pub fn compile(&self, profile: Profile, report: Report<'_>) -> Result<Binaries> {
        let manifest = ["--manifest-path", "/chrysalis/src/Cargo.toml"];
        let build = |mut cargo: Command, args: &[&str]| {
            cargo.args(["build", "--release", "--locked", "--offline", "--quiet"]).args(manifest).args(args);
            run(&format!("cargo build {}", args.join(" ")), &mut cargo)
        };
        say(report, "guest", "compiling initrd (static)");
        let initrd = ["-p", "initrd", "--target", TARGET, "--target-dir", "/chrysalis/target/initrd"];
        build(self.cargo_with(&["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]), &initrd)?;
        // Always all three, whatever the profile: what one of them asks of a shared crate would otherwise decide whether it is
        // compiled anew for the other.
        let features: &[&str] = if profile.gpu() { &GPU_FEATURES } else { &[] };
        say(report, "guest", format!("compiling init, worker and proxy {}", features.join(" ")));
        let mut three = vec!["-p", "init", "-p", "worker", "-p", "proxy", "--bins"];
        three.extend(features.iter().flat_map(|feature| ["--features", feature]));
        build(self.cargo(), &three)?;
        if profile.simulated() {
            say(report, "guest", "compiling simulator");
            build(self.cargo(), &["-p", "simulator", "--bins"])?;
        }
        let release = match profile.gpu() {
            true => self.set_aside()?,
            false => self.target.join("release"),
        };
        let others = programs(profile).iter().map(|name| (*name, release.join(name))).collect();
        let initrd = self.target.join("initrd").join(TARGET).join("release/initrd");
        let binaries = Binaries { initrd, init: release.join("chrysalis-init"), others };
        let programs = binaries.in_root().into_iter().map(|(_, path)| path);
        let missing = programs.chain([binaries.initrd.as_path()]).find(|path| !path.is_file());
        if let Some(missing) = missing {
            bail!("{}: cargo built no such program; is it a [[bin]]?", missing.display());
        }
        Ok(binaries)
    }

    /// Copies the programs to a folder of the GPU profiles: the next build of another profile puts its own under the same
    /// names. (A target folder of their own would compile every crate a second time.)
    fn set_aside(&self) -> Result<PathBuf> {
        let (release, aside) = (self.target.join("release"), self.target.join("gpu"));
        fs::create_dir_all(&aside).with_context(|| format!("{}: can't make", aside.display()))?;
        for name in ["chrysalis-init", "chrysalis-worker", "chrysalis-proxy", "chrysalis-simulator"] {
            if release.join(name).is_file() {
                fs::copy(release.join(name), aside.join(name))
                    .with_context(|| format!("{}: can't copy {name} there", aside.display()))?;
            }
        }
        Ok(aside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_image_holds_the_daemon_of_its_role_and_no_simulator() {
        assert_eq!(programs(Profile::Worker), ["chrysalis-worker"]);
        assert_eq!(programs(Profile::WorkerGpu), ["chrysalis-worker"]);
        assert_eq!(programs(Profile::Proxy), ["chrysalis-proxy"]);
    }

    #[test]
    fn only_the_gpu_profiles_compile_with_features() {
        for profile in Profile::ALL {
            assert_eq!(features(profile, "worker").contains(&"cuda"), profile.gpu(), "{}", profile.name());
            assert!(features(profile, "proxy").is_empty());
        }
    }
}

//! From a recipe to a locked recipe to artifacts.

use crate::allow::AllowList;
use crate::artifacts::{Artifacts, Profile};
use crate::checkout::{Checkout, exclusive};
use crate::gpu::{Gpu, Parts, Places};
use crate::guest::{Binaries, Workshop};
use crate::hash;
use crate::image::{self, Job};
use crate::lock::{Lock, Sources, fetch};
use crate::progress::{Report, say};
use crate::rootfs::Unpacked;
use crate::tools::{Tools, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Raised when the builder itself starts to write other bytes from the same inputs.
const GENERATION: u32 = 1;

/// State: packages are named, not fixed.
#[derive(Debug)]
pub struct Unlocked(());

/// State: every package is fixed by hash and in the cache.
#[derive(Debug)]
pub struct Locked {
    lock: Lock,
    // In a GPU profile alone.
    gpu: Option<Gpu>,
}

/// What an image is to be made of. Building needs a `Recipe<Locked>`.
#[derive(Debug)]
pub struct Recipe<State> {
    checkout: Checkout,
    profile: Profile,
    allow: AllowList,
    state: State,
}

impl Recipe<Unlocked> {
    /// Reads the recipe of a profile.
    pub fn load(checkout: &Checkout, profile: Profile) -> Result<Self> {
        let allow = AllowList::load(&checkout.image().join("rootfs.allow"))?;
        Ok(Recipe { checkout: checkout.clone(), profile, allow, state: Unlocked(()) })
    }

    /// Fixes every package by `packages.lock` (and `gpu.lock`) and fetches it.
    pub fn lock(self, tools: &Tools, report: Report<'_>) -> Result<Recipe<Locked>> {
        let Recipe { checkout, profile, allow, .. } = self;
        let lock = Lock::load(&checkout.image().join("packages.lock"))?;
        let gpu = profile.gpu().then(|| Gpu::load(&checkout, &lock)).transpose()?;
        let allow = gpu.as_ref().map_or(Ok(allow.clone()), |gpu| allow.with(&gpu.allow))?;
        fetch(&lock, checkout.cache(), &Sources::of_this_host(), report)?;
        if let Some(gpu) = &gpu {
            gpu.fetch(&checkout, tools, report)?;
        }
        Ok(Recipe { checkout, profile, allow, state: Locked { lock, gpu } })
    }
}

impl Recipe<Locked> {
    /// Builds into `out`, working in `work`, from programs that are compiled already.
    pub fn assemble(&self, stand: &Stand<'_>, out: &Path, report: Report<'_>) -> Result<Artifacts> {
        let inputs = self.inputs(stand)?;
        if let Ok(old) = Artifacts::load(out)
            && old.inputs == inputs
            && old.verify().is_ok()
        {
            say(report, "image", format!("{}: nothing changed", out.display()));
            return old.of_commit(commit(self.checkout.root()));
        }
        let mut packages = self.unpack(&self.state.lock.packages, stand)?;
        let gpu = self.gpu_parts(stand, report)?;
        packages.extend(gpu.packages);
        let job = Job {
            profile: self.profile,
            recipe: &self.checkout.image(),
            allow: &self.allow,
            packages: &packages,
            built: &gpu.modules,
            epoch: self.state.lock.epoch(),
            binaries: stand.binaries,
            tools: stand.tools,
            work: stand.work,
        };
        let built = image::assemble(&job, out, report)?;
        let mut artifacts = Artifacts::new(self.profile, inputs);
        artifacts.roothash = built.roothash;
        artifacts.cmdline = built.cmdline;
        artifacts.kernel = built.kernel;
        artifacts.toolchain = stand.toolchain.to_owned();
        artifacts.packages_lock = self.state.lock.id();
        artifacts.tools_lock = stand.tools.id().to_owned();
        artifacts.gpu_lock = self.state.gpu.as_ref().map(Gpu::lock_id);
        artifacts.driver = self.state.gpu.as_ref().map(|gpu| gpu.driver().to_owned());
        artifacts.commit = commit(self.checkout.root());
        artifacts.seal(out)
    }

    /// Hash over everything that decides the image's bytes.
    fn inputs(&self, stand: &Stand<'_>) -> Result<String> {
        let image = self.checkout.image();
        let mut text = format!("{GENERATION} {} {}\n", self.profile.name(), stand.toolchain);
        text += &format!("{} {} {}\n", self.state.lock.id(), self.state.lock.epoch(), stand.tools.id());
        for name in ["mkosi.conf", "rootfs.allow"] {
            text += &format!("{} {name}\n", hash::file(&image.join(name))?);
        }
        for name in image::TREES.iter().filter(|name| image.join(name).is_dir()) {
            text += &format!("{} {name}\n", hash::tree(&image.join(name))?);
        }
        text += self.state.gpu.as_ref().map_or("", Gpu::inputs);
        let programs = stand.binaries.in_root();
        for (name, path) in programs.into_iter().chain([("initrd", stand.binaries.initrd.as_path())]) {
            text += &format!("{} {name}\n", hash::file(path)?);
        }
        Ok(hash::bytes(text.as_bytes()))
    }

    fn unpack(&self, packages: &[crate::lock::Package], stand: &Stand<'_>) -> Result<Vec<Unpacked>> {
        unpack(packages, stand.tools, self.checkout.cache(), stand.unpacked)
    }

    /// Packages and modules of the GPU profiles; none in the others.
    fn gpu_parts(&self, stand: &Stand<'_>, report: Report<'_>) -> Result<Parts> {
        let Some(gpu) = &self.state.gpu else { return Ok(Parts::default()) };
        let places = Places {
            tools: stand.tools,
            cache: self.checkout.cache(),
            unpacked: stand.unpacked,
            modules: stand.modules,
        };
        gpu.parts(self.unpack(gpu.debian(), stand)?, &self.state.lock, &places, report)
    }
}

/// Unpacks each locked package once, by hash. Its maintainer scripts are not even looked at.
pub(crate) fn unpack(
    packages: &[crate::lock::Package],
    tools: &Tools,
    cache: &Path,
    unpacked: &Path,
) -> Result<Vec<Unpacked>> {
    fs::create_dir_all(unpacked).with_context(|| format!("{}: can't make", unpacked.display()))?;
    let _lock = exclusive(&unpacked.with_extension("lock"))?;
    let one = |package: &crate::lock::Package| -> Result<Unpacked> {
        let dir = unpacked.join(&package.sha256);
        if !dir.is_dir() {
            let scratch = dir.with_extension("unpacking");
            let mut dpkg = tools.command("dpkg-deb");
            dpkg.arg("--extract").arg(package.cached(cache)).arg(&scratch);
            run(&format!("unpacking {}", package.name), &mut dpkg)?;
            fs::rename(&scratch, &dir).with_context(|| format!("{}: can't put in place", dir.display()))?;
        }
        Ok(Unpacked { package: package.clone(), dir })
    };
    packages.iter().map(one).collect()
}

/// Where and with what an image is assembled.
pub struct Stand<'a> {
    /// Tools root.
    pub tools: &'a Tools,
    /// `rustc --version` of the programs.
    pub toolchain: &'a str,
    /// The guest's programs.
    pub binaries: &'a Binaries,
    /// Scratch folder, emptied first.
    pub work: &'a Path,
    /// Unpacked packages by hash.
    pub unpacked: &'a Path,
    /// Kernel modules that were compiled here, by the hash of their inputs.
    pub modules: &'a Path,
}

/// Builds one profile of a checkout into `out/<profile>`: tools root, packages, guest programs, image. What has not
/// changed since the last build is not done again.
pub fn build(checkout: &Checkout, profile: Profile, report: Report<'_>) -> Result<Artifacts> {
    let tools = Tools::open(checkout, report)?;
    let recipe = Recipe::load(checkout, profile)?.lock(&tools, report)?;
    let workshop = Workshop::open(checkout, &tools, checkout.cache(), report)?;
    let binaries = workshop.compile(profile, report)?;
    let toolchain = workshop.toolchain().version.clone();
    let (unpacked, modules) = (checkout.cache().join("unpacked"), checkout.cache().join("gpu"));
    let work: PathBuf = checkout.root().join("out/.work").join(profile.name());
    let stand = Stand {
        tools: &tools,
        toolchain: &toolchain,
        binaries: &binaries,
        work: &work,
        unpacked: &unpacked,
        modules: &modules,
    };
    recipe.assemble(&stand, &checkout.out(profile), report)
}

/// The commit, if git says that the checkout is clean.
fn commit(root: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "safe.directory=*"])
            .args(args)
            .current_dir(root)
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let clean = git(&["status", "--porcelain"])?.is_empty();
    clean.then(|| git(&["rev-parse", "HEAD"])).flatten()
}

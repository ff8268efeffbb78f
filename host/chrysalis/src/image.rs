//! `chrysalis image`: build the guest image, prove it reproducible, move its package lock.

use crate::output::{Outcome, facts};
use anyhow::{Context, Result};
use builder::kit::{self, Kit, What};
use builder::lock::Changes;
use builder::{Artifacts, Checkout, Profile, Progress, Thoroughness, Tools};
use serde_json::json;
use std::path::PathBuf;

/// Subcommands of `image`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Build the artifacts of a profile and write `artifacts.json`.
    Build {
        /// `worker`, `proxy`, `worker-gpu` (adds NVIDIA's driver), `debug` (adds the simulated platform) or `debug-gpu`.
        #[arg(long, default_value = "worker")]
        profile: Profile,
    },
    /// Build twice in different surroundings and compare byte by byte.
    Prove {
        /// As for `build`.
        #[arg(long, default_value = "worker")]
        profile: Profile,
        /// Compile the guest's programs twice as well, into fresh folders (takes long).
        #[arg(long)]
        full: bool,
    },
    /// Compile the kernel modules of the GPU profiles alone, twice in different surroundings, and compare them.
    Driver,
    /// Move a package lock on purpose, and show what changed.
    Lock {
        /// `packages` (the image), `tools` and `toolchain` (what builds it), `reference` (what the engine is compared with),
        /// `nix` (what tests the flake), `peers` (what the proxy is measured against) or `gpu` (NVIDIA's driver and libraries).
        which: Which,
    },
    /// Make the source kit of a commit: everything that a rebuild needs, in one folder addressed by content.
    Kit {
        /// Folder of the kit; it must be new.
        #[arg(long)]
        out: PathBuf,
        /// Commit, in git's words.
        #[arg(long, default_value = "HEAD")]
        commit: String,
        /// Take the files as they are instead: to try things out, no release can be rebuilt from it.
        #[arg(long, conflicts_with = "commit")]
        working_tree: bool,
    },
    /// Hash every object of a source kit.
    VerifyKit {
        /// Folder of the kit.
        kit: PathBuf,
    },
    /// Print how many bytes of the root each package and program takes.
    Sizes {
        /// Folder with `artifacts.json`.
        #[arg(default_value = "out/worker")]
        dir: PathBuf,
    },
    /// Print what a build left.
    Show {
        /// Folder with `artifacts.json`.
        #[arg(default_value = "out/worker")]
        dir: PathBuf,
    },
}

/// Which lock.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Which {
    /// `image/packages.lock`.
    Packages,
    /// `image/tools.lock`.
    Tools,
    /// `image/toolchain.lock`.
    Toolchain,
    /// `ci/reference/packages.lock`.
    Reference,
    /// `nix/packages.lock`.
    Nix,
    /// `ci/bench/packages.lock`.
    Peers,
    /// `image/gpu.lock`.
    Gpu,
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Build { profile } => {
            let artifacts = builder::build(&Checkout::find()?, profile, &mut show)?;
            print(&artifacts, json)
        }
        Command::Prove { profile, full } => prove(profile, full, json),
        Command::Driver => {
            let twice = builder::gpu::compile_twice(&Checkout::find()?, &mut show)?;
            facts(json, &twice, || twice.to_string())?;
            Ok(if twice.equal() { Outcome::Fine } else { Outcome::Mismatch })
        }
        Command::Lock { which } => lock(which, json),
        Command::Kit { out, commit, working_tree } => {
            let what = if working_tree { What::WorkingTree } else { What::Commit(commit) };
            describe(&kit::make(&Checkout::find()?, &what, &out, &mut show)?, json)
        }
        Command::VerifyKit { kit } => {
            let kit = Kit::open(&kit)?;
            kit.verify(&mut show)?;
            describe(&kit, json)
        }
        Command::Sizes { dir } => {
            let tools = Tools::open(&Checkout::find()?, &mut show)?;
            let sizes = builder::sizes::of(&dir, &tools)?;
            facts(json, &sizes, || sizes.to_string())?;
            Ok(Outcome::Fine)
        }
        Command::Show { dir } => {
            let artifacts = Artifacts::load(&dir)?;
            artifacts.verify()?;
            print(&artifacts, json)
        }
    }
}

fn prove(profile: Profile, full: bool, json: bool) -> Result<Outcome> {
    let thoroughness = if full { Thoroughness::Full } else { Thoroughness::Assemble };
    let proof = builder::prove(&Checkout::find()?, profile, thoroughness, &mut show)?;
    facts(json, &proof, || proof.to_string())?;
    Ok(if proof.equal() { Outcome::Fine } else { Outcome::Mismatch })
}

fn lock(which: Which, json: bool) -> Result<Outcome> {
    let checkout = Checkout::find()?;
    let kind = match which {
        Which::Packages => builder::lock::Kind::Packages,
        Which::Tools => builder::lock::Kind::Tools,
        Which::Reference => builder::lock::Kind::Reference,
        Which::Toolchain => return lock_toolchain(&checkout, json),
        Which::Nix => builder::lock::Kind::Nix,
        Which::Peers => builder::lock::Kind::Peers,
        Which::Gpu => return print_changes(builder::gpu::update(&checkout, &mut show), json),
    };
    print_changes(builder::lock::update(&checkout, kind, &mut show), json)
}

fn print_changes(changes: Result<Changes>, json: bool) -> Result<Outcome> {
    let changes = changes.context("the lock was left as it was")?;
    facts(json, &changes, || changes.to_string())?;
    Ok(Outcome::Fine)
}

fn lock_toolchain(checkout: &Checkout, json: bool) -> Result<Outcome> {
    let lock = kit::toolchain::update(checkout).context("the lock was left as it was")?;
    facts(json, &lock, || {
        format!("{}: Rust {}, {} files", kit::toolchain::FILE, lock.channel, lock.files.len())
    })?;
    Ok(Outcome::Fine)
}

fn describe(kit: &Kit, json: bool) -> Result<Outcome> {
    let index = kit.index();
    let (id, objects, size) = (index.id(), index.objects.len(), index.size());
    let value =
        json!({ "kit": id, "commit": index.commit, "objects": objects, "size": size, "folder": kit.dir() });
    facts(json, &value, || {
        format!("kit      {id}\ncommit   {}\nobjects  {objects}, {} MB", index.commit, size / 1_000_000)
    })?;
    Ok(Outcome::Fine)
}

fn print(artifacts: &Artifacts, json: bool) -> Result<Outcome> {
    facts(json, artifacts, || {
        let mut text = format!("{} image in {}\n", artifacts.profile.name(), artifacts.dir().display());
        text += &format!("  root hash  {}\n  kernel     {}\n", artifacts.roothash, artifacts.kernel);
        for file in &artifacts.files {
            let mib = file.size as f64 / (1024.0 * 1024.0);
            text += &format!("  {:<14} {mib:8.2} MiB  sha256 {}\n", file.name, file.sha256);
        }
        text
    })?;
    Ok(Outcome::Fine)
}

pub fn show(progress: Progress) {
    eprintln!("  {progress}");
}

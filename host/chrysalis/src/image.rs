//! `chrysalis image`: build the guest image, prove it reproducible, move its package lock.

use crate::output::{Outcome, facts};
use anyhow::{Context, Result};
use builder::{Artifacts, Checkout, Profile, Progress, Thoroughness};
use std::path::PathBuf;

/// Subcommands of `image`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Build the artifacts of a profile and write `artifacts.json`.
    Build {
        /// `worker` (as released) or `debug` (adds the simulated platform).
        #[arg(long, default_value = "worker")]
        profile: Profile,
    },
    /// Build twice in different surroundings and compare byte by byte.
    Prove {
        /// `worker` or `debug`.
        #[arg(long, default_value = "worker")]
        profile: Profile,
        /// Compile the guest's programs twice as well, into fresh folders (takes long).
        #[arg(long)]
        full: bool,
    },
    /// Move a package lock on purpose, and show what changed.
    Lock {
        /// `packages` (the image), `tools` (what builds it) or `reference` (what the engine is compared with).
        which: Which,
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
    /// `ci/reference/packages.lock`.
    Reference,
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Build { profile } => {
            let artifacts = builder::build(&Checkout::find()?, profile, &mut show)?;
            print(&artifacts, json)
        }
        Command::Prove { profile, full } => prove(profile, full, json),
        Command::Lock { which } => lock(which, json),
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
    };
    let changes = builder::lock::update(&checkout, kind, &mut show);
    let changes = changes.context("the lock was left as it was")?;
    facts(json, &changes, || changes.to_string())?;
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

fn show(progress: Progress) {
    eprintln!("  {progress}");
}

//! `chrysalis provenance`: which package or crate, at which version and hash, put a file into the image, and why.

use crate::output::{Outcome, facts};
use anyhow::Result;
use builder::provenance::{Answer, ask};
use builder::{Checkout, Profile};
use std::path::PathBuf;

/// Options of `provenance`.
#[derive(clap::Args)]
pub struct Args {
    /// Path in the root (`/usr/...`), in the initrd (`initrd:/init`), a part of the UKI (`uki:.linux`), or a file name.
    path: String,
    /// `worker` or `debug`.
    #[arg(long, default_value = "worker")]
    profile: Profile,
    /// Folder of the build; `out/PROFILE` of this checkout if absent.
    #[arg(long)]
    build: Option<PathBuf>,
}

/// Answers; exit code 1 where the file is not in the image.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let checkout = Checkout::find()?;
    let build = args.build.clone().unwrap_or_else(|| checkout.out(args.profile));
    let answer = ask(&checkout, &build, &args.path)?;
    facts(json, &answer, || answer.to_string())?;
    Ok(match answer {
        Answer::InImage { .. } => Outcome::Fine,
        Answer::NotAllowed { .. } | Answer::Unknown { .. } => Outcome::Mismatch,
    })
}

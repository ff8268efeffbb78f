//! `cargo xtask test`: sets everything up and runs every test, the VM stories included.
//!
//! Tests are compiled and run inside the tools root, in the same profile and target folder as the guest's programs, so
//! that nothing heavy is compiled twice.

use crate::reference;
use crate::steps::{House, Steps};
use crate::{still, tidy};
use anyhow::{Context, Result, bail};
use builder::{Profile, Thoroughness};
use std::path::Path;
use std::process::Command;

/// Options of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Leave out the set-up of images (for work on the pure crates); the VM stories are then not run, and it says so.
    #[arg(long)]
    no_vm: bool,
}

/// Runs everything; the error names what failed.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut steps = Steps::new(if args.no_vm { 4 } else { 8 });
    steps.next("House rules");
    tidy::run(root, &tidy::Args { json: false })?;
    steps.done("tidy");

    steps.next("Tools: a locked Debian root, so that every host builds the same bytes");
    let house = House::open(root)?;
    steps.done("tools root ready");

    steps.next("Model and reference vectors (sentence-transformers, computed now)");
    house.model_folder()?;
    let vectors = reference::vectors(&house)?;
    steps.done("reference vectors computed");

    if !args.no_vm {
        steps.next("Image: worker profile, and worker + debug");
        let worker = house.image(Profile::Worker)?;
        house.image(Profile::Debug)?;
        steps.done("two images built");
        steps.next("Proof: two assemblies of the worker image in different surroundings");
        let proof = builder::prove(
            &house.checkout,
            Profile::Worker,
            Thoroughness::Assemble,
            &mut crate::steps::show,
        )?;
        if !proof.equal() {
            bail!("two builds differ:\n{proof}");
        }
        steps.done("equal, byte by byte");
        steps.next("Proof: lines added in host/, ci/ and docs/ move no measurement");
        still::check(&house, &worker)?;
        steps.done("every artifact is the same");
        steps.next("Model disk and simulated platforms");
        house.model_disk()?;
        house.simulated_platform("demo")?;
        house.simulated_platform("foreign")?;
        steps.done("ready");
    }

    steps.next("Unit, property and process tests, and the VM stories");
    host_tests(root, args)?;
    cargo_test(&house, &vectors, args)?;
    steps.done("passed");
    if args.no_vm {
        eprintln!("--no-vm: the VM stories were not run");
    }
    eprintln!("\nAll passed in {:.0} s.", steps.seconds());
    Ok(())
}

/// All packages in one call: cargo then compiles what they share once, with one set of features.
fn cargo_test(house: &House, vectors: &Path, args: &Args) -> Result<()> {
    let public = house.checkout.root().join("../shared/vectors");
    let binds: &[(&Path, &str)] = if public.is_dir() { &[(&public, "/chrysalis/vectors")] } else { &[] };
    let workshop = house.workshop(binds)?;
    let mut cargo = workshop.cargo();
    cargo.args(["test", "--release", "--locked", "--offline", "--quiet"]);
    cargo.args(["--manifest-path", "/chrysalis/src/Cargo.toml"]);
    cargo.args(["--no-fail-fast", "--workspace", "--exclude", "xtask", "--exclude", "builder"]);
    if args.no_vm {
        cargo.args(["--exclude", "e2e"]);
    }
    cargo.args(&args.filter);
    cargo.env("CHRYSALIS_VECTORS", "/chrysalis/vectors");
    cargo.env("CHRYSALIS_CHECKOUT", house.checkout.root()).env("CHRYSALIS_CACHE", house.checkout.cache());
    cargo.env("CHRYSALIS_MODELS", house.checkout.cache().join("models"));
    cargo.env("CHRYSALIS_REFERENCE_VECTORS", vectors).env("RUST_BACKTRACE", "1");
    let status = cargo.status().context("cargo does not start in the tools root")?;
    if !status.success() {
        bail!("a test failed; the lines above name it");
    }
    Ok(())
}

/// What runs on the host is tested on the host: the task runner and the builder, with the host's git.
fn host_tests(root: &Path, args: &Args) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--release", "--locked", "--quiet", "--package", "xtask", "--package", "builder"]);
    crate::host::run(cargo.args(&args.filter).current_dir(root))
}

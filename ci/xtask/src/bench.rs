//! `cargo xtask bench`: the numbers, each beside its peer or limit, measured in one run.

use crate::steps::{House, Steps};
use anyhow::{Context, Result, bail};
use builder::Profile;
use std::path::Path;

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Print the numbers as JSON.
    #[arg(long)]
    json: bool,
}

/// Builds what is measured, then runs the bench program inside the tools root.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut steps = Steps::new(3);
    steps.next("Set-up");
    let house = House::open(root)?;
    house.image(Profile::Debug)?;
    house.model_disk()?;
    house.simulated_platform("demo")?;
    steps.done("image, model disk and simulated platform ready");

    steps.next("Warm rebuild of the image");
    let began = std::time::Instant::now();
    let stamp = house.out(Profile::Debug.name()).join("artifacts.json");
    std::fs::remove_file(&stamp).with_context(|| format!("{}: can't remove", stamp.display()))?;
    house.image(Profile::Debug)?;
    let rebuild = began.elapsed();
    steps.done("rebuilt");

    steps.next("Sizes, prediction, boots");
    let workshop = house.workshop(&[])?;
    let mut cargo = workshop.cargo();
    cargo.args(["run", "--release", "--locked", "--offline", "--quiet"]);
    cargo.args(["--manifest-path", "/chrysalis/src/Cargo.toml", "--package", "bench", "--"]);
    cargo.arg("--rebuild-ms").arg(rebuild.as_millis().to_string());
    if args.json {
        cargo.arg("--json");
    }
    cargo.env("CHRYSALIS_CHECKOUT", house.checkout.root()).env("CHRYSALIS_CACHE", house.checkout.cache());
    let status = cargo.status().context("cargo does not start in the tools root")?;
    if !status.success() {
        bail!("a number missed its limit, or could not be taken; the lines above say which");
    }
    Ok(())
}

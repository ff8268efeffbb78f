//! `cargo xtask bench`: the numbers, each beside its peer or limit, measured in one run.

use crate::steps::{House, Steps};
use anyhow::{Context, Result, bail};
use builder::Profile;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The file that is taken for changed in a warm rebuild: the wire types, which most guest programs link.
const CHANGED: &str = "src/guest/protocol/src/lib.rs";

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Print the numbers as JSON.
    #[arg(long)]
    json: bool,
    /// Report of `chrysalis reproduce --json`, made on this machine: its time becomes one of the numbers.
    #[arg(long)]
    reproduced: Option<PathBuf>,
}

/// Builds what is measured, then runs the bench program inside the tools root.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut steps = Steps::new(4);
    steps.next("Set-up");
    let house = House::open(root)?;
    house.image(Profile::Debug)?;
    house.model_disk()?;
    // The stage of the VM stories has both.
    house.simulated_platform("demo")?;
    house.simulated_platform("foreign")?;
    steps.done("image, model disk and simulated platforms ready");

    steps.next("Warm rebuild of the image, as after a change of the wire types");
    let rebuild = rebuild(&house)?;
    steps.done("rebuilt");

    steps.next("The programs that measure and that are measured");
    let workshop = house.workshop(&[])?;
    let mut cargo = workshop.cargo();
    cargo.args(["build", "--release", "--locked", "--offline", "--quiet"]);
    cargo.args([
        "--manifest-path",
        "/chrysalis/src/Cargo.toml",
        "--package",
        "bench",
        "--package",
        "chrysalis",
    ]);
    crate::host::run(&mut cargo)?;
    drop(workshop);
    steps.done("compiled");

    steps.next("Sizes, predictions, boots (keep the machine idle: three boots of two guests)");
    let program = house.checkout.cache().join("target/release/bench");
    let mut bench = house.tools.command(&program.display().to_string());
    bench.arg("--rebuild-ms").arg(rebuild.as_millis().to_string());
    if let Some(report) = &args.reproduced {
        bench.arg("--reproduced").arg(report);
    }
    if args.json {
        bench.arg("--json");
    }
    bench.env("CHRYSALIS_CHECKOUT", house.checkout.root()).env("CHRYSALIS_CACHE", house.checkout.cache());
    let status = bench.status().context("the bench program does not start in the tools root")?;
    if !status.success() {
        bail!("a number missed its limit, or could not be taken; the lines above say which");
    }
    steps.done("every limit was met");
    Ok(())
}

/// How long the image takes when one source file changed and everything else is there.
fn rebuild(house: &House) -> Result<Duration> {
    let source = house.checkout.cache().join(CHANGED);
    let file = std::fs::File::options().append(true).open(&source);
    let touched = file.and_then(|file| file.set_modified(SystemTime::now()));
    touched.with_context(|| format!("{}: can't be taken for changed", source.display()))?;
    let stamp = house.out(Profile::Debug.name()).join("artifacts.json");
    std::fs::remove_file(&stamp).with_context(|| format!("{}: can't remove", stamp.display()))?;
    let began = Instant::now();
    house.image(Profile::Debug)?;
    Ok(began.elapsed())
}

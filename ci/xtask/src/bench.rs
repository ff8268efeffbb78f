//! `cargo xtask bench`: the numbers, each beside its peer or limit, measured in one run.

use crate::peers;
use crate::steps::{House, Steps, show};
use anyhow::{Context, Result, bail};
use builder::guest::Workshop;
use builder::lock::Kind;
use builder::{Profile, Tools};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// The file that is taken for changed in a warm rebuild: the wire types, which most guest programs link.
const CHANGED: &str = "src/guest/protocol/src/lib.rs";

/// Parts that boot the image.
const BOOTED: [&str; 2] = ["launch", "boot"];

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Print the numbers as JSON.
    #[arg(long)]
    json: bool,
    /// Report of `chrysalis reproduce --json`, made on this machine: its time becomes one of the numbers.
    #[arg(long)]
    reproduced: Option<PathBuf>,
    /// Leave out the engine beside its peers: they take 10 GB and, the first time, a long while.
    #[arg(long, conflicts_with = "engine")]
    no_engine: bool,
    /// Measure nothing but the engine.
    #[arg(long)]
    engine: bool,
    /// Of the engine's rows, those whose name contains this; several times for several. Implies --engine.
    #[arg(long, conflicts_with = "no_engine")]
    only: Vec<String>,
    /// Only these numbers: `gpu`, `appraisal`, `vouchers`, `proxy`, `path`, `channel`, `gateway`, `doctor`; `launch` and `boot`, which
    /// need the image.
    #[arg(long, conflicts_with_all = ["engine", "only"])]
    part: Vec<String>,
    /// Rounds of each of the engine's rows.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    #[command(flatten)]
    gpu: crate::gpu::Bench,
}

/// Builds what is measured, then runs the bench program inside the tools root.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    if args.gpu.gpu {
        return crate::gpu::bench(root, &args.gpu, args.json, args.rounds);
    }
    let house = House::open(root)?;
    if args.engine || !args.only.is_empty() {
        return engine(&house, args);
    }
    // Both say what they missed before either ends the run.
    let rest = rest(&house, args);
    let engine = if args.no_engine || !args.part.is_empty() { Ok(()) } else { engine(&house, args) };
    rest.and(engine)
}

/// The engine beside its peers, in the root where they run.
fn engine(house: &House, args: &Args) -> Result<()> {
    let mut steps = Steps::new(3);
    steps.next(
        "What the engine is measured beside: llama.cpp, onnxruntime, transformers, and weights for all",
    );
    let peers = peers::ready(house)?;
    steps.done("ready");

    steps.next("The programs that measure and that are measured");
    let workshop = house.workshop(&[])?;
    compile(
        &workshop,
        &[
            "--package",
            "bench",
            "--package",
            "engine",
            "--bins",
            "--example",
            "measure",
            "--example",
            "model",
        ],
    )?;
    let target = house.checkout.cache().join("target/release");
    let measure = peers.stage().join("measure");
    let _ = std::fs::remove_file(&measure);
    std::fs::hard_link(target.join("examples/measure"), &measure)
        .with_context(|| format!("{}: can't link", measure.display()))?;
    drop(workshop);
    peers.quantised(&target.join("examples/model"))?;
    steps.done("compiled, and the weights that llama.cpp has in q8_0 are in bytes for the engine");

    steps.next("The engine and its peers, in turns (keep the machine idle)");
    let mut bench = peers.command(&target.join("bench").display().to_string());
    bench.arg("--engine").arg(peers.stage()).arg("--rounds").arg(args.rounds.to_string());
    bench.args(args.only.iter().flat_map(|name| ["--only", name]));
    finish(house, bench, args)?;
    steps.done("every limit was met");
    Ok(())
}

/// Everything but the engine, or the parts that were asked for.
fn rest(house: &House, args: &Args) -> Result<()> {
    let all = args.part.is_empty();
    let mut steps = Steps::new(if all { 4 } else { 3 });
    steps.next("Set-up");
    // The programs that the proxy is held against, in a root of their own.
    let proxies = Tools::of_lock(&house.checkout, Kind::Peers, &mut show)?.path("/");
    if all || args.part.iter().any(|part| BOOTED.contains(&part.as_str())) {
        stage(house)?;
    }
    steps.done("what is measured, and its peers, are ready");
    let mut rebuilt = None;
    if all {
        steps.next("Warm rebuild of the image, as after a change of the wire types");
        rebuilt = Some(rebuild(house)?);
        steps.done("rebuilt");
    }

    steps.next("The programs that measure and that are measured");
    let workshop = house.workshop(&[])?;
    compile(&workshop, &["--package", "bench", "--package", "chrysalis"])?;
    drop(workshop);
    steps.done("compiled");

    steps.next("Measuring (keep the machine idle; with all parts, three boots of two guests)");
    let program = house.checkout.cache().join("target/release/bench");
    let mut bench = house.tools.command(&program.display().to_string());
    bench.arg("--peers").arg(proxies).args(args.part.iter().flat_map(|part| ["--part", part]));
    if let Some(rebuilt) = rebuilt {
        bench.arg("--rebuild-ms").arg(rebuilt.as_millis().to_string());
    }
    if let Some(report) = &args.reproduced {
        bench.arg("--reproduced").arg(report);
    }
    finish(house, bench, args)?;
    steps.done("every limit was met");
    Ok(())
}

/// What predictions and boots are made of.
fn stage(house: &House) -> Result<()> {
    house.image(Profile::Debug)?;
    house.model_disk()?;
    // The stage of the VM stories has both.
    house.simulated_platform("demo")?;
    house.simulated_platform("foreign")?;
    Ok(())
}

/// Compiles in the profile of everything else.
fn compile(workshop: &Workshop, what: &[&str]) -> Result<()> {
    let mut cargo = workshop.cargo();
    cargo.args(["build", "--release", "--locked", "--offline", "--quiet"]);
    cargo.args(["--manifest-path", "/chrysalis/src/Cargo.toml"]).args(what);
    crate::host::run(&mut cargo)
}

/// Runs the bench program; the error says that a limit was missed.
fn finish(house: &House, mut bench: Command, args: &Args) -> Result<()> {
    bench.args(args.json.then_some("--json"));
    bench.env("CHRYSALIS_CHECKOUT", house.checkout.root()).env("CHRYSALIS_CACHE", house.checkout.cache());
    let status = bench.status().context("the bench program does not start in its root")?;
    if !status.success() {
        bail!("a number missed its limit, or could not be taken; the lines above say which");
    }
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

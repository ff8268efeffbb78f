//! The numbers of Chrysalis, each beside its peer or limit, measured in one run.
//!
//! ```text
//! sizes.rs ----.
//! predict.rs --+--> report.rs: Number (samples, peer, limit) --> table or JSON --> exit code
//! explain.rs --+
//! gpu.rs ------+
//! reproduce.rs +
//! appraisal.rs +
//! vouchers.rs -+
//! proxy.rs ----+
//! path.rs -----+
//! channel.rs --+
//! gateway.rs --+
//! release.rs --+
//! doctor.rs ---+
//! overhead.rs -+
//! boot.rs -----'                                 machine.rs: what it ran on, versions of the peers
//! engine/ ........ reports of its own: `--engine` in the root where the engine's peers run, `--gpu` on a machine with a GPU
//! ```
//! `cargo xtask bench` prepares the stage and starts this inside the tools root. What it prints, and what each number
//! covers, is in `docs/reference/bench.md`.
//!
//! Deliberately absent: a store of earlier numbers (a time on another machine, or on this one under another load, is no
//! peer), and timed tests.

mod appraisal;
mod boot;
mod channel;
mod doctor;
mod engine;
mod explain;
mod gateway;
mod gpu;
mod machine;
mod overhead;
mod path;
mod predict;
mod proxy;
mod release;
mod report;
mod reproduce;
mod sizes;
mod stats;
mod vouchers;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use e2e::Stage;
use report::{Limit, Number, Report, Unit};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Counts the heap of idle sessions, by end; threads that belong to no end are not counted.
#[global_allocator]
static ALLOCATOR: channel::counting::Counting = channel::counting::Counting;

/// Seconds that a warm rebuild may take.
const REBUILD_LIMIT: f64 = 90.0;

#[derive(Parser)]
#[command(
    name = "bench",
    about = "The numbers, each beside its peer or limit; start it with `cargo xtask bench`"
)]
struct Args {
    /// Milliseconds that the warm rebuild took, measured by the caller.
    #[arg(long)]
    rebuild_ms: Option<u64>,
    /// What `chrysalis reproduce --json` printed on this machine: rebuilding takes too long to be part of every run.
    #[arg(long)]
    reproduced: Option<PathBuf>,
    /// Boots of each of the two guests, alternating.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    boots: u32,
    /// Measure the engine only, beside its peers: the folder that `cargo xtask bench` prepared for it.
    #[arg(long)]
    engine: Option<PathBuf>,
    /// Rounds of each row of the engine.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Of the engine's rows, those whose name contains this; several times for several.
    #[arg(long, requires = "engine")]
    only: Vec<String>,
    /// Measure the engine on a GPU only: the program that is measured.
    #[arg(long, conflicts_with = "engine")]
    gpu: Option<PathBuf>,
    /// What computes: `cuda`, or `vulkan` for development, with a tiny model and without limits.
    #[arg(long, requires = "gpu", default_value = "cuda", value_parser = ["cuda", "vulkan"])]
    device: String,
    /// Shapes of models; several times for several, all without it.
    #[arg(long, requires = "gpu")]
    shape: Vec<String>,
    /// Folder for random weights while they are measured.
    #[arg(long, requires = "gpu", default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
    /// A Python with transformers and a torch with CUDA.
    #[arg(long, requires = "gpu", default_value = "python3")]
    python: PathBuf,
    /// Root of the peers' packages, `ci/bench/packages.lock`.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// Only these numbers; several times for several. But for `launch` and `boot` they need no image.
    #[arg(long, conflicts_with_all = ["engine", "gpu"])]
    part: Vec<Part>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Numbers that can be taken alone.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Gpu,
    Appraisal,
    Vouchers,
    Proxy,
    Path,
    Channel,
    Gateway,
    Doctor,
    Launch,
    Boot,
}

/// Exit codes as everywhere: 0 fine, 1 a limit was missed, 2 a number could not be taken.
fn main() -> ExitCode {
    let args = Args::parse();
    let report = match (&args.engine, &args.gpu) {
        (Some(folder), _) => engine::report(folder, args.rounds as usize, &args.only),
        (None, Some(program)) => on_gpu(program, &args).report(),
        (None, None) => measure(&args),
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    if args.json {
        println!("{:#}", report.to_json());
    } else {
        print!("{report}");
    }
    let missed = report.missed();
    for number in &missed {
        eprintln!("missed: {}", number.verdict());
    }
    ExitCode::from(u8::from(!missed.is_empty()))
}

fn on_gpu(program: &Path, args: &Args) -> engine::gpu::Bench {
    engine::gpu::Bench {
        measure: program.into(),
        device: args.device.clone(),
        shapes: args.shape.clone(),
        scratch: args.scratch.clone(),
        python: args.python.clone(),
        rounds: args.rounds as usize,
    }
}

fn measure(args: &Args) -> Result<Report> {
    let before = machine::load();
    if !args.part.is_empty() {
        let scratch = std::env::temp_dir().join(format!("chrysalis-bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).with_context(|| format!("{}: can't make", scratch.display()))?;
        let numbers = args.part.iter().map(|part| part.measure(args, &scratch)).collect::<Result<Vec<_>>>();
        let _ = std::fs::remove_dir_all(&scratch);
        return Ok(Report { numbers: numbers?.concat(), facts: machine::alone(&before)? });
    }
    let stage = Stage::open()?;
    let scratch = stage.scratch("bench")?;
    let mut numbers = sizes::measure(&stage)?;
    numbers.extend(args.rebuild_ms.map(rebuild));
    numbers.extend(args.reproduced.as_deref().map(reproduce::number).transpose()?);
    numbers.extend(predict::measure(&stage, &scratch)?);
    numbers.extend(explain::measure(&stage, &scratch)?);
    numbers.extend(release::measure(&scratch)?);
    for part in Part::value_variants() {
        numbers.extend(part.measure(args, &scratch)?);
    }
    Ok(Report { numbers, facts: machine::facts(&stage, &before)? })
}

impl Part {
    fn measure(self, args: &Args, scratch: &Path) -> Result<Vec<Number>> {
        Ok(match self {
            Part::Gpu => vec![gpu::measure()?],
            Part::Appraisal => appraisal::measure()?,
            Part::Vouchers => vec![vouchers::measure(scratch)?],
            Part::Proxy => proxy::measure(scratch)?,
            Part::Path => {
                let peers = args.peers.as_deref();
                path::measure(
                    scratch,
                    peers.context("--peers is missing; start this with `cargo xtask bench`")?,
                )?
            }
            Part::Channel => channel::measure()?,
            Part::Gateway => vec![gateway::measure(scratch)?],
            Part::Doctor => doctor::measure()?,
            Part::Launch => overhead::measure(&Stage::open()?, scratch)?,
            Part::Boot => boot::measure(&Stage::open()?, scratch, args.boots)?,
        })
    }
}

fn rebuild(millis: u64) -> Number {
    let seconds = Duration::from_millis(millis).as_secs_f64();
    Number::new("warm rebuild", Unit::Seconds, &[seconds]).limit(Limit::AtMost(REBUILD_LIMIT)).covers(
        "the wire types changed: all guest programs that use them compiled, the debug image assembled",
    )
}

//! `cargo xtask gpu`: the kernels for GPUs on whatever Vulkan driver this machine has, Mesa's llvmpipe if nothing else; and
//! `cargo xtask bench --gpu`: the engine on a GPU, beside what the GPU can do at best.
//!
//! What computes the tests is the processor or a GPU through Vulkan, never CUDA: it shows that the kernels are right, not that they are
//! fast, and says nothing of NVIDIA's compiler. Not a part of `test`: the locked tools root has no Vulkan, and compiling takes long.
//! Both are compiled with the host's tools: a GPU's driver is the host's.

use crate::host;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where loaders look for drivers.
const DRIVERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

/// Options of `gpu`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder that `ci/reference/causal.py` wrote: answers of transformers are compared too.
    #[arg(long)]
    reference: Option<std::path::PathBuf>,
}

/// Options of `bench --gpu`.
#[derive(clap::Args)]
pub struct Bench {
    /// Measure the engine on a GPU only: needs its driver, NVRTC and its headers, and room for random weights.
    #[arg(long, conflicts_with_all = ["engine", "only", "no_engine", "part", "reproduced"])]
    pub gpu: bool,
    /// What computes: `cuda`, or `vulkan` with a tiny model and without limits, for work on the bench itself.
    #[arg(long, requires = "gpu", default_value = "cuda", value_parser = ["cuda", "vulkan"])]
    device: String,
    /// Shapes of models, `0.6b` (1.2 GB) and `8b` (16.4 GB); both without it.
    #[arg(long, requires = "gpu")]
    shape: Vec<String>,
    /// Folder for random weights while they are measured, such as /dev/shm where memory is plenty; the temporary folder without it.
    #[arg(long, requires = "gpu")]
    scratch: Option<PathBuf>,
    /// A Python with transformers and a torch for CUDA, to be measured beside; without one it is left out.
    #[arg(long, requires = "gpu")]
    python: Option<PathBuf>,
}

/// Compiles what measures and what is measured, and runs it.
pub fn bench(root: &Path, args: &Bench, json: bool, rounds: u32) -> Result<()> {
    let feature = if args.device == "cuda" {
        "cuda"
    } else {
        ensure_vulkan()?;
        "wgpu"
    };
    let release = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let release = release.join("release");
    for what in [
        &["--package", "engine", "--features", feature, "--example", "measure"][..],
        &["--package", "bench", "--bin", "bench"],
    ] {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--quiet"]).args(what).current_dir(root);
        host::run(&mut cargo)?;
    }
    let mut bench = Command::new(release.join("bench"));
    bench.arg("--gpu").arg(release.join("examples/measure")).args(["--device", &args.device]);
    bench.args(["--rounds", &rounds.to_string()]).args(json.then_some("--json"));
    bench.args(args.shape.iter().flat_map(|shape| ["--shape", shape]));
    bench.args(args.scratch.iter().flat_map(|path| ["--scratch".as_ref(), path.as_os_str()]));
    bench.args(args.python.iter().flat_map(|path| ["--python".as_ref(), path.as_os_str()]));
    let status =
        bench.env("CHRYSALIS_CHECKOUT", root).status().context("the bench program does not start")?;
    if !status.success() {
        bail!("a number missed its limit, or could not be taken; the lines above say which");
    }
    Ok(())
}

fn ensure_vulkan() -> Result<()> {
    let told = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|name| std::env::var_os(name).is_some());
    let found =
        DRIVERS.iter().any(|folder| std::fs::read_dir(folder).is_ok_and(|mut all| all.next().is_some()));
    ensure!(
        told || found,
        "expected a Vulkan driver in {}, found none; `apt-get install mesa-vulkan-drivers libvulkan1` brings one that computes \
         on the processor",
        DRIVERS.join(" or ")
    );
    Ok(())
}

/// Compiles and runs the tests with the host's linker.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    ensure_vulkan()?;
    eprintln!("gpu: kernels for GPUs through Vulkan on what the driver names; NOT CUDA");
    let mut cargo = Command::new("cargo");
    cargo.args([
        "test",
        "--release",
        "--locked",
        "--package",
        "engine",
        "--features",
        "wgpu",
        "--test",
        "gpu",
    ]);
    cargo.args(["--", "--test-threads", "1", "--nocapture"]).current_dir(root);
    if let Some(reference) = &args.reference {
        cargo.env("CHRYSALIS_REFERENCE_DECODERS", reference.canonicalize()?);
    }
    host::run(&mut cargo)
}

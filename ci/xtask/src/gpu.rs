//! `cargo xtask gpu`: the kernels for GPUs on whatever Vulkan driver this machine has, Mesa's llvmpipe if nothing else.
//!
//! What computes is the processor or a GPU through Vulkan, never CUDA: it shows that the kernels are right, not that they are fast, and
//! says nothing of NVIDIA's compiler. Not a part of `test`: the locked tools root has no Vulkan, and compiling takes long.

use crate::host;
use anyhow::{Result, ensure};
use std::path::Path;
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

/// Compiles and runs the tests with the host's linker.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let told = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|name| std::env::var_os(name).is_some());
    let found =
        DRIVERS.iter().any(|folder| std::fs::read_dir(folder).is_ok_and(|mut all| all.next().is_some()));
    ensure!(
        told || found,
        "expected a Vulkan driver in {}, found none; `apt-get install mesa-vulkan-drivers libvulkan1` brings one that computes \
         on the processor",
        DRIVERS.join(" or ")
    );
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

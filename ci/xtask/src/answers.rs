//! `cargo xtask answers`: writes what a text model must compute beside it, so that every worker that serves it can be held
//! against this machine (docs/reference/engine.md).

use crate::host;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `answers`.
#[derive(clap::Args)]
pub struct Args {
    /// Hugging Face folder of a text model.
    folder: PathBuf,
    /// What computes: `cpu`, or `cuda` on a machine with a GPU. Other rows stay in the file.
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda"])]
    device: String,
    /// In which form weights are multiplied by.
    #[arg(long, default_value = "as stored", value_parser = ["as stored", "bf16", "bf16-rounded", "f32", "int8"])]
    precision: String,
    /// In which precision keys and values are held; as a worker does that is told nothing, where it is absent.
    #[arg(long, value_parser = ["f16", "f32"])]
    kv_precision: Option<String>,
}

/// Compiles the engine's tool with the host's linker and runs it.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let folder = args.folder.canonicalize();
    let folder = folder.with_context(|| format!("{}: no folder", args.folder.display()))?;
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--release", "--locked", "--quiet", "--package", "engine", "--example", "model"]);
    if args.device == "cuda" {
        cargo.args(["--features", "cuda"]);
    }
    cargo.args(["--", "answers"]).arg(folder).args([&args.device, &args.precision]).args(&args.kv_precision);
    host::run(cargo.current_dir(root))
}

//! `cargo xtask quantise`: a text model's folder with its weights in bytes, half as large as in 16 bits, and its known answers
//! (docs/how-to/models.md).

use crate::host;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Options of `quantise`.
#[derive(clap::Args)]
pub struct Args {
    /// Hugging Face folder of a text model.
    folder: PathBuf,
    /// New folder.
    out: PathBuf,
}

/// Compiles the engine's tool with the host's linker and runs it.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
    let mut cargo = host::example(root, "engine", "model");
    cargo.arg("quantise").arg(absolute(&args.folder)?).arg(absolute(&args.out)?);
    host::run(&mut cargo)
}

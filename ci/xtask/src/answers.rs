//! `cargo xtask answers`: writes what a text model must compute beside it, so that every worker that serves it can be held
//! against this machine (docs/reference/engine.md).

use crate::host;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Options of `answers`.
#[derive(clap::Args)]
pub struct Args {
    /// Hugging Face folder of a text model.
    folder: PathBuf,
}

/// Compiles the engine's tool with the host's linker and runs it.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let folder = args.folder.canonicalize();
    let folder = folder.with_context(|| format!("{}: no folder", args.folder.display()))?;
    host::run(host::example(root, "engine", "model").arg("answers").arg(folder))
}

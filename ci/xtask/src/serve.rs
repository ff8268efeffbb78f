//! `cargo xtask serve`: a model folder behind the worker's own routes, for development. Plain HTTP on loopback, not in
//! any image; it says so.

use crate::host;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Options of `serve`.
#[derive(clap::Args)]
pub struct Args {
    /// Hugging Face folder of a model; several times for several models. Their names are those of the folders.
    #[arg(long, required = true)]
    model: Vec<PathBuf>,
    /// Port on 127.0.0.1; 0 takes a free one and says which.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Compiles the server with the host's linker and runs it until Ctrl-C.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut cargo = host::example(root, "worker", "plain");
    for model in &args.model {
        let model =
            model.canonicalize().with_context(|| format!("--model {}: no folder", model.display()))?;
        cargo.arg("--model").arg(model);
    }
    cargo.arg("--port").arg(args.port.to_string());
    host::run(&mut cargo)
}

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
    /// In which form text models' weights are multiplied by, as a worker's configuration has it.
    #[arg(long, value_parser = ["as stored", "bf16", "bf16-rounded", "f32", "int8"])]
    precision: Option<String>,
    /// In which precision keys and values are held.
    #[arg(long, value_parser = ["f16", "f32"])]
    kv_precision: Option<String>,
    /// Threads of each text model.
    #[arg(long)]
    threads: Option<u16>,
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
    let threads = args.threads.map(|threads| threads.to_string());
    for (option, value) in
        [("--precision", &args.precision), ("--kv-precision", &args.kv_precision), ("--threads", &threads)]
    {
        if let Some(value) = value {
            cargo.args([option, value]);
        }
    }
    host::run(&mut cargo)
}

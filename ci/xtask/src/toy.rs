//! `cargo xtask toy`: the toy language model, trained by the project on its own text (docs/reference/toy.md).

use crate::host;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Options of `toy`.
#[derive(clap::Args)]
pub struct Args {
    /// What the program `toy` is asked: `gather COMMIT`, `train` or `measure`.
    #[arg(trailing_var_arg = true, required = true)]
    task: Vec<String>,
}

/// Compiles the trainer with the host's linker and runs it in the checkout.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--release", "--locked", "--quiet", "--package", "toy", "--"]);
    host::run(cargo.args(&args.task).current_dir(root))
}

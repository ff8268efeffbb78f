//! `cargo xtask conformance`: evidence with one defect each, as files, and who catches what.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `conformance`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder to write.
    #[arg(long, default_value = "out/conformance")]
    out: PathBuf,
    /// Print the index as JSON instead of the matrix.
    #[arg(long)]
    json: bool,
}

/// Runs the program that knows the verifiers; this one links none of them.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["run", "--quiet", "--locked", "--package", "conformance", "--"])
        .arg(&args.out);
    if args.json {
        cargo.arg("--json");
    }
    let status = cargo.status().context("cargo does not start")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("a defect fails other checks than it should: see WRONG above"),
        _ => bail!("the vectors could not be made: {status}"),
    }
}

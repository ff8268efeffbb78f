//! `chrysalis evidence`: appraise recorded evidence at a stated time; a network is used only where a service is named.

use crate::output::Outcome;
use crate::{evidence_bundle, evidence_collateral, evidence_gpu, evidence_verify};
use anyhow::Result;

/// Subcommands of `evidence`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Appraise a TDX quote (version 4 or 5), or a bundle, and print every check.
    Verify(evidence_verify::Args),
    /// Fetch what is published about a quote's platform, verify it, keep it, and print when it expires.
    Collateral(evidence_collateral::Args),
    /// Appraise attestation reports of NVIDIA GPUs and print every check.
    Gpu(evidence_gpu::Args),
    /// Put evidence, collateral and reference values into one file that anyone can verify again.
    Bundle(evidence_bundle::Args),
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Verify(args) => evidence_verify::run(&args, json),
        Command::Collateral(args) => evidence_collateral::run(&args, json),
        Command::Gpu(args) => evidence_gpu::run(&args, json),
        Command::Bundle(args) => evidence_bundle::run(&args, json),
    }
}

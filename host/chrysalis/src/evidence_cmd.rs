//! `chrysalis evidence`: appraise recorded evidence at a stated time, without a network.

use crate::evidence_gpu;
use crate::input::read;
use crate::output::{Outcome, facts};
use crate::trust;
use anyhow::{Context, Result, bail};
use evidence::{Collateral, Inputs, Policy, Reference, Verdict};
use measure::wire::{EventLog, LogFormat};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Subcommands of `evidence`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Appraise a TDX quote (version 4 or 5) and print every check.
    Verify(Verify),
    /// Appraise attestation reports of NVIDIA GPUs and print every check.
    Gpu(evidence_gpu::Args),
}

/// Options of `evidence verify`. A check whose input is not given is listed as skipped.
#[derive(clap::Args)]
pub struct Verify {
    /// The quote, as the platform gave it.
    #[arg(long)]
    quote: PathBuf,
    /// Collateral (JSON with the fields of QuoteCollateralV3).
    #[arg(long)]
    collateral: PathBuf,
    /// Time of the appraisal, seconds since 1970.
    #[arg(long)]
    at: u64,
    /// CC event log of the same boot.
    #[arg(long)]
    eventlog: Option<PathBuf>,
    /// Reference values (JSON).
    #[arg(long)]
    reference: Option<PathBuf>,
    /// What the quote was asked to contain: 64 bytes, hex.
    #[arg(long)]
    report_data: Option<String>,
    /// Appraisal policy (TOML); the strict production policy if absent.
    #[arg(long)]
    policy: Option<PathBuf>,
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    let args = match command {
        Command::Verify(args) => args,
        Command::Gpu(args) => return evidence_gpu::run(&args, json),
    };
    let verdict = verify(&args)?;
    facts(json, &verdict, || verdict.table(std::io::stdout().is_terminal()))?;
    Ok(if verdict.accepted { Outcome::Fine } else { Outcome::Mismatch })
}

fn verify(args: &Verify) -> Result<Verdict> {
    let quote = read(&args.quote)?;
    evidence::Quote::parse(&quote).with_context(|| format!("{}", args.quote.display()))?;
    let collateral = Collateral::parse(&read(&args.collateral)?)
        .with_context(|| format!("{}", args.collateral.display()))?;
    let policy = args.policy.as_deref().map(trust::policy).transpose()?.unwrap_or_else(Policy::production);
    let event_log = args.eventlog.as_deref().map(event_log).transpose()?;
    let reference = args.reference.as_deref().map(reference).transpose()?;
    let report_data = args.report_data.as_deref().map(report_data).transpose()?;
    Ok(evidence::verify(&Inputs {
        quote: &quote,
        collateral: &collateral,
        policy: &policy,
        event_log: event_log.as_ref(),
        static_config: None,
        runtime: None,
        reference: reference.as_ref(),
        report_data: report_data.as_ref(),
        at: args.at,
    }))
}

fn event_log(path: &Path) -> Result<EventLog> {
    Ok(EventLog { format: LogFormat::Ccel, bytes: read(path)? })
}

fn reference(path: &Path) -> Result<Reference> {
    Reference::parse(&read(path)?).with_context(|| format!("{}", path.display()))
}

fn report_data(text: &str) -> Result<[u8; 64]> {
    let bytes = hex::decode(text).context("--report-data: expected hex digits")?;
    match bytes.try_into() {
        Ok(array) => Ok(array),
        Err(bytes) => bail!("--report-data: expected 64 bytes (128 hex digits), found {}", Vec::len(&bytes)),
    }
}

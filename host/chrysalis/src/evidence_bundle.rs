//! `chrysalis evidence bundle`: one file with everything that an appraisal takes but the policy.

use crate::evidence_verify::report_data;
use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result};
use evidence::{Bundle, BundlePart, Collateral, Quote, Reference};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Options of `evidence bundle`.
#[derive(clap::Args)]
pub struct Args {
    /// The quote, as the platform gave it.
    #[arg(long)]
    quote: PathBuf,
    /// Collateral (JSON with the fields of QuoteCollateralV3).
    #[arg(long)]
    collateral: PathBuf,
    /// CC event log of the same boot.
    #[arg(long)]
    eventlog: Option<PathBuf>,
    /// TPM event log of the same boot, of a simulated platform.
    #[arg(long, conflicts_with = "eventlog")]
    tpm_log: Option<PathBuf>,
    /// Static configuration of the guest.
    #[arg(long)]
    static_config: Option<PathBuf>,
    /// Record of the guest's own events.
    #[arg(long)]
    runtime: Option<PathBuf>,
    /// Reference values (JSON).
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Signed description of the release.
    #[arg(long)]
    release: Option<PathBuf>,
    /// What the quote was asked to contain: 64 bytes, hex.
    #[arg(long)]
    report_data: Option<String>,
    /// When the evidence was taken, seconds since 1970.
    #[arg(long)]
    taken_at: Option<u64>,
    /// Evidence of GPUs (NVIDIA's JSON envelope).
    #[arg(long)]
    gpu_evidence: Vec<PathBuf>,
    /// What the GPUs' reports were asked to contain: 32 bytes, hex.
    #[arg(long)]
    gpu_nonce: Option<String>,
    /// Reference manifests of GPU drivers.
    #[arg(long)]
    driver_rim: Vec<PathBuf>,
    /// Reference manifests of GPU VBIOSes.
    #[arg(long)]
    vbios_rim: Vec<PathBuf>,
    /// OCSP responses (DER) for certificates of GPUs.
    #[arg(long)]
    ocsp: Vec<PathBuf>,
    /// File to write.
    #[arg(long)]
    out: PathBuf,
}

/// Reads every part, so that what can't be read is told now, and writes the bundle.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let bundle = Bundle::new(parts(args)?)?;
    let bytes = bundle.to_bytes();
    std::fs::write(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;
    let contents = bundle.contents();
    let all = json!({"bundle": args.out, "bytes": bytes.len(), "contents": contents});
    facts(json, &all, || {
        let line = |content: &evidence::Content| {
            let part = json!(content.part);
            format!(
                "{:<16} {:>9} bytes  {}\n",
                part.as_str().unwrap_or_default(),
                content.bytes,
                content.sha256
            )
        };
        let lines: String = contents.iter().map(line).collect();
        format!("{lines}{}: {} bytes", args.out.display(), bytes.len())
    })?;
    Ok(Outcome::Fine)
}

fn parts(args: &Args) -> Result<Vec<(BundlePart, Vec<u8>)>> {
    let quote = checked(&args.quote, |bytes| Ok(Quote::parse(bytes).map(drop)?))?;
    let collateral = checked(&args.collateral, |bytes| Ok(Collateral::parse(bytes).map(drop)?))?;
    let mut parts = vec![(BundlePart::Quote, quote), (BundlePart::Collateral, collateral)];
    if let Some(path) = &args.reference {
        parts.push((BundlePart::Reference, checked(path, |bytes| Ok(Reference::parse(bytes).map(drop)?))?));
    }
    for (part, path) in [
        (BundlePart::Ccel, &args.eventlog),
        (BundlePart::TpmLog, &args.tpm_log),
        (BundlePart::StaticConfig, &args.static_config),
        (BundlePart::RuntimeRecord, &args.runtime),
        (BundlePart::Release, &args.release),
    ] {
        parts.extend(path.as_deref().map(|path| anyhow::Ok((part, read(path)?))).transpose()?);
    }
    for (part, paths) in [
        (BundlePart::GpuEvidence, &args.gpu_evidence),
        (BundlePart::DriverRim, &args.driver_rim),
        (BundlePart::VbiosRim, &args.vbios_rim),
        (BundlePart::Ocsp, &args.ocsp),
    ] {
        for path in paths {
            parts.push((part, read(path)?));
        }
    }
    if let Some(text) = &args.report_data {
        parts.push((BundlePart::ReportData, report_data(text)?.to_vec()));
    }
    if let Some(text) = &args.gpu_nonce {
        parts.push((BundlePart::GpuNonce, hex::decode(text).context("--gpu-nonce: expected hex digits")?));
    }
    parts.extend(args.taken_at.map(|at| (BundlePart::TakenAt, at.to_be_bytes().to_vec())));
    Ok(parts)
}

/// The file's bytes, if they read as what they are said to be.
fn checked(path: &Path, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    check(&bytes).with_context(|| format!("{}", path.display()))?;
    Ok(bytes)
}

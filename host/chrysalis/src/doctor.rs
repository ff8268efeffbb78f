//! `chrysalis doctor`: what this host lacks for confidential guests, with what was seen and what to do.

use crate::output::{Outcome, facts};
use anyhow::{Context, Result, anyhow, bail};
use evidence::gpu::Rim;
use launcher::doctor::{DEADLINE, Options, Report, examine};
use launcher::host::{Host, Real, Recorded, Recorder};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// For a host in a file, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Examine the host that this file describes, instead of this one.
    #[arg(long, conflicts_with = "record")]
    host: Option<PathBuf>,
    /// Write what was asked and answered into this file, for a bug report; what names the machine is left out, but read it first.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Firmware of guests, instead of those that distributions install.
    #[arg(long)]
    firmware: Option<PathBuf>,
    /// Where models are kept.
    #[arg(long, default_value = ".")]
    models: PathBuf,
    /// Leave out the checks that need a GPU.
    #[arg(long)]
    no_gpu: bool,
    /// Intel's TCB info of this platform (JSON), or collateral that holds one, for the TDX module's version.
    #[arg(long)]
    tcb_info: Option<PathBuf>,
    /// Folder of kept manifests (RIMs) of VBIOSes.
    #[arg(long)]
    rims: Option<PathBuf>,
    /// Show what passed, too.
    #[arg(long)]
    all: bool,
}

/// Examines and reports. Exit code 1 unless every check passes.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let options = options(&args)?;
    let report = match (&args.host, &args.record) {
        (Some(file), _) => {
            let host = Recorded::read(file)?;
            eprintln!("  RECORDED host, not this one: {}", host.about());
            // Nothing hangs in a file.
            examine(Arc::new(host), &options, PATIENCE)
        }
        (None, Some(file)) => record(file, &options)?,
        (None, None) => examine(Arc::new(Real::default()), &options, DEADLINE),
    };
    facts(json, &report, || report.to_text(args.all))?;
    Ok(if report.is_good() { Outcome::Fine } else { Outcome::Mismatch })
}

fn record(file: &Path, options: &Options) -> Result<Report> {
    let recorder = Arc::new(Recorder::new(Real::default()));
    let report = examine(recorder.clone() as Arc<dyn Host>, options, DEADLINE);
    let about = format!("recorded by chrysalis {}", env!("CARGO_PKG_VERSION"));
    let text =
        recorder.document(&about).map_err(|why| anyhow!("the recording can't be written down: {why}"))?;
    std::fs::write(file, text).with_context(|| format!("{}: can't write", file.display()))?;
    eprintln!("  recorded into {}; read it before you send it to anybody", file.display());
    Ok(report)
}

fn options(args: &Args) -> Result<Options> {
    let mut options = Options { gpus: !args.no_gpu, ..Options::default() };
    let absolute = |path: &Path| -> Result<String> {
        let path = std::path::absolute(path).with_context(|| format!("{}: no such place", path.display()))?;
        Ok(path.display().to_string())
    };
    // A recorded host has its own folders.
    options.models =
        if args.host.is_some() { args.models.display().to_string() } else { absolute(&args.models)? };
    if let Some(firmware) = &args.firmware {
        options.firmware = vec![absolute(firmware)?];
    }
    options.tcb_info = args.tcb_info.as_deref().map(tcb_info).transpose()?;
    if let Some(dir) = &args.rims {
        options.vbios = manifests(dir)?;
    }
    Ok(options)
}

/// The TCB info itself, Intel's answer with its signature around it, or collateral with its text in `tcb_info`.
fn tcb_info(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: unreadable", path.display()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
    if let Some(inner) = value.get("tcb_info").and_then(|inner| inner.as_str()) {
        return Ok(inner.into());
    }
    if let Some(inner) = value.get("tcbInfo") {
        return Ok(inner.to_string());
    }
    if value.get("tdxModuleIdentities").is_none() {
        bail!("{}: no TDX module identities in it; take the TCB info of tee `tdx`", path.display());
    }
    Ok(text)
}

/// VBIOS versions of the manifests in a folder. Their signatures are the guest's verifier's business.
fn manifests(dir: &Path) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("{}: no folder of manifests", dir.display()))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        let bytes = std::fs::read(&path).with_context(|| format!("{}: unreadable", path.display()))?;
        match Rim::parse(&bytes) {
            Ok(rim) => versions.push(rim.version),
            Err(why) => eprintln!("  {}: left out, {why}", path.display()),
        }
    }
    Ok(versions)
}

//! `chrysalis evidence gpu`: appraise recorded evidence of NVIDIA GPUs and NVSwitches at a stated time.

use crate::input::read;
use crate::output::{Outcome, facts};
use crate::trust;
use anyhow::{Context, Result, bail, ensure};
use evidence::Platform;
use evidence::gpu::{
    DeviceEvidence, GpuInputs, GpuPolicy, GpuSettings, OcspResponse, Rim, read_chain, read_report, read_rim,
    verify_gpus,
};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Options of `evidence gpu`. A check whose input is not given is listed as skipped.
#[derive(clap::Args)]
pub struct Args {
    /// Attestation report (binary, hex or base64), or NVIDIA's JSON envelope of reports and chains; once for each device.
    #[arg(long, required = true)]
    report: Vec<PathBuf>,
    /// Certificates of the device (PEM, DER or hex; or its envelope), leaf first; once for each report that is no envelope, in
    /// the same order.
    #[arg(long)]
    chain: Vec<PathBuf>,
    /// Time of the appraisal, seconds since 1970.
    #[arg(long)]
    at: u64,
    /// What the reports were asked to contain: 32 bytes, hex.
    #[arg(long)]
    nonce: Option<String>,
    /// Manifest of the driver (XML, or JSON as NVIDIA's RIM service answers).
    #[arg(long)]
    driver_rim: Vec<PathBuf>,
    /// Manifest of a VBIOS, or of an NVSwitch's firmware.
    #[arg(long)]
    vbios_rim: Vec<PathBuf>,
    /// OCSP response (DER) about certificates of devices and manifests.
    #[arg(long)]
    ocsp: Vec<PathBuf>,
    /// Appraisal policy (TOML), of which `[gpu]` counts; one GPU and no floors if absent.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// How many GPUs the machine has, whatever the policy says.
    #[arg(long)]
    count: Option<usize>,
}

/// Appraises, and prints every check.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let devices = devices(args)?;
    let nonce = args.nonce.as_deref().map(nonce).transpose()?;
    let rims = |paths: &[PathBuf]| paths.iter().map(|path| rim(path)).collect::<Result<Vec<_>>>();
    let (driver_rims, vbios_rims) = (rims(&args.driver_rim)?, rims(&args.vbios_rim)?);
    let ocsp = args.ocsp.iter().map(|path| response(path)).collect::<Result<Vec<_>>>()?;
    let policy = policy(args)?;
    let verdict = verify_gpus(&GpuInputs {
        devices: &devices,
        nonce: nonce.as_ref(),
        driver_rims: &driver_rims,
        vbios_rims: &vbios_rims,
        ocsp: &ocsp,
        system: None,
        policy: &policy,
        at: args.at,
    });
    facts(json, &verdict, || verdict.table(std::io::stdout().is_terminal()))?;
    Ok(if verdict.accepted { Outcome::Fine } else { Outcome::Mismatch })
}

fn devices(args: &Args) -> Result<Vec<DeviceEvidence>> {
    let chains = args.chain.iter().map(|path| Ok((path, read(path)?))).collect::<Result<Vec<_>>>()?;
    let mut chains = chains.into_iter();
    let mut out = Vec::new();
    for path in &args.report {
        let (name, bytes) = (path.display(), read(path)?);
        if !DeviceEvidence::is_envelope(&bytes) {
            let chain = chains.next();
            let chain =
                chain.with_context(|| format!("{name}: no --chain for this report; give one for each"))?;
            let report = read_report(&bytes).with_context(|| format!("{name}"))?;
            out.push(DeviceEvidence { report, chain: certificates(chain)?, arch: None });
            continue;
        }
        let mut devices = DeviceEvidence::read_envelope(&bytes).with_context(|| format!("{name}"))?;
        // A chain beside the envelope of one device takes the place of the one inside.
        if let [device] = &mut devices[..]
            && let Some(chain) = chains.next()
        {
            device.chain = certificates(chain)?;
        }
        out.extend(devices);
    }
    ensure!(chains.next().is_none(), "--chain: more chains than reports; give one for each report");
    for (number, device) in out.iter().enumerate() {
        let paths: Vec<_> = args.report.iter().map(|path| path.display().to_string()).collect();
        device.check().with_context(|| format!("{}: device {number}", paths.join(", ")))?;
    }
    Ok(out)
}

/// The certificates in a file: of the first device, if it is an envelope.
fn certificates((path, bytes): (&PathBuf, Vec<u8>)) -> Result<Vec<Vec<u8>>> {
    let name = || format!("{}", path.display());
    if DeviceEvidence::is_envelope(&bytes) {
        let first = DeviceEvidence::read_envelope(&bytes).with_context(name)?.into_iter().next();
        return Ok(first.with_context(name)?.chain);
    }
    read_chain(&bytes).with_context(name)
}

/// Always NVIDIA's roots: a simulated GPU has none that a command takes.
fn policy(args: &Args) -> Result<GpuPolicy> {
    let mut settings = match &args.policy {
        None => GpuSettings::default(),
        Some(path) => {
            let policy = trust::policy(path)?;
            let simulated = policy.platform() == Platform::Simulated;
            ensure!(!simulated, "{}: a simulated platform's policy knows no roots of GPUs", path.display());
            policy.gpu().clone()
        }
    };
    settings.count = args.count.unwrap_or(settings.count);
    Ok(GpuPolicy::production().with(settings)?)
}

fn nonce(text: &str) -> Result<[u8; 32]> {
    let bytes = hex::decode(text.trim_start_matches("0x")).context("--nonce: expected hex digits")?;
    match bytes.try_into() {
        Ok(array) => Ok(array),
        Err(bytes) => bail!("--nonce: expected 32 bytes (64 hex digits), found {}", Vec::len(&bytes)),
    }
}

/// A manifest, checked to be one.
pub(crate) fn rim(path: &Path) -> Result<Vec<u8>> {
    let name = || format!("{}", path.display());
    let xml = read_rim(&read(path)?).with_context(name)?;
    Rim::parse(&xml).with_context(name)?;
    Ok(xml)
}

/// An OCSP response, checked to be one.
pub(crate) fn response(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    OcspResponse::parse(&bytes).with_context(|| format!("{}", path.display()))?;
    Ok(bytes)
}

//! `chrysalis evidence verify`: a quote with what belongs to it, as files of their own or as one bundle.
//!
//! What is named on the command line counts before what a bundle brings: reference values and report data of a bundle are
//! its maker's word, and the output says where they came from. Where a service or a cache is named, collateral comes from there.

use crate::input::read;
use crate::online::{Answer, Found, Online};
use crate::output::{Outcome, facts};
use crate::trust;
use anyhow::{Context, Result, bail};
use evidence::gpu::{DeviceEvidence, GpuInputs, GpuPolicy, GpuVerdict, verify_gpus};
use evidence::{Bundle, BundlePart, Collateral, Inputs, Policy, Reference, Verdict, show_time};
use measure::wire::{EventLog, LogFormat};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Options of `evidence verify`. A check whose input is not given is listed as skipped.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle, in the place of quote, collateral and everything else.
    #[arg(long, conflicts_with_all = ["quote", "collateral", "service", "cache"])]
    bundle: Option<PathBuf>,
    /// The quote, as the platform gave it.
    #[arg(long, required_unless_present = "bundle")]
    quote: Option<PathBuf>,
    /// Collateral (JSON with the fields of QuoteCollateralV3).
    #[arg(
        long,
        required_unless_present_any = ["bundle", "service", "cache"],
        conflicts_with_all = ["service", "cache"]
    )]
    collateral: Option<PathBuf>,
    #[command(flatten)]
    online: Online,
    /// Time of the appraisal, seconds since 1970; now if absent beside --service or --cache.
    #[arg(long, required_unless_present_any = ["service", "cache"])]
    at: Option<u64>,
    /// CC event log of the same boot.
    #[arg(long)]
    eventlog: Option<PathBuf>,
    /// TPM event log of the same boot, of a simulated platform.
    #[arg(long, conflicts_with = "eventlog")]
    tpm_log: Option<PathBuf>,
    /// Static configuration that MRCONFIGID should commit to.
    #[arg(long)]
    static_config: Option<PathBuf>,
    /// Record of the guest's own events.
    #[arg(long)]
    runtime: Option<PathBuf>,
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

/// Everything that was given, by whichever way.
struct Given {
    quote: Vec<u8>,
    collateral: Collateral,
    event_log: Option<EventLog>,
    static_config: Option<Vec<u8>>,
    runtime: Option<Vec<u8>>,
    reference: Option<Reference>,
    report_data: Option<[u8; 64]>,
    bundle: Option<Bundle>,
    source: Option<Source>,
}

/// Where collateral came from that was in no file.
enum Source {
    /// A service or a cache.
    Found(Found),
    /// A service whose answer is not genuine; the verdict shows by which check.
    Refused(String),
}

/// Appraises, and prints every check.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let policy = args.policy.as_deref().map(trust::policy).transpose()?.unwrap_or_else(Policy::production);
    let at = args.at.unwrap_or_else(trust::now);
    let given = given(args, &policy, at)?;
    let verdict = evidence::verify(&Inputs {
        quote: &given.quote,
        collateral: &given.collateral,
        policy: &policy,
        event_log: given.event_log.as_ref(),
        static_config: given.static_config.as_deref(),
        runtime: given.runtime.as_deref(),
        reference: given.reference.as_ref(),
        report_data: given.report_data.as_ref(),
        at,
    });
    let gpu = given.bundle.as_ref().map(|bundle| gpus(bundle, &policy, at)).transpose()?.flatten();
    let shown = shown(&verdict, &given, gpu.as_ref(), args)?;
    facts(json, &shown, || human(&verdict, &given, gpu.as_ref(), args))?;
    let accepted = verdict.accepted && gpu.is_none_or(|gpu| gpu.accepted);
    Ok(if accepted { Outcome::Fine } else { Outcome::Mismatch })
}

fn given(args: &Args, policy: &Policy, at: u64) -> Result<Given> {
    let mut given = match (&args.bundle, &args.quote, &args.collateral) {
        (Some(path), ..) => of_bundle(path)?,
        (None, Some(quote), Some(collateral)) => of_files(quote, collateral)?,
        (None, Some(quote), None) => of_service(quote, &args.online, policy, at)?,
        _ => bail!("give --bundle, or --quote and --collateral, or --quote and --service"),
    };
    let log = |path: &Path, format| anyhow::Ok(EventLog { format, bytes: read(path)? });
    if let Some(path) = &args.eventlog {
        given.event_log = Some(log(path, LogFormat::Ccel)?);
    }
    if let Some(path) = &args.tpm_log {
        given.event_log = Some(log(path, LogFormat::Tpm)?);
    }
    if let Some(path) = &args.static_config {
        given.static_config = Some(read(path)?);
    }
    if let Some(path) = &args.runtime {
        given.runtime = Some(read(path)?);
    }
    if let Some(path) = &args.reference {
        given.reference =
            Some(Reference::parse(&read(path)?).with_context(|| format!("{}", path.display()))?);
    }
    if let Some(text) = &args.report_data {
        given.report_data = Some(report_data(text)?);
    }
    Ok(given)
}

fn of_files(quote: &Path, collateral: &Path) -> Result<Given> {
    let quote = read_quote(quote)?;
    let collateral =
        Collateral::parse(&read(collateral)?).with_context(|| format!("{}", collateral.display()))?;
    Ok(Given::of(quote, collateral))
}

fn of_service(quote: &Path, online: &Online, policy: &Policy, at: u64) -> Result<Given> {
    let quote = read_quote(quote)?;
    let (collateral, source) = match online.collateral(&quote, policy, at)? {
        Answer::Genuine(found) => (Collateral::clone(&found.collateral), Source::Found(found)),
        // Each reason to refuse collateral is a check that fails, so that the verdict refuses too, and says it all.
        Answer::Refused { why, collateral } => (*collateral, Source::Refused(why)),
    };
    Ok(Given { source: Some(source), ..Given::of(quote, collateral) })
}

fn read_quote(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    evidence::Quote::parse(&bytes).with_context(|| format!("{}", path.display()))?;
    Ok(bytes)
}

impl Given {
    /// The least: everything else is listed as skipped.
    fn of(quote: Vec<u8>, collateral: Collateral) -> Self {
        let (event_log, static_config, runtime, reference) = (None, None, None, None);
        let (report_data, bundle, source) = (None, None, None);
        Given { quote, collateral, event_log, static_config, runtime, reference, report_data, bundle, source }
    }
}

fn of_bundle(path: &Path) -> Result<Given> {
    let attempt = || -> Result<Given> {
        let bundle = Bundle::from_bytes(&read(path)?)?;
        evidence::Quote::parse(bundle.quote())?;
        let part = |part| bundle.part(part).map(<[u8]>::to_vec);
        let given = Given {
            event_log: bundle.event_log(),
            static_config: part(BundlePart::StaticConfig),
            runtime: part(BundlePart::RuntimeRecord),
            reference: bundle.reference()?,
            report_data: bundle.report_data(),
            ..Given::of(bundle.quote().to_vec(), bundle.collateral()?)
        };
        Ok(Given { bundle: Some(bundle), ..given })
    };
    attempt().with_context(|| format!("{}", path.display()))
}

/// The verdict on the bundle's GPUs, if it brings evidence of any.
fn gpus(bundle: &Bundle, policy: &Policy, at: u64) -> Result<Option<GpuVerdict>> {
    let mut devices = Vec::new();
    for envelope in bundle.parts_of(BundlePart::GpuEvidence) {
        devices.extend(DeviceEvidence::read_envelope(envelope).context("bundle: GPU evidence")?);
    }
    if devices.is_empty() {
        return Ok(None);
    }
    let all = |part| bundle.parts_of(part).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let nonce = bundle.part(BundlePart::GpuNonce).and_then(|nonce| <&[u8; 32]>::try_from(nonce).ok());
    Ok(Some(verify_gpus(&GpuInputs {
        devices: &devices,
        nonce,
        driver_rims: &all(BundlePart::DriverRim),
        vbios_rims: &all(BundlePart::VbiosRim),
        ocsp: &all(BundlePart::Ocsp),
        system: None,
        policy: &GpuPolicy::production().with(policy.gpu().clone()).context("policy: [gpu]")?,
        at,
    })))
}

/// The verdict, and beside it what the bundle holds and what its GPUs are.
fn shown(verdict: &Verdict, given: &Given, gpu: Option<&GpuVerdict>, args: &Args) -> Result<Value> {
    let mut shown = serde_json::to_value(verdict)?;
    match &given.source {
        Some(Source::Found(found)) => shown["collateral_source"] = serde_json::to_value(found)?,
        Some(Source::Refused(why)) => shown["collateral_source"] = json!({ "refused": why }),
        None => {}
    }
    let Some(bundle) = &given.bundle else { return Ok(shown) };
    shown["bundle"] = json!({
        "taken_at": bundle.taken_at(),
        "contents": bundle.contents(),
        "own_reference": own_reference(given, args),
    });
    if let Some(gpu) = gpu {
        shown["accepted"] = json!(verdict.accepted && gpu.accepted);
        shown["complete"] = json!(verdict.complete && gpu.complete);
        shown["gpu"] = serde_json::to_value(gpu)?;
    }
    Ok(shown)
}

fn human(verdict: &Verdict, given: &Given, gpu: Option<&GpuVerdict>, args: &Args) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = verdict.table(colour);
    if let Some(gpu) = gpu {
        out += &format!("\n{}", gpu.table(colour));
    }
    match &given.source {
        Some(Source::Found(found)) => out += &found.sentence(),
        Some(Source::Refused(why)) => out += &format!("the service's collateral is not genuine: {why}"),
        None => {}
    }
    if let Some(bundle) = &given.bundle {
        let taken = bundle.taken_at().map_or_else(|| "an unstated time".into(), show_time);
        out += &format!("bundle of {} parts, taken at {taken}", bundle.contents().len());
        if own_reference(given, args) {
            out +=
                "; the reference values are its own: hold it against those of the release with --reference";
        }
    }
    out
}

/// Whether the registers were held against what the bundle itself brings.
fn own_reference(given: &Given, args: &Args) -> bool {
    given.bundle.is_some() && args.reference.is_none() && given.reference.is_some()
}

/// 64 bytes in hex, from the command line.
pub fn report_data(text: &str) -> Result<[u8; 64]> {
    let bytes = hex::decode(text).context("--report-data: expected hex digits")?;
    match bytes.try_into() {
        Ok(array) => Ok(array),
        Err(bytes) => bail!("--report-data: expected 64 bytes (128 hex digits), found {}", Vec::len(&bytes)),
    }
}

//! `chrysalis release draft`: a build and a list of machines in, what is published about it out.
//!
//! The measurements follow from build, firmware, shapes and models alone, so that whoever rebuilds drafts the same bytes.
//! What the publisher decides (dates, advice) stands in the release beside them.

use super::{files, sbom};
use crate::input::read;
use crate::output::{Outcome, facts};
use crate::trust::now;
use anyhow::{Context, Result, bail, ensure};
use builder::Artifacts;
use builder::artifacts::names;
use builder::lock::Lock;
use clap::ValueEnum;
use launcher::foretell;
use measure::uki::Uki;
use measure::{Boot, Digest256, Inputs, Payload, Platform, Shape, TdxOptions};
use release::{
    ConfigRule, Document, File, GpuAdvice, Machine, Measurements, Model, Pinned, State, Status, TcbAdvice,
    Tuple, Version, name,
};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const DAY: u64 = 24 * 3600;

/// Options of `release draft`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a build (`artifacts.json` and its files).
    #[arg(long)]
    build: PathBuf,
    /// Version of the release, such as `0.1.0`.
    #[arg(long)]
    version: Version,
    /// Name of the release; the build's profile if absent.
    #[arg(long)]
    name: Option<String>,
    /// Firmware: `tdx`, the whole image (`OVMF.fd`); `emulated`, the code volume, with `OVMF_VARS_4M.fd` beside it.
    #[arg(long)]
    firmware: PathBuf,
    /// Shape file (TOML, `schema = 1`); repeat for every machine that the release is for.
    #[arg(long, required = true)]
    shape: Vec<PathBuf>,
    /// `emulated` is for the debug profile only, and the other way round.
    #[arg(long, default_value = "tdx")]
    platform: PlatformArg,
    /// Boot the disk instead of handing the kernel image over.
    #[arg(long)]
    disk_boot: bool,
    /// The guest extends RTMR3 by its own events; without it RTMR3 must be zeros. Always so on the emulated platform.
    #[arg(long)]
    rtmr3_events: bool,
    /// Models that belong to the release (TOML: `[[models]]` with name, root, license).
    #[arg(long)]
    models: Option<PathBuf>,
    /// The publisher's advice on platforms and GPUs (TOML: `[tcb]`, `[[gpu]]`); `UpToDate` only if absent.
    #[arg(long)]
    advice: Option<PathBuf>,
    /// The lock of the crates, for the bill of materials.
    #[arg(long, default_value = "Cargo.lock")]
    cargo_lock: PathBuf,
    /// The lock of the packages.
    #[arg(long, default_value = "image/packages.lock")]
    packages_lock: PathBuf,
    /// The lock of NVIDIA's parts, for an image with a driver.
    #[arg(long, default_value = "image/gpu.lock")]
    gpu_lock: PathBuf,
    /// Days that the release is valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    valid_days: u64,
    /// Folder of the draft; it must be new.
    #[arg(long)]
    out: PathBuf,
}

/// Where measurements are rooted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlatformArg {
    Tdx,
    Emulated,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    #[serde(default)]
    models: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advice {
    #[serde(default = "strict")]
    tcb: TcbAdvice,
    #[serde(default)]
    gpu: Vec<GpuAdvice>,
}

fn strict() -> TcbAdvice {
    TcbAdvice { accept: vec!["UpToDate".into()], min_evaluation: 0 }
}

/// Writes the draft.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let out = files::must_be_new(&args.out)?;
    let build = Artifacts::load(&args.build)?;
    build.verify()?;
    let measurements = measurements(args, &build)?;
    let id = measurements.id()?;
    let bytes = measurements.to_bytes()?;
    let bill = sbom::spdx(&id, build.profile, &packages(args, &build)?, &args.cargo_lock)?;
    let document = document(args, &measurements, &bytes, &bill)?;
    for (end, bytes) in
        [(name::MEASUREMENTS, &bytes), (name::SBOM, &bill), (name::RELEASE, &document.to_bytes()?)]
    {
        files::write(&out.join(id.target(end)), bytes)?;
    }
    let digest = Digest256::of(&bytes);
    let value = json!({ "release": id.to_string(), "measurements": digest, "draft": out, "machines": measurements.machines });
    facts(json, &value, || {
        let mut text = format!("release       {id}\nmeasurements  {digest}\n");
        for machine in &measurements.machines {
            text += &format!("machine       {}\n", machine.title());
        }
        text + &format!("draft         {}", out.display())
    })?;
    Ok(Outcome::Fine)
}

/// Everything locked that is in the image.
fn packages(args: &Args, build: &Artifacts) -> Result<Lock> {
    let mut lock = Lock::load(&args.packages_lock)?;
    if let Some(built) = &build.gpu_lock {
        let (id, packages) = builder::gpu::locked(&args.gpu_lock)?;
        ensure!(
            id == *built,
            "{}: not the lock that the image was built from; check out the build's own commit",
            args.gpu_lock.display()
        );
        lock.packages.extend(packages);
    }
    Ok(lock)
}

fn measurements(args: &Args, build: &Artifacts) -> Result<Measurements> {
    let firmware = read(&args.firmware)?;
    let models: Models = toml_of(args.models.as_deref())?.unwrap_or_default();
    let commit = build.commit.clone().with_context(|| {
        format!("{}: built from a checkout with changes; commit them and build again", args.build.display())
    })?;
    let digest = |text: &str| text.parse::<Digest256>().with_context(|| format!("artifacts.json: `{text}`"));
    let artifacts = build
        .files
        .iter()
        .map(|file| Ok(File { name: file.name.clone(), sha256: digest(&file.sha256)?, size: file.size }));
    let pinned = File {
        name: args.firmware.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        sha256: Digest256::of(&firmware),
        size: firmware.len() as u64,
    };
    Ok(Measurements {
        schema: 1,
        name: args.name.clone().unwrap_or_else(|| build.profile.name().to_owned()),
        version: args.version,
        profile: build.profile.name().to_owned(),
        commit,
        toolchain: build.toolchain.clone(),
        kernel: build.kernel.clone(),
        locks: locks(args, build)?,
        artifacts: artifacts.collect::<Result<_>>()?,
        firmware: vec![pinned],
        mrconfigid: ConfigRule::Sha384OfStaticConfiguration,
        machines: machines(args, build, &firmware)?,
        models: models.models,
    })
}

/// The locks by their hashes; that of NVIDIA's parts only where they are in the image.
fn locks(args: &Args, build: &Artifacts) -> Result<BTreeMap<String, Digest256>> {
    let digest = |text: &str| text.parse::<Digest256>().with_context(|| format!("artifacts.json: `{text}`"));
    let mut locks = BTreeMap::from([
        ("Cargo.lock".to_owned(), Digest256::of(&read(&args.cargo_lock)?)),
        ("packages.lock".to_owned(), digest(&build.packages_lock)?),
        ("tools.lock".to_owned(), digest(&build.tools_lock)?),
    ]);
    if let Some(gpu) = &build.gpu_lock {
        locks.insert("gpu.lock".to_owned(), digest(gpu)?);
    }
    Ok(locks)
}

/// Foretells the registers of every shape.
fn machines(args: &Args, build: &Artifacts, firmware: &[u8]) -> Result<Vec<Machine>> {
    let emulated = args.platform == PlatformArg::Emulated;
    if emulated != (build.profile.simulated()) {
        bail!("--platform: a debug profile is for the emulated platform, every other for tdx");
    }
    let vars = if emulated { read(&args.firmware.with_file_name("OVMF_VARS_4M.fd"))? } else { Vec::new() };
    let uki = read(&build.path(names::UKI))?;
    let disk = args.disk_boot.then(|| foretell::disk_head(&build.path(names::DISK))).transpose()?;
    let stub = Uki::parse(&uki)?.stub.text;
    let mut machines = Vec::new();
    for path in &args.shape {
        let text = String::from_utf8(read(path)?).with_context(|| format!("{}: not text", path.display()))?;
        let shape = Shape::from_toml(&text).with_context(|| format!("{}", path.display()))?;
        let inputs = Inputs {
            platform: if emulated { Platform::Emulated } else { Platform::Tdx },
            boot: if args.disk_boot { Boot::Disk } else { Boot::Direct },
            shape: &shape,
            firmware_code: firmware,
            firmware_vars: &vars,
            payload: Some(Payload::Uki(&uki)),
            disk_head: disk.as_deref(),
        };
        machines
            .push(machine(&inputs, &stub, args.rtmr3_events).with_context(|| format!("{}", path.display()))?);
    }
    Ok(machines)
}

/// Foretells one machine. Whoever rebuilds does it here too, so that the same build gives the same words.
pub fn machine(inputs: &Inputs<'_>, stub: &str, rtmr3_events: bool) -> Result<Machine> {
    let emulated = inputs.platform == Platform::Emulated;
    let prediction = if emulated {
        foretell::predict(inputs)?
    } else {
        foretell::predict_tdx(inputs, &TdxOptions::default())?
    };
    let registers = prediction.registers().map_err(|open| {
        let open: Vec<_> = open.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{} can't be foretold for this shape", open.join(", "))
    })?;
    let [rtmr0, rtmr1, rtmr2, _] = registers.rtmr;
    let events = emulated || rtmr3_events;
    // The emulated machine runs on the locked QEMU, whatever the shape says.
    let qemu = if emulated { measure::shape::QemuVersion::V10_0 } else { inputs.shape.qemu };
    Ok(Machine {
        platform: inputs.platform,
        boot: inputs.boot,
        firmware: Digest256::of(inputs.firmware_code),
        vmm: format!("qemu {qemu}, single-pass"),
        stub: format!("systemd-stub {stub}"),
        shape: inputs.shape.clone(),
        registers: Tuple {
            mrtd: registers.mrtd,
            rtmr0,
            rtmr1,
            rtmr2,
            rtmr3: events.then_some(evidence::Rtmr3::Events),
        },
    })
}

fn document(args: &Args, measurements: &Measurements, bytes: &[u8], bill: &[u8]) -> Result<Document> {
    let advice: Option<Advice> = toml_of(args.advice.as_deref())?;
    let advice = advice.unwrap_or(Advice { tcb: strict(), gpu: Vec::new() });
    let from = now();
    Ok(Document {
        schema: 1,
        name: measurements.name.clone(),
        version: measurements.version,
        status: Status { state: State::Active, reason: None },
        measurements: Pinned::of(bytes),
        sbom: Some(Pinned::of(bill)),
        valid_from: evidence::show_time(from),
        valid_until: evidence::show_time(from + args.valid_days * DAY),
        tcb: advice.tcb,
        gpu: advice.gpu,
    })
}

fn toml_of<T: for<'de> Deserialize<'de>>(path: Option<&Path>) -> Result<Option<T>> {
    let Some(path) = path else { return Ok(None) };
    let text = String::from_utf8(read(path)?).with_context(|| format!("{}: not text", path.display()))?;
    let read = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    ensure!(!text.is_empty(), "{}: empty", path.display());
    Ok(Some(read))
}

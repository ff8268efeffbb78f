//! `chrysalis measure`: foretell measurements, read firmware event logs, compare the two.

use crate::eventlog;
use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use launcher::foretell;
use measure::acpi::{self, AcpiBlobs};
use measure::firmware::tdvf::{self, Vmm};
use measure::{Boot, Inputs, Payload, Platform, Prediction, Shape, TdxOptions};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Subcommands of `measure`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// MRTD of a firmware file with TDX metadata (TDVF).
    Mrtd {
        /// Firmware image (`OVMF.fd`).
        #[arg(long)]
        firmware: PathBuf,
        /// Order in which the VMM adds and extends pages.
        #[arg(long, default_value = "single-pass")]
        vmm: VmmArg,
    },
    /// Foretell every event and register of a machine, from artifacts and shape alone.
    Predict(Predict),
    /// Parse a firmware event log (CCEL or TPM) and replay it.
    Eventlog {
        /// The log, as the kernel shows it.
        #[arg(long)]
        file: PathBuf,
    },
}

/// Options of `measure predict`.
#[derive(clap::Args)]
pub struct Predict {
    /// `tdx`: the whole image (`OVMF.fd`); `emulated`: the code volume (`OVMF_CODE_4M.fd`).
    #[arg(long)]
    firmware: PathBuf,
    /// `emulated`: pristine variable store; `OVMF_VARS_4M.fd` beside the firmware if absent.
    #[arg(long)]
    vars: Option<PathBuf>,
    /// Shape file (TOML, `schema = 1`).
    #[arg(long)]
    shape: PathBuf,
    /// `direct` or `disk`.
    #[arg(long, default_value = "direct")]
    boot: BootArg,
    /// Unified kernel image, as it is booted; without it only MRTD and RTMR0 of a TD are foretold.
    #[arg(long)]
    uki: Option<PathBuf>,
    /// Raw disk, for `--boot disk`.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// `tdx`, or `emulated` (QEMU in software, whose TPM stands in for the registers).
    #[arg(long, default_value = "tdx")]
    platform: PlatformArg,
    /// `tdx`: folder with captured ACPI files: `acpi_tables.bin`, and `table_loader.bin` and `rsdp.bin`, which are
    /// derived from it where they are missing.
    #[arg(long)]
    acpi: Option<PathBuf>,
    /// `tdx`: order in which the VMM adds and extends pages.
    #[arg(long, default_value = "single-pass")]
    vmm: VmmArg,
}

/// Order in which a VMM builds a TD.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum VmmArg {
    /// Page by page: add, then extend (current QEMU).
    SinglePass,
    /// All pages of a section are added, then all are extended (QEMU 8.x TDX trees).
    TwoPass,
}

impl VmmArg {
    fn vmm(self) -> Vmm {
        match self {
            VmmArg::SinglePass => Vmm::SinglePass,
            VmmArg::TwoPass => Vmm::TwoPass,
        }
    }
}

/// How the firmware gets the kernel image.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum BootArg {
    Direct,
    Disk,
}

/// Where measurements are rooted.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum PlatformArg {
    Emulated,
    Tdx,
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Mrtd { firmware, vmm } => mrtd(&firmware, vmm, json),
        Command::Predict(args) => predict(&args, json),
        Command::Eventlog { file } => eventlog::run(&file, json),
    }
}

fn mrtd(firmware: &Path, vmm: VmmArg, json: bool) -> Result<Outcome> {
    let bytes = read(firmware)?;
    let mrtd = tdvf::mrtd(&bytes, vmm.vmm()).with_context(|| format!("{}", firmware.display()))?;
    facts(json, &json!({ "mrtd": mrtd.to_string() }), || mrtd.to_string())?;
    Ok(Outcome::Fine)
}

fn predict(args: &Predict, json: bool) -> Result<Outcome> {
    let text = String::from_utf8(read(&args.shape)?)
        .with_context(|| format!("{}: not text", args.shape.display()))?;
    let shape = Shape::from_toml(&text).with_context(|| format!("{}", args.shape.display()))?;
    let tdx = matches!(args.platform, PlatformArg::Tdx);
    let beside = || args.firmware.with_file_name("OVMF_VARS_4M.fd");
    let code = read(&args.firmware)?;
    // A TDVF image carries its own variable store.
    let vars = if tdx { Vec::new() } else { read(&args.vars.clone().unwrap_or_else(beside))? };
    let uki = args.uki.as_deref().map(read).transpose()?;
    let disk = args.disk.as_deref().map(foretell::disk_head).transpose()?;
    let inputs = Inputs {
        platform: if tdx { Platform::Tdx } else { Platform::Emulated },
        boot: if matches!(args.boot, BootArg::Disk) { Boot::Disk } else { Boot::Direct },
        shape: &shape,
        firmware_code: &code,
        firmware_vars: &vars,
        payload: uki.as_deref().map(Payload::Uki),
        disk_head: disk.as_deref(),
    };
    let prediction = match (tdx, &args.acpi) {
        (true, acpi) => {
            let acpi = acpi.as_deref().map(captured).transpose()?;
            let options = TdxOptions { vmm: args.vmm.vmm(), acpi: acpi.as_ref(), ..TdxOptions::default() };
            measure::predict_tdx(&inputs, &options)?
        }
        (false, Some(_)) => bail!("--acpi: the emulated platform's tables are generated; leave it out"),
        (false, None) => foretell::predict(&inputs)?,
    };
    facts(json, &prediction, || human(&prediction))?;
    Ok(Outcome::Fine)
}

/// The ACPI files of a machine, as captured; loader and rsdp are derived where they were not.
fn captured(dir: &Path) -> Result<AcpiBlobs> {
    for unread in ["BootOrder.bin", "Boot0000.bin"] {
        let path = dir.join(unread);
        if path.exists() {
            bail!(
                "{}: captured boot variables are not read yet; move the file away to have them derived",
                path.display()
            );
        }
    }
    let tables = read(&dir.join("acpi_tables.bin"))?;
    let mut blobs =
        acpi::derive(&tables).with_context(|| format!("{}", dir.join("acpi_tables.bin").display()))?;
    for (name, blob) in [("table_loader.bin", &mut blobs.loader), ("rsdp.bin", &mut blobs.rsdp)] {
        let path = dir.join(name);
        if path.exists() {
            *blob = read(&path)?;
        }
    }
    Ok(blobs)
}

fn human(prediction: &Prediction) -> String {
    let mut text = String::new();
    for register in measure::Register::ALL {
        let value = prediction.register(register).map_or("not final".into(), |digest| digest.to_string());
        text += &format!("{register:<6} {value}\n");
    }
    for event in &prediction.events {
        let digest = match &event.digests {
            Ok(digests) => digests.sha384.to_string(),
            Err(why) => format!("not foretold: {}", why.reason),
        };
        text += &format!(
            "  {} PCR {:<2} {:<40} {digest:.24}\n",
            event.register,
            event.pcr,
            event.event.to_string()
        );
    }
    text
}

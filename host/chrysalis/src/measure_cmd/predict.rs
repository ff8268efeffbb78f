//! `chrysalis measure predict`: artifacts and shape in, events and registers out.
//!
//! Which options go together is decided here, before any file is read; everything else is the library's.

use super::VmmArg;
use super::captured::Captured;
use super::esp;
use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use launcher::foretell;
use measure::{Boot, Inputs, Linux, Payload, Platform, Prediction, Register, SetupHeader, Shape, TdxOptions};
use std::path::PathBuf;

/// Options of `measure predict`.
#[derive(clap::Args)]
pub struct Args {
    /// `tdx`: the whole image (`OVMF.fd`); `emulated`: the code volume (`OVMF_CODE_4M.fd`).
    #[arg(long)]
    firmware: PathBuf,
    /// `emulated`: pristine variable store; `OVMF_VARS_4M.fd` beside the firmware if absent.
    #[arg(long)]
    vars: Option<PathBuf>,
    /// Shape file (TOML, `schema = 1`).
    #[arg(long)]
    shape: PathBuf,
    /// `direct` (the VMM hands the kernel over) or `disk`; `disk` where `--disk` is given, else `direct`.
    #[arg(long)]
    boot: Option<BootArg>,
    /// Unified kernel image, as it is booted. Without a UKI or kernel, only MRTD and RTMR0 of a TD are foretold.
    #[arg(long, conflicts_with = "kernel")]
    uki: Option<PathBuf>,
    /// Raw disk; its EFI partition's `EFI/BOOT/BOOTX64.EFI` is the UKI, unless `--uki` is given.
    #[arg(long, conflicts_with = "kernel")]
    disk: Option<PathBuf>,
    /// Linux kernel (bzImage) of a classic direct boot.
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// Its initrd.
    #[arg(long, requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line, word for word as `-append` gets it; `@FILE` reads it from a file, less one final newline.
    #[arg(long, requires = "kernel", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// `tdx`, or `emulated` (QEMU in software, whose TPM stands in for the registers).
    #[arg(long, default_value = "tdx")]
    platform: PlatformArg,
    /// `tdx`: folder with captured files of a machine that isn't the launcher's: `acpi_tables.bin`, `table_loader.bin`,
    /// `rsdp.bin`, `BootOrder.bin`, `Boot0000.bin` (any number); what is missing is derived.
    #[arg(long)]
    acpi: Option<PathBuf>,
    /// `tdx`: order in which the VMM adds and extends pages.
    #[arg(long)]
    vmm: Option<VmmArg>,
    /// `tdx`: register of the separator behind "Calling EFI Application"; unset takes what the firmware's code tells.
    #[arg(long)]
    separator: Option<SeparatorArg>,
    /// `tdx`: which bytes of a classic kernel are measured; unset takes what firmware and QEMU release lead to.
    #[arg(long, requires = "kernel")]
    setup_header: Option<SetupHeaderArg>,
}

/// How the firmware gets the kernel image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BootArg {
    Direct,
    Disk,
}

/// Where measurements are rooted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlatformArg {
    Emulated,
    Tdx,
}

/// A register that firmware puts a separator into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SeparatorArg {
    /// Older firmware (EDK2 changed it in August 2024).
    Rtmr0,
    /// Newer firmware.
    Rtmr1,
}

/// Which bytes of a kernel's setup header the firmware sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SetupHeaderArg {
    /// As QEMU wrote them.
    Patched,
    /// As they are in the file.
    AsIs,
}

/// Foretells, and prints what was assumed.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let boot = args.check()?;
    let files = Files::read(args, boot)?;
    let tdx = args.platform == PlatformArg::Tdx;
    let inputs = Inputs {
        platform: if tdx { Platform::Tdx } else { Platform::Emulated },
        boot,
        shape: &files.shape,
        firmware_code: &files.code,
        firmware_vars: &files.vars,
        payload: files.payload(),
        disk_head: files.disk_head.as_deref(),
    };
    let prediction = if tdx {
        let captured = args.acpi.as_deref().map(Captured::read).transpose()?;
        let captured = captured.as_ref();
        let options = TdxOptions {
            vmm: args.vmm.unwrap_or(VmmArg::SinglePass).vmm(),
            separator: args.separator.map(SeparatorArg::register),
            setup_header: args.setup_header.map(SetupHeaderArg::header),
            acpi: captured.and_then(|c| c.acpi.as_ref()),
            boot_variables: captured.map(|c| &c.boot_variables),
        };
        foretell::predict_tdx(&inputs, &options)?
    } else {
        foretell::predict(&inputs)?
    };
    facts(json, &prediction, || human(&prediction))?;
    Ok(Outcome::Fine)
}

impl Args {
    /// Refuses options that contradict each other, and says how the machine boots.
    fn check(&self) -> Result<Boot> {
        let boot = self.boot.unwrap_or(if self.disk.is_some() { BootArg::Disk } else { BootArg::Direct });
        match (boot, &self.disk) {
            (BootArg::Direct, Some(_)) => {
                bail!("--disk: a direct boot doesn't read it; leave out one of the two")
            }
            (BootArg::Disk, None) => bail!("--boot disk: give the raw disk with --disk"),
            _ => (),
        }
        ensure!(
            boot == BootArg::Direct || self.kernel.is_none(),
            "--kernel: a disk boots a UKI; give --uki or --disk alone"
        );
        let emulated = self.platform == PlatformArg::Emulated;
        for (given, option) in [
            (self.acpi.is_some(), "--acpi"),
            (self.vmm.is_some(), "--vmm"),
            (self.separator.is_some(), "--separator"),
            (self.setup_header.is_some(), "--setup-header"),
        ] {
            ensure!(
                !(given && emulated),
                "{option}: the emulated platform is the launcher's own and has no such choice; leave it out"
            );
        }
        ensure!(
            emulated || self.vars.is_none(),
            "--vars: a TDX firmware image carries its own variable store; leave it out"
        );
        Ok(if boot == BootArg::Disk { Boot::Disk } else { Boot::Direct })
    }

    fn cmdline(&self) -> Result<String> {
        match self.cmdline.as_deref().unwrap_or_default() {
            file if file.starts_with('@') => {
                let path = PathBuf::from(&file[1..]);
                let text = String::from_utf8(read(&path)?)
                    .with_context(|| format!("{}: the command line is no UTF-8 text", path.display()))?;
                Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
            }
            text => Ok(text.to_owned()),
        }
    }
}

impl SeparatorArg {
    fn register(self) -> Register {
        match self {
            SeparatorArg::Rtmr0 => Register::Rtmr0,
            SeparatorArg::Rtmr1 => Register::Rtmr1,
        }
    }
}

impl SetupHeaderArg {
    fn header(self) -> SetupHeader {
        match self {
            SetupHeaderArg::Patched => SetupHeader::Patched,
            SetupHeaderArg::AsIs => SetupHeader::AsIs,
        }
    }
}

/// Everything that was read.
struct Files {
    shape: Shape,
    code: Vec<u8>,
    vars: Vec<u8>,
    uki: Option<Vec<u8>>,
    kernel: Option<Vec<u8>>,
    initrd: Option<Vec<u8>>,
    cmdline: String,
    disk_head: Option<Vec<u8>>,
}

impl Files {
    fn read(args: &Args, boot: Boot) -> Result<Self> {
        let text = String::from_utf8(read(&args.shape)?)
            .with_context(|| format!("{}: not text", args.shape.display()))?;
        let shape = Shape::from_toml(&text).with_context(|| format!("{}", args.shape.display()))?;
        let vars = match args.platform {
            // A TDVF image carries its own variable store.
            PlatformArg::Tdx => Vec::new(),
            PlatformArg::Emulated => {
                let beside = || args.firmware.with_file_name("OVMF_VARS_4M.fd");
                read(&args.vars.clone().unwrap_or_else(beside))?
            }
        };
        let uki = match (&args.uki, &args.disk) {
            (Some(uki), _) => Some(read(uki)?),
            (None, Some(disk)) if boot == Boot::Disk => Some(esp::boot_file(disk)?),
            _ => None,
        };
        Ok(Files {
            shape,
            code: read(&args.firmware)?,
            vars,
            uki,
            kernel: args.kernel.as_deref().map(read).transpose()?,
            initrd: args.initrd.as_deref().map(read).transpose()?,
            cmdline: args.cmdline()?,
            disk_head: args.disk.as_deref().map(foretell::disk_head).transpose()?,
        })
    }

    fn payload(&self) -> Option<Payload<'_>> {
        let (initrd, cmdline) = (self.initrd.as_deref(), self.cmdline.as_str());
        let linux = self.kernel.as_deref().map(|kernel| Payload::Linux(Linux { kernel, initrd, cmdline }));
        linux.or_else(|| self.uki.as_deref().map(Payload::Uki))
    }
}

fn human(prediction: &Prediction) -> String {
    let mut text = String::new();
    for register in Register::ALL {
        let value = prediction.register(register).map_or("not final".into(), |digest| digest.to_string());
        text += &format!("{register:<6} {value}\n");
    }
    for assumed in &prediction.assumed {
        text += &format!("assumed: {} {} ({})\n", assumed.what, assumed.value, assumed.because);
    }
    for event in &prediction.events {
        let digest = match &event.digests {
            Ok(digests) => digests.sha384.to_string(),
            Err(why) => format!("not foretold: {}", why.reason),
        };
        let name = event.event.to_string();
        text += &format!("  {} PCR {:<2} {name:<40} {digest:.24}\n", event.register, event.pcr);
    }
    text
}

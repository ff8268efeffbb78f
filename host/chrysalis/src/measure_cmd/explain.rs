//! `chrysalis measure explain`: why a machine shows other registers than expected.

mod html;
mod scan;

use super::VmmArg;
use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result};
use clap::ValueEnum;
use measure::explain::{Artifacts, Bounds, Evidence, Expected, Explanation, explain};
use measure::{Boot, Shape};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Options of `measure explain`.
#[derive(clap::Args)]
pub struct Args {
    /// What the machine showed: JSON with registers, a quote or an event log; or a bare quote; or what
    /// `verify --save-evidence` wrote.
    #[arg(long)]
    evidence: PathBuf,
    /// Folder with what the machine could have been made of: firmware, kernel images, disks, captured ACPI files,
    /// shapes. A subfolder with a kernel image is a release of its own.
    #[arg(long)]
    artifacts: PathBuf,
    /// The shape that the machine should have; without it, any shape is as good as another.
    #[arg(long)]
    shape: Option<PathBuf>,
    /// How it should have been booted.
    #[arg(long, default_value = "direct")]
    boot: BootForm,
    /// In which order its VMM should have added and extended pages.
    #[arg(long, default_value = "single-pass")]
    vmm: VmmArg,
    /// Writes one self-contained page here.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// How the firmware gets the kernel image.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum BootForm {
    Direct,
    Disk,
}

/// Explains, prints, and ends with a mismatch unless everything is as expected.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let evidence =
        Evidence::parse(&read(&args.evidence)?).with_context(|| format!("{}", args.evidence.display()))?;
    let expected = Expected {
        shape: args.shape.as_deref().map(shape).transpose()?,
        boot: Some(if matches!(args.boot, BootForm::Disk) { Boot::Disk } else { Boot::Direct }),
        vmm: Some(args.vmm.vmm()),
    };
    let files = scan::files(&args.artifacts)?;
    let artifacts = Artifacts::gather(&scan::borrow(&files), &scan::name(&args.artifacts));
    let explanation = explain(&evidence, &artifacts, &expected, Bounds::default());
    if let Some(path) = &args.html {
        write(path, &explanation)?;
    }
    facts(json, &explanation, || explanation.table(std::io::stdout().is_terminal()))?;
    Ok(if explanation.equal { Outcome::Fine } else { Outcome::Mismatch })
}

fn shape(path: &Path) -> Result<Shape> {
    let text = String::from_utf8(read(path)?).with_context(|| format!("{}: not text", path.display()))?;
    Shape::from_toml(&text).with_context(|| format!("{}", path.display()))
}

fn write(path: &Path, explanation: &Explanation) -> Result<()> {
    std::fs::write(path, html::page(explanation)).with_context(|| format!("cannot write {}", path.display()))
}

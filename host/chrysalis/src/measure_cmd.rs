//! `chrysalis measure`: foretell measurements, read firmware event logs, compare the two.

mod captured;
mod esp;
mod explain;
mod predict;

use crate::eventlog;
use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result};
use clap::ValueEnum;
use measure::firmware::tdvf::{self, Vmm};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Subcommands of `measure`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// MRTD of a firmware file with TDX metadata (TDVF).
    Mrtd {
        /// Firmware image (`OVMF.fd`, or a td-shim).
        #[arg(long)]
        firmware: PathBuf,
        /// Order in which the VMM adds and extends pages.
        #[arg(long, default_value = "single-pass")]
        vmm: VmmArg,
    },
    /// Foretell every event and register of a machine, from artifacts and shape alone.
    Predict(predict::Args),
    /// Say why a machine shows other registers than expected: which event differs, and which machine it is.
    Explain(explain::Args),
    /// Parse a firmware event log (CCEL or TPM) and replay it.
    Eventlog {
        /// The log, as the kernel shows it.
        #[arg(long)]
        file: PathBuf,
    },
}

/// Order in which a VMM builds a TD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Mrtd { firmware, vmm } => mrtd(&firmware, vmm, json),
        Command::Predict(args) => predict::run(&args, json),
        Command::Explain(args) => explain::run(&args, json),
        Command::Eventlog { file } => eventlog::run(&file, json),
    }
}

fn mrtd(firmware: &Path, vmm: VmmArg, json: bool) -> Result<Outcome> {
    let bytes = read(firmware)?;
    let mrtd = tdvf::mrtd(&bytes, vmm.vmm()).with_context(|| format!("{}", firmware.display()))?;
    facts(json, &json!({ "mrtd": mrtd.to_string() }), || mrtd.to_string())?;
    Ok(Outcome::Fine)
}

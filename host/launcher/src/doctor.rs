//! Every precondition of a confidential guest on this host: what was seen, the verdict, what to do.
//!
//! ```text
//! Host --questions--> checks, each on a thread of its own --Finding--> Report, the most fundamental first
//!                                   \__ no answer by the deadline: `unknown`
//! ```
//! A verdict is `fail` only where something was seen that will not work; what could not be seen is `unknown`. A check that
//! stands on another one which failed is not judged: on a machine without TDX the list stays short.
//!
//! What stands in the checks about TDX and GPU hosts is from kernel source, vendors' documents and public logs; see
//! `docs/reference/doctor.md`. Deliberately absent: any change to the host.

mod bios;
mod cpu;
mod devices;
mod kernel;
mod quoting;
mod render;
mod system;
mod vmm;

use crate::host::{Host, Miss};
use serde::Serialize;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long all checks together may take; what has not answered then is unknown.
pub const DEADLINE: Duration = Duration::from_millis(850);

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it must be.
    Pass,
    /// Seen to be wrong.
    Fail,
    /// Could not be seen.
    Unknown,
}

/// One precondition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, the same in every version.
    pub name: &'static str,
    /// The verdict.
    pub status: Status,
    /// What was seen.
    pub evidence: String,
    /// What to do; empty if nothing.
    pub fix: String,
}

/// All of them, the most fundamental first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In order.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether every check passed.
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.status == Status::Pass)
    }

    /// The check of that name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

/// What the host is examined for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Firmware files, the first that is there counts.
    pub firmware: Vec<String>,
    /// Where models are kept.
    pub models: String,
    /// Whether guests get GPUs.
    pub gpus: bool,
    /// A TCB info (JSON) that the TDX module is held against.
    pub tcb_info: Option<String>,
    /// VBIOS versions for which the asker has a manifest.
    pub vbios: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            firmware: vmm::FIRMWARE.iter().map(|path| (*path).to_owned()).collect(),
            models: ".".into(),
            gpus: true,
            tcb_info: None,
            vbios: Vec::new(),
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    status: Status,
    evidence: String,
    fix: String,
}

fn pass(evidence: impl Into<String>) -> Finding {
    Finding { status: Status::Pass, evidence: evidence.into(), fix: String::new() }
}

fn fail(evidence: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { status: Status::Fail, evidence: evidence.into(), fix: fix.into() }
}

fn unknown(evidence: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { status: Status::Unknown, evidence: evidence.into(), fix: fix.into() }
}

/// Unknown because `what` has no answer.
fn unseen(what: &str, miss: &Miss, fix: &str) -> Finding {
    unknown(format!("{what} {miss}"), fix)
}

/// What a check looks at.
struct Seen<'a> {
    host: &'a dyn Host,
    options: &'a Options,
}

type Look = fn(&Seen<'_>) -> Finding;

/// Name, what it stands on, how it looks. The order is that of the output.
const CHECKS: &[(&str, &[&str], Look)] = &[
    ("cpu", &[], cpu::processor),
    ("bios_tme", &["cpu"], bios::tme),
    ("bios_tdx", &["cpu"], bios::tdx),
    ("bios_keys", &["cpu"], bios::keys),
    ("bios_sgx", &["cpu"], bios::sgx),
    ("kernel_kvm_tdx", &["cpu"], kernel::built),
    ("kernel_hibernation", &["cpu"], kernel::hibernation),
    ("kernel_tdx_on", &["cpu", "kernel_kvm_tdx"], kernel::switched_on),
    ("tdx_module", &["cpu", "bios_tdx"], kernel::module),
    ("tdx_module_tcb", &["cpu", "bios_tdx", "tdx_module"], kernel::module_tcb),
    ("iommu", &["cpu"], system::iommu),
    ("vfio", &["cpu", "iommu"], system::vfio),
    ("dma_limits", &["cpu", "iommu"], system::dma_limits),
    ("memory", &[], system::memory),
    ("huge_pages", &[], system::huge_pages),
    ("qemu", &[], vmm::version),
    ("qemu_tdx", &["qemu"], vmm::objects),
    ("firmware", &[], vmm::firmware),
    ("qgs", &["cpu"], quoting::qgs),
    ("pccs", &["cpu"], quoting::pccs),
    ("registration", &["cpu"], quoting::registration),
    ("gpu", &[], devices::model),
    ("gpu_vbios", &["gpu"], devices::vbios),
    ("gpu_mode", &["gpu"], devices::mode),
    ("gpu_driver", &["gpu"], devices::driver),
    ("gpu_group", &["gpu", "iommu"], devices::group),
    ("gpu_bars", &["gpu"], devices::bars),
    ("gpu_window", &["gpu", "gpu_bars"], devices::window),
    ("gpu_numa", &["gpu"], devices::numa),
    ("disk", &[], system::disk),
    ("time", &[], system::time),
];

/// Names of the checks that need a GPU to look at.
fn of_gpus(name: &str) -> bool {
    name == "gpu" || name.starts_with("gpu_")
}

/// Examines a host. Comes back by `deadline`, whatever the host does.
pub fn examine(host: Arc<dyn Host>, options: &Options, deadline: Duration) -> Report {
    let until = Instant::now() + deadline;
    let wanted: Vec<_> = CHECKS.iter().filter(|(name, ..)| options.gpus || !of_gpus(name)).collect();
    let started: Vec<_> = wanted
        .iter()
        .map(|(_, _, look)| {
            let (send, receive) = mpsc::channel();
            let (host, options, look) = (host.clone(), options.clone(), *look);
            let thread = std::thread::Builder::new().spawn(move || {
                // Nobody listens any more after the deadline.
                let _ = send.send(look(&Seen { host: &*host, options: &options }));
            });
            (thread.is_ok(), receive)
        })
        .collect();
    let findings = started.into_iter().map(|(runs, receive)| {
        match receive.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(finding) => finding,
            Err(mpsc::RecvTimeoutError::Timeout) => unknown(
                "no answer in time; something that was asked hangs",
                "run it again; if it stays, see `dmesg`",
            ),
            Err(_) if !runs => unknown("no thread could be started", "free some memory or processes"),
            Err(_) => unknown("this check ended unexpectedly", "report this as a defect, with a `--record`"),
        }
    });
    let mut checks: Vec<Check> = Vec::new();
    for ((name, needs, _), finding) in wanted.into_iter().zip(findings) {
        checks.push(judge(name, needs, finding, &checks));
    }
    Report { checks }
}

/// What a check says, given those that it stands on.
fn judge(name: &'static str, needs: &[&str], finding: Finding, before: &[Check]) -> Check {
    let failed = |need: &&&str| before.iter().any(|c| c.name == **need && c.status == Status::Fail);
    let broken = needs.iter().find(failed).filter(|_| finding.status != Status::Pass);
    let Finding { status, evidence, fix } = match broken {
        Some(need) => unknown(format!("{NOT_JUDGED}`{need}`"), format!("first mend `{need}`")),
        None => finding,
    };
    Check { name, status, evidence, fix }
}

/// How the evidence of a check begins that stands on a failed one.
const NOT_JUDGED: &str = "not judged: it stands on ";

#[cfg(test)]
mod tests;

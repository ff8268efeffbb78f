//! The appraisal of a machine's GPUs: evidence, manifests, revocation and policy in, a verdict out.
//!
//! ```text
//! policy: roots ---> device chain -> report -> nonce, firmware, mode          (each device)
//!               \--> manifests ----> golden measurements                      (each device)
//!                                    count, duplicates, one firmware, switches (the machine)
//!                                                        \--> AppraisedGpus, or RefusedGpus
//! ```
//! Pure: the time is passed in, nothing is fetched. [`verify_gpus`] answers whatever was asked and says what was not;
//! [`appraise_gpus`] asks everything, and only its success makes an [`AppraisedGpus`]: all devices or none.

use super::device;
use super::forms::{DeviceEvidence, MAX_DEVICES};
use super::manifest::Manifests;
use super::ocsp::{MAX_RESPONSES, OcspResponse};
use super::policy::GpuPolicy;
use super::set;
use super::verdict::{GpuCheck, GpuCheckName, GpuVerdict};
use crate::verdict::{Checks, Status};
use serde::{Deserialize, Serialize};

/// What a verifier has at hand. A check whose input is missing is listed as skipped.
#[derive(Clone, Copy)]
pub struct GpuInputs<'a> {
    /// GPUs and NVSwitches, at most 64; more are refused.
    pub devices: &'a [DeviceEvidence],
    /// What each report was asked to contain.
    pub nonce: Option<&'a [u8; 32]>,
    /// Manifests of drivers, raw; the one of a device's driver counts.
    pub driver_rims: &'a [Vec<u8>],
    /// Manifests of VBIOSes, raw, those of NVSwitches too.
    pub vbios_rims: &'a [Vec<u8>],
    /// OCSP responses, DER. Of several about one certificate, one that says revoked counts, else one that is good.
    pub ocsp: &'a [Vec<u8>],
    /// What the driver says of the machine, where the verifier runs on it.
    pub system: Option<SystemState>,
    /// What is accepted.
    pub policy: &'a GpuPolicy,
    /// Unix seconds.
    pub at: u64,
}

/// The driver's word about the machine (`nvmlSystemGetConfComputeSettings`): not signed by any device, and worth something only
/// where the driver's measurement is golden and the guest that asked is itself appraised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemState {
    /// Confidential computing is on.
    pub cc: bool,
    /// DevTools mode: on, but open to profilers and debuggers.
    pub devtools: bool,
    /// Production environment, and no simulation.
    pub production: bool,
}

/// All GPUs of a machine, appraised and found right. There is no other way to one than [`appraise_gpus`].
#[derive(Debug, Clone)]
pub struct AppraisedGpus {
    verdict: GpuVerdict,
}

impl AppraisedGpus {
    /// The whole verdict.
    pub fn verdict(&self) -> &GpuVerdict {
        &self.verdict
    }

    /// When the appraisal must be made anew, Unix seconds.
    pub fn expires(&self) -> Option<u64> {
        self.verdict.expires()
    }
}

/// GPU evidence that was not accepted, with everything that was found.
#[derive(Debug, Clone, thiserror::Error)]
pub struct RefusedGpus(Box<GpuVerdict>);

impl RefusedGpus {
    /// The whole verdict.
    pub fn verdict(&self) -> &GpuVerdict {
        &self.0
    }
}

impl std::fmt::Display for RefusedGpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::verdict::Name;
        write!(f, "GPU evidence refused")?;
        for entry in self.0.failed() {
            let check = &entry.check;
            let device = entry.device.map_or(String::new(), |device| format!(" of device {device}"));
            write!(
                f,
                "; {}{device}: expected {}, found {}",
                check.name.text(),
                check.expected,
                check.actual
            )?;
            write!(f, "; next: {}", check.name.next())?;
        }
        for entry in self.0.skipped().filter(|entry| !entry.check.actual.starts_with("not reached")) {
            write!(f, "; {} was not checked: {}", entry.check.name.text(), entry.check.actual)?;
        }
        Ok(())
    }
}

/// Appraises all GPUs of a machine: each check must pass, and none may be left out.
pub fn appraise_gpus(inputs: &GpuInputs<'_>) -> Result<AppraisedGpus, RefusedGpus> {
    let verdict = verify_gpus(inputs);
    match verdict.accepted && verdict.complete {
        true => Ok(AppraisedGpus { verdict }),
        false => Err(RefusedGpus(Box::new(verdict))),
    }
}

/// Runs every check that the inputs allow.
pub fn verify_gpus(inputs: &GpuInputs<'_>) -> GpuVerdict {
    let manifests = Manifests::read(inputs);
    let responses = inputs.ocsp.iter().take(MAX_RESPONSES).map(|bytes| OcspResponse::parse(bytes)).collect();
    let context = device::Context { inputs, manifests: &manifests, responses: &responses };
    let mut facts = Vec::new();
    let mut of_devices = Vec::new();
    let mut notes = Vec::new();
    for (number, evidence) in inputs.devices.iter().take(MAX_DEVICES).enumerate() {
        let found = device::check(&context, evidence);
        of_devices.extend(found.checks.into_iter().map(|check| GpuCheck { device: Some(number), check }));
        facts.push(found.facts);
        notes.extend(found.not_validated);
    }
    let mut checks = Checks::new();
    set::check(&mut checks, inputs, &facts, &mut notes);
    let of_set = checks.finish_of(GpuCheckName::SET).into_iter();
    let mut checks: Vec<GpuCheck> = of_set.map(|check| GpuCheck { device: None, check }).collect();
    checks.extend(of_devices);
    notes.sort();
    notes.dedup();
    let none = |status| checks.iter().all(|entry| entry.check.status != status);
    GpuVerdict {
        accepted: none(Status::Fail) && !facts.is_empty(),
        complete: none(Status::Skipped),
        platform: inputs.policy.platform(),
        at: inputs.at,
        not_validated_on_hardware: notes,
        devices: facts,
        checks,
    }
}

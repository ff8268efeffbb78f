//! The checks of the machine as a whole: all GPUs or none.

use super::appraise::GpuInputs;
use super::opaque::{DeviceKind, Mode, Opaque, Toggle};
use super::verdict::{DeviceFacts, GpuCheckName, NOT_VALIDATED};
use crate::Hex;
use crate::verdict::Checks;
use std::collections::BTreeSet;

pub(crate) fn check(
    checks: &mut Checks<GpuCheckName>,
    inputs: &GpuInputs<'_>,
    facts: &[DeviceFacts],
    notes: &mut Vec<String>,
) {
    let gpus: Vec<&DeviceFacts> = facts.iter().filter(|f| f.kind != Some(DeviceKind::Switch)).collect();
    let wanted = inputs.policy.settings.count;
    let words = format!("{} of {} devices", gpus.len(), inputs.devices.len());
    let good = gpus.len() == wanted && inputs.devices.len() == facts.len();
    checks.judge(GpuCheckName::Count, good, &format!("{wanted} GPUs"), &words, "policy");
    distinct(checks, facts);
    uniform(checks, &gpus);
    protected_pcie(checks, facts, notes);
}

/// By the key that is burnt into a device: two reports of one device never differ in it.
fn distinct(checks: &mut Checks<GpuCheckName>, facts: &[DeviceFacts]) {
    let mut seen: Vec<Option<&String>> = Vec::new();
    let mut twice = Vec::new();
    for (number, device) in facts.iter().enumerate() {
        let key = device.identity_key.as_ref();
        if let Some(first) = seen.iter().position(|other| key.is_some() && *other == key) {
            twice.push(format!("{number} is {first}"));
        }
        seen.push(key);
    }
    let words = if twice.is_empty() { format!("{} keys", facts.len()) } else { twice.join(", ") };
    let expected = "another identity key in each device";
    checks.judge(GpuCheckName::Distinct, twice.is_empty(), expected, &words, "device certificates");
}

fn uniform(checks: &mut Checks<GpuCheckName>, gpus: &[&DeviceFacts]) {
    let told = |facts: &DeviceFacts| {
        let opaque = facts.opaque.clone().unwrap_or_default();
        let text = |value: Option<String>| value.unwrap_or_else(|| "unknown".into());
        let mode = opaque.mode.map_or_else(|| "not named".into(), Mode::words);
        let (driver, vbios) = (text(opaque.driver_version), text(opaque.vbios_version));
        format!("{}, driver {driver}, VBIOS {vbios}, mode {mode}", text(facts.model.clone()))
    };
    let kinds: BTreeSet<String> = gpus.iter().map(|facts| told(facts)).collect();
    let words = kinds.iter().cloned().collect::<Vec<_>>().join("; or ");
    let expected = "one chip, driver, VBIOS and mode";
    checks.judge(GpuCheckName::Uniform, kinds.len() <= 1, expected, &words, "reports");
}

/// NVLink is in the clear under protected PCIe, so that the switches are inside the trust boundary: each must be appraised, and
/// GPUs and switches must name each other (NVIDIA's PPCIE verifier: topology check).
fn protected_pcie(checks: &mut Checks<GpuCheckName>, facts: &[DeviceFacts], notes: &mut Vec<String>) {
    let opaque = |kind| {
        let of_kind = facts.iter().filter(move |f| f.kind == Some(kind));
        of_kind.filter_map(|f| f.opaque.as_ref()).collect::<Vec<&Opaque>>()
    };
    let (gpus, switches) = (opaque(DeviceKind::Gpu), opaque(DeviceKind::Switch));
    let name = GpuCheckName::ProtectedPcie;
    let expected = "protected PCIe off, or every NVSwitch that the GPUs name, naming every GPU";
    let on = |gpu: &&Opaque| gpu.protected_pcie == Some(Toggle::On) || gpu.mode == Some(Mode::Ppcie);
    let count = gpus.iter().filter(|gpu| on(gpu)).count();
    if count == 0 && switches.is_empty() {
        return checks.judge(name, true, expected, "off", "reports");
    }
    if count > 0 && switches.is_empty() {
        let named: BTreeSet<Hex<8>> = gpus.iter().flat_map(|gpu| linked(&gpu.switch_pdis)).collect();
        let why = format!("on; no evidence of the NVSwitches that the GPUs name: {}", list(&named));
        return checks.skip(name, expected, &why);
    }
    notes.push("NVSwitch topology".into());
    let mut faults = Vec::new();
    if count < gpus.len() {
        faults.push(format!("on for {count} of {} GPUs", gpus.len()));
    }
    let present: BTreeSet<Hex<8>> = switches.iter().filter_map(|switch| switch.device_pdi).collect();
    for (number, gpu) in gpus.iter().enumerate() {
        let named = linked(&gpu.switch_pdis);
        if named != present {
            faults.push(format!("GPU {number} names {}, given {}", list(&named), list(&present)));
        }
    }
    let seen: BTreeSet<BTreeSet<Hex<8>>> = switches.iter().map(|switch| linked(&switch.gpu_pdis)).collect();
    if seen.len() != 1 || seen.iter().any(|named| named.len() != gpus.len()) {
        let counts: Vec<_> = seen.iter().map(|named| named.len().to_string()).collect();
        faults.push(format!("the switches name {} GPUs, given {}", counts.join(" or "), gpus.len()));
    }
    let good = faults.is_empty();
    let words =
        if good { format!("on, {} switches ({NOT_VALIDATED})", present.len()) } else { faults.join("; ") };
    checks.judge(name, good, expected, &words, "reports");
}

/// Identities at the ends of links that are in use.
fn linked(pdis: &[Hex<8>]) -> BTreeSet<Hex<8>> {
    pdis.iter().copied().filter(|pdi| *pdi != Hex::ZERO).collect()
}

fn list(pdis: &BTreeSet<Hex<8>>) -> String {
    let all: Vec<String> = pdis.iter().map(ToString::to_string).collect();
    if all.is_empty() { "none".into() } else { all.join(" ") }
}

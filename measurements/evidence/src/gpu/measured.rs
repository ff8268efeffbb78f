//! Manifests against a report: first whose they are and of what, then index by index.

use super::device::Device;
use super::manifest::{Firmware, Manifest};
use super::opaque::{DeviceKind, Toggle};
use super::rim::Golden;
use super::spdm::Report;
use super::verdict::{GpuCheckName, MeasurementFact};
use crate::time;
use crate::verdict::Status;
use std::collections::BTreeSet;

/// Measurement of the first video decoder: without meaning while that is off (attestation-sdk, `gpu/verify.cpp`).
const NVDEC0: u8 = 35;

/// The four checks of one manifest.
struct Names {
    what: Firmware,
    word: &'static str,
    signature: GpuCheckName,
    validity: GpuCheckName,
    version: GpuCheckName,
    measurements: GpuCheckName,
}

const DRIVER: Names = Names {
    what: Firmware::Driver,
    word: "driver",
    signature: GpuCheckName::DriverRimSignature,
    validity: GpuCheckName::DriverRimValidity,
    version: GpuCheckName::DriverRimVersion,
    measurements: GpuCheckName::DriverMeasurements,
};
const VBIOS: Names = Names {
    what: Firmware::Vbios,
    word: "vbios",
    signature: GpuCheckName::VbiosRimSignature,
    validity: GpuCheckName::VbiosRimValidity,
    version: GpuCheckName::VbiosRimVersion,
    measurements: GpuCheckName::VbiosMeasurements,
};

/// Whether every manifest of the device was there and every golden value met.
pub(crate) fn check(device: &mut Device<'_>, report: &Report) -> bool {
    device.facts.rims = rim_ids(device);
    let kinds: &[&Names] = match device.facts.kind {
        Some(DeviceKind::Switch) => &[&VBIOS],
        _ => &[&DRIVER, &VBIOS],
    };
    let mut claimed = BTreeSet::new();
    let mut golden = true;
    for names in kinds {
        // Not `&&`: every manifest is looked at.
        golden &= one(device, report, names, &mut claimed).unwrap_or(false);
    }
    golden
}

/// One manifest: none if it did not come to comparing.
fn one(device: &mut Device<'_>, report: &Report, names: &Names, claimed: &mut BTreeSet<u8>) -> Option<bool> {
    let version = device.version(names.what);
    let model = device.facts.model.clone().unwrap_or_default();
    let context = device.context;
    let Some(found) = context.manifests.of(names.what, &version, &model) else {
        let why = format!("no manifest of the {} given", names.word);
        for name in [names.signature, names.validity, names.version, names.measurements] {
            device.checks.skip(name, "a manifest signed by NVIDIA", &why);
        }
        return None;
    };
    let expected = format!("signed under the root with the key SHA-256 {}", context.inputs.policy.rim_root());
    let manifest = match found {
        Ok(manifest) => manifest,
        Err(error) => {
            device.judge(names.signature, false, &expected, &error.to_string(), "policy");
            return None;
        }
    };
    let words = manifest.fault.clone();
    let words = words.unwrap_or_else(|| format!("signed by {}", manifest.rim.chain().leaf().subject()));
    device.judge(names.signature, manifest.fault.is_none(), &expected, &words, "policy");
    if manifest.fault.is_some() {
        return None;
    }
    device.checks.expires(manifest.until);
    validity(device, manifest, names);
    let expected = format!("{} {version} of {model}", names.word);
    let words = format!("{} {} of {}", names.word, manifest.rim.version, manifest.rim.product);
    let good = manifest.is_of(&version, &model);
    device.judge(names.version, good, &expected, &words, "report");
    if !good {
        return None;
    }
    Some(compare(device, report, manifest, names, claimed))
}

fn validity(device: &mut Device<'_>, manifest: &Manifest, names: &Names) {
    let at = time::show(device.context.inputs.at);
    let end = manifest
        .until
        .map_or_else(|| "without an end".into(), |until| format!("until {}", time::show(until)));
    let words = if manifest.stale.is_empty() { end } else { manifest.stale.join("; ") };
    let expected = format!("the manifest's certificates hold at {at}");
    device.judge(names.validity, manifest.stale.is_empty(), &expected, &words, "manifest: certificates");
    device.checks.expires(manifest.until);
}

fn compare(
    device: &mut Device<'_>,
    report: &Report,
    manifest: &Manifest,
    names: &Names,
    claimed: &mut BTreeSet<u8>,
) -> bool {
    let mut faults = Vec::new();
    let mut count = 0;
    let decoder = report.opaque.nvdec0;
    for (index, golden) in &manifest.rim.golden {
        if !claimed.insert(*index) {
            faults.push(format!("index {index} stands in both manifests"));
        }
        match decoder {
            Some(Toggle::Off) if *index == NVDEC0 => continue,
            Some(Toggle::Unknown(byte)) if *index == NVDEC0 => {
                faults.push(format!("video decoder is 0x{byte:02x}"))
            }
            _ => {}
        }
        let fact = fact(report, *index, golden, names.word);
        if fact.status == Status::Fail {
            faults.push(format!(
                "index {index} {}: {}",
                fact.name,
                fact.actual.as_deref().unwrap_or("not in the report")
            ));
        }
        count += 1;
        device.facts.measurements.push(fact);
    }
    let good = faults.is_empty() && count > 0;
    let words = match (good, faults.is_empty()) {
        (true, _) => format!("all {count} as in the manifest"),
        (false, true) => "the manifest names no measurement".into(),
        (false, false) => faults.join("; "),
    };
    let expected = format!("{count} golden values of {} {}", names.word, manifest.rim.version);
    let source = format!("manifest {}", &manifest.rim.tag_id.chars().take(16).collect::<String>());
    device.judge(names.measurements, good, &expected, &words, source);
    device.checks.expires(manifest.until);
    good
}

fn fact(report: &Report, index: u8, golden: &Golden, rim: &'static str) -> MeasurementFact {
    // SPDM counts from 1, manifests from 0.
    let found = index.checked_add(1).and_then(|index| report.measurements.get(&index));
    let good = found.is_some_and(|found| golden.values.contains(&found.value));
    MeasurementFact {
        index,
        rim,
        name: golden.name.clone(),
        status: if good { Status::Pass } else { Status::Fail },
        expected: golden.values.iter().map(hex::encode).collect(),
        actual: found.map(|found| hex::encode(&found.value)),
    }
}

/// Names under which NVIDIA's RIM service has the manifests of this device (attestation-sdk, `gpu/evidence.cpp`,
/// `switch/evidence.cpp`).
fn rim_ids(device: &Device<'_>) -> Vec<String> {
    let Some(opaque) = &device.facts.opaque else { return Vec::new() };
    let text = |value: &Option<String>| value.clone().unwrap_or_default().to_uppercase();
    let vbios = text(&opaque.vbios_version).replace('.', "");
    let board = [&opaque.project, &opaque.project_sku, &opaque.chip_sku].map(text).join("_");
    let driver = opaque.driver_version.clone().unwrap_or_default();
    use super::verdict::Architecture as A;
    match device.facts.architecture {
        Some(A::Hopper) => {
            vec![format!("NV_GPU_DRIVER_GH100_{driver}"), format!("NV_GPU_VBIOS_{board}_{vbios}")]
        }
        Some(A::Blackwell) => {
            vec![format!("NV_GPU_CC_DRIVER_GB100_{driver}"), format!("NV_GPU_VBIOS_{board}_{vbios}")]
        }
        Some(A::Ls10) => vec![format!("NV_SWITCH_BIOS_5612_0002_890_{vbios}")],
        None => Vec::new(),
    }
}

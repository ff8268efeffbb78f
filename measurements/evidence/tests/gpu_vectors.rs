//! Evidence of real GPUs that nobody here made gives the verdicts that are known of it.
//!
//! The vectors lie beside the repository, or where CHRYSALIS_VECTORS says; they are not part of it. Where they are missing,
//! these tests say that they were skipped; what must always run uses evidence that the project makes itself.

use evidence::Status;
use evidence::gpu::{
    DeviceEvidence, DeviceKind, GpuCheckName, GpuInputs, GpuPolicy, GpuVerdict, Mode, Report, Rim, Toggle,
    verify_gpus,
};
use std::path::PathBuf;

/// Within the validity of the newer driver manifest, 2025-10-09.
const AT: u64 = 1_760_000_000;

fn read(name: &str) -> Option<Vec<u8>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let folder = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(beside, PathBuf::from).join("gpu");
    if !folder.is_dir() {
        eprintln!("SKIPPED: no vectors at {}; set CHRYSALIS_VECTORS to their folder", folder.display());
        return None;
    }
    let file = folder.join(name);
    Some(std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
}

fn device(report: &str, chain: &str) -> Option<DeviceEvidence> {
    Some(DeviceEvidence::read(&read(report)?, &read(chain)?).unwrap())
}

fn judge(device: &DeviceEvidence, driver_rims: &[Vec<u8>], nonce: Option<&[u8; 32]>) -> GpuVerdict {
    verify_gpus(&GpuInputs {
        devices: std::slice::from_ref(device),
        nonce,
        driver_rims,
        vbios_rims: &[],
        ocsp: &[],
        system: None,
        policy: &GpuPolicy::production(),
        at: AT,
    })
}

fn failed(verdict: &GpuVerdict) -> Vec<GpuCheckName> {
    verdict.failed().map(|entry| entry.check.name).collect()
}

#[test]
fn a_real_hopper_report_is_accepted_and_incomplete() {
    let Some(device) = device("hopper_report.txt", "hopper_cert_chain.txt") else { return };
    let verdict = judge(&device, &[], None);
    println!("{verdict}");
    assert!(verdict.accepted && !verdict.complete, "{verdict}");
    for name in [GpuCheckName::TrustRoot, GpuCheckName::Chain, GpuCheckName::ReportSignature] {
        assert_eq!(verdict.check(Some(0), name).unwrap().status, Status::Pass);
    }
    let facts = &verdict.devices[0];
    assert_eq!((facts.model.as_deref(), facts.serial.as_deref()), (Some("GH100"), Some("48B02D7A7CD27FC3")));
    let opaque = facts.opaque.as_ref().unwrap();
    assert_eq!(opaque.driver_version.as_deref(), Some("535.86.09"));
    assert_eq!(opaque.vbios_version.as_deref(), Some("96.00.5E.00.01"));
    assert_eq!(facts.rims, ["NV_GPU_DRIVER_GH100_535.86.09", "NV_GPU_VBIOS_1010_0200_882_96005E0001"]);
}

#[test]
fn a_report_with_an_invalid_signature_is_refused() {
    for chain in ["hopper_cert_chain.txt", "hopper_cert_chain_parsed_source.txt"] {
        let Some(device) = device("hopper_report_invalid_signature.txt", chain) else { return };
        let verdict = judge(&device, &[], None);
        assert_eq!(failed(&verdict), [GpuCheckName::ReportSignature], "{verdict}");
        assert!(!verdict.accepted);
    }
}

#[test]
fn a_report_of_another_device_is_refused() {
    let Some(device) = device("hopper_report.txt", "hopper_cert_chain_parsed_source.txt") else { return };
    assert_eq!(failed(&judge(&device, &[], None)), [GpuCheckName::ReportSignature]);
}

#[test]
fn a_flipped_bit_anywhere_that_is_signed_is_refused() {
    let Some(good) = device("hopper_report.txt", "hopper_cert_chain.txt") else { return };
    for at in (0..good.report.len()).step_by(61) {
        let mut device = good.clone();
        device.report[at] ^= 1;
        assert!(!judge(&device, &[], None).accepted, "bit of byte {at}");
    }
}

#[test]
fn the_envelope_of_a_machine_under_protected_pcie_waits_for_its_switches() {
    let Some(bytes) = read("hopper_evidence_590_12.json") else { return };
    let devices = DeviceEvidence::read_envelope(&bytes).unwrap();
    let nonce: [u8; 32] = devices[0].report[4..36].try_into().unwrap();
    let verdict = judge(&devices[0], &[], Some(&nonce));
    println!("{verdict}");
    assert!(verdict.accepted && !verdict.complete, "{verdict}");
    let opaque = verdict.devices[0].opaque.as_ref().unwrap();
    assert_eq!((opaque.mode, opaque.protected_pcie), (Some(Mode::Ppcie), Some(Toggle::On)));
    assert_eq!(opaque.switch_pdis.len(), 18);
    assert_eq!(verdict.check(None, GpuCheckName::ProtectedPcie).unwrap().status, Status::Skipped);
    assert_eq!(verdict.check(Some(0), GpuCheckName::Fwid).unwrap().status, Status::Pass);
    let other = judge(&devices[0], &[], Some(&[0; 32]));
    assert_eq!(failed(&other), [GpuCheckName::Nonce]);
}

#[test]
fn the_parse_agrees_with_upstreams() {
    let (Some(report), Some(parsed)) =
        (read("hopper_report_parsed_source.txt"), read("hopper_spdm_parsed.json"))
    else {
        return;
    };
    let bytes = evidence::gpu::read_report(&report).unwrap();
    let report = Report::parse(&bytes, DeviceKind::Gpu).unwrap();
    let theirs: serde_json::Value = serde_json::from_slice(&parsed).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().trim_start_matches("0x").to_owned();
    assert_eq!(report.responder_nonce.to_string(), text(&theirs["Nonce"]));
    assert_eq!(report.signature.to_string(), text(&theirs["Signature"]));
    let blocks = theirs["MeasurementRecord"]["MeasurementBlocks"].as_object().unwrap();
    assert_eq!(report.measurements.len(), blocks.len());
    for (index, block) in blocks {
        let found = &report.measurements[&index.parse().unwrap()];
        assert_eq!(hex::encode(&found.value), text(&block["DMTFSpecMeasurementValue"]), "block {index}");
        assert_eq!(u64::from(found.kind), block["DMTFSpecMeasurementValueType"].as_u64().unwrap());
    }
    let fields = &theirs["OpaqueData"]["OpaqueDataField"];
    let field = |name: &str| text(&fields[format!("OPAQUE_FIELD_ID_{name}")]);
    let zero_ended = |value: &Option<String>| hex::encode(value.as_ref().unwrap()) + "00";
    let opaque = &report.opaque;
    assert_eq!(opaque.fwid.unwrap().to_string(), field("FWID"));
    assert_eq!(zero_ended(&opaque.driver_version), field("DRIVER_VERSION"));
    assert_eq!(zero_ended(&opaque.project), field("PROJECT"));
    assert_eq!(zero_ended(&opaque.project_sku), field("PROJECT_SKU"));
    assert!(field("CHIP_SKU").starts_with(&zero_ended(&opaque.chip_sku)));
    assert_eq!(hex::encode(opaque.board_id.unwrap().to_le_bytes()), field("BOARD_ID"));
    assert_eq!(hex::encode(opaque.gpu_info.unwrap().to_le_bytes()), field("GPU_INFO"));
    assert_eq!(hex::encode(opaque.cpr_info.unwrap().to_le_bytes()), field("CPRINFO"));
    assert_eq!((opaque.nvdec0, opaque.protected_pcie), (Some(Toggle::Off), Some(Toggle::Off)));
    assert_eq!(field("VBIOS_VERSION"), "0074009620000000");
    assert_eq!(opaque.vbios_version.as_deref(), Some("96.00.74.00.20"));
    assert_eq!((opaque.version, opaque.mode), (1, Some(Mode::Spt)));
    let counts = fields["OPAQUE_FIELD_ID_MSRSCNT"].as_array().unwrap();
    let counts: Vec<u32> = counts.iter().map(|count| count.as_u64().unwrap().try_into().unwrap()).collect();
    assert_eq!(opaque.measurement_counts, counts);
    assert_eq!(opaque.other, []);
}

#[test]
fn a_manifest_signed_by_nvidia_passes_and_a_changed_one_is_refused() {
    let Some(device) = device("hopper_report.txt", "hopper_cert_chain.txt") else { return };
    let good = read("driver_rim_550.144.03.xml").unwrap();
    let rim = Rim::parse(&good).unwrap();
    assert_eq!((rim.version.as_str(), rim.product.as_str(), rim.golden.len()), ("550.144.03", "GH100", 21));
    assert_eq!(rim.golden[&35].values.len(), 4);
    let verdict = judge(&device, &[good], None);
    assert_eq!(verdict.check(Some(0), GpuCheckName::DriverRimSignature).unwrap().status, Status::Pass);
    assert_eq!(verdict.check(Some(0), GpuCheckName::DriverRimValidity).unwrap().status, Status::Pass);
    assert_eq!(
        failed(&verdict),
        [GpuCheckName::DriverRimVersion],
        "another driver than the report's: {verdict}"
    );
    let bad = read("driver_rim_bad_signature.xml").unwrap();
    assert_eq!(failed(&judge(&device, &[bad], None)), [GpuCheckName::DriverRimSignature]);
}

#[test]
fn a_manifest_changed_anywhere_is_refused() {
    let Some(device) = device("hopper_report.txt", "hopper_cert_chain.txt") else { return };
    let good = read("driver_rim_550.144.03.xml").unwrap();
    for at in (0..good.len()).step_by(509) {
        let mut changed = good.clone();
        // A letter for another: what the form allows must be caught by the digest or the signature.
        changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
        let verdict = judge(&device, &[changed], None);
        assert_eq!(failed(&verdict)[0], GpuCheckName::DriverRimSignature, "byte {at}: {verdict}");
    }
}

#[test]
fn nvidias_roots_are_the_pinned_ones_and_never_simulated() {
    let (Some(device), Some(rim)) = (read("device_root.pem"), read("rim_root.crt")) else { return };
    let device = evidence::gpu::read_chain(&device).unwrap().remove(0);
    let rim = evidence::gpu::read_chain(&rim).unwrap().remove(0);
    let error = GpuPolicy::simulated(&device, &rim).unwrap_err().to_string();
    assert!(
        error.contains("NVIDIA Device Identity CA") && error.contains("has a key of NVIDIA's"),
        "{error}"
    );
}

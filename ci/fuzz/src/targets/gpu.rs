//! What a stranger's GPUs send, and what is published about them. Whole appraisals of damaged evidence are in the tests of
//! `evidence`: they verify signatures, which is too slow for a fuzzer.

use crate::{MEMORY, Target};
use evidence::gpu::{DeviceEvidence, DeviceKind, OcspResponse, Report, Rim, read_chain, read_rim};
use simulator::gpu::{GpuCase, GpuMachine};
use std::sync::LazyLock;

/// Attestation reports of GPUs and NVSwitches.
pub const REPORT: Target =
    Target { name: "gpu_report", run: run_report, seeds: seeds_report, memory: MEMORY };
/// Certificate chains of devices.
pub const CHAIN: Target = Target { name: "gpu_chain", run: run_chain, seeds: seeds_chain, memory: MEMORY };
/// JSON envelopes of evidence.
pub const ENVELOPE: Target =
    Target { name: "gpu_envelope", run: run_envelope, seeds: seeds_envelope, memory: MEMORY };
/// Manifests, XML and as a RIM service answers.
pub const RIM: Target = Target { name: "gpu_rim", run: run_rim, seeds: seeds_rim, memory: 2 * MEMORY };
/// OCSP responses.
pub const OCSP: Target = Target { name: "gpu_ocsp", run: run_ocsp, seeds: seeds_ocsp, memory: MEMORY };
/// A good simulated machine's evidence: SIMULATED, made anew in each process.
#[expect(clippy::expect_used, reason = "a fuzzer without its simulated machine can only stop")]
static CASE: LazyLock<GpuCase> =
    LazyLock::new(|| GpuMachine::ProtectedPcie(1).case().expect("a simulated machine can be made"));

fn run_report(bytes: &[u8]) -> bool {
    [DeviceKind::Gpu, DeviceKind::Switch].iter().any(|kind| Report::parse(bytes, *kind).is_ok())
}

fn seeds_report() -> Vec<Vec<u8>> {
    CASE.devices.iter().map(|device| device.report.clone()).collect()
}

fn run_chain(bytes: &[u8]) -> bool {
    let Ok(chain) = read_chain(bytes) else { return false };
    DeviceEvidence { chain, ..CASE.devices[0].clone() }.check().is_ok()
}

fn seeds_chain() -> Vec<Vec<u8>> {
    // PEM is what the envelope has inside.
    vec![CASE.devices[0].chain.concat()]
}

fn run_envelope(bytes: &[u8]) -> bool {
    DeviceEvidence::read_envelope(bytes).is_ok()
}

fn seeds_envelope() -> Vec<Vec<u8>> {
    vec![DeviceEvidence::to_envelope(&CASE.devices, &CASE.nonce).into_bytes()]
}

fn run_rim(bytes: &[u8]) -> bool {
    read_rim(bytes).and_then(|xml| Rim::parse(&xml)).is_ok()
}

fn seeds_rim() -> Vec<Vec<u8>> {
    vec![CASE.driver_rims[0].clone()]
}

fn run_ocsp(bytes: &[u8]) -> bool {
    OcspResponse::parse(bytes).is_ok()
}

fn seeds_ocsp() -> Vec<Vec<u8>> {
    // Signed by the issuer itself, and by one that it delegates to.
    vec![CASE.ocsp[0].clone(), CASE.ocsp[4].clone()]
}

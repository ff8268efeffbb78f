//! Firmware images and what they carry; the ACPI blobs that they are given.

use crate::{MEMORY, Target};
use measure::firmware::tdvf::{self, Vmm};
use measure::firmware::variables;
use measure::{FirmwareProfile, acpi, samples};

/// What an image may unpack to (64 MiB), and the dictionary that its LZMA header may ask for (96 MiB).
const UNPACKED: usize = (64 + 96 + 8) << 20;

/// Metadata and MRTD of a TDVF image. The metadata may ask for any number of pages, whatever the file's size.
pub const TDVF: Target = Target { name: "tdvf", run: run_tdvf, seeds: seeds_tdvf, memory: MEMORY };
/// A trust domain's firmware: what its own code says of how it measures.
pub const TDX_PROFILE: Target =
    Target { name: "tdx_profile", run: run_tdx_profile, seeds: seeds_tdx_profile, memory: UNPACKED };
/// Firmware volumes, packed ones unpacked.
pub const VOLUMES: Target =
    Target { name: "volumes", run: run_volumes, seeds: seeds_volumes, memory: UNPACKED };
/// Variable stores.
pub const VARIABLES: Target =
    Target { name: "variables", run: run_variables, seeds: seeds_variables, memory: MEMORY };
/// Captured ACPI tables, from which the loader script and the root pointer are derived.
pub const ACPI: Target = Target { name: "acpi", run: run_acpi, seeds: seeds_acpi, memory: MEMORY };

fn run_tdvf(bytes: &[u8]) -> bool {
    let single = tdvf::mrtd(bytes, Vmm::SinglePass).is_ok();
    single && tdvf::mrtd(bytes, Vmm::TwoPass).is_ok()
}

fn seeds_tdvf() -> Vec<Vec<u8>> {
    vec![samples::tdvf()]
}

fn run_tdx_profile(bytes: &[u8]) -> bool {
    FirmwareProfile::of_tdvf(bytes).is_ok()
}

fn seeds_tdx_profile() -> Vec<Vec<u8>> {
    vec![
        samples::tdx(Some(2), b"initrd=initrd ", b"etc/boot/\0", b"ui"),
        samples::tdx(None, b" initrd=initrd", b"nothing", b"ui"),
    ]
}

fn run_volumes(bytes: &[u8]) -> bool {
    FirmwareProfile::of(bytes).is_ok()
}

fn seeds_volumes() -> Vec<Vec<u8>> {
    vec![samples::firmware(&[]), samples::firmware(&[[7; 16], [8; 16]])]
}

fn run_variables(bytes: &[u8]) -> bool {
    variables::parse(bytes).is_ok()
}

fn seeds_variables() -> Vec<Vec<u8>> {
    vec![samples::store(&[]), samples::store(&[("PK", b"key"), ("db", b"")])]
}

fn run_acpi(bytes: &[u8]) -> bool {
    acpi::derive(bytes).is_ok()
}

fn seeds_acpi() -> Vec<Vec<u8>> {
    [measure::Shape::new(1, 1024), measure::Shape::new(9, 4096)]
        // A TPM's tables come with a log area, which captured tables of a trust domain don't have.
        .map(|shape| acpi::Machine::tdx(&shape))
        .map(|config| acpi::generate(&config).tables)
        .into()
}

//! Generated ACPI tables against tables of machines that others launched, kept outside the repository (see `vectors`).
//!
//! Each machine is described here, as its own command line describes it; the captured file is only compared with.

use measure::acpi::{self, Chipset, Function, Machine};
use measure::shape::QemuVersion;
use measure::{Boot, Digest384, Inputs, Platform, Register, Shape, TdxOptions, predict_tdx};
use std::path::PathBuf;

/// The vectors' folder: `CHRYSALIS_VECTORS`, else `../shared/vectors` beside the repository; `None` is said loudly.
fn vectors() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!(
        "SKIPPED: no vectors at {}; set CHRYSALIS_VECTORS to check against real tables",
        folder.display()
    );
    None
}

/// q35 with SMM and PIC off, which is what TDX leaves, and these slots beside the chipset's functions.
fn foreign(qemu: QemuVersion, vcpus: u32, slots: &[u8]) -> Machine {
    let mut root_bus: Vec<_> = [0].iter().chain(slots).map(|slot| Function::endpoint(*slot)).collect();
    root_bus.push(Function::lpc());
    // SATA and SMBus.
    root_bus.extend([2, 3].map(|function| Function { function, ..Function::endpoint(0x1f) }));
    Machine {
        qemu,
        vcpus,
        low_memory: 0x8000_0000,
        window64: acpi::window64(46, 4 << 40),
        chipset: Chipset { smm: false, pic: false, ..Chipset::default() },
        root_bus,
    }
}

/// A trust domain on real hardware: QEMU 10.2.1, 8 vCPUs, 16 GiB, an e1000, vsock and three SCSI controllers.
fn trust_domain() -> Machine {
    foreign(QemuVersion::V10_2, 8, &[1, 2, 3, 4, 5])
}

/// The same kind of machine with three devices, QEMU 10.2.1 in emulation.
fn emulated_with_hpet() -> Machine {
    foreign(QemuVersion::V10_2, 8, &[1, 2, 3])
}

/// No device at all, QEMU 9.2.1: without BARs the 64-bit window begins at 4 GiB and has its default size.
fn bare() -> Machine {
    let machine = foreign(QemuVersion::V9_2, 4, &[]);
    Machine {
        window64: acpi::window64_without_bars(0, 32 << 30),
        chipset: Chipset { hpet: false, serial: true, ..machine.chipset },
        ..machine
    }
}

fn check(folder: &str, machine: &Machine, memory_mib: u64) {
    let Some(vectors) = vectors() else { return };
    let captured = std::fs::read(vectors.join("acpi").join(folder).join("acpi_tables.bin")).unwrap();
    let blobs = acpi::generate(machine);
    let difference = blobs.tables.iter().zip(&captured).position(|(ours, theirs)| ours != theirs);
    assert_eq!(difference, None, "{folder}: first differing byte");
    assert_eq!(blobs.tables.len(), captured.len(), "{folder}");
    assert_eq!(acpi::derive(&captured).unwrap(), blobs, "{folder}: loader script and root pointer");

    let expected = std::fs::read(vectors.join("acpi").join(folder).join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let expected: Digest384 = expected["rtmr0"].as_str().unwrap().parse().unwrap();
    let firmware = std::fs::read(vectors.join("firmware/OVMF_2025.02-3ubuntu2.fd")).unwrap();
    let shape = Shape::new(machine.vcpus, memory_mib);
    let inputs = Inputs {
        platform: Platform::Tdx,
        boot: Boot::Direct,
        shape: &shape,
        firmware_code: &firmware,
        firmware_vars: &[],
        payload: None,
        disk_head: None,
    };
    let options = TdxOptions { acpi: Some(&blobs), ..TdxOptions::default() };
    let prediction = predict_tdx(&inputs, &options).unwrap();
    assert_eq!(prediction.register(Register::Rtmr0), Some(expected), "{folder}");
}

#[test]
fn rtmr0_of_a_real_trust_domain_comes_out_of_its_description() {
    let measured =
        "a2749c840579faca6adf0c9c3ab69f277556cda67f8a6b3553c2c7fbf00e9706ec77a6f6960d802433b339ff8b72eefb";
    if let Some(vectors) = vectors() {
        let quote = std::fs::read(vectors.join("quotes/shape_8vcpu_16g_v4.bin")).unwrap();
        assert_eq!(hex::encode(&quote[48 + 328..48 + 376]), measured, "the quote says so itself");
    }
    check("runtime_capture_8vcpu_16g", &trust_domain(), 16 * 1024);
}

#[test]
fn tables_of_an_emulated_10_2_come_out_of_their_description() {
    check("tool_q35_with_hpet", &emulated_with_hpet(), 4 * 1024);
}

#[test]
fn tables_of_a_bare_9_2_come_out_of_their_description() {
    check("tool_canonical_defaults", &bare(), 2 * 1024);
}

/// Another one, with a GPU: a TDX tree of QEMU 9.2.1, 16 vCPUs, 64 GiB, five devices and a root port with the GPU, no
/// ACPI PCI hotplug, a hole of 16 TiB. Its log has the digests of the files.
#[test]
fn files_that_a_real_trust_domain_with_a_gpu_measured_come_out_of_its_description() {
    let Some(vectors) = vectors() else { return };
    let text = std::fs::read_to_string(vectors.join("quotes/dstack_quote_and_eventlog.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events: serde_json::Value = serde_json::from_str(json["event_log"].as_str().unwrap()).unwrap();
    // EV_PLATFORM_CONFIG_FLAGS in RTMR0.
    let files = events.as_array().unwrap().iter().filter(|e| e["imr"] == 0 && e["event_type"] == 10);
    let measured: Vec<_> = files.map(|e| e["digest"].as_str().unwrap().to_owned()).collect();

    let mut machine = foreign(QemuVersion::V9_2, 16, &[1, 2, 3, 4, 5, 6]);
    machine.root_bus[6] = Function::root_port(6);
    machine.window64 = acpi::window64(46, 16 << 40);
    machine.chipset = Chipset { hpet: false, pci_hotplug: false, serial: true, ..machine.chipset };
    let blobs = acpi::generate(&machine);
    let generated = [&blobs.loader, &blobs.rsdp, &blobs.tables].map(|file| Digest384::of(file).to_string());
    assert_eq!(measured, generated);
}

/// One wrong word in the description is enough to miss.
#[test]
fn each_part_of_a_description_moves_the_tables() {
    let right = trust_domain();
    let chipset = right.chipset;
    let wrong = [
        ("release", Machine { qemu: QemuVersion::V9_2, ..right.clone() }),
        ("vCPUs", Machine { vcpus: 9, ..right.clone() }),
        ("low memory", Machine { low_memory: 0x7000_0000, ..right.clone() }),
        ("window", Machine { window64: acpi::window64(46, 8 << 40), ..right.clone() }),
        ("slots", foreign(QemuVersion::V10_2, 8, &[1, 2, 3, 4])),
        ("HPET", Machine { chipset: Chipset { hpet: false, ..chipset }, ..right.clone() }),
        ("8042", Machine { chipset: Chipset { i8042: false, ..chipset }, ..right.clone() }),
        ("PIC", Machine { chipset: Chipset { pic: true, ..chipset }, ..right.clone() }),
        ("SMM", Machine { chipset: Chipset { smm: true, ..chipset }, ..right.clone() }),
        ("S3", Machine { chipset: Chipset { sleep: [false, true], ..chipset }, ..right.clone() }),
        ("hotplug", Machine { chipset: Chipset { pci_hotplug: false, ..chipset }, ..right.clone() }),
        ("serial", Machine { chipset: Chipset { serial: true, ..chipset }, ..right.clone() }),
        ("TPM", Machine { chipset: Chipset { tpm: true, ..chipset }, ..right.clone() }),
    ];
    let right = acpi::generate(&right);
    for (part, machine) in wrong {
        assert_ne!(acpi::generate(&machine).tables, right.tables, "{part}");
    }
}

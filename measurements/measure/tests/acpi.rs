//! Generated ACPI tables against tables of machines that others launched, kept outside the repository (see `vectors`), and
//! against digests of what QEMU itself made of our machine and of machines unlike it.
//!
//! Each machine is described here, as its own command line describes it; the captured file is only compared with.

mod support;

use measure::acpi::{self, Chipset, Function, Kind, Machine};
use measure::shape::{Gpu, QemuVersion};
use measure::{Boot, Digest384, Inputs, Platform, Prediction, Register, Shape, TdxOptions, predict_tdx};
use proptest::prelude::*;
use std::path::Path;
use support::vectors;

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
    let shape = Shape::new(machine.vcpus, memory_mib);
    let options = TdxOptions { acpi: Some(&blobs), ..TdxOptions::default() };
    let prediction = predicted(&vectors, &shape, &options);
    assert_eq!(prediction.register(Register::Rtmr0), Some(expected), "{folder}");
}

fn predicted(vectors: &Path, shape: &Shape, options: &TdxOptions<'_>) -> Prediction {
    let firmware = std::fs::read(vectors.join("firmware/OVMF_2025.02-3ubuntu2.fd")).unwrap();
    let inputs = Inputs {
        platform: Platform::Tdx,
        boot: Boot::Direct,
        shape,
        firmware_code: &firmware,
        firmware_vars: &[],
        payload: None,
        disk_head: None,
    };
    predict_tdx(&inputs, options).unwrap()
}

#[test]
fn rtmr0_of_our_machine_is_final_from_firmware_and_shape() {
    let Some(vectors) = vectors() else { return };
    let rtmr0 = |shape: &Shape| predicted(&vectors, shape, &TdxOptions::default()).register(Register::Rtmr0);
    let base = rtmr0(&Shape::new(2, 4096));
    assert!(base.is_some());
    let mut accelerated = Shape::new(2, 4096);
    accelerated.gpus = 1;
    assert_ne!(rtmr0(&accelerated), base, "a GPU moves the tables");
    assert_ne!(rtmr0(&Shape::new(2, 8192)), base, "memory moves the TD HOB");
    let mut upgraded = Shape::new(2, 4096);
    upgraded.qemu = QemuVersion::V10_1;
    assert_eq!(rtmr0(&upgraded), base, "10.1 and 10.2 make the same tables");
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

fn digest(machine: &Machine) -> String {
    Digest384::of(&acpi::generate(machine).tables).to_string()
}

/// Digests of `etc/acpi/tables` as each release of QEMU made them, behind OVMF 2025.02-8+deb13u1, for the launcher's
/// machine with 2 vCPUs, 2 GiB, two GPUs of 128 GiB, one NVSwitch, two network cards and three model disks.
#[test]
fn tables_of_our_machine_are_those_that_each_qemu_made() {
    let from_10_0 =
        "b268602fcb27214d42b6ba78966fc45dffaede426f6c7edd991e85a5ee1035f3eb7fea7ad7703b7b70bb329eed708c64";
    let made = [
        "44cd18d0638ec641e62fb1eb27e562667cbf39f0dddab4877660b037cdcff73595fbee683488593b53a367a824794da4",
        "c47d8255950db7e5105a9e8296c96182807a74ce724cd41c330ed083a178f79629c7c6c0cb355ae97c2b1ef6cd0113bd",
        from_10_0,
        from_10_0,
        from_10_0,
        "782b11efd95098b21068c2967f54079b0331155ccef41524e3acbcfc88a0d8970921b9f65ed8d508a9bce773ee42ed84",
    ];
    let mut shape = Shape::new(2, 2048);
    (shape.gpus, shape.gpu, shape.nvswitches) = (2, Some(Gpu::H100), 1);
    (shape.nics, shape.model_disks) = (2, 3);
    for (qemu, made) in QemuVersion::ALL.into_iter().zip(made) {
        shape.qemu = qemu;
        assert_eq!(digest(&Machine::tdx(&shape)), made, "QEMU {qemu}");
    }
}

/// The same for 512 vCPUs with eight GPUs and four NVSwitches (10.0.13), and for 6 TiB with everything (10.2.1).
#[test]
fn tables_of_the_largest_machines_are_those_that_qemu_made() {
    let mut shape = Shape::new(512, 2048);
    (shape.gpus, shape.nvswitches) = (8, 4);
    let made =
        "6b4358ce689df91863780c11a04d5b0761d18ccac0ef1ea839bd0e2848768ab34468fefc6c94d36c8f1db1274a0327c8";
    assert_eq!(digest(&Machine::tdx(&shape)), made);
    let mut shape = Shape::new(2, 6 << 20);
    (shape.gpus, shape.nvswitches, shape.nics, shape.model_disks) = (8, 4, 4, 8);
    let made =
        "74d4292c1fa182c9a2a63fa42e73d8a2c11be29b1070013b2509edb47a2c800aa0b58bb11af6c59699fa3cdaed1bbc0c";
    assert_eq!(digest(&Machine::tdx(&shape)), made);
}

/// Digests of QEMU's tables for a machine with all that ours leaves off: ACPI hotplug of root ports (with and without
/// devices behind them), HPET, 8042, PIC, SMM, sleep states.
#[test]
fn tables_with_hotplug_are_those_that_each_qemu_made() {
    let machine = |qemu, behind: &[Function]| {
        let mut shape = Shape::new(2, 2048);
        (shape.gpus, shape.nvswitches, shape.qemu) = (3, 2, qemu);
        let mut machine = Machine::tdx(&shape);
        machine.chipset = Chipset { serial: true, ..Chipset::default() };
        for function in &mut machine.root_bus {
            if let Kind::RootPort { .. } = function.kind {
                function.kind = Kind::RootPort { hotplug: true, behind: behind.to_vec() };
            }
        }
        digest(&machine)
    };
    let device = [Function::endpoint(0)];
    for (qemu, behind, made) in [
        (
            QemuVersion::V9_2,
            &device[..],
            "95ed884c24173e14370b4487d39a9394cd2a7df55577c836faeaaa9b1a0a9aa20957320474e377f05170b5703e63d7c7",
        ),
        (
            QemuVersion::V10_2,
            &device[..],
            "72e28799705d7e36d2c04b02012afb0c8d11a4b85900d0bdc3e99af91f0accee6ed26cdad0317e304b19297a1df6a3c7",
        ),
        (
            QemuVersion::V11_1,
            &device[..],
            "20de4a63fad9611ebc53d82fcfba1eff91bfb66de255ea7305875f3b4b17e0e248ec1a47c43c72be8185b1d71ab1d99d",
        ),
        (
            QemuVersion::V10_0,
            &[],
            "6e9f913dc819cb3bb703c8f896621cb278ec0ddea69580f7420ad8de63cad7db4639e8b32a97bc0f9ea9ef756182ef46",
        ),
    ] {
        assert_eq!(machine(qemu, behind), made, "QEMU {qemu}");
    }
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let sizes = (1u32..=512, 1024u64..=6 << 20, 0u8..=8, 0u8..=8, 0u8..=4, 1u8..=4);
    (sizes, any::<bool>(), 46u8..=52, 0..QemuVersion::ALL.len()).prop_map(
        |(sizes, vsock, phys_bits, qemu)| {
            let (vcpus, memory_mib, model_disks, gpus, nvswitches, nics) = sizes;
            let mut shape = Shape::new(vcpus, memory_mib);
            (shape.model_disks, shape.gpus, shape.nics, shape.vsock) = (model_disks, gpus, nics, vsock);
            shape.nvswitches = if gpus > 0 { nvswitches } else { 0 };
            (shape.phys_bits, shape.qemu) = (phys_bits, QemuVersion::ALL[qemu]);
            shape
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The walk over the tables that makes loader and root pointer of captured ones agrees with what was generated.
    #[test]
    fn every_shape_has_well_formed_tables(shape in any_shape()) {
        shape.check(Platform::Tdx).unwrap();
        let blobs = acpi::generate(&Machine::tdx(&shape));
        prop_assert_eq!(blobs.tables.len() % 0x2_0000, 0);
        prop_assert_eq!(blobs.loader.len() % 0x1000, 0);
        prop_assert_eq!(acpi::derive(&blobs.tables).unwrap(), blobs);
    }
}

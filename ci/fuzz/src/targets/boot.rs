//! What is booted, and what the boot leaves behind: PE images, UKIs, partition tables, event logs, shapes.

use crate::{MEMORY, Target};
use measure::tcg::{self, Bank, EventLog};
use measure::uki::Uki;
use measure::{Shape, acpi, gpt, pe, samples};

/// PE images as `-kernel` gets them.
pub const PE: Target = Target { name: "pe", run: run_pe, seeds: seeds_pe, memory: MEMORY };
/// Unified kernel images.
pub const UKI: Target = Target { name: "uki", run: run_uki, seeds: seeds_uki, memory: MEMORY };
/// The front of a disk.
pub const GPT: Target = Target { name: "gpt", run: run_gpt, seeds: seeds_gpt, memory: MEMORY };
/// Crypto-agile event logs, TPM and CCEL.
pub const EVENT_LOG: Target =
    Target { name: "event_log", run: run_event_log, seeds: seeds_event_log, memory: MEMORY };
/// Shape files, and the tables of the machines that they describe.
pub const SHAPE: Target = Target { name: "shape", run: run_shape, seeds: seeds_shape, memory: 4 * MEMORY };

fn run_pe(bytes: &[u8]) -> bool {
    pe::Image::parse(bytes).and_then(|image| image.authenticode()).is_ok()
}

fn seeds_pe() -> Vec<Vec<u8>> {
    let sections: [(&str, &[u8]); 2] = [(".text", b"code"), (".data", &[7; 600])];
    vec![samples::pe(&sections, b"", b""), samples::pe(&sections, b"tail", b"certificates")]
}

fn run_uki(bytes: &[u8]) -> bool {
    let Ok(uki) = Uki::parse(bytes) else { return false };
    let _ = (uki.load_options(), uki.initrd().map(|initrd| initrd.digests()), uki.kernel.authenticode());
    true
}

fn seeds_uki() -> Vec<Vec<u8>> {
    vec![samples::uki(b"console=ttyS0 quiet"), samples::uki(b"")]
}

fn run_gpt(bytes: &[u8]) -> bool {
    gpt::gpt_event(bytes).is_ok()
}

fn seeds_gpt() -> Vec<Vec<u8>> {
    vec![samples::disk()]
}

fn run_event_log(bytes: &[u8]) -> bool {
    let Ok(log) = EventLog::parse(bytes) else { return false };
    for event in &log.events {
        let _ = (tcg::describe(event), tcg::decode(event), event.data_is_hashed());
        let _ = log.replay(Bank::Sha384, event.index);
    }
    let _ = (log.ccel_rtmrs(), tcg::emulated_registers(&log));
    true
}

fn seeds_event_log() -> Vec<Vec<u8>> {
    let variable = [&[7; 16][..], &2u64.to_le_bytes(), &1u64.to_le_bytes(), b"P\0K\0", b"x"].concat();
    vec![
        samples::log(&[]),
        samples::log(&[(0, tcg::EV_S_CRTM_VERSION, b"v\0"), (7, tcg::EV_SEPARATOR, &[0; 4])]),
        samples::log(&[
            (7, tcg::EV_EFI_VARIABLE_DRIVER_CONFIG, &variable),
            (4, tcg::EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
            (11, tcg::EV_IPL, b".linux\0"),
        ]),
        samples::ccel(),
        samples::tpm(),
        simulator::tpm::sample_log(),
    ]
}

fn run_shape(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(shape) = Shape::from_toml(text) else { return false };
    if shape.check(measure::Platform::Emulated).is_ok() {
        let _ = acpi::generate(&acpi::Machine::emulated(&shape));
    }
    true
}

fn seeds_shape() -> Vec<Vec<u8>> {
    let texts = [
        "schema = 1\nvcpus = 2\nmemory_mib = 2048\n",
        "schema = 1\nvcpus = 512\nmemory_mib = 524288\nmodel_disks = 8\nsimulator_disk = false\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

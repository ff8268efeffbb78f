//! Golden arguments: every word that QEMU is told, for each kind of machine, way of booting and QEMU release.

use super::*;
use crate::machine::{HugePages, Placement, Platform};
use crate::rundir::RunDir;
use crate::samples::{self, domain, model};
use crate::settings::{Firmware, Settings};
use measure::Boot;
use measure::shape::QemuVersion;

fn settings(boot: Boot) -> Settings {
    Settings {
        boot,
        models: vec![model()],
        simulated_platform: (boot == Boot::Disk).then(|| "/pki".into()),
        ..samples::settings()
    }
}

/// A trust domain with as many accelerators, given one configuration.
fn trusted(gpus: u8, nvswitches: u8) -> Settings {
    Settings {
        platform: Platform::Tdx(domain(gpus, nvswitches)),
        firmware: Firmware { code: "/ovmf/OVMF.fd".into(), vars: None },
        static_config: b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n".to_vec(),
        ..settings(Boot::Direct)
    }
}

fn words(settings: &Settings) -> Vec<String> {
    argv(&Machine::new(settings, &RunDir::fixed("/run,1", "/tmp/short")))
}

/// One option a line.
fn rendered(settings: &Settings) -> String {
    let mut text = String::new();
    for arg in words(settings) {
        if arg.starts_with('-') && !text.is_empty() {
            text.push('\n');
        } else if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&arg);
    }
    text.push('\n');
    text
}

#[test]
fn a_direct_boot_has_golden_arguments() {
    assert_eq!(rendered(&settings(Boot::Direct)), include_str!("../../golden/direct-qemu-10.0.txt"));
}

#[test]
fn a_disk_boot_with_a_simulator_has_golden_arguments() {
    assert_eq!(rendered(&settings(Boot::Disk)), include_str!("../../golden/disk-qemu-10.0.txt"));
}

#[test]
fn a_trust_domain_has_golden_arguments_for_each_release_of_qemu() {
    let golden = [
        (QemuVersion::V10_1, include_str!("../../golden/tdx-qemu-10.1.txt")),
        (QemuVersion::V10_2, include_str!("../../golden/tdx-qemu-10.2.txt")),
        (QemuVersion::V11_1, include_str!("../../golden/tdx-qemu-11.1.txt")),
    ];
    for (version, golden) in golden {
        let mut settings = trusted(1, 0);
        let Platform::Tdx(domain) = &mut settings.platform else { unreachable!() };
        domain.qemu = version;
        assert_eq!(rendered(&settings), golden, "{version}");
    }
}

/// A whole board of GPUs and switches, a terabyte in huge pages of two nodes: no release of QEMU is told otherwise.
#[test]
fn a_whole_board_has_golden_arguments_whatever_the_release_of_qemu() {
    for version in [QemuVersion::V10_1, QemuVersion::V10_2, QemuVersion::V11_1] {
        assert_eq!(rendered(&board(version)), include_str!("../../golden/tdx-full.txt"), "{version}");
    }
}

fn board(version: QemuVersion) -> Settings {
    let mut settings = trusted(8, 4);
    let Platform::Tdx(domain) = &mut settings.platform else { unreachable!() };
    domain.qemu = version;
    domain.quotes = crate::machine::QuoteService::Unix("/run/qgs, 1/socket".into());
    domain.vsock = Some(Vsock::VhostUser { socket: "/run/vsock,1".into() });
    settings.memory_mib = 1024 * 1024;
    settings.vcpus = 4;
    settings.placement =
        Placement { cpus: vec![4, 5, 6, 7], nodes: vec![0, 1], hugepages: Some(HugePages::Giga1) };
    settings
}

#[test]
fn mrconfigid_is_that_of_the_static_configuration() {
    let settings = trusted(0, 0);
    let object = words(&settings).into_iter().find(|word| word.contains("tdx-guest")).unwrap();
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    use base64::Engine;
    let given = base64::engine::general_purpose::STANDARD.decode(object["mrconfigid"].as_str().unwrap());
    assert_eq!(given.unwrap(), crate::handoff::Expected::of(&settings).mrconfigid);
}

#[test]
fn the_devices_are_those_of_the_predicted_shape() {
    let mut machines = Vec::new();
    for (models, boot) in [(0, Boot::Direct), (1, Boot::Disk), (8, Boot::Disk)] {
        let mut settings = settings(boot);
        settings.models = vec![model(); models];
        machines.push(settings);
    }
    machines.extend((0..=8).map(|gpus| trusted(gpus, gpus / 2)));
    let mut silent = trusted(0, 0);
    let Platform::Tdx(domain) = &mut silent.platform else { unreachable!() };
    domain.vsock = None;
    machines.push(silent);
    for settings in machines {
        // What lies behind a root port is not on the root bus.
        let on_root = |arg: &String| arg.contains("bus=pcie.0");
        let slot = |arg: &String| {
            let digits = arg.split("addr=0x").nth(1)?.get(..2)?;
            u8::from_str_radix(digits, 16).ok()
        };
        let args: Vec<String> = words(&settings).into_iter().filter(on_root).collect();
        // The host bridge and the LPC bridge come with the machine.
        let mut slots: Vec<u8> = args.iter().filter_map(slot).chain([0, slot::LPC]).collect();
        slots.sort_unstable();
        assert_eq!(slots, settings.shape().occupied_slots((&settings.platform).into()));
    }
}

#[test]
fn only_a_guest_that_calls_peers_has_a_way_out() {
    let mut settings = settings(Boot::Direct);
    let netdev =
        |settings: &Settings| words(settings).into_iter().find(|arg| arg.starts_with("user,id=net")).unwrap();
    assert!(netdev(&settings).contains(",restrict=on,"));
    settings.runtime.dial.push("10.0.2.2:8443".into());
    assert!(netdev(&settings).contains(",restrict=off,"));
}

#[test]
fn serials_fit_virtio_blk() {
    let mut settings = settings(Boot::Disk);
    settings.models = vec![model(); 8];
    let machine = Machine::new(&settings, &RunDir::fixed("/run", "/tmp/short"));
    for disk in machine.disks {
        assert!(disk.serial.len() <= 20, "{} is longer than virtio-blk's 20 bytes", disk.serial);
    }
}

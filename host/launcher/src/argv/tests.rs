//! Golden arguments: every word that QEMU is told, for each way of booting.

use super::*;
use crate::machine::{BootMethod, Platform, Shape};
use crate::rundir::RunDir;
use crate::settings::{Firmware, Image, Model, Settings};
use protocol::config::{ModelPin, RuntimeConfig};

fn settings(boot: BootMethod) -> Settings {
    let pin = ModelPin { name: "m".into(), root: "ab".repeat(32), data_blocks: 3 };
    Settings {
        platform: Platform::Emulated,
        boot,
        image: Image { uki: "/image/uki.efi".into(), disk: Some("/image/disk.raw".into()) },
        firmware: Firmware { code: "/ovmf/code.fd".into(), vars: "/ovmf/vars.fd".into() },
        shape: Shape { vcpus: 2, memory_mib: 2048 },
        models: vec![Model { image: "/models/a, b.img".into(), pin }],
        static_config: Vec::new(),
        runtime: RuntimeConfig { schema: 1, address: "10.0.2.15/24".into(), gateway: None },
        listen: "127.0.0.1:0".parse().unwrap(),
        simulated_platform: (boot == BootMethod::Disk).then(|| "/pki".into()),
        work_dir: "/run,1".into(),
    }
}

/// One option a line.
fn rendered(boot: BootMethod) -> String {
    let settings = settings(boot);
    let args = argv(&Machine::new(&settings, &RunDir::fixed("/run,1", "/tmp/short")));
    let mut text = String::new();
    for arg in args {
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
    assert_eq!(rendered(BootMethod::Direct), include_str!("../../golden/direct-qemu-10.0.txt"));
}

#[test]
fn a_disk_boot_with_a_simulator_has_golden_arguments() {
    assert_eq!(rendered(BootMethod::Disk), include_str!("../../golden/disk-qemu-10.0.txt"));
}

#[test]
fn every_device_has_a_slot_of_its_own() {
    let mut settings = settings(BootMethod::Disk);
    settings.models = vec![settings.models[0].clone(); 8];
    let args = argv(&Machine::new(&settings, &RunDir::fixed("/run", "/tmp/short")));
    let mut slots: Vec<&str> = args.iter().filter_map(|a| a.split("addr=").nth(1)).collect();
    let count = slots.len();
    assert_eq!(count, 3 + 3 + 8, "{slots:?}");
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), count, "a slot is used twice");
}

#[test]
fn serials_fit_virtio_blk() {
    let mut settings = settings(BootMethod::Disk);
    settings.models = vec![settings.models[0].clone(); 8];
    let machine = Machine::new(&settings, &RunDir::fixed("/run", "/tmp/short"));
    for disk in machine.disks {
        assert!(disk.serial.len() <= 20, "{} is longer than virtio-blk's 20 bytes", disk.serial);
    }
}

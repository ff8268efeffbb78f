//! Golden arguments: every word that QEMU is told, for each way of booting.

use super::*;
use crate::machine::Platform;
use crate::rundir::RunDir;
use crate::settings::{Firmware, Image, Model, Settings};
use measure::Boot;
use protocol::config::{ModelPin, RuntimeConfig};

fn settings(boot: Boot) -> Settings {
    let pin = ModelPin { name: "m".into(), root: "ab".repeat(32), data_blocks: 3 };
    Settings {
        platform: Platform::Emulated,
        boot,
        image: Image { uki: "/image/uki.efi".into(), disk: Some("/image/disk.raw".into()) },
        firmware: Firmware { code: "/ovmf/code.fd".into(), vars: "/ovmf/vars.fd".into() },
        vcpus: 2,
        memory_mib: 2048,
        models: vec![Model { image: "/models/a, b.img".into(), pin }],
        static_config: Vec::new(),
        runtime: RuntimeConfig {
            schema: 1,
            address: "10.0.2.15/24".into(),
            gateway: None,
            dial: vec![],
            ledger: vec![],
            mirror: None,
        },
        files: Vec::new(),
        listen: "127.0.0.1:0".parse().unwrap(),
        simulated_platform: (boot == Boot::Disk).then(|| "/pki".into()),
        work_dir: "/run,1".into(),
    }
}

/// One option a line.
fn rendered(boot: Boot) -> String {
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
    assert_eq!(rendered(Boot::Direct), include_str!("../../golden/direct-qemu-10.0.txt"));
}

#[test]
fn a_disk_boot_with_a_simulator_has_golden_arguments() {
    assert_eq!(rendered(Boot::Disk), include_str!("../../golden/disk-qemu-10.0.txt"));
}

#[test]
fn the_devices_are_those_of_the_predicted_shape() {
    for (models, boot) in [(0, Boot::Direct), (1, Boot::Disk), (8, Boot::Disk)] {
        let mut settings = settings(boot);
        settings.models = vec![settings.models[0].clone(); models];
        let args = argv(&Machine::new(&settings, &RunDir::fixed("/run", "/tmp/short")));
        let slot = |arg: &String| {
            let digits = arg.split("addr=0x").nth(1)?.get(..2)?;
            u8::from_str_radix(digits, 16).ok()
        };
        // The host bridge and the LPC bridge come with the machine.
        let mut slots: Vec<u8> = args.iter().filter_map(slot).chain([0, slot::LPC]).collect();
        slots.sort_unstable();
        assert_eq!(slots, settings.shape().occupied_slots(settings.platform.into()));
    }
}

#[test]
fn only_a_guest_that_calls_peers_has_a_way_out() {
    let mut settings = settings(Boot::Direct);
    let netdev = |settings: &Settings| {
        let args = argv(&Machine::new(settings, &RunDir::fixed("/run", "/tmp/short")));
        args.into_iter().find(|arg| arg.starts_with("user,id=net")).unwrap()
    };
    assert!(netdev(&settings).contains(",restrict=on,"));
    settings.runtime.dial.push("10.0.2.2:8443".into());
    assert!(netdev(&settings).contains(",restrict=off,"));
}

#[test]
fn serials_fit_virtio_blk() {
    let mut settings = settings(Boot::Disk);
    settings.models = vec![settings.models[0].clone(); 8];
    let machine = Machine::new(&settings, &RunDir::fixed("/run", "/tmp/short"));
    for disk in machine.disks {
        assert!(disk.serial.len() <= 20, "{} is longer than virtio-blk's 20 bytes", disk.serial);
    }
}

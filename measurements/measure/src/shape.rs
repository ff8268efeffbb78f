//! The shape of a machine, and the closed description of the machine that has it.
//!
//! One shape, two readers: the launcher makes QEMU's arguments from it, the prediction makes the ACPI tables and boot
//! variables from it. Whatever isn't here can't vary. The whole command line is in docs/reference/measured-boot.md
//! ("Machine facts").
//!
//! ```text
//! pcie.0  00 host bridge  02 virtio-serial  03 virtio-net  04 virtio-rng
//!         05 root  06 handoff  07 simulator  08-0f models  1f LPC bridge
//! ```

use crate::error::MeasureError;
use serde::{Deserialize, Serialize};

/// Only this schema is read.
const SCHEMA: u32 = 1;
/// Slots 0x08 to 0x0f.
const MAX_MODEL_DISKS: u8 = 8;
/// Above this many, APIC identifiers no longer fit the tables' short form on every topology.
const MAX_VCPUS: u32 = 512;
const MIN_MEMORY_MIB: u64 = 256;
/// 6 TiB, the largest TD of today's hosts.
const MAX_MEMORY_MIB: u64 = 6 * 1024 * 1024;
/// The emulated CPU has 40 address bits and the firmware keeps 64-bit BARs from 768 GiB on.
const MAX_EMULATED_MEMORY_MIB: u64 = 512 * 1024;

/// QEMU machine of the emulated platform, versioned because unversioned names change meaning with each release.
pub const EMULATED_MACHINE: &str =
    "pc-q35-10.0,smm=off,hpet=off,pic=off,vmport=off,smbus=off,sata=off,usb=off,i8042=off";
/// CPU of the emulated platform. The address width decides where the firmware puts the 64-bit PCI window.
pub const EMULATED_CPU: &str = "max,la57=off,phys-bits=40";
/// `-global` settings: no ACPI PCI hotplug, no S3, no S4.
pub const GLOBALS: [&str; 3] =
    ["ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off", "ICH9-LPC.disable_s3=1", "ICH9-LPC.disable_s4=1"];
/// TPM device of the emulated platform, without its back end.
pub const EMULATED_TPM: &str = "tpm-crb,ppi=off";
/// MAC address of the network card.
pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x43, 0x48, 0x52];

/// PCI slots of the root bus, function 0 each.
pub mod slot {
    /// virtio-serial, which carries the progress port.
    pub const SERIAL: u8 = 0x02;
    /// virtio-net.
    pub const NET: u8 = 0x03;
    /// virtio-rng.
    pub const RNG: u8 = 0x04;
    /// Root disk.
    pub const ROOT_DISK: u8 = 0x05;
    /// Handoff disk.
    pub const HANDOFF_DISK: u8 = 0x06;
    /// Simulated platform's disk.
    pub const SIMULATOR_DISK: u8 = 0x07;
    /// First model disk.
    pub const MODEL_DISKS: u8 = 0x08;
    /// The chipset's LPC bridge.
    pub const LPC: u8 = 0x1f;
}

/// Where measurements are rooted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// An Intel TDX trust domain.
    Tdx,
    /// QEMU in software with an emulated TPM, whose PCRs stand in for the registers.
    Emulated,
}

/// How the firmware gets the UKI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boot {
    /// The VMM hands it over (`-kernel`).
    Direct,
    /// The firmware finds it in the root disk's ESP.
    Disk,
}

/// What may differ between two launches of one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    schema: u32,
    /// Virtual CPUs: one socket, one thread a core. 1 to 512.
    pub vcpus: u32,
    /// Memory in MiB. 256 to 6 Mi.
    pub memory_mib: u64,
    /// Model disks, 0 to 8.
    #[serde(default = "one")]
    pub model_disks: u8,
    /// Whether the simulated platform's disk is attached (emulated platform only).
    #[serde(default = "yes")]
    pub simulator_disk: bool,
}

fn one() -> u8 {
    1
}

fn yes() -> bool {
    true
}

impl Shape {
    /// A machine of this size with the launcher's defaults for all else.
    pub fn new(vcpus: u32, memory_mib: u64) -> Self {
        Shape { schema: SCHEMA, vcpus, memory_mib, model_disks: one(), simulator_disk: yes() }
    }

    /// Reads a shape file (TOML, `schema = 1`). Unknown fields and impossible sizes are refused.
    pub fn from_toml(text: &str) -> Result<Self, MeasureError> {
        let shape: Shape = toml::from_str(text)
            .map_err(|e| MeasureError::Shape { fault: e.to_string().trim_end().to_owned() })?;
        if shape.schema != SCHEMA {
            let fault = format!("schema is {}, expected {SCHEMA}", shape.schema);
            return Err(MeasureError::Shape { fault });
        }
        shape.check(Platform::Tdx)?;
        Ok(shape)
    }

    /// Checks the sizes against what the platform can have.
    pub fn check(&self, platform: Platform) -> Result<(), MeasureError> {
        let most = match platform {
            Platform::Tdx => MAX_MEMORY_MIB,
            Platform::Emulated => MAX_EMULATED_MEMORY_MIB,
        };
        let bounds = [
            ("vcpus", u64::from(self.vcpus), 1, u64::from(MAX_VCPUS)),
            ("memory_mib", self.memory_mib, MIN_MEMORY_MIB, most),
            ("model_disks", u64::from(self.model_disks), 0, u64::from(MAX_MODEL_DISKS)),
        ];
        for (field, found, least, most) in bounds {
            if found < least || found > most {
                return Err(MeasureError::Shape {
                    fault: format!("{field} is {found}, expected {least} to {most}"),
                });
            }
        }
        Ok(())
    }

    /// Occupied slots of the root bus, ascending, host bridge and LPC bridge included.
    pub fn occupied_slots(&self, platform: Platform) -> Vec<u8> {
        let fixed = [0, slot::SERIAL, slot::NET, slot::RNG, slot::ROOT_DISK, slot::HANDOFF_DISK];
        let simulator = self.simulator_disk && platform == Platform::Emulated;
        let models = slot::MODEL_DISKS..slot::MODEL_DISKS + self.model_disks.min(MAX_MODEL_DISKS);
        let simulator = simulator.then_some(slot::SIMULATOR_DISK);
        fixed.into_iter().chain(simulator).chain(models).chain([slot::LPC]).collect()
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }

    /// Bytes of memory below 4 GiB: q35 splits at 2 GiB once there are 2.75 GiB or more (QEMU, pc_q35.c).
    pub fn low_memory_bytes(&self) -> u64 {
        let total = self.memory_bytes();
        if total >= 0xb000_0000 { 0x8000_0000 } else { total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_minimal_shape_has_the_launchers_defaults() {
        let shape = Shape::from_toml("schema = 1\nvcpus = 2\nmemory_mib = 2048\n").unwrap();
        assert_eq!(shape, Shape::new(2, 2048));
        assert_eq!(shape.occupied_slots(Platform::Emulated), [0, 2, 3, 4, 5, 6, 7, 8, 0x1f]);
        assert_eq!(shape.occupied_slots(Platform::Tdx), [0, 2, 3, 4, 5, 6, 8, 0x1f]);
    }

    #[test]
    fn unknown_fields_other_schemas_and_impossible_sizes_are_refused() {
        for (text, words) in [
            ("schema = 1\nvcpus = 2\nmemory_mib = 2048\nmemory = 1\n", "memory"),
            ("schema = 2\nvcpus = 2\nmemory_mib = 2048\n", "schema is 2"),
            ("schema = 1\nvcpus = 0\nmemory_mib = 2048\n", "vcpus is 0"),
            ("schema = 1\nvcpus = 2\nmemory_mib = 99999999\n", "memory_mib is 99999999"),
            ("schema = 1\nvcpus = 2\nmemory_mib = 2048\nmodel_disks = 9\n", "model_disks is 9"),
        ] {
            let error = Shape::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn low_memory_splits_at_two_gibibytes() {
        assert_eq!(Shape::new(1, 2815).low_memory_bytes(), 2815 << 20);
        assert_eq!(Shape::new(1, 2816).low_memory_bytes(), 0x8000_0000);
    }

    proptest! {
        #[test]
        fn hostile_shapes_never_panic(text in "[a-z_ =0-9\n\"]{0,80}") {
            let _ = Shape::from_toml(&text);
        }
    }
}

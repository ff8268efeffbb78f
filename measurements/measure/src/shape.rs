//! The shape of a machine, and the closed description of the machine that has it.
//!
//! One shape, two readers: the launcher makes QEMU's arguments from it, the prediction makes the ACPI tables and boot
//! variables from it. Whatever isn't here can't vary. The whole command line is in docs/reference/measured-boot.md
//! ("Machine facts").
//!
//! ```text
//! pcie.0  00 host bridge  02 virtio-serial  03 virtio-net  04 virtio-rng  05 root  06 handoff
//!         07 simulator (emulated) or vsock (TDX)  08-0f models
//!         10-17 root ports of GPUs  18-1b of NVSwitches  1c-1e more virtio-net  1f LPC bridge
//! ```

mod machine;
mod versions;

use crate::error::MeasureError;
use serde::{Deserialize, Serialize};

pub use machine::{
    EMULATED_CPU, EMULATED_MACHINE, EMULATED_TPM, GLOBALS, MAC, ROOT_PORT, TDX_CPU, TDX_GLOBALS, TDX_MACHINE,
    TDX_PCI_HOLE64, slot,
};
pub use versions::{Gpu, QemuVersion, Validation};

/// Only this schema is read.
const SCHEMA: u32 = 1;
/// Slots 0x08 to 0x0f.
const MAX_MODEL_DISKS: u8 = 8;
const MAX_GPUS: u8 = 8;
const MAX_NVSWITCHES: u8 = 4;
const MAX_NICS: u8 = 4;
/// What hosts have today.
const MAX_VCPUS: u32 = 512;
const MIN_MEMORY_MIB: u64 = 256;
/// Below, the firmware of a trust domain has little room beside the image.
const MIN_TDX_MEMORY_MIB: u64 = 1024;
/// 6 TiB, the largest TD of today's hosts.
const MAX_MEMORY_MIB: u64 = 6 * 1024 * 1024;
/// The emulated CPU has 40 address bits and the firmware keeps 64-bit BARs from 768 GiB on.
const MAX_EMULATED_MEMORY_MIB: u64 = 512 * 1024;
/// [`TDX_PCI_HOLE64`] fits the firmware's window from here on.
const MIN_PHYS_BITS: u8 = 46;
const MAX_PHYS_BITS: u8 = 52;

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
    /// Memory in MiB. 1024 (emulated: 256) to 6 Mi (emulated: 512 Ki).
    pub memory_mib: u64,
    /// Model disks, 0 to 8.
    #[serde(default = "one")]
    pub model_disks: u8,
    /// Whether the simulated platform's disk is attached (emulated platform only).
    #[serde(default = "yes")]
    pub simulator_disk: bool,
    /// Passed-through GPUs, each behind a root port, 0 to 8 (TDX only).
    #[serde(default)]
    pub gpus: u8,
    /// Their model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// Passed-through NVSwitches, each behind a root port, 0 to 4; none without GPUs.
    #[serde(default)]
    pub nvswitches: u8,
    /// Network cards, 1 to 4 (emulated: 1).
    #[serde(default = "one")]
    pub nics: u8,
    /// Whether there is a vsock device (TDX only).
    #[serde(default = "yes")]
    pub vsock: bool,
    /// Physical address bits that the firmware works with, 46 to 52: the host's, but at most 46 without five-level paging
    /// (TDX only; the emulated machine has 40).
    #[serde(default = "phys_bits")]
    pub phys_bits: u8,
    /// QEMU release (TDX only; the emulated machine runs on the locked one).
    #[serde(default = "qemu")]
    pub qemu: QemuVersion,
}

fn one() -> u8 {
    1
}

fn yes() -> bool {
    true
}

fn phys_bits() -> u8 {
    MIN_PHYS_BITS
}

fn qemu() -> QemuVersion {
    QemuVersion::V10_2
}

/// What sits on a slot of the root bus, in a machine that the launcher makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// The chipset's host bridge or LPC bridge.
    Chipset,
    /// virtio-serial.
    Serial,
    /// A network card, by number.
    Nic(u8),
    /// virtio-rng.
    Rng,
    /// Root disk.
    RootDisk,
    /// Handoff disk.
    HandoffDisk,
    /// Simulated platform's disk.
    SimulatorDisk,
    /// vsock.
    Vsock,
    /// A model disk, by number.
    ModelDisk(u8),
    /// Root port with a GPU behind it, by number.
    GpuPort(u8),
    /// Root port with an NVSwitch behind it, by number.
    NvSwitchPort(u8),
}

impl Occupant {
    /// Whether it is a root port with a device in its slot 0.
    pub fn is_root_port(self) -> bool {
        matches!(self, Occupant::GpuPort(_) | Occupant::NvSwitchPort(_))
    }
}

impl Shape {
    /// A machine of this size with the launcher's defaults for all else.
    pub fn new(vcpus: u32, memory_mib: u64) -> Self {
        Shape {
            schema: SCHEMA,
            vcpus,
            memory_mib,
            model_disks: one(),
            simulator_disk: yes(),
            gpus: 0,
            gpu: None,
            nvswitches: 0,
            nics: one(),
            vsock: yes(),
            phys_bits: phys_bits(),
            qemu: qemu(),
        }
    }

    /// Reads a shape file (TOML, `schema = 1`). Unknown fields are refused, and sizes that no platform can have;
    /// [`check`](Self::check) holds the rest against one platform.
    pub fn from_toml(text: &str) -> Result<Self, MeasureError> {
        let shape: Shape = toml::from_str(text).map_err(|e| fault(e.to_string().trim_end().to_owned()))?;
        if shape.schema != SCHEMA {
            return Err(fault(format!("schema is {}, expected {SCHEMA}", shape.schema)));
        }
        shape.check_memory(MIN_MEMORY_MIB, MAX_MEMORY_MIB)?;
        shape.check_counts()?;
        Ok(shape)
    }

    /// Checks the sizes against what the platform can have.
    pub fn check(&self, platform: Platform) -> Result<(), MeasureError> {
        self.check_counts()?;
        match platform {
            Platform::Tdx => self.check_memory(MIN_TDX_MEMORY_MIB, MAX_MEMORY_MIB),
            Platform::Emulated => {
                self.check_memory(MIN_MEMORY_MIB, MAX_EMULATED_MEMORY_MIB)?;
                within("gpus (emulated platform)", self.gpus.into(), 0, 0)?;
                within("nics (emulated platform)", self.nics.into(), 1, 1)
            }
        }
    }

    fn check_memory(&self, least: u64, most: u64) -> Result<(), MeasureError> {
        within("memory_mib", self.memory_mib, least, most)
    }

    fn check_counts(&self) -> Result<(), MeasureError> {
        within("vcpus", self.vcpus.into(), 1, MAX_VCPUS.into())?;
        within("model_disks", self.model_disks.into(), 0, MAX_MODEL_DISKS.into())?;
        within("gpus", self.gpus.into(), 0, MAX_GPUS.into())?;
        within("nics", self.nics.into(), 1, MAX_NICS.into())?;
        within("phys_bits", self.phys_bits.into(), MIN_PHYS_BITS.into(), MAX_PHYS_BITS.into())?;
        if self.gpus == 0 {
            within("nvswitches (without gpus)", self.nvswitches.into(), 0, 0)?;
            if let Some(gpu) = self.gpu {
                return Err(fault(format!("gpu is \"{}\", but gpus is 0: say how many", gpu.name())));
            }
        }
        within("nvswitches", self.nvswitches.into(), 0, MAX_NVSWITCHES.into())
    }

    /// What sits where on the root bus, ascending; function 0 of each slot.
    pub fn root_bus(&self, platform: Platform) -> Vec<(u8, Occupant)> {
        let tdx = platform == Platform::Tdx;
        let run = |first: u8, count: u8, most: u8, occupant: fn(u8) -> Occupant| {
            (0..count.min(most)).map(move |i| (first + i, occupant(i)))
        };
        let mut bus = vec![
            (0, Occupant::Chipset),
            (slot::SERIAL, Occupant::Serial),
            (slot::NET, Occupant::Nic(0)),
            (slot::RNG, Occupant::Rng),
            (slot::ROOT_DISK, Occupant::RootDisk),
            (slot::HANDOFF_DISK, Occupant::HandoffDisk),
        ];
        bus.extend((!tdx && self.simulator_disk).then_some((slot::SIMULATOR_DISK, Occupant::SimulatorDisk)));
        bus.extend((tdx && self.vsock).then_some((slot::VSOCK, Occupant::Vsock)));
        bus.extend(run(slot::MODEL_DISKS, self.model_disks, MAX_MODEL_DISKS, Occupant::ModelDisk));
        if tdx {
            bus.extend(run(slot::GPU_PORTS, self.gpus, MAX_GPUS, Occupant::GpuPort));
            bus.extend(run(slot::NVSWITCH_PORTS, self.nvswitches, MAX_NVSWITCHES, Occupant::NvSwitchPort));
            let more = self.nics.saturating_sub(1);
            bus.extend(run(slot::MORE_NETS, more, MAX_NICS - 1, |i| Occupant::Nic(i + 1)));
        }
        bus.push((slot::LPC, Occupant::Chipset));
        bus
    }

    /// Occupied slots of the root bus, ascending, host bridge and LPC bridge included.
    pub fn occupied_slots(&self, platform: Platform) -> Vec<u8> {
        self.root_bus(platform).into_iter().map(|(slot, _)| slot).collect()
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

fn fault(fault: String) -> MeasureError {
    MeasureError::Shape { fault }
}

fn within(field: &str, found: u64, least: u64, most: u64) -> Result<(), MeasureError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
    Err(fault(format!("{field} is {found}, expected {expected}")))
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
        assert_eq!(shape.occupied_slots(Platform::Tdx), [0, 2, 3, 4, 5, 6, 7, 8, 0x1f]);
        assert!(shape.root_bus(Platform::Tdx).contains(&(7, Occupant::Vsock)));
        assert!(shape.root_bus(Platform::Emulated).contains(&(7, Occupant::SimulatorDisk)));
    }

    #[test]
    fn the_fullest_shape_uses_each_slot_once() {
        let text = "schema = 1\nvcpus = 512\nmemory_mib = 6291456\nmodel_disks = 8\ngpus = 8\ngpu = \"h200\"\n\
                    nvswitches = 4\nnics = 4\nphys_bits = 52\nqemu = \"11.1\"\n";
        let shape = Shape::from_toml(text).unwrap();
        shape.check(Platform::Tdx).unwrap();
        let slots = shape.occupied_slots(Platform::Tdx);
        assert_eq!(slots, [0].into_iter().chain(2..=0x1f).collect::<Vec<_>>());
        let ports = shape.root_bus(Platform::Tdx).into_iter().filter(|(_, o)| o.is_root_port()).count();
        assert_eq!(ports, 12);
        let refused = shape.check(Platform::Emulated).unwrap_err().to_string();
        assert!(refused.contains("memory_mib is 6291456"), "{refused}");
    }

    #[test]
    fn a_shape_survives_being_written() {
        let mut shape = Shape::new(3, 4096);
        (shape.gpus, shape.gpu, shape.qemu) = (1, Some(Gpu::H100), QemuVersion::V10_1);
        assert_eq!(Shape::from_toml(&toml::to_string(&shape).unwrap()).unwrap(), shape);
    }

    #[test]
    fn unknown_fields_other_schemas_and_impossible_sizes_are_refused() {
        for (fields, words) in [
            ("memory = 1", "unknown field `memory`"),
            ("vcpus = 0", "vcpus is 0, expected 1 to 512"),
            ("vcpus = 513", "vcpus is 513, expected 1 to 512"),
            ("memory_mib = 99999999", "memory_mib is 99999999, expected 256 to 6291456"),
            ("model_disks = 9", "model_disks is 9, expected 0 to 8"),
            ("gpus = 9", "gpus is 9, expected 0 to 8"),
            ("gpus = 300", "300"),
            ("nvswitches = 1", "nvswitches (without gpus) is 1, expected 0"),
            ("gpus = 8\nnvswitches = 5", "nvswitches is 5, expected 0 to 4"),
            ("gpu = \"h100\"", "gpu is \"h100\", but gpus is 0"),
            ("gpus = 1\ngpu = \"a100\"", "a100"),
            ("nics = 0", "nics is 0, expected 1 to 4"),
            ("phys_bits = 45", "phys_bits is 45, expected 46 to 52"),
            ("qemu = \"7.2\"", "7.2"),
            ("schema = 2", "schema is 2, expected 1"),
        ] {
            let needed = ["schema = 1", "vcpus = 2", "memory_mib = 2048"];
            let given = |line: &&str| !fields.starts_with(&line[..line.find('=').unwrap_or(0)]);
            let rest: Vec<_> = needed.into_iter().filter(given).collect();
            let error =
                Shape::from_toml(&format!("{fields}\n{}\n", rest.join("\n"))).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn platforms_have_bounds_of_their_own() {
        let refused = |shape: &Shape, platform| shape.check(platform).unwrap_err().to_string();
        let small = Shape::new(1, 512);
        small.check(Platform::Emulated).unwrap();
        assert!(refused(&small, Platform::Tdx).contains("memory_mib is 512, expected 1024 to 6291456"));
        let mut accelerated = Shape::new(1, 2048);
        accelerated.gpus = 1;
        accelerated.check(Platform::Tdx).unwrap();
        assert!(
            refused(&accelerated, Platform::Emulated).contains("gpus (emulated platform) is 1, expected 0")
        );
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

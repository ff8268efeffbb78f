//! The machine that the tables describe: all that QEMU's generator looks at, and nothing else.
//!
//! More general than what [`Shape`] can say, so that the tables of machines that others launched come out as well.

use crate::shape::{Platform, QemuVersion, Shape, TDX_PCI_HOLE64, slot};

/// A q35 machine, after its firmware has placed the PCI devices. Its APIC identifiers are 0 to n-1 (one socket), its
/// devices are there from the start, and it has no NUMA nodes, IOMMU, expander buses, NVDIMMs or memory slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The release that makes the tables.
    pub qemu: QemuVersion,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// End of low memory, where the 32-bit PCI window begins.
    pub low_memory: u64,
    /// First and last byte of the 64-bit PCI window: see [`window64`] and [`window64_without_bars`].
    pub window64: (u64, u64),
    /// What the chipset has.
    pub chipset: Chipset,
    /// Functions of the root bus, ascending by address, bridges of the chipset included.
    pub root_bus: Vec<Function>,
}

/// Parts of the chipset that are seen in the tables. [`Chipset::default`] is q35's own default without a serial port and
/// a TPM, which is not what our machines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chipset {
    /// `hpet=`: event timer.
    pub hpet: bool,
    /// `i8042=`: keyboard and mouse controller.
    pub i8042: bool,
    /// `pic=`: interrupt controllers of the PC/AT. Seen from QEMU 9.2 on.
    pub pic: bool,
    /// `smm=`: system management mode, with a firmware that doesn't use it for CPU hotplug.
    pub smm: bool,
    /// S3, S4 (`ICH9-LPC.disable_s3=`, `disable_s4=`).
    pub sleep: [bool; 2],
    /// `ICH9-LPC.acpi-pci-hotplug-with-bridge-support=`.
    pub pci_hotplug: bool,
    /// ISA serial port COM1.
    pub serial: bool,
    /// TPM 2.0 with the CRB interface, without the physical presence interface.
    pub tpm: bool,
}

impl Default for Chipset {
    fn default() -> Self {
        Chipset {
            hpet: true,
            i8042: true,
            pic: true,
            smm: true,
            sleep: [true; 2],
            pci_hotplug: true,
            serial: false,
            tpm: false,
        }
    }
}

impl Chipset {
    /// What our launcher leaves on.
    const OURS: Chipset = Chipset {
        hpet: false,
        i8042: false,
        pic: false,
        smm: false,
        sleep: [false; 2],
        pci_hotplug: false,
        serial: true,
        tpm: false,
    };
}

/// A function of a PCI bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Slot, 0 to 31.
    pub slot: u8,
    /// Function, 0 to 7.
    pub function: u8,
    /// What the tables say about it beside its address.
    pub kind: Kind,
}

/// Kinds of functions, as far as the tables tell them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Anything that has an address only: virtio, SATA, SMBus, USB and so on.
    Endpoint,
    /// The chipset's ISA bridge.
    Lpc,
    /// A root port and what is behind it, ascending.
    RootPort {
        /// Its `hotplug=` property; it matters only with [`Chipset::pci_hotplug`].
        hotplug: bool,
        /// Functions of its bus.
        behind: Vec<Function>,
    },
}

impl Function {
    /// Function 0 of a slot, with an address only.
    pub fn endpoint(slot: u8) -> Self {
        Function { slot, function: 0, kind: Kind::Endpoint }
    }

    /// The ISA bridge, where q35 has it.
    pub fn lpc() -> Self {
        Function { slot: slot::LPC, function: 0, kind: Kind::Lpc }
    }

    /// A root port without hotplug, with one device behind it.
    pub fn root_port(slot: u8) -> Self {
        let kind = Kind::RootPort { hotplug: false, behind: vec![Function::endpoint(0)] };
        Function { slot, function: 0, kind }
    }

    /// Slot and function in one byte.
    pub(super) fn devfn(&self) -> u8 {
        self.slot << 3 | self.function
    }
}

/// Where OVMF puts 64-bit BARs with 40 address bits on the emulated machine: it wants the top eighth of the address space,
/// finds QEMU's reservation (of its AMD CPU) at the end of the first TiB there and steps down by one window
/// (`PlatformDynamicMmioWindow`).
const WINDOW64_BASE_40_BITS: u64 = 0xc0_0000_0000;
/// QEMU widens the window around the BARs to 32 GiB (`q35-pcihost.pci-hole64-size`).
const DEFAULT_PCI_HOLE64: u64 = 0x8_0000_0000;

/// The 64-bit window of a machine with 64-bit BARs: OVMF takes the top eighth of the address space and places the largest BAR
/// at its start (EDK2 `PlatformInitLib/MemDetect.c`, `PciBusDxe`); QEMU's window begins with the first BAR and has `hole` bytes
/// (`q35-pcihost.pci-hole64-size`), as long as the BARs don't need more.
///
/// `phys_bits` is taken for 36 to 52, which is what x86-64 has.
pub fn window64(phys_bits: u8, hole: u64) -> (u64, u64) {
    let base = 7u64 << (phys_bits.clamp(36, 52) - 3);
    (base, base.saturating_add(hole.saturating_sub(1)))
}

/// The window without any 64-bit BAR: it begins behind the memory above 4 GiB, at a whole GiB.
pub fn window64_without_bars(high_memory: u64, hole: u64) -> (u64, u64) {
    let base = (1u64 << 32).saturating_add(high_memory).checked_next_multiple_of(1 << 30).unwrap_or(u64::MAX);
    (base, base.saturating_add(hole.saturating_sub(1)))
}

impl Machine {
    /// The emulated machine of a shape that [`Shape::check`] let pass.
    pub fn emulated(shape: &Shape) -> Self {
        Machine {
            qemu: QemuVersion::V10_0,
            window64: (WINDOW64_BASE_40_BITS, WINDOW64_BASE_40_BITS + DEFAULT_PCI_HOLE64 - 1),
            chipset: Chipset { tpm: true, ..Chipset::OURS },
            ..Machine::of(shape, Platform::Emulated)
        }
    }

    /// The trust domain of a shape that [`Shape::check`] let pass.
    pub fn tdx(shape: &Shape) -> Self {
        Machine::of(shape, Platform::Tdx)
    }

    fn of(shape: &Shape, platform: Platform) -> Self {
        let root_bus = shape.root_bus(platform).into_iter().map(|(slot, occupant)| match occupant {
            port if port.is_root_port() => Function::root_port(slot),
            _ if slot == slot::LPC => Function::lpc(),
            _ => Function::endpoint(slot),
        });
        Machine {
            qemu: shape.qemu,
            vcpus: shape.vcpus,
            low_memory: shape.low_memory_bytes(),
            window64: window64(shape.phys_bits, TDX_PCI_HOLE64),
            chipset: Chipset::OURS,
            root_bus: root_bus.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Gpu;

    #[test]
    fn the_window_is_the_top_eighth_of_the_address_space() {
        assert_eq!(window64(46, 4 << 40), (0x3800_0000_0000, 0x3bff_ffff_ffff));
        assert_eq!(window64(46, TDX_PCI_HOLE64).1, (1 << 46) - 1);
        assert_eq!(window64(52, 1 << 30).0, 0xe_0000_0000_0000);
    }

    #[test]
    fn impossible_widths_and_holes_are_cut() {
        assert_eq!(window64(255, 0), window64(52, 0));
        assert_eq!(window64(0, u64::MAX).1, u64::MAX);
        assert_eq!(window64_without_bars(u64::MAX, u64::MAX), (u64::MAX, u64::MAX));
    }

    #[test]
    fn without_bars_the_window_follows_memory() {
        assert_eq!(window64_without_bars(0, 1 << 35).0, 1 << 32);
        assert_eq!(window64_without_bars(1, 1 << 35), (0x1_4000_0000, 0x9_3fff_ffff));
    }

    /// Each port takes its GPU's BARs, largest first, at the alignment of the largest.
    #[test]
    fn eight_gpus_of_each_model_fit_the_window() {
        for gpu in [Gpu::H100, Gpu::H200, Gpu::B200, Gpu::B300] {
            let largest = gpu.bars()[1];
            let port: u64 = gpu.bars().iter().sum();
            let all = 7 * port.next_multiple_of(largest) + port;
            assert!(all + (1 << 30) <= TDX_PCI_HOLE64, "{}", gpu.name());
        }
    }

    #[test]
    fn accelerators_sit_behind_root_ports() {
        let mut shape = Shape::new(1, 2048);
        (shape.gpus, shape.nvswitches) = (2, 1);
        let machine = Machine::tdx(&shape);
        let ports: Vec<_> = machine
            .root_bus
            .iter()
            .filter(|f| matches!(f.kind, Kind::RootPort { .. }))
            .map(|f| f.slot)
            .collect();
        assert_eq!(ports, [0x10, 0x11, 0x18]);
    }
}

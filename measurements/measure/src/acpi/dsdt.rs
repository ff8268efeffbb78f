//! The DSDT of q35 as our machine has it (QEMU `build_dsdt`, in its order).

use super::aml::*;
use super::{Config, cpus, resource};

/// Memory-mapped PCI configuration space, where OVMF puts it on q35.
pub(super) const MMCONFIG: (u32, u32) = (0xe000_0000, 0xefff_ffff);
/// The I/O APIC and what follows it lie above the 32-bit PCI window.
const WINDOW32_END: u32 = 0xfebf_ffff;
const GPE0_PORT: u16 = 0x620;
const TPM_CRB: u32 = 0xfed4_0000;

/// The AML of the table, without its header.
pub(super) fn dsdt(config: &Config) -> Term {
    join([
        debug_port(),
        host_bridge(),
        interrupt_routing(),
        scope("_GPE", [declare("_HID", string("ACPI0006"))]),
        cpus::cpus(config.vcpus),
        bridge_resources(config),
        scope("\\", [declare("_S5", package(4, [int(0), int(0), int(0), int(0)]))]),
        scope("\\_SB.PCI0", [fw_cfg()]),
        devices(config),
    ])
}

/// DBUG writes a value as text to port 0x402.
fn debug_port() -> Term {
    let body = [
        to_hex_string(arg(0), local(0)),
        to_buffer(local(0), local(0)),
        subtract(size_of(local(0)), int(1), local(1)),
        store(int(0), local(2)),
        repeat_while(
            less(local(2), local(1)),
            [store(deref(index(local(0), local(2))), name("DBGB")), increment(local(2))],
        ),
        store(int(0x0a), name("DBGB")),
    ];
    scope(
        "\\",
        [
            operation_region("DBG", Space::Io, 0x402, 1),
            field("DBG", Access::BytePreserve, [bits("DBGB", 8)]),
            method("DBUG", 1, body),
        ],
    )
}

fn host_bridge() -> Term {
    let bridge = device(
        "PCI0",
        [
            declare("_HID", eisa_id("PNP0A08")),
            declare("_CID", eisa_id("PNP0A03")),
            declare("_UID", int(0)),
            osc_method(),
            edsm_method(),
        ],
    );
    let (first, last) = MMCONFIG;
    // The one range that QEMU marks neither cacheable nor part of a window.
    let mmconfig = resources([resource::memory32(first, last)]);
    let dram = device("DRAC", [declare("_HID", string("PNP0C01")), declare("_CRS", mmconfig)]);
    scope("_SB", [bridge, dram])
}

/// _OSC (PCI Firmware 3.3, 4.5.1): the OS gets native hotplug, PME, AER and capability control.
fn osc_method() -> Term {
    let flag = |bit: u64| or(name("CDW1"), int(bit), name("CDW1"));
    let known = [
        create_dword_field(arg(3), 4, "CDW2"),
        create_dword_field(arg(3), 8, "CDW3"),
        store(name("CDW3"), local(0)),
        and(local(0), int(0x1f), local(0)),
        when(not(equal(arg(1), int(1))), [flag(0x08)]),
        when(not(equal(name("CDW3"), local(0))), [flag(0x10)]),
        store(local(0), name("CDW3")),
    ];
    let body = [
        create_dword_field(arg(3), 0, "CDW1"),
        when(equal(arg(0), uuid("33DB4D5B-1FF7-401C-9657-7441C03DD766")), known),
        otherwise([flag(4)]),
        give(arg(3)),
    ];
    method("_OSC", 4, body)
}

/// EDSM: the _DSM of endpoints that have an ACPI index (PCI Firmware 3.3, 4.6.7); ours have none.
fn edsm_method() -> Term {
    let functions = [
        store(buffer(&[0]), local(0)),
        when(not(equal(arg(0), uuid("E5C937D0-3553-4D7A-9117-EA4D19C3434D"))), [give(local(0))]),
        when(less(arg(1), int(2)), [give(local(0))]),
        store(int(0x81), index(local(0), int(0))),
        give(local(0)),
    ];
    let naming = [
        store(package(2, [int(0), string("")]), local(0)),
        store(deref(index(arg(4), int(0))), local(1)),
        store(local(1), index(local(0), int(0))),
        give(local(0)),
    ];
    let body = [when(equal(arg(2), int(0)), functions), when(equal(arg(2), int(7)), naming)];
    serialized_method("EDSM", 5, body)
}

fn interrupt_routing() -> Term {
    let pic = [declare("PICF", int(0)), method("_PIC", 1, [store(arg(0), name("PICF"))])].concat();
    let prt = [when(equal(name("PICF"), int(0)), [give(name("PRTP"))]), otherwise([give(name("PRTA"))])];
    let bridge = scope(
        "PCI0",
        [declare("PRTP", routing("LNK")), declare("PRTA", routing("GSI")), method("_PRT", 0, prt)],
    );
    let status = [when(and(int(0x80), arg(0), nowhere()), [give(int(0x09))]), give(int(0x0b))];
    let current = [
        declare("PRR0", resources([resource::interrupts(&[0])])),
        create_dword_field(name("PRR0"), 5, "PRRI"),
        store(and(arg(0), int(0x0f), nowhere()), name("PRRI")),
        give(name("PRR0")),
    ];
    let head = [bridge, method("IQST", 1, status), serialized_method("IQCR", 1, current)];
    let links = (0..8).map(link_device);
    let gsis = (0..8).map(gsi_device);
    [pic, scope("_SB", head.into_iter().chain(links).chain(gsis))].concat()
}

/// 32 slots times four pins. Slots 0-23 use links E to H in turn, 24 and 30 start at E, 25-29 and 31 use A to D.
fn routing(prefix: &str) -> Term {
    let mut routes = Vec::new();
    for slot in 0u8..32 {
        let (group, first) = match slot {
            0..=0x17 => (b'E', slot & 3),
            0x18 | 0x1e => (b'E', 0),
            _ => (b'A', 0),
        };
        for pin in 0u8..4 {
            let link = format!("{prefix}{}", char::from(group + (first + pin) % 4));
            let address = int(u64::from(slot) << 16 | 0xffff);
            routes.push(package(4, [address, int(pin.into()), name(&link), int(0)]));
        }
    }
    package(128, routes)
}

fn letter(i: u8) -> char {
    char::from(b'A' + i)
}

/// A PCI interrupt link that a PIRQ register steers.
fn link_device(i: u8) -> Term {
    let register = || name(&format!("PRQ{}", letter(i)));
    device(
        &format!("LNK{}", letter(i)),
        [
            declare("_HID", eisa_id("PNP0C0F")),
            declare("_UID", int(i.into())),
            declare("_PRS", resources([resource::interrupts(&[5, 10, 11])])),
            method("_STA", 0, [give(call("IQST", [register()]))]),
            method("_DIS", 0, [or(register(), int(0x80), register())]),
            method("_CRS", 0, [give(call("IQCR", [register()]))]),
            method("_SRS", 1, [create_dword_field(arg(0), 5, "PRRI"), store(name("PRRI"), register())]),
        ],
    )
}

/// An interrupt link that is wired to an I/O APIC pin.
fn gsi_device(i: u8) -> Term {
    let pin = 0x10 + u32::from(i);
    let wired = || resources([resource::interrupts(&[pin])]);
    device(
        &format!("GSI{}", letter(i)),
        [
            declare("_HID", eisa_id("PNP0C0F")),
            declare("_UID", int(pin.into())),
            declare("_PRS", wired()),
            declare("_CRS", wired()),
            method("_DIS", 0, []),
            method("_SRS", 1, []),
        ],
    )
}

/// PCI windows: the only part that depends on memory size and on where the firmware put the BARs.
fn bridge_resources(config: &Config) -> Term {
    let (mmconfig_first, mmconfig_last) = MMCONFIG;
    let mut windows = vec![
        resource::bus_numbers(0, 0xff),
        resource::io(0xcf8, 1, 8),
        resource::ports(0, 0xcf7),
        resource::ports(0xd00, 0xffff),
        resource::cacheable_memory32(0xa_0000, 0xb_ffff),
    ];
    // Low memory ends at 2.75 GiB at most, far below the configuration space.
    let low = u32::try_from(config.low_memory).unwrap_or(mmconfig_first - 1);
    windows.push(resource::memory32(low, mmconfig_first - 1));
    windows.push(resource::memory32(mmconfig_last + 1, WINDOW32_END));
    windows.push(resource::cacheable_memory64(config.window64.0, config.window64.1));
    let gpe = device(
        "GPE0",
        [
            declare("_HID", string("PNP0A06")),
            declare("_UID", string("GPE0 resources")),
            declare("_STA", int(0x0b)),
            declare("_CRS", resources([resource::io(GPE0_PORT, 1, 16)])),
        ],
    );
    scope("\\_SB.PCI0", [declare("_CRS", resources(windows)), gpe])
}

fn fw_cfg() -> Term {
    device(
        "FWCF",
        [
            declare("_HID", string("QEMU0002")),
            declare("_STA", int(0x0b)),
            declare("_CRS", resources([resource::io(0x510, 1, 12)])),
        ],
    )
}

fn devices(config: &Config) -> Term {
    let bus = config.slots.iter().map(|slot| {
        let address = declare("_ADR", int(u64::from(*slot) << 16));
        let inside = if *slot == crate::shape::slot::LPC { lpc_bridge() } else { Vec::new() };
        device(&format!("S{:02X}", slot << 3), [address, inside])
    });
    let mut body = vec![scope("PCI0", bus)];
    if config.tpm {
        body.push(tpm_device());
    }
    scope("\\_SB", body)
}

/// PIRQ registers, serial port and clock behind the LPC bridge.
fn lpc_bridge() -> Term {
    let pirq = |letters: std::ops::Range<u8>| join(letters.map(|i| bits(&format!("PRQ{}", letter(i)), 8)));
    let steering = field("PCI0.SF8.PIRQ", Access::BytePreserve, [pirq(0..4), skip(32), pirq(4..8)]);
    let serial = device(
        "COM1",
        [
            declare("_HID", eisa_id("PNP0501")),
            declare("_UID", int(1)),
            declare("_STA", int(0x0f)),
            declare("_CRS", resources([resource::io(0x3f8, 0, 8), resource::irq(4)])),
        ],
    );
    let clock = device(
        "RTC",
        [
            declare("_HID", eisa_id("PNP0B00")),
            declare("_CRS", resources([resource::io(0x70, 1, 8), resource::irq(8)])),
        ],
    );
    let registers = operation_region("PIRQ", Space::PciConfig, 0x60, 12);
    join([registers, scope("\\_SB", [steering]), serial, clock])
}

fn tpm_device() -> Term {
    device(
        "TPM",
        [
            declare("_HID", string("MSFT0101")),
            declare("_STR", string("TPM 2.0 Device")),
            declare("_CRS", resources([resource::memory32_fixed(TPM_CRB, 0x1000)])),
            declare("_STA", int(0x0f)),
            declare("_UID", int(1)),
        ],
    )
}

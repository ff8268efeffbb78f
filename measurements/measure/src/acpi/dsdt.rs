//! The DSDT of q35 as our machine has it (QEMU `build_dsdt`, in its order).

use super::aml::*;
use super::{Machine, bus, cpus, hotplug, resource};

/// Memory-mapped PCI configuration space, where OVMF puts it on q35.
pub(super) const MMCONFIG: (u32, u32) = (0xe000_0000, 0xefff_ffff);
/// The I/O APIC and what follows it lie above the 32-bit PCI window.
const WINDOW32_END: u32 = 0xfebf_ffff;
const GPE0_PORT: u16 = 0x620;
const TPM_CRB: u32 = 0xfed4_0000;

/// Registers of the event timer.
pub(super) const HPET: u32 = 0xfed0_0000;
const HPET_LENGTH: u32 = 0x400;

/// The AML of the table, without its header.
pub(super) fn dsdt(machine: &Machine) -> Term {
    let chipset = &machine.chipset;
    let selectors = hotplug::Selectors::new(machine);
    let optional = |there: bool, term: fn(&Machine) -> Term| if there { term(machine) } else { Term::new() };
    let hotplug_events = if chipset.pci_hotplug { hotplug::events(machine, &selectors) } else { Term::new() };
    join([
        debug_port(),
        host_bridge(hotplug::native(chipset)),
        optional(chipset.pci_hotplug, |_| hotplug::controller()),
        interrupt_routing(),
        optional(chipset.hpet, |_| event_timer()),
        scope("_GPE", [declare("_HID", string("ACPI0006"))]),
        cpus::cpus(machine.qemu, machine.vcpus),
        bridge_resources(machine),
        sleep_states(machine),
        scope("\\_SB.PCI0", [fw_cfg()]),
        devices(machine, &selectors),
        hotplug_events,
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

fn host_bridge(native_hotplug: bool) -> Term {
    let bridge = device(
        "PCI0",
        [
            declare("_HID", eisa_id("PNP0A08")),
            declare("_CID", eisa_id("PNP0A03")),
            declare("_UID", int(0)),
            osc_method(native_hotplug),
            edsm_method(),
        ],
    );
    let (first, last) = MMCONFIG;
    // The one range that QEMU marks neither cacheable nor part of a window.
    let mmconfig = resources([resource::memory32(first, last)]);
    let dram = device("DRAC", [declare("_HID", string("PNP0C01")), declare("_CRS", mmconfig)]);
    scope("_SB", [bridge, dram])
}

/// _OSC (PCI Firmware 3.3, 4.5.1): the OS gets PME, AER, capability control and, unless ACPI does it, hotplug.
fn osc_method(native_hotplug: bool) -> Term {
    let granted = if native_hotplug { 0x1f } else { 0x1e };
    let flag = |bit: u64| or(name("CDW1"), int(bit), name("CDW1"));
    let known = [
        create_dword_field(arg(3), 4, "CDW2"),
        create_dword_field(arg(3), 8, "CDW3"),
        store(name("CDW3"), local(0)),
        and(local(0), int(granted), local(0)),
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
    let functions = [hotplug::labeling_guard(), store(int(0x81), index(local(0), int(0))), give(local(0))];
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
fn bridge_resources(machine: &Machine) -> Term {
    let (mmconfig_first, mmconfig_last) = MMCONFIG;
    let mut windows = vec![
        resource::bus_numbers(0, 0xff),
        resource::io(0xcf8, 1, 8),
        resource::ports(0, 0xcf7),
        resource::ports(0xd00, 0xffff),
        resource::cacheable_memory32(0xa_0000, 0xb_ffff),
    ];
    // Low memory ends at 2.75 GiB at most, far below the configuration space.
    let low = u32::try_from(machine.low_memory).unwrap_or(mmconfig_first - 1);
    windows.push(resource::memory32(low, mmconfig_first - 1));
    windows.push(resource::memory32(mmconfig_last + 1, WINDOW32_END));
    windows.push(resource::cacheable_memory64(machine.window64.0, machine.window64.1));
    let gpe = device(
        "GPE0",
        [
            declare("_HID", string("PNP0A06")),
            declare("_UID", string("GPE0 resources")),
            declare("_STA", int(0x0b)),
            declare("_CRS", resources([resource::io(GPE0_PORT, 1, 16)])),
        ],
    );
    let mut body = vec![declare("_CRS", resources(windows)), gpe];
    body.extend(machine.chipset.pci_hotplug.then(hotplug::reserved_ports));
    scope("\\_SB.PCI0", body)
}

/// _S3, _S4, _S5: what to write into the power management register.
fn sleep_states(machine: &Machine) -> Term {
    let [s3, s4] = machine.chipset.sleep;
    let state = |there: bool, path: &str, value: u64| {
        let value = package(4, [int(value), int(value), int(0), int(0)]);
        if there { declare(path, value) } else { Term::new() }
    };
    scope("\\", [state(s3, "_S3", 1), state(s4, "_S4", 2), state(true, "_S5", 0)])
}

/// The HPET, present if its registers say so.
fn event_timer() -> Term {
    let absent = |condition| when(condition, [give(int(0))]);
    let status = [
        store(name("VEND"), local(0)),
        store(name("PRD"), local(1)),
        shift_right(local(0), int(16), local(0)),
        absent(either(equal(local(0), int(0)), equal(local(0), int(0xffff)))),
        absent(either(equal(local(1), int(0)), greater(local(1), int(100_000_000)))),
        give(int(0x0f)),
    ];
    let timer = device(
        "HPET",
        [
            declare("_HID", eisa_id("PNP0103")),
            declare("_UID", int(0)),
            operation_region("HPTM", Space::Memory, HPET.into(), HPET_LENGTH.into()),
            field("HPTM", Access::DwordLockPreserve, [bits("VEND", 32), bits("PRD", 32)]),
            method("_STA", 0, status),
            declare("_CRS", resources([resource::memory32_fixed(HPET, HPET_LENGTH, false)])),
        ],
    );
    scope("_SB", [timer])
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

fn devices(machine: &Machine, selectors: &hotplug::Selectors) -> Term {
    let mut body = vec![scope("PCI0", bus::devices(&machine.root_bus, machine, selectors))];
    body.extend(machine.chipset.tpm.then(tpm_device));
    scope("\\_SB", body)
}

fn tpm_device() -> Term {
    device(
        "TPM",
        [
            declare("_HID", string("MSFT0101")),
            declare("_STR", string("TPM 2.0 Device")),
            declare("_CRS", resources([resource::memory32_fixed(TPM_CRB, 0x1000, true)])),
            declare("_STA", int(0x0f)),
            declare("_UID", int(1)),
        ],
    )
}

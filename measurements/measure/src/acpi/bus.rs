//! Devices of the PCI buses in the DSDT (QEMU `build_append_pci_bus_devices` and the devices' own parts).

use super::aml::*;
use super::machine::{Function, Kind, Machine};
use super::{hotplug, resource};
use crate::shape::QemuVersion;

/// Name of a function: its slot and function in one byte.
pub(super) fn device_name(function: &Function) -> String {
    format!("S{:02X}", function.devfn())
}

/// Devices of a bus, recursively. `hotplug` hands out the hotplug selector of each bus that has one.
pub(super) fn devices(bus: &[Function], machine: &Machine, selectors: &hotplug::Selectors) -> Vec<Term> {
    bus.iter().map(|function| self::function(function, machine, selectors)).collect()
}

fn function(function: &Function, machine: &Machine, selectors: &hotplug::Selectors) -> Term {
    let at = u64::from(function.slot) << 16 | u64::from(function.function);
    let mut body = vec![declare("_ADR", int(at))];
    match &function.kind {
        Kind::Endpoint => {}
        Kind::Lpc => body.push(lpc_bridge(machine)),
        Kind::RootPort { behind, .. } => {
            body.extend(devices(behind, machine, selectors));
            if let Some(selector) = selectors.of(function) {
                body.push(hotplug::slots(selector, behind));
            }
        }
    }
    device(&device_name(function), body)
}

/// PIRQ registers and ISA devices behind the LPC bridge.
fn lpc_bridge(machine: &Machine) -> Term {
    let chipset = &machine.chipset;
    let letter = |i: u8| char::from(b'A' + i);
    let pirq = |letters: std::ops::Range<u8>| join(letters.map(|i| bits(&format!("PRQ{}", letter(i)), 8)));
    let steering = field("PCI0.SF8.PIRQ", Access::BytePreserve, [pirq(0..4), skip(32), pirq(4..8)]);
    let mut body = vec![operation_region("PIRQ", Space::PciConfig, 0x60, 12), scope("\\_SB", [steering])];
    if chipset.i8042 {
        body.push(keyboard_and_mouse());
    }
    if chipset.serial {
        body.push(serial_port(machine.qemu));
    }
    body.push(clock());
    join(body)
}

fn keyboard_and_mouse() -> Term {
    let ports = [resource::io(0x60, 1, 1), resource::io(0x64, 1, 1), resource::irq(1)];
    let keyboard = device(
        "KBD",
        [declare("_HID", eisa_id("PNP0303")), declare("_STA", int(0x0f)), declare("_CRS", resources(ports))],
    );
    let mouse = device(
        "MOU",
        [
            declare("_HID", eisa_id("PNP0F13")),
            declare("_STA", int(0x0f)),
            declare("_CRS", resources([resource::irq(12)])),
        ],
    );
    [keyboard, mouse].concat()
}

fn serial_port(qemu: QemuVersion) -> Term {
    let irq = if qemu >= QemuVersion::V11_1 { resource::shared_irq(4) } else { resource::irq(4) };
    device(
        "COM1",
        [
            declare("_HID", eisa_id("PNP0501")),
            declare("_UID", int(1)),
            declare("_STA", int(0x0f)),
            declare("_CRS", resources([resource::io(0x3f8, 0, 8), irq])),
        ],
    )
}

fn clock() -> Term {
    device(
        "RTC",
        [
            declare("_HID", eisa_id("PNP0B00")),
            declare("_CRS", resources([resource::io(0x70, 1, 8), resource::irq(8)])),
        ],
    )
}

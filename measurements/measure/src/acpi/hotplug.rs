//! ACPI PCI hotplug in the DSDT (QEMU `docs/specs/acpi_pci_hotplug`, `hw/acpi/pcihp.c`): our machines switch it off, those
//! of others have it, because q35 does by default.
//!
//! A bus with hotplug has a selector, which QEMU hands out while it walks the buses. The walk takes the bus that was made
//! last first, and devices are made in the order of their slots here.

use super::aml::*;
use super::bus::device_name;
use super::machine::{Chipset, Function, Kind};
use super::{Machine, resource};

const PORT: u16 = 0xcc0;
const PORTS: u8 = 0x18;
/// Device labeling interface (PCI Firmware 3.3, 4.6).
pub(super) const LABELING: &str = "E5C937D0-3553-4D7A-9117-EA4D19C3434D";

/// Selectors of the buses behind the root ports, by the port's address.
pub(super) struct Selectors(Vec<(u8, u64)>);

impl Selectors {
    pub(super) fn new(machine: &Machine) -> Self {
        let plugs = |f: &&Function| matches!(f.kind, Kind::RootPort { hotplug: true, .. });
        let ports = machine.root_bus.iter().rev().filter(plugs).map(Function::devfn);
        Selectors(if machine.chipset.pci_hotplug { ports.zip(0..).collect() } else { Vec::new() })
    }

    pub(super) fn of(&self, port: &Function) -> Option<u64> {
        self.0.iter().find(|(devfn, _)| *devfn == port.devfn()).map(|(_, selector)| *selector)
    }
}

/// The controller, and the methods that slots call.
pub(super) fn controller() -> Term {
    let registers = |region: &str, offset: u16, length: u64, fields: &[&str]| {
        let region_term = operation_region(region, Space::Io, (PORT + offset).into(), length);
        let fields = fields.iter().map(|name| bits(name, 32));
        [region_term, field(region, Access::DwordWriteZeros, fields)].concat()
    };
    let select = [acquire("BLCK"), store(arg(0), name("BNUM"))].concat();
    let bit = || shift_left(int(1), arg(1), nowhere());
    let eject = [select.clone(), store(bit(), name("B0EJ")), release("BLCK"), give(int(0))];
    let label =
        [select, store(bit(), name("PIDX")), store(name("PIDX"), local(0)), release("BLCK"), give(local(0))];
    scope(
        "_SB.PCI0",
        [
            registers("PCST", 0, 8, &["PCIU", "PCID"]),
            registers("SEJ", 8, 4, &["B0EJ"]),
            registers("BNMR", 0x10, 8, &["BNUM", "PIDX"]),
            mutex("BLCK"),
            method("PCEJ", 2, eject),
            method("AIDX", 2, label),
            labeling_method(),
        ],
    )
}

/// Start of every labeling method's function 0: nothing for other interfaces and old revisions.
pub(super) fn labeling_guard() -> Term {
    let other = when(not(equal(arg(0), uuid(LABELING))), [give(local(0))]);
    [store(buffer(&[0]), local(0)), other, when(less(arg(1), int(2)), [give(local(0))])].concat()
}

/// PDSM: labels of hot-pluggable devices. Local 0 result, 1 capabilities, 2 label.
fn labeling_method() -> Term {
    let parameter = |i: u64| deref(index(arg(4), int(i)));
    let fetch = || store(call("AIDX", [parameter(0), parameter(1)]), local(2));
    let absent = || [equal(local(2), int(0)), equal(local(2), int(0xffff_ffff))];
    let [zero, unsupported] = absent();
    let functions = [
        labeling_guard(),
        store(int(0), local(1)),
        fetch(),
        when(
            not(or(zero, unsupported, nowhere())),
            [or(local(1), int(1), local(1)), or(local(1), shift_left(int(1), int(7), nowhere()), local(1))],
        ),
        store(local(1), index(local(0), int(0))),
        give(local(0)),
    ];
    let set = store(local(2), index(local(0), int(0)));
    let [zero, unsupported] = absent();
    let known = when(not(either(zero, unsupported)), [set, store(string(""), index(local(0), int(1)))]);
    let naming = [fetch(), store(package(2, []), local(0)), known, give(local(0))];
    let body = [when(equal(arg(2), int(0)), functions), when(equal(arg(2), int(7)), naming)];
    serialized_method("PDSM", 5, body)
}

/// Ports that the controller occupies.
pub(super) fn reserved_ports() -> Term {
    device(
        "PHPR",
        [
            declare("_HID", string("PNP0A06")),
            declare("_UID", string("PCI Hotplug resources")),
            declare("_STA", int(0x0b)),
            declare("_CRS", resources([resource::io(PORT, 1, PORTS)])),
        ],
    )
}

/// The slots of a bus behind a root port: what is there, or an empty slot 0; and the method that notifies them.
pub(super) fn slots(selector: u64, behind: &[Function]) -> Term {
    let plugged = behind.iter().filter(|f| f.kind == Kind::Endpoint && f.function == 0);
    let mut slots: Vec<(u8, bool)> = plugged.map(|f| (f.slot, true)).collect();
    if !behind.iter().any(|f| f.devfn() == 0) {
        slots.insert(0, (0, false));
    }
    let notifications = slots.iter().map(|(slot, _)| {
        let bit = and(arg(0), int(1 << slot), nowhere());
        when(bit, [notify(name(&format!("S{:02X}", slot << 3)), arg(1))])
    });
    let notifications = method("DVNT", 2, notifications);
    let slots = slots.iter().map(|(number, occupied)| slot(*number, *occupied));
    [declare("BSEL", int(selector)), join(slots), notifications].concat()
}

fn slot(number: u8, occupied: bool) -> Term {
    let path = format!("S{:02X}", number << 3);
    let at = || int(number.into());
    let label = [
        store(package(2, [int(0), int(0)]), local(0)),
        store(name("BSEL"), index(local(0), int(0))),
        store(name("ASUN"), index(local(0), int(1))),
        give(call("PDSM", [arg(0), arg(1), arg(2), arg(3), local(0)])),
    ];
    let body = [
        declare("ASUN", at()),
        serialized_method("_DSM", 4, label),
        declare("_SUN", at()),
        method("_EJ0", 1, [call("PCEJ", [name("BSEL"), name("_SUN")])]),
    ];
    if occupied {
        scope(&path, body)
    } else {
        device(&path, [declare("_ADR", int(u64::from(number) << 16)), join(body)])
    }
}

/// The general-purpose event of hotplug, and the methods that pass it on to the buses.
pub(super) fn events(machine: &Machine, selectors: &Selectors) -> Term {
    let ports: Vec<_> = machine.root_bus.iter().rev().filter(|f| is_bridge(f)).collect();
    let first = ports.iter().position(|port| selectors.of(port).is_some());
    // QEMU counts notifiers over all ports so far: those after the first with hotplug are called as well.
    let called = first.map_or(&[][..], |first| &ports[first..]);
    let lock = "\\_SB.PCI0.BLCK";
    let body = if called.is_empty() {
        Term::new()
    } else {
        [acquire(lock), call("\\_SB.PCI0.PCNT", []), release(lock)].concat()
    };
    let event = scope("_GPE", [method("_E01", 0, [body])]);
    if called.is_empty() {
        return event;
    }
    let children = called.iter().map(|port| scope(&device_name(port), [notifier(selectors.of(port))]));
    let calls = called.iter().map(|port| name(&format!("^{}.PCNT", device_name(port))));
    let root = scope("\\_SB.PCI0", children.chain([method("PCNT", 0, calls)]));
    [root, event].concat()
}

fn is_bridge(function: &Function) -> bool {
    matches!(function.kind, Kind::RootPort { .. })
}

/// PCNT of a bus behind a root port.
fn notifier(selector: Option<u64>) -> Term {
    let body = selector.map(|selector| {
        [
            store(int(selector), name("BNUM")),
            call("DVNT", [name("PCIU"), int(1)]),
            call("DVNT", [name("PCID"), int(3)]),
        ]
        .concat()
    });
    method("PCNT", 0, body)
}

/// Whether the operating system gets native hotplug: only where ACPI doesn't do it.
pub(super) fn native(chipset: &Chipset) -> bool {
    !chipset.pci_hotplug
}

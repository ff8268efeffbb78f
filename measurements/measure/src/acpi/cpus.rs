//! CPU objects and QEMU's CPU hotplug interface in the DSDT (QEMU `hw/acpi/cpu.c`, docs/specs/acpi_cpu_hotplug).
//!
//! The interface is there even where no CPU can be plugged, and it has a line for every CPU: this is how the number
//! of virtual CPUs reaches the measured tables.

use super::aml::*;
use super::resource;
use crate::shape::QemuVersion;

const PORT: u16 = 0xcd8;
const PORTS: u8 = 12;
/// APIC identifiers from here on need the long form.
const FIRST_X2APIC: u32 = 255;
const BATCH: u8 = 255;

/// Path of something in the hotplug controller.
fn controller(member: &str) -> String {
    format!("\\_SB.PCI0.PRES.{member}")
}

fn reg(member: &str) -> Term {
    name(&controller(member))
}

fn cpu_name(cpu: u32) -> String {
    format!("C{cpu:03X}")
}

/// Runs a method body with the controller's lock held.
fn locked(body: impl IntoIterator<Item = Term>) -> Term {
    let lock = controller("CPLK");
    [acquire(&lock), join(body), release(&lock)].concat()
}

/// The controller, the CPUs and the general-purpose event that scans them.
pub(super) fn cpus(qemu: QemuVersion, count: u32) -> Term {
    let scan = method("\\_GPE._E02", 0, [call("\\_SB.CPUS.CSCN", [])]);
    [scope("_SB", [controller_device(qemu), cpus_device(qemu, count)]), scan].concat()
}

fn controller_device(qemu: QemuVersion) -> Term {
    // Before 11.1 the interface starts in a compatible mode, which this write ends.
    let start = serialized_method("_INI", 0, [store(int(0), name("CSEL"))]);
    device(
        "\\_SB.PCI0.PRES",
        [
            declare("_HID", eisa_id("PNP0A06")),
            declare("_UID", string("CPU Hotplug resources")),
            mutex("CPLK"),
            declare("_CRS", resources([resource::io(PORT, 1, PORTS)])),
            operation_region("PRST", Space::Io, PORT.into(), PORTS.into()),
            field(
                "PRST",
                Access::ByteWriteZeros,
                [
                    skip(32),
                    bits("CPEN", 1),
                    bits("CINS", 1),
                    bits("CRMV", 1),
                    bits("CEJ0", 1),
                    bits("CEJF", 1),
                    skip(3),
                    bits("CCMD", 8),
                ],
            ),
            field("PRST", Access::DwordPreserve, [bits("CSEL", 32), skip(32), bits("CDAT", 32)]),
            if qemu >= QemuVersion::V11_1 { Term::new() } else { start },
        ],
    )
}

fn cpus_device(qemu: QemuVersion, count: u32) -> Term {
    let notify_each =
        (0..count).map(|cpu| when(equal(arg(0), int(cpu.into())), [notify(name(&cpu_name(cpu)), arg(1))]));
    let head = [
        declare("_HID", string("ACPI0010")),
        declare("_CID", eisa_id("PNP0A05")),
        method("CTFY", 2, notify_each),
        status_method(),
        eject_method(),
        scan_method(qemu, count),
        ost_method(),
    ];
    device("\\_SB.CPUS", head.into_iter().chain((0..count).map(cpu_object)))
}

fn status_method() -> Term {
    let body = [
        store(arg(0), reg("CSEL")),
        store(int(0), local(0)),
        when(equal(reg("CPEN"), int(1)), [store(int(0xf), local(0))]),
    ];
    serialized_method("CSTA", 1, [locked(body), give(local(0))])
}

fn eject_method() -> Term {
    serialized_method("CEJ0", 1, [locked([store(arg(0), reg("CSEL")), store(int(1), reg("CEJ0"))])])
}

/// Device check and eject request (ACPI 6.5, table 5.159).
const DEVICE_CHECK: u64 = 1;
const EJECT_REQUEST: u64 = 3;

/// Locals of the scan: 0 an event was seen, 1 CPUs added, 2 index, 3 CPU, 4 another batch is due, 5 CPUs to eject.
fn scan_method(qemu: QemuVersion, count: u32) -> Term {
    // Up to 9.2 the OS is told of each CPU to eject on the spot; from 10.0 on they are remembered as well.
    let remembers = qemu >= QemuVersion::V10_0;
    let list = if remembers { declare("CEJL", package(BATCH, [])) } else { Term::new() };
    let reset = if remembers { store(int(0), local(5)) } else { Term::new() };
    let ejected = if remembers { deliver("CEJL", local(5), EJECT_REQUEST, "CRMV") } else { Term::new() };
    let batch = [
        store(int(0), local(4)),
        store(int(1), local(0)),
        store(int(0), local(1)),
        reset,
        collect_events(remembers, count),
        deliver("CNEW", local(1), DEVICE_CHECK, "CINS"),
        ejected,
    ];
    let body = [
        declare("CNEW", package(BATCH, [])),
        list,
        store(int(0), local(3)),
        store(int(1), local(4)),
        repeat_while(equal(local(4), int(1)), batch),
    ];
    serialized_method("CSCN", 0, [locked(body)])
}

fn collect_events(remembers: bool, count: u32) -> Term {
    let full = |counter: u8| equal(local(counter), int(BATCH.into()));
    let remember = |flag: &str, list: &str, counter: u8| {
        let slot = index(name(list), local(counter));
        let body = [store(local(3), slot), increment(local(counter)), store(int(1), local(0))];
        when(equal(reg(flag), int(1)), body)
    };
    let eject = if remembers {
        remember("CRMV", "CEJL", 5)
    } else {
        let told = call("CTFY", [local(3), int(EJECT_REQUEST)]);
        let body = [told, store(int(1), reg("CRMV")), store(int(1), local(0))];
        otherwise([when(equal(reg("CRMV"), int(1)), body)])
    };
    let any_full = if remembers { either(full(1), full(5)) } else { full(1) };
    let body = [
        store(int(0), local(0)),
        store(local(3), reg("CSEL")),
        store(int(0), reg("CCMD")),
        when(less(reg("CDAT"), local(3)), [leave_loop()]),
        when(any_full, [store(int(1), local(4)), leave_loop()]),
        store(reg("CDAT"), local(3)),
        remember("CINS", "CNEW", 1),
        eject,
        increment(local(3)),
    ];
    repeat_while(both(equal(local(0), int(1)), less(local(3), int(count.into()))), body)
}

/// Notifies of each remembered CPU and clears its event.
fn deliver(list: &str, counter: Term, event: u64, flag: &str) -> Term {
    let trace = if event == DEVICE_CHECK { store(local(3), debug_object()) } else { Vec::new() };
    let body = [
        store(deref(index(name(list), local(2))), local(3)),
        call("CTFY", [local(3), int(event)]),
        trace,
        store(local(3), reg("CSEL")),
        store(int(1), reg(flag)),
        increment(local(2)),
    ];
    [store(int(0), local(2)), repeat_while(less(local(2), counter), body)].concat()
}

fn ost_method() -> Term {
    let body = [
        store(arg(0), reg("CSEL")),
        store(int(1), reg("CCMD")),
        store(arg(1), reg("CDAT")),
        store(int(2), reg("CCMD")),
        store(arg(2), reg("CDAT")),
    ];
    serialized_method("COST", 4, [locked(body)])
}

fn cpu_object(cpu: u32) -> Term {
    let id = || int(cpu.into());
    let mut body = Vec::new();
    if cpu >= FIRST_X2APIC {
        body.extend([declare("_HID", string("ACPI0007")), declare("_UID", id())]);
    }
    body.push(serialized_method("_STA", 0, [give(call("CSTA", [id()]))]));
    body.push(declare("_MAT", buffer(&madt_entry(cpu))));
    // The boot CPU can't be ejected.
    if cpu > 0 {
        body.push(method("_EJ0", 1, [call("CEJ0", [id()])]));
    }
    body.push(serialized_method("_OST", 3, [call("COST", [id(), arg(0), arg(1), arg(2)])]));
    match u8::try_from(cpu) {
        Ok(short) if cpu < FIRST_X2APIC => processor(&cpu_name(cpu), short, body),
        _ => device(&cpu_name(cpu), body),
    }
}

/// An enabled CPU's entry in the MADT (ACPI 6.5, 5.2.12.2 and 5.2.12.12).
pub(super) fn madt_entry(cpu: u32) -> Vec<u8> {
    match u8::try_from(cpu) {
        Ok(id) if cpu < FIRST_X2APIC => vec![0, 8, id, id, 1, 0, 0, 0],
        _ => [&[9, 16, 0, 0][..], &cpu.to_le_bytes(), &1u32.to_le_bytes(), &cpu.to_le_bytes()].concat(),
    }
}

/// Whether any CPU needs the long form.
pub(super) fn needs_x2apic(count: u32) -> bool {
    count > FIRST_X2APIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_256th_cpu_has_the_long_form() {
        assert_eq!(madt_entry(254), [0, 8, 254, 254, 1, 0, 0, 0]);
        assert_eq!(madt_entry(255), [9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0]);
        assert!(!needs_x2apic(255) && needs_x2apic(256));
    }
}

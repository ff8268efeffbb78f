//! What a match says: along which axis, what was found, and what was expected instead.

use crate::shape::{Platform, Shape};
use serde::Serialize;
use std::fmt;

/// A dimension along which a machine may depart from what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Which release.
    Release,
    /// Real TD or emulated platform.
    Platform,
    /// Which firmware file.
    Firmware,
    /// In which order the VMM adds and extends pages.
    Vmm,
    /// Virtual CPUs.
    Vcpus,
    /// Amount of memory.
    Memory,
    /// Devices of the shape.
    Devices,
    /// Physical address bits.
    AddressBits,
    /// QEMU's version.
    Qemu,
    /// Captured ACPI files.
    Acpi,
    /// How the payload is booted.
    Boot,
    /// Which register the firmware's last separator extends.
    Separator,
    /// How kernel and stub measure.
    Stub,
    /// Which payload.
    Payload,
    /// Which disk.
    Disk,
    /// The kernel's command line.
    CommandLine,
    /// The initrd.
    Initrd,
}

impl Axis {
    /// Whether it names a file.
    pub(super) fn is_file(self) -> bool {
        matches!(self, Axis::Firmware | Axis::Payload | Axis::Disk)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Release => "release",
            Axis::Platform => "platform",
            Axis::Firmware => "firmware",
            Axis::Vmm => "VMM",
            Axis::Vcpus => "vCPUs",
            Axis::Memory => "memory",
            Axis::Devices => "devices",
            Axis::AddressBits => "address bits",
            Axis::Qemu => "QEMU",
            Axis::Acpi => "captured ACPI",
            Axis::Boot => "boot form",
            Axis::Separator => "separator",
            Axis::Stub => "stub",
            Axis::Payload => "payload",
            Axis::Disk => "disk",
            Axis::CommandLine => "command line",
            Axis::Initrd => "initrd",
        }
    }
}

/// One fact about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Along which axis.
    pub axis: Axis,
    /// What it is.
    pub found: String,
    /// What was expected, where that is something else.
    pub expected: Option<String>,
}

impl Fact {
    /// Something that is as expected, or of which nothing was expected.
    pub fn new(axis: Axis, found: impl Into<String>) -> Self {
        Fact { axis, found: found.into(), expected: None }
    }

    /// Something that may depart from what was expected.
    pub fn against(axis: Axis, found: impl Into<String>, expected: impl Into<String>) -> Self {
        let (found, expected) = (found.into(), expected.into());
        let expected = (expected != found).then_some(expected);
        Fact { axis, found, expected }
    }

    /// Whether it departs from what was expected.
    pub fn departs(&self) -> bool {
        self.expected.is_some()
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found)?;
        match &self.expected {
            Some(expected) => write!(f, " (expected {expected})"),
            None => Ok(()),
        }
    }
}

/// How many of these depart.
pub(super) fn departures(facts: &[Fact]) -> usize {
    facts.iter().filter(|fact| fact.departs()).count()
}

/// What a shape says, held against the expected one; without one, size always and the rest where it isn't the default.
pub(super) fn of_shape(found: &Shape, expected: Option<&Shape>, platform: Platform) -> Vec<Fact> {
    let default = Shape::new(found.vcpus, found.memory_mib);
    let against = expected.unwrap_or(&default);
    let mut facts = Vec::new();
    for ((axis, is), (_, was)) in words(found, platform).into_iter().zip(words(against, platform)) {
        let fact = match expected {
            Some(_) => Fact::against(axis, is.clone(), was.clone()),
            None => Fact::new(axis, is.clone()),
        };
        if matches!(axis, Axis::Vcpus | Axis::Memory | Axis::Qemu) || is != was {
            facts.push(fact);
        }
    }
    facts
}

/// Every dimension of a shape that a platform has, in words, in one order.
fn words(shape: &Shape, platform: Platform) -> Vec<(Axis, String)> {
    let count = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let there = |there: bool, what: &str| if there { what.to_owned() } else { format!("no {what}") };
    let devices = |n: u8, one: &str| (Axis::Devices, count(u64::from(n), one));
    let mut out = vec![
        (Axis::Vcpus, count(u64::from(shape.vcpus), "vCPU")),
        (Axis::Memory, memory(shape.memory_mib)),
        devices(shape.model_disks, "model disk"),
    ];
    match platform {
        Platform::Emulated => out.push((Axis::Devices, there(shape.simulator_disk, "simulator disk"))),
        Platform::Tdx => out.extend([
            devices(shape.gpus, "GPU"),
            (
                Axis::Devices,
                count(u64::from(shape.nvswitches), "NVSwitch").replace("NVSwitchs", "NVSwitches"),
            ),
            devices(shape.nics, "network card"),
            (Axis::Devices, there(shape.vsock, "vsock")),
            (Axis::AddressBits, format!("{} address bits", shape.phys_bits)),
            (Axis::Qemu, format!("QEMU {}", shape.qemu)),
        ]),
    }
    out
}

/// An amount of memory, in GiB where that is even.
pub(super) fn memory(mib: u64) -> String {
    if mib >= 1024 && mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_departs() {
        let facts = of_shape(&Shape::new(31, 16384), Some(&Shape::new(32, 16384)), Platform::Tdx);
        let texts: Vec<_> = facts.iter().map(Fact::to_string).collect();
        assert_eq!(texts, ["31 vCPUs (expected 32 vCPUs)", "16 GiB", "QEMU 10.2"]);
        assert_eq!(departures(&facts), 1);
        assert_eq!(departures(&of_shape(&Shape::new(31, 16384), None, Platform::Tdx)), 0);
    }

    #[test]
    fn odd_amounts_stay_in_mib() {
        assert_eq!(
            (memory(1024), memory(2815), memory(512)),
            ("1 GiB".into(), "2815 MiB".into(), "512 MiB".into())
        );
    }
}

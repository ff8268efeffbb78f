//! What a machine is given of its host: the parts of a trust domain, and where its processors and memory lie.
//!
//! None of it is measured but the number and kind of accelerators, the address width and QEMU's release, which are the
//! shape's ([`measure::Shape`]). Validated values only: [`crate::settings`] makes them.

use crate::gpu::chip::Mode;
use measure::shape::{Gpu, QemuVersion};
use std::fmt;
use std::path::PathBuf;

/// Where QEMU takes a TD report to have it signed: Intel's quote generation service (QGS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuoteService {
    /// A vsock address; context 2 is the host.
    Vsock {
        /// Context.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for QuoteService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuoteService::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            QuoteService::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who carries the guest's vsock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vsock {
    /// The host's kernel (`/dev/vhost-vsock`).
    Vhost {
        /// The guest's context: unique on the host.
        cid: u32,
    },
    /// A process of the host that shares the guest's memory, where the kernel has no vhost.
    VhostUser {
        /// Its socket.
        socket: PathBuf,
    },
}

/// Domain, bus, device and function of a PCI device of the host, in the one form that sysfs writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress(String);

impl PciAddress {
    /// Reads `0000:17:00.0`, or `17:00.0` in domain 0.
    pub fn parse(text: &str) -> Option<Self> {
        let whole = if text.matches(':').count() == 1 { format!("0000:{text}") } else { text.to_owned() };
        let (place, function) = whole.split_once('.')?;
        let parts: Vec<&str> = place.split(':').collect();
        let [domain, bus, device] = parts.as_slice() else { return None };
        let hex = |text: &str, digits: usize| {
            let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let (domain, bus, device) = (hex(domain, 4)?, hex(bus, 2)?, hex(device, 2)?);
        let function = hex(function, 1)?;
        (device < 32 && function < 8)
            .then(|| PciAddress(format!("{domain:04x}:{bus:02x}:{device:02x}.{function}")))
    }

    /// As sysfs has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of devices whose machine is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// They stay with vfio-pci, for the next machine.
    Keep,
    /// They go back to whom they belonged before the machine was started.
    GiveBack,
}

/// An Intel TDX trust domain, beyond its size and disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain {
    /// Who signs its quotes.
    pub quotes: QuoteService,
    /// Its vsock, if it has one.
    pub vsock: Option<Vsock>,
    /// GPUs that are passed through, each behind a root port of its own.
    pub gpus: Vec<PciAddress>,
    /// Their model.
    pub gpu: Option<Gpu>,
    /// NVSwitches, likewise.
    pub nvswitches: Vec<PciAddress>,
    /// The mode that they must be in: confidential computing, or protected PCIe.
    pub gpu_mode: Mode,
    /// What becomes of them when the machine is over.
    pub gpus_after: After,
    /// Physical address bits that the firmware works with.
    pub phys_bits: u8,
    /// QEMU's release.
    pub qemu: QemuVersion,
}

impl TrustDomain {
    /// Every device that it takes from the host.
    pub fn devices(&self) -> impl Iterator<Item = &PciAddress> {
        self.gpus.iter().chain(&self.nvswitches)
    }
}

/// Size of the pages that back the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// 2 MiB.
    Mega2,
    /// 1 GiB.
    Giga1,
}

impl HugePages {
    /// As QEMU and settings write it.
    pub fn name(self) -> &'static str {
        match self {
            HugePages::Mega2 => "2M",
            HugePages::Giga1 => "1G",
        }
    }

    /// KiB of a page, as the kernel names its folders.
    pub fn kib(self) -> u64 {
        match self {
            HugePages::Mega2 => 2048,
            HugePages::Giga1 => 1024 * 1024,
        }
    }
}

/// Where on the host processors and memory lie. The guest sees one node, whatever stands here: a table of nodes would
/// be measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The host's processor of each virtual one; empty leaves them to the scheduler.
    pub cpus: Vec<u32>,
    /// NUMA nodes that the memory is taken from; empty leaves it to the kernel.
    pub nodes: Vec<u32>,
    /// Pages that back the memory; `None` is the kernel's own choice.
    pub hugepages: Option<HugePages>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_have_one_form() {
        for (text, form) in [
            ("0000:17:00.0", Some("0000:17:00.0")),
            ("17:00.0", Some("0000:17:00.0")),
            ("0000:AB:1f.7", Some("0000:ab:1f.7")),
            ("0000:17:20.0", None),
            ("0000:17:00.8", None),
            ("17:00", None),
            ("0000:17:00.0,x", None),
            ("+000:17:00.0", None),
            ("", None),
        ] {
            assert_eq!(PciAddress::parse(text).as_ref().map(PciAddress::as_str), form, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_address_is_read_again_and_hostile_ones_never_panic(text in "[0-9a-fA-F:., ]{0,16}") {
            if let Some(address) = PciAddress::parse(&text) {
                prop_assert_eq!(PciAddress::parse(address.as_str()), Some(address));
            }
        }
    }
}

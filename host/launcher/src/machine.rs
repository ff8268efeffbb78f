//! The machine as a closed type: everything that QEMU is told, and nothing that it isn't.
//!
//! The set of devices is the smallest that boots and serves, and each has a fixed PCI slot, because the firmware
//! measures what it finds (ACPI tables, boot variables, option ROMs): two launches of the same shape must measure the
//! same. `docs/reference/launcher.md` lists the facts that a prediction may rest on.
//!
//! ```text
//! pcie.0  00 host bridge   02 virtio-serial   03 virtio-net   04 virtio-rng   1f LPC
//!         05 root disk     06 handoff disk    07 simulator disk   08-0f model disks   10-1e free (accelerators)
//! ```

use crate::rundir::RunDir;
use crate::settings::{Firmware, Settings};
use protocol::names;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// What kind of machine. TDX becomes a variant that carries MRCONFIGID and the quote socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Software emulation; measurements go to an emulated TPM.
    Emulated,
}

/// How the firmware gets the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootMethod {
    /// The UKI is handed over (`-kernel`); the disk is attached all the same.
    Direct,
    /// The firmware finds the UKI in the ESP of the root disk.
    Disk,
}

/// The size of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Virtual CPUs, one socket, one thread a core.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// A read-only virtio-blk disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// How the guest knows it.
    pub serial: String,
    /// Its slot on `pcie.0`.
    pub slot: u8,
}

/// A host port that leads to a guest port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Host side; port 0 lets the system choose.
    pub host: SocketAddrV4,
    /// Guest side.
    pub guest: SocketAddrV4,
}

/// Everything that QEMU is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What kind.
    pub platform: Platform,
    /// How big.
    pub shape: Shape,
    /// Code volume, and this launch's own variable store.
    pub firmware: Firmware,
    /// UKI for a direct boot; `None` boots from the root disk.
    pub kernel: Option<PathBuf>,
    /// Disks, by slot.
    pub disks: Vec<Disk>,
    /// The one way in.
    pub forward: Forward,
    /// File that receives the serial console.
    pub console: PathBuf,
    /// File that receives the progress port.
    pub progress: PathBuf,
    /// QMP's Unix socket.
    pub qmp: PathBuf,
    /// The TPM emulator's control socket.
    pub tpm: PathBuf,
}

/// Slot of the virtio-serial controller.
pub const SLOT_SERIAL: u8 = 0x02;
/// Slot of the network card.
pub const SLOT_NET: u8 = 0x03;
/// Slot of the entropy source.
pub const SLOT_RNG: u8 = 0x04;
const SLOT_ROOT: u8 = 0x05;
const SLOT_HANDOFF: u8 = 0x06;
const SLOT_SIMULATOR: u8 = 0x07;
const SLOT_MODELS: u8 = 0x08;

impl Machine {
    /// The machine of these settings, with the files of this run.
    pub fn new(settings: &Settings, run: &RunDir) -> Self {
        let disk = |path: &Path, serial: &str, slot| Disk { path: path.into(), serial: serial.into(), slot };
        let root = settings.image.disk.as_deref().map(|p| disk(p, names::ROOT_DISK_SERIAL, SLOT_ROOT));
        let handoff = root.is_some().then(|| disk(&run.handoff(), names::HANDOFF_DISK_SERIAL, SLOT_HANDOFF));
        let simulator = settings.simulated_platform.as_ref();
        let simulator =
            simulator.map(|_| disk(&run.simulator(), names::SIMULATOR_DISK_SERIAL, SLOT_SIMULATOR));
        let models = (0u8..).zip(&settings.models).map(|(i, model)| {
            disk(&model.image, &format!("{}{i}", names::MODEL_DISK_SERIAL_PREFIX), SLOT_MODELS + i)
        });
        Machine {
            platform: settings.platform,
            shape: settings.shape,
            firmware: Firmware { code: settings.firmware.code.clone(), vars: run.vars() },
            kernel: (settings.boot == BootMethod::Direct).then(|| settings.image.uki.clone()),
            disks: root.into_iter().chain(handoff).chain(simulator).chain(models).collect(),
            forward: Forward { host: settings.listen, guest: guest_service(&settings.runtime.address) },
            console: run.console(),
            progress: run.progress(),
            qmp: run.qmp(),
            tpm: run.tpm(),
        }
    }
}

/// The guest's side of the forwarded port.
fn guest_service(address: &str) -> SocketAddrV4 {
    let ip = address.split('/').next().and_then(|ip| ip.parse().ok());
    SocketAddrV4::new(ip.unwrap_or(Ipv4Addr::new(10, 0, 2, 15)), names::WORKER_PORT)
}

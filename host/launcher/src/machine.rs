//! The machine as a closed type: everything that QEMU is told, and nothing that it isn't.
//!
//! The set of devices is the smallest that boots and serves, and each has a fixed PCI slot, because the firmware
//! measures what it finds (ACPI tables, boot variables, option ROMs): two launches of the same shape must measure the
//! same. Accelerators lie behind root ports in the slots from 0x10 on.
//!
//! Slots and options that measurements depend on come from [`measure::shape`], which predictions read as well.

mod hardware;

pub use hardware::{After, HugePages, PciAddress, Placement, QuoteService, TrustDomain, Vsock};

use crate::rundir::RunDir;
use crate::settings::{Firmware, Settings};
use measure::shape::{Boot, Shape, slot};
use protocol::config::mrconfigid;
use protocol::names;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// What kind of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platform {
    /// Software emulation; measurements go to an emulated TPM.
    Emulated,
    /// An Intel TDX trust domain. Not validated on hardware.
    Tdx(TrustDomain),
}

impl Platform {
    /// The trust domain, where it is one.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        match self {
            Platform::Emulated => None,
            Platform::Tdx(domain) => Some(domain),
        }
    }
}

impl From<&Platform> for measure::Platform {
    fn from(platform: &Platform) -> Self {
        match platform {
            Platform::Emulated => measure::Platform::Emulated,
            Platform::Tdx(_) => measure::Platform::Tdx,
        }
    }
}

/// What a machine measures into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// The TPM emulator's control socket.
    Tpm(PathBuf),
    /// A trust domain with this MRCONFIGID.
    Tdx {
        /// The domain.
        domain: TrustDomain,
        /// SHA-384 of the static configuration.
        mrconfigid: [u8; 48],
    },
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
    pub root: Root,
    /// How big, and with which disks.
    pub shape: Shape,
    /// Where on the host.
    pub placement: Placement,
    /// Code volume, and this launch's own variable store where the code doesn't carry one.
    pub firmware: Firmware,
    /// UKI for a direct boot; `None` boots from the root disk.
    pub kernel: Option<PathBuf>,
    /// Disks, by slot.
    pub disks: Vec<Disk>,
    /// The one way in.
    pub forward: Forward,
    /// Whether there is a way out: only for a guest that has peers or lite servers to call.
    pub outward: bool,
    /// File that receives the serial console.
    pub console: PathBuf,
    /// File that receives the progress port.
    pub progress: PathBuf,
    /// Unix socket of the control port.
    pub control: PathBuf,
    /// QMP's Unix socket.
    pub qmp: PathBuf,
}

impl Machine {
    /// The machine of these settings, with the files of this run.
    pub fn new(settings: &Settings, run: &RunDir) -> Self {
        let disk =
            |path: &Path, serial: &str, slot: u8| Disk { path: path.into(), serial: serial.into(), slot };
        let root = settings.image.disk.as_deref().map(|p| disk(p, names::ROOT_DISK_SERIAL, slot::ROOT_DISK));
        let handoff =
            root.is_some().then(|| disk(&run.handoff(), names::HANDOFF_DISK_SERIAL, slot::HANDOFF_DISK));
        let simulator = settings.simulated_platform.as_ref();
        let simulator =
            simulator.map(|_| disk(&run.simulator(), names::SIMULATOR_DISK_SERIAL, slot::SIMULATOR_DISK));
        let models = (0u8..).zip(&settings.models).map(|(i, model)| {
            disk(&model.image, &format!("{}{i}", names::MODEL_DISK_SERIAL_PREFIX), slot::MODEL_DISKS + i)
        });
        let root_of_measurements = match &settings.platform {
            Platform::Emulated => Root::Tpm(run.tpm()),
            Platform::Tdx(domain) => {
                Root::Tdx { domain: domain.clone(), mrconfigid: mrconfigid(&settings.static_config) }
            }
        };
        Machine {
            root: root_of_measurements,
            shape: settings.shape(),
            placement: settings.placement.clone(),
            firmware: Firmware {
                code: settings.firmware.code.clone(),
                vars: settings.firmware.vars.as_ref().map(|_| run.vars()),
            },
            kernel: (settings.boot == Boot::Direct).then(|| settings.image.uki.clone()),
            disks: root.into_iter().chain(handoff).chain(simulator).chain(models).collect(),
            forward: Forward { host: settings.listen, guest: guest_service(&settings.runtime.address) },
            outward: !(settings.runtime.dial.is_empty() && settings.runtime.ledger.is_empty()),
            console: run.console(),
            progress: run.progress(),
            control: run.control(),
            qmp: run.qmp(),
        }
    }
}

/// The guest's side of the forwarded port.
fn guest_service(address: &str) -> SocketAddrV4 {
    let ip = address.split('/').next().and_then(|ip| ip.parse().ok());
    SocketAddrV4::new(ip.unwrap_or(Ipv4Addr::new(10, 0, 2, 15)), names::WORKER_PORT)
}

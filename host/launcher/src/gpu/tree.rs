//! The few files of sysfs through which devices change hands, below a root.
//!
//! `driver_override`, `driver/unbind`, `drivers_probe`, `reset` and `reset_method`: Linux
//! `Documentation/ABI/testing/sysfs-bus-pci`. Nothing else is ever written, and no file is made.

use super::chip::{Kind, Mode, NVIDIA};
use super::error::GpuError;
use crate::host::hex;
use crate::raw;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// A kernel that does not come back from a write within this has lost the device.
const WRITE: Duration = Duration::from_secs(60);
/// No value of sysfs that matters here is longer.
const MAX_VALUE: u64 = 64 << 10;

/// Reads and writes of sysfs. Paths count from its root, as in `bus/pci/devices/0000:17:00.0/driver`.
pub trait Sysfs: fmt::Debug + Send + Sync {
    /// The folder that stands for `/sys`.
    fn root(&self) -> &Path;

    /// Writes to a file that exists.
    fn write(&self, path: &str, value: &str) -> Result<(), GpuError>;

    /// A file's text without the white space around it; `None` if it is not there.
    fn read(&self, path: &str) -> Result<Option<String>, GpuError> {
        let path = self.root().join(path);
        let fault = |e: std::io::Error| GpuError::Sysfs { path: path.clone(), reason: e.to_string() };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fault(e)),
        };
        let mut text = Vec::new();
        match file.take(MAX_VALUE).read_to_end(&mut text) {
            Ok(_) => Ok(Some(String::from_utf8_lossy(&text).trim().to_owned())),
            // A device that goes while its file is read.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
            Err(e) => Err(fault(e)),
        }
    }

    /// Names in a folder, in order; none if it is not there.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Last name in the target of a symbolic link.
    fn link(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.root().join(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// A register in region 0 of a device.
    fn register(&self, address: &str, offset: u32) -> Result<u32, String> {
        let path = self.root().join(format!("bus/pci/devices/{address}/resource0"));
        File::open(path)
            .and_then(|region| raw::register(&region, offset))
            .map_err(|e| format!("its registers: {e}"))
    }
}

/// The kernel's own.
#[derive(Debug, Clone)]
pub struct RealSysfs {
    root: PathBuf,
}

impl RealSysfs {
    /// In another folder, whose files stand for the kernel's.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        RealSysfs { root: root.into() }
    }
}

impl Default for RealSysfs {
    fn default() -> Self {
        RealSysfs::at("/sys")
    }
}

impl Sysfs for RealSysfs {
    fn root(&self) -> &Path {
        &self.root
    }

    /// On a thread of its own: a write that binds or resets may never come back.
    fn write(&self, path: &str, value: &str) -> Result<(), GpuError> {
        let path = self.root.join(path);
        let (send, done) = mpsc::channel();
        let (file, value) = (path.clone(), value.to_owned());
        std::thread::spawn(move || {
            let written =
                OpenOptions::new().write(true).open(file).and_then(|mut f| f.write_all(value.as_bytes()));
            // Nobody waits any more after the deadline.
            let _ = send.send(written);
        });
        let reason = match done.recv_timeout(WRITE) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!(
                "the kernel did not come back within {} s; the host has to be rebooted",
                WRITE.as_secs()
            ),
        };
        Err(GpuError::Sysfs { path, reason })
    }
}

/// One function that goes into a guest with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `0000:17:00.0`.
    pub address: String,
    /// GPU or switch; `None` for another function of a GPU's card.
    pub kind: Option<Kind>,
    /// Who holds it.
    pub driver: Option<String>,
    /// Who alone may.
    pub driver_override: Option<String>,
    /// Its mode, or why that can't be read; other functions have none.
    pub mode: Option<Result<Mode, String>>,
    /// `on` or `auto`.
    pub power: Option<String>,
    /// Functions of others in its IOMMU group that are no bridges.
    pub strangers: Vec<String>,
}

/// Where a device's files are.
pub(super) fn file(address: &str, name: &str) -> String {
    format!("bus/pci/devices/{address}/{name}")
}

/// All GPUs and switches, and the other functions of their cards, as they are now.
pub fn devices(sysfs: &dyn Sysfs) -> Result<Vec<Device>, GpuError> {
    let mut found = Vec::new();
    for address in sysfs.names("bus/pci/devices") {
        let number =
            |name: &str| Ok::<_, GpuError>(sysfs.read(&file(&address, name))?.and_then(|text| hex(&text)));
        if number("vendor")? == Some(u64::from(NVIDIA))
            && let (Some(device), Some(class)) = (number("device")?, number("class")?)
        {
            let kind = u16::try_from(device).ok().and_then(|id| Kind::of(id, u32::try_from(class).ok()?));
            found.push((address, kind));
        }
    }
    let cards: Vec<String> =
        found.iter().filter(|(_, kind)| kind.is_some()).map(|(a, _)| slot(a).to_owned()).collect();
    found.retain(|(address, _)| cards.iter().any(|card| card == slot(address)));
    found.into_iter().map(|(address, kind)| observe(sysfs, address, kind)).collect()
}

/// The card without the function.
pub(super) fn slot(address: &str) -> &str {
    address.split('.').next().unwrap_or(address)
}

/// Looks at one device.
pub(super) fn observe(sysfs: &dyn Sysfs, address: String, kind: Option<Kind>) -> Result<Device, GpuError> {
    let read = |name: &str| sysfs.read(&file(&address, name));
    if read("vendor")?.is_none() {
        return Err(GpuError::Gone { address });
    }
    let plain = |text: Option<String>| text.filter(|text| !text.is_empty() && text != "(null)");
    let mode = kind.map(|kind| kind.mode(&|offset| sysfs.register(&address, offset)));
    let stranger = |member: &String| {
        let bridge = sysfs
            .read(&file(member, "class"))
            .ok()
            .flatten()
            .is_some_and(|class| class.starts_with("0x0604"));
        slot(member) != slot(&address) && !bridge
    };
    Ok(Device {
        kind,
        driver: sysfs.link(&file(&address, "driver")),
        driver_override: plain(read("driver_override")?),
        mode,
        power: plain(read("power/control")?),
        strangers: sysfs.names(&file(&address, "iommu_group/devices")).into_iter().filter(stranger).collect(),
        address,
    })
}

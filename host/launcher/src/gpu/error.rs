//! What can go wrong with devices for guests: which device, what was found, what to do next.

use super::chip::Mode;
use std::path::PathBuf;

/// Why devices are not as they were asked to be.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// A device is not there, or not any more.
    #[error(
        "{address} is gone from the PCI bus; see `dmesg`, then `echo 1 > /sys/bus/pci/rescan` or reboot the host"
    )]
    Gone {
        /// Which.
        address: String,
    },
    /// A file of sysfs can't be read or written.
    #[error("{path}: {reason}; run this as root, and see `dmesg` for the kernel's reason", path = path.display())]
    Sysfs {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file that remembers what was before can't be kept.
    #[error("{path}: {source}; it holds what `restore` needs, so nothing is changed without it", path = path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// That file is not one of ours.
    #[error("{path}: {reason}; look at it, then remove it: devices keep their drivers until they are bound anew", path = path.display())]
    Journal {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else holds the devices.
    #[error("{what} is held by another launcher or `chrysalis gpu`; stop that guest, or wait")]
    Busy {
        /// A device, or the state folder.
        what: String,
    },
    /// What was asked for can't be.
    #[error("{reason}")]
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// NVIDIA's admin tool failed, or did not say what it says when it succeeds.
    #[error("NVIDIA's admin tool on {address}: {reason}")]
    Tool {
        /// For which device.
        address: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A step was done and did not lead where it does.
    #[error("{address}: {reason}")]
    Step {
        /// Which device.
        address: String,
        /// What was expected, what was found, what to do.
        reason: String,
    },
    /// The mode is stored and did not become active.
    #[error(
        "{address}: mode {wanted} was set, and after a reset it is {found}: this needs a host reboot; then run the same command again"
    )]
    Reboot {
        /// Which device.
        address: String,
        /// What was set.
        wanted: Mode,
        /// What its registers say.
        found: String,
    },
    /// A failure in the middle, and what became of the devices that were changed before it.
    #[error("{failure}; {after}")]
    Undone {
        /// What failed.
        #[source]
        failure: Box<GpuError>,
        /// Whether all is as before.
        after: String,
    },
}

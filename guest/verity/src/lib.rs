//! Opens dm-verity devices without libdevmapper and finds the disks and partitions they live on.
//!
//! ```text
//! serial -> disk::Disk -> gpt (partition ids from the root hash) -> superblock -> tree (top block) -> dm (ioctls)
//! ```
//! Shared by `initrd` (the root) and `init` (model disks), as is the loading of the kernel modules that both need. Everything read from a disk is the host's word: parsers bound
//! what they read, name what they expected and found, and never panic. What makes the content trustworthy is the root
//! hash alone, which comes from the measured command line or the measured configuration.
//!
//! Deliberately absent: forward error correction, signatures on root hashes (the hash itself is measured), udev.
//!
//! Specs: Linux `Documentation/admin-guide/device-mapper/verity.rst`, `include/uapi/linux/dm-ioctl.h`; UEFI 2.10
//! section 5.3 (GPT); cryptsetup's on-disk verity format version 1; the Discoverable Partitions Specification.

pub mod disk;
mod dm;
pub mod gpt;
pub mod kmods;
pub mod open;
pub mod roothash;
pub mod superblock;
pub mod tree;

pub use disk::{Device, Disk, Places};
pub use roothash::{Guid, RootHash};

/// Bytes in a data block and in a hash block; the only size that is used here.
pub const BLOCK: u64 = 4096;

/// Why a device could not be opened; each message says which input, what was expected, what was found, what to do.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// A value read from a disk or given by the caller is not what it must be.
    #[error("{input}: {field}: expected {expected}, found {found}; {next}")]
    Wrong {
        /// Which disk, partition or parameter.
        input: String,
        /// Which field of it.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
        /// What a person can do about it.
        next: &'static str,
    },
    /// A device did not appear in time.
    #[error("{what}: not there after {millis} ms, found only [{seen}]; {next}")]
    Missing {
        /// Which device.
        what: String,
        /// How long was waited, in milliseconds.
        millis: u128,
        /// What was there instead.
        seen: String,
        /// What a person can do about it.
        next: &'static str,
    },
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The device mapper refused a step.
    #[error("device mapper refused to {step} `{device}`: {source}; table: {table}")]
    Mapper {
        /// Which ioctl, in words.
        step: &'static str,
        /// Name of the mapped device.
        device: String,
        /// The verity table that was given.
        table: String,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// Advice for content that the host supplied wrongly.
pub(crate) const REBUILD: &str = "use the unmodified image that belongs to this root hash";

pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> VerityError {
    let path = path.display().to_string();
    move |source| VerityError::Io { action, path, source }
}

//! Fixed names by which host and guest find each other's devices.

pub use measure::wire::{SIMULATED_MARKER, SIMULATOR_DISK_SERIAL};

/// virtio-blk serial of the disk that carries the root file system and its verity tree (at most 20 bytes).
pub const ROOT_DISK_SERIAL: &str = "chrysalis-root";
/// virtio-blk serial of the handoff disk ([`crate::handoff`]).
pub const HANDOFF_DISK_SERIAL: &str = "chrysalis-handoff";
/// virtio-blk serial prefix of model disks; the index of the pin in the static configuration follows.
pub const MODEL_DISK_SERIAL_PREFIX: &str = "chrysalis-model";
/// Name of the virtio-serial port that carries [`crate::progress`] lines from guest to host.
pub const PROGRESS_PORT: &str = "org.chrysalis.progress";
/// Name of the virtio-serial port that carries [`crate::control`] both ways.
pub const CONTROL_PORT: &str = "org.chrysalis.control";
/// Where the first service leaves the record of the guest's own events ([`crate::runtime::RuntimeRecord`]).
pub const RUNTIME_RECORD: &str = "/run/chrysalis/runtime-events";
/// Socket on which the guest's daemon hands lines of progress to the first service, which alone holds the port.
pub const PROGRESS_SOCKET: &str = "/run/chrysalis/progress";
/// TCP port on which a guest's daemon serves attested TLS, whatever its role.
pub const WORKER_PORT: u16 = 8443;
/// ALPN protocol identifier of the attested channel, version 2.
pub const ALPN: &[u8] = b"chrysalis/2";

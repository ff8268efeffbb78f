//! Settings to Machine to QEMU's arguments; supervises the boot.
//!
//! ```text
//! Fragment -> Input -> Settings -> Machine -> argv        (settings.rs, machine.rs, argv.rs)
//!                         |                    |
//!                         +-> handoff disks    +-> supervised QEMU and TPM emulator -> Guest   (life.rs)
//! ```
//! Host side and unmeasured: nothing here can make a guest more trusted. What a guest must prove is in its quotes;
//! [`handoff::Expected`] says what to compare them with.
//!
//! Deliberately absent: secrets, and any way to change what a verifier accepts.

pub mod argv;
mod control;
pub mod doctor;
mod error;
pub mod floor;
pub mod foretell;
pub mod gpu;
pub mod handoff;
pub mod host;
pub mod keep;
mod life;
pub mod machine;
mod placement;
pub mod preflight;
mod process;
pub mod qmp;
mod raw;
mod rundir;
#[cfg(test)]
mod samples;
pub mod settings;
pub mod watch;

pub use error::{Failure, LaunchError};
pub use handoff::Expected;
pub use life::{Event, Guest, State, What, launch, launch_on};
pub use preflight::HostDirs;
pub use rundir::RunDir;
pub use settings::{Fragment, Settings, SettingsError};

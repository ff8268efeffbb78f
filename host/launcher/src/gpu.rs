//! GPUs and NVSwitches for guests: which mode they are in, how they get into another, and to whom they belong.
//!
//! ```text
//! sysfs --tree--> Device --plan--> [Step] --apply---> sysfs, NVIDIA's tool
//!                                         --attach--> sysfs, for one machine
//!                                     journal: what was before, until it is again
//! ```
//! One plan is for all devices of the host: all of them change, or none. A launcher takes only its machine's, and changes no mode. Modes are read from registers ([`chip`]), stored by
//! NVIDIA's own tool ([`tool`]) and become active with a reset. Nothing here was validated on hardware: it is tested on a
//! fake PCI tree that answers writes as Linux' driver model does.
//!
//! Deliberately absent: `devtools` as a mode to go to, loading of kernel modules, secondary bus resets.

mod apply;
mod attach;
pub mod chip;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod journal;
mod plan;
#[cfg(test)]
mod tests;
mod tool;
mod tree;

pub use apply::{Board, Done, Patience};
pub use attach::{Attached, boot_id};
pub use error::GpuError;
pub use journal::{Held, STATE};
pub use plan::{Step, Target, VFIO};
pub use tool::{Admin, Source, Tool};
pub use tree::{Device, RealSysfs, Sysfs, devices};

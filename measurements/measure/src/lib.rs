//! Pure prediction and explanation of every measurement a right guest must show.

pub mod acpi;
pub mod codec;
mod error;
pub mod firmware;
pub mod gpt;
mod hash;
pub mod pe;
mod register;
pub mod shape;
pub mod tcg;
pub mod uki;
pub mod wire;

pub use error::{Input, MeasureError};
pub use hash::{Digests, Ranges};
pub use register::{Digest256, Digest384, Register, Registers, pcr_to_register};
pub use shape::{Boot, Platform, Shape};

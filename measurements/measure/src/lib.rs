//! Pure prediction and explanation of every measurement a right guest must show.

mod error;
mod register;
pub mod shape;
pub mod tcg;

pub use error::{Input, MeasureError};
pub use register::{Digest256, Digest384, Register, Registers, pcr_to_register};
pub use shape::{Boot, Platform, Shape};

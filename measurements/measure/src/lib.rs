//! Pure prediction and explanation of every measurement a right guest must show.
//!
//! ```text
//! artifacts + Shape --predict--> Prediction (events in measurement order) --fold--> Registers
//! log bytes ---tcg::EventLog---> events ---compare---> differences, by name
//! ```
//! No I/O, no clock, no async: inputs are byte slices. Deliberately absent: any way to make a prediction from a log.
//! Facts and sources: docs/reference/measured-boot.md.

pub mod acpi;
pub mod codec;
mod compare;
mod error;
mod event;
pub mod explain;
pub mod firmware;
pub mod gpt;
mod hash;
pub mod pe;
mod predict;
mod register;
pub mod runtime;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
pub mod shape;
pub mod tcg;
pub mod uki;
pub mod wire;

pub use compare::{Difference, DifferenceKind, Logged, compare};
pub use error::{Input, MeasureError};
pub use event::{
    AcpiFile, Assumption, Event, FirmwareVolume, Hashed, PredictedEvent, Prediction, SecureBootVariable,
    Unpredicted,
};
pub use hash::{Digests, Ranges};
pub use predict::{
    BootVariables, FirmwareProfile, Inputs, Linux, Payload, SetupHeader, TdxOptions, predict,
    predict_keeping, predict_tdx, predict_tdx_with, predict_with,
};
pub use register::{Digest256, Digest384, Register, Registers, pcr_to_register};
pub use shape::{Boot, Platform, Shape};

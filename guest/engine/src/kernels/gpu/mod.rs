//! GPUs: whether there is one, and kernels for it.
//!
//! The kernels are written once for every runtime of CubeCL. In production that is CUDA; Vulkan is for development.

mod board;
mod ops;
#[cfg(feature = "cuda")]
mod probe;
mod products;
mod rows;
mod speed;

pub(crate) use board::{Board, Buffer, Heads, Places, Width};
#[cfg(feature = "cuda")]
pub(crate) use probe::probe;
pub(crate) use products::Weight;
pub(crate) use rows::GROUP;
pub use speed::Speed;

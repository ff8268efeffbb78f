//! This guest's GPUs.
//!
//! ```text
//! feature `gpu`: NVML (libnvidia-ml.so.1, opened when first asked)   else: none, in words
//! ```
//! Which of the two an image has is decided when it is built, and so measured; no option chooses. SIMULATED GPUs are reached
//! through the same trait, by tests.

use evidence::gpu::GpuDriver;
use std::sync::Arc;

#[cfg(feature = "gpu")]
mod nvml;

/// The driver of this image. It never fails here: what lacks is said to whoever asks something of it.
#[cfg(feature = "gpu")]
pub fn driver() -> Arc<dyn GpuDriver> {
    Arc::new(nvml::Nvml::default())
}

/// The driver of this image, which carries none.
#[cfg(not(feature = "gpu"))]
pub fn driver() -> Arc<dyn GpuDriver> {
    Arc::new(evidence::gpu::NoGpus::of_this_image())
}

//! A guest's own GPUs, as their driver shows them: the seam between appraisal and hardware.
//!
//! Behind it stand NVML in a guest, a simulation in tests and the debug profile, and [`NoGpus`] wherever there is none. What a
//! driver says is evidence or the word of the machine's own kernel; what it is worth is decided by
//! [`appraise_gpus`](super::appraise_gpus) alone.
//!
//! Deliberately absent: any way to change a mode. Setting GPUs ready, which lets programs use them, is the one act.

use super::{DeviceEvidence, SystemState};

/// What a guest asks of its GPUs' driver. Calls may block for seconds.
pub trait GpuDriver: Send + Sync {
    /// How many GPUs there are; none is an error, which says what lacks.
    fn count(&self) -> Result<usize, GpuDriverError>;

    /// A report over this nonce, and the certificates, of every GPU, in the order of their slots.
    fn evidence(&self, nonce: &[u8; 32]) -> Result<Vec<DeviceEvidence>, GpuDriverError>;

    /// The driver's word about the machine.
    fn system(&self) -> Result<SystemState, GpuDriverError>;

    /// Lets programs use the GPUs, or stops letting them. GPUs under confidential computing begin as not ready.
    fn set_ready(&self, ready: bool) -> Result<(), GpuDriverError>;

    /// How each GPU stands, in the order of their slots.
    fn status(&self) -> Result<Vec<GpuStatus>, GpuDriverError>;
}

/// How a GPU stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuStatus {
    /// Whether programs may use it.
    pub ready: bool,
    /// Degrees Celsius, if it tells.
    pub celsius: Option<u32>,
    /// Memory in use, MiB, if it tells.
    pub used_mib: Option<u64>,
}

/// Why a driver has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuDriverError {
    /// There is no GPU to ask about.
    #[error("no GPU: {lacks}; {next}")]
    NoGpu {
        /// What lacks: the library, the driver, a device.
        lacks: String,
        /// What to do.
        next: &'static str,
    },
    /// There are GPUs, and the driver refused.
    #[error(
        "GPU driver: {what} failed: {why}; is the GPU in confidential mode, and does this driver support it?"
    )]
    Failed {
        /// What was asked.
        what: &'static str,
        /// The driver's words.
        why: String,
    },
}

/// A guest without GPUs.
#[derive(Debug, Clone)]
pub struct NoGpus {
    lacks: &'static str,
    next: &'static str,
}

impl NoGpus {
    /// In an image that carries no driver.
    pub fn of_this_image() -> Self {
        NoGpus {
            lacks: "this image carries no GPU driver",
            next: "boot the image of the GPU profile, or remove [gpu] from the static configuration",
        }
    }

    fn none<T>(&self) -> Result<T, GpuDriverError> {
        Err(GpuDriverError::NoGpu { lacks: self.lacks.into(), next: self.next })
    }
}

impl GpuDriver for NoGpus {
    fn count(&self) -> Result<usize, GpuDriverError> {
        self.none()
    }

    fn evidence(&self, _: &[u8; 32]) -> Result<Vec<DeviceEvidence>, GpuDriverError> {
        self.none()
    }

    fn system(&self) -> Result<SystemState, GpuDriverError> {
        self.none()
    }

    fn set_ready(&self, _: bool) -> Result<(), GpuDriverError> {
        self.none()
    }

    fn status(&self) -> Result<Vec<GpuStatus>, GpuDriverError> {
        self.none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_without_gpus_says_what_lacks_whatever_is_asked() {
        let none = NoGpus::of_this_image();
        let errors = [
            none.count().unwrap_err(),
            none.evidence(&[0; 32]).unwrap_err(),
            none.system().unwrap_err(),
            none.set_ready(true).unwrap_err(),
            none.status().unwrap_err(),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.starts_with("no GPU: this image carries no GPU driver; boot "), "{text}");
        }
    }
}

//! What there is to compute on, and what lacks where there is no GPU.
//!
//! ```text
//! gpu() --> libcuda opens? --> driver starts? --> new enough? --> a device? --> of a kind that knows bfloat16?
//!       --> NVRTC opens? --> its headers lie below CUDA_PATH? --> Gpu
//!                 each "no" is a NoGpu, which says what lacks and what to do
//! ```
//! burn's CUDA backend panics where a library lacks, so nothing of it is touched before all of this held. Without the
//! feature `cuda` there never is a GPU.

#[cfg(feature = "cubes")]
use crate::EngineError;
#[cfg(feature = "cubes")]
use crate::generate::Device;
#[cfg(feature = "cubes")]
use crate::kernels::gpu::{Board, Speed};
use std::path::PathBuf;

/// A GPU that can be computed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As its driver calls it.
    pub name: String,
    /// All of its memory, in bytes.
    pub memory_bytes: u64,
    /// CUDA of its driver, such as 12040 for 12.4.
    pub cuda: u32,
    /// Compute capability, such as 9 and 0.
    pub capability: (u32, u32),
}

/// Why there is no GPU to compute with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGpu {
    /// This program can't.
    #[error("this program was built without the feature `cuda`; use an image of the profile worker-gpu")]
    NotBuilt,
    /// The guest's gate accepted none, so that none may be opened.
    #[error("this guest's gate accepted no GPU; give the static configuration a section [gpu]")]
    NotAccepted,
    /// libcuda is not there.
    #[error(
        "libcuda.so.1 can't be opened; install the user space of the NVIDIA driver, of the version of its kernel modules"
    )]
    NoDriver,
    /// libcuda does not start.
    #[error("the NVIDIA driver does not start: {code}; {remedy}")]
    Driver {
        /// The driver's own name of the error, such as `CUDA_ERROR_NO_DEVICE`.
        code: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The driver lacks functions that this program calls.
    #[error(
        "the NVIDIA driver is of CUDA {found}, expected {wanted} or newer; install driver 550 or a later one"
    )]
    OldDriver {
        /// Such as 11080.
        found: u32,
        /// Such as 12040.
        wanted: u32,
    },
    /// The driver runs and has nothing to drive.
    #[error("the NVIDIA driver sees no device; pass a GPU to this guest and look at /dev/nvidia0")]
    NoDevice,
    /// A GPU without bfloat16.
    #[error("{name} is of compute capability {}.{}, expected 8.0 or higher; use a GPU of the Ampere family or a later one", .found.0, .found.1)]
    OldDevice {
        /// The GPU's name.
        name: String,
        /// Its compute capability.
        found: (u32, u32),
    },
    /// The run-time compiler is not there.
    #[error(
        "libnvrtc.so.12 can't be opened, and kernels are compiled where they run; install NVRTC of CUDA 12.4"
    )]
    NoCompiler,
    /// The run-time compiler's headers are not there.
    #[error("{}: no such file; set CUDA_PATH to the folder with CUDA's include folder", .path.display())]
    NoHeaders {
        /// Which header was looked for.
        path: PathBuf,
    },
}

/// The first GPU, if there is one and all that computing with it needs.
///
/// # Errors
/// What lacks, the first thing of it. Never panics.
pub fn gpu() -> Result<Gpu, NoGpu> {
    #[cfg(feature = "cuda")]
    return crate::kernels::gpu::probe();
    #[cfg(not(feature = "cuda"))]
    Err(NoGpu::NotBuilt)
}

/// What a device of GPUs' kernels can do at best.
///
/// # Errors
/// No such device, and whatever goes wrong on it.
#[cfg(feature = "cubes")]
pub fn gpu_speed(device: Device) -> Result<Speed, EngineError> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Gpu => {
            gpu()?;
            // Two gibibytes, and what keeps a large device busy.
            Board::<cubecl::cuda::CudaRuntime>::new(Default::default())?.speed(1 << 28, 8192)
        }
        #[cfg(feature = "wgpu")]
        // What a processor that plays a GPU does in a moment.
        Device::Vulkan => Board::<cubecl::wgpu::WgpuRuntime>::new(Default::default())?.speed(1 << 22, 256),
        _ => Err(NoGpu::NotBuilt.into()),
    }
}

/// Bytes of a device that are held by buffers of models that this thread loaded, and bytes that are taken from it for them.
///
/// # Errors
/// As [`gpu_speed`].
#[cfg(feature = "cubes")]
pub fn gpu_memory(device: Device) -> Result<(u64, u64), EngineError> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Gpu => {
            gpu()?;
            Board::<cubecl::cuda::CudaRuntime>::new(Default::default())?.memory()
        }
        #[cfg(feature = "wgpu")]
        Device::Vulkan => Board::<cubecl::wgpu::WgpuRuntime>::new(Default::default())?.memory(),
        _ => Err(NoGpu::NotBuilt.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_lacks_and_what_to_do() {
        let reasons = [
            (NoGpu::NotBuilt, "feature `cuda`"),
            (NoGpu::NotAccepted, "accepted no GPU"),
            (NoGpu::NoDriver, "libcuda.so.1"),
            (NoGpu::Driver { code: "CUDA_ERROR_X".into(), remedy: "do this" }, "CUDA_ERROR_X; do this"),
            (NoGpu::OldDriver { found: 11080, wanted: 12040 }, "CUDA 11080"),
            (NoGpu::NoDevice, "/dev/nvidia0"),
            (NoGpu::OldDevice { name: "T4".into(), found: (7, 5) }, "T4 is of compute capability 7.5"),
            (NoGpu::NoCompiler, "libnvrtc.so.12"),
            (NoGpu::NoHeaders { path: "/x/include/cuda_runtime.h".into() }, "/x/include/cuda_runtime.h"),
        ];
        for (reason, said) in reasons {
            let text = reason.to_string();
            assert!(text.contains(said) && text.contains(';'), "{text}");
        }
    }

    #[test]
    fn looking_for_a_gpu_never_panics() {
        let found = std::panic::catch_unwind(gpu).expect("an answer");
        #[cfg(not(feature = "cuda"))]
        assert_eq!(found, Err(NoGpu::NotBuilt));
        #[cfg(feature = "cuda")]
        assert!(found.is_err() || found.is_ok_and(|gpu| gpu.memory_bytes > 0));
    }
}

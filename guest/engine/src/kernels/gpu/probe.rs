//! Looks for a GPU through the driver's own functions, library by library.
//!
//! `unsafe` here: opening a library runs its start-up code, and the driver's functions are C. They are called with values
//! that the driver gave itself a line before.

use crate::device::{Gpu, NoGpu};
use cudarc::driver::{DriverError, result, sys};
use std::path::{Path, PathBuf};

/// CUDA whose functions this program calls; the workspace's Cargo.toml says the same to cudarc.
const WANTED: u32 = 12040;
/// First compute capability with bfloat16.
const CAPABLE: (u32, u32) = (8, 0);
/// A header that every kernel includes.
const HEADER: &str = "include/cuda_runtime.h";

/// What [`crate::device::gpu`] says.
pub fn probe() -> Result<Gpu, NoGpu> {
    // SAFETY: start-up code of the machine's own driver, which is measured like this program.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoGpu::NoDriver);
    }
    result::init().map_err(failed)?;
    let cuda = driver_version()?;
    if cuda < WANTED {
        return Err(NoGpu::OldDriver { found: cuda, wanted: WANTED });
    }
    if result::device::get_count().map_err(failed)? < 1 {
        return Err(NoGpu::NoDevice);
    }
    let found = first(cuda)?;
    // SAFETY: as above, of NVRTC.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err(NoGpu::NoCompiler);
    }
    let header = headers().join(HEADER);
    if header.is_file() { Ok(found) } else { Err(NoGpu::NoHeaders { path: header }) }
}

fn driver_version() -> Result<u32, NoGpu> {
    let mut version = 0;
    // SAFETY: the driver writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed)?;
    Ok(version.unsigned_abs())
}

fn first(cuda: u32) -> Result<Gpu, NoGpu> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(0).map_err(failed)?;
    let name = result::device::get_name(device).map_err(failed)?;
    // SAFETY: a device that the driver has just given.
    let (memory, major, minor) = unsafe {
        (
            result::device::total_mem(device).map_err(failed)?,
            result::device::get_attribute(device, MAJOR).map_err(failed)?,
            result::device::get_attribute(device, MINOR).map_err(failed)?,
        )
    };
    let capability = (major.unsigned_abs(), minor.unsigned_abs());
    if capability < CAPABLE {
        return Err(NoGpu::OldDevice { name, found: capability });
    }
    Ok(Gpu { name, memory_bytes: memory as u64, cuda, capability })
}

/// Where burn looks for headers: `CUDA_PATH`, else the usual folders.
fn headers() -> PathBuf {
    let set = std::env::var_os("CUDA_PATH").map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda"].map(Path::new).into_iter().find(|path| path.exists());
    set.or_else(|| usual.map(Path::to_path_buf)).unwrap_or_else(|| PathBuf::from("/usr/local/cuda"))
}

fn failed(error: DriverError) -> NoGpu {
    use sys::cudaError_enum as code;
    let remedy = match error.0 {
        code::CUDA_ERROR_NO_DEVICE => return NoGpu::NoDevice,
        code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "make the versions of libcuda and of the kernel modules the same"
        }
        code::CUDA_ERROR_SYSTEM_NOT_READY => {
            "a GPU in confidential mode must be attested and set ready before it computes"
        }
        _ => {
            "look whether the modules nvidia and nvidia-uvm are loaded and /dev/nvidiactl and /dev/nvidia-uvm are there"
        }
    };
    NoGpu::Driver { code: format!("{:?}", error.0), remedy }
}

//! What a model computes on and in which form it holds weights, and loading it so.

use super::known::DeviceClass;
use crate::decoder::{Decoder, Model, Native, Shape};
use crate::device;
use crate::error::EngineError;
pub use crate::kernels::KvPrecision;
use crate::kernels::Machine;
use crate::shards::Shards;
use burn::backend::Flex;
use std::sync::Arc;

/// How a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// In which form weights are multiplied by.
    pub precision: Precision,
    /// In which precision keys and values are held. Where nothing is said: on a processor `f32` with weights that are all of
    /// single precision, `f16` with any others; on a GPU as wide as what is multiplied, and nothing else.
    pub kv_precision: Option<KvPrecision>,
    /// Threads that compute, that of the scheduler among them; 0: as many as the process may use.
    pub threads: usize,
    /// What computes.
    pub device: Device,
}

/// In which form weights are multiplied by. Activations are in single precision on a processor; a GPU multiplies numbers as
/// wide as the weights, and adds in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// As the files have them; mapped, on a processor.
    #[default]
    Stored,
    /// bfloat16; on a processor only what is stored so.
    Bf16,
    /// bfloat16 as stored, and activations of prompts rounded to it: on a processor, which then computes prompts about twice as
    /// fast, each activation by up to a 512th apart. Answers have known answers of their own.
    Bf16Rounded,
    /// Single precision; on a processor only what is stored so.
    F32,
    /// Bytes with a scale for 32 of them: rounded so as they are loaded, or as the files have them (`quantise`). Norms stay as they
    /// are, and word rows where they are not the head too.
    Int8,
}

impl Precision {
    /// As settings have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Stored => "as stored",
            Precision::Bf16 => "bf16",
            Precision::Bf16Rounded => "bf16-rounded",
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
        }
    }
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor, by the engine's own kernels.
    #[default]
    Processor,
    /// The processor, by burn in single precision and one thread: what the kernels are compared with.
    Reference,
    /// The first GPU, through CUDA: what [`crate::gpu`] finds.
    Gpu,
    /// Whatever Vulkan has, for development: the kernels of [`Device::Gpu`] where no GPU is.
    #[cfg(feature = "wgpu")]
    Vulkan,
}

impl Device {
    /// Whose known answers it is held against.
    pub fn class(self) -> DeviceClass {
        match self {
            Device::Processor | Device::Reference => DeviceClass::Cpu,
            Device::Gpu => DeviceClass::Cuda,
            #[cfg(feature = "wgpu")]
            Device::Vulkan => DeviceClass::Vulkan,
        }
    }
}

/// A transformer on its device.
pub(super) struct Loaded {
    pub model: Arc<dyn Model>,
    /// Form of its weights.
    pub precision: String,
    /// In which precision keys and values are held.
    pub kv_precision: &'static str,
    /// Bytes of keys and values a token.
    pub cached_bytes: usize,
    /// Bytes of its weights on the device.
    pub weight_bytes: u64,
}

/// Reads the weights of a shape onto the device that is asked for.
pub(super) fn load(shards: &Shards, shape: Shape, options: Options) -> Result<Loaded, EngineError> {
    if shards.has_blocks() && options.device != Device::Processor {
        return Err(EngineError::Precision {
            wanted: options.precision.as_str(),
            device: "what is not a processor",
            found: shards.precision(),
            expected: "the folder that this one was made of; `int8` rounds it there too".into(),
        });
    }
    match options.device {
        Device::Processor => on_processor(shards, shape, options),
        Device::Reference => {
            as_stored(options.precision, "burn on a processor", shards, &["as stored"])?;
            let kv_precision = as_it_is(options.kv_precision, "burn on a processor", "f32")?;
            let (precision, cached_bytes) = (shards.precision(), shape.cached_elements() * size_of::<f32>());
            let weight_bytes = shape.parameters() * size_of::<f32>() as u64;
            let model = Arc::new(Decoder::<Flex>::load(shards, shape, &Default::default())?);
            Ok(Loaded { model, precision, kv_precision, cached_bytes, weight_bytes })
        }
        #[cfg(not(feature = "cuda"))]
        Device::Gpu => Err(device::NoGpu::NotBuilt.into()),
        #[cfg(feature = "cuda")]
        Device::Gpu => {
            device::gpu()?;
            on_gpu::<cubecl::cuda::CudaRuntime>(shards, shape, options)
        }
        #[cfg(feature = "wgpu")]
        Device::Vulkan => on_gpu::<cubecl::wgpu::WgpuRuntime>(shards, shape, options),
    }
}

#[cfg(feature = "cubes")]
fn on_gpu<R: burn_cubecl::CubeRuntime>(
    shards: &Shards,
    shape: Shape,
    options: Options,
) -> Result<Loaded, EngineError> {
    let elements = shape.cached_elements();
    let held = crate::decoder::cubes::load::<R>(shards, shape, options.precision, R::Device::default())?;
    let kv_precision = as_it_is(options.kv_precision, "this GPU", held.width.0)?;
    let (precision, cached_bytes) = (held.precision.into(), elements * held.width.1);
    Ok(Loaded { model: held.model, precision, kv_precision, cached_bytes, weight_bytes: held.bytes })
}

fn on_processor(shards: &Shards, shape: Shape, options: Options) -> Result<Loaded, EngineError> {
    let there = ["as stored", "int8"];
    let mut machine = Machine::new(options.threads);
    let (mut int8, mut precision) = (false, options.precision.as_str().to_owned());
    match options.precision {
        Precision::Int8 => int8 = true,
        Precision::Bf16Rounded => {
            as_stored(Precision::Bf16, "a processor", shards, &there)?;
            machine = machine.with_pairs();
        }
        wanted => {
            as_stored(wanted, "a processor", shards, &there)?;
            precision = shards.precision();
        }
    }
    let kv = options.kv_precision.unwrap_or(match precision.as_str() {
        "f32" => KvPrecision::F32,
        _ => KvPrecision::F16,
    });
    let cached_bytes = shape.cached_elements() * kv.bytes();
    let weight_bytes = shards.bytes();
    let model = Arc::new(Native::load(shards, shape, machine, int8)?.with_kv(kv));
    Ok(Loaded { model, precision, kv_precision: kv.as_str(), cached_bytes, weight_bytes })
}

/// Fails unless keys and values are wanted as a device holds them, if they are wanted in any way.
fn as_it_is(
    wanted: Option<KvPrecision>,
    device: &'static str,
    found: &'static str,
) -> Result<&'static str, EngineError> {
    match wanted.map(KvPrecision::as_str) {
        Some(wanted) if wanted != found => Err(EngineError::KvPrecision { wanted, device, found }),
        _ => Ok(found),
    }
}

/// Fails unless weights are wanted in the form that they are stored in.
fn as_stored(
    wanted: Precision,
    device: &'static str,
    shards: &Shards,
    there: &[&str],
) -> Result<(), EngineError> {
    let found = shards.precision();
    if wanted == Precision::Stored || wanted.as_str() == found {
        return Ok(());
    }
    let expected = there.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
    Err(EngineError::Precision { wanted: wanted.as_str(), device, found, expected })
}

//! What this worker computes on: decided once by the measured configuration, before a model is loaded.
//!
//! ```text
//! [worker] device    "cpu" ----------> processor
//!                    "gpu" ----------> GPU, or no worker: the line says what lacks
//!                    "gpu-or-cpu" ---> GPU, or the processor: the line says which, and what lacks
//! ```

use engine::{Device, Gpu, KvPrecision, NoGpu, Options, Precision};
use protocol::config::{self, WorkerConfig, WorkerDevice};
use protocol::market;

/// Longest name of a device that is announced.
const NAME: usize = 64;

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compute {
    /// For the engine.
    pub options: Options,
    gpu: Option<Gpu>,
    /// Why the processor computes where a GPU would have been welcome.
    lacks: Option<NoGpu>,
}

impl Compute {
    /// Decides; `look` looks for a GPU, and only where one is wanted.
    ///
    /// # Errors
    /// A GPU is demanded and there is none.
    pub fn choose(
        config: Option<&WorkerConfig>,
        look: impl FnOnce() -> Result<Gpu, NoGpu>,
    ) -> Result<Self, NoGpu> {
        let config = config.cloned().unwrap_or_default();
        let precision = match config.precision.unwrap_or_default() {
            config::Precision::Stored => Precision::Stored,
            config::Precision::Bf16 => Precision::Bf16,
            config::Precision::Bf16Rounded => Precision::Bf16Rounded,
            config::Precision::F32 => Precision::F32,
            config::Precision::Int8 => Precision::Int8,
        };
        let kv_precision = config.kv_precision.map(|kv| match kv {
            config::KvPrecision::F16 => KvPrecision::F16,
            config::KvPrecision::F32 => KvPrecision::F32,
        });
        let threads = config.threads.map_or(0, usize::from);
        let on = |device| Options { precision, kv_precision, threads, device };
        let processor = Compute { options: on(Device::Processor), gpu: None, lacks: None };
        let found = match config.device.unwrap_or_default() {
            WorkerDevice::Processor => return Ok(processor),
            WorkerDevice::Gpu => Ok(look()?),
            WorkerDevice::GpuOrProcessor => look(),
        };
        Ok(match found {
            Ok(gpu) => Compute { options: on(Device::Gpu), gpu: Some(gpu), lacks: None },
            Err(lacks) => Compute { lacks: Some(lacks), ..processor },
        })
    }

    /// The same with one of `models` equal parts of the GPU's memory.
    pub fn share(&self, models: usize) -> Compute {
        let mut share = self.clone();
        if let Some(gpu) = &mut share.gpu {
            gpu.memory_bytes /= models.max(1) as u64;
        }
        share
    }

    /// Bytes of the GPU, where one computes.
    pub fn gpu_memory(&self) -> Option<u64> {
        self.gpu.as_ref().map(|gpu| gpu.memory_bytes)
    }

    /// For the worker's first line.
    pub fn said(&self) -> String {
        let precision = match self.options.precision {
            Precision::Stored => String::new(),
            other => format!(", weights in {}", other.as_str()),
        };
        let kv = self.options.kv_precision;
        let kv = kv.map_or_else(String::new, |kv| format!(", keys and values in {}", kv.as_str()));
        match (&self.gpu, &self.lacks) {
            (Some(gpu), _) => format!("computing on {} (CUDA {}){precision}{kv}", gpu.name, gpu.cuda),
            (None, Some(lacks)) => format!("computing on the processor{precision}{kv}; no GPU: {lacks}"),
            (None, None) => format!("computing on the processor{precision}{kv}"),
        }
    }

    /// As it is announced to proxies.
    pub fn device(&self) -> market::Device {
        match &self.gpu {
            Some(gpu) => announced("gpu", &gpu.name, gpu.memory_bytes),
            None => processor(),
        }
    }
}

fn announced(kind: &str, name: &str, memory_bytes: u64) -> market::Device {
    let name = name.chars().filter(char::is_ascii).take(NAME).collect();
    market::Device { kind: kind.into(), name, memory_bytes }
}

/// The processor and the memory, as the kernel names them.
fn processor() -> market::Device {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let name = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into());
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: u64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    announced("cpu", &name, kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(device: WorkerDevice) -> WorkerConfig {
        WorkerConfig { device: Some(device), precision: Some(config::Precision::Int8), ..Default::default() }
    }

    fn h200() -> Gpu {
        Gpu { name: "NVIDIA H200".into(), memory_bytes: 1 << 37, cuda: 12040, capability: (9, 0) }
    }

    #[test]
    fn without_a_word_the_processor_computes_and_no_gpu_is_looked_for() {
        for config in [None, Some(&wants(WorkerDevice::Processor))] {
            let compute = Compute::choose(config, || panic!("looked")).unwrap();
            assert_eq!((compute.options.device, compute.device().kind.as_str()), (Device::Processor, "cpu"));
            assert!(compute.said().starts_with("computing on the processor"), "{}", compute.said());
        }
    }

    #[test]
    fn a_gpu_that_is_demanded_and_lacks_ends_the_worker() {
        let refused = Compute::choose(Some(&wants(WorkerDevice::Gpu)), || Err(NoGpu::NoDriver));
        assert_eq!(refused, Err(NoGpu::NoDriver));
    }

    #[test]
    fn a_gpu_that_is_welcome_and_lacks_is_named_beside_the_processor() {
        let compute = Compute::choose(Some(&wants(WorkerDevice::GpuOrProcessor)), || Err(NoGpu::NoDevice));
        let compute = compute.unwrap();
        assert_eq!(compute.options, Options { precision: Precision::Int8, ..Options::default() });
        let said = compute.said();
        assert!(
            said.contains("the processor, weights in int8; no GPU: ") && said.contains("/dev/nvidia0"),
            "{said}"
        );
    }

    #[test]
    fn a_gpu_that_is_there_computes_and_is_announced() {
        for device in [WorkerDevice::Gpu, WorkerDevice::GpuOrProcessor] {
            let compute = Compute::choose(Some(&wants(device)), || Ok(h200())).unwrap();
            assert_eq!(compute.options.device, Device::Gpu);
            assert!(compute.said().contains("NVIDIA H200"), "{}", compute.said());
            let announced = compute.device();
            assert_eq!((announced.kind.as_str(), announced.memory_bytes), ("gpu", 1 << 37));
        }
    }

    #[test]
    fn precisions_of_the_configuration_reach_the_engine_and_are_said() {
        for (precision, kv, said) in [
            (config::Precision::Bf16Rounded, None, "the processor, weights in bf16-rounded"),
            (
                config::Precision::Int8,
                Some(config::KvPrecision::F32),
                "the processor, weights in int8, keys and values in f32",
            ),
            (
                config::Precision::Stored,
                Some(config::KvPrecision::F16),
                "the processor, keys and values in f16",
            ),
        ] {
            let config = WorkerConfig { precision: Some(precision), kv_precision: kv, ..Default::default() };
            let compute = Compute::choose(Some(&config), || panic!("looked")).unwrap();
            assert_eq!(
                compute.options.kv_precision.map(KvPrecision::as_str),
                kv.map(config::KvPrecision::as_str)
            );
            assert!(compute.said().ends_with(said), "{}", compute.said());
        }
    }

    #[test]
    fn threads_of_the_configuration_reach_the_engine() {
        let config = WorkerConfig { threads: Some(3), ..Default::default() };
        let compute = Compute::choose(Some(&config), || panic!("looked")).unwrap();
        assert_eq!(compute.options.threads, 3);
    }
}

//! What a worker computes on, as the measured configuration says it: whoever appraises a worker reads it in its evidence.
//!
//! ```text
//! [worker]  device = "cpu" | "gpu" | "gpu-or-cpu"      precision = "as stored" | "bf16" | "bf16-rounded" | "f32" | "int8"
//!           kv_precision = "f16" | "f32"               threads = 4
//! ```
//! Nothing of it is needed: a worker without them computes on the processor with weights as they are stored.

use super::{ConfigError, WorkerConfig, value};
use serde::{Deserialize, Serialize};

/// Most threads of a model.
const MAX_THREADS: u16 = 1024;

/// What a worker computes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerDevice {
    /// The processor, whatever else there is.
    #[default]
    #[serde(rename = "cpu")]
    Processor,
    /// A GPU; without one the worker does not start.
    #[serde(rename = "gpu")]
    Gpu,
    /// A GPU if there is one, else the processor; the worker says which.
    #[serde(rename = "gpu-or-cpu")]
    GpuOrProcessor,
}

/// In which form a worker holds the weights of text models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// As their files have them.
    #[default]
    #[serde(rename = "as stored")]
    Stored,
    /// bfloat16.
    #[serde(rename = "bf16")]
    Bf16,
    /// bfloat16 as stored, and on a processor activations of prompts rounded to it.
    #[serde(rename = "bf16-rounded")]
    Bf16Rounded,
    /// Single precision.
    #[serde(rename = "f32")]
    F32,
    /// Bytes, with a scale for 32 of them.
    #[serde(rename = "int8")]
    Int8,
}

/// In which precision a worker holds keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvPrecision {
    /// Half precision.
    #[serde(rename = "f16")]
    F16,
    /// Single precision.
    #[serde(rename = "f32")]
    F32,
}

impl WorkerDevice {
    /// As it stands in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerDevice::Processor => "cpu",
            WorkerDevice::Gpu => "gpu",
            WorkerDevice::GpuOrProcessor => "gpu-or-cpu",
        }
    }
}

impl Precision {
    /// As it stands in the configuration.
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

impl KvPrecision {
    /// As it stands in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            KvPrecision::F16 => "f16",
            KvPrecision::F32 => "f32",
        }
    }
}

/// The number of threads is one that a machine may have.
pub(super) fn check(worker: &WorkerConfig) -> Result<(), ConfigError> {
    match worker.threads {
        Some(threads) if !(1..=MAX_THREADS).contains(&threads) => {
            Err(value("static", "worker.threads".into(), &threads.to_string(), "1 to 1024"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::StaticConfig;
    use super::*;

    fn parse(worker: &str) -> Result<WorkerConfig, ConfigError> {
        let text = format!("schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[worker]\n{worker}");
        StaticConfig::parse(text.as_bytes()).map(|config| config.worker.unwrap_or_default())
    }

    #[test]
    fn a_worker_that_says_nothing_computes_on_the_processor_as_stored() {
        let worker = parse("").unwrap();
        assert_eq!(worker, WorkerConfig::default());
        assert_eq!(worker.device.unwrap_or_default(), WorkerDevice::Processor);
        assert_eq!(worker.precision.unwrap_or_default(), Precision::Stored);
    }

    #[test]
    fn every_device_and_precision_is_read_by_its_name() {
        for device in [WorkerDevice::Processor, WorkerDevice::Gpu, WorkerDevice::GpuOrProcessor] {
            for precision in
                [Precision::Stored, Precision::Bf16, Precision::Bf16Rounded, Precision::F32, Precision::Int8]
            {
                let text =
                    format!("device = \"{}\"\nprecision = \"{}\"", device.as_str(), precision.as_str());
                let worker = parse(&text).unwrap();
                assert_eq!((worker.device, worker.precision), (Some(device), Some(precision)));
            }
        }
    }

    #[test]
    fn both_precisions_of_keys_and_values_are_read_by_their_names() {
        assert_eq!(parse("").unwrap().kv_precision, None);
        for kv in [KvPrecision::F16, KvPrecision::F32] {
            let worker = parse(&format!("kv_precision = \"{}\"", kv.as_str())).unwrap();
            assert_eq!(worker.kv_precision, Some(kv));
        }
    }

    #[test]
    fn other_devices_precisions_and_numbers_are_refused() {
        for bad in [
            "device = \"cuda\"",
            "device = \"\"",
            "precision = \"fp8\"",
            "kv_precision = \"bf16\"",
            "kv_precision = \"int8\"",
            "kv_precision = 16",
            "threads = 0",
            "threads = 1025",
            "threads = -1",
            "memory = 3",
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("static configuration"), "{bad}: {error}");
        }
    }
}

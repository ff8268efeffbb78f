//! QEMU releases whose tables are known, and the GPUs whose BARs are.

use serde::{Deserialize, Serialize};

/// A QEMU release, as far as measured tables tell releases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum QemuVersion {
    /// 8.2, the base of the first TDX trees.
    #[serde(rename = "8.2")]
    V8_2,
    /// 9.2, the base of later TDX trees.
    #[serde(rename = "9.2")]
    V9_2,
    /// 10.0, the emulated platform's.
    #[serde(rename = "10.0")]
    V10_0,
    /// 10.1, the first upstream release that starts trust domains.
    #[serde(rename = "10.1")]
    V10_1,
    /// 10.2.
    #[serde(rename = "10.2")]
    V10_2,
    /// 11.1.
    #[serde(rename = "11.1")]
    V11_1,
}

/// How far the generator was held against a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Validation {
    /// Byte-equal to tables that a trust domain on real hardware measured, and to an emulated machine's.
    TrustDomain,
    /// Byte-equal to an emulated machine's tables; what the release does differently in a trust domain is known from its
    /// source alone.
    EmulatedAndSource,
    /// Byte-equal to an emulated machine's tables; what the release does in a trust domain isn't validated.
    Emulated,
}

impl QemuVersion {
    /// All, ascending.
    pub const ALL: [QemuVersion; 6] = [
        QemuVersion::V8_2,
        QemuVersion::V9_2,
        QemuVersion::V10_0,
        QemuVersion::V10_1,
        QemuVersion::V10_2,
        QemuVersion::V11_1,
    ];

    /// As it is written in a shape.
    pub fn name(self) -> &'static str {
        match self {
            QemuVersion::V8_2 => "8.2",
            QemuVersion::V9_2 => "9.2",
            QemuVersion::V10_0 => "10.0",
            QemuVersion::V10_1 => "10.1",
            QemuVersion::V10_2 => "10.2",
            QemuVersion::V11_1 => "11.1",
        }
    }

    /// How the generated tables of this release were validated.
    pub fn validation(self) -> Validation {
        match self {
            QemuVersion::V9_2 | QemuVersion::V10_2 => Validation::TrustDomain,
            QemuVersion::V10_1 => Validation::EmulatedAndSource,
            // 8.2 starts trust domains only as patched trees, 10.0 not at all; the source of 11.1 wasn't at hand.
            QemuVersion::V8_2 | QemuVersion::V10_0 | QemuVersion::V11_1 => Validation::Emulated,
        }
    }
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Model of the passed-through GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gpu {
    /// H100, 80 GB.
    H100,
    /// H200, 141 GB.
    H200,
    /// B200, 180 GB.
    B200,
    /// B300, 288 GB.
    B300,
}

impl Gpu {
    /// Bytes of the 64-bit prefetchable BARs, as the boards show them to a host: registers, memory, and a small one.
    pub fn bars(self) -> [u64; 3] {
        let memory = match self {
            Gpu::H100 => 128 << 30,
            Gpu::H200 | Gpu::B200 => 256 << 30,
            Gpu::B300 => 512 << 30,
        };
        let registers = if matches!(self, Gpu::H100 | Gpu::H200) { 16 << 20 } else { 64 << 20 };
        [registers, memory, 32 << 20]
    }

    /// As it is written in a shape.
    pub fn name(self) -> &'static str {
        match self {
            Gpu::H100 => "h100",
            Gpu::H200 => "h200",
            Gpu::B200 => "b200",
            Gpu::B300 => "b300",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_shape_says() {
        for version in QemuVersion::ALL {
            assert_eq!(serde_json::to_string(&version).unwrap(), format!("\"{version}\""));
        }
        assert_eq!(serde_json::to_string(&Gpu::B200).unwrap(), "\"b200\"");
    }

    #[test]
    fn bars_are_powers_of_two() {
        for gpu in [Gpu::H100, Gpu::H200, Gpu::B200, Gpu::B300] {
            assert!(gpu.bars().iter().all(|size| size.is_power_of_two()), "{}", gpu.name());
        }
    }
}

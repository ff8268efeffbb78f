//! What is accepted of GPUs: trust roots, modes, firmware floors, how many.

use super::forms::MAX_DEVICES;
use super::opaque::Mode;
use super::x509::Cert;
use crate::policy::SIMULATED_MARK;
use serde::{Deserialize, Serialize};

/// SHA-256 of the public key info of NVIDIA's root for devices, "NVIDIA Device Identity CA" (DER; the certificate is published
/// in NVIDIA/attestation-sdk as DEVICE_ROOT_CERT and in nv-local-gpu-verifier as `certs/verifier_device_root.pem`).
pub const NVIDIA_DEVICE_ROOT: &str = "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4";
/// The same of NVIDIA's root for manifests, "NVIDIA CoRIM signing Root CA" (RIM_ROOT_CERT, `certs/verifier_RIM_root.pem`).
pub const NVIDIA_RIM_ROOT: &str = "dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3";

/// Longest text of settings, in bytes.
const MAX_SETTINGS: usize = 16 * 1024;

/// Whose word the evidence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuPlatform {
    /// Hardware of NVIDIA.
    Nvidia,
    /// A simulation, which proves nothing about hardware.
    Simulated,
}

/// What is accepted. There are two ways to one: NVIDIA's roots, or those of a simulation, which say so in their names.
#[derive(Debug, Clone)]
pub struct GpuPolicy {
    platform: GpuPlatform,
    device_root: String,
    rim_root: String,
    /// Everything but the roots.
    pub settings: GpuSettings,
}

/// The part of a policy that is data; every field may be left out, and the defaults are strict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct GpuSettings {
    /// How many GPUs there are.
    pub count: usize,
    /// Modes that are accepted. Protected PCIe also needs the evidence of every NVSwitch.
    pub modes: Vec<Mode>,
    /// Chips that are accepted, as in `GH100`; none means every one that is known.
    pub models: Vec<String>,
    /// Oldest driver, as in `550.90.07`.
    pub driver_min: Option<String>,
    /// Oldest VBIOS, as in `96.00.9F.00.01`.
    pub vbios_min: Option<String>,
    /// Further floors, by chip, which others asked for ([`crate::Policy::tightened`]); never read from a policy's text.
    #[serde(skip)]
    pub floors: Vec<GpuFloor>,
}

/// Lowest firmware of one chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFloor {
    /// Chip, as in `GH100`.
    pub model: String,
    /// Oldest driver, as in `550.90.07`.
    pub driver_min: String,
    /// Oldest VBIOS, as in `96.00.9F.00.01`.
    pub vbios_min: String,
}

impl GpuFloor {
    /// Refuses floors that no version could be compared with.
    pub fn check(&self) -> Result<(), GpuPolicyError> {
        let (driver_min, vbios_min) = (Some(self.driver_min.clone()), Some(self.vbios_min.clone()));
        GpuSettings { driver_min, vbios_min, ..GpuSettings::default() }.check()
    }
}

impl Default for GpuSettings {
    fn default() -> Self {
        GpuSettings {
            count: 1,
            modes: vec![Mode::Spt, Mode::Mpt, Mode::Ppcie],
            models: Vec::new(),
            driver_min: None,
            vbios_min: None,
            floors: Vec::new(),
        }
    }
}

impl GpuSettings {
    /// Reads the keys of a policy's `[gpu]` table, without its header; unknown ones are refused.
    pub fn parse(text: &str) -> Result<Self, GpuPolicyError> {
        if text.len() > MAX_SETTINGS {
            let found = format!("{} bytes", text.len());
            return Err(GpuPolicyError::Value { field: "text", found, expected: "at most 16 KiB" });
        }
        let settings: GpuSettings = toml::from_str(text).map_err(Box::new)?;
        settings.check()?;
        Ok(settings)
    }

    /// Refuses what can never be met.
    pub fn check(&self) -> Result<(), GpuPolicyError> {
        let value = |field, found: String, expected| Err(GpuPolicyError::Value { field, found, expected });
        if self.count == 0 || self.count > MAX_DEVICES {
            return value("gpu.count", self.count.to_string(), "1 to 64");
        }
        if self.modes.is_empty() {
            return value("gpu.modes", "empty".into(), "at least one mode");
        }
        for (field, floor, radix) in
            [("gpu.driver-min", &self.driver_min, 10), ("gpu.vbios-min", &self.vbios_min, 16)]
        {
            if let Some(floor) = floor.as_ref().filter(|floor| version(floor, radix).is_none()) {
                return value(field, floor.clone(), "numbers with dots between them");
            }
        }
        Ok(())
    }
}

/// Why a GPU policy was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuPolicyError {
    /// A root that is no certificate with a P-384 key.
    #[error("GPU policy: root: {0}; give the root certificate as DER")]
    BadRoot(String),
    /// A root that does not say that it is simulated.
    #[error("GPU policy: root `{subject}` {reason}; a policy of hardware has NVIDIA's roots built in")]
    NotSimulated {
        /// Its subject.
        subject: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not the TOML this schema wants; the message carries line and column.
    #[error("GPU policy: {0}")]
    Syntax(#[from] Box<toml::de::Error>),
    /// A value that may not stand there.
    #[error("GPU policy: {field} is {found}, expected {expected}")]
    Value {
        /// Which.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What may.
        expected: &'static str,
    },
}

impl GpuPolicy {
    /// NVIDIA's roots and strict settings.
    pub fn production() -> Self {
        GpuPolicy {
            platform: GpuPlatform::Nvidia,
            device_root: NVIDIA_DEVICE_ROOT.into(),
            rim_root: NVIDIA_RIM_ROOT.into(),
            settings: GpuSettings::default(),
        }
    }

    /// The roots of a simulation, DER; each must say so in its subject.
    pub fn simulated(device_root: &[u8], rim_root: &[u8]) -> Result<Self, GpuPolicyError> {
        Ok(GpuPolicy {
            platform: GpuPlatform::Simulated,
            device_root: simulated_root(device_root)?,
            rim_root: simulated_root(rim_root)?,
            settings: GpuSettings::default(),
        })
    }

    /// The same with other settings.
    pub fn with(mut self, settings: GpuSettings) -> Result<Self, GpuPolicyError> {
        settings.check()?;
        self.settings = settings;
        Ok(self)
    }

    /// Whose word this policy takes.
    pub fn platform(&self) -> GpuPlatform {
        self.platform
    }

    /// SHA-256 of the device root's public key info, hex.
    pub fn device_root(&self) -> &str {
        &self.device_root
    }

    /// SHA-256 of the manifest root's public key info, hex.
    pub fn rim_root(&self) -> &str {
        &self.rim_root
    }
}

fn simulated_root(der: &[u8]) -> Result<String, GpuPolicyError> {
    let cert = Cert::parse(der).map_err(GpuPolicyError::BadRoot)?;
    let (key, subject) = (cert.key_fingerprint(), cert.subject());
    if [NVIDIA_DEVICE_ROOT, NVIDIA_RIM_ROOT].contains(&key.as_str()) {
        return Err(GpuPolicyError::NotSimulated { subject, reason: "has a key of NVIDIA's" });
    }
    if !subject.contains(SIMULATED_MARK) {
        return Err(GpuPolicyError::NotSimulated { subject, reason: "does not say SIMULATED" });
    }
    Ok(key)
}

/// A version as numbers that compare in order.
pub(crate) fn version(text: &str, radix: u32) -> Option<Vec<u32>> {
    text.split('.').map(|part| u32::from_str_radix(part, radix).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version("550.90.07", 10) < version("550.144.03", 10));
        assert!(version("96.00.9F.00.01", 16) < version("96.00.A5.00.01", 16));
        assert_eq!(version("550.x", 10), None);
    }

    #[test]
    fn settings_that_can_never_be_met_are_refused() {
        let refuse = |settings: GpuSettings| GpuPolicy::production().with(settings).unwrap_err().to_string();
        assert!(refuse(GpuSettings { count: 0, ..Default::default() }).contains("count is 0"));
        assert!(refuse(GpuSettings { modes: vec![], ..Default::default() }).contains("at least one mode"));
        let floor = GpuSettings { driver_min: Some("newest".into()), ..Default::default() };
        assert!(refuse(floor).contains("driver-min is newest"));
    }

    #[test]
    fn unknown_settings_are_refused() {
        let refuse = |text: &str| GpuSettings::parse(text).unwrap_err().to_string();
        let error = refuse("models = []\ncuont = 2");
        assert!(error.contains("cuont") && error.contains("line 2"), "{error}");
        assert!(refuse("count = 65").contains("count is 65"));
        assert!(refuse(&"#".repeat(MAX_SETTINGS + 1)).contains("at most 16 KiB"));
        assert_eq!(GpuSettings::parse("").unwrap(), GpuSettings::default());
    }
}

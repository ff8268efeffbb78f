//! What an appraisal of GPUs says: the same shape as a quote's verdict, with a device's number on each check of a device.

use super::opaque::{DeviceKind, Opaque};
use super::policy::GpuPlatform;
use crate::Hex;
use crate::time;
use crate::verdict::{Check, Name, Status, write_check};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::{self, Write};

/// Marks what no evidence of hardware was at hand for.
pub const NOT_VALIDATED: &str = "not validated on hardware";

macro_rules! names {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $next:literal;)*) => {
        /// Every check of GPUs there is, in the order of the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum GpuCheckName {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl Name for GpuCheckName {
            const LIST: &'static [Self] = &[$(GpuCheckName::$variant),*];
            fn text(self) -> &'static str {
                match self { $(GpuCheckName::$variant => $text),* }
            }
            fn next(self) -> &'static str {
                match self { $(GpuCheckName::$variant => $next),* }
            }
        }
    };
}

names! {
    /// There are as many GPUs as the policy says.
    Count = "gpu_count", "ask for the evidence of every GPU of the machine, and of no other";
    /// No GPU stands twice.
    Distinct = "gpu_distinct", "do not use this machine: one GPU answered in the place of another";
    /// All GPUs have the same chip, driver, VBIOS and mode.
    Uniform = "gpu_uniform", "have the operator bring all GPUs to one firmware and one mode";
    /// Protected PCIe is off, or the NVSwitches at the ends of all NVLinks were appraised too.
    ProtectedPcie = "gpu_protected_pcie", "give the evidence of every NVSwitch of the machine, or turn protected PCIe off";
    /// The bytes are an attestation report.
    ReportFormat = "gpu_report_format", "fetch the report again, whole";
    /// The device's chain ends in the policy's root.
    TrustRoot = "gpu_trust_root", "use the policy of this platform; if it is NVIDIA's, do not use this device";
    /// The device's chain holds together.
    Chain = "gpu_chain", "fetch report and certificates of the same device again; if they still differ, do not use it";
    /// The device's certificates hold at the given time.
    ChainValidity = "gpu_chain_validity", "appraise at the time when the report was made";
    /// The report is signed by the device.
    ReportSignature = "gpu_report_signature", "do not use this device: the report was not made by it as it is";
    /// The device is of a kind that the policy takes.
    Identity = "gpu_identity", "use a chip that the policy names";
    /// The report was made for this challenge.
    Nonce = "gpu_nonce", "ask for a new report with the nonce of this session";
    /// The firmware that signed is the one that the leaf was issued for.
    Fwid = "gpu_fwid", "fetch report and certificates of the same boot of the device";
    /// Confidential computing is on, in a mode that the policy takes.
    CcMode = "gpu_cc_mode", "have the operator set the device to confidential computing without DevTools";
    /// Driver and VBIOS are not older than the policy's floors.
    FirmwareFloor = "gpu_firmware_floor", "have the operator update driver and VBIOS";
    /// The driver's manifest is NVIDIA's.
    DriverRimSignature = "gpu_driver_rim_signature", "fetch the driver's manifest anew; do not use this copy";
    /// The driver's manifest holds at the given time.
    DriverRimValidity = "gpu_driver_rim_validity", "fetch the driver's manifest anew";
    /// The driver's manifest is the one of this driver and chip.
    DriverRimVersion = "gpu_driver_rim_version", "fetch the manifest of the driver that runs";
    /// The driver's measurements are golden.
    DriverMeasurements = "gpu_driver_measurements", "reset the device and load an unmodified driver; else do not use it";
    /// The VBIOS's manifest is NVIDIA's.
    VbiosRimSignature = "gpu_vbios_rim_signature", "fetch the VBIOS's manifest anew; do not use this copy";
    /// The VBIOS's manifest holds at the given time.
    VbiosRimValidity = "gpu_vbios_rim_validity", "fetch the VBIOS's manifest anew";
    /// The VBIOS's manifest is the one of this VBIOS and chip.
    VbiosRimVersion = "gpu_vbios_rim_version", "fetch the manifest of the VBIOS that runs";
    /// The VBIOS's measurements are golden.
    VbiosMeasurements = "gpu_vbios_measurements", "do not use this device: its firmware is none that NVIDIA published";
    /// The device is not under debug.
    Debug = "gpu_debug", "do not use this device: its operator can read it";
    /// No certificate is revoked.
    Revocation = "gpu_revocation", "fetch OCSP responses anew; if one still says so, do not use the device";
}

impl GpuCheckName {
    /// As it stands in the JSON.
    pub fn as_str(self) -> &'static str {
        self.text()
    }

    /// Checks of the machine as a whole.
    pub(crate) const SET: &'static [Self] = {
        use GpuCheckName::*;
        &[Count, Distinct, Uniform, ProtectedPcie]
    };

    /// Whether it is one of a device of this kind. An NVSwitch has no driver and no modes.
    pub(crate) fn is_of(self, kind: DeviceKind) -> bool {
        use GpuCheckName::*;
        let driver = matches!(
            self,
            CcMode | DriverRimSignature | DriverRimValidity | DriverRimVersion | DriverMeasurements
        );
        !Self::SET.contains(&self) && (kind == DeviceKind::Gpu || !driver)
    }
}

/// A check of the machine, or of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuCheck {
    /// Number of the device, counted from 0; none for checks of the machine as a whole.
    pub device: Option<usize>,
    /// The check.
    #[serde(flatten)]
    pub check: Check<GpuCheckName>,
}

/// Generation of a chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// GH1xx.
    Hopper,
    /// GB1xx and GB2xx.
    Blackwell,
    /// NVSwitch of Hopper machines.
    Ls10,
}

/// How one measurement compares with its golden values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeasurementFact {
    /// Index as manifests count, from 0; the report's is one more.
    pub index: u8,
    /// Which manifest: `driver` or `vbios`.
    pub rim: &'static str,
    /// Name in the manifest.
    pub name: String,
    /// Whether it is golden.
    pub status: Status,
    /// Any of these, hex.
    pub expected: Vec<String>,
    /// What the report has, hex.
    pub actual: Option<String>,
}

/// What is known of a device.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DeviceFacts {
    /// GPU or NVSwitch, once its certificates could be read.
    pub kind: Option<DeviceKind>,
    /// Chip, as in `GH100`.
    pub model: Option<String>,
    /// Its generation.
    pub architecture: Option<Architecture>,
    /// Serial number of the device in its leaf certificate.
    pub serial: Option<String>,
    /// SHA-256 of the device's identity key, as public key info.
    pub identity_key: Option<String>,
    /// Subjects of its certificates, leaf first.
    pub chain: Vec<String>,
    /// What the verifier asked to be signed.
    pub nonce: Option<Hex<32>>,
    /// NVIDIA's own data.
    pub opaque: Option<Opaque>,
    /// Names under which NVIDIA publishes its manifests: driver, VBIOS.
    pub rims: Vec<String>,
    /// Every measurement that was compared.
    pub measurements: Vec<MeasurementFact>,
}

/// The whole answer. Both an acceptance and a refusal carry one.
#[derive(Debug, Clone, Serialize)]
pub struct GpuVerdict {
    /// No check failed, of those that ran.
    pub accepted: bool,
    /// Every check ran.
    pub complete: bool,
    /// Whose word it is: NVIDIA's hardware, or a simulation.
    pub platform: GpuPlatform,
    /// The time for which this was found, Unix seconds.
    pub at: u64,
    /// What took part and was written from specifications alone.
    pub not_validated_on_hardware: Vec<String>,
    /// Each device, in the order given.
    pub devices: Vec<DeviceFacts>,
    /// Every check, those of the machine first.
    pub checks: Vec<GpuCheck>,
}

impl GpuVerdict {
    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &GpuCheck> {
        self.checks.iter().filter(|c| c.check.status == Status::Fail)
    }

    /// The checks that were not run.
    pub fn skipped(&self) -> impl Iterator<Item = &GpuCheck> {
        self.checks.iter().filter(|c| c.check.status == Status::Skipped)
    }

    /// Names of the checks for which it is no acceptance, each once: those that failed, or if none did, those that lacked
    /// something.
    pub fn reasons(&self) -> Vec<&'static str> {
        let names = |found: Vec<&GpuCheck>| -> BTreeSet<GpuCheckName> {
            found.into_iter().map(|entry| entry.check.name).collect()
        };
        let failed = names(self.failed().collect());
        let names = if failed.is_empty() { names(self.skipped().collect()) } else { failed };
        names.into_iter().map(GpuCheckName::as_str).collect()
    }

    /// The check of this name, of this device or of the machine.
    pub fn check(&self, device: Option<usize>, name: GpuCheckName) -> Option<&Check<GpuCheckName>> {
        self.checks.iter().find(|c| c.device == device && c.check.name == name).map(|c| &c.check)
    }

    /// When the first of its expectations expires, Unix seconds.
    pub fn expires(&self) -> Option<u64> {
        self.checks.iter().filter_map(|c| c.check.expires).min()
    }

    /// The verdict as a table of one screen; `colour` writes failures in red and skipped checks in yellow. Of several devices,
    /// only what did not pass is listed.
    pub fn table(&self, colour: bool) -> String {
        let mut out = String::new();
        // A String takes everything that is written to it.
        let _ = self.write_table(&mut out, colour);
        out
    }

    fn write_table(&self, out: &mut impl Write, colour: bool) -> fmt::Result {
        let word = match (self.accepted, self.complete) {
            (true, true) => "ACCEPTED",
            (true, false) => "INCOMPLETE",
            (false, _) => "REFUSED",
        };
        let platform = match self.platform {
            GpuPlatform::Nvidia => "NVIDIA",
            GpuPlatform::Simulated => "SIMULATED GPU, no proof of hardware",
        };
        let until = self.expires().map_or_else(|| "unknown".into(), time::show);
        writeln!(out, "{word}: {platform}, at {}; holds until {until}", time::show(self.at))?;
        if !self.not_validated_on_hardware.is_empty() {
            writeln!(out, "{NOT_VALIDATED}: {}", self.not_validated_on_hardware.join(", "))?;
        }
        for (number, device) in self.devices.iter().enumerate() {
            writeln!(out, "{number}: {}", device.words())?;
        }
        let brief = self.devices.len() > 1;
        for entry in &self.checks {
            if brief && entry.device.is_some() && entry.check.status == Status::Pass {
                continue;
            }
            let label = entry.device.filter(|_| brief).map_or(String::new(), |device| format!("{device}: "));
            write_check(out, &entry.check, &label, 25, colour)?;
        }
        Ok(())
    }
}

impl DeviceFacts {
    fn words(&self) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        let opaque = self.opaque.clone().unwrap_or_default();
        let mode = opaque.mode.map_or_else(|| "mode not named".into(), |mode| mode.words());
        let kind = if self.kind == Some(DeviceKind::Switch) { "NVSwitch" } else { "GPU" };
        format!(
            "{kind} {} {}, driver {}, VBIOS {}, {mode}",
            text(&self.model),
            text(&self.serial),
            text(&opaque.driver_version),
            text(&opaque.vbios_version)
        )
    }
}

impl fmt::Display for GpuVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_table(f, false)
    }
}

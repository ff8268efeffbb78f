//! Events as a type, and a foretold list of them.
//!
//! A prediction is the list of events in the order in which the machine will measure them; registers are a fold of it.

use crate::hash::Digests;
use crate::register::{Digest384, Register, Registers};
use crate::shape::{Boot, Platform};
use crate::tcg;
use crate::uki::UkiSection;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use std::fmt;

/// TCG PFP table 27.
const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;
/// The same.
const EV_EFI_HANDOFF_TABLES: u32 = 0x8000_0009;

/// A volume of the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FirmwareVolume {
    /// PEIFV.
    Pei,
    /// DXEFV.
    Dxe,
}

/// A variable of the Secure Boot configuration, in measurement order (EDK2 `Tcg2Dxe`, `MeasureAllSecureVariables`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecureBootVariable {
    /// Whether Secure Boot is on.
    SecureBoot,
    /// Platform key.
    Pk,
    /// Key exchange keys.
    Kek,
    /// Allowed signatures.
    Db,
    /// Forbidden signatures.
    Dbx,
}

impl SecureBootVariable {
    /// All, in measurement order.
    pub const ALL: [SecureBootVariable; 5] = [
        SecureBootVariable::SecureBoot,
        SecureBootVariable::Pk,
        SecureBootVariable::Kek,
        SecureBootVariable::Db,
        SecureBootVariable::Dbx,
    ];

    /// The variable's name.
    pub fn name(self) -> &'static str {
        match self {
            SecureBootVariable::SecureBoot => "SecureBoot",
            SecureBootVariable::Pk => "PK",
            SecureBootVariable::Kek => "KEK",
            SecureBootVariable::Db => "db",
            SecureBootVariable::Dbx => "dbx",
        }
    }
}

/// One of the ACPI files that QEMU hands over, in download order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AcpiFile {
    /// `etc/table-loader`.
    Loader,
    /// `etc/acpi/rsdp`.
    Rsdp,
    /// `etc/tpm/log`.
    TpmLog,
    /// `etc/acpi/tables`.
    Tables,
}

/// What is measured. Variants stand in the order of a direct boot; each names the code that measures it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Firmware version (EDK2 `Tcg2Pei`, `MeasureCRTMVersion`).
    FirmwareVersion,
    /// A firmware volume as it lies in memory (EDK2 `Tcg2Pei`, `MeasureFvImage`).
    FirmwareVolume(FirmwareVolume),
    /// Secure Boot configuration (EDK2 `Tcg2Dxe`, `MeasureAllSecureVariables`).
    SecureBoot(SecureBootVariable),
    /// Certificate that allows an image under Secure Boot (EDK2 `DxeImageVerificationLib`).
    Authority,
    /// List of memory ranges that the VMM wrote (TDX; EDK2 `SecTdxHelper`, `TdxHelperMeasureTdHob`).
    TdHob,
    /// Configuration firmware volume, the variable store in a TDVF image (TDX; `TdxHelperMeasureCfvImage`).
    ConfigurationVolume,
    /// End of a firmware stage in one PCR (EDK2 `Tcg2Dxe`, `MeasureSeparatorEvent`).
    Separator,
    /// An ACPI file as QEMU made it (EDK2 `QemuFwCfgAcpi.c`).
    Acpi(AcpiFile),
    /// The UKI's Authenticode digest (EDK2 `DxeTpm2MeasureBootLib`).
    Uki,
    /// Authenticode digest of a kernel that the VMM hands over apart from its initrd (same place).
    DirectKernel,
    /// SMBIOS tables, without what differs between machines (EDK2 `SmbiosMeasurementDxe`).
    Smbios,
    /// Order of boot options (EDK2 `Tcg2Dxe`, `MeasureAllBootVariables`).
    BootOrder,
    /// A boot option, in boot order (same place).
    BootOption {
        /// Number of the `Boot####` variable.
        number: u16,
        /// What it boots.
        description: String,
    },
    /// "Calling EFI Application from Boot Option" (EDK2 `Tcg2Dxe`, ready to boot).
    CallingBootOption,
    /// GPT of the booted disk (EDK2 `DxeTpm2MeasureBootLib`, `Tcg2MeasureGptTable`).
    PartitionTable,
    /// Name of a UKI section (systemd-stub, `measure_sections`).
    SectionName(UkiSection),
    /// Content of a UKI section (same place).
    SectionData(UkiSection),
    /// SMBIOS structure of type 1 (systemd-stub from 260 on, `measure_smbios`).
    SystemInformation,
    /// Authenticode digest of the kernel inside the UKI, which stubs before 258 load through the firmware.
    Kernel,
    /// Kernel command line in UTF-16 (Linux EFI stub, `efi_convert_cmdline`).
    LoadOptions,
    /// Initrd (Linux EFI stub, `efi_load_initrd`).
    Initrd,
    /// "Exit Boot Services Invocation" (EDK2 `Tcg2Dxe`).
    ExitInvoked,
    /// "Exit Boot Services Returned with Success" (EDK2 `Tcg2Dxe`).
    ExitReturned,
}

impl Event {
    /// TCG event type under which the firmware logs it.
    pub fn event_type(&self) -> u32 {
        match self {
            Event::FirmwareVersion => tcg::EV_S_CRTM_VERSION,
            Event::FirmwareVolume(_) => tcg::EV_EFI_PLATFORM_FIRMWARE_BLOB,
            Event::SecureBoot(_) => tcg::EV_EFI_VARIABLE_DRIVER_CONFIG,
            Event::Authority => EV_EFI_VARIABLE_AUTHORITY,
            Event::Smbios => EV_EFI_HANDOFF_TABLES,
            Event::TdHob => tcg::EV_EFI_HANDOFF_TABLES2,
            Event::ConfigurationVolume => tcg::EV_EFI_PLATFORM_FIRMWARE_BLOB2,
            Event::Separator => tcg::EV_SEPARATOR,
            Event::Acpi(_) => tcg::EV_PLATFORM_CONFIG_FLAGS,
            Event::Uki | Event::DirectKernel | Event::Kernel => tcg::EV_EFI_BOOT_SERVICES_APPLICATION,
            Event::BootOrder | Event::BootOption { .. } => tcg::EV_EFI_VARIABLE_BOOT,
            Event::CallingBootOption | Event::ExitInvoked | Event::ExitReturned => tcg::EV_EFI_ACTION,
            Event::PartitionTable => tcg::EV_EFI_GPT_EVENT,
            Event::SectionName(_) | Event::SectionData(_) => tcg::EV_IPL,
            Event::SystemInformation | Event::LoadOptions | Event::Initrd => tcg::EV_EVENT_TAG,
        }
    }

    /// The detail under which a log shows the event ([`tcg::describe`]), where it has one that names it.
    pub(crate) fn logged_detail(&self) -> Option<String> {
        Some(match self {
            Event::SecureBoot(variable) => variable.name().to_owned(),
            Event::BootOrder => "BootOrder".to_owned(),
            Event::BootOption { number, .. } => format!("Boot{number:04X}"),
            Event::SectionName(section) | Event::SectionData(section) => section.name().to_owned(),
            Event::CallingBootOption => "Calling EFI Application from Boot Option".to_owned(),
            Event::LoadOptions => "LOADED_IMAGE::LoadOptions".to_owned(),
            Event::Initrd => "Linux initrd".to_owned(),
            Event::ExitInvoked => "Exit Boot Services Invocation".to_owned(),
            Event::ExitReturned => "Exit Boot Services Returned with Success".to_owned(),
            _ => return None,
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::FirmwareVersion => f.write_str("firmware version"),
            Event::FirmwareVolume(FirmwareVolume::Pei) => f.write_str("firmware volume PEIFV"),
            Event::FirmwareVolume(FirmwareVolume::Dxe) => f.write_str("firmware volume DXEFV"),
            Event::SecureBoot(variable) => write!(f, "variable {}", variable.name()),
            Event::Authority => f.write_str("authority of an image"),
            Event::TdHob => f.write_str("TD HOB"),
            Event::ConfigurationVolume => f.write_str("configuration volume"),
            Event::Separator => f.write_str("separator"),
            Event::Acpi(AcpiFile::Loader) => f.write_str("ACPI table loader"),
            Event::Acpi(AcpiFile::Rsdp) => f.write_str("ACPI root pointer"),
            Event::Acpi(AcpiFile::TpmLog) => f.write_str("ACPI TPM log area"),
            Event::Acpi(AcpiFile::Tables) => f.write_str("ACPI tables"),
            Event::Uki => f.write_str("UKI"),
            Event::DirectKernel => f.write_str("kernel"),
            Event::Smbios => f.write_str("SMBIOS tables"),
            Event::BootOrder => f.write_str("variable BootOrder"),
            Event::BootOption { number, description } => {
                write!(f, "variable Boot{number:04X} ({description})")
            }
            Event::CallingBootOption => f.write_str("calling boot option"),
            Event::PartitionTable => f.write_str("partition table"),
            Event::SectionName(section) => write!(f, "name of UKI section {}", section.name()),
            Event::SectionData(section) => write!(f, "UKI section {}", section.name()),
            Event::SystemInformation => f.write_str("SMBIOS system information"),
            Event::Kernel => f.write_str("kernel in the UKI"),
            Event::LoadOptions => f.write_str("kernel command line"),
            Event::Initrd => f.write_str("initrd"),
            Event::ExitInvoked => f.write_str("exit of boot services, invoked"),
            Event::ExitReturned => f.write_str("exit of boot services, returned"),
        }
    }
}

/// Something that is measured but can't be foretold from the given inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpredicted {
    /// Why not.
    pub reason: String,
}

/// A foretold event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredictedEvent {
    /// What is measured.
    pub event: Event,
    /// PCR of a TPM; on TDX, the PCR that the register stands in for.
    pub pcr: u32,
    /// Register that is extended.
    pub register: Register,
    /// The digests, or why they aren't known.
    pub digests: Result<Digests, Unpredicted>,
    /// What was hashed, where it is short enough to be kept.
    pub hashed: Hashed,
}

/// The message behind a digest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Hashed {
    /// The whole message, at most [`Hashed::MAX_KEPT`] bytes.
    Kept(Vec<u8>),
    /// A longer message: how many bytes it has.
    Length(usize),
    /// Unknown: not foretold, or only the digests are at hand.
    #[default]
    Unknown,
}

impl Hashed {
    /// Messages up to this size are kept: command lines, variables, partition tables, memory lists.
    pub const MAX_KEPT: usize = 16 * 1024;

    /// The message, if it was kept.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Hashed::Kept(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Bytes of the message, if that is known.
    pub fn size(&self) -> Option<usize> {
        match self {
            Hashed::Kept(bytes) => Some(bytes.len()),
            Hashed::Length(length) => Some(*length),
            Hashed::Unknown => None,
        }
    }
}

impl Serialize for PredictedEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("register", &self.register)?;
        map.serialize_entry("pcr", &self.pcr)?;
        map.serialize_entry("name", &self.event.to_string())?;
        match &self.digests {
            Ok(digests) => {
                map.serialize_entry("digest", &digests.sha384)?;
                map.serialize_entry("sha256", &digests.sha256)?;
            }
            Err(unpredicted) => {
                map.serialize_entry("digest", &None::<Digest384>)?;
                map.serialize_entry("unpredicted", &unpredicted.reason)?;
            }
        }
        map.end()
    }
}

/// All that a machine will measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// Where the measurements are rooted.
    pub platform: Platform,
    /// How the UKI is booted.
    pub boot: Boot,
    /// MRTD where it is measured by the TDX module; on the emulated platform it is a fold of events.
    pub mrtd: Option<Digest384>,
    /// Events in measurement order.
    pub events: Vec<PredictedEvent>,
    /// What was assumed where the inputs leave a choice.
    pub assumed: Vec<Assumption>,
}

/// One thing that a prediction assumes of the VMM, the firmware or the stub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assumption {
    /// What is assumed, in a word or two.
    pub what: String,
    /// How it is taken.
    pub value: String,
    /// Why.
    pub because: String,
}

impl Assumption {
    pub(crate) fn new(what: &str, value: &str, because: &str) -> Self {
        Assumption { what: what.into(), value: value.into(), because: because.into() }
    }
}

impl Prediction {
    /// The final value of a register; `None` if an event of it can't be foretold.
    pub fn register(&self, register: Register) -> Option<Digest384> {
        if let (Register::Mrtd, Some(mrtd)) = (register, self.mrtd) {
            return Some(mrtd);
        }
        let mut value = Digest384::ZERO;
        for event in self.events.iter().filter(|e| e.register == register) {
            value.extend(&event.digests.as_ref().ok()?.sha384);
        }
        Some(value)
    }

    /// All registers, or the registers that aren't final.
    pub fn registers(&self) -> Result<Registers, Vec<Register>> {
        let mut out = Registers::ZERO;
        let mut open = Vec::new();
        for register in Register::ALL {
            match self.register(register) {
                Some(value) => *out.get_mut(register) = value,
                None => open.push(register),
            }
        }
        if open.is_empty() { Ok(out) } else { Err(open) }
    }

    /// Replay of one PCR in the SHA-384 bank; `None` if an event of it can't be foretold.
    pub fn pcr_sha384(&self, pcr: u32) -> Option<Digest384> {
        let mut value = Digest384::ZERO;
        for event in self.events.iter().filter(|e| e.pcr == pcr) {
            value.extend(&event.digests.as_ref().ok()?.sha384);
        }
        Some(value)
    }
}

impl Serialize for Prediction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("platform", &self.platform)?;
        map.serialize_entry("boot", &self.boot)?;
        let mut open = Vec::new();
        for register in Register::ALL {
            let value = self.register(register);
            map.serialize_entry(&register.to_string(), &value)?;
            if value.is_none() {
                open.push(register);
            }
        }
        map.serialize_entry("not_final", &open)?;
        map.serialize_entry("assumed", &self.assumed)?;
        map.serialize_entry("events", &self.events)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(register: Register, digests: Result<Digests, Unpredicted>) -> PredictedEvent {
        PredictedEvent { event: Event::Separator, pcr: 1, register, digests, hashed: Hashed::Unknown }
    }

    #[test]
    fn one_unpredicted_event_leaves_only_its_register_open() {
        let known = event(Register::Rtmr1, Ok(Digests::of(b"x")));
        let open = event(Register::Rtmr0, Err(Unpredicted { reason: "why".into() }));
        let prediction = Prediction {
            platform: Platform::Emulated,
            boot: Boot::Direct,
            mrtd: None,
            events: vec![known, open],
            assumed: vec![],
        };
        assert_eq!(prediction.registers(), Err(vec![Register::Rtmr0]));
        let mut expected = Digest384::ZERO;
        expected.extend(&Digest384::of(b"x"));
        assert_eq!(prediction.register(Register::Rtmr1), Some(expected));
    }

    #[test]
    fn json_follows_the_command_contract() {
        let open = event(Register::Rtmr0, Err(Unpredicted { reason: "why".into() }));
        let (platform, boot, events) = (Platform::Emulated, Boot::Disk, vec![open]);
        let prediction = Prediction { platform, boot, mrtd: None, events, assumed: vec![] };
        let json = serde_json::to_value(&prediction).unwrap();
        assert_eq!(json["mrtd"], "0".repeat(96));
        assert_eq!(json["rtmr0"], serde_json::Value::Null);
        assert_eq!(json["not_final"], serde_json::json!(["rtmr0"]));
        let expected = serde_json::json!([{"register": "rtmr0", "pcr": 1, "name": "separator", "digest": null, "unpredicted": "why"}]);
        assert_eq!(json["events"], expected);
    }
}

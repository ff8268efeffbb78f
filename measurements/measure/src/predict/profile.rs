//! What a prediction needs of a firmware, computed once and used for any number of shapes and payloads.

use super::boot_options;
use super::plan::{self, Planned};
use crate::error::MeasureError;
use crate::event::{Event, FirmwareVolume, Unpredicted};
use crate::firmware::probe::InitrdArgument;
use crate::firmware::{Firmware, Guid};
use crate::hash::{Digests, Ranges};
use crate::register::Register;
use serde::{Deserialize, Serialize};

/// D27FED59-ABB4-4FED-BEAD-2A878C7E4A7E: SmbiosMeasurementDxe.
const SMBIOS_MEASUREMENT: Guid = *b"\x59\xed\x7f\xd2\xb4\xab\xed\x4f\xbe\xad\x2a\x87\x8c\x7e\x4a\x7e";

/// A firmware's own measurements, and what its code tells about the rest.
///
/// Unpacking and hashing a firmware takes longer than the rest of a prediction, so a caller may keep the profile (it
/// serialises) under the hash of the code it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareProfile {
    pub(super) version: Result<Digests, Unpredicted>,
    pub(super) pei: Result<Digests, Unpredicted>,
    pub(super) dxe: Result<Digests, Unpredicted>,
    pub(super) boot_manager: BootManager,
    pub(super) kernel_loader: KernelLoader,
    /// Register of the separator behind "calling" in a trust domain.
    pub(super) separator: Result<Register, Unpredicted>,
    /// Whether the build knows Secure Boot.
    pub(super) secure_boot: bool,
    /// Whether it measures the SMBIOS tables.
    pub(super) measures_smbios: bool,
}

/// What the firmware's own boot options depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BootManager {
    pub(super) volume: Option<[u8; 16]>,
    pub(super) has_ui_app: bool,
    /// Whether there is a boot menu apart from the user interface.
    pub(super) has_menu: bool,
    pub(super) has_shell: bool,
}

/// How the firmware gets a kernel from the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KernelLoader {
    /// Whether it reads the untouched file where the VMM offers it.
    pub(super) named_blobs: Result<bool, Unpredicted>,
    pub(super) initrd_argument: Result<InitrdArgument, Unpredicted>,
}

impl FirmwareProfile {
    /// Unpacks and hashes a firmware for the emulated platform, where its volumes are measured.
    pub fn of(code: &[u8]) -> Result<Self, MeasureError> {
        let firmware = Firmware::parse(code, crate::acpi::PM_TIMER_PORT)?;
        let events = plan::hash(&[
            firmware_event(Event::FirmwareVersion, firmware.version()),
            firmware_event(Event::FirmwareVolume(FirmwareVolume::Pei), firmware.pei_volume()),
            firmware_event(Event::FirmwareVolume(FirmwareVolume::Dxe), Ok(firmware.dxe_volume())),
        ]);
        let digests = |i: usize| events[i].digests.clone();
        Ok(Self::with(&firmware, [digests(0), digests(1), digests(2)]))
    }

    /// Unpacks a TDVF image, whose volumes are a part of MRTD and of no event.
    pub fn of_tdvf(image: &[u8]) -> Result<Self, MeasureError> {
        let firmware = Firmware::parse(image, crate::acpi::PM_TIMER_PORT)?;
        let none = || Err(Unpredicted { reason: "no event of a trust domain".into() });
        Ok(Self::with(&firmware, [none(), none(), none()]))
    }

    fn with(firmware: &Firmware, [version, pei, dxe]: [Result<Digests, Unpredicted>; 3]) -> Self {
        let probes = firmware.probes();
        FirmwareProfile {
            version,
            pei,
            dxe,
            boot_manager: BootManager {
                volume: firmware.dxe_name(),
                has_ui_app: firmware.has_dxe_file(&boot_options::UI_APP),
                has_menu: firmware.has_dxe_file(&boot_options::MENU_APP),
                has_shell: firmware.has_dxe_file(&boot_options::SHELL),
            },
            kernel_loader: KernelLoader {
                named_blobs: untold(&probes.named_blobs),
                initrd_argument: untold(&probes.initrd_argument),
            },
            separator: untold(&probes.separator),
            secure_boot: probes.secure_boot,
            measures_smbios: firmware.has_dxe_file(&SMBIOS_MEASUREMENT),
        }
    }

    /// Register of the separator behind "calling", as the code of a TDVF image tells; `None` where it doesn't.
    pub fn separator(&self) -> Option<Register> {
        self.separator.as_ref().ok().copied()
    }
}

fn untold<T: Copy>(probe: &Result<T, String>) -> Result<T, Unpredicted> {
    probe.clone().map_err(|reason| Unpredicted { reason })
}

fn firmware_event<'a>(event: Event, bytes: Result<&'a [u8], &String>) -> Planned<'a> {
    match bytes {
        Ok(bytes) => Planned::parts(0, event, Ranges::from(bytes)),
        Err(reason) => Planned::unpredicted(0, event, reason),
    }
}

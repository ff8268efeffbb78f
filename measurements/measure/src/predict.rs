//! Prediction: the events that a machine will measure, from artifacts and shape alone.
//!
//! ```text
//! firmware code -> Firmware \
//! variable store ------------+-> events in measurement order -> digests (all cores) -> Prediction
//! shape -> ACPI blobs -------+
//! UKI, disk ----------------/
//! ```
//! Deliberately absent: any log. What can't be foretold is an [`Unpredicted`] event with its reason.

mod boot_options;
mod emulated;
mod payload;
mod plan;
mod tdx;

pub use tdx::{TdxOptions, predict_tdx};

use crate::error::MeasureError;
use crate::event::{Event, FirmwareVolume, Prediction, Unpredicted};
use crate::firmware::Firmware;
use crate::hash::{Digests, Ranges};
use crate::shape::{Boot, Platform, Shape};
use plan::Planned;
use serde::{Deserialize, Serialize};

/// What the firmware starts.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// A UKI: what `-kernel` gets, or what lies in the ESP as `EFI/BOOT/BOOTX64.EFI`.
    Uki(&'a [u8]),
    /// A Linux kernel with its initrd and command line apart (`-kernel`, `-initrd`, `-append`).
    Linux(Linux<'a>),
}

impl Payload<'_> {
    /// In a word, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Payload::Uki(_) => "UKI",
            Payload::Linux(_) => "kernel",
        }
    }
}

/// The three parts of a classic direct boot.
#[derive(Debug, Clone, Copy)]
pub struct Linux<'a> {
    /// The kernel as a file (a bzImage with an EFI stub).
    pub kernel: &'a [u8],
    /// The initrd as a file.
    pub initrd: Option<&'a [u8]>,
    /// The command line, as `-append` gets it.
    pub cmdline: &'a str,
}

/// Everything that a prediction is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Where the measurements are rooted.
    pub platform: Platform,
    /// How the payload is booted.
    pub boot: Boot,
    /// Size of the machine.
    pub shape: &'a Shape,
    /// Firmware code volume (`OVMF_CODE_4M.fd`); on TDX the whole image (`OVMF.fd`).
    pub firmware_code: &'a [u8],
    /// Pristine variable store (`OVMF_VARS_4M.fd`); not read on TDX.
    pub firmware_vars: &'a [u8],
    /// What the firmware starts; on TDX, without it only MRTD and RTMR0 are foretold.
    pub payload: Option<Payload<'a>>,
    /// First sectors of the root disk, needed for disk boot only.
    pub disk_head: Option<&'a [u8]>,
}

/// A firmware's own measurements: computed once, used for any number of shapes and UKIs.
///
/// Unpacking and hashing a firmware takes longer than the rest of a prediction, so a caller may keep the profile (it
/// serialises) under the hash of the code it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareProfile {
    version: Result<Digests, Unpredicted>,
    pei: Result<Digests, Unpredicted>,
    dxe: Result<Digests, Unpredicted>,
    boot_manager: BootManager,
}

/// What the firmware's own boot options depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct BootManager {
    volume: Option<[u8; 16]>,
    has_ui_app: bool,
    has_shell: bool,
}

impl BootManager {
    fn of(firmware: &Firmware) -> Self {
        BootManager {
            volume: firmware.dxe_name(),
            has_ui_app: firmware.has_dxe_file(&boot_options::UI_APP),
            has_shell: firmware.has_dxe_file(&boot_options::SHELL),
        }
    }
}

impl FirmwareProfile {
    /// Unpacks and hashes a firmware.
    pub fn of(code: &[u8]) -> Result<Self, MeasureError> {
        let firmware = Firmware::parse(code, crate::acpi::PM_TIMER_PORT)?;
        let events = plan::hash(&[
            firmware_event(Event::FirmwareVersion, firmware.version()),
            firmware_event(Event::FirmwareVolume(FirmwareVolume::Pei), firmware.pei_volume()),
            firmware_event(Event::FirmwareVolume(FirmwareVolume::Dxe), Ok(firmware.dxe_volume())),
        ]);
        let digests = |i: usize| events[i].digests.clone();
        Ok(FirmwareProfile {
            version: digests(0),
            pei: digests(1),
            dxe: digests(2),
            boot_manager: BootManager::of(&firmware),
        })
    }
}

fn firmware_event<'a>(event: Event, bytes: Result<&'a [u8], &String>) -> Planned<'a> {
    match bytes {
        Ok(bytes) => Planned::parts(0, event, Ranges::from(bytes)),
        Err(reason) => Planned::unpredicted(0, event, reason),
    }
}

/// Foretells every event of one boot; on TDX with [`TdxOptions::default`].
pub fn predict(inputs: &Inputs<'_>) -> Result<Prediction, MeasureError> {
    if inputs.platform == Platform::Tdx {
        return predict_tdx(inputs, &TdxOptions::default());
    }
    Ok(predict_keeping(inputs)?.0)
}

/// As [`predict`] on the emulated platform; also returns the firmware's part, for a caller that keeps it.
pub fn predict_keeping(inputs: &Inputs<'_>) -> Result<(Prediction, FirmwareProfile), MeasureError> {
    // Unpacking the firmware takes about as long as hashing a UKI, so both run at once.
    std::thread::scope(|scope| {
        let firmware = scope.spawn(|| FirmwareProfile::of(inputs.firmware_code));
        let rest = emulated::without_firmware(inputs);
        let firmware = firmware.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((emulated::complete(inputs, &firmware, rest?)?, firmware))
    })
}

/// As [`predict`] on the emulated platform, with the firmware's part already known; `inputs.firmware_code` isn't read.
pub fn predict_with(firmware: &FirmwareProfile, inputs: &Inputs<'_>) -> Result<Prediction, MeasureError> {
    emulated::complete(inputs, firmware, emulated::without_firmware(inputs)?)
}

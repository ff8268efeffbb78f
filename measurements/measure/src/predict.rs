//! Prediction: the events that a machine will measure, from artifacts and shape alone.
//!
//! ```text
//! firmware code -> Firmware \
//! variable store ------------+-> events in measurement order -> digests (all cores) -> Prediction
//! shape -> ACPI blobs -------+
//! UKI, disk ----------------/
//! ```
//! Deliberately absent: any log. What can't be foretold is an [`Unpredicted`] event with its reason.

pub(crate) mod boot_options;
mod boot_variables;
mod emulated;
mod payload;
mod plan;
mod profile;
mod setup_header;
mod tdx;

pub use boot_variables::BootVariables;
pub use profile::FirmwareProfile;
pub use setup_header::SetupHeader;
pub use tdx::{TdxOptions, predict_tdx, predict_tdx_with};

use crate::error::MeasureError;
use crate::event::Prediction;
use crate::shape::{Boot, Platform, Shape};

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

/// Foretells every event of one boot; on TDX with [`TdxOptions::default`].
pub fn predict(inputs: &Inputs<'_>) -> Result<Prediction, MeasureError> {
    if inputs.platform == Platform::Tdx {
        return predict_tdx(inputs, &TdxOptions::default());
    }
    Ok(predict_keeping(inputs)?.0)
}

/// As [`predict`] on the emulated platform; also returns the firmware's part, for a caller that keeps it.
pub fn predict_keeping(inputs: &Inputs<'_>) -> Result<(Prediction, FirmwareProfile), MeasureError> {
    if let Some(Payload::Linux(_)) = inputs.payload {
        // Which bytes of the kernel are measured depends on the firmware.
        let firmware = FirmwareProfile::of(inputs.firmware_code)?;
        return Ok((predict_with(&firmware, inputs)?, firmware));
    }
    // Unpacking the firmware takes about as long as hashing a UKI, so both run at once.
    std::thread::scope(|scope| {
        let firmware = scope.spawn(|| FirmwareProfile::of(inputs.firmware_code));
        let rest = emulated::without_firmware(inputs, &payload::Loader::default());
        let firmware = firmware.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((emulated::complete(inputs, &firmware, rest?)?, firmware))
    })
}

/// As [`predict`] on the emulated platform, with the firmware's part already known; `inputs.firmware_code` isn't read.
pub fn predict_with(firmware: &FirmwareProfile, inputs: &Inputs<'_>) -> Result<Prediction, MeasureError> {
    let loader = payload::Loader::emulated(firmware);
    emulated::complete(inputs, firmware, emulated::without_firmware(inputs, &loader)?)
}

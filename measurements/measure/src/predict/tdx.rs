//! A trust domain: what TDVF measures into the RTMRs before the stub and the kernel do.
//!
//! ```text
//! RTMR0  TD HOB, configuration volume, Secure Boot variables, separator, ACPI files, boot variables
//! RTMR1  UKI, "calling", separator, (partition table,) kernel, end of boot services
//! RTMR2  UKI sections, command line, initrd
//! ```
//! Sources: EDK2 `OvmfPkg/IntelTdx/TdTcg2Dxe`, `SecTdxHelper`; checked against logs of TDs booted by QEMU. There is one
//! separator behind "calling"; older firmware extends it into RTMR0, newer into RTMR1.

use super::payload::Parsed;
use super::plan::{self, Planned};
use super::{BootManager, Inputs, emulated};
use crate::acpi::{self, AcpiBlobs};
use crate::error::MeasureError;
use crate::event::{Event, Prediction};
use crate::firmware::tdvf::{self, Section, Vmm};
use crate::firmware::{Firmware, td_hob, variables};
use crate::hash::Ranges;
use crate::register::Register;
use crate::shape::{Boot, Platform, Shape};

/// Section type of the configuration firmware volume (variable store).
const KIND_CFV: u32 = 1;

/// What differs between VMMs and firmware builds, and what the shape can't say.
#[derive(Debug, Clone, Copy)]
pub struct TdxOptions<'a> {
    /// Order in which the VMM adds and extends pages.
    pub vmm: Vmm,
    /// Register of the separator behind "calling": RTMR1, with older firmware RTMR0.
    pub separator: Register,
    /// ACPI files of a machine that isn't our launcher's; `None` generates those of the shape.
    pub acpi: Option<&'a AcpiBlobs>,
}

impl Default for TdxOptions<'_> {
    fn default() -> Self {
        TdxOptions { vmm: Vmm::SinglePass, separator: Register::Rtmr1, acpi: None }
    }
}

/// Foretells a TD's registers. `inputs.firmware_code` is the whole TDVF image; `firmware_vars` isn't read, because the
/// image carries its own. Without a payload, only MRTD and RTMR0 are foretold.
pub fn predict_tdx(inputs: &Inputs<'_>, options: &TdxOptions<'_>) -> Result<Prediction, MeasureError> {
    inputs.shape.check(Platform::Tdx)?;
    let sections = tdvf::metadata(inputs.firmware_code)?;
    let payload = inputs.payload.map(Parsed::of).transpose()?;
    let boot_manager = BootManager::of(&Firmware::parse(inputs.firmware_code, acpi::PM_TIMER_PORT)?);
    let image = payload.as_ref().map(Parsed::image).transpose()?;
    let (before, after) = if inputs.boot == Boot::Direct { (image, None) } else { (None, image) };
    let mut planned = configuration(inputs, &sections)?;
    planned.extend(acpi_events(inputs.shape, options.acpi));
    planned.extend(before);
    planned.extend(emulated::boot_variables(inputs.boot, &boot_manager, false));
    planned.push(Planned::owned(4, Event::CallingBootOption, *emulated::CALLING));
    let separator = if options.separator == Register::Rtmr0 { 1 } else { 4 };
    planned.push(Planned::owned(separator, Event::Separator, emulated::SEPARATOR));
    if inputs.boot == Boot::Disk {
        planned.push(emulated::partition_table(inputs)?);
    }
    planned.extend(after);
    match &payload {
        Some(payload) => planned.extend(payload.started()?),
        None => planned.extend(
            [(4, Event::DirectKernel), (9, Event::Initrd)]
                .map(|(pcr, event)| Planned::unpredicted(pcr, event, "no UKI or kernel was given")),
        ),
    }
    let mrtd = tdvf::mrtd(inputs.firmware_code, options.vmm)?;
    Ok(Prediction {
        platform: Platform::Tdx,
        boot: inputs.boot,
        mrtd: Some(mrtd),
        events: plan::hash(&planned),
    })
}

/// TD HOB, configuration volume, Secure Boot variables.
fn configuration<'a>(inputs: &Inputs<'a>, sections: &[Section]) -> Result<Vec<Planned<'a>>, MeasureError> {
    let volume = sections.iter().find(|s| s.kind == KIND_CFV);
    // The metadata's parser checked that the data lies inside the file.
    let volume = volume.map(|s| &inputs.firmware_code[s.data_offset..s.data_offset + s.raw_size]);
    let hob = match td_hob::td_hob(sections, inputs.shape) {
        Some(list) => Planned::owned(1, Event::TdHob, list),
        None => Planned::unpredicted(1, Event::TdHob, "the firmware's metadata has no TD HOB section"),
    };
    let (volume_event, has_keys) = match volume {
        Some(bytes) => {
            let has_keys = emulated::has_secure_boot_keys(&variables::parse(bytes)?);
            (Planned::parts(1, Event::ConfigurationVolume, Ranges::from(bytes)), has_keys)
        }
        None => {
            let why = "the firmware's metadata has no configuration volume";
            (Planned::unpredicted(1, Event::ConfigurationVolume, why), false)
        }
    };
    let mut planned = vec![hob, volume_event];
    planned.extend(emulated::secure_boot(has_keys));
    Ok(planned)
}

/// Captured files, else those of the launcher's machine.
fn acpi_events(shape: &Shape, captured: Option<&AcpiBlobs>) -> Vec<Planned<'static>> {
    let blobs = captured.cloned().unwrap_or_else(|| acpi::generate(&acpi::Machine::tdx(shape)));
    emulated::acpi_events(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_without_tdx_metadata_is_refused() {
        let shape = Shape::new(1, 1024);
        let inputs = Inputs {
            platform: Platform::Tdx,
            boot: Boot::Direct,
            shape: &shape,
            firmware_code: &[0; 8192],
            firmware_vars: &[],
            payload: None,
            disk_head: None,
        };
        let error = predict_tdx(&inputs, &TdxOptions::default()).unwrap_err().to_string();
        assert!(error.contains("no TDX metadata"), "{error}");
    }
}

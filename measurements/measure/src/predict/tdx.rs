//! A trust domain: what TDVF measures into the RTMRs before the stub and the kernel do.
//!
//! ```text
//! RTMR0  TD HOB, configuration volume, Secure Boot variables, separator, ACPI files, boot variables
//! RTMR1  UKI or kernel, "calling", separator, (partition table,) kernel in the UKI, end of boot services
//! RTMR2  UKI sections, command line, initrd
//! ```
//! Sources: EDK2 `OvmfPkg/IntelTdx/TdTcg2Dxe`, `SecTdxHelper`; checked against logs of TDs booted by QEMU. There is one
//! separator behind "calling"; older firmware extends it into RTMR0, newer into RTMR1.

use super::boot_variables::{self, BootVariables};
use super::payload::{Loader, Parsed};
use super::plan::{self, Planned};
use super::setup_header::SetupHeader;
use super::{FirmwareProfile, Inputs, emulated};
use crate::acpi::{self, AcpiBlobs};
use crate::error::MeasureError;
use crate::event::{Assumption, Event, Prediction};
use crate::firmware::tdvf::{self, Form, KIND_CFV, Section, Vmm};
use crate::firmware::{td_hob, variables};
use crate::hash::Ranges;
use crate::register::Register;
use crate::shape::{Boot, Platform, Shape};

/// What differs between VMMs and firmware builds, and what the shape can't say.
#[derive(Debug, Clone, Copy)]
pub struct TdxOptions<'a> {
    /// Order in which the VMM adds and extends pages.
    pub vmm: Vmm,
    /// Register of the separator behind "calling": RTMR1, with older firmware RTMR0; `None` takes what the firmware's
    /// code tells.
    pub separator: Option<Register>,
    /// Which bytes of a classic kernel are measured; `None` takes what firmware and QEMU release lead to.
    pub setup_header: Option<SetupHeader>,
    /// ACPI files of a machine that isn't our launcher's; `None` generates those of the shape.
    pub acpi: Option<&'a AcpiBlobs>,
    /// Boot variables of a machine that isn't our launcher's; what isn't given is derived.
    pub boot_variables: Option<&'a BootVariables>,
}

impl Default for TdxOptions<'_> {
    fn default() -> Self {
        TdxOptions {
            vmm: Vmm::SinglePass,
            separator: None,
            setup_header: None,
            acpi: None,
            boot_variables: None,
        }
    }
}

/// Foretells a TD's registers. `inputs.firmware_code` is the whole TDVF image; `firmware_vars` isn't read, because the
/// image carries its own. Without a payload, only MRTD and RTMR0 are foretold; of a td-shim, only MRTD.
pub fn predict_tdx(inputs: &Inputs<'_>, options: &TdxOptions<'_>) -> Result<Prediction, MeasureError> {
    inputs.shape.check(Platform::Tdx)?;
    if tdvf::form(inputs.firmware_code)? == Form::Pointer {
        return of_td_shim(inputs, options);
    }
    let profile = FirmwareProfile::of_tdvf(inputs.firmware_code)?;
    predict_tdx_with(&profile, inputs, options)
}

/// As [`predict_tdx`], with the firmware's profile ([`FirmwareProfile::of_tdvf`]) already known.
pub fn predict_tdx_with(
    firmware: &FirmwareProfile,
    inputs: &Inputs<'_>,
    options: &TdxOptions<'_>,
) -> Result<Prediction, MeasureError> {
    inputs.shape.check(Platform::Tdx)?;
    let loader = Loader::tdx(firmware, inputs.shape, options.setup_header);
    let payload = inputs.payload.map(|payload| Parsed::of(inputs, payload, &loader)).transpose()?;
    let (planned, separator) = plan(firmware, inputs, options, payload.as_ref())?;
    let (mrtd, events) = std::thread::scope(|scope| {
        let mrtd = scope.spawn(|| tdvf::mrtd(inputs.firmware_code, options.vmm));
        let events = plan::hash(&planned);
        (mrtd.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), events)
    });
    let mut assumed = vec![vmm(options.vmm), separator];
    assumed.extend(payload.as_ref().map(|p| p.assumed.clone()).unwrap_or_default());
    let (platform, boot) = (Platform::Tdx, inputs.boot);
    Ok(Prediction { platform, boot, mrtd: Some(mrtd?), events, assumed })
}

/// All events in order, and what was assumed of the separator.
fn plan<'p>(
    firmware: &FirmwareProfile,
    inputs: &Inputs<'p>,
    options: &TdxOptions<'_>,
    payload: Option<&'p Parsed<'_>>,
) -> Result<(Vec<Planned<'p>>, Assumption), MeasureError> {
    let sections = tdvf::metadata(inputs.firmware_code)?;
    let image = payload.map(Parsed::image).transpose()?;
    let (before, after) = if inputs.boot == Boot::Direct { (image, None) } else { (None, image) };
    let mut planned = configuration(firmware, inputs, &sections)?;
    planned.extend(acpi_events(inputs.shape, options.acpi));
    planned.extend(before);
    planned.extend(emulated::smbios(firmware));
    let captured = options.boot_variables.cloned().unwrap_or_default();
    planned.extend(boot_variables::plan(inputs.boot, &firmware.boot_manager, &captured, false)?);
    planned.push(Planned::owned(4, Event::CallingBootOption, *emulated::CALLING));
    let (register, assumption) = separator(firmware, options.separator);
    let pcr = if register == Register::Rtmr0 { 1 } else { 4 };
    planned.push(Planned::owned(pcr, Event::Separator, emulated::SEPARATOR));
    if inputs.boot == Boot::Disk {
        planned.push(emulated::partition_table(inputs)?);
    }
    planned.extend(after);
    match payload {
        Some(payload) => planned.extend(payload.started()?),
        None => planned.extend(
            [(4, Event::DirectKernel), (9, Event::Initrd)]
                .map(|(pcr, event)| Planned::unpredicted(pcr, event, "no UKI or kernel was given")),
        ),
    }
    Ok((planned, assumption))
}

fn vmm(vmm: Vmm) -> Assumption {
    match vmm {
        Vmm::SinglePass => Assumption::new("VMM", "single-pass", "given, or the default: current QEMU"),
        Vmm::TwoPass => Assumption::new("VMM", "two-pass", "given: QEMU 8.x TDX trees"),
    }
}

fn separator(firmware: &FirmwareProfile, given: Option<Register>) -> (Register, Assumption) {
    let (register, because) = match (given, &firmware.separator) {
        (Some(register), _) => (register, "given".to_owned()),
        (None, Ok(register)) => (*register, "the firmware's code has it so".to_owned()),
        (None, Err(why)) => (Register::Rtmr1, format!("the default, because {}", why.reason)),
    };
    (register, Assumption::new("separator", &register.to_string(), &because))
}

/// A td-shim measures by a specification of its own; its MRTD alone follows from the image.
fn of_td_shim(inputs: &Inputs<'_>, options: &TdxOptions<'_>) -> Result<Prediction, MeasureError> {
    let why = "the firmware is a td-shim, whose events aren't foretold";
    let events = [(1, Event::TdHob), (4, Event::DirectKernel), (9, Event::Initrd)];
    let events = events.map(|(pcr, event)| Planned::unpredicted(pcr, event, why));
    Ok(Prediction {
        platform: Platform::Tdx,
        boot: inputs.boot,
        mrtd: Some(tdvf::mrtd(inputs.firmware_code, options.vmm)?),
        events: plan::hash(&events),
        assumed: vec![vmm(options.vmm)],
    })
}

/// TD HOB, configuration volume, Secure Boot variables.
fn configuration<'a>(
    firmware: &FirmwareProfile,
    inputs: &Inputs<'a>,
    sections: &[Section],
) -> Result<Vec<Planned<'a>>, MeasureError> {
    let volume = sections.iter().find(|s| s.kind == KIND_CFV);
    // The metadata's parser checked that the data lies inside the file.
    let volume = volume.map(|s| &inputs.firmware_code[s.data_offset..s.data_offset + s.raw_size]);
    let hob = match td_hob::td_hob(sections, inputs.shape) {
        Some(list) => Planned::owned(1, Event::TdHob, list),
        None => Planned::unpredicted(1, Event::TdHob, "the firmware's metadata has no TD HOB section"),
    };
    let (volume_event, variables) = match volume {
        Some(bytes) => {
            let event = Planned::parts(1, Event::ConfigurationVolume, Ranges::from(bytes));
            (event, variables::parse(bytes)?)
        }
        None => {
            let why = "the firmware's metadata has no configuration volume";
            (Planned::unpredicted(1, Event::ConfigurationVolume, why), Vec::new())
        }
    };
    let mut planned = vec![hob, volume_event];
    planned.extend(emulated::secure_boot(&variables, firmware.secure_boot));
    Ok(planned)
}

/// Captured files, else those of the launcher's machine.
fn acpi_events(shape: &Shape, captured: Option<&AcpiBlobs>) -> Vec<Planned<'static>> {
    let blobs = captured.cloned().unwrap_or_else(|| acpi::generate(&acpi::Machine::tdx(shape)));
    emulated::acpi_events(blobs)
}

#[cfg(test)]
mod tests;

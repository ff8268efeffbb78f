//! What the firmware starts, parsed, and the events that follow from it alone.
//!
//! ```text
//! UKI    image (PCR 4) ... sections (PCR 11), kernel inside (PCR 4), command line, initrd (PCR 9), end of boot services
//! Linux  image (PCR 4) ...                                           command line, initrd (PCR 9), end of boot services
//! ```
//! The dots are the firmware's: boot variables, "calling", separators, partition table. A kernel's command line is
//! measured as its EFI stub gets it (Linux 6.12 `drivers/firmware/efi/libstub/efi-stub-helper.c`): the firmware's loader
//! turns each byte into a character and names the initrd beside it (EDK2 `X86QemuLoadImageLib.c`).

use super::plan::Planned;
use super::profile::FirmwareProfile;
use super::setup_header::{self, SetupHeader};
use super::{Inputs, Linux, Payload};
use crate::error::{Input, MeasureError, View};
use crate::event::{Assumption, Event, Unpredicted};
use crate::firmware::probe::InitrdArgument;
use crate::hash::Ranges;
use crate::pe::Image;
use crate::shape::{Boot, QemuVersion, Shape};
use crate::uki::Uki;
use std::borrow::Cow;

/// How a classic kernel comes from the VMM through the firmware, each with the reason.
pub(super) struct Loader {
    setup_header: (SetupHeader, String),
    initrd_argument: Result<InitrdArgument, Unpredicted>,
}

impl Default for Loader {
    /// For payloads that it makes no difference to.
    fn default() -> Self {
        let initrd_argument = Err(Unpredicted { reason: "no kernel is loaded".into() });
        Loader { setup_header: (SetupHeader::AsIs, String::new()), initrd_argument }
    }
}

impl Loader {
    /// The launcher's emulated machine: QEMU offers the untouched file, and patches the other one.
    pub(super) fn emulated(firmware: &FirmwareProfile) -> Self {
        Self::of(firmware, QemuVersion::V10_0, false)
    }

    /// A trust domain; `given` overrides what firmware and QEMU release lead to.
    pub(super) fn tdx(firmware: &FirmwareProfile, shape: &Shape, given: Option<SetupHeader>) -> Self {
        let loader = Self::of(firmware, shape.qemu, true);
        match given {
            Some(header) => Loader { setup_header: (header, "given".into()), ..loader },
            None => loader,
        }
    }

    fn of(firmware: &FirmwareProfile, qemu: QemuVersion, confidential: bool) -> Self {
        let loader = &firmware.kernel_loader;
        let named = loader.named_blobs.as_ref().is_ok_and(|named| *named);
        let setup_header = if confidential && qemu >= QemuVersion::V10_2 {
            (SetupHeader::AsIs, format!("QEMU {qemu} leaves it alone in a trust domain"))
        } else if named && qemu >= QemuVersion::V10_0 {
            (SetupHeader::AsIs, format!("QEMU {qemu} offers the untouched file and the firmware reads it"))
        } else if qemu >= QemuVersion::V10_0 {
            (
                SetupHeader::Patched,
                format!("the firmware doesn't read the untouched file that QEMU {qemu} offers"),
            )
        } else {
            (SetupHeader::Patched, format!("QEMU {qemu} offers nothing else"))
        };
        Loader { setup_header, initrd_argument: loader.initrd_argument.clone() }
    }
}

/// A parsed payload; borrows the artifacts.
pub(super) struct Parsed<'a> {
    kind: Kind<'a>,
    pub(super) assumed: Vec<Assumption>,
}

enum Kind<'a> {
    Uki(Uki<'a>),
    Linux {
        /// As it is measured.
        kernel: Cow<'a, [u8]>,
        initrd: Option<&'a [u8]>,
        load_options: Result<Option<Vec<u8>>, Unpredicted>,
    },
}

impl<'a> Parsed<'a> {
    pub(super) fn of(
        inputs: &Inputs<'_>,
        payload: Payload<'a>,
        loader: &Loader,
    ) -> Result<Self, MeasureError> {
        match payload {
            Payload::Uki(bytes) => {
                let uki = Uki::parse(bytes)?;
                Ok(Parsed { assumed: vec![uki.stub.assumption()], kind: Kind::Uki(uki) })
            }
            Payload::Linux(_) if inputs.boot == Boot::Disk => Err(MeasureError::Conflict {
                fault: "a kernel with its initrd and command line apart isn't booted from a disk".into(),
                hint: "give a UKI, or boot directly",
            }),
            Payload::Linux(linux) => Self::linux(linux, loader, inputs.shape),
        }
    }

    fn linux(linux: Linux<'a>, loader: &Loader, shape: &Shape) -> Result<Self, MeasureError> {
        let patched = match loader.setup_header.0 {
            SetupHeader::Patched => setup_header::patched(&linux, shape.low_memory_bytes())?,
            SetupHeader::AsIs => None,
        };
        let kernel = patched.map_or(Cow::Borrowed(linux.kernel), Cow::Owned);
        let (header, because) = &loader.setup_header;
        let name = if *header == SetupHeader::AsIs { "as-is" } else { "patched" };
        let mut assumed = vec![Assumption::new("setup header", name, because)];
        if let (Ok(place), Some(_)) = (&loader.initrd_argument, linux.initrd) {
            let value = match place {
                InitrdArgument::Behind => "behind the command line",
                InitrdArgument::Before => "before the command line",
            };
            assumed.push(Assumption::new("initrd=initrd", value, "the firmware's boot manager has it so"));
        }
        let load_options = load_options(&linux, &loader.initrd_argument);
        Ok(Parsed { kind: Kind::Linux { kernel, initrd: linux.initrd, load_options }, assumed })
    }

    /// PCR 4: the image that the firmware loads.
    pub(super) fn image(&self) -> Result<Planned<'_>, MeasureError> {
        Ok(match &self.kind {
            Kind::Uki(uki) => Planned::parts(4, Event::Uki, uki.image.authenticode_ranges()?),
            Kind::Linux { kernel, .. } => {
                let image = Image::parse_view(View::new(Input::Kernel, kernel))?;
                Planned::parts(4, Event::DirectKernel, image.authenticode_ranges()?)
            }
        })
    }

    /// From the stub or the kernel on.
    pub(super) fn started(&self) -> Result<Vec<Planned<'_>>, MeasureError> {
        let mut planned = match &self.kind {
            Kind::Uki(uki) => uki_events(uki)?,
            Kind::Linux { initrd, load_options, .. } => {
                let options = match load_options {
                    Ok(options) => options.clone().map(|bytes| Planned::owned(9, Event::LoadOptions, bytes)),
                    Err(why) => Some(Planned::unpredicted(9, Event::LoadOptions, &why.reason)),
                };
                let initrd = initrd.map(|bytes| Planned::parts(9, Event::Initrd, Ranges::from(bytes)));
                options.into_iter().chain(initrd).collect()
            }
        };
        planned.push(Planned::owned(5, Event::ExitInvoked, *b"Exit Boot Services Invocation"));
        planned.push(Planned::owned(5, Event::ExitReturned, *b"Exit Boot Services Returned with Success"));
        Ok(planned)
    }
}

/// The command line as the kernel's EFI stub measures it; `None` if it gets none.
fn load_options(
    linux: &Linux<'_>,
    initrd_argument: &Result<InitrdArgument, Unpredicted>,
) -> Result<Option<Vec<u8>>, Unpredicted> {
    let cmdline = linux.cmdline;
    let line = match (linux.initrd, initrd_argument) {
        (None, _) if cmdline.is_empty() => return Ok(None),
        (None, _) => cmdline.to_owned(),
        (Some(_), Ok(InitrdArgument::Behind)) => format!("{cmdline} initrd=initrd"),
        (Some(_), Ok(InitrdArgument::Before)) => format!("initrd=initrd {cmdline}"),
        (Some(_), Err(why)) => return Err(why.clone()),
    };
    // The firmware turns bytes into characters, whatever encoding they are in.
    Ok(Some(line.bytes().chain([0]).flat_map(|byte| [byte, 0]).collect()))
}

/// What the stub measures and what the kernel in it does.
fn uki_events<'u>(uki: &'u Uki<'_>) -> Result<Vec<Planned<'u>>, MeasureError> {
    let mut planned = Vec::new();
    for measured in &uki.sections {
        let name = [measured.section.name().as_bytes(), &[0]].concat();
        planned.push(Planned::owned(11, Event::SectionName(measured.section), name));
        planned.push(Planned::parts(11, Event::SectionData(measured.section), Ranges::from(measured.bytes)));
    }
    if uki.stub.measures_system_information() {
        let why = "this stub measures the SMBIOS system information, which isn't foretold";
        planned.push(Planned::unpredicted(1, Event::SystemInformation, why));
    }
    if uki.stub.kernel_is_measured() {
        planned.push(Planned::parts(4, Event::Kernel, uki.kernel.authenticode_ranges()?));
    }
    planned.extend(uki.load_options().map(|o| Planned::owned(9, Event::LoadOptions, o)));
    planned.extend(uki.initrd().map(|initrd| Planned::parts(9, Event::Initrd, initrd)));
    Ok(planned)
}

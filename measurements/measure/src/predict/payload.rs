//! What the firmware starts, parsed, and the events that follow from it alone.
//!
//! ```text
//! UKI    image (PCR 4) ... sections (PCR 11), kernel inside (PCR 4), command line, initrd (PCR 9), end of boot services
//! Linux  image (PCR 4) ...                                           command line, initrd (PCR 9), end of boot services
//! ```
//! The dots are the firmware's: boot variables, "calling", separators, partition table.

use super::plan::Planned;
use super::{Linux, Payload};
use crate::error::MeasureError;
use crate::event::Event;
use crate::hash::Ranges;
use crate::pe::Image;
use crate::uki::Uki;

/// A parsed payload; borrows the artifacts.
pub(super) enum Parsed<'a> {
    Uki(Uki<'a>),
    Linux { image: Image<'a>, initrd: Option<&'a [u8]>, load_options: Vec<u8> },
}

impl<'a> Parsed<'a> {
    pub(super) fn of(payload: Payload<'a>) -> Result<Self, MeasureError> {
        match payload {
            Payload::Uki(bytes) => Uki::parse(bytes).map(Parsed::Uki),
            Payload::Linux(Linux { kernel, initrd, cmdline }) => {
                let load_options = cmdline.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
                Ok(Parsed::Linux { image: Image::parse(kernel)?, initrd, load_options })
            }
        }
    }

    /// PCR 4: the image that the firmware loads.
    pub(super) fn image(&self) -> Result<Planned<'a>, MeasureError> {
        let (event, image) = match self {
            Parsed::Uki(uki) => (Event::Uki, &uki.image),
            Parsed::Linux { image, .. } => (Event::DirectKernel, image),
        };
        Ok(Planned::parts(4, event, image.authenticode_ranges()?))
    }

    /// From the stub or the kernel on.
    pub(super) fn started(&self) -> Result<Vec<Planned<'_>>, MeasureError> {
        let mut planned = match self {
            Parsed::Uki(uki) => uki_events(uki)?,
            Parsed::Linux { initrd, load_options, .. } => {
                let options = Planned::owned(9, Event::LoadOptions, load_options.clone());
                let initrd = initrd.map(|bytes| Planned::parts(9, Event::Initrd, Ranges::from(bytes)));
                [options].into_iter().chain(initrd).collect()
            }
        };
        planned.push(Planned::owned(5, Event::ExitInvoked, *b"Exit Boot Services Invocation"));
        planned.push(Planned::owned(5, Event::ExitReturned, *b"Exit Boot Services Returned with Success"));
        Ok(planned)
    }
}

/// What the stub measures and what the kernel in it does.
fn uki_events<'u>(uki: &'u Uki<'_>) -> Result<Vec<Planned<'u>>, MeasureError> {
    let mut planned = Vec::new();
    for measured in &uki.sections {
        let name = [measured.section.name().as_bytes(), &[0]].concat();
        planned.push(Planned::owned(11, Event::SectionName(measured.section), name));
        planned.push(Planned::parts(11, Event::SectionData(measured.section), Ranges::from(measured.bytes)));
    }
    planned.push(Planned::parts(4, Event::Kernel, uki.kernel.authenticode_ranges()?));
    planned.extend(uki.load_options().map(|o| Planned::owned(9, Event::LoadOptions, o)));
    planned.extend(uki.initrd().map(|initrd| Planned::parts(9, Event::Initrd, initrd)));
    Ok(planned)
}

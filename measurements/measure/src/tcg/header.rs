//! The header event: a SHA-1 log's form around the declaration of the digests that follow
//! (TCG PC Client Platform Firmware Profile 1.06, 10.4.5.1, TCG_EfiSpecIDEvent).
//!
//! ```text
//! pcr u32 | type u32 = EV_NO_ACTION | SHA-1 of 20 zeros | size u32 | declaration
//! declaration: "Spec ID Event03\0" | class u32 | minor, major, errata, uintn u8 | count u32 | count x { id u16, size u16 }
//!              | vendor size u8 | vendor bytes
//! ```

use super::{Bank, EV_NO_ACTION, SPEC_ID};
use crate::error::{MeasureError, View};

/// More algorithms than any TPM has banks.
const MAX_ALGORITHMS: u32 = 16;

/// Algorithm identifiers with their digest sizes, and the offset of the first event.
pub(super) fn parse(view: &View<'_>) -> Result<(Vec<(u16, u16)>, usize), MeasureError> {
    let event_type = view.u32(4, "header event type")?;
    if event_type != EV_NO_ACTION {
        return Err(view.fault(
            4,
            format!(
                "header event type is {event_type:#x}, expected EV_NO_ACTION (3) with a Spec ID: \
                 not the start of a log, or one in the SHA-1 format"
            ),
        ));
    }
    let size = view.u32(28, "header event size")? as usize;
    let header = view.sub(32, size, "header event")?;
    let signature = header.slice(0, 16, "header signature")?;
    if signature != SPEC_ID {
        let found = String::from_utf8_lossy(signature).into_owned();
        return Err(
            header.fault(0, format!("signature is {found:?}, expected {SPEC_ID:?}: not a crypto-agile log"))
        );
    }
    let count = header.u32(24, "number of algorithms")?;
    if count == 0 || count > MAX_ALGORITHMS {
        return Err(header.fault(24, format!("{count} digest algorithms, expected 1 to {MAX_ALGORITHMS}")));
    }
    let mut algorithms = Vec::with_capacity(count as usize);
    for i in 0..count as usize {
        let algorithm = algorithm(&header, 28 + 4 * i, &algorithms)?;
        algorithms.push(algorithm);
    }
    let vendor = 28 + 4 * count as usize;
    let vendor_size = header.u8(vendor, "vendor information's size")?;
    header.slice(vendor + 1, usize::from(vendor_size), "vendor information")?;
    Ok((algorithms, 32 + size))
}

/// One declaration; an algorithm that was declared before would make its digests ambiguous.
fn algorithm(header: &View<'_>, at: usize, before: &[(u16, u16)]) -> Result<(u16, u16), MeasureError> {
    let (id, size) = (header.u16(at, "algorithm")?, header.u16(at + 2, "digest size")?);
    let known = Bank::ALL.into_iter().find(|b| b.id() == id);
    if size == 0 || known.is_some_and(|bank| bank.size() != usize::from(size)) {
        return Err(header.fault(at + 2, format!("digest size {size} is wrong for algorithm {id:#06x}")));
    }
    if before.iter().any(|(other, _)| *other == id) {
        return Err(header.fault(at, format!("algorithm {id:#06x} is declared twice, expected once")));
    }
    Ok((id, size))
}

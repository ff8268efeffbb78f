//! MRTD of a TDVF image (Intel TDX Virtual Firmware Design Guide, chapter 11; TDX module ABI, TDH.MEM.PAGE.ADD and
//! TDH.MR.EXTEND).
//!
//! ```text
//! end-48  GUIDed table: ... { offset from the end u32, length u16, e47a6535-984a-4798-865e-4685a7bf8ec2 }
//! descriptor "TDVF" { length, version, count } , count x { data offset, raw size, GPA, memory size, type, attributes }
//! ```
//! One SHA-384 over all sections in order. A page that is added gives 128 bytes ("MEM.PAGE.ADD", GPA); a page that is
//! extended gives, for each 256-byte chunk, 128 bytes ("MR.EXTEND", GPA) and the chunk.

use crate::error::{Input, MeasureError, View};
use crate::register::Digest384;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};

/// e47a6535-984a-4798-865e-4685a7bf8ec2: the entry with the metadata's offset.
const METADATA: [u8; 16] = *b"\x35\x65\x7a\xe4\x4a\x98\x98\x47\x86\x5e\x46\x85\xa7\xbf\x8e\xc2";
/// 96b582de-1fb2-45f7-baea-a366c55a082d: the table's footer.
const FOOTER: [u8; 16] = *b"\xde\x82\xb5\x96\xb2\x1f\xf7\x45\xba\xea\xa3\x66\xc5\x5a\x08\x2d";
const ENTRY: usize = 18;
const PAGE: u64 = 4096;
const CHUNK: usize = 256;
const EXTEND_MR: u32 = 1;
const PAGE_AUG: u32 = 2;
/// Sections of OVMF and td-shim number six to ten.
const MAX_SECTIONS: u32 = 64;
/// No firmware's sections cover more memory; bounds the work that hostile metadata can cause.
const MAX_MEMORY: u64 = 256 * 1024 * 1024;

/// In which order the VMM adds and extends the pages of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vmm {
    /// Page by page: add, then extend (current QEMU).
    SinglePass,
    /// All pages of a section are added, then all are extended (the 8.x TDX trees).
    TwoPass,
}

/// One section of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Offset of the data in the file.
    pub data_offset: usize,
    /// Bytes of data; 0 for memory that starts empty.
    pub raw_size: usize,
    /// Guest physical address.
    pub address: u64,
    /// Bytes of memory.
    pub memory_size: u64,
    /// Type (0 BFV, 1 CFV, 2 TD HOB, 3 temporary memory, ...).
    pub kind: u32,
    /// Bit 0: extended into MRTD; bit 1: not added before the TD runs.
    pub attributes: u32,
}

/// Sections of a TDVF image.
pub fn metadata(firmware: &[u8]) -> Result<Vec<Section>, MeasureError> {
    let view = View::new(Input::Firmware, firmware);
    let descriptor = find_descriptor(&view)?;
    if view.slice(descriptor, 4, "TDVF signature")? != b"TDVF" {
        return Err(view.fault(descriptor, "no TDVF signature"));
    }
    let count = view.u32(descriptor + 12, "number of sections")?;
    if count == 0 || count > MAX_SECTIONS {
        return Err(view.fault(descriptor + 12, format!("{count} sections, expected 1 to {MAX_SECTIONS}")));
    }
    let mut sections = Vec::with_capacity(count as usize);
    let mut memory = 0u64;
    for i in 0..count as usize {
        let section = parse_section(&view, descriptor + 16 + 32 * i)?;
        memory = memory.saturating_add(section.memory_size);
        if memory > MAX_MEMORY {
            return Err(
                view.fault(descriptor + 16 + 32 * i, format!("sections cover more than {MAX_MEMORY} bytes"))
            );
        }
        sections.push(section);
    }
    Ok(sections)
}

/// Walks the GUIDed table backwards from its footer, which ends 32 bytes before the end of the file.
fn find_descriptor(view: &View<'_>) -> Result<usize, MeasureError> {
    let end = view.len();
    let footer =
        end.checked_sub(32 + ENTRY).ok_or_else(|| view.fault(0, "too short for a firmware image"))?;
    if view.slice(footer + 2, 16, "table footer")? != FOOTER {
        return Err(view.fault(footer + 2, "no GUIDed table at the end: this firmware has no TDX metadata"));
    }
    let total = usize::from(view.u16(footer, "table length")?);
    let start = (footer + ENTRY)
        .checked_sub(total)
        .ok_or_else(|| view.fault(footer, "table longer than the file"))?;
    let mut at = footer;
    while at >= start + ENTRY {
        let length = usize::from(view.u16(at - ENTRY, "entry length")?);
        let guid: [u8; 16] = view.array(at - 16, "entry GUID")?;
        let next = at.checked_sub(length).filter(|next| length >= ENTRY && *next >= start);
        let next = next.ok_or_else(|| view.fault(at - ENTRY, format!("table entry of {length} bytes")))?;
        if guid == METADATA {
            let back = view.u32(next, "metadata offset")? as usize;
            return end.checked_sub(back).ok_or_else(|| view.fault(next, "metadata before the file's start"));
        }
        at = next;
    }
    Err(view.fault(start, "the GUIDed table has no TDX metadata entry: this firmware is no TDVF"))
}

fn parse_section(view: &View<'_>, at: usize) -> Result<Section, MeasureError> {
    let section = Section {
        data_offset: view.u32(at, "section data offset")? as usize,
        raw_size: view.u32(at + 4, "section size")? as usize,
        address: view.u64(at + 8, "section address")?,
        memory_size: view.u64(at + 16, "section memory size")?,
        kind: view.u32(at + 24, "section type")?,
        attributes: view.u32(at + 28, "section attributes")?,
    };
    view.slice(section.data_offset, section.raw_size, "section data")?;
    if !section.address.is_multiple_of(PAGE)
        || !section.memory_size.is_multiple_of(PAGE)
        || section.memory_size < section.raw_size as u64
    {
        return Err(view.fault(at + 8, "section isn't made of whole pages that hold its data"));
    }
    if section.address.checked_add(section.memory_size).is_none() {
        return Err(view.fault(at + 8, "section goes beyond the address space"));
    }
    Ok(section)
}

/// MRTD of a TDVF image.
pub fn mrtd(firmware: &[u8], vmm: Vmm) -> Result<Digest384, MeasureError> {
    let mut hash = Sha384::new();
    for section in metadata(firmware)? {
        let data = &firmware[section.data_offset..section.data_offset + section.raw_size];
        let pages = section.memory_size / PAGE;
        let passes: &[[bool; 2]] = match vmm {
            Vmm::SinglePass => &[[true, true]],
            Vmm::TwoPass => &[[true, false], [false, true]],
        };
        for [add, extend] in passes {
            for page in 0..pages {
                let address = section.address + page * PAGE;
                if *add && section.attributes & PAGE_AUG == 0 {
                    hash.update(block(b"MEM.PAGE.ADD", address));
                }
                if *extend && section.attributes & EXTEND_MR != 0 {
                    extend_page(&mut hash, address, data, (page * PAGE) as usize);
                }
            }
        }
    }
    Ok(Digest384(hash.finalize().into()))
}

fn extend_page(hash: &mut Sha384, address: u64, data: &[u8], offset: usize) {
    for chunk in (0..PAGE as usize).step_by(CHUNK) {
        let mut bytes = [0; CHUNK];
        let held = data.get(offset + chunk..).unwrap_or_default();
        let held = &held[..held.len().min(CHUNK)];
        bytes[..held.len()].copy_from_slice(held);
        hash.update(block(b"MR.EXTEND", address + chunk as u64));
        hash.update(bytes);
    }
}

/// 128 bytes: name padded to 16, address, zeros.
fn block(name: &[u8], address: u64) -> [u8; 128] {
    let mut out = [0; 128];
    out[..name.len()].copy_from_slice(name);
    out[16..24].copy_from_slice(&address.to_le_bytes());
    out
}

#[cfg(any(test, feature = "samples"))]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::tdvf as sample;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn metadata_is_found_from_the_end_of_the_file() {
        let sections = metadata(&sample()).unwrap();
        assert_eq!(sections.len(), 2);
        assert_eq!((sections[0].address, sections[0].attributes), (0xff00_0000, 1));
        assert_eq!((sections[1].address, sections[1].kind), (0x80_0000, 3));
    }

    #[test]
    fn mrtd_follows_data_and_order_of_passes() {
        let firmware = sample();
        let single = mrtd(&firmware, Vmm::SinglePass).unwrap();
        let mut changed = firmware.clone();
        changed[17] ^= 1;
        assert_ne!(mrtd(&changed, Vmm::SinglePass).unwrap(), single);
        // With one page a section, both orders are the same.
        assert_eq!(mrtd(&firmware, Vmm::TwoPass).unwrap(), single);
    }

    #[test]
    fn firmware_without_metadata_is_refused() {
        let error = mrtd(&[0; 8192], Vmm::SinglePass).unwrap_err().to_string();
        assert!(error.contains("no TDX metadata"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn mutated_metadata_never_panics(at in 4096usize..4300, value: u32, cut in 0usize..4300) {
            let mut firmware = sample();
            let at = at.min(firmware.len() - 4);
            firmware[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = metadata(&firmware);
            let _ = metadata(&firmware[..cut.min(firmware.len())]);
        }
    }
}

//! MRTD of a TDVF image (Intel TDX Virtual Firmware Design Guide, chapter 11; td-shim specification, "TD Shim
//! metadata"; TDX module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND).
//!
//! ```text
//! OVMF     end-48  GUIDed table: ... { offset from the end u32, length u16, e47a6535-984a-4798-865e-4685a7bf8ec2 }
//! td-shim  end-32  offset from the start u32, of a descriptor behind e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae
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
/// e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae: stands before a descriptor that a pointer names.
const DESCRIPTOR: [u8; 16] = *b"\xf3\xf9\xea\xe9\x8e\x16\xd5\x44\xa8\xeb\x7f\x4d\x87\x38\xf6\xae";
/// Where the pointer is, from the end of the file.
const POINTER: usize = 32;
const ENTRY: usize = 18;
const SECTION: usize = 32;
const PAGE: u64 = 4096;
const CHUNK: usize = 256;
const EXTEND_MR: u32 = 1;
const PAGE_AUG: u32 = 2;
/// Sections of OVMF and td-shim number five to ten.
const MAX_SECTIONS: u32 = 64;
/// No firmware has more memory added before it runs; bounds the work that hostile metadata can cause.
const MAX_MEMORY: u64 = 256 * 1024 * 1024;

/// Section type of the configuration firmware volume (variable store).
pub const KIND_CFV: u32 = 1;
/// Section type of a payload, which the VMM loads where the file holds none.
const KIND_PAYLOAD: u32 = 5;
/// Section types that only describe a part of another section: TD info and TD parameters.
const KINDS_DESCRIBING: [u32; 2] = [7, 8];

/// In which order the VMM adds and extends the pages of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vmm {
    /// Page by page: add, then extend (current QEMU).
    SinglePass,
    /// All pages of a section are added, then all are extended (the 8.x TDX trees).
    TwoPass,
}

/// How an image names its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By an entry of the GUIDed table at its end, as OVMF does.
    Table,
    /// By a pointer 32 bytes before its end, as td-shim does.
    Pointer,
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
    /// Type (0 BFV, 1 CFV, 2 TD HOB, 3 temporary memory, 4 permanent memory, 5 payload, ...).
    pub kind: u32,
    /// Bit 0: extended into MRTD; bit 1: not added before the TD runs.
    pub attributes: u32,
}

impl Section {
    fn is_added(&self) -> bool {
        self.attributes & PAGE_AUG == 0
    }

    fn is_extended(&self) -> bool {
        self.attributes & EXTEND_MR != 0
    }

    fn end(&self) -> u64 {
        self.address + self.memory_size
    }
}

/// Sections of a TDVF image.
pub fn metadata(firmware: &[u8]) -> Result<Vec<Section>, MeasureError> {
    Ok(parse(firmware)?.1)
}

/// How a TDVF image names its metadata.
pub fn form(firmware: &[u8]) -> Result<Form, MeasureError> {
    Ok(parse(firmware)?.0)
}

fn parse(firmware: &[u8]) -> Result<(Form, Vec<Section>), MeasureError> {
    let view = View::new(Input::Firmware, firmware);
    let (form, at) = find_descriptor(&view)?;
    if view.slice(at, 4, "TDVF signature")? != b"TDVF" {
        return Err(view.fault(at, "no TDVF signature where the metadata should be"));
    }
    let [length, version, count] =
        [(4, "metadata length"), (8, "metadata version"), (12, "number of sections")]
            .map(|(offset, what)| view.u32(at + offset, what));
    let (length, version, count) = (length?, version?, count?);
    if version != 1 {
        return Err(view.fault(at + 8, format!("metadata version {version}, expected 1")));
    }
    if count == 0 || count > MAX_SECTIONS {
        return Err(view.fault(at + 12, format!("{count} sections, expected 1 to {MAX_SECTIONS}")));
    }
    let expected = 16 + SECTION as u32 * count;
    if length != expected {
        let fault = format!("metadata of {length} bytes, expected {expected} for {count} sections");
        return Err(view.fault(at + 4, fault));
    }
    let mut sections: Vec<Section> = Vec::with_capacity(count as usize);
    let mut memory = 0u64;
    for i in 0..count as usize {
        let at = at + 16 + SECTION * i;
        let section = parse_section(&view, at)?;
        if section.is_added() {
            memory = memory.saturating_add(section.memory_size);
        }
        if memory > MAX_MEMORY {
            return Err(view.fault(at, format!("sections cover more than {MAX_MEMORY} bytes")));
        }
        let overlaps = |other: &&Section| section.address < other.end() && other.address < section.end();
        if let Some(other) = sections.iter().find(overlaps) {
            let fault = format!(
                "section {:#x}..{:#x} overlaps section {:#x}..{:#x}, and a page is added only once",
                section.address,
                section.end(),
                other.address,
                other.end()
            );
            return Err(view.fault(at + 8, fault));
        }
        sections.push(section);
    }
    Ok((form, sections))
}

/// By the GUIDed table if there is one, else by the pointer.
fn find_descriptor(view: &View<'_>) -> Result<(Form, usize), MeasureError> {
    let footer = view.len().checked_sub(32 + ENTRY);
    let footer = footer.ok_or_else(|| view.fault(0, "too short for a firmware image"))?;
    if view.slice(footer + 2, 16, "table footer")? == FOOTER {
        return Ok((Form::Table, by_table(view, footer)?));
    }
    let pointer = view.len() - POINTER;
    let at = view.u32(pointer, "metadata pointer")? as usize;
    let named = at.checked_sub(DESCRIPTOR.len()).and_then(|guid| view.bytes.get(guid..at));
    if named != Some(&DESCRIPTOR[..]) {
        let fault = "neither a GUIDed table nor a pointer to metadata: this firmware has no TDX metadata";
        return Err(view.fault(pointer, fault));
    }
    Ok((Form::Pointer, at))
}

/// Walks the GUIDed table backwards from its footer, which ends 32 bytes before the end of the file.
fn by_table(view: &View<'_>, footer: usize) -> Result<usize, MeasureError> {
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
            let found = view.len().checked_sub(back);
            return found.ok_or_else(|| view.fault(next, "metadata before the file's start"));
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
    let unknown = section.attributes & !(EXTEND_MR | PAGE_AUG);
    if unknown != 0 {
        return Err(view.fault(at + 28, format!("section with unknown attributes {unknown:#x}")));
    }
    if section.is_extended() && !section.is_added() {
        return Err(view.fault(at + 28, "section is to be extended but not added, which no VMM can do"));
    }
    if KINDS_DESCRIBING.contains(&section.kind) && section.address == 0 && section.memory_size == 0 {
        return Ok(section);
    }
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
        if section.kind == KIND_PAYLOAD && section.is_extended() && data.is_empty() {
            let fault = "the payload is extended into MRTD but isn't in the file: the VMM adds it";
            return Err(View::new(Input::Firmware, firmware).fault(section.data_offset, fault));
        }
        let pages = section.memory_size / PAGE;
        let passes: &[[bool; 2]] = match vmm {
            Vmm::SinglePass => &[[true, true]],
            Vmm::TwoPass => &[[true, false], [false, true]],
        };
        for [add, extend] in passes {
            // Memory that is neither added nor extended may be huge.
            let pages = if section.is_added() { pages } else { 0 };
            for page in 0..pages {
                let address = section.address + page * PAGE;
                if *add {
                    hash.update(block(b"MEM.PAGE.ADD", address));
                }
                if *extend && section.is_extended() {
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
mod tests;

//! Small TDVF images in both forms, for tests and as seeds for fuzzing.

use super::{DESCRIPTOR, ENTRY, FOOTER, METADATA, PAGE, Section};

/// A firmware whose first page is extended and whose second memory page is only added.
pub fn tdvf() -> Vec<u8> {
    with_table(page(), &[section(0, 4096, 0xff00_0000, 4096, 0, 1), section(0, 0, 0x80_0000, 4096, 3, 0)])
}

/// Data, a descriptor of these sections, and the table that leads to it.
pub(crate) fn with_table(data: Vec<u8>, sections: &[Section]) -> Vec<u8> {
    let start = data.len();
    let mut fw = with_descriptor(data, sections);
    let tail = fw.len() + 4 + ENTRY + ENTRY + 32 - start;
    fw.extend((tail as u32).to_le_bytes());
    fw.extend(22u16.to_le_bytes());
    fw.extend(METADATA);
    fw.extend(40u16.to_le_bytes());
    fw.extend(FOOTER);
    fw.extend([0; 32]);
    fw
}

/// A td-shim: boot volume, configuration volume, TD HOB, memory, a description, and these further sections.
pub fn td_shim(further: &[Section]) -> Vec<u8> {
    let sections = [
        section(0, 4096, 0xffff_f000, 4096, 0, 1),
        section(0, 2048, 0xff00_0000, 8192, 1, 0),
        section(0, 0, 0x80_0000, 8192, 2, 0),
        section(0, 0, 0x1_0000, 4096, 3, 0),
        section(0, 0, 1 << 40, 1 << 40, 4, 2),
        section(64, 128, 0, 0, 7, 0),
    ];
    let mut fw = with_descriptor(page(), &[&sections, further].concat());
    let at = PAGE as u32 + 16;
    fw.splice(PAGE as usize..PAGE as usize, DESCRIPTOR);
    fw.extend([0; 64]);
    let pointer = fw.len() - 32;
    fw[pointer..pointer + 4].copy_from_slice(&at.to_le_bytes());
    fw
}

/// A section from its six fields, in stored order.
pub(super) fn section(
    data_offset: usize,
    raw_size: usize,
    address: u64,
    memory_size: u64,
    kind: u32,
    attributes: u32,
) -> Section {
    Section { data_offset, raw_size, address, memory_size, kind, attributes }
}

fn page() -> Vec<u8> {
    (0..PAGE).map(|i| i as u8).collect()
}

/// Data, and a descriptor of these sections.
fn with_descriptor(mut fw: Vec<u8>, sections: &[Section]) -> Vec<u8> {
    fw.extend(b"TDVF");
    for word in [16 + 32 * sections.len() as u32, 1, sections.len() as u32] {
        fw.extend(word.to_le_bytes());
    }
    for s in sections {
        fw.extend([s.data_offset as u32, s.raw_size as u32].map(u32::to_le_bytes).concat());
        fw.extend([s.address, s.memory_size].map(u64::to_le_bytes).concat());
        fw.extend([s.kind, s.attributes].map(u32::to_le_bytes).concat());
    }
    fw
}

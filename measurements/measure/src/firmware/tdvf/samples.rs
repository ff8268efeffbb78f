//! A small TDVF image, for tests and as a seed for fuzzing.

use super::{ENTRY, FOOTER, METADATA, PAGE};

/// A firmware whose first page is extended and whose second memory page is only added.
pub fn tdvf() -> Vec<u8> {
    let mut fw: Vec<u8> = (0..PAGE).map(|i| i as u8).collect();
    let descriptor = fw.len();
    fw.extend(b"TDVF");
    for word in [16 + 64u32, 1, 2, 0, 4096, 0xff00_0000, 0, 4096, 0, 0, 1, 0, 0, 0x80_0000, 0, 4096, 0, 3, 0]
    {
        fw.extend(word.to_le_bytes());
    }
    let tail = fw.len() + 4 + ENTRY + ENTRY + 32 - descriptor;
    fw.extend((tail as u32).to_le_bytes());
    fw.extend(22u16.to_le_bytes());
    fw.extend(METADATA);
    fw.extend(40u16.to_le_bytes());
    fw.extend(FOOTER);
    fw.extend([0; 32]);
    fw
}

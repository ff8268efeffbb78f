//! PE images, for tests and as seeds for fuzzing.

/// Builds a PE32+ image with these sections, 512-byte aligned, with `tail` after them and `certificates` at the end.
pub fn pe(sections: &[(&str, &[u8])], tail: &[u8], certificates: &[u8]) -> Vec<u8> {
    let headers = (0x40 + 24 + 240 + 40 * sections.len()).next_multiple_of(512);
    let mut pe = vec![0; headers];
    pe[..2].copy_from_slice(b"MZ");
    pe[0x3c] = 0x40;
    pe[0x40..0x44].copy_from_slice(b"PE\0\0");
    pe[0x44..0x46].copy_from_slice(&0x8664u16.to_le_bytes());
    pe[0x46..0x48].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    pe[0x54..0x56].copy_from_slice(&240u16.to_le_bytes());
    let optional = 0x58;
    pe[optional..optional + 2].copy_from_slice(&0x20bu16.to_le_bytes());
    pe[optional + 60..optional + 64].copy_from_slice(&(headers as u32).to_le_bytes());
    pe[optional + 64..optional + 68].copy_from_slice(&0xdead_beefu32.to_le_bytes());
    pe[optional + 108..optional + 112].copy_from_slice(&16u32.to_le_bytes());
    let mut address = 0x1000u32;
    for (i, (name, data)) in sections.iter().enumerate() {
        let at = optional + 240 + 40 * i;
        pe[at..at + name.len()].copy_from_slice(name.as_bytes());
        let raw = data.len().next_multiple_of(512);
        for (field, value) in [(8, data.len() as u32), (12, address), (16, raw as u32), (20, pe.len() as u32)]
        {
            pe[at + field..at + field + 4].copy_from_slice(&value.to_le_bytes());
        }
        pe.extend(*data);
        pe.resize(pe.len().next_multiple_of(512), 0);
        address += (raw as u32).next_multiple_of(0x1000);
    }
    pe.extend(tail);
    if !certificates.is_empty() {
        let entry = optional + 112 + 32;
        let end = pe.len() as u32;
        pe[entry..entry + 4].copy_from_slice(&end.to_le_bytes());
        pe[entry + 4..entry + 8].copy_from_slice(&(certificates.len() as u32).to_le_bytes());
        pe.extend(certificates);
    }
    pe
}

/// A Linux kernel: a PE image with a setup header of this boot protocol and these extended load flags.
pub fn kernel(protocol: u16, extended_load_flags: u16) -> Vec<u8> {
    let mut kernel = pe(&[(".setup", &[0x90; 4096]), (".text", b"kernel")], b"", b"");
    kernel[0x1f1] = 7;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
    kernel[0x210..0x250].fill(0);
    kernel[0x211] = 1;
    kernel[0x22c..0x230].copy_from_slice(&0x37ff_ffffu32.to_le_bytes());
    kernel[0x236..0x238].copy_from_slice(&extended_load_flags.to_le_bytes());
    kernel
}

//! Variable stores, for tests and as seeds for fuzzing.

use super::{ADDED, HEADER, STORE};

/// A store that holds these variables.
pub fn store(variables: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![0; 72];
    out[40..44].copy_from_slice(b"_FVH");
    out[48] = 72;
    out.extend(STORE);
    out.extend(4096u32.to_le_bytes());
    out.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
    for (name, data) in variables {
        let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let mut header = [0; HEADER];
        header[..3].copy_from_slice(&[0xaa, 0x55, ADDED]);
        header[36..40].copy_from_slice(&(name.len() as u32).to_le_bytes());
        header[40..44].copy_from_slice(&(data.len() as u32).to_le_bytes());
        out.extend([&header[..], &name, data].concat());
        out.resize(out.len().next_multiple_of(4), 0xff);
    }
    out.resize(72 + 4096, 0xff);
    let length = out.len() as u64;
    out[32..40].copy_from_slice(&length.to_le_bytes());
    out
}

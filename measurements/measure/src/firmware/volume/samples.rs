//! Parts of firmware volumes, for tests and as seeds for fuzzing.

use super::FILE_SYSTEMS;
use crate::firmware::Guid;

/// Pads to the alignment of sections.
pub fn aligned(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A section with its header (PI 1.8, volume 3, 2.2.4).
pub fn section(kind: u8, data: &[u8]) -> Vec<u8> {
    let size = (data.len() as u32 + 4).to_le_bytes();
    [&size[..3], &[kind], data].concat()
}

/// A file with its header, padded as volumes want it (PI 1.8, volume 3, 2.2.3).
pub fn file(guid: &Guid, kind: u8, data: &[u8]) -> Vec<u8> {
    let size = (data.len() as u32 + 24).to_le_bytes();
    let mut out = [&guid[..], &[0, 0, kind, 0], &size[..3], &[0xf8], data].concat();
    out.resize(out.len().next_multiple_of(8), 0xff);
    out
}

/// A volume with an extended header that carries `name`.
pub fn volume_of(name: &Guid, files: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0; 72];
    out[16..32].copy_from_slice(&FILE_SYSTEMS[0]);
    out[40..44].copy_from_slice(b"_FVH");
    out[48] = 72;
    out[52] = 72;
    out.extend(name);
    out.extend(24u32.to_le_bytes());
    out.resize(96, 0xff);
    files.iter().for_each(|f| out.extend(f));
    let length = out.len() as u64;
    out[32..40].copy_from_slice(&length.to_le_bytes());
    out
}

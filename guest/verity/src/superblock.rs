//! The superblock that `veritysetup format` writes in front of a hash tree (on-disk format version 1).
//!
//! ```text
//! 0 "verity\0\0" | 8 version | 12 hash type | 16 uuid | 32 algorithm[32] | 64 data block size | 68 hash block size
//! 72 data blocks | 80 salt size (u16) | 82 zeros | 88 salt[256] | 344 zeros to 512       (little endian)
//! ```
//! It is not measured. What it may say is therefore narrow, and a lie in the two free values (number of data blocks,
//! salt) leads to hashes that do not match the root.

use crate::{BLOCK, REBUILD, VerityError};

/// Bytes of a superblock.
pub const SIZE: usize = 512;
/// Longest salt accepted, the most that the format can hold.
const MAX_SALT: usize = 256;
/// More data blocks (16 TiB) than any image has; keeps sector counts far from overflow.
pub const MAX_DATA_BLOCKS: u64 = 1 << 32;

/// The two values of a superblock that are not fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Number of 4096-byte data blocks.
    pub data_blocks: u64,
    /// Salt that is hashed before each block.
    pub salt: Vec<u8>,
}

impl Superblock {
    /// Reads a superblock of version 1, hash type 1, SHA-256 and 4096-byte blocks; anything else is refused.
    /// `input` names the partition for error messages.
    pub fn parse(input: &str, bytes: &[u8; SIZE]) -> Result<Self, VerityError> {
        let fixed = |field: &'static str, range: std::ops::Range<usize>, expected: &[u8]| {
            let found = &bytes[range];
            if found == expected { Ok(()) } else { Err(wrong(input, field, show(expected), show(found))) }
        };
        fixed("verity signature", 0..8, b"verity\0\0")?;
        fixed("verity format version", 8..12, &1u32.to_le_bytes())?;
        fixed("verity hash type", 12..16, &1u32.to_le_bytes())?;
        let mut algorithm = [0u8; 32];
        algorithm[..6].copy_from_slice(b"sha256");
        fixed("verity algorithm", 32..64, &algorithm)?;
        fixed("verity data block size", 64..68, &(BLOCK as u32).to_le_bytes())?;
        fixed("verity hash block size", 68..72, &(BLOCK as u32).to_le_bytes())?;
        fixed("verity padding", 82..88, &[0; 6])?;
        let data_blocks = u64::from_le_bytes(bytes[72..80].try_into().unwrap_or_default());
        if data_blocks == 0 || data_blocks > MAX_DATA_BLOCKS {
            let expected = format!("1 to {MAX_DATA_BLOCKS}");
            return Err(wrong(input, "verity data blocks", expected, data_blocks.to_string()));
        }
        let salt_size = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        if salt_size > MAX_SALT {
            return Err(wrong(
                input,
                "verity salt size",
                format!("at most {MAX_SALT}"),
                salt_size.to_string(),
            ));
        }
        Ok(Superblock { data_blocks, salt: bytes[88..88 + salt_size].to_vec() })
    }
}

fn wrong(input: &str, field: &'static str, expected: String, found: String) -> VerityError {
    VerityError::Wrong { input: input.into(), field, expected, found, next: REBUILD }
}

/// Bytes as text where they are text, else as hex.
fn show(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    match &bytes[..end] {
        t if !t.is_empty() && t.iter().all(u8::is_ascii_graphic) => {
            format!("\"{}\"", String::from_utf8_lossy(t))
        }
        _ => bytes.iter().map(|b| format!("{b:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good() -> [u8; SIZE] {
        let mut b = [0u8; SIZE];
        b[..8].copy_from_slice(b"verity\0\0");
        b[8] = 1;
        b[12] = 1;
        b[32..38].copy_from_slice(b"sha256");
        b[64..68].copy_from_slice(&4096u32.to_le_bytes());
        b[68..72].copy_from_slice(&4096u32.to_le_bytes());
        b[72..80].copy_from_slice(&700u64.to_le_bytes());
        b[80] = 3;
        b[88..91].copy_from_slice(&[7, 8, 9]);
        b
    }

    #[test]
    fn a_good_superblock_is_read() {
        let expected = Superblock { data_blocks: 700, salt: vec![7, 8, 9] };
        assert_eq!(Superblock::parse("disk", &good()).unwrap(), expected);
    }

    #[test]
    fn each_fixed_field_is_checked() {
        for offset in [0, 7, 8, 11, 12, 32, 38, 63, 64, 68, 82, 87] {
            let mut bytes = good();
            bytes[offset] ^= 1;
            assert!(Superblock::parse("disk", &bytes).is_err(), "byte {offset} may be anything");
        }
    }

    #[test]
    fn another_algorithm_is_named_in_the_error() {
        let mut bytes = good();
        bytes[32..38].copy_from_slice(b"sha1\0\0");
        let text = Superblock::parse("vda2", &bytes).unwrap_err().to_string();
        assert!(text.contains("expected \"sha256\", found \"sha1\""), "{text}");
    }

    #[test]
    fn no_data_and_too_much_data_are_refused() {
        for blocks in [0, MAX_DATA_BLOCKS + 1, u64::MAX] {
            let mut bytes = good();
            bytes[72..80].copy_from_slice(&blocks.to_le_bytes());
            assert!(Superblock::parse("disk", &bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn hostile_superblocks_never_panic(tail in proptest::collection::vec(any::<u8>(), 440), raw: bool) {
            let mut bytes = if raw { [0xff; SIZE] } else { good() };
            bytes[72..].copy_from_slice(&tail);
            if let Ok(sb) = Superblock::parse("disk", &bytes) {
                prop_assert!(sb.salt.len() <= MAX_SALT && sb.data_blocks <= MAX_DATA_BLOCKS);
            }
        }
    }
}

//! A dm-verity root hash and the partition identifiers that follow from it.
//!
//! The Discoverable Partitions Specification takes the first 128 bits of the root hash as the identifier of the data
//! partition and the last 128 bits as that of the hash partition, in the order in which a UUID is written. On disk a
//! GPT identifier has its first three fields in little-endian order, so those bytes are swapped.

use crate::VerityError;
use std::fmt;

/// SHA-256 root of a verity tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootHash(pub [u8; 32]);

/// A GPT identifier, as its 16 bytes lie on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl RootHash {
    /// Reads exactly 64 lower-case hex digits; `input` names the source for the error message.
    pub fn parse(input: &str, text: &str) -> Result<Self, VerityError> {
        let wrong = || VerityError::Wrong {
            input: input.into(),
            field: "root hash",
            expected: "64 lower-case hex digits".into(),
            found: format!("`{}` ({} bytes)", text.chars().take(80).collect::<String>(), text.len()),
            next: "boot an image whose command line was written by the image builder",
        };
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut out = [0u8; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return Err(wrong()) };
            *byte = high << 4 | low;
        }
        Ok(RootHash(out))
    }

    /// Identifier of the partition that holds the data.
    pub fn data_partition(&self) -> Guid {
        Guid::from_written(self.0[..16].try_into().unwrap_or_default())
    }

    /// Identifier of the partition that holds the hash tree.
    pub fn hash_partition(&self) -> Guid {
        Guid::from_written(self.0[16..].try_into().unwrap_or_default())
    }
}

impl Guid {
    /// From the 16 bytes in the order in which a UUID is written.
    pub fn from_written(w: [u8; 16]) -> Self {
        let mut disk = w;
        disk[..4].reverse();
        disk[4..6].reverse();
        disk[6..8].reverse();
        Guid(disk)
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = Guid::from_written(self.0).0; // the swap is its own inverse
        for (i, byte) in written.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

    #[test]
    fn partition_ids_read_like_the_root_hash() {
        let root = RootHash::parse("test", TEXT).unwrap();
        assert_eq!(root.data_partition().to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(root.hash_partition().to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(root.data_partition().0[..8], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66]);
        assert_eq!(root.to_string(), TEXT);
    }

    #[test]
    fn a_root_hash_in_another_spelling_is_refused() {
        for bad in [&TEXT.to_uppercase(), &TEXT[1..], &format!("{TEXT}0"), &format!("0x{}", &TEXT[2..]), ""] {
            assert!(matches!(RootHash::parse("test", bad), Err(VerityError::Wrong { .. })), "accepted {bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,70}") {
            if let Ok(root) = RootHash::parse("test", &text) {
                prop_assert_eq!(root.to_string(), text);
            }
        }
    }
}

//! Hashing byte ranges once per algorithm, on several cores.

use crate::register::{Digest256, Digest384};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha384};

/// Both digests of one measured thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// SHA-384: what registers are folded from.
    pub sha384: Digest384,
    /// SHA-256: the TPM's other bank.
    pub sha256: Digest256,
}

impl Digests {
    /// Digests of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digests { sha384: Digest384::of(bytes), sha256: Digest256::of(bytes) }
    }
}

/// Byte ranges that are hashed as one message.
#[derive(Debug, Clone, Default)]
pub struct Ranges<'a> {
    parts: Vec<&'a [u8]>,
}

impl<'a> From<&'a [u8]> for Ranges<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Ranges { parts: vec![bytes] }
    }
}

impl<'a> Ranges<'a> {
    /// Appends a range.
    pub fn push(&mut self, bytes: &'a [u8]) {
        self.parts.push(bytes);
    }

    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.len()).sum()
    }

    /// Whether the message is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message in one piece.
    pub fn concat(&self) -> Vec<u8> {
        self.parts.concat()
    }

    /// SHA-384 of the message.
    pub fn sha384(&self) -> Digest384 {
        let mut hash = Sha384::new();
        self.parts.iter().for_each(|part| hash.update(part));
        Digest384(hash.finalize().into())
    }

    /// SHA-256 of the message.
    pub fn sha256(&self) -> Digest256 {
        let mut hash = Sha256::new();
        self.parts.iter().for_each(|part| hash.update(part));
        Digest256(hash.finalize().into())
    }

    /// Both digests, one after the other.
    pub fn digests(&self) -> Digests {
        Digests { sha384: self.sha384(), sha256: self.sha256() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hash_as_their_concatenation() {
        let mut ranges = Ranges::default();
        ranges.push(b"ab");
        ranges.push(b"");
        ranges.push(b"c");
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges.digests(), Digests::of(b"abc"));
    }
}

//! Byte strings of a fixed length that are written as lower-case hex, and a bounded reader of little-endian structures.

use crate::QuoteError;
use measure::Digest384;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// `N` bytes, shown and serialised as `2 * N` lower-case hex digits; either case is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> Hex<N> {
    /// All zeros.
    pub const ZERO: Hex<N> = Hex([0; N]);

    /// Reads exactly `2 * N` hex digits; the error says what was expected and what was found.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|e| format!("expected {} hex digits, found {} characters ({e})", 2 * N, text.len()))?;
        Ok(Hex(bytes))
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Writes lower-case hex without a copy on the heap.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let mut digits = [0; 96];
    for bytes in bytes.chunks(48) {
        let digits = &mut digits[..2 * bytes.len()];
        hex::encode_to_slice(bytes, digits).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(digits).map_err(|_| fmt::Error)?)?;
    }
    Ok(())
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Hex::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Takes fields from the front of a slice; never allocates, never reads past the end.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// `offset` is where `bytes` starts in the whole quote, for error messages.
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Reader { bytes, offset }
    }

    /// Position in the whole quote.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Everything that was not taken yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn take(&mut self, what: &'static str, n: usize) -> Result<&'a [u8], QuoteError> {
        let Some((head, tail)) = self.bytes.split_at_checked(n) else {
            let (offset, found) = (self.offset, self.bytes.len());
            return Err(QuoteError::Truncated { what, offset, expected: n, found });
        };
        self.bytes = tail;
        self.offset += n;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], QuoteError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    pub(crate) fn hex<const N: usize>(&mut self, what: &'static str) -> Result<Hex<N>, QuoteError> {
        self.array(what).map(Hex)
    }

    pub(crate) fn digest(&mut self, what: &'static str) -> Result<Digest384, QuoteError> {
        self.array(what).map(Digest384)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, QuoteError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, QuoteError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Fails if anything was not taken.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), QuoteError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let found = format!("{} more bytes", self.bytes.len());
        Err(QuoteError::Wrong { what, offset: self.offset, expected: "its end".into(), found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_of_the_wrong_length_is_refused_with_both_lengths() {
        let error = Hex::<4>::parse("00112233445566").unwrap_err();
        assert!(error.contains("8 hex digits") && error.contains("14 characters"), "{error}");
    }

    #[test]
    fn hex_is_read_in_either_case_and_written_in_lower() {
        let value: Hex<2> = serde_json::from_str("\"AbCd\"").unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), "\"abcd\"");
    }
}

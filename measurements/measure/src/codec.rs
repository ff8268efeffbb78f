//! Canonical length-prefixed encoding: each field is a big-endian `u32` length followed by that many bytes.
//!
//! Shared by everything of ours that crosses a trust boundary; a reader names the field and the offset of a fault.

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ends inside a field.
    #[error("{what}: input ends at byte {offset}, {missing} more expected")]
    Truncated {
        /// Name of the field.
        what: &'static str,
        /// Where the field starts.
        offset: usize,
        /// How many bytes are missing.
        missing: usize,
    },
    /// A field is longer than this protocol allows.
    #[error("{what} at byte {offset} claims {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Name of the field.
        what: &'static str,
        /// Where the field starts.
        offset: usize,
        /// The claimed length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// A fixed value is wrong.
    #[error("{what} at byte {offset}: expected {expected}, found {found}")]
    Wrong {
        /// Name of the field.
        what: &'static str,
        /// Where the field starts.
        offset: usize,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Bytes follow the last field.
    #[error("{extra} unexpected bytes after the last field at byte {offset}")]
    Trailing {
        /// Where the last field ends.
        offset: usize,
        /// How many bytes follow.
        extra: usize,
    },
}

/// Appends one length-prefixed field.
pub fn put(out: &mut Vec<u8>, field: &[u8]) {
    let len = u32::try_from(field.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(field);
}

/// Reads fields from the front of a slice, remembering the offset for error messages.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, offset: 0 }
    }

    /// Exactly `n` raw bytes.
    pub fn take(&mut self, what: &'static str, n: usize) -> Result<&'a [u8], CodecError> {
        let rest = &self.bytes[self.offset..];
        if rest.len() < n {
            return Err(CodecError::Truncated { what, offset: self.offset, missing: n - rest.len() });
        }
        self.offset += n;
        Ok(&rest[..n])
    }

    /// A big-endian `u32`.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        let b = self.take(what, 4)?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A length-prefixed field of at most `max` bytes.
    pub fn field(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], CodecError> {
        let offset = self.offset;
        let len = self.u32(what)? as usize;
        if len > max {
            return Err(CodecError::TooLong { what, offset, len, max });
        }
        self.take(what, len)
    }

    /// Fails unless the next bytes equal `expected`.
    pub fn expect(&mut self, what: &'static str, expected: &[u8]) -> Result<(), CodecError> {
        let offset = self.offset;
        let found = self.take(what, expected.len())?;
        if found == expected {
            return Ok(());
        }
        Err(CodecError::Wrong { what, offset, expected: hex::encode(expected), found: hex::encode(found) })
    }

    /// Fails if anything follows.
    pub fn finish(self) -> Result<(), CodecError> {
        match self.bytes.len() - self.offset {
            0 => Ok(()),
            extra => Err(CodecError::Trailing { offset: self.offset, extra }),
        }
    }
}

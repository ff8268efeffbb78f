//! What can be wrong with a voucher, and whose fault it is.

/// Why bytes are no voucher, or a voucher isn't good here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoucherError {
    /// The length is that of another thing.
    #[error("{what}: {found} bytes found, {expected} expected; ask the peer for its version")]
    Length {
        /// The tag that was expected.
        what: String,
        /// Bytes expected.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The first four bytes are those of another thing.
    #[error("{what}: begins with {found}; another kind of voucher, or none")]
    Tag {
        /// The tag that was expected.
        what: String,
        /// What was found, in hexadecimal.
        found: String,
    },
    /// A field holds what it can't.
    #[error("{what}: {field} is {found}, {expected} expected")]
    Field {
        /// The tag of the whole.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// 32 bytes that are no key, or one that nobody can hold.
    #[error("public key {0} is no point of the prime-order group; make a new key")]
    Key(String),
    /// The signature is not by that key over these bytes.
    #[error(
        "the signature of a {what} is not by key {key}; the voucher is refused, the one before stays good"
    )]
    Signature {
        /// The tag of what was signed.
        what: String,
        /// The key that was expected, in hexadecimal.
        key: String,
    },
}

impl VoucherError {
    /// Whether whoever sent it did wrong: all of these are bytes that a peer chose.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            Self::Length { .. } | Self::Tag { .. } | Self::Field { .. } => true,
            Self::Key(_) | Self::Signature { .. } => true,
        }
    }
}

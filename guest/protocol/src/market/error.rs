//! What can be wrong with a header value or a body.

/// Why something of a peer's can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarketError {
    /// A header value, a trailer or a part of a path.
    #[error("{what}: `{found}` found, {expected} expected")]
    Value {
        /// Which one.
        what: &'static str,
        /// What may stand there.
        expected: &'static str,
        /// What stands there, cut off after 64 characters.
        found: String,
    },
    /// A body that is longer than its kind can be.
    #[error("{what}: {found} bytes found, at most {limit} expected")]
    TooLong {
        /// Which body.
        what: &'static str,
        /// Bytes.
        limit: usize,
        /// Bytes.
        found: usize,
    },
    /// A body that is no JSON of this shape; no word of it is repeated.
    #[error(
        "{what}: no JSON of the expected shape at line {line}, column {column}; ask the peer for its version"
    )]
    Shape {
        /// Which body.
        what: &'static str,
        /// From 1; 0 where the end came too early.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A list or text within a body that is longer than it can be.
    #[error("{what}: {field} has {found} entries or bytes, at most {limit} expected")]
    Field {
        /// Which body.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// Most.
        limit: usize,
        /// Found.
        found: usize,
    },
}

impl MarketError {
    /// Whether whoever sent it did wrong: all of these are bytes that a peer chose.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            Self::Value { .. } | Self::TooLong { .. } | Self::Shape { .. } | Self::Field { .. } => true,
        }
    }

    /// Of a value, of which no more than its head is repeated.
    pub(super) fn value(what: &'static str, expected: &'static str, found: &str) -> Self {
        let found = found.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
        Self::Value { what, expected, found }
    }
}

//! Why bytes are no GPU evidence.

/// Input that could not be read. It says which input, where in it, what was expected, what was found and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// The input ends inside a field.
    #[error(
        "{input}: {what} at offset {offset}: expected {expected} bytes, found {found}; fetch it again, whole"
    )]
    Truncated {
        /// Which input.
        input: &'static str,
        /// Which field.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Bytes that it takes.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// A field has a value that it may not have.
    #[error("{input}: {what} at offset {offset}: expected {expected}, found {found}; {next}")]
    Wrong {
        /// Which input.
        input: &'static str,
        /// Which field.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// What may stand there.
        expected: String,
        /// What does.
        found: String,
        /// What to do.
        next: &'static str,
    },
    /// More than any such input has.
    #[error("{input}: expected at most {expected} {what}, found {found}; is this the right file?")]
    TooMany {
        /// Which input.
        input: &'static str,
        /// Of what.
        what: &'static str,
        /// The bound.
        expected: usize,
        /// What was found; for some inputs the count at which reading stopped.
        found: usize,
    },
}

impl GpuError {
    pub(crate) fn wrong(
        input: &'static str,
        what: &'static str,
        offset: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (expected, found) = (expected.into(), found.into());
        GpuError::Wrong {
            input,
            what,
            offset,
            expected,
            found,
            next: "fetch it again; is this the right file?",
        }
    }

    /// Refuses what is longer than any such input.
    pub(crate) fn bound(
        input: &'static str,
        what: &'static str,
        expected: usize,
        found: usize,
    ) -> Result<(), Self> {
        if found <= expected { Ok(()) } else { Err(GpuError::TooMany { input, what, expected, found }) }
    }
}

/// Takes little-endian fields from the front of a slice; never allocates, never reads past the end.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    input: &'static str,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    /// `offset` is where `bytes` starts in the whole input, for error messages.
    pub(crate) fn new(input: &'static str, bytes: &'a [u8], offset: usize) -> Self {
        Fields { input, bytes, offset }
    }

    /// Position in the whole input.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn take(&mut self, what: &'static str, n: usize) -> Result<&'a [u8], GpuError> {
        let Some((head, tail)) = self.bytes.split_at_checked(n) else {
            let (input, offset, found) = (self.input, self.offset, self.bytes.len());
            return Err(GpuError::Truncated { input, what, offset, expected: n, found });
        };
        self.bytes = tail;
        self.offset += n;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GpuError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, GpuError> {
        self.array(what).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, GpuError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// Three bytes, as SPDM counts a measurement record.
    pub(crate) fn u24(&mut self, what: &'static str) -> Result<usize, GpuError> {
        let [a, b, c] = self.array(what)?;
        Ok(usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16)
    }

    /// One byte that may only have this value.
    pub(crate) fn exactly(&mut self, what: &'static str, wanted: u8) -> Result<(), GpuError> {
        let offset = self.offset;
        let found = self.u8(what)?;
        if found == wanted {
            return Ok(());
        }
        let show = |byte: u8| format!("0x{byte:02x}");
        Err(GpuError::wrong(self.input, what, offset, show(wanted), show(found)))
    }

    /// Fails if anything was not taken.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), GpuError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let found = format!("{} more bytes", self.bytes.len());
        Err(GpuError::wrong(self.input, what, self.offset, "its end", found))
    }
}

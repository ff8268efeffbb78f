//! Fixed-length big-endian fields, as vouchers, receipts and log records write them.

use crate::error::VoucherError;
use crate::voucher::Address;

/// Writes fields one after the other.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins with a tag.
    pub fn tagged(tag: [u8; 4], capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(&tag);
        Self(bytes)
    }

    /// Appends bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    pub fn u8(self, value: u8) -> Self {
        self.raw(&[value])
    }

    /// Appends a `u16`.
    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends a `u32`.
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends an `i32`.
    pub fn i32(self, value: i32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends a `u64`.
    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends workchain and hash.
    pub fn address(self, value: &Address) -> Self {
        self.raw(&value.workchain.to_be_bytes()).raw(&value.hash)
    }

    /// Everything that was written.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Reads fields of bytes whose length was checked when it was made.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Bytes whose length the caller checked.
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// Bytes of exactly `length` that begin with `tag`.
    ///
    /// # Errors
    /// [`VoucherError::Length`] and [`VoucherError::Tag`] for other bytes.
    pub fn tagged(bytes: &'a [u8], tag: [u8; 4], length: usize) -> Result<Self, VoucherError> {
        let what = String::from_utf8_lossy(&tag).into_owned();
        if bytes.len() != length {
            return Err(VoucherError::Length { what, expected: length, found: bytes.len() });
        }
        match bytes.strip_prefix(&tag) {
            Some(rest) => Ok(Self { rest }),
            None => Err(VoucherError::Tag { what, found: hex::encode(&bytes[..bytes.len().min(4)]) }),
        }
    }

    /// The next `N` bytes; zeros past the end, which a checked length makes impossible.
    pub fn raw<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                *head
            }
            None => [0; N],
        }
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.raw::<1>()[0]
    }

    /// A `u16`.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.raw())
    }

    /// A `u32`.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.raw())
    }

    /// An `i32`.
    pub fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.raw())
    }

    /// A `u64`.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.raw())
    }

    /// Workchain and hash.
    pub fn address(&mut self) -> Address {
        Address { workchain: i8::from_be_bytes(self.raw()), hash: self.raw() }
    }
}

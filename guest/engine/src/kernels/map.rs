//! Files that are looked at where they lie: pages of a model disk become memory without a copy.
//!
//! `unsafe` here: the bytes of a mapped file must stay as they are, which the system does not promise. A model disk does:
//! it is mounted read-only over dm-verity. A page that can't be read any more, or whose hash is wrong, stops the process
//! with SIGBUS: there is no wrong answer, and no answer. Whoever loads a model has read every page before, where it is an
//! error with words (`weights.rs`), so that this happens only to pages that were dropped from memory since.

use memmap2::{Mmap, MmapOptions};
use std::fs::File;

/// A mapped part of a file.
pub(crate) struct Mapped(Mmap);

impl Mapped {
    /// Maps `len` bytes from `offset` on, which need no alignment.
    ///
    /// # Errors
    /// What the system says, and a part that is empty or does not lie within the file.
    pub fn new(file: &File, offset: u64, len: usize) -> std::io::Result<Mapped> {
        let end = offset.checked_add(len as u64);
        if len == 0 || end.is_none_or(|end| end > file.metadata().map_or(0, |facts| facts.len())) {
            return Err(std::io::Error::other("a part that is not within the file"));
        }
        // SAFETY: read-only; of files that change under it, see the module.
        Ok(Mapped(unsafe { MmapOptions::new().offset(offset).len(len).map(file)? }))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn parts_lie_within_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b"0123456789".as_slice(), &[b'x'; 9000]].concat()).unwrap();
        assert_eq!(Mapped::new(&file, 2, 6).unwrap().bytes(), b"234567");
        assert_eq!(Mapped::new(&file, 5000, 4010).unwrap().bytes(), [b'x'; 4010]);
        for (offset, len) in [(0, 0), (9011, 1), (9000, 11), (u64::MAX, 1), (0, usize::MAX)] {
            assert!(Mapped::new(&file, offset, len).is_err(), "{offset} {len}");
        }
    }
}

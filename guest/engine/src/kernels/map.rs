//! Files that are looked at where they lie: pages of a model disk become memory without a copy.
//!
//! `unsafe` here: the bytes of a mapped file must stay as they are, which the system does not promise. A model disk does:
//! it is mounted read-only over dm-verity. A page that can't be read any more, or whose hash is wrong, stops the process
//! with SIGBUS: there is no wrong answer, and no answer. Whoever loads a model has had every page brought before, where it
//! is an error with words (`weights.rs`), so that this happens only to pages that were dropped from memory since.

use memmap2::{Advice, Mmap, MmapOptions};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A mapped part of a file. Parts of one file share the mapping.
#[derive(Clone)]
pub(crate) struct Mapped {
    map: Arc<Mmap>,
    from: usize,
    len: usize,
}

/// The mapping of a whole file, which is there as long as a part of it is.
#[derive(Default)]
pub(crate) struct Mapping(Mutex<Weak<Mmap>>);

impl Mapping {
    /// A part of `file`, of which `whole` bytes are mapped where none are.
    ///
    /// # Errors
    /// What the system says, and a file that is shorter.
    ///
    /// # Panics
    /// A part that does not lie within `whole`.
    pub fn part(&self, file: &File, whole: usize, from: usize, len: usize) -> Result<Mapped> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = known.upgrade() {
            return Ok(Mapped { map, from: 0, len: whole }.part(from, len));
        }
        let all = Mapped::new(file, 0, whole)?;
        *known = Arc::downgrade(&all.map);
        Ok(all.part(from, len))
    }
}

/// Whether the system brings pages on demand with errors instead of signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brought {
    /// The pages are there.
    Yes,
    /// This system can't say (Linux before 5.14); read them through the file first.
    NotKnown,
}

impl Mapped {
    /// Maps `len` bytes from `offset` on, which need no alignment.
    ///
    /// # Errors
    /// What the system says, and a part that is empty or does not lie within the file.
    pub fn new(file: &File, offset: u64, len: usize) -> Result<Mapped> {
        let end = offset.checked_add(len as u64);
        if len == 0 || end.is_none_or(|end| end > file.metadata().map_or(0, |facts| facts.len())) {
            return Err(Error::other("a part that is not within the file"));
        }
        // SAFETY: read-only; of files that change under it, see the module.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file)? };
        // A wish: where the file system can, it then reads 2 MB at a time, ahead, and maps them as one page. Asking for what
        // comes next by hand would make it read small pages.
        let _ = map.advise(Advice::HugePage);
        Ok(Mapped { map: Arc::new(map), from: 0, len })
    }

    /// A part of this part.
    ///
    /// # Panics
    /// One that does not lie within it.
    pub fn part(&self, from: usize, len: usize) -> Mapped {
        assert!(from <= self.len && len <= self.len - from, "a part within it");
        Mapped { map: self.map.clone(), from: self.from + from, len }
    }

    /// Has the system bring all pages of this part, without reading them here.
    ///
    /// # Errors
    /// A page that can't be read: touching it would be a signal.
    pub fn bring(&self) -> Result<Brought> {
        match self.map.advise_range(Advice::PopulateRead, self.from, self.len) {
            Ok(()) => Ok(Brought::Yes),
            // The system does not know the advice.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(Brought::NotKnown),
            Err(error) => Err(error),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.from..][..self.len]
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

    #[test]
    fn parts_of_parts_are_where_they_should_be() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let part = Mapped::new(&file, 7, 19_000).unwrap().part(5000, 9000);
        assert_eq!(part.bytes(), &bytes[5007..14_007]);
        let inner = part.part(8000, 1000);
        inner.bring().unwrap();
        assert_eq!(inner.bytes(), &bytes[13_007..14_007]);
        assert!(std::panic::catch_unwind(|| part.part(8000, 1001)).is_err());
    }

    #[test]
    fn a_file_is_mapped_once_and_as_long_as_it_is_used() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mapping = Mapping::default();
        let part = |from, len| mapping.part(&file, 10, from, len).unwrap();
        let (first, second) = (part(1, 3), part(4, 6));
        assert_eq!((first.bytes(), second.bytes()), (b"123".as_slice(), b"456789".as_slice()));
        assert!(Arc::ptr_eq(&first.map, &second.map));
        drop((first, second));
        assert!(mapping.0.lock().unwrap().upgrade().is_none());
        assert_eq!(part(0, 10).bytes(), b"0123456789");
        assert!(mapping.part(&file, 11, 0, 1).is_err());
    }

    #[test]
    fn a_page_that_is_gone_is_an_error_and_not_a_signal() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * 4096).unwrap();
        let map = Mapped::new(&file, 0, 64 * 4096).unwrap();
        // As when a disk fails: the system can't bring what is behind the end.
        file.set_len(4096).unwrap();
        assert!(matches!(map.part(8 * 4096, 4096).bring(), Err(_) | Ok(Brought::NotKnown)));
        assert!(map.part(0, 4096).bring().is_ok());
    }
}

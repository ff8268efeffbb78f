//! Files that are looked at where they lie: pages of a model disk become memory without a copy.
//!
//! `unsafe` here: the bytes of a mapped file must stay as they are, which the system does not promise. A model disk does:
//! it is mounted read-only over dm-verity. A page that can't be read any more, or whose hash is wrong, stops the process
//! with SIGBUS: there is no wrong answer, and no answer. Whoever loads a model has read every page before, where it is an
//! error with words (`weights.rs`), so that this happens only to pages that were dropped from memory since.

use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Part of a mapped file.
#[derive(Clone)]
pub(crate) struct Mapped {
    file: Arc<Mmap>,
    range: Range<usize>,
}

impl Mapped {
    /// Maps a whole file.
    pub fn file(file: &File) -> std::io::Result<Mapped> {
        // SAFETY: read-only; of files that change under it, see the module.
        let map = unsafe { Mmap::map(file)? };
        Ok(Mapped { range: 0..map.len(), file: Arc::new(map) })
    }

    /// Part of this part; none where it would not lie within.
    pub fn part(&self, range: Range<usize>) -> Option<Mapped> {
        let (start, end) =
            (self.range.start.checked_add(range.start)?, self.range.start.checked_add(range.end)?);
        (start <= end && end <= self.range.end).then(|| Mapped { file: self.file.clone(), range: start..end })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn parts_lie_within_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let map = Mapped::file(&file).unwrap();
        let part = map.part(2..8).unwrap();
        assert_eq!(part.bytes(), b"234567");
        assert_eq!(part.part(1..3).unwrap().bytes(), b"34");
        assert_eq!(part.part(6..6).unwrap().bytes(), b"");
        for outside in [0..7, 7..7, 3..2, 0..usize::MAX, usize::MAX..usize::MAX] {
            assert!(part.part(outside).is_none());
        }
    }
}

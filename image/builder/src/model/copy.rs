//! Copying the files of a model, with their hashes, and saying how far it is: a large one takes minutes.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;
/// Percent between two messages.
const EVERY: u64 = 10;

/// Files that are being copied.
pub struct Copying<'a> {
    total: u64,
    done: u64,
    /// Percent that the next message waits for.
    next: u64,
    progress: &'a mut dyn FnMut(&str),
}

impl<'a> Copying<'a> {
    /// Files of `total` bytes together.
    pub fn new(total: u64, progress: &'a mut dyn FnMut(&str)) -> Self {
        Copying { total, done: 0, next: 0, progress }
    }

    /// Copies one; its length and the SHA-256 of its contents, lower-case hex.
    pub fn file(&mut self, from: &Path, to: &Path) -> Result<(u64, String)> {
        let failed = || format!("{}: can't copy to {}", from.display(), to.display());
        let mut input = File::open(from).with_context(failed)?;
        let mut output = File::create(to).with_context(failed)?;
        let (mut state, mut buffer, mut size) = (Sha256::new(), vec![0; CHUNK], 0);
        loop {
            self.tell();
            match input.read(&mut buffer).with_context(failed)? {
                0 => return Ok((size, hex::encode(state.finalize()))),
                n => {
                    output.write_all(&buffer[..n]).with_context(failed)?;
                    state.update(&buffer[..n]);
                    size += n as u64;
                    self.done += n as u64;
                }
            }
        }
    }

    fn tell(&mut self) {
        let percent = (self.done * 100).checked_div(self.total).unwrap_or(100);
        if percent >= self.next {
            let megabytes = self.total / 1_000_000;
            (self.progress)(&format!("copying and hashing {megabytes} MB: {percent} %"));
            self.next = percent / EVERY * EVERY + EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_how_far_it_is_and_has_the_hash_of_what_it_copied() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..2_500_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(dir.path().join("a"), &content).unwrap();
        std::fs::write(dir.path().join("empty"), "").unwrap();
        let mut said = vec![];
        let mut tell = |line: &str| said.push(line.to_owned());
        let mut copying = Copying::new(content.len() as u64, &mut tell);
        let (size, hash) = copying.file(&dir.path().join("a"), &dir.path().join("b")).unwrap();
        copying.file(&dir.path().join("empty"), &dir.path().join("c")).unwrap();
        assert_eq!((size, hash), (2_500_000, hex::encode(Sha256::digest(&content))));
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), content);
        assert_eq!(said.first().unwrap(), "copying and hashing 2 MB: 0 %");
        assert_eq!(said.last().unwrap(), "copying and hashing 2 MB: 100 %");
        assert_eq!(said.len(), 4);
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut tell = |_: &str| ();
        let refused =
            Copying::new(0, &mut tell).file(&dir.path().join("none"), &dir.path().join("b")).unwrap_err();
        assert!(format!("{refused:#}").contains("none: can't copy"), "{refused:#}");
    }
}

//! What an attacker with the host's powers would change: bytes of the disk, words of the command line, sections of the
//! kernel image.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Flips one bit of `file` at `offset`.
pub fn flip_bit(file: &Path, offset: u64) -> Result<()> {
    let open = fs::OpenOptions::new().read(true).write(true).open(file);
    let open = open.with_context(|| format!("cannot open {}", file.display()))?;
    let mut byte = [0];
    open.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1;
    open.write_all_at(&byte, offset)?;
    Ok(())
}

/// Replaces the only occurrence of `from` in a section of a PE image by `to`, which has the same length.
pub fn replace_in_section(image: &Path, section: &str, from: &[u8], to: &[u8]) -> Result<()> {
    ensure!(from.len() == to.len(), "a section keeps its length");
    let mut bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let range = section_range(&bytes, section)?;
    let found: Vec<usize> = bytes[range.clone()]
        .windows(from.len())
        .enumerate()
        .filter(|(_, w)| *w == from)
        .map(|(i, _)| i)
        .collect();
    let what = String::from_utf8_lossy(from);
    ensure!(found.len() == 1, "`{what}` occurs {} times in {section}, expected once", found.len());
    let at = range.start + found[0];
    bytes[at..at + to.len()].copy_from_slice(to);
    fs::write(image, bytes).with_context(|| format!("cannot write {}", image.display()))
}

/// Where a section's bytes lie in the file.
pub fn section_range(bytes: &[u8], section: &str) -> Result<std::ops::Range<usize>> {
    let image = measure::pe::Image::parse(bytes)?;
    let found = image.section(section).with_context(|| format!("no section {section}"))?;
    Ok(found.file.clone())
}

/// Offset on the disk of the root's erofs super block, which the boot surely reads.
pub fn super_block(root: &Path, disk: &Path) -> Result<u64> {
    let root = fs::read(root).with_context(|| format!("cannot read {}", root.display()))?;
    let whole = fs::read(disk).with_context(|| format!("cannot read {}", disk.display()))?;
    let start = whole.chunks(4096).position(|block| block == &root[..4096]).context("no root on the disk")?;
    // The super block stands 1024 bytes into the file system; nothing can be mounted without it.
    Ok(start as u64 * 4096 + 1024)
}

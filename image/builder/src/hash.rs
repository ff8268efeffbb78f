//! SHA-256 of bytes, files and folders.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Lower-case hex SHA-256 of bytes.
pub(crate) fn bytes(data: &[u8]) -> String {
    hex::encode(Sha256::digest(data))
}

/// Lower-case hex SHA-256 of a file's contents.
pub(crate) fn file(path: &Path) -> Result<String> {
    let mut input = fs::File::open(path).with_context(|| format!("{}: can't open", path.display()))?;
    let mut state = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match input.read(&mut buffer).with_context(|| format!("{}: can't read", path.display()))? {
            0 => return Ok(hex::encode(state.finalize())),
            n => state.update(&buffer[..n]),
        }
    }
}

/// Every file and symlink below `dir` (not folders), sorted, relative.
pub(crate) fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("{}: can't list", next.display()))? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => todo.push(entry.path()),
                false => found.push(entry.path().strip_prefix(dir)?.to_owned()),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// One line for a file or symlink: kind, executable or not, hash of contents or target.
pub(crate) fn entry(path: &Path) -> Result<String> {
    let meta = fs::symlink_metadata(path).with_context(|| format!("{}: can't stat", path.display()))?;
    if meta.is_symlink() {
        return Ok(format!("l {}", fs::read_link(path)?.display()));
    }
    let kind = if meta.permissions().mode() & 0o100 != 0 { 'x' } else { 'f' };
    Ok(format!("{kind} {}", file(path)?))
}

/// SHA-256 over names, executable bits and contents of everything below `dir`; times and owners do not count.
pub(crate) fn tree(dir: &Path) -> Result<String> {
    let mut state = Sha256::new();
    for name in walk(dir)? {
        state.update(format!("{} {}\n", entry(&dir.join(&name))?, name.display()));
    }
    Ok(hex::encode(state.finalize()))
}

//! Reads a folder of artifacts. What a file is, its content says; here is only decided how much of it is read.

use crate::measure_cmd::esp;
use anyhow::{Context, Result, bail};
use measure::explain::File;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Folders below the one that is given.
const MAX_DEPTH: usize = 4;
/// Files that are looked at.
const MAX_FILES: usize = 2000;
/// Files of unknown kind above this aren't read whole.
const MAX_UNKNOWN: u64 = 16 * 1024 * 1024;
/// No firmware, kernel image or initrd is larger.
const MAX_FILE: u64 = 512 * 1024 * 1024;
/// Of a disk: its partition table.
const DISK_HEAD: u64 = 1024 * 1024;
/// Enough to tell what a file begins like.
const SNIFF: u64 = 4096;

/// A file that was read: path below the folder, content or its front.
pub struct Content {
    path: String,
    bytes: Vec<u8>,
}

/// All files of a folder, by path.
pub fn files(folder: &Path) -> Result<Vec<Content>> {
    if !folder.is_dir() {
        bail!("{}: not a folder; give one with firmware, kernel images, shapes", folder.display());
    }
    let mut paths = Vec::new();
    list(folder, 0, &mut paths)?;
    paths.sort();
    let mut out = Vec::new();
    for path in paths {
        let bytes = contents(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let below = path.strip_prefix(folder).unwrap_or(&path);
        let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let below = parts.join("/");
        // What a disk boots is an artifact too; a disk without it is still a disk.
        if let (true, Ok(image)) = (is_disk(&bytes), esp::boot_file(&path)) {
            out.push(Content { path: format!("{below}/EFI/BOOT/BOOTX64.EFI"), bytes: image });
        }
        out.push(Content { path: below, bytes });
    }
    Ok(out)
}

/// The same as the explanation takes it.
pub fn borrow(files: &[Content]) -> Vec<File<'_>> {
    files.iter().map(|file| File { path: &file.path, bytes: &file.bytes }).collect()
}

/// What a release is called that nothing describes: as its folder.
pub fn name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(|| "artifacts".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn list(folder: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.is_file() {
            out.push(path);
        } else if path.is_dir() && depth < MAX_DEPTH && !path.is_symlink() {
            list(&path, depth + 1, out)?;
        }
        if out.len() > MAX_FILES {
            bail!("{}: more than {MAX_FILES} files; give the folder of a release", folder.display());
        }
    }
    Ok(())
}

fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.by_ref().take(SNIFF).read_to_end(&mut bytes)?;
    let disk = is_disk(&bytes);
    let artifact = bytes.starts_with(b"MZ") || is_archive(&bytes) || bytes.get(40..44) == Some(b"_FVH");
    let most = match (disk, artifact) {
        (true, _) => DISK_HEAD,
        (_, true) => MAX_FILE,
        _ if size > MAX_UNKNOWN => SNIFF,
        _ => MAX_UNKNOWN,
    };
    file.take(most.saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_disk(bytes: &[u8]) -> bool {
    bytes.get(512..520) == Some(b"EFI PART")
}

/// Begins like an initrd.
fn is_archive(bytes: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"07070", &[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], b"\xfd7zXZ"];
    magics.iter().any(|magic| bytes.starts_with(magic))
}

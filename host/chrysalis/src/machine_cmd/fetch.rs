//! Files of a release, from a folder or an address, held against the hashes that its publication gives. What is not whole is
//! never seen under the release's name.

use crate::reproduce::http::KitServer;
use anyhow::{Context, Result, ensure};
use builder::kit::Mirror;
use measure::Digest256;
use release::File as Wanted;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Bytes copied at a time.
const PIECE: usize = 64 * 1024;

/// Fetches `files` from `source` into a new folder `into`; one that is there and whole is taken as it is.
pub fn fetch(source: &str, files: &[Wanted], into: &Path) -> Result<()> {
    if into.exists() {
        return files.iter().try_for_each(|file| check(&into.join(&file.name), file));
    }
    let scratch = into.with_extension("partial");
    let _ = fs::remove_dir_all(&scratch);
    let fetched = fetch_all(source, files, &scratch).and_then(|()| {
        fs::rename(&scratch, into).with_context(|| format!("{}: can't be put in place", into.display()))
    });
    if fetched.is_err() {
        let _ = fs::remove_dir_all(&scratch);
    }
    fetched
}

fn fetch_all(source: &str, files: &[Wanted], scratch: &Path) -> Result<()> {
    fs::create_dir_all(scratch).with_context(|| format!("{}: can't make the folder", scratch.display()))?;
    for file in files {
        // Names come from a publication that holds, and are held to be plain all the same.
        ensure!(
            is_plain(&file.name),
            "{:?}: no plain file name; the publication is not for this program",
            file.name
        );
        eprintln!("  fetching {} ({} MiB)", file.name, file.size >> 20);
        let mut from = open(source, &file.name)?;
        let path = scratch.join(&file.name);
        let hint = || {
            format!(
                "{}: can't be written; make room there, or name another folder with --into",
                path.display()
            )
        };
        let mut to = File::create(&path).with_context(hint)?;
        let found = copy(from.as_mut(), file, |piece| to.write_all(piece).with_context(hint))?;
        to.sync_all().with_context(hint)?;
        expect(&file.name, found, file)?;
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.starts_with('.') && !name.is_empty() && name.bytes().all(plain)
}

fn open(source: &str, name: &str) -> Result<Box<dyn Read>> {
    if source.contains("://") {
        return Ok(KitServer::new(source)?.open(name)?);
    }
    let path = PathBuf::from(source).join(name);
    let file = File::open(&path)
        .with_context(|| format!("{}: not there; is it the folder of a build?", path.display()))?;
    Ok(Box::new(file))
}

/// Copies as many bytes as there should be, and says their hash.
fn copy(from: &mut dyn Read, file: &Wanted, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<Digest256> {
    let (mut hash, mut left, mut piece) = (Sha256::new(), file.size, vec![0; PIECE]);
    let broke = || format!("{}: the transfer broke off; try again", file.name);
    while left > 0 {
        let room = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
        let length = from.read(&mut piece[..room]).with_context(broke)?;
        ensure!(length > 0, "{}: ends {left} bytes early; is it another build?", file.name);
        hash.update(&piece[..length]);
        put(&piece[..length])?;
        left -= length as u64;
    }
    ensure!(from.read(&mut [0]).with_context(broke)? == 0, "{}: longer than published", file.name);
    Ok(Digest256(hash.finalize().into()))
}

fn check(path: &Path, file: &Wanted) -> Result<()> {
    let mut from =
        File::open(path).with_context(|| format!("{}: remove its folder and try again", path.display()))?;
    expect(&path.display().to_string(), copy(&mut from, file, |_| Ok(()))?, file)
}

fn expect(name: &str, found: Digest256, file: &Wanted) -> Result<()> {
    ensure!(
        found == file.sha256,
        "{name}: SHA-256 is {found}, published {}; this is another build: take it from where the release is offered",
        file.sha256
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, bytes: &[u8]) -> Wanted {
        Wanted { name: name.into(), sha256: Digest256::of(bytes), size: bytes.len() as u64 }
    }

    #[test]
    fn whole_files_arrive_and_are_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("uki.efi"), "MZ").unwrap();
        let (source, into) = (dir.path().display().to_string(), dir.path().join("worker-1.0.0"));
        fetch(&source, &[wanted("uki.efi", b"MZ")], &into).unwrap();
        assert_eq!(fs::read(into.join("uki.efi")).unwrap(), b"MZ");
        fetch("/nowhere", &[wanted("uki.efi", b"MZ")], &into).unwrap();
        fs::write(into.join("uki.efi"), "XX").unwrap();
        let text = fetch("/nowhere", &[wanted("uki.efi", b"MZ")], &into).unwrap_err().to_string();
        assert!(text.contains("this is another build"), "{text}");
    }

    #[test]
    fn another_build_a_short_one_a_long_one_and_a_missing_one_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("uki.efi"), "MZ").unwrap();
        let (source, into) = (dir.path().display().to_string(), dir.path().join("worker"));
        for (file, words) in [
            (wanted("uki.efi", b"XX"), "this is another build"),
            (wanted("uki.efi", b"MZ and more"), "ends 9 bytes early"),
            (wanted("uki.efi", b"M"), "longer than published"),
            (wanted("disk.raw", b"MZ"), "not there"),
            (wanted("../uki.efi", b"MZ"), "no plain file name"),
        ] {
            let text = format!("{:#}", fetch(&source, &[file], &into).unwrap_err());
            assert!(text.contains(words), "{text}");
            assert!(!into.exists() && !into.with_extension("partial").exists());
        }
    }
}

//! The UKI of a raw disk: `EFI/BOOT/BOOTX64.EFI` of its EFI partition (UEFI 2.10 section 3.5.1.1), where firmware looks.

use anyhow::{Context, Result, ensure};
use fatfs::{FileSystem, FsOptions};
use launcher::foretell;
use measure::gpt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// C12A7328-F81F-11D2-BA4B-00A0C93EC93B: an EFI system partition.
const EFI_SYSTEM: [u8; 16] = *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b";
const BOOT_FILE: &str = "EFI/BOOT/BOOTX64.EFI";
const SECTOR: u64 = 512;
/// No UKI is larger.
const MAX_FILE: u64 = 1 << 30;

/// The file that firmware boots from this disk.
pub fn boot_file(disk: &Path) -> Result<Vec<u8>> {
    let shown = || format!("{}", disk.display());
    let table = gpt::gpt_event(&foretell::disk_head(disk)?).with_context(shown)?;
    let partition = table.partitions.iter().find(|p| p.type_guid == EFI_SYSTEM);
    let (first, last) = partition
        .with_context(|| format!("{}: no EFI system partition; give the UKI with --uki", disk.display()))?
        .sectors;
    let file = File::open(disk).with_context(shown)?;
    let bytes = first.checked_mul(SECTOR).zip(last.checked_add(1).and_then(|end| end.checked_mul(SECTOR)));
    let (start, end) = bytes
        .filter(|(start, end)| start < end)
        .with_context(|| format!("{}: its EFI partition spans sectors {first} to {last}", disk.display()))?;
    let window = Window { file, start, length: end - start, at: 0 };
    let read = || -> io::Result<Vec<u8>> {
        let fat = FileSystem::new(window, FsOptions::new())?;
        let mut bytes = Vec::new();
        fat.root_dir().open_file(BOOT_FILE)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| {
        format!("{}: cannot read {BOOT_FILE} of its EFI partition; give the UKI with --uki", disk.display())
    })?;
    ensure!(
        bytes.len() as u64 <= MAX_FILE,
        "{}: {BOOT_FILE} is larger than {MAX_FILE} bytes",
        disk.display()
    );
    Ok(bytes)
}

/// A partition as a file of its own. Nothing is ever written.
struct Window {
    file: File,
    start: u64,
    length: u64,
    at: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.at).min(buffer.len() as u64) as usize;
        self.file.seek(SeekFrom::Start(self.start + self.at))?;
        let read = self.file.read(&mut buffer[..left])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(offset) => (self.length, offset),
            SeekFrom::Current(offset) => (self.at, offset),
        };
        let at = base.checked_add_signed(offset).filter(|at| *at <= self.length);
        self.at = at.ok_or_else(|| io::Error::other("a place outside the EFI partition"))?;
        Ok(self.at)
    }
}

impl Write for Window {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk is only read"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! The linker script: what the firmware must allocate, patch and checksum (QEMU `hw/acpi/bios-linker-loader.c`).
//!
//! Entries are 128 bytes: a command word, then file names of 56 bytes and numbers. Allocations come first, the latest
//! allocation foremost; pointers and checksums follow in the order in which the tables were made.

/// fw_cfg file of the tables.
pub(super) const TABLES: &str = "etc/acpi/tables";
/// fw_cfg file of the root pointer.
pub(super) const RSDP: &str = "etc/acpi/rsdp";
/// fw_cfg file of the TPM's log area.
pub(super) const TPM_LOG: &str = "etc/tpm/log";

const ENTRY: usize = 128;
const FILE_NAME: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Where an allocation may lie.
#[derive(Clone, Copy)]
pub(super) enum Zone {
    /// Anywhere below 4 GiB.
    High = 1,
    /// The BIOS segment, where the root pointer is searched.
    Fseg = 2,
}

#[derive(Default)]
pub(super) struct Script {
    allocations: Vec<[u8; ENTRY]>,
    patches: Vec<[u8; ENTRY]>,
}

/// Puts file names and numbers behind a command word.
fn entry(command: u32, files: &[&str], numbers: &[u8]) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    out[..4].copy_from_slice(&command.to_le_bytes());
    for (i, file) in files.iter().enumerate() {
        let at = 4 + i * FILE_NAME;
        out[at..at + file.len()].copy_from_slice(file.as_bytes());
    }
    let at = 4 + files.len() * FILE_NAME;
    out[at..at + numbers.len()].copy_from_slice(numbers);
    out
}

impl Script {
    pub(super) fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        let numbers = [&align.to_le_bytes()[..], &[zone as u8]].concat();
        self.allocations.push(entry(ALLOCATE, &[file], &numbers));
    }

    /// `size` bytes at `offset` of `file` hold an offset into `target`; the firmware adds its address.
    pub(super) fn pointer(&mut self, file: &str, offset: u32, size: u8, target: &str) {
        let numbers = [&offset.to_le_bytes()[..], &[size]].concat();
        self.patches.push(entry(ADD_POINTER, &[file, target], &numbers));
    }

    pub(super) fn checksum(&mut self, file: &str, at: u32, start: u32, length: u32) {
        let numbers = [at, start, length].map(u32::to_le_bytes).concat();
        self.patches.push(entry(ADD_CHECKSUM, &[file], &numbers));
    }

    /// The script's bytes, padded to pages.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut out =
            self.allocations.iter().rev().chain(&self.patches).flatten().copied().collect::<Vec<_>>();
        out.resize(out.len().next_multiple_of(0x1000), 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_allocation_comes_first() {
        let mut script = Script::default();
        script.allocate(TABLES, 64, Zone::High);
        script.checksum(TABLES, 9, 0, 36);
        script.allocate(RSDP, 16, Zone::Fseg);
        let bytes = script.finish();
        assert_eq!(bytes.len(), 0x1000);
        assert!(bytes[4..].starts_with(b"etc/acpi/rsdp\0"));
        assert_eq!(bytes[60..65], [16, 0, 0, 0, 2]);
        assert_eq!(bytes[256], 3);
    }
}

//! The front of a small disk, for tests and as a seed for fuzzing.

use super::SECTOR;

/// The front of a disk with two partitions, in entries 0 and 2.
pub fn disk() -> Vec<u8> {
    let mut disk = vec![0; 34 * SECTOR];
    disk[SECTOR..SECTOR + 8].copy_from_slice(b"EFI PART");
    disk[SECTOR + 72] = 2;
    disk[SECTOR + 80] = 128;
    disk[SECTOR + 84] = 128;
    for (entry, fill) in [(0, 0xaa), (2, 0xbb)] {
        let at = 2 * SECTOR + 128 * entry;
        disk[at..at + 32].fill(fill);
        disk[at + 32..at + 40].copy_from_slice(&2048u64.to_le_bytes());
        disk[at + 40..at + 48].copy_from_slice(&4095u64.to_le_bytes());
    }
    disk
}

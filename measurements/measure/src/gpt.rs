//! The partition table event: EFI_GPT_DATA of a raw disk (PFP 10.2.8; EDK2 `Tcg2MeasureGptTable`).
//!
//! ```text
//! LBA 1: GPT header, 92 bytes measured | count u64 | the entries whose type GUID isn't zero, in table order
//! ```

use crate::error::{Input, MeasureError, View};

/// The only sector size that the image is made with.
const SECTOR: usize = 512;
const HEADER: usize = 92;
/// EDK2 and every partitioner make 128; more is hostile.
const MAX_ENTRIES: u32 = 1024;

/// A used partition entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Index in the table, from 0.
    pub index: u32,
    /// Partition type GUID, as stored.
    pub type_guid: [u8; 16],
    /// Unique GUID, as stored.
    pub guid: [u8; 16],
    /// First and last sector.
    pub sectors: (u64, u64),
}

/// The event's bytes, and the partitions in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptEvent {
    /// What is logged and hashed.
    pub bytes: Vec<u8>,
    /// The used entries, in table order.
    pub partitions: Vec<Partition>,
}

/// Makes the event from the first sectors of a disk (34 in the usual layout).
pub fn gpt_event(disk: &[u8]) -> Result<GptEvent, MeasureError> {
    let view = View::new(Input::Disk, disk);
    let header = view.sub(SECTOR, SECTOR, "GPT header")?;
    if header.slice(0, 8, "GPT signature")? != b"EFI PART" {
        return Err(header.fault(0, "no GPT signature (EFI PART) in the second sector"));
    }
    let table = header.u64(72, "partition table sector")?;
    let count = header.u32(80, "number of entries")?;
    let size = header.u32(84, "entry size")? as usize;
    if count > MAX_ENTRIES {
        return Err(header.fault(80, format!("{count} partition entries, expected at most {MAX_ENTRIES}")));
    }
    if !(128..=4096).contains(&size) {
        return Err(header.fault(84, format!("entries of {size} bytes, expected 128 to 4096")));
    }
    let start = usize::try_from(table).ok().and_then(|t| t.checked_mul(SECTOR));
    let start = start
        .ok_or_else(|| header.fault(72, format!("partition table at sector {table}, beyond any disk")))?;
    let entries = view.sub(start, size * count as usize, "partition table")?;
    let mut used: Vec<u8> = Vec::new();
    let mut partitions = Vec::new();
    for index in 0..count {
        let at = index as usize * size;
        let type_guid: [u8; 16] = entries.array(at, "partition type")?;
        if type_guid == [0; 16] {
            continue;
        }
        used.extend(entries.slice(at, size, "partition entry")?);
        partitions.push(Partition {
            index,
            type_guid,
            guid: entries.array(at + 16, "partition GUID")?,
            sectors: (entries.u64(at + 32, "first sector")?, entries.u64(at + 40, "last sector")?),
        });
    }
    let mut bytes = header.slice(0, HEADER, "GPT header")?.to_vec();
    bytes.extend((partitions.len() as u64).to_le_bytes());
    bytes.extend(used);
    Ok(GptEvent { bytes, partitions })
}

#[cfg(any(test, feature = "samples"))]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::disk as sample_disk;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_event_is_header_count_and_used_entries() {
        let disk = sample_disk();
        let event = gpt_event(&disk).unwrap();
        assert_eq!(event.bytes.len(), 92 + 8 + 2 * 128);
        assert_eq!(event.bytes[..92], disk[512..604]);
        assert_eq!(event.bytes[92..100], 2u64.to_le_bytes());
        assert_eq!(event.bytes[100..228], disk[1024..1152]);
        assert_eq!(
            event.partitions[1],
            Partition { index: 2, type_guid: [0xbb; 16], guid: [0xbb; 16], sectors: (2048, 4095) }
        );
    }

    #[test]
    fn a_disk_without_gpt_and_a_lying_table_are_refused() {
        assert!(gpt_event(&[0; 34 * 512]).unwrap_err().to_string().contains("EFI PART"));
        let mut disk = sample_disk();
        disk[SECTOR + 72..SECTOR + 80].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(gpt_event(&disk).unwrap_err().to_string().contains("beyond any disk"));
        let mut disk = sample_disk();
        disk[SECTOR + 80..SECTOR + 84].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(gpt_event(&disk).unwrap_err().to_string().contains("4294967295 partition entries"));
    }

    proptest! {
        #[test]
        fn a_mutated_disk_never_panics(at in 512usize..1500, value: u64, cut in 0usize..34 * 512) {
            let mut disk = sample_disk();
            disk[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let _ = gpt_event(&disk);
            let _ = gpt_event(&disk[..cut]);
        }
    }
}

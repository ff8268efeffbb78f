//! Reads a GUID partition table (UEFI 2.10 section 5.3) from a disk that is not trusted.
//!
//! Only the primary table at LBA 1 with 512-byte sectors and 128-byte entries is read, both checksums are checked, and
//! the size of the table is bounded before anything is allocated.

use crate::{REBUILD, RootHash, VerityError, roothash::Guid};
use std::io::{Read, Seek, SeekFrom};

/// Bytes in a logical block of the table.
pub const SECTOR: u64 = 512;
const ENTRY: usize = 128;
/// Most entries accepted; partitioning tools write 128.
const MAX_ENTRIES: u32 = 256;

/// One used entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// 1 for the first slot of the table, as the kernel counts.
    pub number: u32,
    /// UniquePartitionGUID.
    pub id: Guid,
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub sectors: u64,
}

/// The partitions of a disk of `sectors` 512-byte sectors; `input` names it for error messages.
pub fn read<D: Read + Seek>(input: &str, disk: &mut D, sectors: u64) -> Result<Vec<Partition>, VerityError> {
    let header = read_at(input, disk, SECTOR, SECTOR as usize)?;
    let table = Header::parse(input, &header, sectors)?;
    let entries = read_at(input, disk, table.entries_lba * SECTOR, table.count as usize * ENTRY)?;
    if crc32(&entries) != table.entries_crc {
        let (expected, found) = (hex32(table.entries_crc), hex32(crc32(&entries)));
        return Err(wrong(input, "checksum of the partition entries", expected, found));
    }
    entries
        .chunks_exact(ENTRY)
        .zip(1u32..)
        .filter(|(entry, _)| entry[..16] != [0; 16])
        .map(|(entry, number)| parse_entry(input, entry, number, sectors))
        .collect()
}

/// The one partition with this identifier.
pub fn by_id<'a>(input: &str, table: &'a [Partition], id: Guid) -> Result<&'a Partition, VerityError> {
    let mut matching = table.iter().filter(|p| p.id == id);
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            let seen: Vec<String> = table.iter().map(|p| p.id.to_string()).collect();
            let found = if seen.is_empty() { "no partition".into() } else { seen.join(", ") };
            Err(wrong(input, "partition id (derived from the root hash)", id.to_string(), found))
        }
        (Some(_), Some(_)) => Err(wrong(input, "partition id", format!("{id} once"), "it twice".into())),
    }
}

/// The data and hash partitions of a root hash.
pub fn verity_pair<'a>(
    input: &str,
    table: &'a [Partition],
    root: &RootHash,
) -> Result<(&'a Partition, &'a Partition), VerityError> {
    Ok((by_id(input, table, root.data_partition())?, by_id(input, table, root.hash_partition())?))
}

struct Header {
    entries_lba: u64,
    count: u32,
    entries_crc: u32,
}

impl Header {
    fn parse(input: &str, sector: &[u8], sectors: u64) -> Result<Self, VerityError> {
        if sector[..8] != *b"EFI PART" || u32_at(sector, 8) != 0x0001_0000 {
            let found = format!("{:02x?}", &sector[..12]);
            return Err(wrong(input, "GPT signature", "\"EFI PART\" revision 1.0".into(), found));
        }
        if u32_at(sector, 12) != 92 {
            return Err(wrong(input, "GPT header size", "92".into(), u32_at(sector, 12).to_string()));
        }
        let mut zeroed = sector[..92].to_vec();
        zeroed[16..20].fill(0);
        if crc32(&zeroed) != u32_at(sector, 16) {
            let (expected, found) = (hex32(u32_at(sector, 16)), hex32(crc32(&zeroed)));
            return Err(wrong(input, "checksum of the GPT header", expected, found));
        }
        let (lba, entries_lba) = (u64_at(sector, 24), u64_at(sector, 72));
        let (count, size) = (u32_at(sector, 80), u32_at(sector, 84));
        if lba != 1 {
            return Err(wrong(input, "GPT header's own LBA", "1".into(), lba.to_string()));
        }
        if size as usize != ENTRY || count == 0 || count > MAX_ENTRIES {
            let expected = format!("1 to {MAX_ENTRIES} entries of {ENTRY} bytes");
            return Err(wrong(input, "GPT entries", expected, format!("{count} of {size} bytes")));
        }
        let length = u64::from(count).div_ceil(4);
        if entries_lba < 2 || entries_lba.checked_add(length).is_none_or(|end| end > sectors) {
            let expected = format!("from LBA 2, {length} sectors within {sectors}");
            return Err(wrong(input, "place of the GPT entries", expected, format!("LBA {entries_lba}")));
        }
        Ok(Header { entries_lba, count, entries_crc: u32_at(sector, 88) })
    }
}

fn parse_entry(input: &str, entry: &[u8], number: u32, sectors: u64) -> Result<Partition, VerityError> {
    let mut id = [0; 16];
    id.copy_from_slice(&entry[16..32]);
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    if first < 2 || last < first || last >= sectors {
        let found = format!("partition {number}, sectors {first} to {last}");
        return Err(wrong(input, "partition bounds", format!("within sectors 2 to {sectors}"), found));
    }
    Ok(Partition { number, id: Guid(id), first, sectors: last - first + 1 })
}

fn read_at<D: Read + Seek>(input: &str, disk: &mut D, offset: u64, n: usize) -> Result<Vec<u8>, VerityError> {
    let io = |source| VerityError::Io { action: "read the partition table of", path: input.into(), source };
    let mut bytes = vec![0; n];
    disk.seek(SeekFrom::Start(offset)).map_err(io)?;
    disk.read_exact(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap_or_default())
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default())
}

fn hex32(value: u32) -> String {
    format!("{value:#010x}")
}

fn wrong(input: &str, field: &'static str, expected: String, found: String) -> VerityError {
    VerityError::Wrong { input: input.into(), field, expected, found, next: REBUILD }
}

/// CRC-32 as GPT uses it (ISO 3309, reflected polynomial 0xedb88320).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    const SECTORS: u64 = 400;

    fn disk(entries: &[(u8, u64, u64)], patch: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut disk = vec![0u8; (SECTORS * SECTOR) as usize];
        for (slot, (id, first, last)) in entries.iter().enumerate() {
            let entry = &mut disk[1024 + slot * ENTRY..][..ENTRY];
            entry[..16].fill(0xaa);
            entry[16..32].fill(*id);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
        }
        let entries_crc = crc32(&disk[1024..1024 + 128 * ENTRY]);
        let header = &mut disk[512..1024];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&1u64.to_le_bytes());
        header[72..80].copy_from_slice(&2u64.to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&entries_crc.to_le_bytes());
        patch(header);
        header[16..20].fill(0);
        let crc = crc32(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        disk
    }

    fn parse(disk: Vec<u8>) -> Result<Vec<Partition>, VerityError> {
        read("disk", &mut Cursor::new(disk), SECTORS)
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn used_entries_keep_their_slot_numbers() {
        let mut entries = parse(disk(&[(1, 40, 49), (2, 50, 399)], |_| ())).unwrap();
        assert_eq!(entries[1], Partition { number: 2, id: Guid([2; 16]), first: 50, sectors: 350 });
        assert!(by_id("disk", &entries, Guid([1; 16])).is_ok());
        entries[0].id = Guid([2; 16]);
        let twice = by_id("disk", &entries, Guid([2; 16])).unwrap_err().to_string();
        assert!(twice.contains("twice"), "{twice}");
    }

    #[test]
    fn a_missing_partition_is_reported_with_what_was_there() {
        let entries = parse(disk(&[(0x11, 40, 49)], |_| ())).unwrap();
        let text = by_id("vda", &entries, Guid([0x22; 16])).unwrap_err().to_string();
        assert!(text.contains("expected 22222222-") && text.contains("found 11111111-"), "{text}");
    }

    #[test]
    fn a_changed_byte_in_header_or_entries_is_refused() {
        for offset in [512, 520, 524, 530, 536, 584, 592, 600, 1024, 1040, 1056] {
            let mut bytes = disk(&[(1, 40, 49)], |_| ());
            bytes[offset] ^= 1;
            assert!(parse(bytes).is_err(), "byte {offset} may be anything");
        }
    }

    #[test]
    fn lying_geometry_is_refused_even_with_right_checksums() {
        let lies: [fn(&mut [u8]); 4] = [
            |h| h[80..84].copy_from_slice(&u32::MAX.to_le_bytes()),
            |h| h[84..88].copy_from_slice(&256u32.to_le_bytes()),
            |h| h[72..80].copy_from_slice(&u64::MAX.to_le_bytes()),
            |h| h[72..80].copy_from_slice(&(SECTORS - 1).to_le_bytes()),
        ];
        for lie in lies {
            assert!(matches!(parse(disk(&[], lie)), Err(VerityError::Wrong { .. })));
        }
        for (first, last) in [(0, 9), (50, 49), (50, SECTORS), (u64::MAX, u64::MAX)] {
            assert!(parse(disk(&[(1, first, last)], |_| ())).is_err());
        }
    }

    proptest! {
        #[test]
        fn hostile_tables_never_panic(junk in proptest::collection::vec(any::<u8>(), 92), keep in 0usize..92) {
            let _ = parse(disk(&[(1, 40, 49)], |h| h[keep..92].copy_from_slice(&junk[keep..])));
            let _ = read("disk", &mut Cursor::new(junk), SECTORS);
        }
    }
}

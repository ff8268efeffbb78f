//! The TD HOB list that the VMM writes for the firmware (TDVF Design Guide chapter 7; QEMU 10.1 and 10.2
//! `hw/i386/tdvf-hob.c`, and `target/i386/kvm/tdx.c`, which cuts QEMU's memory map and sorts the pieces).
//!
//! ```text
//! PHIT, 56 bytes | resource descriptor, 48 bytes, for each memory range, ascending | end marker, 8 bytes, not measured
//! ```
//! Ranges that the VMM accepted already (the TD HOB itself and temporary memory) are system memory, the rest is
//! unaccepted. So the list, and RTMR0 with it, depends on the amount of memory.

use super::tdvf::Section;
use crate::shape::Shape;

/// Section types of the metadata whose memory is accepted before the firmware runs.
const KIND_TD_HOB: u32 = 2;
const KIND_TEMP_MEM: u32 = 3;
const SYSTEM_MEMORY: u32 = 0;
const UNACCEPTED: u32 = 7;
/// Present, initialised, tested.
const ATTRIBUTES: u32 = 7;
const FOUR_GIB: u64 = 1 << 32;

/// What the firmware measures of the list; `None` if the metadata has no TD HOB section.
pub fn td_hob(sections: &[Section], shape: &Shape) -> Option<Vec<u8>> {
    let base = sections.iter().find(|s| s.kind == KIND_TD_HOB)?.address;
    let mut list = phit();
    for (start, length, kind) in ranges(sections, shape) {
        list.extend(3u16.to_le_bytes());
        list.extend(48u16.to_le_bytes());
        list.extend([0; 4 + 16]);
        list.extend(kind.to_le_bytes());
        list.extend(ATTRIBUTES.to_le_bytes());
        list.extend(start.to_le_bytes());
        list.extend(length.to_le_bytes());
    }
    // The end marker lies behind the list; its end is what the PHIT names.
    let end = base.saturating_add(list.len() as u64 + 8);
    list[48..56].copy_from_slice(&end.to_le_bytes());
    Some(list)
}

/// Handoff information table: type 1, 56 bytes, version 9, boot with full configuration, no memory bounds.
fn phit() -> Vec<u8> {
    let mut phit = vec![0; 56];
    phit[..4].copy_from_slice(&[1, 0, 56, 0]);
    phit[8] = 9;
    phit
}

/// Memory as (start, length, resource type), ascending: low memory, cut by the accepted ranges, then high memory. A
/// range that was accepted already is left as it is, as QEMU does; one beyond low memory, with which QEMU wouldn't start,
/// is left out.
fn ranges(sections: &[Section], shape: &Shape) -> Vec<(u64, u64, u32)> {
    let low = shape.low_memory_bytes();
    let end = |s: &Section| s.address.saturating_add(s.memory_size);
    let mut accepted: Vec<_> =
        sections.iter().filter(|s| matches!(s.kind, KIND_TD_HOB | KIND_TEMP_MEM)).collect();
    accepted.sort_by_key(|s| s.address);
    let mut out = Vec::new();
    let mut at = 0;
    for section in accepted.into_iter().filter(|s| end(s) <= low && s.memory_size > 0) {
        if section.address < at {
            continue;
        }
        if section.address > at {
            out.push((at, section.address - at, UNACCEPTED));
        }
        out.push((section.address, section.memory_size, SYSTEM_MEMORY));
        at = end(section);
    }
    if low > at {
        out.push((at, low - at, UNACCEPTED));
    }
    let high = shape.memory_bytes() - low;
    if high > 0 {
        out.push((FOUR_GIB, high, UNACCEPTED));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn section(kind: u32, address: u64, memory_size: u64) -> Section {
        Section { data_offset: 0, raw_size: 0, address, memory_size, kind, attributes: 0 }
    }

    #[test]
    fn accepted_ranges_cut_low_memory_and_high_memory_follows() {
        let sections =
            [section(3, 0x81_0000, 0x1_0000), section(2, 0x80_9000, 0x2000), section(0, 0xff00_0000, 0x1000)];
        let shape = Shape::new(1, 4096);
        assert_eq!(
            ranges(&sections, &shape),
            [
                (0, 0x80_9000, UNACCEPTED),
                (0x80_9000, 0x2000, SYSTEM_MEMORY),
                (0x80_b000, 0x5000, UNACCEPTED),
                (0x81_0000, 0x1_0000, SYSTEM_MEMORY),
                (0x82_0000, 0x8000_0000 - 0x82_0000, UNACCEPTED),
                (FOUR_GIB, 0x8000_0000, UNACCEPTED),
            ]
        );
        let list = td_hob(&sections, &shape).unwrap();
        assert_eq!(list.len(), 56 + 6 * 48);
        assert_eq!(list[48..56], (0x80_9000u64 + list.len() as u64 + 8).to_le_bytes());
    }

    #[test]
    fn firmware_without_a_hob_section_has_no_list() {
        assert_eq!(td_hob(&[section(3, 0x81_0000, 0x1000)], &Shape::new(1, 1024)), None);
    }
    /// Sections of OVMF 2025.02.
    fn ovmf() -> [Section; 4] {
        [
            section(3, 0x81_0000, 0x1_0000),
            section(3, 0x80_b000, 0x2000),
            section(2, 0x80_9000, 0x2000),
            section(3, 0x80_0000, 0x6000),
        ]
    }

    #[test]
    fn memory_splits_at_2816_mib_and_not_before() {
        let high = |mib| ranges(&ovmf(), &Shape::new(1, mib)).into_iter().find(|r| r.0 >= FOUR_GIB);
        assert_eq!(high(1024), None);
        assert_eq!(high(2815), None);
        assert_eq!(high(2816), Some((FOUR_GIB, 768 << 20, UNACCEPTED)));
        assert_eq!(high(6 << 20), Some((FOUR_GIB, (6 << 40) - (2 << 30), UNACCEPTED)));
    }

    proptest! {
        #[test]
        fn every_byte_of_memory_is_in_one_range(mib in 1024u64..=6 << 20) {
            let shape = Shape::new(1, mib);
            let ranges = ranges(&ovmf(), &shape);
            let total: u64 = ranges.iter().map(|r| r.1).sum();
            prop_assert_eq!(total, mib << 20);
            for pair in ranges.windows(2) {
                let end = pair[0].0 + pair[0].1;
                prop_assert!(pair[1].0 == end || pair[1].0 == FOUR_GIB && end == shape.low_memory_bytes());
            }
            let accepted: u64 = ranges.iter().filter(|r| r.2 == SYSTEM_MEMORY).map(|r| r.1).sum();
            prop_assert_eq!(accepted, 0x1_a000);
        }

        #[test]
        fn hostile_sections_never_panic(list in proptest::collection::vec((2u32..4, any::<u64>(), any::<u64>()), 0..6)) {
            let sections: Vec<_> = list.into_iter().map(|(kind, at, size)| section(kind, at, size)).collect();
            let _ = td_hob(&sections, &Shape::new(1, 2048));
        }
    }
}

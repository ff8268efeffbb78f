//! Claims about metadata and MRTD.

use super::samples::{section, td_shim, tdvf};
use super::*;
use proptest::prelude::*;

fn faults(firmware: &[u8]) -> String {
    metadata(firmware).unwrap_err().to_string()
}

/// MRTD by its definition, page by page, written the slow way.
fn by_definition(pages: &[(u64, Option<&[u8]>)]) -> Digest384 {
    let mut message = Vec::new();
    let mut put = |name: &str, address: u64| {
        let mut block = [0; 128];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[16..24].copy_from_slice(&address.to_le_bytes());
        message.extend(block);
        message.len()
    };
    let mut inserts = Vec::new();
    for (address, data) in pages {
        put("MEM.PAGE.ADD", *address);
        for (i, chunk) in data.iter().flat_map(|d| d.chunks(256)).enumerate() {
            inserts.push((put("MR.EXTEND", address + 256 * i as u64), chunk.to_vec()));
        }
    }
    for (at, chunk) in inserts.into_iter().rev() {
        message.splice(at..at, chunk);
    }
    Digest384::of(&message)
}

#[test]
fn metadata_is_found_from_the_end_of_the_file() {
    let sections = metadata(&tdvf()).unwrap();
    assert_eq!(sections.len(), 2);
    assert_eq!((sections[0].address, sections[0].attributes), (0xff00_0000, 1));
    assert_eq!((sections[1].address, sections[1].kind), (0x80_0000, 3));
    assert_eq!(form(&tdvf()).unwrap(), Form::Table);
}

#[test]
fn metadata_of_a_td_shim_is_found_by_its_pointer() {
    let firmware = td_shim(&[]);
    assert_eq!(form(&firmware).unwrap(), Form::Pointer);
    assert_eq!(metadata(&firmware).unwrap().iter().map(|s| s.kind).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 7]);
}

#[test]
fn memory_of_a_td_shim_counts_by_its_attributes() {
    let firmware = td_shim(&[]);
    let (shim, no) = (Some(&firmware[..4096]), None);
    let pages = [
        (0xffff_f000, shim),
        (0xff00_0000, no),
        (0xff00_1000, no),
        (0x80_0000, no),
        (0x80_1000, no),
        (0x1_0000, no),
    ];
    let expected = by_definition(&pages);
    assert_eq!(mrtd(&firmware, Vmm::SinglePass).unwrap(), expected);
}

#[test]
fn mrtd_follows_data_and_order_of_passes() {
    let firmware = tdvf();
    let single = mrtd(&firmware, Vmm::SinglePass).unwrap();
    let mut changed = firmware.clone();
    changed[17] ^= 1;
    assert_ne!(mrtd(&changed, Vmm::SinglePass).unwrap(), single);
    // With one page a section, both orders are the same; with two they aren't.
    assert_eq!(mrtd(&firmware, Vmm::TwoPass).unwrap(), single);
    let two = td_shim(&[section(0, 4096, 0xfe00_0000, 8192, 0, 1)]);
    assert_ne!(mrtd(&two, Vmm::TwoPass).unwrap(), mrtd(&two, Vmm::SinglePass).unwrap());
}

#[test]
fn firmware_without_metadata_is_refused() {
    for firmware in [vec![0; 8192], vec![0xff; 8192]] {
        let error = mrtd(&firmware, Vmm::SinglePass).unwrap_err().to_string();
        assert!(error.contains("at offset 0x1fe0") && error.contains("no TDX metadata"), "{error}");
    }
}

#[test]
fn impossible_sections_are_refused_with_offset_and_reason() {
    let at = 4096 + 16 + 16 + 6 * 32;
    for (bad, offset, words) in [
        (section(0, 0, 0x80_1000, 4096, 3, 0), at + 8, "overlaps section 0x800000..0x802000"),
        (section(0, 0, 0xff00_0800, 4096, 3, 0), at + 8, "whole pages"),
        (section(0, 0, u64::MAX - 4095, 8192, 3, 0), at + 8, "beyond the address space"),
        (section(0, 0, 0x9000_0000, 1 << 40, 3, 0), at, "cover more than"),
        (section(0, 4097, 0x9000_0000, 4096, 0, 1), at + 8, "hold its data"),
        (section(0, 1 << 30, 0x9000_0000, 1 << 30, 0, 1), 0, "section data needs"),
        (section(0, 0, 0x9000_0000, 4096, 4, 3), at + 28, "extended but not added"),
        (section(0, 0, 0x9000_0000, 4096, 4, 4), at + 28, "unknown attributes 0x4"),
    ] {
        let error = faults(&td_shim(&[bad]));
        assert!(error.contains(&format!("offset {offset:#x}")) && error.contains(words), "{error}");
    }
}

#[test]
fn lying_headers_are_refused_with_offset_and_reason() {
    for (field, value, words) in [
        (4, 15u32, "metadata of 15 bytes, expected 208 for 6 sections"),
        (8, 2, "metadata version 2"),
        (12, 0, "0 sections"),
        (12, u32::MAX, "4294967295 sections"),
        (0, 0, "no TDVF signature"),
    ] {
        let mut firmware = td_shim(&[]);
        let at = 4096 + 16 + field;
        firmware[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let error = faults(&firmware);
        assert!(error.contains(&format!("offset {at:#x}")) && error.contains(words), "{error}");
    }
}

#[test]
fn a_payload_that_the_vmm_brings_leaves_mrtd_open() {
    let firmware = td_shim(&[section(0, 0, 0x9000_0000, 4096, KIND_PAYLOAD, 1)]);
    let error = mrtd(&firmware, Vmm::SinglePass).unwrap_err().to_string();
    assert!(error.contains("the VMM adds it"), "{error}");
    mrtd(&td_shim(&[section(0, 64, 0x9000_0000, 4096, KIND_PAYLOAD, 1)]), Vmm::SinglePass).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn mutated_metadata_never_panics(at in 4096usize..4400, value: u32, cut in 0usize..4400) {
        for mut firmware in [tdvf(), td_shim(&[])] {
            let at = at.min(firmware.len() - 4);
            firmware[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = mrtd(&firmware, Vmm::TwoPass);
            let _ = metadata(&firmware[..cut.min(firmware.len())]);
        }
    }
}

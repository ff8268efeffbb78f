//! Two blobs of ACPI tables, table by table.
//!
//! A log carries only their digest. But where a search found the machine, its tables can be made and laid beside the
//! expected ones.

/// Differing tables that are told.
const MAX_TOLD: usize = 6;
/// AML: DeviceOp with its extension prefix (ACPI 6.5, section 20.2.5.2).
const DEVICE: [u8; 2] = [0x5b, 0x82];

/// Signature and bytes of each table behind the FACS.
fn tables(blob: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut at = 64usize;
    std::iter::from_fn(move || {
        let header = blob.get(at..at.checked_add(8)?)?;
        let signature: [u8; 4] = header[..4].try_into().ok()?;
        let length = usize::try_from(u32::from_le_bytes(header[4..].try_into().ok()?)).ok()?;
        let table = blob.get(at..at.checked_add(length)?).filter(|table| table.len() >= 36)?;
        at += length;
        Some((signature, table))
    })
}

/// Processors that the MADT names (types 0 and 9: local APIC and x2APIC).
pub(super) fn processors(blob: &[u8]) -> Option<u32> {
    let (_, table) = tables(blob).find(|(signature, _)| signature == b"APIC")?;
    let mut entries = table.get(44..)?;
    let mut count = 0;
    while let [kind, length, ..] = *entries {
        count += u32::from(matches!(kind, 0 | 9));
        let Some(rest) = entries.get(usize::from(length).max(2)..) else { break };
        entries = rest;
    }
    Some(count)
}

/// What differs: tables that one side lacks, lengths, and the first differing byte with the device around it.
pub(super) fn differences(expected: &[u8], found: &[u8]) -> Vec<String> {
    let name = |signature: &[u8; 4]| {
        signature.map(char::from).iter().filter(|c| c.is_ascii_graphic()).collect::<String>()
    };
    let (was, is): (Vec<_>, Vec<_>) = (tables(expected).collect(), tables(found).collect());
    let mut out = Vec::new();
    for (signature, table) in &is {
        match was.iter().find(|(other, _)| other == signature) {
            None => out.push(format!("{} of {} bytes is not expected", name(signature), table.len())),
            Some((_, other)) if other != table => {
                out.push(format!("{} {}", name(signature), table_difference(other, table)))
            }
            Some(_) => {}
        }
    }
    let missing = was.iter().filter(|(signature, _)| !is.iter().any(|(other, _)| other == signature));
    out.extend(missing.map(|(signature, _)| format!("{} is missing", name(signature))));
    if let (Some(was), Some(is)) = (processors(expected), processors(found)) {
        out.extend((was != is).then(|| format!("the MADT names {is} processors, expected {was}")));
    }
    out.truncate(MAX_TOLD);
    out
}

fn table_difference(expected: &[u8], found: &[u8]) -> String {
    // Behind length and checksum, which follow from the rest.
    let first = expected
        .iter()
        .zip(found)
        .skip(10)
        .position(|(a, b)| a != b)
        .map_or(expected.len().min(found.len()), |at| at + 10);
    let lengths = if expected.len() == found.len() {
        format!("has {} bytes as expected", found.len())
    } else {
        format!("has {} bytes, expected {}", found.len(), expected.len())
    };
    let device = device_before(found, first).map_or(String::new(), |name| format!(", after Device ({name})"));
    format!("{lengths}; they differ from offset {first:#x}{device}")
}

/// The last device that begins before an offset.
fn device_before(aml: &[u8], end: usize) -> Option<String> {
    let at = aml.get(..end)?.windows(2).rposition(|pair| pair == DEVICE)? + 2;
    // The length's first byte says in its top bits how many bytes of it follow.
    let name = at + 1 + usize::from(aml.get(at)? >> 6);
    let name = aml.get(name..name + 4)?;
    let segment = name.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
    segment.then(|| name.iter().map(|b| char::from(*b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::{Machine, generate};
    use crate::shape::Shape;
    use proptest::prelude::*;

    fn blob(vcpus: u32) -> Vec<u8> {
        generate(&Machine::tdx(&Shape::new(vcpus, 4096))).tables
    }

    #[test]
    fn a_missing_processor_shows_in_dsdt_and_madt() {
        assert_eq!((processors(&blob(31)), processors(&blob(300))), (Some(31), Some(300)));
        let told = differences(&blob(32), &blob(31)).join("; ");
        assert!(told.contains("the MADT names 31 processors, expected 32"), "{told}");
        assert!(told.contains("DSDT has ") && told.contains("after Device ("), "{told}");
        assert!(differences(&blob(2), &blob(2)).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn hostile_tables_never_panic(at in 0usize..9000, value: u32, cut in 0usize..9000) {
            let mut tables = blob(2);
            tables[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = differences(&tables[..cut], &tables);
            let _ = differences(&tables, &tables[..cut]);
        }
    }
}

//! Measured bytes in words: variables, partition tables, memory ranges, texts.
//!
//! Used for what was foretold (the very bytes that are hashed) and for what a log shows. The latter comes from whoever
//! wrote the evidence: everything is bounded, and control characters are replaced.

use super::fact;
use super::record::Record;
use super::template::Step;
use crate::event::{Event, Hashed};
use crate::tcg;
use crate::uki::UkiSection;
use std::fmt::Write;

/// Longest text that a description holds.
const MAX_TEXT: usize = 4096;
/// Entries of a list that are shown.
const MAX_SHOWN: usize = 16;

/// What was foretold, in words.
pub(super) fn of_step(step: &Step) -> Option<String> {
    let bytes = match &step.hashed {
        Hashed::Kept(bytes) => bytes,
        Hashed::Length(length) => return Some(format!("{length} bytes")),
        Hashed::Unknown => return None,
    };
    Some(match &step.event {
        Event::LoadOptions | Event::FirmwareVersion => utf16(bytes),
        Event::SecureBoot(variable) => variable_data(bytes).unwrap_or_else(|| variable.name().to_owned()),
        Event::BootOrder => boot_order(bytes),
        Event::BootOption { .. } => boot_option(bytes)?,
        Event::PartitionTable => partitions(bytes)?,
        Event::TdHob => memory_ranges(bytes)?,
        Event::Separator => separator(bytes),
        Event::CallingBootOption | Event::ExitInvoked | Event::ExitReturned | Event::SectionName(_) => {
            text(bytes)
        }
        Event::SectionData(
            UkiSection::Cmdline | UkiSection::Osrel | UkiSection::Uname | UkiSection::Sbat,
        ) => text(bytes),
        _ => format!("{} bytes", bytes.len()),
    })
}

/// What a log shows of an event, in words; nothing where it only names it.
pub(super) fn of_record(record: &Record) -> Option<String> {
    let data = record.data.as_slice();
    match record.event_type {
        tcg::EV_EFI_VARIABLE_DRIVER_CONFIG | tcg::EV_EFI_VARIABLE_BOOT => variable_data(data),
        tcg::EV_EFI_GPT_EVENT => partitions(data),
        tcg::EV_SEPARATOR => Some(separator(data)),
        tcg::EV_EFI_BOOT_SERVICES_APPLICATION => {
            let length = u64::from_le_bytes(data.get(8..16)?.try_into().ok()?);
            Some(format!("image of {length} bytes"))
        }
        _ if !record.label.is_empty() => (!data.is_empty()).then(|| format!("{} bytes", data.len())),
        _ => Some(record.described().detail).filter(|detail| !detail.is_empty()),
    }
}

fn clean(characters: impl Iterator<Item = char>) -> String {
    characters.take(MAX_TEXT).map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()).min(4 * MAX_TEXT);
    clean(String::from_utf8_lossy(&bytes[..end]).trim_end_matches('\n').chars())
}

fn utf16(bytes: &[u8]) -> String {
    let units =
        bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
    clean(char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')))
}

fn separator(bytes: &[u8]) -> String {
    match bytes {
        [0, 0, 0, 0] => "no error".to_owned(),
        [1, 0, 0, 0] => "an error was reported before it".to_owned(),
        other => format!("{} bytes, {}", other.len(), hex::encode(&other[..other.len().min(32)])),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(word)).ok()
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// UEFI_VARIABLE_DATA (PFP 10.2.6): GUID, lengths of name and data, name, data.
fn variable_data(bytes: &[u8]) -> Option<String> {
    let size = usize::try_from(long(bytes, 16)?).ok()?.checked_mul(2)?;
    let data = usize::try_from(long(bytes, 24)?).ok()?;
    let start = 32usize.checked_add(size)?;
    let name = utf16(bytes.get(32..start)?);
    let value = bytes.get(start..start.checked_add(data)?)?;
    Some(format!("{name}: {}", variable(&name, value)))
}

fn variable(name: &str, value: &[u8]) -> String {
    match (name, value) {
        (_, []) => "not set".to_owned(),
        ("SecureBoot", [0]) => "off".to_owned(),
        ("SecureBoot", [1]) => "on".to_owned(),
        ("BootOrder", order) => boot_order(order),
        (name, option) if name.starts_with("Boot") => {
            boot_option(option).unwrap_or_else(|| format!("{} bytes", option.len()))
        }
        ("PK" | "KEK" | "db" | "dbx", lists) => signatures(lists),
        (_, other) => format!("{} bytes, {}", other.len(), hex::encode(&other[..other.len().min(32)])),
    }
}

fn boot_order(bytes: &[u8]) -> String {
    let numbers = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .take(MAX_SHOWN)
        .map(|n| format!("Boot{:04X}", u16::from_le_bytes(*n)));
    numbers.collect::<Vec<_>>().join(", ")
}

/// EFI_LOAD_OPTION (UEFI 2.10 section 3.1.3): attributes, length of the path, description, path, optional data.
fn boot_option(bytes: &[u8]) -> Option<String> {
    let attributes = word(bytes, 0)?;
    let path = usize::from(u16::from_le_bytes(bytes.get(4..6)?.try_into().ok()?));
    let description = utf16(bytes.get(6..)?);
    let active = if attributes & 1 == 1 { "active" } else { "inactive" };
    let hidden = if attributes & 8 == 8 { ", hidden" } else { "" };
    Some(format!("\"{description}\", {active}{hidden}, device path of {path} bytes"))
}

/// EFI_SIGNATURE_LISTs (UEFI 2.10 section 32.4.1): type, list size, header size, signature size.
fn signatures(bytes: &[u8]) -> String {
    let (mut at, mut lists, mut entries) = (0usize, 0, 0);
    while let (Some(size), Some(header), Some(each)) =
        (word(bytes, at + 16), word(bytes, at + 20), word(bytes, at + 24))
    {
        if size < 28 || at.checked_add(size).is_none_or(|end| end > bytes.len()) {
            break;
        }
        lists += 1;
        entries += (size - 28).saturating_sub(header).checked_div(each).unwrap_or(0);
        at += size;
    }
    format!("{entries} signatures in {lists} lists, {} bytes", bytes.len())
}

/// EFI_GPT_DATA (PFP 10.2.8): header, number of entries, entries.
fn partitions(bytes: &[u8]) -> Option<String> {
    let count = usize::try_from(long(bytes, 92)?).ok()?;
    let entries = bytes.get(100..)?;
    let size = entries.len().checked_div(count).filter(|size| *size >= 128)?;
    let disk = guid(bytes.get(56..72)?.try_into().ok()?);
    let mut out = format!("disk {disk}, {count} partitions");
    for (i, entry) in entries.chunks_exact(size).take(MAX_SHOWN).enumerate() {
        let (first, last) = (long(entry, 32)?, long(entry, 40)?);
        let name = utf16(entry.get(56..128)?);
        let id = guid(entry.get(16..32)?.try_into().ok()?);
        let _ = write!(out, "\n{}: sectors {first} to {last}, {id} {name}", i + 1);
    }
    Some(out)
}

/// A GUID in its usual form.
fn guid(bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let head = [d, c, b, a, f, e, h, g];
    let hex = hex::encode([&head[..], &rest].concat());
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Resource descriptors of a TD HOB list (TDVF Design Guide chapter 7).
fn memory_ranges(list: &[u8]) -> Option<String> {
    let mut out = String::new();
    let mut total = 0u64;
    for hob in list.get(56..)?.chunks_exact(48).take(4 * MAX_SHOWN) {
        let (start, length) = (long(hob, 32)?, long(hob, 40)?);
        total = total.saturating_add(length);
        let state = if word(hob, 24)? == 0 { "accepted" } else { "unaccepted" };
        let _ = write!(out, "\n{start:#x} to {:#x} {state}", start.saturating_add(length));
    }
    Some(format!("{} of memory{out}", fact::memory(total >> 20)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt;
    use crate::register::Register;
    use crate::samples;
    use proptest::prelude::*;

    fn record(event_type: u32, data: &[u8]) -> Record {
        let digest = crate::Digest384::ZERO;
        Record {
            register: Register::Rtmr0,
            pcr: None,
            event_type,
            digest,
            data: data.to_vec(),
            label: String::new(),
        }
    }

    fn variable_bytes(name: &str, value: &[u8]) -> Vec<u8> {
        let lengths = [name.len() as u64, value.len() as u64].map(u64::to_le_bytes).concat();
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        [&[0; 16][..], &lengths, &name, value].concat()
    }

    #[test]
    fn variables_are_read_by_their_names() {
        let shown = |name: &str, value: &[u8]| {
            of_record(&record(tcg::EV_EFI_VARIABLE_BOOT, &variable_bytes(name, value))).unwrap()
        };
        assert_eq!(shown("SecureBoot", &[1]), "SecureBoot: on");
        assert_eq!(shown("PK", &[]), "PK: not set");
        assert_eq!(shown("BootOrder", &[1, 0, 0, 0]), "BootOrder: Boot0001, Boot0000");
        let option = [&[9, 0, 0, 0, 4, 0][..], b"U\0i\0\0\0", &[0x7f, 0xff, 4, 0]].concat();
        assert_eq!(shown("Boot0000", &option), "Boot0000: \"Ui\", active, hidden, device path of 4 bytes");
        let list = [&[0; 16][..], &[76, 0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0], &[0; 48]].concat();
        assert_eq!(shown("db", &list), "db: 1 signatures in 1 lists, 76 bytes");
    }

    #[test]
    fn a_partition_table_lists_its_partitions() {
        let event = gpt::gpt_event(&samples::disk()).unwrap();
        let shown = of_record(&record(tcg::EV_EFI_GPT_EVENT, &event.bytes)).unwrap();
        assert!(shown.contains("2 partitions\n1: sectors 2048 to 4095, "), "{shown}");
    }

    proptest! {
        #[test]
        fn hostile_events_never_panic(data in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u32..16, at in 0usize..100, value: u64) {
            let mut data = data;
            if data.len() > at + 8 {
                data[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            for event_type in [kind, 0x8000_0000 + kind] {
                let _ = of_record(&record(event_type, &data));
            }
            let (_, _, _) = (signatures(&data), partitions(&data), memory_ranges(&data));
            let _ = boot_option(&data);
        }
    }
}

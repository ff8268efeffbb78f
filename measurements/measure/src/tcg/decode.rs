//! Event data taken apart, field by field (TCG PC Client Platform Firmware Profile 1.06, section 10.2).
//!
//! For people and their programs; no verdict rests on it, because event data isn't what was hashed for most event types
//! ([`LogEvent::data_is_hashed`]). Data that is not in its form is shown as raw bytes, never refused.

use super::device_path;
use super::*;
use serde::Serialize;

/// Most bytes of opaque data that are shown.
const MAX_SHOWN: usize = 512;
/// Most tables or partitions that are listed.
const MAX_LISTED: usize = 128;

/// What the data of an event holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
pub enum Decoded {
    /// A string, ASCII or UTF-16.
    Text {
        /// Without control characters.
        text: String,
    },
    /// UEFI_VARIABLE_DATA.
    Variable {
        /// Vendor GUID.
        guid: String,
        /// Variable name.
        name: String,
        /// Length of the variable's data in bytes.
        length: usize,
        /// Its data, hex, cut to 512 bytes.
        data: String,
        /// For `Boot####`: the description and the device path that it names.
        #[serde(skip_serializing_if = "Option::is_none")]
        option: Option<String>,
    },
    /// UEFI_IMAGE_LOAD_EVENT.
    Image {
        /// Where it was loaded.
        base: u64,
        /// Its length in bytes.
        length: u64,
        /// Its device path, one entry a node.
        path: Vec<String>,
    },
    /// UEFI_PLATFORM_FIRMWARE_BLOB, with a description where it is the second form.
    Blob {
        /// Description, if any.
        name: String,
        /// Where it lies.
        base: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// UEFI_HANDOFF_TABLE_POINTERS2.
    Tables {
        /// Description.
        name: String,
        /// GUID and address of each.
        tables: Vec<(String, u64)>,
    },
    /// UEFI_GPT_DATA.
    PartitionTable {
        /// GUID of the disk.
        disk: String,
        /// GUID and name of each partition.
        partitions: Vec<(String, String)>,
    },
    /// Four bytes; zeros where all went well.
    Separator {
        /// Their value.
        value: u32,
    },
    /// TCG_PCClientTaggedEvent.
    Tagged {
        /// Tag.
        id: u32,
        /// Its data as a string.
        text: String,
    },
    /// In no form that is known here.
    Raw {
        /// Length in bytes.
        length: usize,
        /// Hex, cut to 512 bytes.
        data: String,
    },
}

/// Takes an event's data apart.
pub fn decode(event: &LogEvent<'_>) -> Decoded {
    let data = event.data;
    let decoded = match event.event_type {
        EV_EFI_VARIABLE_DRIVER_CONFIG
        | EV_EFI_VARIABLE_BOOT
        | EV_EFI_VARIABLE_BOOT2
        | EV_EFI_VARIABLE_AUTHORITY => variable(data),
        EV_EFI_BOOT_SERVICES_APPLICATION | EV_EFI_BOOT_SERVICES_DRIVER | EV_EFI_RUNTIME_SERVICES_DRIVER => {
            image(data)
        }
        EV_EFI_PLATFORM_FIRMWARE_BLOB => blob(String::new(), data),
        EV_EFI_PLATFORM_FIRMWARE_BLOB2 => named(data).and_then(|(name, rest)| blob(name, rest)),
        EV_EFI_HANDOFF_TABLES2 => tables(data),
        EV_EFI_GPT_EVENT => partition_table(data),
        EV_SEPARATOR => data.try_into().ok().map(|b| Decoded::Separator { value: u32::from_le_bytes(b) }),
        EV_EVENT_TAG => tagged(data),
        _ => Some(text(data)).filter(|t| is_text(t)).map(|text| Decoded::Text { text }),
    };
    decoded.unwrap_or_else(|| Decoded::Raw { length: data.len(), data: shown(data) })
}

/// Bytes that are no text turn into replacement characters, or into nothing.
fn is_text(text: &str) -> bool {
    !text.is_empty() && !text.contains('\u{fffd}')
}

fn shown(data: &[u8]) -> String {
    hex::encode(&data[..data.len().min(MAX_SHOWN)])
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..)?.first_chunk().copied()?))
}

fn length_at(data: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64_at(data, at)?).ok()
}

/// GUID, name length in characters u64, data length u64, name, data (PFP 10.2.6).
fn variable(data: &[u8]) -> Option<Decoded> {
    let (characters, length) = (length_at(data, 16)?, length_at(data, 24)?);
    let end = 32usize.checked_add(characters.checked_mul(2)?)?;
    let name = utf16(data.get(32..end)?);
    let value = data.get(end..end.checked_add(length)?)?;
    let numbered =
        name.strip_prefix("Boot").is_some_and(|n| n.len() == 4 && n.bytes().all(|b| b.is_ascii_hexdigit()));
    let option = if numbered { boot_option(value) } else { None };
    Some(Decoded::Variable { guid: guid(data)?, name, length, data: shown(value), option })
}

/// EFI_LOAD_OPTION (UEFI 2.10, 3.1.3): attributes u32, path length u16, description in UTF-16, device path.
fn boot_option(data: &[u8]) -> Option<String> {
    let path_length = usize::from(u16::from_le_bytes(data.get(4..)?.first_chunk().copied()?));
    let rest = data.get(6..)?;
    let (pairs, _) = rest.as_chunks::<2>();
    let end = 2 * (pairs.iter().position(|pair| *pair == [0, 0])? + 1);
    let path = rest.get(end..end.checked_add(path_length)?)?;
    Some(format!("{} {}", utf16(rest), device_path::nodes(path).join("/")))
}

/// Base, length and link address u64, path length u64, device path (PFP 10.2.3).
fn image(data: &[u8]) -> Option<Decoded> {
    let length = length_at(data, 24)?;
    let path = device_path::nodes(data.get(32..32usize.checked_add(length)?)?);
    Some(Decoded::Image { base: u64_at(data, 0)?, length: u64_at(data, 8)?, path })
}

/// A length byte, so many characters, and the rest.
fn named(data: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = data.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((ascii(name), rest))
}

fn blob(name: String, data: &[u8]) -> Option<Decoded> {
    (data.len() == 16).then_some(())?;
    Some(Decoded::Blob { name, base: u64_at(data, 0)?, length: u64_at(data, 8)? })
}

fn tables(data: &[u8]) -> Option<Decoded> {
    let (name, rest) = named(data)?;
    let count = length_at(rest, 0)?;
    let (entries, _) = rest.get(8..)?.as_chunks::<24>();
    let list = entries.iter().take(count.min(MAX_LISTED));
    let tables = list.filter_map(|entry| Some((guid(entry)?, u64_at(entry, 16)?))).collect();
    (entries.len() >= count).then_some(Decoded::Tables { name, tables })
}

/// Header of 92 bytes, number of partitions u64, entries of 128 bytes (PFP 10.2.5; UEFI 2.10, 5.3).
fn partition_table(data: &[u8]) -> Option<Decoded> {
    let count = length_at(data, 92)?;
    let (entries, _) = data.get(100..)?.as_chunks::<128>();
    let list = entries.iter().take(count.min(MAX_LISTED));
    let partitions = list.filter_map(|e| Some((guid(&e[16..])?, utf16(&e[56..])))).collect();
    (entries.len() >= count).then_some(Decoded::PartitionTable { disk: guid(data.get(56..)?)?, partitions })
}

fn tagged(data: &[u8]) -> Option<Decoded> {
    let id = u32::from_le_bytes(data.first_chunk().copied()?);
    let size = u32::from_le_bytes(data.get(4..)?.first_chunk().copied()?) as usize;
    Some(Decoded::Tagged { id, text: text(data.get(8..8usize.checked_add(size)?)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(event_type: u32, data: &[u8]) -> Decoded {
        decode(&LogEvent { offset: 0, index: 1, event_type, digests: vec![], data })
    }

    #[test]
    fn a_boot_option_is_taken_apart_to_its_file() {
        let mut file: Vec<u8> = vec![4, 4, 8, 0, b'\\', 0, b'k', 0];
        file.extend([0x7f, 0xff, 4, 0]);
        let option = [&[1, 0, 0, 0][..], &(file.len() as u16).to_le_bytes(), b"U\0i\0\0\0", &file].concat();
        let name: Vec<u8> = "Boot0001".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = (option.len() as u64).to_le_bytes();
        let data = [&[0x11; 16][..], &8u64.to_le_bytes(), &length, &name, &option].concat();
        let Decoded::Variable { guid, name, length, option, .. } = decoded(EV_EFI_VARIABLE_BOOT, &data)
        else {
            panic!("not a variable");
        };
        assert_eq!((guid.as_str(), name.as_str()), ("11111111-1111-1111-1111-111111111111", "Boot0001"));
        assert_eq!((length, option.as_deref()), (24, Some("Ui File(\\k)")));
    }

    #[test]
    fn counts_and_lengths_that_lie_leave_raw_bytes() {
        let lying = u64::MAX.to_le_bytes();
        let cases = [
            (EV_EFI_VARIABLE_BOOT, [&[0; 16][..], &lying, &lying].concat()),
            (EV_EFI_BOOT_SERVICES_APPLICATION, [&[0; 24][..], &lying].concat()),
            (EV_EFI_HANDOFF_TABLES2, [&[0][..], &lying].concat()),
            (EV_EFI_GPT_EVENT, [&[0; 92][..], &lying].concat()),
            (EV_EFI_PLATFORM_FIRMWARE_BLOB2, vec![200, 1, 2]),
            (EV_EVENT_TAG, vec![0xff; 8]),
            (EV_SEPARATOR, vec![0; 3]),
        ];
        for (event_type, data) in cases {
            let found = decoded(event_type, &data);
            assert!(matches!(&found, Decoded::Raw { length, .. } if *length == data.len()), "{found:?}");
        }
    }
}

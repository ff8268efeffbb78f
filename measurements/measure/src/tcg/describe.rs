//! Event data in words: which variable, which image, which string.
//!
//! Descriptions are for people and for matching names; no verdict may rest on them, because event data isn't what
//! was hashed for most event types.

use super::*;
use std::fmt;

/// Longest text taken out of an event's data.
const MAX_TEXT: usize = 512;

/// What an event says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// TCG name of the event type.
    pub kind: &'static str,
    /// The part of the data that names the thing, empty where there is none.
    pub detail: String,
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_str() {
            "" => f.write_str(self.kind),
            detail => write!(f, "{} {detail}", self.kind),
        }
    }
}

/// Describes one event.
pub fn describe(event: &LogEvent<'_>) -> Described {
    let data = event.data;
    let detail = match event.event_type {
        EV_EFI_VARIABLE_DRIVER_CONFIG
        | EV_EFI_VARIABLE_BOOT
        | EV_EFI_VARIABLE_BOOT2
        | EV_EFI_VARIABLE_AUTHORITY => variable(data).unwrap_or_default(),
        EV_EFI_BOOT_SERVICES_APPLICATION | EV_EFI_BOOT_SERVICES_DRIVER | EV_EFI_RUNTIME_SERVICES_DRIVER => {
            image(data).unwrap_or_default()
        }
        EV_EFI_PLATFORM_FIRMWARE_BLOB => blob(data).unwrap_or_default(),
        EV_EFI_PLATFORM_FIRMWARE_BLOB2 | EV_EFI_HANDOFF_TABLES2 => named(data).unwrap_or_default(),
        EV_EVENT_TAG => tagged(data).unwrap_or_default(),
        EV_EFI_GPT_EVENT => "partition table".into(),
        EV_SEPARATOR | EV_NO_ACTION => String::new(),
        _ => text(data),
    };
    Described { kind: event_type_name(event.event_type), detail }
}

/// TCG's name of an event type, `EV_?` for those that boot firmware doesn't use.
pub fn event_type_name(event_type: u32) -> &'static str {
    match event_type {
        1 => "EV_POST_CODE",
        EV_NO_ACTION => "EV_NO_ACTION",
        EV_SEPARATOR => "EV_SEPARATOR",
        5 => "EV_ACTION",
        EV_EVENT_TAG => "EV_EVENT_TAG",
        7 => "EV_S_CRTM_CONTENTS",
        EV_S_CRTM_VERSION => "EV_S_CRTM_VERSION",
        EV_PLATFORM_CONFIG_FLAGS => "EV_PLATFORM_CONFIG_FLAGS",
        0xc => "EV_COMPACT_HASH",
        EV_IPL => "EV_IPL",
        EV_EFI_VARIABLE_DRIVER_CONFIG => "EV_EFI_VARIABLE_DRIVER_CONFIG",
        EV_EFI_VARIABLE_BOOT => "EV_EFI_VARIABLE_BOOT",
        EV_EFI_BOOT_SERVICES_APPLICATION => "EV_EFI_BOOT_SERVICES_APPLICATION",
        EV_EFI_BOOT_SERVICES_DRIVER => "EV_EFI_BOOT_SERVICES_DRIVER",
        EV_EFI_RUNTIME_SERVICES_DRIVER => "EV_EFI_RUNTIME_SERVICES_DRIVER",
        EV_EFI_GPT_EVENT => "EV_EFI_GPT_EVENT",
        EV_EFI_ACTION => "EV_EFI_ACTION",
        EV_EFI_PLATFORM_FIRMWARE_BLOB => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
        0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
        EV_EFI_PLATFORM_FIRMWARE_BLOB2 => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        EV_EFI_HANDOFF_TABLES2 => "EV_EFI_HANDOFF_TABLES2",
        EV_EFI_VARIABLE_BOOT2 => "EV_EFI_VARIABLE_BOOT2",
        EV_EFI_VARIABLE_AUTHORITY => "EV_EFI_VARIABLE_AUTHORITY",
        _ => "EV_?",
    }
}

/// Name of a UEFI_VARIABLE_DATA (PFP 10.2.6): GUID, name length u64, data length u64, UTF-16 name, data.
fn variable(data: &[u8]) -> Option<String> {
    let characters = usize::try_from(u64::from_le_bytes(data.get(16..24)?.try_into().ok()?)).ok()?;
    let bytes = data.get(32..32usize.checked_add(characters.checked_mul(2)?)?)?;
    Some(utf16(bytes))
}

/// The last file path of a UEFI_IMAGE_LOAD_EVENT's device path (PFP 10.2.3).
fn image(data: &[u8]) -> Option<String> {
    let length = u64::from_le_bytes(data.get(8..16)?.try_into().ok()?);
    let mut path = data.get(32..)?;
    let mut name = String::new();
    while let [kind, sub, low, high, ..] = *path {
        let node = usize::from(u16::from_le_bytes([low, high]));
        if node < 4 || kind == 0x7f {
            break;
        }
        let body = path.get(4..node)?;
        if (kind, sub) == (4, 4) {
            name = utf16(body);
        }
        path = path.get(node..)?;
    }
    Some(if name.is_empty() { format!("({length} bytes from memory)") } else { name })
}

fn blob(data: &[u8]) -> Option<String> {
    let base = u64::from_le_bytes(data.get(..8)?.try_into().ok()?);
    let size = u64::from_le_bytes(data.get(8..16)?.try_into().ok()?);
    Some(format!("at {base:#x}, {size:#x} bytes"))
}

fn tagged(data: &[u8]) -> Option<String> {
    let size = usize::try_from(u32::from_le_bytes(data.get(4..8)?.try_into().ok()?)).ok()?;
    let body = data.get(8..)?;
    Some(text(&body[..size.min(body.len())]))
}

/// The description in front of newer forms: a length byte and so many characters.
fn named(data: &[u8]) -> Option<String> {
    let (length, rest) = data.split_first()?;
    Some(ascii(rest.get(..usize::from(*length))?))
}

/// systemd-stub's strings are UTF-16, those of the kernel, of shim and of GRUB are ASCII.
pub(super) fn text(data: &[u8]) -> String {
    if data.get(1) == Some(&0) { utf16(data) } else { ascii(data) }
}

/// A GUID as text: its first three parts are little-endian (UEFI 2.10, appendix A).
pub(super) fn guid(data: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = data.first_chunk().copied()?;
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let (first, last) = rest.split_at(2);
    let parts = [&[d, c, b, a][..], &[f, e], &[h, g], first, last];
    Some(parts.map(hex::encode).join("-"))
}

pub(super) fn ascii(data: &[u8]) -> String {
    data.iter().take_while(|b| **b != 0).take(MAX_TEXT).map(|b| printable(char::from(*b))).collect()
}

pub(super) fn utf16(data: &[u8]) -> String {
    let (pairs, _) = data.as_chunks::<2>();
    let units = pairs.iter().map(|p| u16::from_le_bytes(*p)).take_while(|u| *u != 0).take(MAX_TEXT);
    char::decode_utf16(units).map(|c| printable(c.unwrap_or('\u{fffd}'))).collect()
}

fn printable(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: u32, data: &[u8]) -> LogEvent<'_> {
        LogEvent { offset: 0, index: 0, event_type, digests: vec![], data }
    }

    #[test]
    fn a_boot_variable_is_named() {
        let mut data = vec![0; 16];
        data.extend(2u64.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        data.extend([b'P', 0, b'K', 0]);
        let text = describe(&event(EV_EFI_VARIABLE_DRIVER_CONFIG, &data)).to_string();
        assert_eq!(text, "EV_EFI_VARIABLE_DRIVER_CONFIG PK");
    }

    #[test]
    fn a_variable_with_a_gigantic_name_is_described_without_it() {
        let mut data = vec![0; 16];
        data.extend(u64::MAX.to_le_bytes());
        data.extend([0; 8]);
        assert_eq!(describe(&event(EV_EFI_VARIABLE_BOOT, &data)).detail, "");
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(describe(&event(EV_EFI_ACTION, b"a\x1b[2J")).detail, "a\u{fffd}[2J");
    }
}

//! Boot options that OVMF makes for itself from a pristine variable store, as variables.
//!
//! Format: EFI_LOAD_OPTION (UEFI 2.10 section 3.1.3) and device paths (chapter 10). Which options exist: EDK2
//! `OvmfPkg/Library/PlatformBootManagerLib` and `MdeModulePkg/Library/UefiBootManagerLib`. Under `-kernel` only the
//! user interface has an option when the variables are measured; else QEMU's boot order keeps the root disk, the
//! user interface and the shell, and deletes the rest.

use crate::event::Event;
use crate::firmware::Guid;

/// 462CAA21-7614-4503-836E-8AB6F4662331: the boot manager's user interface.
pub(crate) const UI_APP: Guid = *b"\x21\xaa\x2c\x46\x14\x76\x03\x45\x83\x6e\x8a\xb6\xf4\x66\x23\x31";
/// EEC25BDC-67F2-4D95-B1D5-F81B2039D11D: the boot menu, which newer firmware has beside the user interface.
pub(super) const MENU_APP: Guid = *b"\xdc\x5b\xc2\xee\xf2\x67\x95\x4d\xb1\xd5\xf8\x1b\x20\x39\xd1\x1d";
/// 7C04A583-9E3E-4F1C-AD65-E05268D0B4D1: the shell.
pub(super) const SHELL: Guid = *b"\x83\xa5\x04\x7c\x3e\x9e\x1c\x4f\xad\x65\xe0\x52\x68\xd0\xb4\xd1";
/// 8108AC4E-9F11-4D59-850E-E21A522C59B2: marks options that the boot manager made.
const AUTO_CREATED: Guid = *b"\x4e\xac\x08\x81\x11\x9f\x59\x4d\x85\x0e\xe2\x1a\x52\x2c\x59\xb2";

const ACTIVE: u32 = 0x001;
const HIDDEN: u32 = 0x008;
const APPLICATION: u32 = 0x100;

/// A boot option and the bytes of its variable.
pub(super) struct BootOption {
    pub(super) number: u16,
    pub(super) description: &'static str,
    pub(super) data: Vec<u8>,
}

impl BootOption {
    /// The boot manager's user interface, always the first option that is made.
    pub(super) fn ui_app(volume: &Guid) -> Self {
        let path = file_in_volume(volume, &UI_APP);
        Self::new(0, "UiApp", ACTIVE | HIDDEN | APPLICATION, &path, &[])
    }

    /// The boot menu, the first option of newer firmware.
    pub(super) fn menu(volume: &Guid) -> Self {
        let path = file_in_volume(volume, &MENU_APP);
        Self::new(0, "BootManagerMenuApp", ACTIVE | HIDDEN | APPLICATION, &path, &[])
    }

    /// The user interface in newer firmware.
    pub(super) fn setup(volume: &Guid) -> Self {
        let path = file_in_volume(volume, &UI_APP);
        Self::new(1, "EFI Firmware Setup", ACTIVE | APPLICATION, &path, &[])
    }

    /// The root disk: the lowest slot that has a disk, so the first of its kind.
    pub(super) fn root_disk(number: u16, slot: u8) -> Self {
        let path =
            [&[2, 1, 12, 0][..], &0x0a03_41d0u32.to_le_bytes(), &[0; 4], &[1, 1, 6, 0, 0, slot]].concat();
        Self::new(number, "UEFI Misc Device", ACTIVE, &path, &AUTO_CREATED)
    }

    /// The shell inside the firmware, the last option; newer firmware marks it as an application.
    pub(super) fn shell(number: u16, volume: &Guid, newer: bool) -> Self {
        let attributes = if newer { ACTIVE | APPLICATION } else { ACTIVE };
        Self::new(number, "EFI Internal Shell", attributes, &file_in_volume(volume, &SHELL), &[])
    }

    fn new(number: u16, description: &'static str, attributes: u32, path: &[u8], optional: &[u8]) -> Self {
        const END: [u8; 4] = [0x7f, 0xff, 4, 0];
        let path = [path, &END].concat();
        let mut data = attributes.to_le_bytes().to_vec();
        data.extend((path.len() as u16).to_le_bytes());
        data.extend(description.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        data.extend(path);
        data.extend(optional);
        BootOption { number, description, data }
    }

    pub(super) fn event(&self) -> Event {
        Event::BootOption { number: self.number, description: self.description.to_owned() }
    }
}

/// Device path of a file in a firmware volume.
fn file_in_volume(volume: &Guid, file: &Guid) -> Vec<u8> {
    [&[4, 7, 20, 0][..], volume, &[4, 6, 20, 0], file].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_attributes_path_length_description_path() {
        let option = BootOption::ui_app(&[7; 16]);
        assert_eq!(option.data[..6], [0x09, 0x01, 0, 0, 44, 0]);
        assert_eq!(option.data[6..18], *b"U\0i\0A\0p\0p\0\0\0");
        assert_eq!(option.data.len(), 18 + 44);
        assert_eq!(option.event().to_string(), "variable Boot0000 (UiApp)");
    }
}

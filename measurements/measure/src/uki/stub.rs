//! Which systemd-stub a UKI has, and what stubs of that version do.
//!
//! ```text
//! 252  .linux .osrel .cmdline .initrd .splash .dtb .pcrpkey
//! 254  + .uname .sbat (before .pcrpkey)
//! 256  + .ucode (before .splash)
//! 257  + .profile .dtbauto .hwids (behind .pcrpkey); os-release and profile join the initrd
//! 258  + .efifw (last); the kernel is started without the firmware's LoadImage, which would measure it
//! 260  + an event for the SMBIOS system information, PCR 1
//! ```
//! The order never changes: systemd `src/fundamental/uki.h` (before 255 `tpm-pcr.h`) forbids it. The version stands in the
//! section `.sdmagic` as `#### LoaderInfo: systemd-stub 257.13-1 ####`. The lists were read from the sources of 257 and
//! from the tables of names in stubs 252, 254, 255, 257, 259, 261 and 262. What 258 and 260 do
//! was seen in 259 and 261.

use super::UkiSection;
use crate::event::Assumption;
use crate::pe::Image;

const BEFORE: &[u8] = b"systemd-stub ";
const BEHIND: &[u8] = b" ####";
/// Versions whose real boots were compared with predictions, event by event.
const BOOTED: [u32; 7] = [252, 254, 255, 257, 259, 261, 262];
/// The newest stub whose table of sections was read.
const NEWEST: u32 = 262;
/// The oldest whose measurements are foretold: older ones measure into other PCRs.
const OLDEST: u32 = 252;

/// The stub at the front of a UKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// Major version, if the stub tells one.
    pub version: Option<u32>,
    /// What the stub says of itself, such as `257.13-1~deb13u1`.
    pub text: String,
}

impl Stub {
    /// Reads the version from an image.
    pub(super) fn of(image: &Image<'_>) -> Self {
        let magic = image.section(".sdmagic").and_then(|s| image.in_memory(s).ok()).unwrap_or_default();
        let from =
            magic.windows(BEFORE.len()).position(|w| w == BEFORE).map(|at| &magic[at + BEFORE.len()..]);
        let text = from.and_then(|t| Some(&t[..t.windows(BEHIND.len()).position(|w| w == BEHIND)?]));
        let text = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        Stub { version: digits.parse().ok(), text }
    }

    /// Whether stubs of this version know a section; one that doesn't tell its version counts as the newest.
    pub fn knows(&self, section: UkiSection) -> bool {
        let since = match section {
            UkiSection::Uname | UkiSection::Sbat => 254,
            UkiSection::Ucode => 256,
            UkiSection::Profile | UkiSection::Hwids => 257,
            _ => 0,
        };
        self.version.unwrap_or(NEWEST) >= since
    }

    /// Whether stubs of this version hand os-release and the profile to the initrd.
    pub(super) fn extends_initrd(&self) -> bool {
        self.version.unwrap_or(NEWEST) >= 257
    }

    /// Whether the firmware loads the kernel for stubs of this version, and measures it.
    pub(crate) fn kernel_is_measured(&self) -> bool {
        self.version.unwrap_or(NEWEST) < 258
    }

    /// Whether stubs of this version measure the SMBIOS system information.
    pub(crate) fn measures_system_information(&self) -> bool {
        self.version.unwrap_or(NEWEST) >= 260
    }

    /// What a prediction takes the stub for, and how sure that is.
    pub(crate) fn assumption(&self) -> Assumption {
        let (value, because) = match self.version {
            None => ("unknown".into(), format!("the image doesn't say; taken for systemd-stub {NEWEST}")),
            Some(version) => {
                let because = match version {
                    _ if BOOTED.contains(&version) => "compared with real boots",
                    OLDEST..=NEWEST => "its section table was read, its boots weren't compared",
                    _ if version > NEWEST => "newer than any stub known here: taken for the newest known",
                    _ => "older than any stub known here: taken for the oldest known",
                };
                (format!("systemd-stub {}", self.text), because.to_owned())
            }
        };
        Assumption::new("stub", &value, &because)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pe::samples::pe;

    fn stub(text: &[u8]) -> Stub {
        Stub::of(&Image::parse(&pe(&[(".text", b"stub"), (".sdmagic", text)], b"", b"")).unwrap())
    }

    #[test]
    fn the_version_comes_out_of_the_magic_section() {
        let found = stub(b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0");
        assert_eq!((found.version, found.text.as_str()), (Some(257), "257.13-1~deb13u1"));
        assert!(found.assumption().because.contains("real boots"));
        assert_eq!(stub(b"#### LoaderInfo: systemd-stub 300~rc1").version, None, "no end");
    }

    #[test]
    fn older_stubs_do_not_know_newer_sections() {
        let known = |text: &[u8]| {
            let stub = stub(text);
            UkiSection::ALL.into_iter().filter(|s| stub.knows(*s)).count()
        };
        assert_eq!(known(b"systemd-stub 252.39 ####"), 7);
        assert_eq!(known(b"systemd-stub 255.4 ####"), 9);
        assert_eq!(known(b"systemd-stub 256 ####"), 10);
        assert_eq!(known(b"systemd-stub 262.1 ####"), 12);
    }

    #[test]
    fn newer_stubs_start_the_kernel_themselves_and_measure_smbios() {
        let does = |text: &[u8]| {
            let stub = stub(text);
            (stub.kernel_is_measured(), stub.measures_system_information())
        };
        assert_eq!(does(b"systemd-stub 257.13 ####"), (true, false));
        assert_eq!(does(b"systemd-stub 259.9 ####"), (false, false));
        assert_eq!(does(b"systemd-stub 262.1 ####"), (false, true));
    }

    #[test]
    fn a_stub_of_an_unknown_version_is_said_and_not_guessed_silently() {
        for (text, words) in [
            (&b"systemd-stub 263 ####"[..], "newer than any stub known here"),
            (b"systemd-stub 249 ####", "older than any stub known here"),
            (b"another stub", "the image doesn't say"),
        ] {
            let because = stub(text).assumption().because;
            assert!(because.contains(words), "{because}");
        }
    }
}

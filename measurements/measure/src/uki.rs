//! Unified kernel images: what systemd-stub measures of them, and what it hands to the kernel.
//!
//! ```text
//! stub:    for each section in [`UkiSection`] order: PCR 11 name event, PCR 11 data event
//! firmware (LoadImage of .linux): PCR 4, Authenticode
//! kernel:  PCR 9 load options (UTF-16 command line), PCR 9 initrd (all initrds joined)
//! ```
//! Sources: systemd 257 `src/fundamental/uki.h`, `src/boot/stub.c`, `pe.c`, `cpio.c`; Linux 6.12
//! `drivers/firmware/efi/libstub/efi-stub-helper.c`.

mod stub;

pub use stub::Stub;

use crate::error::{Input, MeasureError, View};
use crate::hash::Ranges;
use crate::pe::{Image, Section};

/// Sections that the stub knows, in the order in which it measures them: declaration order is measurement order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UkiSection {
    /// The kernel, a PE image itself.
    Linux,
    /// os-release.
    Osrel,
    /// Kernel command line.
    Cmdline,
    /// Initrd.
    Initrd,
    /// Microcode, an initrd that comes first.
    Ucode,
    /// Splash image.
    Splash,
    /// Device tree.
    Dtb,
    /// Kernel release.
    Uname,
    /// SBAT revocation data.
    Sbat,
    /// Public key of PCR signatures.
    Pcrpkey,
    /// Boot profile.
    Profile,
    /// Hardware identifiers.
    Hwids,
}

impl UkiSection {
    /// All, in measurement order. `.pcrsig` isn't measured, `.dtbauto` is refused.
    pub const ALL: [UkiSection; 12] = [
        UkiSection::Linux,
        UkiSection::Osrel,
        UkiSection::Cmdline,
        UkiSection::Initrd,
        UkiSection::Ucode,
        UkiSection::Splash,
        UkiSection::Dtb,
        UkiSection::Uname,
        UkiSection::Sbat,
        UkiSection::Pcrpkey,
        UkiSection::Profile,
        UkiSection::Hwids,
    ];

    /// PE section name; the name event hashes it with a NUL.
    pub fn name(self) -> &'static str {
        match self {
            UkiSection::Linux => ".linux",
            UkiSection::Osrel => ".osrel",
            UkiSection::Cmdline => ".cmdline",
            UkiSection::Initrd => ".initrd",
            UkiSection::Ucode => ".ucode",
            UkiSection::Splash => ".splash",
            UkiSection::Dtb => ".dtb",
            UkiSection::Uname => ".uname",
            UkiSection::Sbat => ".sbat",
            UkiSection::Pcrpkey => ".pcrpkey",
            UkiSection::Profile => ".profile",
            UkiSection::Hwids => ".hwids",
        }
    }
}

/// A measured section.
#[derive(Debug, Clone)]
pub struct Measured<'a> {
    /// Which one.
    pub section: UkiSection,
    /// Its bytes as they lie in memory.
    pub bytes: &'a [u8],
}

/// A parsed UKI.
#[derive(Debug, Clone)]
pub struct Uki<'a> {
    /// The whole image.
    pub image: Image<'a>,
    /// The stub at its front.
    pub stub: Stub,
    /// The kernel inside.
    pub kernel: Image<'a>,
    /// Measured sections in measurement order.
    pub sections: Vec<Measured<'a>>,
    /// What the stub wraps into archives and appends to the initrd.
    generated: Vec<u8>,
    load_options: Option<Vec<u8>>,
}

/// Files that the stub puts into `/.extra` of the initrd, in the order in which it joins them.
const EXTRA: [(&str, &str); 4] = [
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
    (".profile", "profile"),
];

impl<'a> Uki<'a> {
    /// Parses a UKI; of one with several boot profiles, the first is taken, as the stub does unasked.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MeasureError> {
        let image = Image::parse(bytes)?;
        let stub = Stub::of(&image);
        let chosen = |name: &str| choose(&image.sections, name);
        if let Some(name) = [".dtbauto", ".efifw"].into_iter().find(|name| chosen(name).is_some()) {
            let fault = format!("a {name} section is chosen by the hardware, which can't be foretold");
            return Err(image.fault(0, fault));
        }
        let known = UkiSection::ALL.into_iter().filter(|section| stub.knows(*section));
        let present = known.filter_map(|section| Some((section, chosen(section.name())?)));
        let measured = present.map(|(section, s)| Ok(Measured { section, bytes: image.in_memory(s)? }));
        let sections = measured.collect::<Result<Vec<_>, MeasureError>>()?;
        let linux = chosen(".linux").ok_or_else(|| image.fault(0, "no .linux section: this is no UKI"))?;
        let kernel = parse_kernel(&image, linux, bytes)?;
        let load_options = sections.iter().find(|m| m.section == UkiSection::Cmdline);
        let load_options = load_options.map(|m| load_options_of(&image, m)).transpose()?;
        let mut generated = Vec::new();
        for (section, file) in if stub.extends_initrd() { &EXTRA[..] } else { &EXTRA[..2] } {
            if let Some(section) = chosen(section) {
                generated.extend(archive(file, image.in_memory(section)?));
            }
        }
        Ok(Uki { image, stub, kernel, sections, generated, load_options })
    }

    /// One measured section.
    pub fn section(&self, section: UkiSection) -> Option<&Measured<'a>> {
        self.sections.iter().find(|m| m.section == section)
    }

    /// The kernel's load options as it measures them: the command line in UTF-16 with its NUL.
    pub fn load_options(&self) -> Option<&[u8]> {
        self.load_options.as_deref()
    }

    /// The initrd as the kernel gets and measures it; `None` if it gets none.
    ///
    /// A single initrd is handed over as it is; several are padded to four bytes each and joined.
    pub fn initrd(&self) -> Option<Ranges<'_>> {
        static PADDING: [u8; 3] = [0; 3];
        let parts = [UkiSection::Ucode, UkiSection::Initrd].into_iter().filter_map(|s| self.section(s));
        let parts: Vec<_> = parts.map(|m| m.bytes).collect();
        let mut ranges = Ranges::default();
        let single = parts.len() == 1 && self.generated.is_empty();
        for bytes in parts {
            ranges.push(bytes);
            if !single {
                ranges.push(&PADDING[..bytes.len().next_multiple_of(4) - bytes.len()]);
            }
        }
        ranges.push(&self.generated);
        (!ranges.is_empty()).then_some(ranges)
    }
}

/// The section of that name which the first boot profile uses: its own, else the base's. Profiles begin at `.profile`.
fn choose<'s>(sections: &'s [Section], name: &str) -> Option<&'s Section> {
    let starts: Vec<_> = (0..sections.len()).filter(|i| sections[*i].name == ".profile").collect();
    let base = &sections[..starts.first().copied().unwrap_or(sections.len())];
    let first = match starts.as_slice() {
        [] => &[][..],
        [start] => &sections[*start..],
        [start, end, ..] => &sections[*start..*end],
    };
    let find = |part: &'s [Section]| part.iter().find(|s| s.name == name && s.virtual_size > 0);
    find(first).or_else(|| find(base))
}

fn parse_kernel<'a>(image: &Image<'a>, linux: &Section, bytes: &'a [u8]) -> Result<Image<'a>, MeasureError> {
    let size = image.in_memory(linux)?.len();
    Image::parse_view(View::new(Input::Kernel, bytes).sub(linux.file.start, size, "kernel")?)
}

/// The command line as the stub hands it over: trimmed, control characters turned into spaces, UTF-16 with a NUL.
fn load_options_of(image: &Image<'_>, cmdline: &Measured<'_>) -> Result<Vec<u8>, MeasureError> {
    let bytes = cmdline.bytes.split(|b| *b == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(bytes).map_err(|e| {
        image.fault(0, format!("the command line is no UTF-8 text at its byte {}", e.valid_up_to()))
    })?;
    // The stub knows no characters above the basic plane and drops them.
    let blank = |c: char| c <= ' ' || c == '\x7f';
    let text: String = text.chars().filter(|c| *c <= '\u{ffff}').collect();
    let units = text.trim_matches(blank).chars().map(|c| if blank(c) { ' ' } else { c });
    let units: String = units.collect();
    Ok(units.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect())
}

/// A cpio archive (newc) with one read-only file in the directory `.extra`, as the stub writes it.
fn archive(file: &str, content: &[u8]) -> Vec<u8> {
    let path = format!(".extra/{file}");
    let mut out = Vec::new();
    record(&mut out, 1, 0o040_555, ".extra", &[]);
    record(&mut out, 2, 0o100_444, &path, content);
    // The stub writes numbers in lower case, but its trailer is a constant in upper case.
    out.extend(TRAILER);
    out
}

/// Inode, mode, user, group: zero; one link; time, size and four device numbers: zero; name of 11 bytes; no checksum.
const TRAILER: &[u8] = concat!(
    "070701",
    "00000000000000000000000000000000",
    "00000001",
    "000000000000000000000000000000000000000000000000",
    "0000000B",
    "00000000",
    "TRAILER!!!\0\0\0\0",
)
.as_bytes();

fn record(out: &mut Vec<u8>, inode: u32, mode: u32, path: &str, content: &[u8]) {
    let sizes = (content.len() as u32, path.len() as u32 + 1);
    out.extend(b"070701");
    for word in [inode, mode, 0, 0, 1, 0, sizes.0, 0, 0, 0, 0, sizes.1, 0] {
        out.extend(format!("{word:08x}").bytes());
    }
    out.extend(path.bytes().chain([0]));
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(any(test, feature = "samples"))]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::uki as sample_uki;
    use super::*;
    use crate::pe::samples::pe as sample_pe;
    use proptest::prelude::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn sections_come_in_the_stubs_order_not_the_files() {
        let bytes = sample_uki(b"quiet");
        let uki = Uki::parse(&bytes).unwrap();
        let names: Vec<_> = uki.sections.iter().map(|m| m.section.name()).collect();
        assert_eq!(names, [".linux", ".osrel", ".cmdline", ".initrd", ".sbat"]);
    }

    #[test]
    fn the_command_line_is_trimmed_and_its_control_characters_become_spaces() {
        let bytes = sample_uki(b" \tconsole=ttyS0\nquiet \n\0junk");
        let uki = Uki::parse(&bytes).unwrap();
        assert_eq!(uki.load_options().unwrap(), utf16("console=ttyS0 quiet"));
    }

    #[test]
    fn the_initrd_is_padded_and_followed_by_os_release() {
        let bytes = sample_uki(b"quiet");
        let uki = Uki::parse(&bytes).unwrap();
        let mut expected = b"initrd\0\0".to_vec();
        expected.extend(archive("os-release", b"ID=x\n"));
        assert_eq!(uki.initrd().unwrap().digests(), crate::Digests::of(&expected));
    }

    #[test]
    fn an_archive_is_newc() {
        let bytes = archive("f", b"abcde");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("07070100000001000041"), "{text:?}");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
    }

    #[test]
    fn the_first_profile_overrides_the_base() {
        let kernel = sample_pe(&[(".text", b"kernel")], b"", b"");
        let bytes = sample_pe(
            &[
                (".linux", &kernel),
                (".cmdline", b"base"),
                (".profile", b"ID=a\n"),
                (".cmdline", b"first"),
                (".profile", b"ID=b\n"),
                (".cmdline", b"second"),
            ],
            b"",
            b"",
        );
        let uki = Uki::parse(&bytes).unwrap();
        assert_eq!(uki.load_options().unwrap(), utf16("first"));
        assert_eq!(uki.section(UkiSection::Profile).unwrap().bytes, b"ID=a\n");
    }

    #[test]
    fn an_image_without_kernel_is_no_uki() {
        let bytes = sample_pe(&[(".text", b"x")], b"", b"");
        assert!(Uki::parse(&bytes).unwrap_err().to_string().contains("no .linux section"));
    }

    proptest! {
        #[test]
        fn a_mutated_uki_never_panics(at in 0usize..6000, value: u32, cut in 0usize..6000) {
            let mut bytes = sample_uki(b"quiet");
            let len = bytes.len();
            let at = at % (len - 4);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            for part in [&bytes[..], &bytes[..cut % len]] {
                if let Ok(uki) = Uki::parse(part) {
                    let _ = uki.image.authenticode_ranges().map(|r| r.len());
                    let _ = uki.kernel.authenticode();
                    let _ = uki.initrd().map(|r| r.len());
                }
            }
        }
    }
}

//! PE images: section table and Authenticode digest.
//!
//! The firmware measures an image by its Authenticode digest (Microsoft, "Windows Authenticode Portable Executable
//! Signature Format", "Calculating the PE Image Hash"; EDK2 does the same in `DxeTpm2MeasureBootLib`): headers without
//! checksum and certificate table entry, then sections by file offset, then what follows except the certificates.

use crate::error::{Input, MeasureError, View};
use crate::hash::{Digests, Ranges};
use std::ops::Range;

/// The PE format's own limit is 96 for loaders of old; EDK2 takes any number, this crate what a UKI may need.
const MAX_SECTIONS: u16 = 1024;
const CERTIFICATE_TABLE: usize = 4;

/// One entry of the section table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name without padding.
    pub name: String,
    /// Bytes in memory.
    pub virtual_size: u32,
    /// Address in memory, relative to the image base.
    pub virtual_address: u32,
    /// Place in the file, checked to lie inside it.
    pub file: Range<usize>,
}

/// A parsed PE32 or PE32+ image; borrows the file.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    view: View<'a>,
    checksum: usize,
    certificate_entry: Option<usize>,
    certificate_size: usize,
    headers_size: usize,
    /// Section table, in table order.
    pub sections: Vec<Section>,
}

impl<'a> Image<'a> {
    /// Parses the headers of a whole image.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MeasureError> {
        Self::parse_view(View::new(Input::Uki, bytes))
    }

    pub(crate) fn parse_view(view: View<'a>) -> Result<Self, MeasureError> {
        let bad = |at, fault: String| Err(view.fault(at, fault));
        if view.slice(0, 2, "DOS header")? != b"MZ" {
            return bad(0, "no DOS header (MZ): this is no PE image".into());
        }
        let pe = view.u32(0x3c, "offset of the PE header")? as usize;
        if view.slice(pe, 4, "PE signature")? != b"PE\0\0" {
            return bad(pe, "no PE signature".into());
        }
        let section_count = view.u16(pe + 6, "number of sections")?;
        if section_count == 0 || section_count > MAX_SECTIONS {
            return bad(pe + 6, format!("{section_count} sections, expected 1 to {MAX_SECTIONS}"));
        }
        let optional = pe + 24;
        let optional_size = usize::from(view.u16(pe + 20, "optional header size")?);
        let header = view.sub(optional, optional_size, "optional header")?;
        let directories = match header.u16(0, "optional header magic")? {
            0x20b => 112,
            0x10b => 96,
            magic => {
                return bad(optional, format!("optional header magic {magic:#x}, expected 0x20b or 0x10b"));
            }
        };
        let headers_size = header.u32(60, "size of headers")? as usize;
        let certificates = certificate_table(&header, directories)?;
        let table = optional + optional_size;
        let sections = section_table(&view, table, usize::from(section_count))?;
        let table_end = table + 40 * usize::from(section_count);
        if headers_size < table_end || headers_size > view.len() {
            let len = view.len();
            return bad(
                optional + 60,
                format!("headers end at {headers_size:#x}, not in {table_end:#x}..={len:#x}"),
            );
        }
        let (certificate_entry, certificate_size) = match certificates {
            Some(size) => (Some(optional + directories + 8 * CERTIFICATE_TABLE), size),
            None => (None, 0),
        };
        let checksum = optional + 64;
        Ok(Image { view, checksum, certificate_entry, certificate_size, headers_size, sections })
    }

    /// The first section of that name, as boot stubs choose it.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// Address in memory, relative to the image base, of a place in the file; `None` between sections.
    pub(crate) fn address_of(&self, offset: usize) -> Option<u32> {
        let section = self.sections.iter().find(|s| s.file.contains(&offset))?;
        section.virtual_address.checked_add((offset - section.file.start) as u32)
    }

    /// What the Authenticode digest covers, in its order.
    pub fn authenticode_ranges(&self) -> Result<Ranges<'a>, MeasureError> {
        let bytes = self.view.bytes;
        let mut ranges = Ranges::default();
        let mut cursor = 0;
        let skipped = [Some((self.checksum, 4)), self.certificate_entry.map(|at| (at, 8))];
        for (at, len) in skipped.into_iter().flatten() {
            ranges.push(&bytes[cursor..at]);
            cursor = at + len;
        }
        ranges.push(&bytes[cursor..self.headers_size]);
        let mut hashed = self.headers_size;
        let mut by_offset: Vec<_> = self.sections.iter().filter(|s| !s.file.is_empty()).collect();
        by_offset.sort_by_key(|s| s.file.start);
        for section in by_offset {
            ranges.push(&bytes[section.file.clone()]);
            hashed += section.file.len();
        }
        let end = bytes.len().saturating_sub(self.certificate_size);
        if hashed > end {
            let fault = format!(
                "headers and sections cover {hashed:#x} bytes, the file holds {end:#x}: they overlap"
            );
            return Err(self.view.fault(end, fault));
        }
        ranges.push(&bytes[hashed..end]);
        Ok(ranges)
    }

    /// Authenticode digests of the image.
    pub fn authenticode(&self) -> Result<Digests, MeasureError> {
        Ok(self.authenticode_ranges()?.digests())
    }

    /// A section as it lies in memory, without the file's padding.
    pub(crate) fn in_memory(&self, section: &Section) -> Result<&'a [u8], MeasureError> {
        let file = &self.view.bytes[section.file.clone()];
        file.get(..section.virtual_size as usize).ok_or_else(|| {
            let (name, size) = (&section.name, section.virtual_size);
            let fault = format!("section {name} has {size} bytes in memory but {} in the file", file.len());
            self.view.fault(section.file.start, fault)
        })
    }

    pub(crate) fn fault(&self, offset: usize, fault: impl Into<String>) -> MeasureError {
        self.view.fault(offset, fault)
    }
}

/// Size of the certificate table if the optional header has that directory.
fn certificate_table(header: &View<'_>, directories: usize) -> Result<Option<usize>, MeasureError> {
    let count = header.u32(directories - 4, "number of data directories")? as usize;
    if count <= CERTIFICATE_TABLE {
        return Ok(None);
    }
    let entry = directories + 8 * CERTIFICATE_TABLE;
    Ok(Some(header.u32(entry + 4, "certificate table size")? as usize)).and_then(|size| match size {
        Some(size) if size > isize::MAX as usize => {
            Err(header.fault(entry + 4, "certificate table is gigantic"))
        }
        other => Ok(other),
    })
}

fn section_table(view: &View<'_>, table: usize, count: usize) -> Result<Vec<Section>, MeasureError> {
    let mut sections = Vec::with_capacity(count);
    for i in 0..count {
        let at = table + 40 * i;
        let name = view.slice(at, 8, "section header")?;
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let size = view.u32(at + 16, "section size")? as usize;
        let start = if size == 0 { 0 } else { view.u32(at + 20, "section offset")? as usize };
        view.slice(start, size, "section data")?;
        sections.push(Section {
            name: String::from_utf8_lossy(name).into_owned(),
            virtual_size: view.u32(at + 8, "section virtual size")?,
            virtual_address: view.u32(at + 12, "section address")?,
            file: start..start + size,
        });
    }
    Ok(sections)
}

#[cfg(any(test, feature = "samples"))]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::pe as sample_pe;
    use super::*;
    use crate::register::{Digest256, Digest384};
    use proptest::prelude::*;

    /// The digest by its definition, written the slow way.
    fn by_definition(pe: &[u8], certificates: usize) -> Vec<u8> {
        let mut covered = pe[..pe.len() - certificates].to_vec();
        covered.drain(0x58 + 112 + 32..0x58 + 112 + 40);
        covered.drain(0x58 + 64..0x58 + 68);
        covered
    }

    #[test]
    fn authenticode_leaves_out_checksum_certificate_entry_and_certificates() {
        let pe = sample_pe(&[(".text", b"code"), (".data", &[7; 600])], b"tail", b"certificates");
        let covered = by_definition(&pe, 12);
        let digests = Image::parse(&pe).unwrap().authenticode().unwrap();
        assert_eq!(digests.sha384, Digest384::of(&covered));
        assert_eq!(digests.sha256, Digest256::of(&covered));
    }

    #[test]
    fn signing_does_not_change_the_authenticode_digest() {
        let plain = sample_pe(&[(".text", b"code")], b"", b"");
        let signed = sample_pe(&[(".text", b"code")], b"", b"12345678");
        let digest = |pe: &[u8]| Image::parse(pe).unwrap().authenticode().unwrap();
        assert_eq!(digest(&plain), digest(&signed));
    }

    #[test]
    fn sections_out_of_file_order_are_hashed_by_offset() {
        let mut pe = sample_pe(&[(".a", &[1; 512]), (".b", &[2; 512])], b"", b"");
        let before = Image::parse(&pe).unwrap().authenticode().unwrap();
        let (a, b) = (0x58 + 240, 0x58 + 280);
        let (first, second) = (pe[a..a + 40].to_vec(), pe[b..b + 40].to_vec());
        pe[a..a + 40].copy_from_slice(&second);
        pe[b..b + 40].copy_from_slice(&first);
        let covered = by_definition(&pe, 0);
        assert_ne!(Digest384::of(&covered), before.sha384, "the headers changed");
        assert_eq!(Image::parse(&pe).unwrap().authenticode().unwrap().sha384, Digest384::of(&covered));
    }

    #[test]
    fn a_section_beyond_the_file_is_refused_with_its_offset() {
        let mut pe = sample_pe(&[(".text", b"code")], b"", b"");
        let at = 0x58 + 240 + 16;
        pe[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = Image::parse(&pe).unwrap_err().to_string();
        assert!(error.contains("section data needs 4294967295 bytes"), "{error}");
    }

    #[test]
    fn overlapping_sections_and_lying_certificates_are_refused() {
        let pe = sample_pe(&[(".a", &[1; 512]), (".b", &[2; 512])], b"", b"");
        let mut overlapping = pe.clone();
        let (a, b) = (0x58 + 240 + 16, 0x58 + 280 + 16);
        overlapping.copy_within(a..a + 8, b);
        overlapping[a..a + 4].copy_from_slice(&1024u32.to_le_bytes());
        let error = Image::parse(&overlapping).unwrap().authenticode().unwrap_err();
        assert!(error.to_string().contains("overlap"), "{error}");
        let mut lying = pe;
        let entry = 0x58 + 112 + 36;
        lying[entry..entry + 4].copy_from_slice(&0x4000_0000u32.to_le_bytes());
        assert!(Image::parse(&lying).and_then(|i| i.authenticode()).is_err());
    }

    proptest! {
        #[test]
        fn a_mutated_image_never_panics(at in 0usize..700, value: u32, cut in 0usize..2000) {
            let mut pe = sample_pe(&[(".text", b"code"), (".data", &[7; 600])], b"tail", b"certificates");
            pe[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let len = pe.len();
            for part in [&pe[..], &pe[..cut % len]] {
                if let Ok(image) = Image::parse(part) {
                    let _ = image.authenticode();
                    for section in &image.sections {
                        let _ = image.in_memory(section);
                    }
                }
            }
        }
    }
}

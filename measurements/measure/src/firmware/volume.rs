//! Firmware volumes, files and sections (UEFI PI 1.8 volume 3, chapters 2 and 3).

use super::Guid;
use crate::error::{MeasureError, View};
use std::ops::Range;

pub(super) const FILE_PEI_CORE: u8 = 0x04;
pub(super) const FILE_DXE_CORE: u8 = 0x05;
pub(super) const FILE_VOLUME_IMAGE: u8 = 0x0b;
pub(super) const SECTION_GUIDED: u8 = 0x02;
pub(super) const SECTION_PE32: u8 = 0x10;
pub(super) const SECTION_TE: u8 = 0x12;
pub(super) const SECTION_VOLUME: u8 = 0x17;

/// Attribute of a file whose size takes 64 bits.
const LARGE_FILE: u8 = 0x01;
/// 8C8CE578-8A3D-4F1C-9935-896185C32DD3 and 5473C07A-3DCB-4DCA-BD6F-1E9689E7349A: file systems 2 and 3.
const FILE_SYSTEMS: [Guid; 2] = [
    *b"\x78\xe5\x8c\x8c\x3d\x8a\x1c\x4f\x99\x35\x89\x61\x85\xc3\x2d\xd3",
    *b"\x7a\xc0\x73\x54\xcb\x3d\xca\x4d\xbd\x6f\x1e\x96\x89\xe7\x34\x9a",
];

/// A volume; `view` covers exactly its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Volume<'a> {
    pub(super) view: View<'a>,
    pub(super) length: usize,
    /// Name in the extended header.
    pub(super) name: Option<Guid>,
    pub(super) header_length: usize,
    first_file: usize,
    file_system: Guid,
}

/// A file of a volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) guid: Guid,
    pub(super) kind: u8,
    /// Offset of `data` in the volume.
    pub(super) offset: usize,
    pub(super) data: View<'a>,
}

/// A section: its type, and where its data lies in the stream.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) kind: u8,
    pub(super) data: Range<usize>,
    start: usize,
}

impl<'a> Volume<'a> {
    /// Parses the volume at the start of `view`, which may go on behind it.
    pub(super) fn parse(view: View<'a>) -> Result<Self, MeasureError> {
        if view.slice(40, 4, "volume signature")? != b"_FVH" {
            return Err(view.fault(40, "no firmware volume signature (_FVH)"));
        }
        let length = usize::try_from(view.u64(32, "volume length")?).unwrap_or(usize::MAX);
        let header_length = usize::from(view.u16(48, "volume header length")?);
        if length < header_length || header_length < 56 {
            return Err(view.fault(32, format!("volume of {length} bytes with a header of {header_length}")));
        }
        let view = view.sub(0, length, "firmware volume")?;
        let extended = usize::from(view.u16(52, "extended header offset")?);
        let (name, first_file) = match extended {
            0 => (None, header_length),
            at => {
                let size = view.u32(at + 16, "extended header size")? as usize;
                (Some(view.array(at, "volume name")?), at.saturating_add(size))
            }
        };
        let file_system = view.array(16, "file system")?;
        let first_file = first_file.saturating_add(7) & !7;
        Ok(Volume { view, length, name, header_length, first_file, file_system })
    }

    pub(super) fn has_files(&self) -> bool {
        FILE_SYSTEMS.contains(&self.file_system)
    }

    /// All files; a volume of n bytes has at most n/24.
    pub(super) fn files(&self) -> Result<Vec<File<'a>>, MeasureError> {
        let mut files = Vec::new();
        let mut at = self.first_file;
        while at.saturating_add(24) <= self.length {
            let header = self.view.slice(at, 24, "file header")?;
            if header.iter().all(|b| *b == 0xff) {
                break;
            }
            let large = header[19] & LARGE_FILE != 0;
            let (size, header_size) = if large {
                (usize::try_from(self.view.u64(at + 24, "large file size")?).unwrap_or(usize::MAX), 32)
            } else {
                (self.view.u24(at + 20, "file size")? as usize, 24)
            };
            if size < header_size {
                return Err(self
                    .view
                    .fault(at + 20, format!("file of {size} bytes, smaller than its header")));
            }
            let data = self.view.sub(at, size, "file")?;
            let offset = at + header_size;
            let data = data.sub(header_size, size - header_size, "file data")?;
            files.push(File { guid: self.view.array(at, "file name")?, kind: header[18], offset, data });
            at = (at + size).saturating_add(7) & !7;
        }
        Ok(files)
    }
}

/// Sections of a stream, in order; each is aligned to four bytes.
pub(super) fn sections(view: View<'_>) -> Result<Vec<Section>, MeasureError> {
    let mut out = Vec::new();
    let mut start = 0usize;
    while start.saturating_add(4) <= view.len() {
        let kind = view.u8(start + 3, "section type")?;
        let (size, header) = match view.u24(start, "section size")? {
            0xff_ffff => (view.u32(start + 4, "large section size")? as usize, 8),
            size => (size as usize, 4),
        };
        if size < header {
            return Err(view.fault(start, format!("section of {size} bytes, smaller than its header")));
        }
        view.slice(start, size, "section")?;
        out.push(Section { kind, data: start + header..start + size, start });
        start = (start + size).next_multiple_of(4);
    }
    Ok(out)
}

/// The data of a GUIDed section of that GUID.
pub(super) fn guided<'a>(
    stream: &View<'a>,
    section: &Section,
    guid: &Guid,
) -> Result<Option<View<'a>>, MeasureError> {
    let at = section.data.start;
    if stream.array::<16>(at, "section GUID")? != *guid {
        return Ok(None);
    }
    let data = section.start + usize::from(stream.u16(at + 16, "section data offset")?);
    let length = section.data.end.checked_sub(data);
    let length = length.ok_or_else(|| stream.fault(at + 16, "section data begins behind the section"))?;
    stream.sub(data, length, "section data").map(Some)
}

#[cfg(any(test, feature = "samples"))]
pub(super) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::{file, section, volume_of};
    use super::*;

    #[test]
    fn files_and_sections_come_out_in_order() {
        let bytes = volume_of(&[9; 16], &[file(&[1; 16], 6, &section(0x19, b"abc")), file(&[2; 16], 7, b"")]);
        let volume = Volume::parse(View::new(crate::Input::Firmware, &bytes)).unwrap();
        let files = volume.files().unwrap();
        assert_eq!(files.iter().map(|f| f.kind).collect::<Vec<_>>(), [6, 7]);
        let found = sections(files[0].data).unwrap();
        assert_eq!((found[0].kind, found[0].data.clone()), (0x19, 4..7));
        assert_eq!(volume.name, Some([9; 16]));
    }

    #[test]
    fn a_file_smaller_than_its_header_does_not_loop() {
        let mut bytes = volume_of(&[9; 16], &[file(&[1; 16], 6, b"abc")]);
        bytes[96 + 20] = 3;
        let volume = Volume::parse(View::new(crate::Input::Firmware, &bytes)).unwrap();
        assert!(volume.files().unwrap_err().to_string().contains("smaller than its header"));
    }
}

//! Says where two files differ, and what is inside at that place.

/// Contents of a PE section by name (PE/COFF specification, section table), without the file alignment's padding.
pub(crate) fn pe_section<'a>(file: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    pe_sections(file)?.into_iter().find(|section| section.name == name).map(|section| section.data)
}

/// One PE section.
pub(crate) struct PeSection<'a> {
    pub name: &'a [u8],
    pub data: &'a [u8],
}

/// All sections of a PE file; `None` if it is none.
pub(crate) fn pe_sections(file: &[u8]) -> Option<Vec<PeSection<'_>>> {
    let u16_at =
        |at: usize| Some(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?) as usize);
    let u32_at =
        |at: usize| Some(u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    let pe = u32_at(0x3c)?;
    if file.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let (count, optional) = (u16_at(pe + 6)?, u16_at(pe + 20)?);
    let table = pe + 24 + optional;
    (0..count)
        .map(|i| {
            let head = table + i * 40;
            let name = file.get(head..head + 8)?.split(|b| *b == 0).next()?;
            let (virtual_size, raw_size, offset) =
                (u32_at(head + 8)?, u32_at(head + 16)?, u32_at(head + 20)?);
            let data = file.get(offset..offset.checked_add(virtual_size.min(raw_size))?)?;
            Some(PeSection { name, data })
        })
        .collect()
}

//! Just enough ELF (System V gABI, 64-bit little-endian) to know what a program needs and what a module depends on.

const SHT_DYNAMIC: u32 = 6;
const DT_NEEDED: u64 = 1;

/// One section: name, type, contents.
struct Section<'a> {
    name: &'a [u8],
    kind: u32,
    data: &'a [u8],
    link: usize,
}

/// True for a 64-bit little-endian ELF file.
pub(crate) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01")
}

/// SONAMEs of the libraries that a program or library needs; empty for a static one.
pub(crate) fn needed(file: &[u8]) -> Vec<String> {
    let sections = sections(file);
    let Some(dynamic) = sections.iter().find(|s| s.kind == SHT_DYNAMIC) else { return Vec::new() };
    let Some(strings) = sections.get(dynamic.link) else { return Vec::new() };
    let entries = dynamic.data.chunks_exact(16);
    let needed = entries.filter(|entry| u64_at(entry, 0) == Some(DT_NEEDED));
    needed.filter_map(|entry| c_string(strings.data, u64_at(entry, 8)? as usize)).map(lossy).collect()
}

/// Value of a `.modinfo` key of a kernel module, such as `depends`.
pub(crate) fn modinfo(file: &[u8], key: &str) -> Option<String> {
    let sections = sections(file);
    let info = sections.iter().find(|s| s.name == b".modinfo")?;
    let mut pairs = info.data.split(|b| *b == 0);
    pairs.find_map(|pair| Some(lossy(pair.strip_prefix(key.as_bytes())?.strip_prefix(b"=")?)))
}

/// All sections; empty if the headers do not hold together.
fn sections(file: &[u8]) -> Vec<Section<'_>> {
    parse_sections(file).unwrap_or_default()
}

fn parse_sections(file: &[u8]) -> Option<Vec<Section<'_>>> {
    if !is_elf(file) {
        return None;
    }
    let (offset, size) = (u64_at(file, 0x28)? as usize, u16_at(file, 0x3a)? as usize);
    let (count, names) = (u16_at(file, 0x3c)? as usize, u16_at(file, 0x3e)? as usize);
    let header = |i: usize| file.get(offset.checked_add(i.checked_mul(size)?)?..);
    let body = |head: &[u8]| {
        let (start, len) = (u64_at(head, 0x18)? as usize, u64_at(head, 0x20)? as usize);
        file.get(start..start.checked_add(len)?)
    };
    let names = body(header(names)?)?;
    (0..count)
        .map(|i| {
            let head = header(i)?;
            let kind = u32_at(head, 4)?;
            // SHT_NOBITS (8) has a size but no bytes.
            let data = if kind == 8 { &[][..] } else { body(head)? };
            Some(Section {
                name: c_string(names, u32_at(head, 0)? as usize)?,
                kind,
                data,
                link: u32_at(head, 0x28)? as usize,
            })
        })
        .collect()
}

fn c_string(data: &[u8], offset: usize) -> Option<&[u8]> {
    data.get(offset..)?.split(|b| *b == 0).next()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_very_program_needs_the_c_library() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needed(&file).contains(&"libc.so.6".to_owned()), "{:?}", needed(&file));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut file in proptest::collection::vec(any::<u8>(), 0..400)) {
            let magic = b"\x7fELF\x02\x01";
            let n = magic.len().min(file.len());
            file[..n].copy_from_slice(&magic[..n]);
            needed(&file);
            modinfo(&file, "depends");
        }
    }
}

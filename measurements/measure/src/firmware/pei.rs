//! Two facts that sit in PEI modules: the firmware's version, and where the PEI core keeps the PM timer's port.
//!
//! Neither has a table that says where it is, so both are found by what is unmistakable about them, and are reported
//! as not found where they aren't unmistakable.

use super::volume::{self, File, Volume, sections};
use super::{Guid, Why};
use crate::error::MeasureError;
use std::ops::Range;

/// Shortest text that counts as a version.
const MIN_VERSION: usize = 3;

/// The executable section of a module, as a range of the volume.
fn executable(file: &File<'_>) -> Result<Option<Range<usize>>, MeasureError> {
    let found = sections(file.data)?
        .into_iter()
        .find(|s| matches!(s.kind, volume::SECTION_PE32 | volume::SECTION_TE));
    Ok(found.map(|s| file.offset + s.data.start..file.offset + s.data.end))
}

/// The only UTF-16 text in the measuring module's image: PcdFirmwareVersionString, with its NUL.
pub(super) fn version_string(pei: &Volume<'_>, module: &Guid) -> Result<Result<Vec<u8>, Why>, MeasureError> {
    let files = pei.files()?;
    let Some(file) = files.iter().find(|f| f.guid == *module) else {
        return Ok(Err("the firmware has no TPM measurement module (Tcg2Pei)".into()));
    };
    let Some(range) = executable(file)? else {
        return Ok(Err("the TPM measurement module has no executable".into()));
    };
    let code = &pei.view.bytes[range];
    let texts: Vec<_> =
        utf16_texts(code).into_iter().map(|text| code[used_part(code, text)].to_vec()).collect();
    Ok(match texts.as_slice() {
        [only] => Ok(only.clone()),
        _ => {
            Err(format!("the TPM measurement module holds {} texts, its version can't be told", texts.len()))
        }
    })
}

/// Where in a run of characters the text begins that the code uses: bytes before it may look like characters too.
fn used_part(code: &[u8], run: Range<usize>) -> Range<usize> {
    let mut starts: Vec<_> = (0..code.len()).filter_map(|at| lea_target(code, at)).collect();
    starts.retain(|start| run.contains(start) && (start - run.start).is_multiple_of(2));
    starts.sort_unstable();
    starts.dedup();
    match starts.as_slice() {
        [only] => *only..run.end,
        _ => run,
    }
}

/// Place that a `lea r64, [rip + disp32]` at this place forms; sections of these images lie in memory as in the file.
fn lea_target(code: &[u8], at: usize) -> Option<usize> {
    let [0x48 | 0x4c, 0x8d, modrm, a, b, c, d] = *code.get(at..at + 7)? else { return None };
    let displacement = i32::from_le_bytes([a, b, c, d]);
    (modrm & 0xc7 == 0x05).then(|| (at + 7).checked_add_signed(displacement as isize)).flatten()
}

/// NUL-terminated runs of printable UTF-16 at any alignment, with their NULs.
fn utf16_texts(bytes: &[u8]) -> Vec<Range<usize>> {
    let is_text = |at: usize| matches!(bytes.get(at..at + 2), Some([b' '..=b'~', 0]));
    let mut found = Vec::new();
    let mut at = 0;
    while at + 2 <= bytes.len() {
        let mut end = at;
        while is_text(end) {
            end += 2;
        }
        if end - at >= 2 * MIN_VERSION && bytes.get(end..end + 2) == Some(&[0, 0]) {
            found.push(at..end + 2);
            at = end + 2;
        } else {
            at += 1;
        }
    }
    found
}

/// Offset in the volume of the PEI core's PM timer variable (EDK2 `OvmfPkg/Library/AcpiTimerLib`).
///
/// Its constructor ends in `port = base + 8`: the only `add r32, 8` that is followed by a store of that register to a
/// place relative to the instruction pointer. The place must hold four zeros inside the PEI core.
pub(super) fn timer_variable(pei: &Volume<'_>) -> Result<Result<usize, Why>, MeasureError> {
    let files = pei.files()?;
    let Some(core) = files.iter().find(|f| f.kind == volume::FILE_PEI_CORE) else {
        return Ok(Err("the firmware has no PEI core".into()));
    };
    let Some(range) = executable(core)? else {
        return Ok(Err("the PEI core has no executable".into()));
    };
    let places: Vec<_> = stores_of_sum(&pei.view.bytes[range.clone()]).map(|at| range.start + at).collect();
    Ok(match places.as_slice() {
        [only] => Ok(*only),
        _ => Err(format!(
            "the PEI core has {} places that could hold the PM timer's port, not one",
            places.len()
        )),
    })
}

/// Targets of `add r, 8; mov [rip + d], r` (83 C0+r 08, 89 05+8r d) that hold zeros.
fn stores_of_sum(code: &[u8]) -> impl Iterator<Item = usize> + '_ {
    code.windows(9).enumerate().filter_map(|(at, w)| {
        let register = w[1] & 7;
        let matches =
            w[0] == 0x83 && w[1] & 0xf8 == 0xc0 && w[2] == 8 && w[3] == 0x89 && w[4] == 0x05 | register << 3;
        let distance = i32::from_le_bytes([w[5], w[6], w[7], w[8]]);
        let target = (at + 9).checked_add_signed(distance as isize)?;
        (matches && code.get(target..target.checked_add(4)?)? == [0; 4]).then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_with_a_nul_counts() {
        let text = |s: &str| s.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let bytes = [&[0x90][..], &text("2025"), &[0, 0, 7, 7], &text("abcd"), &[1, 2]].concat();
        assert_eq!(utf16_texts(&bytes), [1..11]);
    }

    #[test]
    fn a_text_begins_where_the_code_refers_to() {
        let text: Vec<u8> = "@2025.11\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let used = |displacement: u8| {
            let code = [&[0x48, 0x8d, 0x05, displacement, 0, 0, 0][..], &text].concat();
            used_part(&code, 7..7 + text.len()).start
        };
        assert_eq!(used(2), 9, "behind a blank of another meaning");
        assert_eq!(used(1), 7, "no character begins there");
        assert_eq!(used(99), 7, "nothing refers to it");
    }

    #[test]
    fn a_store_of_another_register_or_to_a_used_place_does_not_count() {
        let code = |store: u8, value: u8| {
            let mut code = vec![0x83, 0xc3, 8, 0x89, store, 2, 0, 0, 0, 0x90, 0x90];
            code.extend([value; 4]);
            code
        };
        let find = |code: &[u8]| stores_of_sum(code).collect::<Vec<_>>();
        assert_eq!(find(&code(0x1d, 0)), [11]);
        assert!(find(&code(0x0d, 0)).is_empty());
        assert!(find(&code(0x1d, 1)).is_empty());
    }
}

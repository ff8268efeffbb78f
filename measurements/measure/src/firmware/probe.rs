//! Facts about a firmware build that no table states, read from the code of its DXE modules.
//!
//! ```text
//! TdTcg2Dxe             where the separator behind "calling" goes   EDK2 efaf893 (2024-08): RTMR0 -> RTMR1
//! QemuKernelLoaderFsDxe whether "etc/boot/" files are read          edk2-stable202502: QEMU's kernel as it is, unpatched
//! BdsDxe                where "initrd=initrd" goes                  edk2-stable202508 (pull 11115): behind -> before
//! SecureBootConfigDxe   whether the build knows Secure Boot
//! ```
//! Each is found by what is unmistakable about it (a text that has no other use, a call sequence), and is reported as
//! not told where that isn't there.

use super::volume::{self, File, Volume, sections};
use super::{Guid, Why};
use crate::error::MeasureError;
use crate::pe::Image;
use crate::register::Register;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// F062221E-C607-44C2-B0B4-C3886331D351.
pub(crate) const TD_TCG2_DXE: Guid = *b"\x1e\x22\x62\xf0\x07\xc6\xc2\x44\xb0\xb4\xc3\x88\x63\x31\xd3\x51";
/// 806040CA-DAD9-4978-A3B4-2D2AB0C8A48F.
pub(crate) const KERNEL_LOADER: Guid = *b"\xca\x40\x60\x80\xd9\xda\x78\x49\xa3\xb4\x2d\x2a\xb0\xc8\xa4\x8f";
/// 6D33944A-EC75-4855-A54D-809C75241F6C.
pub(crate) const BDS_DXE: Guid = *b"\x4a\x94\x33\x6d\x75\xec\x55\x48\xa5\x4d\x80\x9c\x75\x24\x1f\x6c";
/// F0E6A44F-7195-41C3-AC64-54F202CD0A21.
pub(crate) const SECURE_BOOT_CONFIG: Guid =
    *b"\x4f\xa4\xe6\xf0\x95\x71\xc3\x41\xac\x64\x54\xf2\x02\xcd\x0a\x21";

const CALLING: &[u8] = b"Calling EFI Application from Boot Option\0";
/// `lea r64, [rip + disp32]`.
const LEA: usize = 7;
/// `call rel32`, and `mov edi, imm32`.
const CALL: u8 = 0xe8;
const MOV_EDI: u8 = 0xbf;
const JMP_SHORT: u8 = 0xeb;

/// Where the firmware's kernel loader puts the name of the initrd into the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitrdArgument {
    /// ` initrd=initrd` behind the command line (up to edk2-stable202505).
    Behind,
    /// `initrd=initrd ` before it (from edk2-stable202508 on).
    Before,
}

/// What the modules' code tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probes {
    pub(crate) separator: Result<Register, Why>,
    pub(crate) named_blobs: Result<bool, Why>,
    pub(crate) initrd_argument: Result<InitrdArgument, Why>,
    pub(crate) secure_boot: bool,
}

impl Probes {
    pub(super) fn of(dxe: &Volume<'_>) -> Result<Self, MeasureError> {
        let files = dxe.files()?;
        let find = |guid: &Guid| files.iter().find(|f| f.guid == *guid);
        let module = |guid: &Guid, name: &str| -> Result<Result<&[u8], Why>, MeasureError> {
            let range = find(guid).map(executable).transpose()?.flatten();
            Ok(range.map(|r| &dxe.view.bytes[r]).ok_or_else(|| format!("the firmware has no {name}")))
        };
        Ok(Probes {
            separator: module(&TD_TCG2_DXE, "TD measurement module (TdTcg2Dxe)")?.and_then(separator),
            named_blobs: module(&KERNEL_LOADER, "kernel loader (QemuKernelLoaderFsDxe)")?
                .map(|code| contains(code, b"etc/boot/\0")),
            initrd_argument: module(&BDS_DXE, "boot manager (BdsDxe)")?.and_then(initrd_argument),
            secure_boot: find(&SECURE_BOOT_CONFIG).is_some(),
        })
    }
}

/// The executable section of a module, as a range of the volume.
fn executable(file: &File<'_>) -> Result<Option<Range<usize>>, MeasureError> {
    let found = sections(file.data)?.into_iter().find(|s| s.kind == volume::SECTION_PE32);
    Ok(found.map(|s| file.offset + s.data.start..file.offset + s.data.end))
}

fn contains(code: &[u8], text: &[u8]) -> bool {
    code.windows(text.len()).any(|w| w == text)
}

fn initrd_argument(code: &[u8]) -> Result<InitrdArgument, Why> {
    match (
        contains(code, b"\0 initrd=initrd\0") || contains(code, b" initrd=initrd\0"),
        contains(code, b"initrd=initrd \0"),
    ) {
        (true, false) => Ok(InitrdArgument::Behind),
        (false, true) => Ok(InitrdArgument::Before),
        _ => Err("the boot manager doesn't tell where it names the initrd".into()),
    }
}

/// The register of the separator, from the calls behind the first use of the "calling" text.
///
/// The source measures the text and then the separator. Both helpers are local to the module, so the compiler passes
/// the register in `edi` where calls differ in it, and drops the argument where all calls have the same: the separator
/// behind the Secure Boot variables goes to RTMR0, so without an argument this one does too.
fn separator(code: &[u8]) -> Result<Register, Why> {
    let unclear =
        || Why::from("the TD measurement module's code doesn't tell where its second separator goes");
    let image = Image::parse(code).map_err(|e| e.to_string())?;
    let text = code.windows(CALLING.len()).position(|w| w == CALLING).ok_or_else(unclear)?;
    let text = image.address_of(text).ok_or_else(unclear)?;
    let uses = (0..code.len().saturating_sub(LEA)).filter(|at| lea_target(&image, code, *at) == Some(text));
    let found: Vec<_> = uses.filter_map(|at| separator_behind(&code[at + LEA..])).collect();
    match found.as_slice() {
        [only] => Ok(*only),
        _ => Err(unclear()),
    }
}

/// Address that a `lea r64, [rip + disp32]` at this offset forms.
fn lea_target(image: &Image<'_>, code: &[u8], at: usize) -> Option<u32> {
    let [0x48 | 0x4c, 0x8d, modrm, a, b, c, d] = *code.get(at..at + LEA)? else { return None };
    if modrm & 0xc7 != 0x05 {
        return None;
    }
    let next = image.address_of(at)?.checked_add(LEA as u32)?;
    Some(next.wrapping_add(u32::from_le_bytes([a, b, c, d])))
}

/// `[mov edi, _] call [mov edi, register] call jmp`; anything else is `None`.
fn separator_behind(code: &[u8]) -> Option<Register> {
    let (_, code) = call(code)?;
    let (argument, code) = call(code)?;
    if code.first() != Some(&JMP_SHORT) {
        return None;
    }
    match argument {
        None | Some(1) => Some(Register::Rtmr0),
        Some(2) => Some(Register::Rtmr1),
        Some(_) => None,
    }
}

/// A call with or without `mov edi, imm32` before it; returns the argument and what follows.
fn call(code: &[u8]) -> Option<(Option<u32>, &[u8])> {
    let (argument, code) = match code {
        [MOV_EDI, a, b, c, d, rest @ ..] => (Some(u32::from_le_bytes([*a, *b, *c, *d])), rest),
        other => (None, other),
    };
    match code {
        [CALL, _, _, _, _, rest @ ..] => Some((argument, rest)),
        _ => None,
    }
}

#[cfg(any(test, feature = "samples"))]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::{bds, td_tcg2};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_separators_register_comes_out_of_the_calls() {
        assert_eq!(separator(&td_tcg2(Some(2))), Ok(Register::Rtmr1));
        assert_eq!(separator(&td_tcg2(Some(1))), Ok(Register::Rtmr0));
        assert_eq!(separator(&td_tcg2(None)), Ok(Register::Rtmr0), "an argument that is the same everywhere");
        assert!(separator(&td_tcg2(Some(3))).unwrap_err().contains("doesn't tell"));
    }

    #[test]
    fn the_place_of_the_initrds_name_comes_out_of_its_blank() {
        assert_eq!(initrd_argument(&bds(b" initrd=initrd")), Ok(InitrdArgument::Behind));
        assert_eq!(initrd_argument(&bds(b"initrd=initrd ")), Ok(InitrdArgument::Before));
        assert!(initrd_argument(&bds(b"initrd")).is_err());
    }

    proptest! {
        #[test]
        fn a_mutated_module_never_panics(at in 0usize..2000, value: u32, cut in 0usize..2000) {
            let mut code = td_tcg2(Some(2));
            let len = code.len();
            let at = at % (len - 4);
            code[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = separator(&code);
            let _ = separator(&code[..cut % len]);
        }
    }
}

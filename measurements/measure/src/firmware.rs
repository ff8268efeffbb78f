//! OVMF as it is measured: volumes, version, and the one place where a running volume differs from the file.
//!
//! ```text
//! OVMF_CODE: FV "FVMAIN_COMPACT" > file > LZMA section > { FV image PEIFV, FV image DXEFV }, then FV SECFV (not measured)
//! ```
//! Before anything else the firmware measures its version (PCR 0, EV_S_CRTM_VERSION), then PEIFV and DXEFV as they lie
//! unpacked in memory (PCR 0, EV_EFI_PLATFORM_FIRMWARE_BLOB; EDK2 `SecurityPkg/Tcg/Tcg2Pei`). The PEI core runs in
//! place and keeps the PM timer's port in a variable of its own, inside PEIFV, before PEIFV is measured; all other
//! PEI modules are copied to memory first. So four bytes of PEIFV differ from the file, see [`pei`].
//!
//! Formats: UEFI PI 1.8 volume 3 (firmware volumes, files, sections).

mod pei;
pub(crate) mod probe;
pub mod td_hob;
pub mod tdvf;
pub mod variables;
mod volume;

use crate::error::{Input, MeasureError, View};
use probe::Probes;
use std::io::Read;
use std::ops::Range;
use volume::{Volume, sections};

/// A GUID in its stored, mixed-endian form.
pub(crate) type Guid = [u8; 16];

/// No OVMF unpacks to more; the limit holds before anything is allocated.
const MAX_UNPACKED: u64 = 64 * 1024 * 1024;
/// Dictionary and probability tables.
const LZMA_MEMORY_KIB: u32 = 96 * 1024;
/// EE4E5898-3914-4259-9D6E-DC7BD79403CF: an LZMA-compressed section.
const LZMA_SECTION: Guid = *b"\x98\x58\x4e\xee\x14\x39\x59\x42\x9d\x6e\xdc\x7b\xd7\x94\x03\xcf";
/// A0C98B77-CBA5-4BB8-993B-4AF6CE33ECE4: Tcg2Pei.
const TCG2_PEI: Guid = *b"\x77\x8b\xc9\xa0\xa5\xcb\xb8\x4b\x99\x3b\x4a\xf6\xce\x33\xec\xe4";

/// Why something can't be foretold of this firmware.
pub(crate) type Why = String;

/// A parsed firmware, with its volumes unpacked.
#[derive(Debug, Clone)]
pub struct Firmware {
    unpacked: Vec<u8>,
    pei: Option<Range<usize>>,
    dxe: Range<usize>,
    patch: Result<(), Why>,
    version: Result<Vec<u8>, Why>,
    dxe_name: Option<Guid>,
    dxe_files: Vec<Guid>,
    probes: Probes,
}

impl Firmware {
    /// Parses OVMF's code volume or a whole OVMF image, and unpacks it.
    ///
    /// `pm_timer_port` is where the machine's ACPI timer is: the PEI core writes it into its own image.
    pub fn parse(code: &[u8], pm_timer_port: u16) -> Result<Self, MeasureError> {
        let mut unpacked = unpack(code)?;
        let view = View::new(Input::UnpackedFirmware, &unpacked);
        let (pei, dxe) = core_volumes(view)?;
        let dxe_volume = Volume::parse(view.sub(dxe.start, dxe.len(), "DXE volume")?)?;
        let dxe_files = dxe_volume.files()?.iter().map(|f| f.guid).collect();
        let probes = Probes::of(&dxe_volume)?;
        let dxe_name = dxe_volume.name;
        let no_pei = || Why::from("the firmware has no PEI volume");
        let (version, place) = match &pei {
            Some(pei) => {
                let volume = Volume::parse(view.sub(pei.start, pei.len(), "PEI volume")?)?;
                let place = pei::timer_variable(&volume)?.map(|at| pei.start + at);
                (pei::version_string(&volume, &TCG2_PEI)?, place)
            }
            None => (Err(no_pei()), Err(no_pei())),
        };
        let patch = place.map(|at| {
            unpacked[at..at + 4].copy_from_slice(&u32::from(pm_timer_port).to_le_bytes());
        });
        Ok(Firmware { unpacked, pei, dxe, patch, version, dxe_name, dxe_files, probes })
    }

    /// What the code of its modules tells.
    pub(crate) fn probes(&self) -> &Probes {
        &self.probes
    }

    /// The version as it is measured: UTF-16 with its NUL.
    pub(crate) fn version(&self) -> Result<&[u8], &Why> {
        self.version.as_deref()
    }

    /// PEIFV as it lies in memory when it is measured.
    pub(crate) fn pei_volume(&self) -> Result<&[u8], &Why> {
        let pei = self.pei.clone().unwrap_or_default();
        self.patch.as_ref().map(|()| &self.unpacked[pei])
    }

    /// DXEFV.
    pub(crate) fn dxe_volume(&self) -> &[u8] {
        &self.unpacked[self.dxe.clone()]
    }

    /// Name of DXEFV, which device paths of its files carry.
    pub(crate) fn dxe_name(&self) -> Option<Guid> {
        self.dxe_name
    }

    /// Whether DXEFV has a file of that name.
    pub(crate) fn has_dxe_file(&self, guid: &Guid) -> bool {
        self.dxe_files.contains(guid)
    }
}

/// The volume with the PEI core, if there is one, and the volume with the DXE core.
///
/// Firmware for trust domains alone has no PEI, and keeps drivers that they may not use in a volume of its own.
fn core_volumes(view: View<'_>) -> Result<(Option<Range<usize>>, Range<usize>), MeasureError> {
    let (mut pei, mut dxe) = (None, None);
    for section in sections(view)?.into_iter().filter(|s| s.kind == volume::SECTION_VOLUME) {
        let volume = Volume::parse(view.sub(section.data.start, section.data.len(), "firmware volume")?)?;
        for file in volume.files()? {
            match file.kind {
                volume::FILE_PEI_CORE => pei = pei.or(Some(section.data.clone())),
                volume::FILE_DXE_CORE => dxe = dxe.or(Some(section.data.clone())),
                _ => (),
            }
        }
    }
    Ok((pei, dxe.ok_or_else(|| view.fault(0, "no volume with a DXE core"))?))
}

/// Finds the compressed section among the volumes of a firmware file and unpacks it.
fn unpack(code: &[u8]) -> Result<Vec<u8>, MeasureError> {
    let view = View::new(Input::Firmware, code);
    let mut offset = 0;
    while offset < code.len() {
        let volume = Volume::parse(view.sub(offset, code.len() - offset, "firmware volume")?)?;
        // The variable store is a volume too, but without files.
        let files = if volume.has_files() { volume.files()? } else { Vec::new() };
        for file in files.iter().filter(|f| f.kind == volume::FILE_VOLUME_IMAGE) {
            for section in sections(file.data)?.iter().filter(|s| s.kind == volume::SECTION_GUIDED) {
                if let Some(packed) = volume::guided(&file.data, section, &LZMA_SECTION)? {
                    return decompress(&packed);
                }
            }
        }
        offset += volume.length;
    }
    Err(view.fault(0, "no volume holds a compressed section"))
}

/// Unpacks LZMA with its 13-byte header (properties, dictionary size, unpacked size).
fn decompress(packed: &View<'_>) -> Result<Vec<u8>, MeasureError> {
    let size = packed.u64(5, "unpacked size")?;
    if size > MAX_UNPACKED {
        return Err(packed.fault(5, format!("unpacks to {size} bytes, expected at most {MAX_UNPACKED}")));
    }
    let bad = |e: std::io::Error| packed.fault(0, format!("LZMA data is damaged: {e}"));
    let mut reader =
        lzma_rust2::LzmaReader::new_mem_limit(packed.bytes, LZMA_MEMORY_KIB, None).map_err(bad)?;
    let mut out = vec![0; size as usize];
    reader.read_exact(&mut out).map_err(bad)?;
    Ok(out)
}

#[cfg(any(test, feature = "samples"))]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::{DXE_NAME, firmware as sample_firmware};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_pei_volume_is_measured_with_the_timers_port_in_it() {
        let firmware = Firmware::parse(&sample_firmware(&[[7; 16]]), 0x608).unwrap();
        let pei = firmware.pei_volume().unwrap();
        let at = pei.windows(4).position(|w| w == [0x08, 0x06, 0, 0]).unwrap();
        assert_eq!(pei[at - 20..at], [0x90; 20]);
        assert!(firmware.has_dxe_file(&[7; 16]) && !firmware.has_dxe_file(&[8; 16]));
        assert_eq!(firmware.dxe_name(), Some(DXE_NAME));
    }

    #[test]
    fn the_version_comes_out_of_the_measuring_module() {
        let firmware = Firmware::parse(&sample_firmware(&[]), 0x608).unwrap();
        assert_eq!(firmware.version().unwrap(), b"1\0.\x002\0-\x003\0\0\0");
    }

    #[test]
    fn a_file_that_is_no_firmware_is_refused() {
        let error = Firmware::parse(&[0xff; 4096], 0x608).unwrap_err().to_string();
        assert!(error.contains("firmware at offset 0x28"), "{error}");
    }

    #[test]
    fn damaged_lzma_data_is_refused() {
        let mut bytes = sample_firmware(&[]);
        let end = bytes.len();
        bytes[end - 40..].fill(0xee);
        assert!(Firmware::parse(&bytes, 0x608).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_mutated_firmware_never_panics(at in 0usize..400, value: u32, cut in 0usize..2000) {
            let mut bytes = sample_firmware(&[[7; 16]]);
            let len = bytes.len();
            let at = at % (len - 4);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = Firmware::parse(&bytes, 0x608);
            let _ = Firmware::parse(&bytes[..cut % len], 0x608);
        }
    }
}
